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

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use rdkafka::Message as _;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::claims::Claims;
use crate::committer::RECORDS_QUEUED_MAX;
use crate::inbox;
use crate::kafka;
use crate::record::Record;

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
         up to {ours}: it was restored from a backup, or it is the wrong one. Restore the database, or move both with \
         `rondo offsets reset`"
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
         Nothing was skipped; `rondo offsets reset` decides where to go on"
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

struct Context {
    settings: Settings,
    pool: Pool,
    claims: Arc<Claims>,
    runtime: Handle,
    shutdown: CancellationToken,
    fatal: mpsc::UnboundedSender<Error>,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            reason,
            "the Kafka client reports"
        );
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let result = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, partitions),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoke(consumer, partitions),
            _ => Ok(()),
        };
        if let Err(error) = result {
            let group = self.settings.group.clone();
            tracing::error!(group, error = &error as &dyn std::error::Error, "a rebalance failed");
            let _ = self.fatal.send(Error::Kafka { group, source: error });
        }
    }
}

impl Context {
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
        let committed = consumer
            .committed_offsets(partitions.clone(), REQUEST_TIMEOUT)
            .unwrap_or_else(|error| {
                // Only a check rests on it; the database knows where to go on.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the group's offsets cannot be read"
                );
                TopicPartitionList::new()
            });
        let mut starts = TopicPartitionList::with_capacity(partitions.count());
        for element in partitions.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let Some(claim) = self.claim(topic, partition) else {
                return Ok(());
            };
            let ours = claim.next_offset.unwrap_or(0);
            let group = committed
                .find_partition(topic, partition)
                .map(|element| element.offset());
            if let Some(Offset::Offset(theirs)) = group
                && theirs > ours
            {
                let _ = self.fatal.send(Error::GroupAhead {
                    group: self.settings.group.clone(),
                    topic: topic.to_owned(),
                    partition,
                    committed: theirs,
                    ours,
                });
                return Ok(());
            }
            self.claims.hold(topic, partition, claim.epoch);
            starts.add_partition_offset(
                topic,
                partition,
                claim.next_offset.map_or(Offset::Beginning, Offset::Offset),
            )?;
        }
        tracing::debug!(
            group = self.settings.group,
            partitions = starts.count(),
            "partitions assigned"
        );
        consumer.incremental_assign(&starts)
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
        let idle = self.claims.wait_idle(REVOKE_WAIT);
        if !idle {
            tracing::warn!("the open batch did not end in time; its epoch fences it");
        }
        commit_group(consumer, &self.claims, CommitMode::Sync, &mut HashMap::new());
        for element in partitions.elements() {
            self.claims.give_up(element.topic(), element.partition());
        }
        tracing::debug!(
            group = self.settings.group,
            partitions = partitions.count(),
            "partitions revoked"
        );
        consumer.incremental_unassign(partitions)
    }

    /// Claims a partition, as often as it takes; `None` on shutdown.
    fn claim(&self, topic: &str, partition: i32) -> Option<inbox::Claim> {
        self.runtime.block_on(async {
            loop {
                let claimed = async {
                    let client = self.pool.get().await.map_err(|error| error.to_string())?;
                    let consumer = self.settings.consumer;
                    inbox::claim(&client, consumer, topic, partition)
                        .await
                        .map_err(|error| error.to_string())
                };
                match claimed.await {
                    Ok(claim) => return Some(claim),
                    Err(error) => tracing::warn!(error, topic, partition, "a partition cannot be claimed yet"),
                }
                tokio::select! {
                    () = self.shutdown.cancelled() => return None,
                    () = tokio::time::sleep(QUEUE_WAIT) => {}
                }
            }
        })
    }
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
    let group = settings.group.clone();
    let context = Context {
        settings: settings.clone(),
        pool,
        claims: claims.clone(),
        runtime: Handle::current(),
        shutdown: shutdown.clone(),
        fatal,
    };
    let stop = shutdown.child_token();
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

