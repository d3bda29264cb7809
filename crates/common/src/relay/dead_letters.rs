//! The public copy of dead letters: each row goes to `<topic>.<consumer>.dlq` byte for byte, after it was committed.
//!
//! The row is the truth. A copy that cannot be written now is written later, and holds up neither events nor the dead
//! letters of other topics. Headers are the ones that consoles know from Spring; a record that dies again carries the
//! newest set once.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use deadpool_postgres::{Pool, PoolError};
use futures_util::future::join_all;
use jiff::Timestamp;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio_postgres::Row;

use super::Inner;
use super::outage::{Backoff, Outage};
use super::publisher::producer_config;
use crate::kafka::{self, QuietContext};
use crate::parking::{REDRIVE_CAMPAIGN, REDRIVE_COUNT};
use crate::record::Record;

/// Dead letters in one round of reports.
const PAGE_ROWS: i64 = 50;
/// How often to look without being woken.
const POLL: Duration = Duration::from_secs(30);
/// How long one copy may take; a topic that does not exist takes all of it once.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);
/// A dead letter is its record and more headers, so it must be allowed to be larger.
const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest error message in a header, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Longest whole error in a header, in bytes.
const TRACE_BYTES_MAX: usize = 8 * 1024;

/// Header names. The first group is Spring's.
pub mod names {
    /// UTF-8.
    pub const ORIGINAL_TOPIC: &str = "kafka_dlt-original-topic";
    /// Big-endian i32.
    pub const ORIGINAL_PARTITION: &str = "kafka_dlt-original-partition";
    /// Big-endian i64.
    pub const ORIGINAL_OFFSET: &str = "kafka_dlt-original-offset";
    /// Milliseconds, big-endian i64.
    pub const ORIGINAL_TIMESTAMP: &str = "kafka_dlt-original-timestamp";
    /// `CreateTime`.
    pub const ORIGINAL_TIMESTAMP_TYPE: &str = "kafka_dlt-original-timestamp-type";
    /// Who could not handle it: the group, with its namespace.
    pub const ORIGINAL_CONSUMER_GROUP: &str = "kafka_dlt-original-consumer-group";
    /// The error's kind.
    pub const EXCEPTION_FQCN: &str = "kafka_dlt-exception-fqcn";
    /// The error, cut.
    pub const EXCEPTION_MESSAGE: &str = "kafka_dlt-exception-message";
    /// The error and its causes, cut later.
    pub const EXCEPTION_STACKTRACE: &str = "kafka_dlt-exception-stacktrace";
    /// The dead letter's number, as `rondo dlq show` takes it.
    pub const ID: &str = "rondo-dlt-id";
    /// `poison`, `business` or `exhausted`.
    pub const DISPOSITION: &str = "rondo-dlt-disposition";
    /// Decimal.
    pub const ATTEMPTS: &str = "rondo-dlt-attempts";
    /// RFC 3339.
    pub const FIRST_FAILED_AT: &str = "rondo-dlt-first-failed-at";
    /// Decimal: how often it was redriven and came back; not there if it never was.
    pub const RETURNS: &str = "rondo-dlt-returns";
    /// W3C trace context of the failed attempt.
    pub const TRACEPARENT: &str = "rondo-dlt-traceparent";
}

/// One row of `dead_letters` on its way out.
struct DeadLetter {
    id: i64,
    consumer: String,
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: Option<Timestamp>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: OwnedHeaders,
    disposition: String,
    error_class: String,
    error: String,
    attempts: i32,
    first_failed_at: Timestamp,
    redrives: i32,
    returns: i32,
    campaign: Option<i64>,
    traceparent: Option<String>,
}

