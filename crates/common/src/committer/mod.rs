//! The one write path: whatever has arrived when the committer is free becomes one transaction.
//!
//! ```text
//!  HTTP, deadlines ─► Commands::submit ─► queue ─┐
//!                                                ├─► serve ─► attempt: one transaction ─► relay, waiters, replies
//!  consumer thread ─► records ──────────► queue ─┘
//! ```
//!
//! Commands and records share a transaction. A batch of one is the idle case and waits for nothing, unless nobody waits for
//! it; under load `pace` lets company gather. A batch of one kind that fails is tried again whole for conflicts and lost
//! connections, and in halves for errors of data, until the culprit is alone: one poison record costs only itself. A batch of
//! both is tried once, and then each kind by itself.

mod batch;
pub(crate) mod cache;
mod commands;
mod history;
mod pace;
mod records;
mod serve;
mod versions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{GenericClient, Pool};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::breaker::{self, Breaker};
use crate::claims::Claims;
use crate::codec::Codec;
use crate::event::{Cause, Envelope, StreamId};
use crate::inbox;
use crate::model::Model;
use crate::parking::{Disposition, Failure, Head, RetryPolicy, chain};
use crate::pg;
use crate::record::Record;
use crate::relay;
use crate::telemetry::names;

use batch::Failed;
use cache::{StateCache, Versioned};
use versions::Versions;

pub use commands::{Commands, Expect, Outcome, SubmitError};
pub use serve::TOGETHER_RECORDS_MAX;

/// Records, or commands, in one transaction. More gains little and holds locks longer.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Commands that may wait for the committer; beyond it callers are told to come back.
pub const COMMANDS_QUEUED_MAX: usize = 4_096;
/// Records that may wait for the committer; beyond it the consumer stops fetching.
pub const RECORDS_QUEUED_MAX: usize = 4_096;
/// How long a command is held while the database is away.
pub const COMMAND_WAIT_MAX: Duration = Duration::from_secs(30);
/// Conflicts in a row after which a batch is halved.
const CONFLICTS_MAX: u32 = 8;
/// Conflicts in a row after which a single item is given up: by then it is no contention, but an id that is taken.
const CONFLICTS_ALONE_MAX: u32 = 64;
/// How long the offsets of records without work may stay uncommitted.
const IDLE_OFFSETS_WAIT: Duration = Duration::from_secs(1);
/// Constraints whose violation means that somebody else appended first.
const CONTENDED: &[&str] = &["events_stream_id_version_key", "events_id_key"];
/// Codes of a prepared statement that is gone or out of date, as after a migration or behind a pooler.
const STATEMENT_GONE: &[&str] = &["26000", "0A000"];
/// Bounds of the wait between two attempts while the database is away.
const RECONNECT_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where an item came from.
enum Origin {
    Record { record: Record, envelope: Option<Envelope> },
    Head(ParkedHead),
    Asked,
}

struct ParkedHead {
    head: Head,
    envelope: Envelope,
}

/// One unit of work within a batch.
struct Item<M: Model> {
    origin: Origin,
    cause: Cause,
    commands: Vec<(StreamId, M::Command)>,
    /// Known before any SQL: it cannot be decoded or meant.
    failure: Option<Failure>,
    expect: Expect,
    /// Ends when the item is dealt with, for those who follow the trace.
    _span: Option<Span>,
}

impl<M: Model> Item<M> {
    /// Whether there is nothing to do but to move the offset.
    fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.failure.is_none()
    }

    /// The record that arrived, if this is one and its envelope can be read.
    fn arrived(&self) -> Option<(&Record, &Envelope)> {
        match &self.origin {
            Origin::Record {
                record,
                envelope: Some(envelope),
            } => Some((record, envelope)),
            Origin::Record { envelope: None, .. } | Origin::Head(_) | Origin::Asked => None,
        }
    }
}

/// How failures are taken.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// How often and when a record is tried again.
    pub retry: RetryPolicy,
    /// When the consumer pauses itself.
    pub breaker: breaker::Settings,
}

/// Decides and commits for one service.
pub struct Committer<M: Model> {
    model: Arc<M>,
    codec: Arc<Codec>,
    pool: Pool,
    relay: relay::Handle,
    claims: Arc<Claims>,
    retry: RetryPolicy,
    breaker: Arc<Breaker>,
    /// Told when a head was parked that is due at once.
    due_at_once: Notify,
    namespace_prefix: String,
    cache: StateCache<M::State>,
    versions: Versions,
}

