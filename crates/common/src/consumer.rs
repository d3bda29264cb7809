//! The Kafka side of a consumer: one thread that polls, claims partitions, and feeds the committer.
//!
//! ```text
//!  librdkafka ─► poll thread ── bounded by count and bytes ──► committer ─► offsets in Postgres
//!        ▲            │  assign: claim in the database, read from its offset
//!        └── pause ───┘  revoke: wait for the open batch, commit what is committed
//! ```
//!
//! The offset that counts is the database's; the group's committed offset is a courtesy to tools. The thread never stops
//! polling: a full queue pauses the partitions, so that a slow database does not cost the membership.

mod assignment;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::claims::Claims;
use crate::committer::RECORDS_QUEUED_MAX;
use crate::inbox;
use crate::kafka;
use crate::record::Record;

use assignment::{Context, commit_group};

/// Bytes of records that may wait for the committer.
pub const RECORD_BYTES_QUEUED_MAX: usize = 64 * 1024 * 1024;
/// How long one poll waits for a record.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long a full queue is waited for before the partitions are paused.
const QUEUE_WAIT: Duration = Duration::from_millis(500);
/// How often the group's offsets follow the database's.
const GROUP_COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a revocation waits for the open batch. The epoch fences it if that is not enough.
const REVOKE_WAIT: Duration = Duration::from_secs(5);
/// How often a partition that was claimed away is looked at again.
const LOST_INTERVAL: Duration = Duration::from_millis(500);
/// The session timeout of the group, unless the settings say otherwise.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often trouble that may pass is told.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(30);
/// How long one request to the broker may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a consumer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be made, or the broker refuses it for good.
    #[error("the Kafka consumer of group {group} failed")]
    Kafka {
        /// The consumer group.
        group: String,
        /// librdkafka's words.
        #[source]
        source: KafkaError,
    },
    /// The group's committed offset is further than the database's: the database was restored or is another one.
    #[error(
        "group {group} has committed offset {committed} of {topic}/{partition}, but this database has only seen records \
         up to {ours}: it was restored from a backup, or it is the wrong one. Connect the right one. If it is the \
         right one, its offset is the one that counts: `rondo offsets reset --group {group} --all-topics --to-current \
         --execute` says so, and the group follows it"
    )]
    GroupAhead {
        /// The consumer group.
        group: String,
        /// The topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// The group's offset.
        committed: i64,
        /// The database's next offset, 0 if it has none.
        ours: i64,
    },
    /// The log no longer has the offset at which the database goes on.
    #[error(
        "{topic} no longer has the record at which group {group} goes on: the log was cut or created anew. \
         Nothing was skipped. Say where to go on by `rondo offsets reset --group {group} --topic TOPIC --to-earliest \
         --execute`, or another target; what took effect before will not do so again"
    )]
    OutOfRange {
        /// The consumer group.
        group: String,
        /// The topic, and partition if known.
        topic: String,
    },
}

/// What a consumer reads and how.
#[derive(Clone)]
pub struct Settings {
    /// The consumer's name.
    pub consumer: &'static str,
    /// Its group: the name, with the namespace before it.
    pub group: String,
    /// With namespace.
    pub topics: Vec<String>,
    /// How to reach the brokers.
    pub kafka: kafka::Settings,
}

/// Reads `settings.topics` into a queue until `shutdown`. Ends early only with an [`Error`] that a person must see.
///
/// # Errors
/// See [`Error`].
pub async fn run(
    settings: Settings,
    pool: Pool,
    claims: Arc<Claims>,
    queue: mpsc::Sender<Record>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (fatal, mut failed) = mpsc::unbounded_channel();
    let stop = shutdown.child_token();
    let group = settings.group.clone();
    let context = Context {
        settings: settings.clone(),
        pool,
        claims: claims.clone(),
        runtime: Handle::current(),
        stop: stop.clone(),
        fatal,
    };
    let thread_stop = stop.clone();
    let mut thread =
        tokio::task::spawn_blocking(move || Poller::new(&settings, context, claims, queue)?.run(&thread_stop));
    let outcome = tokio::select! {
        ended = &mut thread => return ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
        Some(error) = failed.recv() => Err(error),
    };
    stop.cancel();
    if let Ok(Err(error)) = thread.await {
        tracing::warn!(
            group,
            error = &error as &dyn std::error::Error,
            "the consumer stopped with another error"
        );
    }
    outcome
}

/// A partition that the database says is not ours as we hold it.
struct Lost {
    topic: String,
    partition: i32,
    since: Instant,
    /// Claimed again already; only reading from there has not begun.
    claim: Option<inbox::Claim>,
}

