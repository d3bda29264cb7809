//! What waits and what is dead, as people and figures see it: reads of the tables of [`parking`](super), no writes.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::record_of;
use crate::record::Record;

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