/// Publishes what waits, when it is told to or by and by.
pub(super) async fn keep_publishing(inner: &Inner) -> Infallible {
    let mut rounds = Rounds {
        inner,
        producer: None,
        database: Outage::new(inner.settings.service, "reading dead letters to publish"),
        topics: BTreeMap::new(),
    };
    let mut backoff = Backoff::default();
    loop {
        let pause = match rounds.publish_all().await {
            true => {
                backoff.reset();
                // The client's threads and connections are not kept for what is rare.
                rounds.producer = None;
                POLL
            }
            false => backoff.next(),
        };
        tokio::select! {
            () = inner.signals.dead_letters.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Rounds<'a> {
    inner: &'a Inner,
    producer: Option<FutureProducer<QuietContext>>,
    database: Outage,
    topics: BTreeMap<String, Outage>,
}

impl Rounds<'_> {
    /// Goes once through all that is not published; `false` if some of it must be tried again.
    async fn publish_all(&mut self) -> bool {
        let mut failed_topics = HashSet::new();
        let mut after = 0;
        loop {
            let page = match unpublished(&self.inner.pool, after).await {
                Ok(page) => page,
                Err(error) => {
                    self.database.begins(&error);
                    return false;
                }
            };
            let Some(last) = page.last() else { break };
            after = last.id;
            let page: Vec<DeadLetter> = page
                .into_iter()
                .filter(|letter| !failed_topics.contains(&letter.dlq_topic()))
                .collect();
            let results = self.publish(&page).await;
            let mut published = Vec::new();
            for (letter, result) in page.iter().zip(results) {
                let topic = letter.dlq_topic();
                let outage = self
                    .topics
                    .entry(topic.clone())
                    .or_insert_with(|| Outage::new(self.inner.settings.service, "publishing dead letters"));
                match result {
                    Ok(()) => {
                        outage.is_over();
                        published.push((letter.id, letter.returns));
                    }
                    Err(source) => {
                        outage.begins(&NotPublished {
                            topic: topic.clone(),
                            source,
                        });
                        failed_topics.insert(topic);
                    }
                }
            }
            if let Err(error) = mark_published(&self.inner.pool, &published).await {
                self.database.begins(&error);
                return false;
            }
        }
        self.database.is_over();
        failed_topics.is_empty()
    }

    async fn publish(&mut self, page: &[DeadLetter]) -> Vec<Result<(), KafkaError>> {
        let producer = match &self.producer {
            Some(producer) => producer.clone(),
            None => match new_producer(&self.inner.settings.kafka) {
                Ok(producer) => self.producer.insert(producer).clone(),
                Err(error) => return page.iter().map(|_| Err(error.clone())).collect(),
            },
        };
        let kafka = &self.inner.settings.kafka;
        let sends = page.iter().map(|letter| {
            let producer = producer.clone();
            async move {
                let topic = letter.dlq_topic();
                let mut record: FutureRecord<'_, [u8], [u8]> =
                    FutureRecord::to(&topic).headers(letter.headers(&kafka.named(&letter.consumer)));
                record.key = letter.key.as_deref();
                record.payload = letter.value.as_deref();
                producer
                    .send(record, DELIVERY_TIMEOUT)
                    .await
                    .map(|_| ())
                    .map_err(|(error, _)| error)
            }
        });
        join_all(sends).await
    }
}

#[derive(Debug, thiserror::Error)]
#[error("dead letters stay in the database; {topic} does not take them (`init` creates missing topics)")]
struct NotPublished {
    topic: String,
    #[source]
    source: KafkaError,
}

fn new_producer(settings: &kafka::Settings) -> Result<FutureProducer<QuietContext>, KafkaError> {
    let mut config = producer_config(settings);
    config
        .set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string())
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string());
    config.create_with_context(QuietContext)
}

impl DeadLetter {
    fn dlq_topic(&self) -> String {
        format!("{}.{}.dlq", self.topic, self.consumer)
    }