struct Poller {
    consumer: BaseConsumer<Context>,
    group: String,
    topics: HashMap<String, Arc<str>>,
    claims: Arc<Claims>,
    queue: mpsc::Sender<Record>,
    weight: Arc<Semaphore>,
    paused: bool,
    /// Polled, and not yet in the queue: one record, and those that a rebalance brought before they could be paused.
    waiting: VecDeque<Record>,
    /// Claimed away or moved in the database, while the group still has them here.
    lost: Vec<Lost>,
    lost_looked_at: Instant,
    /// After so long without a word from the group nobody is a member by mistake any more.
    membership_certain: Duration,
    complained_at: Option<Instant>,
    group_offsets: HashMap<(String, i32), i64>,
    group_committed_at: Instant,
}

impl Poller {
    fn new(
        settings: &Settings,
        context: Context,
        claims: Arc<Claims>,
        queue: mpsc::Sender<Record>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Kafka {
            group: settings.group.clone(),
            source,
        };
        let mut config = kafka::client_config(&settings.kafka);
        config
            .set("group.id", &settings.group)
            .set("client.id", format!("rondo-{}", settings.consumer))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false");
        for (property, default) in [
            ("fetch.queue.backoff.ms", "10"),
            ("queued.max.messages.kbytes", "16384"),
            // Of each partition. A short record takes a kilobyte more than its key and value, which are all that is counted above.
            ("queued.min.messages", "5000"),
            ("session.timeout.ms", &SESSION_TIMEOUT.as_millis().to_string()),
            // A member hears by its heartbeats alone that another one joins: until then the partitions that move stand still.
            ("heartbeat.interval.ms", "300"),
        ] {
            if !settings.kafka.properties.contains_key(property) {
                config.set(property, default);
            }
        }
        let consumer: BaseConsumer<Context> = config.create_with_context(context).map_err(failed)?;
        let names: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(failed)?;
        Ok(Self {
            consumer,
            group: settings.group.clone(),
            topics: settings
                .topics
                .iter()
                .map(|topic| (topic.clone(), Arc::from(topic.as_str())))
                .collect(),
            claims,
            queue,
            weight: Arc::new(Semaphore::new(RECORD_BYTES_QUEUED_MAX)),
            paused: false,
            waiting: VecDeque::new(),
            lost: Vec::new(),
            lost_looked_at: Instant::now(),
            membership_certain: session_timeout(&settings.kafka) * 2,
            complained_at: None,
            group_offsets: HashMap::new(),
            group_committed_at: Instant::now(),
        })
    }

    fn run(mut self, stop: &CancellationToken) -> Result<(), Error> {
        while !stop.is_cancelled() && !self.queue.is_closed() {
            match self.consumer.poll(POLL_WAIT) {
                None => {}
                Some(Ok(message)) => {
                    let record = self.detach(&message);
                    drop(message);
                    self.waiting.extend(record);
                    self.deliver(stop)?;
                }
                Some(Err(error)) => self.complain(error)?,
            }
            // Only if resuming failed when there was room again.
            self.pause(false);
            self.housekeeping();
        }
        self.claims.wait_idle(REVOKE_WAIT);
        commit_group(&self.consumer, &self.claims, CommitMode::Sync, &mut self.group_offsets);
        self.consumer.unsubscribe();
        Ok(())
    }

    /// The record, unless its partition is not this process's to handle.
    fn detach(&self, message: &BorrowedMessage<'_>) -> Option<Record> {
        let topic = self.topics.get(message.topic())?.clone();
        let epoch = self.claims.epoch(&topic, message.partition())?;
        Some(Record::detach(message, topic, epoch))
    }

    /// Hands what waits to the committer; while the queue is full, keeps the membership alive with paused partitions.
    fn deliver(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let started = Instant::now();
        while let Some(record) = self.waiting.pop_front() {
            if stop.is_cancelled() || self.queue.is_closed() {
                return Ok(());
            }
            let Some(refused) = self.offer(record) else {
                continue;
            };
            self.waiting.push_front(refused);
            if started.elapsed() < QUEUE_WAIT {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            self.pause(true);
            // Serves rebalances and heartbeats. Paused partitions deliver nothing, but those that a rebalance has just
            // brought are not paused.
            match self.consumer.poll(POLL_WAIT) {
                None => {}
                Some(Ok(message)) => {
                    let record = self.detach(&message);
                    drop(message);
                    self.waiting.extend(record);
                    self.set_paused(true);
                }
                Some(Err(error)) => self.complain(error)?,
            }
            self.housekeeping();
        }
        self.pause(false);
        Ok(())
    }

    /// Puts a record into the queue, or gives it back when there is no room.
    fn offer(&self, record: Record) -> Option<Record> {
        let weight = u32::try_from(record.weight().min(RECORD_BYTES_QUEUED_MAX)).expect("the bound fits");
        let Ok(permit) = self.weight.clone().try_acquire_many_owned(weight) else {
            return Some(record);
        };
        let permit = Some(Arc::new(permit));
        match self.queue.try_send(Record { permit, ..record }) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
            Err(mpsc::error::TrySendError::Full(record)) => Some(Record { permit: None, ..record }),
        }
    }

