//! What a consumer has dealt with, and where it goes on: all SQL of the tables `inbox` and `offsets`.
//!
//! An event that led to events of this service is known by the first of them, for its id follows from the cause's: the unique
//! index on `events.id` is the inbox of all that had an effect. A row is written only for what led to none: recognised as
//! done, parked, dead, discarded.
//!
//! A claim of a partition raises its epoch; every batch moves the offset only under the epoch it was read with, in the
//! same transaction as its effects. A copy that lost the partition without noticing therefore changes nothing.
//!
//! A reset moves the offset from outside, by `rondo offsets reset`: it raises the epoch too and marks the row, so that the
//! copy which reads the partition finds out, claims it again and goes on at the new place.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::GenericClient;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::event::derived_id;

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
    /// Somebody moved the offset on purpose, and the group's committed offset has not followed yet.
    pub reset: bool,
}

/// Where a consumer goes on in one partition, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// With namespace.
    pub topic: String,
    /// Of the topic.
    pub partition: i32,
    /// `None` until a first batch was committed.
    pub next_offset: Option<i64>,
    /// Of the last claim or reset.
    pub epoch: i64,
    /// Whether it was moved on purpose and no copy has gone on from there yet.
    pub waits_for_a_copy: bool,
}

/// An offset to which somebody moves a consumer: topic with namespace, partition, next offset.
pub type Moved<'a> = (&'a str, i32, i64);

/// Takes over a partition: whoever claimed it before can no longer move its offset.
///
/// # Errors
/// The database's.
pub async fn claim(client: &impl GenericClient, consumer: &str, topic: &str, partition: i32) -> Result<Claim, Error> {
    let row = client
        .query_one(
            "INSERT INTO offsets (consumer, topic, partition, epoch) VALUES ($1, $2, $3, 1)
             ON CONFLICT (consumer, topic, partition) DO UPDATE SET epoch = offsets.epoch + 1
             RETURNING epoch, next_offset, reset_epoch IS NOT NULL",
            &[&consumer, &topic, &partition],
        )
        .await?;
    Ok(claimed(&row))
}

/// Takes over a partition whose offset was moved on purpose, unless another copy has done so since: of several only one
/// succeeds.
///
/// # Errors
/// The database's.
pub async fn claim_reset(
    client: &impl GenericClient,
    consumer: &str,
    topic: &str,
    partition: i32,
) -> Result<Option<Claim>, Error> {
    let row = client
        .query_opt(
            "UPDATE offsets SET epoch = epoch + 1
             WHERE consumer = $1 AND topic = $2 AND partition = $3 AND epoch = reset_epoch
             RETURNING epoch, next_offset, true",
            &[&consumer, &topic, &partition],
        )
        .await?;
    Ok(row.as_ref().map(claimed))
}

fn claimed(row: &Row) -> Claim {
    Claim {
        epoch: row.get(0),
        next_offset: row.get(1),
        reset: row.get(2),
    }
}