    /// The record's own headers in their order, without what an earlier death left, and then this death's.
    fn headers(&self, group: &str) -> OwnedHeaders {
        let death = ["kafka_dlt-", "rondo-dlt-", "rondo-redrive-"];
        let own = |name: &str| !death.iter().any(|prefix| name.starts_with(prefix));
        let mut all = OwnedHeaders::new_with_capacity(self.headers.count() + 16);
        for header in self.headers.iter().filter(|header| own(header.key)) {
            all = all.insert(header);
        }
        let mut add = |key: &str, value: &[u8]| {
            let headers = std::mem::take(&mut all);
            all = headers.insert(Header {
                key,
                value: Some(value),
            });
        };
        add(names::ORIGINAL_TOPIC, self.topic.as_bytes());
        add(names::ORIGINAL_PARTITION, &self.partition.to_be_bytes());
        add(names::ORIGINAL_OFFSET, &self.offset.to_be_bytes());
        if let Some(timestamp) = self.timestamp {
            add(names::ORIGINAL_TIMESTAMP, &timestamp.as_millisecond().to_be_bytes());
            add(names::ORIGINAL_TIMESTAMP_TYPE, b"CreateTime");
        }
        add(names::ORIGINAL_CONSUMER_GROUP, group.as_bytes());
        add(
            names::EXCEPTION_FQCN,
            cut(&self.error_class, MESSAGE_BYTES_MAX).as_bytes(),
        );
        add(names::EXCEPTION_MESSAGE, cut(&self.error, MESSAGE_BYTES_MAX).as_bytes());
        add(
            names::EXCEPTION_STACKTRACE,
            cut(&self.error, TRACE_BYTES_MAX).as_bytes(),
        );
        add(names::ID, self.id.to_string().as_bytes());
        add(names::DISPOSITION, self.disposition.as_bytes());
        add(names::ATTEMPTS, self.attempts.to_string().as_bytes());
        add(names::FIRST_FAILED_AT, self.first_failed_at.to_string().as_bytes());
        if let Some(campaign) = self.campaign {
            add(REDRIVE_CAMPAIGN, format!("{}/{campaign}", self.consumer).as_bytes());
            add(REDRIVE_COUNT, self.redrives.to_string().as_bytes());
            add(names::RETURNS, self.returns.to_string().as_bytes());
        }
        if let Some(traceparent) = &self.traceparent {
            add(names::TRACEPARENT, traceparent.as_bytes());
        }
        all
    }
}

/// At most `bytes_max` of `text`, cut between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

async fn unpublished(pool: &Pool, after: i64) -> Result<Vec<DeadLetter>, PoolError> {
    let rows = pool
        .get()
        .await?
        .query(
            "SELECT * FROM dead_letters WHERE published_at IS NULL AND id > $1 ORDER BY id LIMIT $2",
            &[&after, &PAGE_ROWS],
        )
        .await?;
    Ok(rows.iter().map(letter_of).collect())
}

/// Marks these deaths as published: a letter that has died again since, by how often it came back, is not.
async fn mark_published(pool: &Pool, deaths: &[(i64, i32)]) -> Result<(), PoolError> {
    if deaths.is_empty() {
        return Ok(());
    }
    let (ids, returns): (Vec<i64>, Vec<i32>) = deaths.iter().copied().unzip();
    pool.get()
        .await?
        .execute(
            "UPDATE dead_letters d SET published_at = clock_timestamp() FROM unnest($1::bigint[], $2::int[]) AS p (id, returns)
             WHERE d.id = p.id AND d.returns = p.returns",
            &[&ids, &returns],
        )
        .await?;
    Ok(())
}

fn letter_of(row: &Row) -> DeadLetter {
    DeadLetter {
        id: row.get("id"),
        consumer: row.get("consumer"),
        topic: row.get("topic"),
        partition: row.get("partition"),
        offset: row.get("record_offset"),
        timestamp: row.get("record_timestamp"),
        key: row.get("record_key"),
        value: row.get("value"),
        headers: Record::headers_of_columns(
            &row.get::<_, Vec<String>>("header_names"),
            &row.get::<_, Vec<Option<Vec<u8>>>>("header_values"),
        ),
        disposition: row.get("disposition"),
        error_class: row.get("error_class"),
        error: row.get("error"),
        attempts: row.get("attempts"),
        first_failed_at: row.get("first_failed_at"),
        redrives: row.get("redrives"),
        returns: row.get("returns"),
        campaign: row.get("last_campaign"),
        traceparent: row.get("traceparent"),
    }
}