struct Poller {
    consumer: BaseConsumer<Context>,
    group: String,
    topics: HashMap<String, Arc<str>>,
    claims: Arc<Claims>,
    queue: mpsc::Sender<Record>,
    weight: Arc<Semaphore>,
    paused: bool,
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
            ("fetch.wait.max.ms", "10"),
            ("fetch.queue.backoff.ms", "10"),
            ("queued.max.messages.kbytes", "16384"),
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "2000"),
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
            group_offsets: HashMap::new(),
            group_committed_at: Instant::now(),
        })
    }

    fn run(mut self, stop: &CancellationToken) -> Result<(), Error> {
        while !stop.is_cancelled() && !self.queue.is_closed() {
            match self.consumer.poll(POLL_WAIT) {
                None => {}
                Some(Ok(message)) => {
                    let Some(topic) = self.topics.get(message.topic()).cloned() else {
                        continue;
                    };
                    if let Some(epoch) = self.claims.epoch(&topic, message.partition()) {
                        let record = Record::detach(&message, topic, epoch);
                        drop(message);
                        self.deliver(record, stop);
                    }
                }
                Some(Err(error)) => self.complain(error)?,
            }
            self.housekeeping();
        }
        self.claims.wait_idle(REVOKE_WAIT);
        commit_group(&self.consumer, &self.claims, CommitMode::Sync, &mut self.group_offsets);
        self.consumer.unsubscribe();
        Ok(())
    }

    /// Hands a record to the committer; while the queue is full, keeps the membership alive with paused partitions.
    fn deliver(&mut self, record: Record, stop: &CancellationToken) {
        let weight = u32::try_from(record.weight().min(RECORD_BYTES_QUEUED_MAX)).expect("the bound fits");
        let started = Instant::now();
        let mut record = Some(record);
        while let Some(waiting) = record.take() {
            if stop.is_cancelled() || self.queue.is_closed() {
                return;
            }
            record = match self.weight.clone().try_acquire_many_owned(weight) {
                Ok(permit) => match self.queue.try_send(Record {
                    permit: Some(Arc::new(permit)),
                    ..waiting
                }) {
                    Ok(()) => None,
                    Err(mpsc::error::TrySendError::Full(record)) => Some(Record { permit: None, ..record }),
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                },
                Err(_) => Some(waiting),
            };
            if record.is_none() {
                break;
            }
            if started.elapsed() < QUEUE_WAIT {
                std::thread::sleep(Duration::from_millis(1));
            } else {
                self.pause(true);
                // Serves rebalances and heartbeats; paused partitions deliver nothing.
                if let Some(Err(error)) = self.consumer.poll(POLL_WAIT) {
                    tracing::debug!(error = &error as &dyn std::error::Error, "while paused");
                }
                self.housekeeping();
            }
        }
        self.pause(false);
    }

    fn pause(&mut self, pause: bool) {
        if self.paused == pause {
            return;
        }
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

    fn complain(&self, error: KafkaError) -> Result<(), Error> {
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
                tracing::debug!(group = self.group, error = &error as &dyn std::error::Error, "polling");
                Ok(())
            }
        }
    }

    fn housekeeping(&mut self) {
        for (topic, partition) in self.claims.take_fenced() {
            self.reclaim(&topic, partition);
        }
        if self.group_committed_at.elapsed() >= GROUP_COMMIT_INTERVAL {
            self.group_committed_at = Instant::now();
            commit_group(&self.consumer, &self.claims, CommitMode::Async, &mut self.group_offsets);
        }
    }

    /// A partition was claimed away in the database. If it is still assigned here, somebody reset its offset: read on
    /// from there.
    fn reclaim(&self, topic: &str, partition: i32) {
        let assigned = self
            .consumer
            .assignment()
            .is_ok_and(|list| list.find_partition(topic, partition).is_some());
        if !assigned {
            return;
        }
        let Some(claim) = self.consumer.context().claim(topic, partition) else {
            return;
        };
        self.claims.hold(topic, partition, claim.epoch);
        let start = claim.next_offset.map_or(Offset::Beginning, Offset::Offset);
        match self.consumer.seek(topic, partition, start, REQUEST_TIMEOUT) {
            Ok(()) => tracing::info!(topic, partition, offset = ?start, "the offset was moved; reading on from there"),
            Err(error) => {
                tracing::warn!(
                    topic,
                    partition,
                    error = &error as &dyn std::error::Error,
                    "seeking failed; trying again"
                );
                self.claims.give_up(topic, partition);
                self.claims.fenced(topic, partition);
            }
        }
    }
}

/// Lets the group's offsets follow the database's.
fn commit_group(
    consumer: &BaseConsumer<Context>,
    claims: &Claims,
    mode: CommitMode,
    known: &mut HashMap<(String, i32), i64>,
) {
    let mut moved = TopicPartitionList::new();
    for (topic, partition, next_offset) in claims.progress() {
        if known.insert((topic.clone(), partition), next_offset) != Some(next_offset)
            && let Err(error) = moved.add_partition_offset(&topic, partition, Offset::Offset(next_offset))
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "an offset cannot be listed");
        }
    }
    if moved.count() > 0
        && let Err(error) = consumer.commit(&moved, mode)
    {
        // The database's offsets are what counts; the group's will follow with the next commit.
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "the group's offsets cannot be committed now"
        );
        known.clear();
    }
}
