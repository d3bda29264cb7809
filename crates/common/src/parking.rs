//! Parked keys and dead letters: all SQL of the tables `parked_keys`, `parked` and `dead_letters`.
//!
//! A record that fails parks its *key*: later records of the key queue behind it, other keys go on. Whoever appends,
//! retries or releases first locks the row `(consumer, topic, key)`; taking out the last record and releasing the key
//! are one transaction. A head that became a dead letter keeps its key until somebody decides what becomes of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::event::Envelope;
use crate::record::Record;

/// Longest error text that is kept.
pub const ERROR_LENGTH_MAX: usize = 2_000;

/// What becomes of a record that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It may succeed later: its key is parked and it is tried again.
    Retry,
    /// It cannot be understood, now or ever.
    Poison,
    /// It is understood and refused by the domain.
    Business,
    /// It was tried as often as it may be.
    Exhausted,
}

impl Disposition {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Poison => "poison",
            Self::Business => "business",
            Self::Exhausted => "exhausted",
        }
    }
}

/// Why a record failed and what becomes of it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// A short stable name of the kind of error, for filters.
    pub class: &'static str,
    /// The chain of causes, for people.
    pub message: String,
    /// What becomes of the record.
    pub disposition: Disposition,
}

impl Failure {
    /// A failure from an error and all its sources.
    pub fn new(class: &'static str, disposition: Disposition, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self {
            class,
            message: cut(message),
            disposition,
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > ERROR_LENGTH_MAX {
        let end = text.floor_char_boundary(ERROR_LENGTH_MAX);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// How often and when a parked head is tried again.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub attempts_max: i32,
    /// Upper bound of the first wait.
    pub first_wait: Duration,
    /// Upper bound of any wait.
    pub wait_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 6,
            first_wait: Duration::from_millis(500),
            wait_max: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// The wait after `attempts` failed ones: exponential with full jitter.
    pub fn wait(&self, attempts: i32) -> Duration {
        let exponent = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(20);
        let bound = self.first_wait.saturating_mul(1 << exponent).min(self.wait_max);
        bound.mul_f64(rand::random::<f64>())
    }
}

/// A record to be set aside in this transaction.
#[derive(Clone, Debug)]
pub struct SetAside<'a> {
    /// The record itself.
    pub record: &'a Record,
    /// Its envelope; without one it parks no key.
    pub envelope: Option<&'a Envelope>,
    /// Why; `None` for a record that only queues behind a parked one.
    pub failure: Option<&'a Failure>,
    /// Attempts so far, this one included.
    pub attempts: i32,
    /// When the first one failed.
    pub first_failed_at: Timestamp,
    /// When a retryable head is tried again.
    pub next_attempt_at: Timestamp,
}

/// The head of a parked key, to be tried again.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its row.
    pub seq: i64,
    /// The parked key.
    pub key: String,
    /// The record as it came.
    pub record: Record,
    /// Attempts so far.
    pub attempts: i32,
    /// When the first one failed.
    pub first_failed_at: Timestamp,
}

/// Which of these `(topic, key)` are parked. Locks the rows it finds.
///
/// # Errors
/// The database's.
pub async fn parked_among(
    tx: &Transaction<'_>,
    consumer: &str,
    keys: &[(&str, &str)],
) -> Result<HashSet<(String, String)>, Error> {
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    let (topics, names): (Vec<&str>, Vec<&str>) = keys.iter().copied().unzip();
    let statement = tx
        .prepare_cached(
            "SELECT topic, key FROM parked_keys
             WHERE consumer = $1 AND (topic, key) IN (SELECT * FROM unnest($2::text[], $3::text[]))
             ORDER BY topic, key FOR UPDATE",
        )
        .await?;
    let rows = tx.query(&statement, &[&consumer, &topics, &names]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Sets records aside: parks their keys and queues them, or makes them dead letters, or both.
///
/// Rare by nature, so one statement a record.
///
/// # Errors
/// The database's.
pub async fn set_aside(tx: &Transaction<'_>, consumer: &str, records: &[SetAside<'_>]) -> Result<(), Error> {
    for aside in records {
        let dead = aside
            .failure
            .filter(|failure| failure.disposition != Disposition::Retry);
        if let Some(failure) = dead {
            bury(tx, consumer, aside, failure).await?;
        }
        if let Some(envelope) = aside.envelope {
            park(tx, consumer, aside, envelope, dead.is_some()).await?;
        }
    }
    Ok(())
}

async fn park(
    tx: &Transaction<'_>,
    consumer: &str,
    aside: &SetAside<'_>,
    envelope: &Envelope,
    dead: bool,
) -> Result<(), Error> {
    let record = aside.record;
    let key = &*envelope.subject;
    if aside.failure.is_some() {
        tx.execute(
            "INSERT INTO parked_keys (consumer, topic, key, state, attempts, next_attempt_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (consumer, topic, key) DO UPDATE
             SET state = EXCLUDED.state, attempts = EXCLUDED.attempts, next_attempt_at = EXCLUDED.next_attempt_at",
            &[
                &consumer,
                &&*record.topic,
                &key,
                &i16::from(dead),
                &aside.attempts,
                &aside.next_attempt_at,
            ],
        )
        .await?;
    }
    let (names, values) = record.header_columns();
    tx.execute(
        "INSERT INTO parked (consumer, topic, key, partition, record_offset, record_timestamp, record_key, value,
                             header_names, header_values, event_id, event_type, stream_version, parked_at, error)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         ON CONFLICT (consumer, event_id) DO UPDATE SET error = EXCLUDED.error",
        &[
            &consumer,
            &&*record.topic,
            &key,
            &record.partition,
            &record.offset,
            &record.timestamp,
            &record.key.as_deref(),
            &record.value.as_deref(),
            &names,
            &values,
            &envelope.id,
            &&*envelope.event_type,
            &envelope.stream_version,
            &aside.first_failed_at,
            &aside.failure.map(|failure| &*failure.message),
        ],
    )
    .await?;
    Ok(())
}

