//! What a consumer has taken, and where it goes on: all SQL of the tables `inbox` and `offsets`.
//!
//! A claim of a partition raises its epoch; every batch moves the offset only under the epoch it was read with, in the
//! same transaction as its effects. A copy that lost the partition without noticing therefore changes nothing.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::{GenericClient, Transaction};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use tokio_postgres::Error;
use uuid::Uuid;

/// How many months ahead of now the inbox has partitions of their own.
const PARTITIONS_AHEAD_MONTHS: i32 = 2;

/// What became of an event that a consumer saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Outcome {
    /// It took effect.
    Applied = 0,
    /// It waits, itself or behind another.
    Parked = 1,
    /// It is a dead letter.
    Dead = 2,
    /// Somebody decided that it shall have no effect.
    Discarded = 3,
}

/// The offset after the last record that a batch has dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// With namespace.
    pub topic: String,
    /// Of the topic.
    pub partition: i32,
    /// First offset not dealt with.
    pub next_offset: i64,
    /// The claim under which the records were read.
    pub epoch: i64,
}

/// A partition's place, claimed by this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Fences earlier claims.
    pub epoch: i64,
    /// Where to read from; `None` for a consumer that has never read this partition.
    pub next_offset: Option<i64>,
}

/// Takes over a partition: whoever claimed it before can no longer move its offset.
///
/// # Errors
/// The database's.
pub async fn claim(client: &impl GenericClient, consumer: &str, topic: &str, partition: i32) -> Result<Claim, Error> {
    let row = client
        .query_one(
            "INSERT INTO offsets (consumer, topic, partition, epoch) VALUES ($1, $2, $3, 1)
             ON CONFLICT (consumer, topic, partition) DO UPDATE SET epoch = offsets.epoch + 1
             RETURNING epoch, next_offset",
            &[&consumer, &topic, &partition],
        )
        .await?;
    Ok(Claim {
        epoch: row.get(0),
        next_offset: row.get(1),
    })
}

/// Moves offsets under their epochs, and returns the partitions that somebody else has claimed since.
///
/// # Errors
/// The database's.
pub async fn advance(tx: &Transaction<'_>, consumer: &str, progress: &[Progress]) -> Result<Vec<(String, i32)>, Error> {
    if progress.is_empty() {
        return Ok(Vec::new());
    }
    let topics: Vec<&str> = progress.iter().map(|entry| entry.topic.as_str()).collect();
    let partitions: Vec<i32> = progress.iter().map(|entry| entry.partition).collect();
    let offsets: Vec<i64> = progress.iter().map(|entry| entry.next_offset).collect();
    let epochs: Vec<i64> = progress.iter().map(|entry| entry.epoch).collect();
    let statement = tx
        .prepare_cached(
            "UPDATE offsets SET next_offset = moved.next_offset
             FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) AS moved (topic, partition, next_offset, epoch)
             WHERE offsets.consumer = $1 AND offsets.topic = moved.topic AND offsets.partition = moved.partition
               AND offsets.epoch = moved.epoch
             RETURNING offsets.topic, offsets.partition",
        )
        .await?;
    let rows = tx
        .query(&statement, &[&consumer, &topics, &partitions, &offsets, &epochs])
        .await?;
    let moved: HashSet<(String, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(progress
        .iter()
        .map(|entry| (entry.topic.clone(), entry.partition))
        .filter(|partition| !moved.contains(partition))
        .collect())
}

/// Where `consumer` goes on in each partition it has read: the next offset by topic and partition.
///
/// # Errors
/// The database's.
pub async fn offsets(client: &impl GenericClient, consumer: &str) -> Result<HashMap<(String, i32), i64>, Error> {
    let rows = client
        .query(
            "SELECT topic, partition, next_offset FROM offsets WHERE consumer = $1 AND next_offset IS NOT NULL",
            &[&consumer],
        )
        .await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Takes `ids` into the inbox as applied, and returns those that were not in it yet. `ids` must be distinct.
///
/// # Errors
/// The database's.
pub async fn take(tx: &Transaction<'_>, consumer: &str, ids: &[Uuid]) -> Result<HashSet<Uuid>, Error> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let statement = tx
        .prepare_cached(
            "INSERT INTO inbox (event_id, consumer) SELECT unnest($1::uuid[]), $2
             ON CONFLICT DO NOTHING RETURNING event_id",
        )
        .await?;
    let rows = tx.query(&statement, &[&sorted, &consumer]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Records what became of events that are already in the inbox.
///
/// # Errors
/// The database's.
pub async fn set_outcome(tx: &Transaction<'_>, consumer: &str, ids: &[Uuid], outcome: Outcome) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let statement = tx
        .prepare_cached("UPDATE inbox SET outcome = $3 WHERE event_id = ANY($1) AND consumer = $2")
        .await?;
    tx.execute(&statement, &[&ids, &consumer, &(outcome as i16)]).await?;
    Ok(())
}

/// Creates the inbox's monthly partitions from this month on. Ids of other times go to the default partition.
///
/// # Errors
/// The database's.
pub async fn ensure_partitions(client: &impl GenericClient, now: Timestamp) -> Result<(), Error> {
    let first = now.to_zoned(TimeZone::UTC).date().first_of_month();
    for months in 0..=PARTITIONS_AHEAD_MONTHS {
        let from = first.saturating_add(months.months());
        let to = from.saturating_add(1.month());
        // The name and both bounds are made of numbers here, so no text of a stranger reaches the statement. Another
        // process may create the same partition at this moment, or late rows may lie in the default one: both are fine.
        let statement = format!(
            "DO $$ BEGIN
                 CREATE TABLE IF NOT EXISTS inbox_{:04}_{:02} PARTITION OF inbox FOR VALUES FROM ('{}') TO ('{}');
             EXCEPTION WHEN check_violation OR duplicate_table OR unique_violation OR invalid_object_definition THEN NULL;
             END $$",
            from.year(),
            from.month(),
            first_id(from),
            first_id(to),
        );
        client.batch_execute(&statement).await?;
    }
    Ok(())
}

/// The smallest id that carries a time of `date` (UTC).
fn first_id(date: Date) -> Uuid {
    let start = date
        .to_zoned(TimeZone::UTC)
        .map_or(0, |midnight| midnight.timestamp().as_millisecond());
    Uuid::from_u128((start.max(0) as u128) << 80)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::event::derived_id;

    #[test]
    fn an_id_lies_in_the_month_of_its_events_time() {
        let at: Timestamp = "2026-02-28T23:59:59.999Z".parse().unwrap();
        let id = derived_id("orders", Uuid::from_u128(1), at, 0);
        assert!(first_id(date(2026, 2, 1)) <= id && id < first_id(date(2026, 3, 1)));
    }
}
