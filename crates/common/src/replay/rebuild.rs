//! A rebuild from beginning to end.
//!
//! ```text
//!  read ─► told again ─► finished ─► follow ─► survey ─► ┌ fence ─► follow ─► verdict ─► swap ┐
//!  the log, up to       indexes,     what was            │ one transaction, a moment long     │
//!  a cutoff             sums         written since       └ in which nobody writes events ─────┘
//! ```
//!
//! The cutoff is a position up to which everything is published, read before the log's ends are asked for: so the log, read to
//! those ends, holds all that lies below it, and the event store the rest. The traffic of the running service waits only
//! while the fence is up, and that is bounded: by the wait for locks, by the number of events, by the time of a statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{Client, Pool, PoolError, Transaction};
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::compare::{Comparison, Scope, TableReport};
use super::fold::{Batch, Fold};
use super::log::{self, Span, Start};
use super::shadow::{self, CANDIDATE_SCHEMA, OLD_SCHEMA, Phase, Progress, REBUILD_SCHEMA, Shadow};
use super::source::Source;
use super::swap;
use crate::codec::{Codec, DecodeError};
use crate::event::{EventSet as _, Recorded, StreamId};
use crate::migrate::Migration;
use crate::model::{Follows, Model};
use crate::{kafka, pg, store};

/// Connections of one run: the shadow's, one that reads, one that reads ahead.
const POOL_SIZE: usize = 3;
/// Batches that may wait for the database while the next one is folded.
const BATCHES_QUEUED_MAX: usize = 1;
/// Streams that are told again in one transaction.
const AGAIN_STREAMS_MAX: i64 = 500;
/// Events of one transaction that follows the store.
const FOLLOW_EVENTS_MAX: i64 = 2_000;
/// Events that may be left to add while the fence is up.
const FENCED_EVENTS_MAX: usize = 1_000;
/// How long the fence may wait for those who are writing; whoever comes then waits behind it.
const FENCE_WAIT_MAX: Duration = Duration::from_millis(500);
/// How long a statement may take while the fence is up.
const FENCE_STATEMENT_MAX: Duration = Duration::from_secs(3);
/// How often the fence is tried.
const FENCE_ATTEMPTS_MAX: u32 = 40;
/// Pause after a fence that could not be had, so that traffic flows off.
const FENCE_PAUSE: Duration = Duration::from_millis(250);
/// How long transactions that write events may stay open before the run gives up on them.
const WRITERS_WAIT_MAX: Duration = Duration::from_secs(60);
/// Streams that are named where versions are missing.
const GAPS_SHOWN_MAX: i64 = 10;

/// Why a rebuild cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topic cannot be read.
    #[error("the topic cannot be read")]
    Log(#[from] log::Error),
    /// The database refused something.
    #[error("the database does not do what it should")]
    Database(#[from] tokio_postgres::Error),
    /// No connection to it.
    #[error("there is no connection to the database")]
    Pool(#[from] PoolError),
    /// The database URL cannot be used.
    #[error(transparent)]
    Url(#[from] pg::Error),
    /// An event is not what its schema says, or this build does not know it.
    #[error("version {version} of stream {stream} does not decode with this build")]
    Decode {
        /// Of the service's own.
        stream: StreamId,
        /// Of the stream.
        version: i64,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// Another run holds the lock.
    #[error("another run of this command works in the schema {schema} of this database; wait for it, or end it")]
    Busy {
        /// Its schema.
        schema: &'static str,
    },
    /// The tables of the last swap are still there.
    #[error(
        "the tables that the last rebuild has replaced are still in the schema {OLD_SCHEMA}; once you no longer need them: \
         rondo replay rebuild --service {service} --drop-old"
    )]
    OldTables {
        /// The service.
        service: &'static str,
    },
    /// Things hang on the tables that would stay behind.
    #[error(
        "a swap would leave these with the old table: {}; take them away for the time of the swap, or compare only, with --no-swap",
        .0.join(", ")
    )]
    InTheWay(Vec<String>),
    /// Somebody has had events open for too long.
    #[error("a transaction that writes events has been open for {} s; end it (see pg_stat_activity) and run this again", WRITERS_WAIT_MAX.as_secs())]
    Writers,
    /// The fence could not be had.
    #[error(
        "the service could not be held up for a moment in {FENCE_ATTEMPTS_MAX} tries ({0}); run this again when there is less \
         traffic: it goes on from here"
    )]
    NoFence(String),
}