impl<M: Model> Committer<M> {
    /// A committer; [`Self::serve`] is its loop.
    pub fn new(
        model: Arc<M>,
        codec: Arc<Codec>,
        pool: Pool,
        relay: relay::Handle,
        claims: Arc<Claims>,
        patience: Patience,
        namespace: Option<&str>,
    ) -> Arc<Self> {
        let namespace_prefix = namespace.map(|namespace| format!("{namespace}.")).unwrap_or_default();
        // A counter that is there from the beginning shows its first rise.
        for reason in [Disposition::Poison, Disposition::Business, Disposition::Exhausted] {
            metrics::counter!(names::DEAD_LETTERS_TOTAL, "consumer" => M::NAME, "reason" => reason.as_str())
                .increment(0);
        }
        Arc::new(Self {
            model,
            codec,
            pool,
            relay,
            claims,
            retry: patience.retry,
            breaker: Arc::new(Breaker::new(M::NAME, patience.breaker)),
            due_at_once: Notify::new(),
            namespace_prefix,
            cache: StateCache::default(),
            versions: Versions::default(),
        })
    }

    /// The folded state of a stream now, and its version.
    ///
    /// # Errors
    /// The database's words.
    pub async fn state(&self, stream: &StreamId) -> Result<(Arc<M::State>, i64), String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let mut streams = BTreeMap::from([(stream.clone(), batch::Working::unknown())]);
        let history = self
            .history(&client, &[stream])
            .await
            .map_err(|error| error.to_string())?;
        let folded = self.fold(&client, &mut streams, history).await;
        folded.map_err(|failed| match failed {
            Failed::Registry(reason) | Failed::Encoding(reason) => reason,
            Failed::Database(error) => chain(&error),
            other => format!("{other:?}"),
        })?;
        let stream = streams.remove(stream).expect("it was put there");
        Ok((stream.after, stream.version))
    }

    /// Looks whether somebody moved an offset on purpose while no batch was there to notice.
    ///
    /// # Errors
    /// The database's.
    pub async fn notice_resets(&self, client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
        for (topic, partition, epoch) in inbox::resets(client, M::NAME).await? {
            self.claims.moved(&topic, partition, epoch);
        }
        Ok(())
    }

    /// The model that this committer drives.
    pub fn model(&self) -> &Arc<M> {
        &self.model
    }

    /// What pauses its consumer.
    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    /// Resolves when a head was parked that is due at once.
    pub async fn due_at_once(&self) {
        self.due_at_once.notified().await;
    }

    /// The codec that it encodes with.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Tries until the batch is committed, or will not be: bad data, out of time, stopping.
    async fn commit(
        &self,
        items: &mut Vec<Item<M>>,
        until: Option<Instant>,
        shutdown: &CancellationToken,
    ) -> Result<batch::Committed<M>, GaveUp> {
        let mut conflicts = 0;
        let mut wait = RECONNECT_WAIT.0;
        loop {
            let failed = match self.try_once(items).await {
                Ok(committed) => return Ok(committed),
                Err(failed) => failed,
            };
            match failed {
                Failed::Stale => {}
                Failed::Entangled => return Err(GaveUp::items("entangled", "items of one batch depend on each other")),
                Failed::Encoding(reason) => return Err(GaveUp::items("encoding", reason)),
                Failed::Fenced(partitions) => {
                    self.give_up(&partitions);
                    items.retain(|item| self.is_held(item));
                    if items.is_empty() {
                        return Err(GaveUp::Fenced);
                    }
                }
                Failed::Database(error) => match self.verdict(&error) {
                    pg::Failure::Conflict => {
                        conflicts += 1;
                        self.again(&error, conflicts, items.len()).await?;
                    }
                    pg::Failure::Connection => wait = self.pause(&chain(&error), wait, until, shutdown).await?,
                    pg::Failure::Data | pg::Failure::Other => return Err(GaveUp::items("data", chain(&error))),
                },
                Failed::Registry(reason) => wait = self.pause(&reason, wait, until, shutdown).await?,
                Failed::Pool(error) => wait = self.pause(&chain(&error), wait, until, shutdown).await?,
            }
        }
    }

    /// One attempt, and what follows from it for what is remembered of the streams.
    async fn try_once(&self, items: &mut [Item<M>]) -> Result<batch::Committed<M>, Failed> {
        let started = Instant::now();
        let attempted = self.attempt(items).await;
        match &attempted {
            Ok(committed) => {
                metrics::histogram!(names::COMMIT_DURATION_SECONDS, "service" => M::NAME)
                    .record(started.elapsed().as_secs_f64());
                self.after_commit(committed);
            }
            Err(_) => {
                for item in items {
                    // A stream thought new may exist after all.
                    item.expect = Expect::Any;
                    for (stream, _) in &item.commands {
                        self.cache.evict(stream);
                    }
                }
            }
        }
        attempted
    }

    /// What a failed statement means for the batch.
    fn verdict(&self, error: &tokio_postgres::Error) -> pg::Failure {
        let code = error.code().map_or("", |code| code.code());
        if STATEMENT_GONE.contains(&code) {
            self.pool.manager().statement_caches.clear();
        }
        match pg::failure(error, CONTENDED) {
            // Another statement of the same flight failed before this one, and its answer has not been read.
            pg::Failure::Other if code == "25P02" => pg::Failure::Conflict,
            // A table, column or privilege that is not there fails every record alike: nothing a record is to blame for.
            pg::Failure::Other if code.starts_with("42") => {
                tracing::error!(
                    service = M::NAME,
                    error = chain(error),
                    "the database refuses a statement of this build"
                );
                pg::Failure::Connection
            }
            failure => failure,
        }
    }

    /// Waits a moment before a batch is decided again after a conflict, unless that was often enough.
    async fn again(&self, error: &tokio_postgres::Error, conflicts: u32, items: usize) -> Result<(), GaveUp> {
        let conflicts_max = if items == 1 { CONFLICTS_ALONE_MAX } else { CONFLICTS_MAX };
        if conflicts > conflicts_max {
            return Err(GaveUp::items("conflict", chain(error)));
        }
        metrics::counter!(names::COMMIT_RETRIES_TOTAL, "service" => M::NAME, "cause" => "conflict").increment(1);
        tracing::debug!(error = chain(error), conflicts, "a batch is decided again");
        let pause = Duration::from_millis(u64::from(conflicts.min(10))).mul_f64(rand::random());
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Lets go of partitions that another copy has claimed, or whose offset was moved.
    fn give_up(&self, partitions: &[(String, i32)]) {
        for (topic, partition) in partitions {
            tracing::info!(
                topic,
                partition,
                "this partition was claimed or its offset moved; what was read of it is dropped"
            );
            self.claims.give_up(topic, *partition);
            self.claims.fenced(topic, *partition);
        }
    }

    /// Whether this process still reads the partition that an item came from.
    fn is_held(&self, item: &Item<M>) -> bool {
        match &item.origin {
            Origin::Record { record, .. } => self.claims.holds(&record.topic, record.partition, record.epoch),
            Origin::Head(_) | Origin::Asked => true,
        }
    }

    /// Waits before the next attempt while the database, or the registry, is away.
    async fn pause(
        &self,
        reason: &str,
        wait: Duration,
        until: Option<Instant>,
        shutdown: &CancellationToken,
    ) -> Result<Duration, GaveUp> {
        tracing::warn!(error = reason, "the batch cannot be committed now; trying again");
        metrics::counter!(names::COMMIT_RETRIES_TOTAL, "service" => M::NAME, "cause" => "connection").increment(1);
        if until.is_some_and(|until| Instant::now() + wait > until) {
            return Err(GaveUp::Time(format!("the database is away: {reason}")));
        }
        tokio::select! {
            () = shutdown.cancelled() => Err(GaveUp::Time("the service is stopping".into())),
            () = tokio::time::sleep(wait) => Ok((wait * 2).min(RECONNECT_WAIT.1)),
        }
    }

    fn after_commit(&self, committed: &batch::Committed<M>) {
        let recorded = committed.recorded();
        if !recorded.is_empty() {
            metrics::counter!(names::EVENTS_APPENDED_TOTAL, "service" => M::NAME).increment(recorded.len() as u64);
            self.relay.offer(recorded);
        }
        for (stream_id, stream) in &committed.streams {
            self.cache.put(
                stream_id,
                Versioned {
                    version: stream.version,
                    state: stream.after.clone(),
                },
            );
        }
        self.model.committed(&committed.changes());
    }
}

/// Why a batch will not be committed as it is.
#[derive(Debug, thiserror::Error)]
enum GaveUp {
    /// One of its items, at least, is at fault.
    #[error("{reason}")]
    Items { class: &'static str, reason: String },
    /// All its partitions belong to another copy by now.
    #[error("another copy claimed the partitions")]
    Fenced,
    /// The time is up, or the service is stopping.
    #[error("{0}")]
    Time(String),
}

impl GaveUp {
    fn items(class: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Items { class, reason }
    }
}
