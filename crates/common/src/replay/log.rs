//! A topic read once: from given offsets to where each partition ended when it was asked.
//!
//! ```text
//!  spans() ─► what there is to read          thread: poll ─► chunks ─► queue of CHUNKS_QUEUED_MAX ─► Log::next()
//! ```
//!
//! Read with a bare consumer that belongs to no group and commits nothing, so nobody's offsets move. Memory is bounded
//! by the named limits, whatever the length of the log: a reader that is not asked for more stops fetching.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use crate::codec::{HEADER_LENGTH, MAGIC};
use crate::envelope::{self, EnvelopeError};
use crate::event::{Envelope, Recorded, StreamId};
use crate::kafka::{self, QuietContext, Settings, asked};

/// Records of one chunk: enough that handing it over costs nothing beside them.
pub const CHUNK_RECORDS_MAX: usize = 2_000;
/// Chunks that may wait for whoever asked for them.
pub const CHUNKS_QUEUED_MAX: usize = 4;
/// What librdkafka may fetch ahead, in KiB of keys and values.
const FETCH_AHEAD_KIB: u32 = 16 * 1024;
/// And in records of each partition: with its headers and what librdkafka keeps of it, a short record takes a kilobyte more.
const FETCH_AHEAD_RECORDS: u32 = 2_000;
/// What one answer of a broker may bring of one partition, in bytes.
const FETCH_PARTITION_BYTES_MAX: u32 = 1024 * 1024;
/// How long the broker may say nothing while there should be more to read.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for an answer about offsets.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record that is kept.
    Earliest,
    /// With this offset of each partition, or the oldest record after it that is kept.
    Offset(i64),
    /// With the first record of each partition that has this time or a later one.
    Time(Timestamp),
}

/// What is to be read of one partition: offsets from `next` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Of the topic.
    pub partition: i32,
    /// The oldest record that is kept.
    pub first: i64,
    /// The first record to read.
    pub next: i64,
    /// Where the partition ended.
    pub end: i64,
}

impl Span {
    /// How many offsets it holds; records may be fewer.
    pub fn length(&self) -> u64 {
        (self.end - self.next).max(0).cast_unsigned()
    }
}

/// One record of the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Of the topic.
    pub partition: i32,
    /// In the partition.
    pub offset: i64,
    /// What its headers say; `Err` for a record that nobody of ours wrote.
    pub envelope: Result<Envelope, EnvelopeError>,
    /// Its value; empty for a tombstone.
    pub value: Bytes,
}

impl Logged {
    /// The row of the event store that this record was published from, if it is in the wire format and its envelope can be
    /// read. `stream_of` names its stream by event type and key: [`Model::stream_of`](crate::model::Model::stream_of).
    pub fn recorded(self, stream_of: impl FnOnce(&str, &str) -> StreamId) -> Option<Recorded> {
        let envelope = self.envelope.ok()?;
        if self.value.len() < HEADER_LENGTH || self.value[0] != MAGIC {
            return None;
        }
        let schema_id = u32::from_be_bytes([self.value[1], self.value[2], self.value[3], self.value[4]]);
        Some(Recorded {
            stream_id: stream_of(&envelope.event_type, &envelope.subject),
            envelope,
            schema_id,
            payload: self.value,
        })
    }
}

/// Why a log cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker could not be asked.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// Nothing came for too long.
    #[error("the broker says nothing more about {topic}: {why}")]
    Silent {
        /// With namespace.
        topic: String,
        /// librdkafka's last words.
        why: String,
    },
    /// What was to be read is no longer kept.
    #[error("{topic} no longer holds the records that were to be read next; its retention has passed them: begin anew")]
    Gone {
        /// With namespace.
        topic: String,
    },
}

/// What there is to read of `topic`, with namespace, from `start` to where it ends now: a span each partition, in order.
///
/// # Errors
/// The topic does not exist, or the broker did not answer.
pub async fn spans(settings: &Settings, topic: &str, start: Start) -> Result<Vec<Span>, Error> {
    let client = kafka::Client::new(settings)?;
    let ends = client.log_ends(&[topic.to_owned()]).await?;
    let starts = match start {
        Start::Time(at) => offsets_at(settings, topic, ends.iter().map(|end| end.partition).collect(), at).await?,
        Start::Earliest | Start::Offset(_) => HashMap::new(),
    };
    let span = |log: kafka::LogEnd| {
        let next = match start {
            Start::Earliest => log.first,
            Start::Offset(offset) => offset,
            // No record is that young: nothing to read.
            Start::Time(_) => starts.get(&log.partition).copied().unwrap_or(log.end),
        };
        Span {
            partition: log.partition,
            first: log.first,
            next: next.clamp(log.first, log.end.max(log.first)),
            end: log.end,
        }
    };
    Ok(ends.into_iter().map(span).collect())
}

