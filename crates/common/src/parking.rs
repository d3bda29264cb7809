//! Parked keys and dead letters: all SQL of the tables `parked_keys`, `parked` and `dead_letters`.
//!
//! A record that fails parks its *key*: later records of the key queue behind it, other keys go on. Whoever appends,
//! retries or releases first locks the row `(consumer, topic, key)`; taking out the last record and releasing the key
//! are one transaction. A head that became a dead letter keeps its key until somebody decides what becomes of it.
//!
//! A key is parked as well when versions of its stream are missing: `parked_keys.missing` says which. They are taken off
//! as they arrive, and queue before what waits for them, for a queue is in order of version.

mod burial;
mod decided;
mod failure;
mod listing;
mod retry;
mod selection;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::event::Envelope;
use crate::record::Record;

pub use burial::died_again;
pub use decided::{Chosen, ORIGINAL, REDRIVE_CAMPAIGN, REDRIVE_COUNT, REDRIVE_OPERATOR, let_go, send_back, settled};
pub use failure::{Disposition, ERROR_LENGTH_MAX, Failure, GAP, chain};
pub use listing::{Figures, ParkedKey, Queued, dead_letters_of, figures, parked_keys, queue, undecided};
pub use retry::{RetryPolicy, Strategy};
pub use selection::{DeadLetter, Filter, dead_letters};

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
    /// The campaign that it is redriven for, and its dead letter.
    pub redriven: Option<Redriven>,
}

/// A dead letter on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// Whose record it is.
    pub campaign: i64,
    /// Its row.
    pub dead_letter: i64,
}