/// Moves a consumer's offsets on purpose, all or none. Raises each epoch, so that a batch which is open now changes
/// nothing, and marks each row for the copies that run.
///
/// # Errors
/// The database's; a deadlock with open batches is to be tried again.
pub async fn reset(client: &impl GenericClient, consumer: &str, moved: &[Moved<'_>]) -> Result<(), Error> {
    let topics: Vec<&str> = moved.iter().map(|(topic, ..)| *topic).collect();
    let partitions: Vec<i32> = moved.iter().map(|(_, partition, _)| *partition).collect();
    let offsets: Vec<i64> = moved.iter().map(|(.., next_offset)| *next_offset).collect();
    client
        .execute(
            "INSERT INTO offsets (consumer, topic, partition, next_offset, epoch, reset_epoch)
             SELECT $1, topic, partition, next_offset, 1, 1
             FROM unnest($2::text[], $3::int[], $4::bigint[]) AS moved (topic, partition, next_offset)
             ORDER BY topic, partition
             ON CONFLICT (consumer, topic, partition) DO UPDATE
             SET next_offset = excluded.next_offset, epoch = offsets.epoch + 1, reset_epoch = offsets.epoch + 1",
            &[&consumer, &topics, &partitions, &offsets],
        )
        .await?;
    Ok(())
}

/// Takes the mark of a reset away: the group's committed offset has followed the claim of this epoch.
///
/// # Errors
/// The database's.
pub async fn settle_reset(
    client: &impl GenericClient,
    consumer: &str,
    topic: &str,
    partition: i32,
    epoch: i64,
) -> Result<(), Error> {
    client
        .execute(
            "UPDATE offsets SET reset_epoch = NULL
             WHERE consumer = $1 AND topic = $2 AND partition = $3 AND epoch = $4",
            &[&consumer, &topic, &partition, &epoch],
        )
        .await?;
    Ok(())
}

/// The partitions whose offset was moved on purpose and that no copy has taken up since, each with the epoch of its reset.
///
/// # Errors
/// The database's.
pub async fn resets(client: &impl GenericClient, consumer: &str) -> Result<Vec<(String, i32, i64)>, Error> {
    let rows = client
        .query(
            "SELECT topic, partition, epoch FROM offsets WHERE consumer = $1 AND epoch = reset_epoch",
            &[&consumer],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// All places of `consumer`, in order of topic and partition.
///
/// # Errors
/// The database's.
pub async fn places(client: &impl GenericClient, consumer: &str) -> Result<Vec<Place>, Error> {
    let rows = client
        .query(
            "SELECT topic, partition, next_offset, epoch, epoch IS NOT DISTINCT FROM reset_epoch
             FROM offsets WHERE consumer = $1 ORDER BY topic, partition",
            &[&consumer],
        )
        .await?;
    let place = |row: &Row| Place {
        topic: row.get(0),
        partition: row.get(1),
        next_offset: row.get(2),
        epoch: row.get(3),
        waits_for_a_copy: row.get(4),
    };
    Ok(rows.iter().map(place).collect())
}

/// Moves offsets under their epochs, and returns the partitions that somebody else has claimed since.
///
/// # Errors
/// The database's.
pub async fn advance(
    tx: &impl GenericClient,
    consumer: &str,
    progress: &[Progress],
) -> Result<Vec<(String, i32)>, Error> {
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

/// Which of the events `ids` have been dealt with: each led to an event of this service, whose id follows from its own, or
/// has a row in the inbox.
///
/// # Errors
/// The database's.
pub async fn known(tx: &impl GenericClient, consumer: &str, ids: &[Uuid]) -> Result<HashSet<Uuid>, Error> {
    let (Some(first), Some(last)) = (ids.iter().min(), ids.iter().max()) else {
        return Ok(HashSet::new());
    };
    let effects: Vec<Uuid> = ids.iter().map(|id| derived_id(consumer, *id, 0)).collect();
    // The bounds say in which months to look; of an array of ids Postgres would not know, and look in all there are.
    let statement = tx
        .prepare_cached(
            "SELECT id FROM events WHERE id = ANY($1)
             UNION ALL SELECT event_id FROM inbox WHERE event_id = ANY($2) AND consumer = $3 AND event_id BETWEEN $4 AND $5",
        )
        .await?;
    let rows = tx.query(&statement, &[&effects, &ids, &consumer, first, last]).await?;
    let found: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let asked = ids.iter().zip(&effects);
    Ok(asked
        .filter(|(id, effect)| found.contains(id) || found.contains(effect))
        .map(|(id, _)| *id)
        .collect())
}

/// Records what became of events that led to none here, or not yet. Sorts `ids`, so that two transactions never wait for each
/// other in a circle.
///
/// # Errors
/// The database's.
pub async fn settle(tx: &impl GenericClient, consumer: &str, ids: &mut [Uuid], outcome: Outcome) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    ids.sort_unstable();
    let statement = tx
        .prepare_cached(
            "INSERT INTO inbox (event_id, consumer, outcome) SELECT unnest($1::uuid[]), $2, $3
             ON CONFLICT (event_id, consumer) DO UPDATE SET outcome = EXCLUDED.outcome",
        )
        .await?;
    tx.execute(&statement, &[&&*ids, &consumer, &(outcome as i16)]).await?;
    Ok(())
}

/// Whether nothing was ever taken, and no place is known but by a claim.
///
/// # Errors
/// The database's.
pub async fn is_empty(client: &impl GenericClient) -> Result<bool, Error> {
    let row = client
        .query_one(
            "SELECT NOT EXISTS (SELECT FROM inbox) AND NOT EXISTS (SELECT FROM offsets WHERE next_offset IS NOT NULL)",
            &[],
        )
        .await?;
    Ok(row.get(0))
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

    #[test]
    fn an_id_lies_in_the_month_of_what_began_it() {
        let at: Timestamp = "2026-02-28T23:59:59.999Z".parse().unwrap();
        let cause = Uuid::from_u128((at.as_millisecond() as u128) << 80 | 1);
        let id = derived_id("orders", cause, 0);
        assert!(first_id(date(2026, 2, 1)) <= id && id < first_id(date(2026, 3, 1)));
    }

    #[tokio::test]
    async fn what_was_dealt_with_is_looked_for_in_the_months_of_the_ids_alone() {
        let database = testkit::database(async |client| {
            crate::migrate::apply(client, "common", crate::service::MIGRATIONS)
                .await
                .expect("the runtime's tables are made");
        })
        .await;
        let pool = crate::pg::planned_once(database.url(), 1).unwrap();
        let client = pool.get().await.unwrap();
        ensure_partitions(&client, "2026-05-10T12:00:00Z".parse().unwrap())
            .await
            .unwrap();
        let [may, june, other] = [first_id(date(2026, 5, 31)), first_id(date(2026, 6, 1)), Uuid::max()];
        settle(&client, "orders", &mut [may, june, other], Outcome::Discarded)
            .await
            .unwrap();

        let all = [other, may, Uuid::from_u128(1), june];
        assert_eq!(
            known(&client, "orders", &all).await.unwrap(),
            HashSet::from([may, june, other])
        );
        assert_eq!(known(&client, "payments", &all).await.unwrap(), HashSet::new());

        let name = "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT id FROM events%'";
        let name: String = client.query_one(name, &[]).await.unwrap().get(0);
        let plan = format!("EXPLAIN EXECUTE \"{name}\" ('{{}}', '{{{may}}}', 'orders', '{may}', '{may}')");
        let lines = client.query(&plan, &[]).await.unwrap();
        let plan: String = lines.iter().map(|line| line.get::<_, String>(0) + "\n").collect();
        assert!(plan.contains("inbox_2026_05_pkey"), "{plan}");
        for elsewhere in ["inbox_2026_06", "inbox_2026_07", "inbox_default", "Seq Scan"] {
            assert!(!plan.contains(elsewhere), "{plan}");
        }
    }
}
