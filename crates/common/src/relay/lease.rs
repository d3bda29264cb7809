//! Who publishes, and how far everything is acknowledged: all SQL of the tables `relay` and `relay_log_ends`.
//!
//! A claim raises the epoch. Each later statement names its epoch and changes nothing once another copy has claimed.

use std::time::Duration;

use deadpool_postgres::{Pool, PoolError};
use jiff::Timestamp;
use tokio_postgres::Client;

use super::signals::{CHANNEL, Signal};
use super::window::{LastAcknowledged, Progress};

/// A leadership that began.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// Fences every later statement.
    pub(super) epoch: i64,
    /// Where publishing goes on.
    pub(super) progress: Progress,
}

/// What the database knows about what is not published.
#[derive(Clone, Debug)]
pub(super) struct Backlog {
    /// Everything up to here is acknowledged.
    pub(super) cursor: i64,
    /// At most so many rows are not.
    pub(super) rows: i64,
    /// When the oldest of them occurred.
    pub(super) oldest: Option<Timestamp>,
}

/// Ends the lease of whoever has it.
pub(super) async fn end(client: &Client) -> Result<(), tokio_postgres::Error> {
    let sql = "UPDATE relay SET leased_until = '-infinity'";
    client.execute(sql, &[]).await.map(drop)
}

/// Claims the lease if nobody holds it.
pub(super) async fn claim(pool: &Pool, owner: &str, lease: Duration, topic: &str) -> Result<Option<Claim>, PoolError> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "UPDATE relay SET owner = $1, epoch = epoch + 1,
                              leased_until = clock_timestamp() + make_interval(secs => $2)
             WHERE leased_until < clock_timestamp() RETURNING epoch, cursor",
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&owner, &lease.as_secs_f64()]).await? else {
        return Ok(None);
    };
    let ends = client
        .query(
            "SELECT partition, last_offset, last_position FROM relay_log_ends WHERE topic = $1",
            &[&topic],
        )
        .await?;
    let log_ends = ends
        .iter()
        .map(|row| {
            (
                row.get(0),
                LastAcknowledged {
                    offset: row.get(1),
                    position: row.get(2),
                },
            )
        })
        .collect();
    Ok(Some(Claim {
        epoch: row.get(0),
        progress: Progress {
            cursor: row.get(1),
            log_ends,
        },
    }))
}

/// Renews the lease and keeps `progress`, in one statement. `false`: another copy has claimed the lease.
pub(super) async fn renew(
    pool: &Pool,
    epoch: i64,
    lease: Duration,
    topic: &str,
    progress: &Progress,
) -> Result<bool, PoolError> {
    keep(pool, epoch, lease.as_secs_f64(), topic, progress).await
}

/// Keeps `progress` and gives the lease back, so that the next copy need not wait for its end.
pub(super) async fn release(pool: &Pool, epoch: i64, topic: &str, progress: &Progress) -> Result<bool, PoolError> {
    let held = keep(pool, epoch, -1.0, topic, progress).await?;
    pool.get()
        .await?
        .execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &Signal::Vacant.as_str()])
        .await?;
    Ok(held)
}

async fn keep(pool: &Pool, epoch: i64, secs: f64, topic: &str, progress: &Progress) -> Result<bool, PoolError> {
    let client = pool.get().await?;
    let partitions: Vec<i32> = progress.log_ends.keys().copied().collect();
    let offsets: Vec<i64> = progress.log_ends.values().map(|last| last.offset).collect();
    let positions: Vec<i64> = progress.log_ends.values().map(|last| last.position).collect();
    let statement = client
        .prepare_cached(
            "WITH held AS (
                 UPDATE relay SET leased_until = clock_timestamp() + make_interval(secs => $2), cursor = $3
                 WHERE epoch = $1 RETURNING true),
             kept AS (
                 INSERT INTO relay_log_ends (topic, partition, last_offset, last_position)
                 SELECT $4, ends.* FROM held, unnest($5::int[], $6::bigint[], $7::bigint[]) AS ends
                 ON CONFLICT (topic, partition) DO UPDATE
                 SET last_offset = excluded.last_offset, last_position = excluded.last_position
                 WHERE relay_log_ends.last_offset <> excluded.last_offset)
             SELECT count(*) FROM held",
        )
        .await?;
    let row = client
        .query_one(
            &statement,
            &[
                &epoch,
                &secs,
                &progress.cursor,
                &topic,
                &partitions,
                &offsets,
                &positions,
            ],
        )
        .await?;
    Ok(row.get::<_, i64>(0) == 1)
}

/// Publishing goes on behind `cursor`; `ends` are partition, offset and position of the last event of each log. For an event
/// store that was restored, and that no copy publishes from.
///
/// # Errors
/// The database's.
pub async fn publish_behind(
    tx: &deadpool_postgres::Transaction<'_>,
    topic: &str,
    cursor: i64,
    ends: &[(i32, i64, i64)],
) -> Result<(), tokio_postgres::Error> {
    tx.execute(
        "UPDATE relay SET cursor = $1, epoch = epoch + 1, leased_until = '-infinity'",
        &[&cursor],
    )
    .await?;
    let partitions: Vec<i32> = ends.iter().map(|(partition, ..)| *partition).collect();
    let offsets: Vec<i64> = ends.iter().map(|(_, offset, _)| *offset).collect();
    let positions: Vec<i64> = ends.iter().map(|(.., position)| *position).collect();
    tx.execute(
        "INSERT INTO relay_log_ends (topic, partition, last_offset, last_position)
         SELECT $1, ends.* FROM unnest($2::int[], $3::bigint[], $4::bigint[]) AS ends",
        &[&topic, &partitions, &offsets, &positions],
    )
    .await?;
    Ok(())
}

/// Forgets the log ends of `emptied` partitions, whose logs hold nothing any more.
pub(super) async fn forget_log_ends(pool: &Pool, epoch: i64, topic: &str, emptied: &[i32]) -> Result<(), PoolError> {
    pool.get()
        .await?
        .execute(
            "DELETE FROM relay_log_ends
             WHERE topic = $2 AND partition = ANY($3) AND EXISTS (SELECT FROM relay WHERE epoch = $1)",
            &[&epoch, &topic, &emptied],
        )
        .await?;
    Ok(())
}

/// What is not published, where everything up to `known` is known to be.
pub(super) async fn backlog(pool: &Pool, known: i64) -> Result<Backlog, PoolError> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "WITH done AS (SELECT greatest(cursor, $1) AS cursor FROM relay)
             SELECT done.cursor,
                    greatest(coalesce((SELECT max(position) FROM events), 0) - done.cursor, 0),
                    (SELECT occurred_at FROM events WHERE position > done.cursor ORDER BY position LIMIT 1)
             FROM done",
        )
        .await?;
    let row = client.query_one(&statement, &[&known]).await?;
    Ok(Backlog {
        cursor: row.get(0),
        rows: row.get(1),
        oldest: row.get(2),
    })
}

/// How many positions a session of the database draws from the sequence at once.
pub(super) async fn positions_cached(pool: &Pool) -> Result<i64, PoolError> {
    let row = pool
        .get()
        .await?
        .query_one(
            "SELECT coalesce(max(seqcache), 1) FROM pg_sequence
             WHERE seqrelid = pg_get_serial_sequence('events', 'position')::regclass",
            &[],
        )
        .await?;
    Ok(row.get(0))
}