async fn bury(tx: &Transaction<'_>, consumer: &str, aside: &SetAside<'_>, failure: &Failure) -> Result<(), Error> {
    let record = aside.record;
    let (names, values) = record.header_columns();
    tx.execute(
        "INSERT INTO dead_letters (consumer, topic, partition, record_offset, record_timestamp, record_key, value,
                                   header_names, header_values, key, event_id, event_type, disposition, error_class,
                                   error, attempts, first_failed_at, traceparent)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ON CONFLICT (consumer, topic, partition, record_offset) DO NOTHING",
        &[
            &consumer,
            &&*record.topic,
            &record.partition,
            &record.offset,
            &record.timestamp,
            &record.key.as_deref(),
            &record.value.as_deref(),
            &names,
            &values,
            &aside.envelope.map(|envelope| &*envelope.subject),
            &aside.envelope.map(|envelope| envelope.id),
            &aside.envelope.map(|envelope| &*envelope.event_type),
            &failure.disposition.as_str(),
            &failure.class,
            &failure.message,
            &aside.attempts,
            &aside.first_failed_at,
            &aside.envelope.and_then(|envelope| envelope.traceparent.as_deref()),
        ],
    )
    .await?;
    Ok(())
}

/// Claims up to `limit` keys whose head is due for another attempt, and reads those heads: another copy, or this one
/// after a crash, takes them up when nothing came of it within `lease`.
///
/// # Errors
/// The database's.
pub async fn claim_due(
    client: &impl GenericClient,
    consumer: &str,
    limit: i64,
    lease: Duration,
) -> Result<Vec<Head>, Error> {
    let rows = client
        .query(
            "WITH due AS (
                 SELECT consumer, topic, key FROM parked_keys
                 WHERE consumer = $1 AND state = 0 AND next_attempt_at <= now()
                 ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED),
             claimed AS (
                 UPDATE parked_keys k SET next_attempt_at = now() + $3::double precision * interval '1 second'
                 FROM due WHERE (k.consumer, k.topic, k.key) = (due.consumer, due.topic, due.key)
                 RETURNING k.consumer, k.topic, k.key, k.attempts)
             SELECT head.*, claimed.attempts AS key_attempts FROM claimed CROSS JOIN LATERAL (
                 SELECT * FROM parked p WHERE (p.consumer, p.topic, p.key) = (claimed.consumer, claimed.topic, claimed.key)
                 ORDER BY stream_version, seq LIMIT 1) AS head",
            &[&consumer, &limit, &lease.as_secs_f64()],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Head {
            seq: row.get("seq"),
            key: row.get("key"),
            record: record_of(row),
            attempts: row.get("key_attempts"),
            first_failed_at: row.get("parked_at"),
        })
        .collect())
}

/// Locks a head's key; whether the key is still to be retried and this record is still its head.
///
/// # Errors
/// The database's.
pub async fn confirm_head(tx: &Transaction<'_>, consumer: &str, head: &Head) -> Result<bool, Error> {
    let topic = &*head.record.topic;
    let locked = tx
        .execute(
            "SELECT FROM parked_keys WHERE consumer = $1 AND topic = $2 AND key = $3 AND state = 0 FOR UPDATE",
            &[&consumer, &topic, &head.key],
        )
        .await?;
    if locked == 0 {
        return Ok(false);
    }
    let first = tx
        .query_opt(
            "SELECT seq FROM parked WHERE consumer = $1 AND topic = $2 AND key = $3
             ORDER BY stream_version, seq LIMIT 1",
            &[&consumer, &topic, &head.key],
        )
        .await?;
    Ok(first.is_some_and(|row| row.get::<_, i64>(0) == head.seq))
}

