//! The one write path: whatever has arrived when the committer is free becomes one transaction.
//!
//! ```text
//!  HTTP, deadlines ─► Commands::submit ─► queue ─┐
//!                                                ├─► attempt: one transaction ─► relay, waiters, replies
//!  consumer thread ─► records ──────────► queue ─┘
//! ```
//!
//! Two loops of the same code run side by side, one for commands and one for records, so that a commit of one does not
//! wait for the other's. A batch of one is the idle case; nothing waits for a batch to fill. A batch that fails is tried
//! again whole for conflicts and lost connections, and one by one for errors of data, so that one poison record costs
//! only itself.

mod batch;
mod cache;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::claims::Claims;
use crate::codec::Codec;
use crate::envelope;
use crate::event::{Cause, Envelope, Recorded, StreamId};
use crate::model::Model;
use crate::parking::{Disposition, Failure, Head, RetryPolicy};
use crate::pg;
use crate::record::Record;
use crate::relay;
use crate::telemetry::names;

use batch::{Failed, Settled};
use cache::{StateCache, Versioned};

/// Items in one transaction. More gains little and holds locks longer.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Commands that may wait for the committer; beyond it callers are told to come back.
pub const COMMANDS_QUEUED_MAX: usize = 4_096;
/// Records that may wait for the committer; beyond it the consumer stops fetching.
pub const RECORDS_QUEUED_MAX: usize = 4_096;
/// How long a command is held while the database is away.
pub const COMMAND_WAIT_MAX: Duration = Duration::from_secs(30);
/// Conflicts in a row after which a batch is taken one by one.
const CONFLICTS_MAX: u32 = 8;
/// How long the offsets of records without work may stay uncommitted.
const IDLE_OFFSETS_WAIT: Duration = Duration::from_secs(1);
/// Constraints whose violation means that somebody else appended first.
const CONTENDED: &[&str] = &["events_stream_id_version_key", "events_id_key"];
/// Bounds of the wait between two attempts while the database is away.
const RECONNECT_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What is known of a command's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Surely no such stream yet: it is not looked for.
    New,
    /// It may exist.
    Any,
}

/// What a command came to.
#[derive(Debug)]
pub struct Outcome<M: Model> {
    /// The stream's state after it.
    pub state: Arc<M::State>,
    /// The stream's version after it.
    pub version: i64,
    /// What it appended; nothing if it was recognised as done already.
    pub events: Vec<Recorded>,
}

/// Why a command came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError<R: std::error::Error + 'static> {
    /// The domain refuses it.
    #[error(transparent)]
    Rejected(R),
    /// Too much is waiting already.
    #[error("the service has {COMMANDS_QUEUED_MAX} commands waiting; try again shortly")]
    Overloaded,
    /// The database has been away too long, or the service is stopping. The command may have taken effect: repeat it
    /// with the same idempotency key.
    #[error("the service cannot commit now: {0}")]
    Unavailable(String),
}

struct Ask<M: Model> {
    item: Item<M>,
    until: Instant,
    reply: oneshot::Sender<Result<Outcome<M>, SubmitError<M::Rejection>>>,
}

/// The way in for everything that is not a record: HTTP, deadlines, tools.
pub struct Commands<M: Model> {
    queue: mpsc::Sender<Ask<M>>,
}

impl<M: Model> Clone for Commands<M> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<M: Model> Commands<M> {
    /// Has `command` decided against `stream` and returns when the result is durable.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(
        &self,
        stream: StreamId,
        command: M::Command,
        cause: Cause,
        expect: Expect,
    ) -> Result<Outcome<M>, SubmitError<M::Rejection>> {
        let (reply, answer) = oneshot::channel();
        let item = Item {
            origin: Origin::Asked,
            cause,
            commands: vec![(stream, command)],
            failure: None,
            expect,
        };
        let ask = Ask {
            item,
            until: Instant::now() + COMMAND_WAIT_MAX,
            reply,
        };
        self.queue.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Unavailable("it is stopping".into()),
        })?;
        answer
            .await
            .unwrap_or_else(|_| Err(SubmitError::Unavailable("it is stopping".into())))
    }
}

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
}

impl<M: Model> Item<M> {
    /// Whether there is nothing to do but to move the offset.
    fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.failure.is_none()
    }
}

/// Decides and commits for one service.
pub struct Committer<M: Model> {
    model: Arc<M>,
    codec: Arc<Codec>,
    pool: Pool,
    relay: relay::Handle,
    claims: Arc<Claims>,
    retry: RetryPolicy,
    namespace_prefix: String,
    cache: StateCache<M::State>,
}

