//! Deadlines: all SQL of the table `timers`, one row for each stream that has not ended.
//!
//! A row may come due early, never late: when a stream's deadline moves further away its row stays as it is, and the
//! stream is looked at once in vain. That saves a write for each step of a saga that goes well.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Error;

use crate::event::StreamId;
use crate::model::{Change, Model};
use crate::pg::Write;

/// What brings the rows up to date with what the deadlines were before `changes` and are after them.
pub fn rearm<'a, M: Model>(model: &M, changes: &[Change<'a, M>]) -> Vec<Write<'a>> {
    let mut set: (Vec<&str>, Vec<Timestamp>) = (Vec::new(), Vec::new());
    let mut ended: Vec<&str> = Vec::new();
    for change in changes {
        let stream = change.stream_id;
        let (before, after) = (model.deadline(change.before), model.deadline(change.after));
        match (before, after) {
            (None, Some(due)) => {
                set.0.push(stream.as_str());
                set.1.push(due);
            }
            (Some(before), Some(after)) if after < before => {
                set.0.push(stream.as_str());
                set.1.push(after);
            }
            (Some(_), None) => ended.push(stream.as_str()),
            _ => {}
        }
    }
    let mut writes = Vec::new();
    if !set.0.is_empty() {
        let write = Write::new(
            "INSERT INTO timers (stream_id, due_at) SELECT * FROM unnest($1::text[], $2::timestamptz[])
             ON CONFLICT (stream_id) DO UPDATE SET due_at = EXCLUDED.due_at",
        );
        writes.push(write.with(set.0).with(set.1));
    }
    if !ended.is_empty() {
        writes.push(Write::new("DELETE FROM timers WHERE stream_id = ANY($1)").with(ended));
    }
    writes
}

/// How long ago the oldest deadline passed that has not been dealt with; zero if none has.
///
/// # Errors
/// The database's.
pub async fn overdue(client: &impl GenericClient) -> Result<Duration, Error> {
    let row = client
        .query_one(
            "SELECT greatest(extract(epoch FROM now() - min(due_at))::float8, 0) FROM timers",
            &[],
        )
        .await?;
    let seconds: Option<f64> = row.get(0);
    Ok(Duration::from_secs_f64(seconds.unwrap_or(0.0)))
}

/// Whether any deadline lies before the database's now plus `ahead`.
///
/// # Errors
/// The database's.
pub async fn any_due(client: &impl GenericClient, ahead: Duration) -> Result<bool, Error> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM timers WHERE due_at <= now() + $1::double precision * interval '1 second')",
            &[&ahead.as_secs_f64()],
        )
        .await?;
    Ok(row.get(0))
}

/// Claims up to `limit` deadlines that have passed: moves each into the future by `lease`, so that another copy, or this
/// one after a crash, takes it up when nothing came of it.
///
/// # Errors
/// The database's.
pub async fn claim(
    client: &impl GenericClient,
    limit: i64,
    lease: Duration,
) -> Result<Vec<(StreamId, Timestamp)>, Error> {
    let rows = client
        .query(
            "WITH due AS (
                 SELECT stream_id, due_at FROM timers WHERE due_at <= now() ORDER BY due_at LIMIT $1
                 FOR UPDATE SKIP LOCKED)
             UPDATE timers SET due_at = now() + $2::double precision * interval '1 second' FROM due
             WHERE timers.stream_id = due.stream_id RETURNING timers.stream_id, due.due_at",
            &[&limit, &lease.as_secs_f64()],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| (StreamId::new(row.get::<_, String>(0)), row.get(1)))
        .collect())
}

/// Sets a claimed deadline to when the stream needs attention next, or removes it.
///
/// # Errors
/// The database's.
pub async fn settle(client: &impl GenericClient, stream: &StreamId, next: Option<Timestamp>) -> Result<(), Error> {
    match next {
        Some(due) => {
            client
                .execute(
                    "UPDATE timers SET due_at = $2 WHERE stream_id = $1",
                    &[&stream.as_str(), &due],
                )
                .await?
        }
        None => {
            client
                .execute("DELETE FROM timers WHERE stream_id = $1", &[&stream.as_str()])
                .await?
        }
    };
    Ok(())
}