/// Takes a handled head out of its queue; the key is released with its last record, else the next head is due at once.
///
/// # Errors
/// The database's.
pub async fn release_head(tx: &Transaction<'_>, consumer: &str, head: &Head) -> Result<(), Error> {
    let topic = &*head.record.topic;
    tx.execute("DELETE FROM parked WHERE seq = $1", &[&head.seq]).await?;
    let released = tx
        .execute(
            "DELETE FROM parked_keys WHERE consumer = $1 AND topic = $2 AND key = $3
               AND NOT EXISTS (SELECT FROM parked WHERE consumer = $1 AND topic = $2 AND key = $3)",
            &[&consumer, &topic, &head.key],
        )
        .await?;
    if released == 0 {
        tx.execute(
            "UPDATE parked_keys SET attempts = 0, next_attempt_at = now()
             WHERE consumer = $1 AND topic = $2 AND key = $3",
            &[&consumer, &topic, &head.key],
        )
        .await?;
    }
    Ok(())
}

/// How many keys are parked and how many records wait in all.
///
/// # Errors
/// The database's.
pub async fn depth(client: &impl GenericClient, consumer: &str) -> Result<(i64, i64), Error> {
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM parked_keys WHERE consumer = $1),
                    (SELECT count(*) FROM parked WHERE consumer = $1)",
            &[&consumer],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

fn record_of(row: &Row) -> Record {
    let names: Vec<String> = row.get("header_names");
    let values: Vec<Option<Vec<u8>>> = row.get("header_values");
    Record {
        topic: Arc::from(row.get::<_, String>("topic")),
        partition: row.get("partition"),
        offset: row.get("record_offset"),
        timestamp: row.get("record_timestamp"),
        key: row.get::<_, Option<Vec<u8>>>("record_key").map(Bytes::from),
        value: row.get::<_, Option<Vec<u8>>>("value").map(Bytes::from),
        headers: Some(Record::headers_of_columns(&names, &values)),
        epoch: 0,
        permit: None,
    }
}

/// A dead letter as people see it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its row.
    pub id: i64,
    /// Who could not handle it.
    pub consumer: String,
    /// The record, byte for byte.
    pub record: Record,
    /// The key that it parks, if any.
    pub key: Option<String>,
    /// From its envelope, if it has one.
    pub event_id: Option<Uuid>,
    /// From its envelope, if it has one.
    pub event_type: Option<String>,
    /// See [`Disposition`].
    pub disposition: String,
    /// Short name of the error's kind.
    pub error_class: String,
    /// The error for people.
    pub error: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it failed first.
    pub first_failed_at: Timestamp,
    /// When it was given up.
    pub dead_at: Timestamp,
    /// `dead`, or what was decided about it since.
    pub status: String,
    /// When its copy was acknowledged on the dead-letter topic.
    pub published_at: Option<Timestamp>,
    /// How many records wait behind its key.
    pub waiting: i64,
}

/// Dead letters with an id below `before`, newest first.
///
/// # Errors
/// The database's.
pub async fn dead_letters(client: &impl GenericClient, before: i64, limit: i64) -> Result<Vec<DeadLetter>, Error> {
    let rows = client
        .query(
            &format!("{DEAD_LETTER} WHERE d.id < $1 ORDER BY d.id DESC LIMIT $2"),
            &[&before, &limit],
        )
        .await?;
    Ok(rows.iter().map(dead_letter_of).collect())
}

/// One dead letter.
///
/// # Errors
/// The database's.
pub async fn dead_letter(client: &impl GenericClient, id: i64) -> Result<Option<DeadLetter>, Error> {
    let row = client
        .query_opt(&format!("{DEAD_LETTER} WHERE d.id = $1"), &[&id])
        .await?;
    Ok(row.as_ref().map(dead_letter_of))
}

/// The dead letters of the key `key`, whoever could not handle them, oldest first.
///
/// # Errors
/// The database's.
pub async fn dead_letters_of(client: &impl GenericClient, key: &str) -> Result<Vec<DeadLetter>, Error> {
    let rows = client
        .query(&format!("{DEAD_LETTER} WHERE d.key = $1 ORDER BY d.id"), &[&key])
        .await?;
    Ok(rows.iter().map(dead_letter_of).collect())
}

/// How many dead letters nobody has decided about.
///
/// # Errors
/// The database's.
pub async fn undecided(client: &impl GenericClient) -> Result<i64, Error> {
    let row = client
        .query_one("SELECT count(*) FROM dead_letters WHERE status = 'dead'", &[])
        .await?;
    Ok(row.get(0))
}