/// Which of these `(topic, key)` are parked. Locks the rows it finds.
///
/// # Errors
/// The database's.
pub async fn parked_among(
    tx: &impl GenericClient,
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

/// Sets records aside: parks their keys and queues them, or makes them dead letters, or both. Of the records of one key
/// at most one has a failure.
///
/// # Errors
/// The database's.
pub async fn set_aside(tx: &impl GenericClient, consumer: &str, records: &[SetAside<'_>]) -> Result<(), Error> {
    burial::bury(tx, consumer, records).await?;
    park_keys(tx, consumer, records).await?;
    queue_up(tx, consumer, records).await
}

/// Headers of many records as two arrays, and where each record's begin and end in them: arrays of arrays would have to
/// be of one length.
#[derive(Default)]
struct HeaderColumns {
    names: Vec<String>,
    values: Vec<Option<Vec<u8>>>,
    firsts: Vec<i32>,
    lasts: Vec<i32>,
}

impl HeaderColumns {
    fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        let mut columns = Self::default();
        for record in records {
            let (names, values) = record.header_columns();
            columns.firsts.push(length(&columns.names) + 1);
            columns.names.extend(names);
            columns.values.extend(values);
            columns.lasts.push(length(&columns.names));
        }
        columns
    }
}

fn length<T>(list: &[T]) -> i32 {
    i32::try_from(list.len()).expect("a batch has far fewer headers")
}

async fn park_keys(tx: &impl GenericClient, consumer: &str, records: &[SetAside<'_>]) -> Result<(), Error> {
    let mut failed: Vec<_> = records
        .iter()
        .filter_map(|aside| Some((&*aside.record.topic, &*aside.envelope?.subject, aside, aside.failure?)))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    failed.sort_unstable_by_key(|(topic, key, ..)| (*topic, *key));
    let topics: Vec<&str> = failed.iter().map(|(topic, ..)| *topic).collect();
    let keys: Vec<&str> = failed.iter().map(|(_, key, ..)| *key).collect();
    let states: Vec<i16> = failed
        .iter()
        .map(|(.., failure)| i16::from(failure.disposition != Disposition::Retry))
        .collect();
    let attempts: Vec<i32> = failed.iter().map(|(.., aside, _)| aside.attempts).collect();
    let times: Vec<Timestamp> = failed.iter().map(|(.., aside, _)| aside.next_attempt_at).collect();
    let statement = tx
        .prepare_cached(
            "INSERT INTO parked_keys (consumer, topic, key, state, attempts, next_attempt_at)
             SELECT $1, f.* FROM unnest($2::text[], $3::text[], $4::smallint[], $5::int[], $6::timestamptz[]) AS f
             ON CONFLICT (consumer, topic, key) DO UPDATE
             SET state = EXCLUDED.state, attempts = EXCLUDED.attempts, next_attempt_at = EXCLUDED.next_attempt_at",
        )
        .await?;
    tx.execute(&statement, &[&consumer, &topics, &keys, &states, &attempts, &times])
        .await?;
    Ok(())
}

async fn queue_up(tx: &impl GenericClient, consumer: &str, records: &[SetAside<'_>]) -> Result<(), Error> {
    let queued: Vec<(&SetAside<'_>, &Envelope)> = records
        .iter()
        .filter_map(|aside| Some((aside, aside.envelope?)))
        .collect();
    if queued.is_empty() {
        return Ok(());
    }
    let of = || queued.iter().map(|(aside, _)| aside.record);
    let envelopes = || queued.iter().map(|(_, envelope)| *envelope);
    let topics: Vec<&str> = of().map(|record| &*record.topic).collect();
    let keys: Vec<&str> = envelopes().map(|envelope| &*envelope.subject).collect();
    let partitions: Vec<i32> = of().map(|record| record.partition).collect();
    let offsets: Vec<i64> = of().map(|record| record.offset).collect();
    let times: Vec<Option<Timestamp>> = of().map(|record| record.timestamp).collect();
    let record_keys: Vec<Option<&[u8]>> = of().map(|record| record.key.as_deref()).collect();
    let values: Vec<Option<&[u8]>> = of().map(|record| record.value.as_deref()).collect();
    let headers = HeaderColumns::of(of());
    let ids: Vec<Uuid> = envelopes().map(|envelope| envelope.id).collect();
    let types: Vec<&str> = envelopes().map(|envelope| &*envelope.event_type).collect();
    let versions: Vec<i64> = envelopes().map(|envelope| envelope.stream_version).collect();
    let since: Vec<Timestamp> = queued.iter().map(|(aside, _)| aside.first_failed_at).collect();
    let errors: Vec<Option<&str>> = queued
        .iter()
        .map(|(aside, _)| aside.failure.map(|failure| &*failure.message))
        .collect();
    let statement = tx
        .prepare_cached(
            "INSERT INTO parked (consumer, topic, key, partition, record_offset, record_timestamp, record_key, value,
                                 header_names, header_values, event_id, event_type, stream_version, parked_at, error)
             SELECT $1, r.topic, r.key, r.partition, r.record_offset, r.record_timestamp, r.record_key, r.value,
                    ($9::text[])[r.first:r.last], ($10::bytea[])[r.first:r.last], r.event_id, r.event_type,
                    r.stream_version, r.parked_at, r.error
             FROM unnest($2::text[], $3::text[], $4::int[], $5::bigint[], $6::timestamptz[], $7::bytea[], $8::bytea[],
                         $11::int[], $12::int[], $13::uuid[], $14::text[], $15::bigint[], $16::timestamptz[],
                         $17::text[]) WITH ORDINALITY
                  AS r (topic, key, partition, record_offset, record_timestamp, record_key, value, first, last, event_id,
                        event_type, stream_version, parked_at, error, n)
             ORDER BY r.n
             ON CONFLICT (consumer, event_id) DO UPDATE SET error = EXCLUDED.error",
        )
        .await?;
    tx.execute(
        &statement,
        &[
            &consumer,
            &topics,
            &keys,
            &partitions,
            &offsets,
            &times,
            &record_keys,
            &values,
            &headers.names,
            &headers.values,
            &headers.firsts,
            &headers.lasts,
            &ids,
            &types,
            &versions,
            &since,
            &errors,
        ],
    )
    .await?;
    Ok(())
}

/// Notes versions of parked keys' streams that did not arrive: topic, key, first and last one. What comes after them
/// waits, in each key's queue.
///
/// # Errors
/// The database's.
pub async fn note_missing(
    tx: &impl GenericClient,
    consumer: &str,
    missing: &[(&str, &str, i64, i64)],
) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    let topics: Vec<&str> = missing.iter().map(|(topic, ..)| *topic).collect();
    let keys: Vec<&str> = missing.iter().map(|(_, key, ..)| *key).collect();
    let firsts: Vec<i64> = missing.iter().map(|(_, _, first, _)| *first).collect();
    let lasts: Vec<i64> = missing.iter().map(|(.., last)| *last).collect();
    tx.execute(
        "UPDATE parked_keys SET missing = parked_keys.missing + gaps.versions
         FROM (SELECT topic, key, range_agg(int8range(first, last, '[]')) AS versions
               FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS gap (topic, key, first, last)
               GROUP BY topic, key) AS gaps
         WHERE parked_keys.consumer = $1 AND parked_keys.topic = gaps.topic AND parked_keys.key = gaps.key",
        &[&consumer, &topics, &keys, &firsts, &lasts],
    )
    .await?;
    Ok(())
}

/// Notes that versions arrived, of parked keys' streams: topic, key, version. Where one of them was missing, the key's
/// head is due at once, with all its attempts.
///
/// # Errors
/// The database's.
pub async fn note_arrived(tx: &impl GenericClient, consumer: &str, arrived: &[(&str, &str, i64)]) -> Result<(), Error> {
    if arrived.is_empty() {
        return Ok(());
    }
    let topics: Vec<&str> = arrived.iter().map(|(topic, ..)| *topic).collect();
    let keys: Vec<&str> = arrived.iter().map(|(_, key, _)| *key).collect();
    let versions: Vec<i64> = arrived.iter().map(|(.., version)| *version).collect();
    tx.execute(
        "UPDATE parked_keys SET missing = parked_keys.missing - late.versions, attempts = 0, next_attempt_at = now()
         FROM (SELECT topic, key, range_agg(int8range(version, version, '[]')) AS versions
               FROM unnest($2::text[], $3::text[], $4::bigint[]) AS late (topic, key, version)
               GROUP BY topic, key) AS late
         WHERE parked_keys.consumer = $1 AND parked_keys.topic = late.topic AND parked_keys.key = late.key
           AND parked_keys.missing && late.versions",
        &[&consumer, &topics, &keys, &versions],
    )
    .await?;
    Ok(())
}

/// Gives up waiting for what is missing before a head that became a dead letter: whoever redrives it has been told.
///
/// # Errors
/// The database's.
pub async fn forget_missing(tx: &impl GenericClient, consumer: &str, head: &Head) -> Result<(), Error> {
    tx.execute(
        "UPDATE parked_keys SET missing = missing - int8multirange(int8range(NULL, p.stream_version)) FROM parked p
         WHERE p.seq = $4
           AND parked_keys.consumer = $1 AND parked_keys.topic = $2 AND parked_keys.key = $3",
        &[&consumer, &&*head.record.topic, &head.key, &head.seq],
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
    claim(client, consumer, None, limit, lease).await
}

/// The same for one key: what follows a head that was just handled, if it is due.
///
/// # Errors
/// The database's.
pub async fn claim_next(
    client: &impl GenericClient,
    consumer: &str,
    (topic, key): (&str, &str),
    lease: Duration,
) -> Result<Option<Head>, Error> {
    Ok(claim(client, consumer, Some((topic, key)), 1, lease).await?.pop())
}

async fn claim(
    client: &impl GenericClient,
    consumer: &str,
    only: Option<(&str, &str)>,
    limit: i64,
    lease: Duration,
) -> Result<Vec<Head>, Error> {
    let (topic, key) = only.unzip();
    let rows = client
        .query(
            "WITH due AS (
                 SELECT consumer, topic, key FROM parked_keys
                 WHERE consumer = $1 AND state = 0 AND next_attempt_at <= now()
                   AND ($4::text IS NULL OR (topic, key) = ($4, $5::text))
                 ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED),
             claimed AS (
                 UPDATE parked_keys k SET next_attempt_at = now() + $3::double precision * interval '1 second'
                 FROM due WHERE (k.consumer, k.topic, k.key) = (due.consumer, due.topic, due.key)
                 RETURNING k.consumer, k.topic, k.key, k.attempts)
             SELECT head.*, claimed.attempts AS key_attempts FROM claimed CROSS JOIN LATERAL (
                 SELECT * FROM parked p WHERE (p.consumer, p.topic, p.key) = (claimed.consumer, claimed.topic, claimed.key)
                 ORDER BY stream_version, seq LIMIT 1) AS head",
            &[&consumer, &limit, &lease.as_secs_f64(), &topic, &key],
        )
        .await?;
    Ok(rows.iter().map(head_of).collect())
}

fn head_of(row: &Row) -> Head {
    let redriven = |campaign| {
        row.get::<_, Option<i64>>("dead_letter")
            .map(|dead_letter| Redriven { campaign, dead_letter })
    };
    Head {
        seq: row.get("seq"),
        key: row.get("key"),
        record: record_of(row),
        attempts: row.get("key_attempts"),
        first_failed_at: row.get("parked_at"),
        redriven: row.get::<_, Option<i64>>("campaign").and_then(redriven),
    }
}

/// Whether a head may be handled now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Ready,
    /// Somebody else has dealt with it since it was read.
    Stale,
    /// These versions of its stream should come before it, both ends included.
    Waits(Vec<(i64, i64)>),
}

/// Locks a head's key and looks whether the key is still to be retried, with this record as its head.
///
/// # Errors
/// The database's.
pub async fn confirm_head(tx: &impl GenericClient, consumer: &str, head: &Head) -> Result<Standing, Error> {
    let topic = &*head.record.topic;
    let locked = tx
        .execute(
            "SELECT FROM parked_keys WHERE consumer = $1 AND topic = $2 AND key = $3 AND state = 0 FOR UPDATE",
            &[&consumer, &topic, &head.key],
        )
        .await?;
    if locked == 0 {
        return Ok(Standing::Stale);
    }
    let rows = tx
        .query(
            "WITH head AS (
                 SELECT seq, stream_version FROM parked WHERE consumer = $1 AND topic = $2 AND key = $3
                 ORDER BY stream_version, seq LIMIT 1),
             gap AS (
                 SELECT unnest(missing) AS versions FROM parked_keys WHERE consumer = $1 AND topic = $2 AND key = $3)
             SELECT head.seq, lower(gap.versions), upper(gap.versions) - 1
             FROM head LEFT JOIN gap ON lower(gap.versions) < head.stream_version ORDER BY 2",
            &[&consumer, &topic, &head.key],
        )
        .await?;
    if rows.first().is_none_or(|row| row.get::<_, i64>(0) != head.seq) {
        return Ok(Standing::Stale);
    }
    let missing: Vec<(i64, i64)> = rows
        .iter()
        .filter_map(|row| Some((row.get::<_, Option<i64>>(1)?, row.get(2))))
        .collect();
    Ok(if missing.is_empty() {
        Standing::Ready
    } else {
        Standing::Waits(missing)
    })
}

/// Takes a handled head out of its queue; the key is released with its last record, else the next head is due at once.
///
/// # Errors
/// The database's.
pub async fn release_head(tx: &impl GenericClient, consumer: &str, head: &Head) -> Result<(), Error> {
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
