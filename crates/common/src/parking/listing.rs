//! What waits and what is dead, as people and figures see it: reads of the tables of [`parking`](super), no writes.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::selection::{DeadLetter, Filter, dead_letters};

/// Most dead letters of one key that are shown: one parks it, and those before it were decided about.
const LETTERS_OF_KEY_MAX: i64 = 1_000;

/// What waits and what is dead, in numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Keys that wait behind a failed record.
    pub keys: i64,
    /// Records that wait on them.
    pub records: i64,
    /// How long the oldest of those keys has waited; zero if none does.
    pub oldest_key_secs: f64,
    /// Dead letters that nobody has decided about.
    pub undecided: i64,
    /// How long the oldest of them has; zero if there is none.
    pub oldest_undecided_secs: f64,
}

/// What waits and what is dead, in numbers.
///
/// # Errors
/// The database's.
pub async fn figures(client: &impl GenericClient, consumer: &str) -> Result<Figures, Error> {
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM parked WHERE consumer = $1), k.*, d.*
             FROM (SELECT count(*), coalesce(extract(epoch FROM now() - min(since))::float8, 0) FROM parked_keys
                   WHERE consumer = $1) AS k (keys, age),
                  (SELECT count(*), coalesce(extract(epoch FROM now() - min(dead_at))::float8, 0) FROM dead_letters
                   WHERE consumer = $1 AND status = 'dead') AS d (letters, age)",
            &[&consumer],
        )
        .await?;
    Ok(Figures {
        records: row.get(0),
        keys: row.get(1),
        oldest_key_secs: row.get(2),
        undecided: row.get(3),
        oldest_undecided_secs: row.get(4),
    })
}

/// The dead letters of the key `key`, whoever could not handle them, oldest first.
///
/// # Errors
/// The database's.
pub async fn dead_letters_of(client: &impl GenericClient, key: &str) -> Result<Vec<DeadLetter>, Error> {
    let filter = Filter {
        key: Some(key.to_owned()),
        ..Filter::default()
    };
    let mut letters = dead_letters(client, &filter, i64::MAX, LETTERS_OF_KEY_MAX).await?;
    letters.reverse();
    Ok(letters)
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