/// Where events are read from.
#[derive(Clone, Debug)]
pub enum Input {
    /// The service's topic; with namespace.
    Topic {
        /// The brokers.
        kafka: kafka::Settings,
        /// With namespace.
        topic: String,
    },
    /// The event store.
    Store,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the oldest event.
    Earliest,
    /// With this offset of each partition, or this position of the event store.
    Offset(i64),
    /// With the first event of this time or later.
    Time(Timestamp),
}

/// What is to become of the rebuilt tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// They are compared and dropped. They never disturb a rebuild.
    Candidate,
    /// They are compared and dropped.
    Compare,
    /// They take the place of the service's own if nothing differs.
    SwapIfEqual,
    /// They take the place of the service's own, whatever differs.
    SwapAnyway,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of the service.
    pub database_url: String,
    /// Where events are read from.
    pub input: Input,
    /// Where reading begins.
    pub from: From,
    /// Where it ends: the last event that occurred then or before. `None`: now, and what comes until the verdict.
    pub until: Option<Timestamp>,
    /// Up to which position the topic is told before the event store is asked for the rest: `None` for what the service has
    /// published, as is right for its own topic.
    pub cutoff: Option<i64>,
    /// What becomes of the tables.
    pub intent: Intent,
    /// The tables have the shape that these give them, not the one of the service's own.
    pub migrations: Option<&'static [Migration]>,
    /// Streams whose state is kept in memory; [`STREAMS_OPEN_MAX`](super::STREAMS_OPEN_MAX).
    pub streams_max: usize,
    /// Tells this build from others: a run is resumed by the build that began it.
    pub fingerprint: String,
    /// Begin anew, whatever an earlier run has left.
    pub fresh: bool,
    /// Differences of each table that are shown.
    pub shown_max: usize,
}

/// What came of a rebuild.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The service.
    pub service: String,
    /// `topic` or `store`.
    pub source: String,
    /// Events that were told.
    pub events: u64,
    /// Records of the log that repeat an event.
    pub repeated: u64,
    /// Records of the log that are no events of this service.
    pub foreign: u64,
    /// Streams that were told in two parts, the second from the event store.
    pub told_again: u64,
    /// The common position: both sides hold everything up to it and nothing more.
    pub position: i64,
    /// Streams of which the log lacks a version.
    pub gaps: u64,
    /// The first of these.
    pub gaps_first: Vec<String>,
    /// Whether only a part of the log was read.
    pub partial: bool,
    /// Each table.
    pub tables: Vec<TableReport>,
    /// Whether the rebuilt tables are the service's own now.
    pub swapped: bool,
    /// Whether an earlier run had begun this.
    pub resumed: bool,
}

impl Report {
    /// Whether nothing differs and nothing is missing.
    pub fn is_equal(&self) -> bool {
        self.gaps == 0 && self.tables.iter().all(TableReport::is_equal)
    }
}

/// How far a run is, for whoever watches.
#[derive(Debug, Default)]
pub struct Watch {
    phase: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
}

impl Watch {
    /// What is being done, how much of it is done, and how much there is: 0 if that is not known.
    pub fn look(&self) -> (&'static str, u64, u64) {
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 => "starting",
            1 => "reading the log",
            2 => "streams told again",
            3 => "building indexes",
            4 => "catching up",
            5 => "comparing",
            _ => "waiting for a moment without writers",
        };
        (
            phase,
            self.done.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        )
    }

    fn enter(&self, phase: u8, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }
}

/// A rebuild under way.
pub struct Rebuild<M: Model> {
    model: Arc<M>,
    codec: Arc<Codec>,
    plan: Plan,
    watch: Arc<Watch>,
    pool: Pool,
    /// Reads the service's own tables.
    reader: Client,
    shadow: Shadow,
    progress: Progress,
    resumed: bool,
}

impl<M: Model> Rebuild<M> {
    /// Rebuilds, compares and, if that is the plan, swaps.
    ///
    /// # Errors
    /// See [`Error`]. What has been done stays; the same call goes on from there.
    pub async fn run(model: Arc<M>, codec: Arc<Codec>, plan: Plan, watch: Arc<Watch>) -> Result<Report, Error> {
        let pool = pg::pool(&plan.database_url, POOL_SIZE)?;
        if plan.intent != Intent::Candidate
            && let Some(report) = after_swap::<M>(&pool, &plan).await?
        {
            return Ok(report);
        }
        let mut rebuild = Self::open(model, codec, plan, watch, pool).await?;
        rebuild.load().await?;
        rebuild.conclude().await
    }

