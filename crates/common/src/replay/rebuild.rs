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

use deadpool_postgres::{Client, Pool, PoolError};
use futures_util::{TryStreamExt as _, try_join};
use tokio::sync::mpsc;

use super::compare::{Comparison, Scope};
use super::fold::{Batch, Fold};
use super::intake::Intake;
use super::log::{self, Span};
use super::plan::{From, Input, Intent, Plan, Report, WRITERS_WAIT_MAX, Watch, settled};
use super::shadow::{self, CANDIDATE_SCHEMA, OLD_SCHEMA, Phase, Progress, REBUILD_SCHEMA, Shadow};
use super::source::Source;
use super::{restore, swap};
use crate::codec::{Codec, DecodeError};
use crate::event::{Recorded, StreamId};
use crate::model::Model;
use crate::{pg, store};

mod fence;
mod install;

/// Connections of one run: the shadow's, one that reads, one that reads ahead.
const POOL_SIZE: usize = 3;
/// Batches that may wait for the database while the next one is folded.
const BATCHES_QUEUED_MAX: usize = 1;
/// Streams that are told again in one transaction.
const AGAIN_STREAMS_MAX: i64 = 500;
/// Events of one transaction that follows the store.
const FOLLOW_EVENTS_MAX: i64 = 2_000;
/// How often the fence is tried.
const FENCE_ATTEMPTS_MAX: u32 = 40;
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
    /// Two events have one position.
    #[error(
        "two different events in {topic} claim position {position}: it holds the histories of two databases, and cannot be made one"
    )]
    TwoHistories {
        /// With namespace.
        topic: String,
        /// Which.
        position: i64,
    },
    /// A schema of the events is not to be had.
    #[error("schema {id} of the events cannot be had")]
    Schema {
        /// Its id.
        id: u32,
        /// Why.
        #[source]
        source: DecodeError,
    },
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
                if let Input::Restore { .. } = plan.input {
                    restore::begin_anew(&mut shadow.client).await?;
                }
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

    /// Whether the event store is filled as well.
    fn restores(&self) -> bool {
        matches!(self.plan.input, Input::Restore { .. })
    }

    fn fold(&self) -> Fold<M> {
        Fold::new(self.model.clone(), self.codec.clone(), self.plan.streams_max)
    }

    /// From wherever an earlier run was to tables that hold everything up to the cutoff.
    async fn load(&mut self) -> Result<(), Error> {
        self.tell().await?;
        self.finish().await
    }

    /// Tells all streams up to the cutoff.
    async fn tell(&mut self) -> Result<(), Error> {
        if self.progress.phase == Phase::Reading {
            self.read().await?;
            self.enter(Phase::Again).await?;
        }
        if self.restores() {
            self.complete_store().await?;
        }
        if self.progress.phase == Phase::Again {
            self.tell_again().await?;
        }
        Ok(())
    }

    /// Gives the event store, which is filled, its constraints; and beside that, where every stream was told to its end, the
    /// read models theirs. Does nothing twice.
    async fn complete_store(&mut self) -> Result<(), Error> {
        self.watch.enter(3, 0);
        let (aside, ..) = self.shadow.gaps(0).await?;
        let spare = self.pool.get().await?;
        let complete = async { Ok(store::import::complete(&mut self.reader, &spare).await?) };
        if self.progress.phase == Phase::Again && aside == 0 {
            try_join!(
                complete,
                self.shadow.finish(&*self.model, self.plan.migrations.is_some())
            )?;
            self.progress.phase = Phase::Following;
            return Ok(());
        }
        complete.await
    }

    /// Gives the tables, in which all streams have been told, what they need to serve.
    async fn finish(&mut self) -> Result<(), Error> {
        if self.progress.phase == Phase::Again {
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
            Input::Topic { kafka, topic } | Input::Restore { kafka, topic, .. } => {
                Source::topic(kafka, topic, &spans, self.model.clone())?
            }
            Input::Store => Source::<M>::store(self.pool.clone(), &spans[0]),
        };
        let (sender, mut batches) = mpsc::channel::<Batch<M>>(BATCHES_QUEUED_MAX);
        let mut intake = match &self.plan.input {
            Input::Restore { topic, .. } => Some(Intake::open(&self.reader, topic).await?),
            Input::Topic { .. } | Input::Store => None,
        };
        let mut fold = self.fold();
        let (mut tops, cutoff) = (self.progress.tops.clone(), self.progress.cutoff);
        let streams_max = self.plan.streams_max;
        let model = self.model.clone();
        let folding = tokio::spawn(async move {
            let mut batch = Batch::new();
            while let Some(chunk) = source.next().await? {
                for found in chunk {
                    match &mut intake {
                        Some(intake) => fold.import(&mut batch, found, intake).await?,
                        None => {
                            let top = tops.get(&found.partition).copied().unwrap_or(0);
                            fold.take(&mut batch, found, (top, cutoff)).await?;
                        }
                    }
                    if batch.is_full(streams_max) {
                        let mut full = std::mem::replace(&mut batch, Batch::new());
                        full.make_rows(&model);
                        tops.extend(full.next.iter().map(|(partition, (_, top))| (*partition, *top)));
                        fold.keep(&full);
                        if sender.send(full).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
            if !batch.is_empty() {
                batch.make_rows(&model);
                // Whoever writes has failed if it is gone, and says so.
                let _ = sender.send(batch).await;
            }
            Ok::<_, Error>(())
        });
        while let Some(mut batch) = batches.recv().await {
            self.shadow.write(&*self.model, &self.codec, &mut batch).await?;
            self.progress.events += batch.events;
            self.progress.repeated += batch.repeated;
            self.progress.foreign += batch.foreign;
            self.watch.add(batch.events + batch.repeated + batch.foreign);
            // To let go of thousands of events takes a while, which the next batch need not wait for.
            tokio::spawn(async move { drop(batch) });
        }
        folding
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Tells the streams that were set aside: what was folded of them before is only remembered.
    async fn tell_again(&mut self) -> Result<(), Error> {
        let restores = self.restores();
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
            let mut holed = Vec::new();
            let mut last: Option<(StreamId, i64)> = None;
            let tx = self.shadow.client.transaction().await?;
            while let Some(recorded) = histories.try_next().await? {
                let (stream, version) = (&recorded.stream_id, recorded.envelope.stream_version);
                let before = last.take().filter(|(before, _)| before == stream);
                if version != before.map_or(0, |(_, version)| version) + 1 {
                    holed.push(stream.clone());
                }
                last = Some((stream.clone(), version));
                if recorded.envelope.stream_version < first[&recorded.stream_id] {
                    fold.remember(&mut batch, &recorded).await?;
                } else {
                    fold.add(&mut batch, recorded).await?;
                }
                if batch.is_full(streams_max) {
                    batch.make_rows(&self.model);
                    shadow::retell(&tx, &*self.model, &mut batch).await?;
                    // The stream that is being told goes on where it is.
                    fold.clear();
                    fold.keep(&batch);
                    batch = Batch::new();
                }
            }
            batch.make_rows(&self.model);
            shadow::retell(&tx, &*self.model, &mut batch).await?;
            // What the log of a service lacks its event store has; a restored one has nothing but the log.
            let holed = restores.then_some(&*holed);
            shadow::told_again(&tx, self.shadow.schema, &streams, holed).await?;
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
        let settled = settled(&self.reader).await?;
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

    /// Whoever asked has been told of a swap, so that the next run does not tell them again.
    ///
    /// # Errors
    /// The database's.
    pub async fn told(database_url: &str) -> Result<(), Error> {
        let pool = pg::pool(database_url, 1)?;
        swap::told(&pool.get().await?).await
    }
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