impl<M: Model> Committer<M> {
    /// A committer; [`Self::serve_commands`] and [`Self::serve_records`] are its two loops.
    pub fn new(
        model: Arc<M>,
        codec: Arc<Codec>,
        pool: Pool,
        relay: relay::Handle,
        claims: Arc<Claims>,
        retry: RetryPolicy,
        namespace: Option<&str>,
    ) -> Arc<Self> {
        let namespace_prefix = namespace.map(|namespace| format!("{namespace}.")).unwrap_or_default();
        Arc::new(Self {
            model,
            codec,
            pool,
            relay,
            claims,
            retry,
            namespace_prefix,
            cache: StateCache::default(),
        })
    }

    /// A queue for commands and the loop that serves it until `shutdown` and all handles are gone or drained.
    pub fn serve_commands(
        self: &Arc<Self>,
        shutdown: CancellationToken,
    ) -> (Commands<M>, impl Future<Output = ()> + use<M>) {
        let (queue, mut waiting) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let committer = self.clone();
        let serve = async move {
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    received = waiting.recv_many(&mut batch, BATCH_ITEMS_MAX) => if received == 0 { break },
                    () = shutdown.cancelled() => {
                        waiting.close();
                        if waiting.is_empty() { break }
                        continue;
                    }
                }
                committer.commit_asks(std::mem::take(&mut batch), &shutdown).await;
            }
        };
        (Commands { queue }, serve)
    }

    /// Commits records as they come until their sender is gone or `shutdown`.
    pub async fn serve_records(self: Arc<Self>, mut records: mpsc::Receiver<Record>, shutdown: CancellationToken) {
        let mut batch = Vec::new();
        let mut claims_seen = 0;
        // Records without work only move an offset; that can wait for the next batch with work, or a moment.
        let mut idle: Vec<Item<M>> = Vec::new();
        let mut idle_since = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                received = records.recv_many(&mut batch, BATCH_ITEMS_MAX) => if received == 0 { break },
                () = tokio::time::sleep_until(idle_since + IDLE_OFFSETS_WAIT), if !idle.is_empty() => {}
            }
            if self.claims.changes() != claims_seen {
                // What another copy did meanwhile is not in the cache.
                claims_seen = self.claims.changes();
                self.cache.clear();
            }
            if idle.is_empty() {
                idle_since = Instant::now();
            }
            let mut items = std::mem::take(&mut idle);
            for record in batch.drain(..) {
                let Some(item) = self.parse(record, &shutdown).await else {
                    return;
                };
                items.push(item);
            }
            let due = idle_since.elapsed() >= IDLE_OFFSETS_WAIT || items.len() >= BATCH_ITEMS_MAX;
            if !due && items.iter().all(Item::is_idle) {
                idle = items;
                continue;
            }
            self.claims.begin();
            self.commit_records(items, &shutdown).await;
            self.claims.end();
        }
    }

    /// Tries parked heads again, each in a transaction of its own.
    pub async fn retry_parked(&self, heads: Vec<Head>, shutdown: &CancellationToken) {
        for head in heads {
            let Some(item) = self.parse(head.record.clone(), shutdown).await else {
                return;
            };
            let Origin::Record {
                envelope: Some(envelope),
                ..
            } = item.origin
            else {
                continue;
            };
            let item = Item {
                origin: Origin::Head(ParkedHead { head, envelope }),
                ..item
            };
            self.commit_records(vec![item], shutdown).await;
        }
    }

    /// The folded state of a stream now, and its version.
    ///
    /// # Errors
    /// The database's words.
    pub async fn state(&self, stream: &StreamId) -> Result<(Arc<M::State>, i64), String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let history = crate::store::load_until(&client, M::NAME, stream, None)
            .await
            .map_err(|e| e.to_string())?;
        let (mut state, mut version) = (M::State::default(), 0);
        for recorded in &history {
            let event = self
                .codec
                .decode::<M::Event>(&recorded.payload)
                .await
                .map_err(|e| e.to_string())?;
            self.model.evolve(&mut state, &event, &recorded.envelope);
            version = recorded.envelope.stream_version;
        }
        Ok((Arc::new(state), version))
    }

    /// The model that this committer drives.
    pub fn model(&self) -> &Arc<M> {
        &self.model
    }

    /// The codec that it encodes with.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Finds out what a record asks for. Waits while the registry is away; `None` on shutdown.
    async fn parse(&self, record: Record, shutdown: &CancellationToken) -> Option<Item<M>> {
        let poison = |envelope: Option<Envelope>, record: Record, failure: Failure| {
            let cause = envelope.as_ref().map_or_else(anonymous_cause, Cause::from);
            Item {
                origin: Origin::Record { record, envelope },
                cause,
                commands: Vec::new(),
                failure: Some(failure),
                expect: Expect::Any,
            }
        };
        let envelope = match envelope::from_record(record.headers.as_ref(), record.key.as_deref()) {
            Ok(envelope) => envelope,
            Err(error) => {
                let failure = Failure::new("envelope", Disposition::Poison, &error);
                return Some(poison(None, record, failure));
            }
        };
        let value = record.value.clone().unwrap_or_default();
        let mut wait = RECONNECT_WAIT.0;
        let opened = loop {
            match self.codec.open(&value).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "waiting for the schema registry"
                    );
                    tokio::select! {
                        () = shutdown.cancelled() => return None,
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(RECONNECT_WAIT.1),
                    }
                }
                opened => break opened,
            }
        };
        let (writer, datum) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let failure = Failure::new("decode", Disposition::Poison, &error);
                return Some(poison(Some(envelope), record, failure));
            }
        };
        let topic = record
            .topic
            .strip_prefix(&*self.namespace_prefix)
            .unwrap_or(&record.topic);
        let reaction = match self.model.read(topic, &writer, datum) {
            None => Ok(Vec::new()),
            Some(Ok(input)) => self.model.react(&input, &envelope).map_err(|reason| Failure {
                class: "meaning",
                message: reason,
                disposition: Disposition::Poison,
            }),
            Some(Err(error)) => Err(Failure::new("decode", Disposition::Poison, &error)),
        };
        Some(match reaction {
            Ok(commands) => Item {
                cause: Cause::from(&envelope),
                origin: Origin::Record {
                    record,
                    envelope: Some(envelope),
                },
                commands,
                failure: None,
                expect: Expect::Any,
            },
            Err(failure) => poison(Some(envelope), record, failure),
        })
    }

    async fn commit_asks(&self, asks: Vec<Ask<M>>, shutdown: &CancellationToken) {
        let until = asks.iter().map(|ask| ask.until).min().unwrap_or_else(Instant::now);
        let (mut items, replies): (Vec<Item<M>>, Vec<_>) = asks.into_iter().map(|ask| (ask.item, ask.reply)).unzip();
        metrics::histogram!(names::COMMIT_BATCH_SIZE, "service" => M::NAME, "source" => "commands")
            .record(items.len() as f64);
        match self.commit(&mut items, Some(until), shutdown).await {
            Ok(mut committed) => {
                for (reply, settled) in replies.into_iter().zip(std::mem::take(&mut committed.results)) {
                    let answer = match settled {
                        Settled::Done { stream, events } => {
                            let stream = stream.and_then(|stream| committed.streams.get(&stream));
                            let stream = stream.expect("a command names one stream");
                            Ok(Outcome {
                                state: stream.after.clone(),
                                version: stream.version,
                                events,
                            })
                        }
                        Settled::Rejected(rejection) => Err(SubmitError::Rejected(rejection)),
                        _ => Err(SubmitError::Unavailable("it could not be committed".into())),
                    };
                    // A caller that went away needs no answer.
                    let _ = reply.send(answer);
                }
            }
            Err(GaveUp::Data(_)) if items.len() > 1 => {
                for (item, reply) in items.into_iter().zip(replies) {
                    Box::pin(self.commit_asks(vec![Ask { item, until, reply }], shutdown)).await;
                }
            }
            Err(GaveUp::Data(reason) | GaveUp::Time(reason)) => {
                for reply in replies {
                    let _ = reply.send(Err(SubmitError::Unavailable(reason.clone())));
                }
            }
        }
    }

    async fn commit_records(&self, mut items: Vec<Item<M>>, shutdown: &CancellationToken) {
        items.retain(|item| match &item.origin {
            Origin::Record { record, .. } => self.claims.holds(&record.topic, record.partition, record.epoch),
            _ => true,
        });
        if items.is_empty() {
            return;
        }
        metrics::histogram!(names::COMMIT_BATCH_SIZE, "service" => M::NAME, "source" => "records")
            .record(items.len() as f64);
        match self.commit(&mut items, None, shutdown).await {
            Ok(committed) => {
                for entry in &committed.progress {
                    self.claims
                        .committed(&entry.topic, entry.partition, entry.epoch, entry.next_offset);
                }
                self.count(&items, &committed.results);
            }
            Err(GaveUp::Data(_)) if items.len() > 1 => {
                for item in items {
                    Box::pin(self.commit_records(vec![item], shutdown)).await;
                }
            }
            Err(GaveUp::Data(reason)) => {
                let mut item = items.remove(0);
                if item.failure.is_some() {
                    tracing::error!(error = reason, "a failed record cannot even be set aside; trying again");
                    tokio::time::sleep(RECONNECT_WAIT.1).await;
                } else {
                    item.failure = Some(Failure {
                        class: "data",
                        message: reason,
                        disposition: Disposition::Retry,
                    });
                    item.commands.clear();
                }
                Box::pin(self.commit_records(vec![item], shutdown)).await;
            }
            Err(GaveUp::Time(_)) => {}
        }
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
            let started = Instant::now();
            let failed = match self.attempt(items).await {
                Ok(committed) => {
                    metrics::histogram!(names::COMMIT_DURATION_SECONDS, "service" => M::NAME)
                        .record(started.elapsed().as_secs_f64());
                    self.after_commit(&committed);
                    return Ok(committed);
                }
                Err(failed) => failed,
            };
            for item in items.iter_mut() {
                // A stream thought new may exist after all.
                item.expect = Expect::Any;
                for (stream, _) in &item.commands {
                    self.cache.evict(stream);
                }
            }
            match failed {
                Failed::Stale => continue,
                Failed::Entangled => return Err(GaveUp::Data("items of one batch depend on each other".into())),
                Failed::Encoding(reason) => return Err(GaveUp::Data(reason)),
                Failed::Fenced(partitions) => {
                    for (topic, partition) in &partitions {
                        tracing::info!(
                            topic,
                            partition,
                            "another copy claimed this partition; its records are dropped"
                        );
                        self.claims.give_up(topic, *partition);
                        self.claims.fenced(topic, *partition);
                    }
                    items.retain(|item| match &item.origin {
                        Origin::Record { record, .. } => {
                            self.claims.holds(&record.topic, record.partition, record.epoch)
                        }
                        _ => true,
                    });
                    if items.is_empty() {
                        return Err(GaveUp::Time("another copy claimed the partitions".into()));
                    }
                }
                Failed::Database(error) => match pg::failure(&error, CONTENDED) {
                    pg::Failure::Conflict if conflicts < CONFLICTS_MAX || items.len() == 1 => {
                        conflicts += 1;
                        metrics::counter!(names::COMMIT_RETRIES_TOTAL, "service" => M::NAME).increment(1);
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            conflicts,
                            "a batch is decided again"
                        );
                        let pause = Duration::from_millis(u64::from(conflicts.min(10))).mul_f64(rand::random());
                        tokio::time::sleep(pause).await;
                    }
                    pg::Failure::Conflict | pg::Failure::Data | pg::Failure::Other => {
                        return Err(GaveUp::Data(chain(&error)));
                    }
                    pg::Failure::Connection => wait = self.pause(&chain(&error), wait, until, shutdown).await?,
                },
                Failed::Pool(error) => wait = self.pause(&chain(&error), wait, until, shutdown).await?,
            }
        }
    }

    /// Waits before the next attempt while the database is away.
    async fn pause(
        &self,
        reason: &str,
        wait: Duration,
        until: Option<Instant>,
        shutdown: &CancellationToken,
    ) -> Result<Duration, GaveUp> {
        tracing::warn!(error = reason, "the database cannot be used now; trying again");
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

    fn count(&self, items: &[Item<M>], results: &[Settled<M>]) {
        let duplicates = results
            .iter()
            .filter(|settled| matches!(settled, Settled::Duplicate))
            .count();
        metrics::counter!(names::CONSUMER_RECORDS_TOTAL, "consumer" => M::NAME).increment(items.len() as u64);
        if duplicates > 0 {
            metrics::counter!(names::INBOX_DUPLICATES_TOTAL, "consumer" => M::NAME).increment(duplicates as u64);
        }
        for (item, settled) in items.iter().zip(results) {
            let Settled::SetAside(Some(failure)) = settled else {
                continue;
            };
            let (record, envelope) = match &item.origin {
                Origin::Record { record, envelope } => (record, envelope.as_ref()),
                Origin::Head(parked) => (&parked.head.record, Some(&parked.envelope)),
                Origin::Asked => continue,
            };
            tracing::warn!(
                topic = &*record.topic,
                partition = record.partition,
                offset = record.offset,
                event.id = envelope.map(|envelope| envelope.id.to_string()),
                event.type = envelope.map(|envelope| &*envelope.event_type),
                correlation.id = envelope.map(|envelope| envelope.correlation_id.to_string()),
                disposition = failure.disposition.as_str(),
                error = failure.message,
                "a record could not be handled"
            );
            if failure.disposition != Disposition::Retry {
                metrics::counter!(
                    names::DEAD_LETTERS_TOTAL,
                    "consumer" => M::NAME,
                    "reason" => failure.disposition.as_str()
                )
                .increment(1);
                self.relay.dead_letters_waiting();
            }
        }
    }
}

/// Why a batch will not be committed as it is.
enum GaveUp {
    Data(String),
    Time(String),
}

fn anonymous_cause() -> Cause {
    let id = uuid::Uuid::now_v7();
    Cause {
        id,
        correlation_id: id,
        at: Timestamp::now(),
        traceparent: None,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