    /// Tells the log up to where it ended, into tables that are ready to be compared, and drops them: for measuring. How many
    /// events that were.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn measure(model: Arc<M>, codec: Arc<Codec>, plan: Plan, watch: Arc<Watch>) -> Result<u64, Error> {
        let pool = pg::pool(&plan.database_url, POOL_SIZE)?;
        let mut rebuild = Self::open(model, codec, plan, watch, pool).await?;
        rebuild.load().await?;
        rebuild.shadow.drop_all().await?;
        Ok(rebuild.progress.events)
    }

    /// Tells everything, and puts the tables in the place of the service's own, which are empty and which nobody uses: for a
    /// database that is being restored. They move to the schema for old tables all the same.
    ///
    /// # Errors
    /// See [`Error`]. What has been done stays; the same call goes on from there.
    pub(super) async fn install(model: Arc<M>, codec: Arc<Codec>, plan: Plan, watch: Arc<Watch>) -> Result<(), Error> {
        let pool = pg::pool(&plan.database_url, POOL_SIZE)?;
        if after_swap::<M>(&pool, &plan).await?.is_some() {
            return Ok(());
        }
        let mut rebuild = Self::open(model, codec, plan, watch, pool).await?;
        rebuild.load().await?;
        rebuild.shadow.analyse().await?;
        rebuild.shadow.forget_changes().await?;
        let (told_again, gaps, gaps_first) = rebuild.shadow.gaps(GAPS_SHOWN_MAX).await?;
        let report = Report {
            service: M::NAME.to_owned(),
            source: rebuild.plan.input.name().to_owned(),
            events: rebuild.progress.events,
            repeated: rebuild.progress.repeated,
            foreign: rebuild.progress.foreign,
            told_again,
            position: rebuild.progress.reached,
            gaps,
            gaps_first,
            partial: false,
            tables: Vec::new(),
            swapped: true,
            resumed: rebuild.resumed,
        };
        let (schema, home, name) = (rebuild.shadow.schema, rebuild.shadow.home.clone(), rebuild.plan.name());
        let tables = rebuild.shadow.tables.clone();
        let tx = rebuild.shadow.client.transaction().await?;
        tx.batch_execute("SET LOCAL synchronous_commit = on").await?;
        swap::swap(&tx, (schema, &home), &tables, &name, &report).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn open(model: Arc<M>, codec: Arc<Codec>, plan: Plan, watch: Arc<Watch>, pool: Pool) -> Result<Self, Error> {
        let schema = match plan.intent {
            Intent::Candidate => CANDIDATE_SCHEMA,
            Intent::Compare | Intent::SwapIfEqual | Intent::SwapAnyway => REBUILD_SCHEMA,
        };
        let mut shadow = Shadow::open::<M>(&pool, schema).await?;
        if matches!(plan.intent, Intent::SwapIfEqual | Intent::SwapAnyway) {
            let in_the_way = swap::in_the_way(&shadow).await?;
            if !in_the_way.is_empty() {
                return Err(Error::InTheWay(in_the_way));
            }
        }
        let reader = pool.get().await?;
        if plan.fresh {
            shadow.drop_all().await?;
        }
        let name = plan.name();
        let left = shadow.resume(&name).await?;
        let resumed = left.is_some();
        let progress = match left {
            Some(progress) => progress,
            None => {
                let (cutoff, spans) = plan.extent(&reader).await?;
                shadow.create(&name, cutoff, &spans, plan.migrations).await?;
                shadow.resume(&name).await?.expect("it was created a moment ago")
            }
        };
        Ok(Self {
            model,
            codec,
            plan,
            watch,
            pool,
            reader,
            shadow,
            progress,
            resumed,
        })
    }

    fn fold(&self) -> Fold<M> {
        Fold::new(self.model.clone(), self.codec.clone(), self.plan.streams_max)
    }

    /// From wherever an earlier run was to tables that hold everything up to the cutoff.
    async fn load(&mut self) -> Result<(), Error> {
        if self.progress.phase == Phase::Reading {
            self.read().await?;
            self.enter(Phase::Again).await?;
        }
        if self.progress.phase == Phase::Again {
            self.tell_again().await?;
            self.enter(Phase::Finishing).await?;
        }
        if self.progress.phase == Phase::Finishing {
            self.watch.enter(3, 0);
            self.shadow.finish(&*self.model, self.plan.migrations.is_some()).await?;
            self.progress.phase = Phase::Following;
        }
        Ok(())
    }

    async fn enter(&mut self, phase: Phase) -> Result<(), Error> {
        self.shadow.enter(phase).await?;
        self.progress.phase = phase;
        Ok(())
    }

    /// Reads what is left of the log. The next batch is folded while the one before it is written.
    async fn read(&mut self) -> Result<(), Error> {
        let spans = self.progress.spans.clone();
        self.watch.enter(1, spans.iter().map(Span::length).sum());
        let mut source = match &self.plan.input {
            Input::Topic { kafka, topic } => Source::topic(kafka, topic, &spans, self.model.clone())?,
            Input::Store => Source::<M>::store(self.pool.clone(), &spans[0]),
        };
        let (sender, mut batches) = mpsc::channel::<Batch<M>>(BATCHES_QUEUED_MAX);
        let mut fold = self.fold();
        let (mut tops, cutoff) = (self.progress.tops.clone(), self.progress.cutoff);
        let streams_max = self.plan.streams_max;
        let folding = tokio::spawn(async move {
            let mut batch = Batch::new();
            while let Some(chunk) = source.next().await? {
                for found in chunk {
                    let top = tops.get(&found.partition).copied().unwrap_or(0);
                    fold.take(&mut batch, found, (top, cutoff)).await?;
                    if batch.is_full(streams_max) {
                        let full = std::mem::replace(&mut batch, Batch::new());
                        tops.extend(full.next.iter().map(|(partition, (_, top))| (*partition, *top)));
                        fold.keep(&full);
                        if sender.send(full).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
            if !batch.is_empty() {
                // Whoever writes has failed if it is gone, and says so.
                let _ = sender.send(batch).await;
            }
            Ok::<_, Error>(())
        });
        while let Some(batch) = batches.recv().await {
            self.shadow.write(&*self.model, &batch).await?;
            self.progress.events += batch.events;
            self.progress.repeated += batch.repeated;
            self.progress.foreign += batch.foreign;
            self.watch.add(batch.events + batch.repeated + batch.foreign);
        }
        folding
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Tells the streams that were set aside: what was folded of them before is only remembered.
    async fn tell_again(&mut self) -> Result<(), Error> {
        let (total, ..) = self.shadow.gaps(0).await?;
        self.watch.enter(2, total);
        loop {
            let streams = self.shadow.aside(AGAIN_STREAMS_MAX).await?;
            if streams.is_empty() {
                return Ok(());
            }
            let all: Vec<(&StreamId, i64)> = streams.iter().map(|(stream, _)| (stream, i64::MAX)).collect();
            let histories = store::histories(&self.reader, M::NAME, &all, self.progress.cutoff).await?;
            let mut histories = std::pin::pin!(histories);
            let first: std::collections::HashMap<&StreamId, i64> =
                streams.iter().map(|(stream, first)| (stream, *first)).collect();
            // All of these streams, whatever the bound: each must be at hand until it is told.
            let streams_max = self.plan.streams_max.max(4 * streams.len());
            let mut fold = Fold::new(self.model.clone(), self.codec.clone(), streams_max);
            let mut batch = Batch::new();
            let tx = self.shadow.client.transaction().await?;
            while let Some(recorded) = histories.try_next().await? {
                if recorded.envelope.stream_version < first[&recorded.stream_id] {
                    fold.remember(&mut batch, &recorded).await?;
                } else {
                    fold.add(&mut batch, recorded).await?;
                }
                if batch.is_full(streams_max) {
                    shadow::retell(&tx, &*self.model, &batch).await?;
                    // The stream that is being told goes on where it is.
                    fold.clear();
                    fold.keep(&batch);
                    batch = Batch::new();
                }
            }
            shadow::retell(&tx, &*self.model, &batch).await?;
            shadow::told_again(&tx, self.shadow.schema, &streams).await?;
            tx.commit().await?;
            self.watch.add(streams.len() as u64);
        }
    }

    /// Follows, compares and, if that is the plan, swaps.
    async fn conclude(&mut self) -> Result<Report, Error> {
        let partial = self.plan.until.is_some() || self.progress_is_partial();
        let scope = match (self.plan.until, partial) {
            (Some(_), _) => Scope::Read {
                until: Some(self.progress.cutoff),
            },
            (None, true) => Scope::Read { until: None },
            (None, false) => Scope::Whole,
        };
        self.shadow.analyse().await?;
        let mut fold = self.fold();
        loop {
            if self.plan.until.is_none() {
                self.follow(&mut fold, 0).await?;
            }
            self.shadow.forget_changes().await?;
            let mut comparisons = Vec::new();
            self.watch.enter(5, self.shadow.tables.len() as u64);
            for table in self.shadow.tables.clone() {
                let places = (self.shadow.home.as_str(), self.shadow.schema);
                let mut comparison = Comparison::of(&self.shadow.client, places, table, scope).await?;
                comparison.survey(&self.shadow.client).await?;
                self.watch.add(1);
                comparisons.push(comparison);
            }
            if let Some(report) = self.fenced(&mut fold, &mut comparisons, partial).await? {
                return Ok(report);
            }
        }
    }

    fn progress_is_partial(&self) -> bool {
        self.plan.from != From::Earliest && !self.begins_at_the_beginning()
            || self.progress.spans.iter().any(|span| span.first > 0)
    }

    /// Whether the start that was asked for lies before everything.
    fn begins_at_the_beginning(&self) -> bool {
        matches!(self.plan.from, From::Offset(offset) if offset <= 1 && matches!(self.plan.input, Input::Store) || offset <= 0)
    }

    /// Adds what was written since, until no more than `left_max` events can be left.
    async fn follow(&mut self, fold: &mut Fold<M>, left_max: usize) -> Result<(), Error> {
        let settled = tokio::time::timeout(WRITERS_WAIT_MAX, store::settled_position(&self.reader))
            .await
            .map_err(|_| Error::Writers)??;
        self.watch
            .enter(4, (settled - self.progress.reached).max(0).cast_unsigned());
        loop {
            let mut page = store::page(&self.reader, M::NAME, self.progress.reached, FOLLOW_EVENTS_MAX).await?;
            page.retain(|recorded| recorded.envelope.position <= settled);
            let Some(last) = page.last().map(|recorded| recorded.envelope.position) else {
                return Ok(());
            };
            let count = page.len();
            let batch = batch_of(&self.reader, fold, page).await?;
            let tx = self.shadow.client.transaction().await?;
            shadow::follow(&tx, self.shadow.schema, &*self.model, &batch, last).await?;
            tx.commit().await?;
            fold.keep(&batch);
            self.progress.reached = last;
            self.progress.events += batch.events;
            self.watch.add(count as u64);
            if count <= left_max {
                return Ok(());
            }
        }
    }

    /// Holds up whoever writes events, for a moment: adds the rest, gives the verdict, swaps. `None` if there was too much
    /// traffic to tell.
    async fn fenced(
        &mut self,
        fold: &mut Fold<M>,
        comparisons: &mut [Comparison],
        partial: bool,
    ) -> Result<Option<Report>, Error> {
        let mut why = String::new();
        for _ in 0..FENCE_ATTEMPTS_MAX {
            if self.plan.until.is_none() {
                self.follow(fold, FENCED_EVENTS_MAX / 4).await?;
            }
            self.watch.enter(6, 0);
            match self.try_fence(fold, comparisons, partial).await {
                Ok(Fenced::Report(report)) => return Ok(Some(*report)),
                Ok(Fenced::CutShort) => return Ok(None),
                Ok(Fenced::TooMany) => "too much is written meanwhile".clone_into(&mut why),
                Err(Error::Database(error)) if pg::failure(&error, &[]) == pg::Failure::Conflict => {
                    why = error
                        .as_db_error()
                        .map_or_else(|| error.to_string(), |error| error.message().to_owned());
                }
                Err(error) => return Err(error),
            }
            // What was folded in vain is not in the tables.
            fold.clear();
            tokio::time::sleep(FENCE_PAUSE).await;
        }
        Err(Error::NoFence(why))
    }

    async fn try_fence(
        &mut self,
        fold: &mut Fold<M>,
        comparisons: &mut [Comparison],
        partial: bool,
    ) -> Result<Fenced, Error> {
        let (told_again, gaps, gaps_first) = self.shadow.gaps(GAPS_SHOWN_MAX).await?;
        let (schema, home) = (self.shadow.schema, self.shadow.home.clone());
        let may_swap = !partial && matches!(self.plan.intent, Intent::SwapIfEqual | Intent::SwapAnyway);
        let tables = self.shadow.tables.clone();
        let named = |wanted: bool| {
            let some = tables.iter().filter(|table| (table.follows == Follows::Many) == wanted);
            some.map(|table| format!("{home}.{}", table.name)).collect::<Vec<_>>()
        };
        let tx = self.shadow.client.transaction().await?;
        tx.batch_execute(&format!(
            "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; SET LOCAL synchronous_commit = on;
             SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off",
            FENCE_WAIT_MAX.as_millis(),
            FENCE_STATEMENT_MAX.as_millis()
        ))
        .await?;
        if may_swap {
            // In the order in which the service's transactions lock: what decisions look at, events, read models.
            lock_tables(&tx, &named(true), "ACCESS EXCLUSIVE").await?;
        }
        let (mut position, mut events) = (self.progress.reached, self.progress.events);
        if self.plan.until.is_none() {
            lock_tables(&tx, &[format!("{home}.events")], "SHARE").await?;
            let rest = store::page(&self.reader, M::NAME, position, FENCED_EVENTS_MAX as i64 + 1).await?;
            if rest.len() > FENCED_EVENTS_MAX {
                return Ok(Fenced::TooMany);
            }
            if let Some(last) = rest.last().map(|recorded| recorded.envelope.position) {
                let batch = batch_of(&self.reader, fold, rest).await?;
                shadow::follow(&tx, schema, &*self.model, &batch, last).await?;
                (position, events) = (last, events + batch.events);
            }
        }
        let mut reports = Vec::with_capacity(comparisons.len());
        for comparison in comparisons {
            let verdict = comparison.verdict(&tx, schema, self.plan.shown_max).await?;
            if comparison.is_cut_short(&verdict) {
                return Ok(Fenced::CutShort);
            }
            reports.push(verdict);
        }
        let mut report = Report {
            service: M::NAME.to_owned(),
            source: self.plan.input.name().to_owned(),
            events,
            repeated: self.progress.repeated,
            foreign: self.progress.foreign,
            told_again,
            position,
            gaps,
            gaps_first,
            partial,
            tables: reports,
            swapped: false,
            resumed: self.resumed,
        };
        report.swapped = may_swap && (self.plan.intent == Intent::SwapAnyway || report.is_equal());
        if report.swapped {
            lock_tables(&tx, &named(false), "ACCESS EXCLUSIVE").await?;
            swap::swap(&tx, (schema, &home), &tables, &self.plan.name(), &report).await?;
            tx.commit().await?;
        } else {
            tx.rollback().await?;
            self.shadow.drop_all().await?;
        }
        Ok(Fenced::Report(Box::new(report)))
    }

    /// Whoever asked has been told of a swap, so that the next run does not tell them again.
    ///
    /// # Errors
    /// The database's.
    pub async fn told(database_url: &str) -> Result<(), Error> {
        let pool = pg::pool(database_url, 1)?;
        swap::told(&pool.get().await?).await
    }
}

/// What came of one fence.
enum Fenced {
    Report(Box<Report>),
    /// More has been written than may be added while others wait.
    TooMany,
    /// There were more suspects than could be looked at, and none of them differs.
    CutShort,
}

/// What an earlier run with the same plan found when it swapped, if it was killed before it could say so.
async fn after_swap<M: Model>(pool: &Pool, plan: &Plan) -> Result<Option<Report>, Error> {
    let client = pool.get().await?;
    match swap::earlier(&client).await? {
        None => Ok(None),
        Some(Some((earlier, report))) if earlier == plan.name() => match serde_json::from_value::<Report>(report) {
            Ok(report) => Ok(Some(Report {
                resumed: true,
                ..report
            })),
            Err(_) => Err(Error::OldTables { service: M::NAME }),
        },
        // Comparing does not need the place where old tables go.
        Some(_) if plan.intent == Intent::Compare => Ok(None),
        Some(_) => Err(Error::OldTables { service: M::NAME }),
    }
}

async fn lock_tables(tx: &Transaction<'_>, tables: &[String], mode: &str) -> Result<(), Error> {
    if !tables.is_empty() {
        tx.batch_execute(&format!("LOCK TABLE {} IN {mode} MODE", tables.join(", ")))
            .await?;
    }
    Ok(())
}

/// `events`, in order of position, as what they did; the states before them come from the fold, else from the event store.
async fn batch_of<M: Model>(client: &Client, fold: &mut Fold<M>, events: Vec<Recorded>) -> Result<Batch<M>, Error> {
    let mut batch = Batch::new();
    let mut unknown: std::collections::HashMap<StreamId, i64> = std::collections::HashMap::new();
    for recorded in &events {
        let version = recorded.envelope.stream_version;
        if version > 1 && !unknown.contains_key(&recorded.stream_id) && !fold.knows(&batch, &recorded.stream_id) {
            unknown.insert(recorded.stream_id.clone(), version);
        }
    }
    // A stream that begins among these events needs no history.
    let begun: std::collections::HashSet<&StreamId> = events
        .iter()
        .filter(|recorded| recorded.envelope.stream_version == 1)
        .map(|recorded| &recorded.stream_id)
        .collect();
    unknown.retain(|stream, _| !begun.contains(stream));
    if !unknown.is_empty() {
        let wanted: Vec<(&StreamId, i64)> = unknown.iter().map(|(stream, below)| (stream, *below)).collect();
        let histories = store::histories(client, M::NAME, &wanted, i64::MAX).await?;
        let mut histories = std::pin::pin!(histories);
        while let Some(recorded) = histories.try_next().await? {
            fold.remember(&mut batch, &recorded).await?;
        }
    }
    for recorded in events {
        fold.add(&mut batch, recorded).await?;
    }
    Ok(batch)
}

impl Input {
    fn name(&self) -> &'static str {
        match self {
            Self::Topic { .. } => "topic",
            Self::Store => "store",
        }
    }
}

impl Plan {
    /// Tells this plan from others: what is left of one must not be taken for the other.
    fn name(&self) -> String {
        let from = match self.from {
            From::Earliest => "earliest".to_owned(),
            From::Offset(offset) => format!("offset {offset}"),
            From::Time(at) => at.to_string(),
        };
        let until = self.until.map_or_else(|| "now".to_owned(), |until| until.to_string());
        let topic = match &self.input {
            Input::Topic { topic, .. } => topic,
            Input::Store => "events",
        };
        format!("{topic} from {from} until {until} by {}", self.fingerprint)
    }

    /// Up to which position, and from where to where, is to be read.
    async fn extent(&self, reader: &Client) -> Result<(i64, Vec<Span>), Error> {
        let until = match self.until {
            Some(until) => store::position_at(reader, until).await?,
            None => i64::MAX,
        };
        match &self.input {
            Input::Topic { kafka, topic } => {
                // Before the ends are asked for: everything up to here is in the log below them.
                let published = match self.cutoff {
                    Some(cutoff) => cutoff,
                    None => store::published_position(reader).await?,
                };
                let cutoff = published.min(until);
                let start = match self.from {
                    From::Earliest => Start::Earliest,
                    From::Offset(offset) => Start::Offset(offset),
                    From::Time(at) => Start::Time(at),
                };
                Ok((cutoff, log::spans(kafka, topic, start).await?))
            }
            Input::Store => {
                let settled = tokio::time::timeout(WRITERS_WAIT_MAX, store::settled_position(reader))
                    .await
                    .map_err(|_| Error::Writers)??;
                let cutoff = settled.min(until);
                let next = match self.from {
                    From::Earliest => 0,
                    From::Offset(position) => position,
                    From::Time(at) => {
                        let before = at.checked_sub(jiff::SignedDuration::from_micros(1)).unwrap_or(at);
                        store::position_at(reader, before).await? + 1
                    }
                };
                let span = Span {
                    partition: 0,
                    first: 0,
                    next: next.min(cutoff + 1),
                    end: cutoff + 1,
                };
                Ok((cutoff, vec![span]))
            }
        }
    }

    /// The topic of `M`, with namespace.
    pub fn topic_of<M: Model>(kafka: &kafka::Settings) -> String {
        kafka.named(M::Event::TOPIC)
    }
}