/// The first offset of each partition whose record has the time `at` or a later one; none where there is no such record.
async fn offsets_at(
    settings: &Settings,
    topic: &str,
    partitions: Vec<i32>,
    at: Timestamp,
) -> Result<HashMap<i32, i64>, Error> {
    let topic = topic.to_owned();
    let found = kafka::blocking(settings, move |consumer| {
        let what = || format!("asking for the offsets of {topic} at {at}");
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted
                .add_partition_offset(&topic, partition, Offset::Offset(at.as_millisecond().max(0)))
                .map_err(asked(what))?;
        }
        let found = consumer.offsets_for_times(wanted, ASK_TIMEOUT).map_err(asked(what))?;
        let offset = |element: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        };
        Ok(found.elements().into_iter().filter_map(offset).collect())
    });
    Ok(found.await?)
}

/// What a consumer needs that reads a topic from one offset to another and leaves no trace: it is told of the ends, and fetches as
/// far ahead as keeps its reader busy, and no further.
pub fn reader_config(settings: &Settings, group: &str) -> ClientConfig {
    let mut config = kafka::client_config(settings);
    config
        // librdkafka wants a group's name before it assigns partitions; without a commit the group never exists.
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", FETCH_AHEAD_KIB.to_string())
        .set("queued.min.messages", FETCH_AHEAD_RECORDS.to_string())
        .set("max.partition.fetch.bytes", FETCH_PARTITION_BYTES_MAX.to_string())
        // What is fetched ahead is read in a fraction of the second that librdkafka would pause for when it has enough.
        .set("fetch.queue.backoff.ms", "5");
    config
}

/// A topic being read.
#[derive(Debug)]
pub struct Log {
    chunks: mpsc::Receiver<Result<Vec<Logged>, Error>>,
}

impl Log {
    /// Begins to read `spans` of `topic`, with namespace, on a thread of its own that ends with this value.
    ///
    /// # Errors
    /// The client could not be made.
    pub fn read(settings: &Settings, topic: &str, spans: &[Span]) -> Result<Self, Error> {
        settings.check()?;
        let mut config = reader_config(settings, "rondo-replay");
        // To begin elsewhere than asked would be to lose records and say nothing.
        config.set("auto.offset.reset", "error");
        let consumer: BaseConsumer<QuietContext> =
            config.create_with_context(QuietContext).map_err(kafka::Error::Client)?;
        let open: HashMap<i32, i64> = spans
            .iter()
            .filter(|span| span.next < span.end)
            .map(|span| (span.partition, span.end))
            .collect();
        let mut start = TopicPartitionList::new();
        let what = || format!("reading {topic}");
        for span in spans.iter().filter(|span| open.contains_key(&span.partition)) {
            start
                .add_partition_offset(topic, span.partition, Offset::Offset(span.next))
                .map_err(asked(what))?;
        }
        consumer.assign(&start).map_err(asked(what))?;
        let (sender, chunks) = mpsc::channel(CHUNKS_QUEUED_MAX);
        let reader = Reader {
            topic: topic.to_owned(),
            consumer,
            open,
            sender,
        };
        tokio::task::spawn_blocking(move || reader.run());
        Ok(Self { chunks })
    }

    /// The next records, those of each partition in order; `None` when everything has been read.
    ///
    /// # Errors
    /// See [`Error`]; there is nothing more after one.
    pub async fn next(&mut self) -> Result<Option<Vec<Logged>>, Error> {
        self.chunks.recv().await.transpose()
    }
}

/// The thread that polls.
struct Reader {
    topic: String,
    consumer: BaseConsumer<QuietContext>,
    /// Partitions that are not read to their end, with that end.
    open: HashMap<i32, i64>,
    sender: mpsc::Sender<Result<Vec<Logged>, Error>>,
}

impl Reader {
    fn run(mut self) {
        if let Err(error) = self.read() {
            // Whoever asked has gone: nobody is left to be told.
            let _ = self.sender.blocking_send(Err(error));
        }
    }

    fn read(&mut self) -> Result<(), Error> {
        let mut chunk = Vec::with_capacity(CHUNK_RECORDS_MAX);
        let mut heard = Instant::now();
        let mut trouble = "no reason given".to_owned();
        while !self.open.is_empty() && !self.sender.is_closed() {
            let wait = if chunk.is_empty() { POLL } else { Duration::ZERO };
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    // What was written since is not asked for.
                    let Some(end) = self.open.get(&partition).copied() else {
                        continue;
                    };
                    if offset < end {
                        chunk.push(detach(&message));
                    }
                    drop(message);
                    if offset + 1 >= end {
                        self.close(partition);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    self.open.remove(&partition);
                }
                Some(Err(KafkaError::MessageConsumption(code) | KafkaError::MessageConsumptionFatal(code)))
                    if matches!(
                        code,
                        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
                    ) =>
                {
                    return Err(Error::Gone {
                        topic: self.topic.clone(),
                    });
                }
                // librdkafka tries again by itself; only a silence that lasts is an error.
                Some(Err(error)) => trouble = error.to_string(),
                None if chunk.is_empty() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(Error::Silent {
                            topic: self.topic.clone(),
                            why: trouble,
                        });
                    }
                }
                // Nothing more is at hand: what there is need not wait.
                None => {
                    heard = Instant::now();
                    self.hand_on(&mut chunk);
                }
            }
            if chunk.len() >= CHUNK_RECORDS_MAX {
                heard = Instant::now();
                self.hand_on(&mut chunk);
            }
        }
        self.hand_on(&mut chunk);
        Ok(())
    }

    fn hand_on(&self, chunk: &mut Vec<Logged>) {
        if !chunk.is_empty() {
            let full = std::mem::replace(chunk, Vec::with_capacity(CHUNK_RECORDS_MAX));
            // A receiver that is gone is noticed at the next turn.
            let _ = self.sender.blocking_send(Ok(full));
        }
    }

    /// Nothing more is wanted of `partition`: what is written from now on need not be fetched.
    fn close(&mut self, partition: i32) {
        self.open.remove(&partition);
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        // Fetching in vain is the only cost of a pause that fails.
        let _ = self.consumer.pause(&list);
    }
}