    fn pause(&mut self, pause: bool) {
        if self.paused != pause {
            self.set_paused(pause);
        }
    }

    /// Pauses or resumes whatever is assigned now.
    fn set_paused(&mut self, pause: bool) {
        let changed = self.consumer.assignment().and_then(|partitions| {
            if pause {
                self.consumer.pause(&partitions)
            } else {
                self.consumer.resume(&partitions)
            }
        });
        match changed {
            Ok(()) => {
                self.paused = pause;
                tracing::debug!(
                    group = self.group,
                    pause,
                    queued_max = RECORDS_QUEUED_MAX,
                    "the queue is full or free"
                );
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "pausing failed"),
        }
    }

    fn complain(&mut self, error: KafkaError) -> Result<(), Error> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => Err(Error::OutOfRange {
                group: self.group.clone(),
                topic: error.to_string(),
            }),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Fatal,
            ) => Err(Error::Kafka {
                group: self.group.clone(),
                source: error,
            }),
            _ => {
                // A broker that is away says so many times a second.
                if self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
                    self.complained_at = Some(Instant::now());
                    tracing::warn!(
                        group = self.group,
                        error = &error as &dyn std::error::Error,
                        "the Kafka consumer has trouble and goes on trying"
                    );
                }
                Ok(())
            }
        }
    }

    fn housekeeping(&mut self) {
        for (topic, partition) in self.claims.take_fenced() {
            let known = |lost: &Lost| lost.partition == partition && lost.topic == topic;
            if !self.lost.iter().any(known) {
                self.lost_looked_at = Instant::now() - LOST_INTERVAL;
                self.lost.push(Lost {
                    topic,
                    partition,
                    since: Instant::now(),
                    claim: None,
                });
            }
        }
        if !self.lost.is_empty() && self.lost_looked_at.elapsed() >= LOST_INTERVAL {
            self.lost_looked_at = Instant::now();
            let mut lost = std::mem::take(&mut self.lost);
            lost.retain_mut(|lost| !self.regain(lost));
            self.lost = lost;
        }
        if self.group_committed_at.elapsed() >= GROUP_COMMIT_INTERVAL {
            self.group_committed_at = Instant::now();
            self.follow_resets();
            commit_group(&self.consumer, &self.claims, CommitMode::Async, &mut self.group_offsets);
        }
    }

    /// Claims a partition again that is still assigned here, and reads on from where the database says; `true` when there
    /// is nothing more to do for it.
    ///
    /// At once if its offset was moved on purpose. If another copy claimed it, the group gave it to that copy and this one
    /// has yet to hear so: claiming it back would take it from its owner. Only when a member that lost its place would
    /// long have been told is it claimed all the same, for then whoever took it did so without the group.
    fn regain(&self, lost: &mut Lost) -> bool {
        let (topic, partition) = (lost.topic.as_str(), lost.partition);
        let assignment = self.consumer.assignment();
        let assigned = assignment.is_ok_and(|list| list.find_partition(topic, partition).is_some());
        if !assigned || self.claims.epoch(topic, partition).is_some() {
            return true;
        }
        if lost.claim.is_none() {
            let by_force = lost.since.elapsed() >= self.membership_certain;
            lost.claim = self.consumer.context().claim_again(topic, partition, by_force);
        }
        let Some(claim) = lost.claim else {
            return false;
        };
        let start = claim.next_offset.map_or(Offset::Beginning, Offset::Offset);
        if let Err(error) = self.consumer.seek(topic, partition, start, REQUEST_TIMEOUT) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(topic, partition, error, "seeking failed; trying again");
            return false;
        }
        self.consumer.context().hold(topic, partition, claim);
        tracing::info!(topic, partition, offset = ?start, "the offset was moved; reading on from there");
        true
    }

    /// Lets the group's offsets follow those that were moved on purpose, and takes away the marks of those that have.
    fn follow_resets(&mut self) {
        for reset in self.claims.take_resets() {
            let place = (reset.topic.clone(), reset.partition);
            let mut moved = TopicPartitionList::new();
            let committed = moved
                .add_partition_offset(&reset.topic, reset.partition, Offset::Offset(reset.next_offset))
                .and_then(|()| self.consumer.commit(&moved, CommitMode::Sync));
            match committed {
                Ok(()) if self.consumer.context().settle(&reset) => {
                    self.group_offsets.insert(place, reset.next_offset);
                }
                // The mark stays, and with it the permission to be behind the group.
                Ok(()) => self.claims.took_up(reset),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "the group's offset cannot follow a reset yet");
                    self.claims.took_up(reset);
                }
            }
        }
    }
}

/// How long the group waits for a member that is silent.
fn session_timeout(kafka: &kafka::Settings) -> Duration {
    let given = kafka.properties.get("session.timeout.ms");
    given
        .and_then(|text| text.parse().ok())
        .map_or(SESSION_TIMEOUT, Duration::from_millis)
}