/// A key that waits, as people see it.
#[derive(Clone, Debug)]
pub struct ParkedKey {
    /// Whose head failed.
    pub consumer: String,
    /// Of which topic, with namespace.
    pub topic: String,
    /// The key.
    pub key: String,
    /// Whether its head is a dead letter, so that it waits for a person; else it is tried again.
    pub dead: bool,
    /// Attempts so far.
    pub attempts: i32,
    /// When the head is tried again, unless it is dead.
    pub next_attempt_at: Timestamp,
    /// Since when it waits.
    pub since: Timestamp,
    /// How many records wait, the head included.
    pub waiting: i64,
    /// What went wrong with the head, for people.
    pub error: Option<String>,
}

/// Up to `limit` parked keys, longest waiting first; only `key`, if one is given.
///
/// # Errors
/// The database's.
pub async fn parked_keys(client: &impl GenericClient, key: Option<&str>, limit: i64) -> Result<Vec<ParkedKey>, Error> {
    let rows = client
        .query(
            "SELECT k.*, (SELECT count(*) FROM parked p
                          WHERE (p.consumer, p.topic, p.key) = (k.consumer, k.topic, k.key)) AS waiting,
                    (SELECT error FROM parked p WHERE (p.consumer, p.topic, p.key) = (k.consumer, k.topic, k.key)
                     ORDER BY stream_version, seq LIMIT 1) AS error
             FROM parked_keys k WHERE $1::text IS NULL OR k.key = $1 ORDER BY k.since, k.key LIMIT $2",
            &[&key, &limit],
        )
        .await?;
    let parked = |row: &Row| ParkedKey {
        consumer: row.get("consumer"),
        topic: row.get("topic"),
        key: row.get("key"),
        dead: row.get::<_, i16>("state") != 0,
        attempts: row.get("attempts"),
        next_attempt_at: row.get("next_attempt_at"),
        since: row.get("since"),
        waiting: row.get("waiting"),
        error: row.get("error"),
    };
    Ok(rows.iter().map(parked).collect())
}

/// One record of a parked key's queue.
#[derive(Clone, Debug)]
pub struct Queued {
    /// From its envelope.
    pub event_id: Uuid,
    /// From its envelope.
    pub event_type: String,
    /// From its envelope.
    pub stream_version: i64,
    /// Of the topic.
    pub partition: i32,
    /// In the partition.
    pub offset: i64,
    /// When it was set aside.
    pub parked_at: Timestamp,
}

/// Up to `limit` records of a parked key, in the order in which they are handled.
///
/// # Errors
/// The database's.
pub async fn queue(
    client: &impl GenericClient,
    consumer: &str,
    topic: &str,
    key: &str,
    limit: i64,
) -> Result<Vec<Queued>, Error> {
    let rows = client
        .query(
            "SELECT event_id, event_type, stream_version, partition, record_offset, parked_at FROM parked
             WHERE consumer = $1 AND topic = $2 AND key = $3 ORDER BY stream_version, seq LIMIT $4",
            &[&consumer, &topic, &key, &limit],
        )
        .await?;
    let queued = |row: &Row| Queued {
        event_id: row.get("event_id"),
        event_type: row.get("event_type"),
        stream_version: row.get("stream_version"),
        partition: row.get("partition"),
        offset: row.get("record_offset"),
        parked_at: row.get("parked_at"),
    };
    Ok(rows.iter().map(queued).collect())
}

const DEAD_LETTER: &str = "SELECT d.*, (SELECT count(*) FROM parked p
     WHERE p.consumer = d.consumer AND p.topic = d.topic AND p.key = d.key AND p.event_id <> d.event_id) AS waiting
     FROM dead_letters d";

fn dead_letter_of(row: &Row) -> DeadLetter {
    DeadLetter {
        id: row.get("id"),
        consumer: row.get("consumer"),
        record: record_of(row),
        key: row.get("key"),
        event_id: row.get("event_id"),
        event_type: row.get("event_type"),
        disposition: row.get("disposition"),
        error_class: row.get("error_class"),
        error: row.get("error"),
        attempts: row.get("attempts"),
        first_failed_at: row.get("first_failed_at"),
        dead_at: row.get("dead_at"),
        status: row.get("status"),
        published_at: row.get("published_at"),
        waiting: row.get("waiting"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_grows_with_the_attempts_and_never_passes_its_bound() {
        let policy = RetryPolicy::default();
        for attempts in 0..100 {
            let bound = policy
                .first_wait
                .saturating_mul(1u32 << (attempts.clamp(1, 21) - 1))
                .min(policy.wait_max);
            assert!(policy.wait(attempts) <= bound, "after {attempts} attempts");
        }
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let text = cut("ä".repeat(ERROR_LENGTH_MAX));
        assert!(text.ends_with('…') && text.len() <= ERROR_LENGTH_MAX + '…'.len_utf8());
    }
}