fn detach(message: &BorrowedMessage<'_>) -> Logged {
    Logged {
        partition: message.partition(),
        offset: message.offset(),
        envelope: envelope::from_record(message.headers(), message.key()),
        value: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use testkit::kafka::Raw;

    use super::*;

    async fn settings() -> Settings {
        Settings {
            brokers: testkit::kafka::brokers().await.to_owned(),
            properties: testkit::kafka::properties(),
            namespace: None,
        }
    }

    async fn all(settings: &Settings, topic: &str, spans: &[Span]) -> BTreeMap<i32, Vec<i64>> {
        let mut log = Log::read(settings, topic, spans).unwrap();
        let mut found: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        while let Some(chunk) = log.next().await.unwrap() {
            for record in chunk {
                found.entry(record.partition).or_default().push(record.offset);
            }
        }
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_is_read_from_where_one_asks_to_where_it_ended_and_no_further() {
        let settings = settings().await;
        let topic = format!("{}.log", testkit::namespace());
        testkit::kafka::create_topics(&[&topic], 2).await;
        let raw = |partition| Raw {
            partition: Some(partition),
            value: Some(b"x"),
            ..Raw::default()
        };
        testkit::kafka::produce(&topic, &[raw(0), raw(0), raw(0), raw(1)]).await;
        let earliest = spans(&settings, &topic, Start::Earliest).await.unwrap();
        let later = spans(&settings, &topic, Start::Offset(2)).await.unwrap();
        assert_eq!(later.iter().map(Span::length).collect::<Vec<_>>(), [1, 0]);
        testkit::kafka::produce(&topic, &[raw(0), raw(1)]).await;
        let found = all(&settings, &topic, &earliest).await;
        assert_eq!(found, BTreeMap::from([(0, vec![0, 1, 2]), (1, vec![0])]));
        assert_eq!(all(&settings, &topic, &later).await, BTreeMap::from([(0, vec![2])]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_by_time_leaves_out_what_is_older_and_all_of_what_is_too_young() {
        let settings = settings().await;
        let topic = format!("{}.times", testkit::namespace());
        testkit::kafka::create_topics(&[&topic], 1).await;
        testkit::kafka::produce(&topic, &[Raw::default(), Raw::default()]).await;
        let from = async |at| spans(&settings, &topic, Start::Time(at)).await.unwrap()[0].next;
        assert_eq!(from(Timestamp::UNIX_EPOCH).await, 0);
        let tomorrow = Timestamp::now() + jiff::SignedDuration::from_hours(24);
        // The embedded broker answers with its first offset where it has no later record: more is read than need be.
        let end = if testkit::kafka::is_embedded() { 0 } else { 2 };
        assert_eq!(from(tomorrow).await, end);
    }

    #[test]
    fn a_record_without_the_wire_format_or_an_envelope_is_no_row_of_an_event_store() {
        let logged = |value: &'static [u8]| Logged {
            partition: 0,
            offset: 0,
            envelope: Err(EnvelopeError::Missing("ce_id")),
            value: Bytes::from_static(value),
        };
        assert!(logged(b"\0\0\0\0\x07x").recorded(|_, key| StreamId::new(key)).is_none());
        let mut whole = logged(b"\0\0\0\0\x07x");
        whole.envelope = Ok(Envelope {
            id: uuid::Uuid::nil(),
            event_type: "T".into(),
            source: "s".into(),
            subject: "k".into(),
            occurred_at: Timestamp::UNIX_EPOCH,
            correlation_id: uuid::Uuid::nil(),
            causation_id: uuid::Uuid::nil(),
            traceparent: None,
            stream_version: 1,
            position: 1,
        });
        let recorded = whole.clone().recorded(|_, key| StreamId::of_kind("sku", key)).unwrap();
        assert_eq!((recorded.schema_id, recorded.stream_id.as_str()), (7, "sku:k"));
        whole.value = Bytes::from_static(b"{}");
        assert!(whole.recorded(|_, key| StreamId::new(key)).is_none());
    }
}
