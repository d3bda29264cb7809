//! How far a restore has come, kept in the transactions of the restore itself: all SQL of the tables `restore` and
//! `restore_partitions`.

use deadpool_postgres::{GenericClient, Transaction};
use tokio_postgres::Error;

use crate::replay::log::Span;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Phase {
    /// Rows of the event store come in from the log.
    Importing = 0,
    /// The event store is whole; read models are folded from it.
    Folding = 1,
}

/// How far one partition of the service's own topic has been imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What is left to read.
    pub span: Span,
    /// Offset and position of its last event so far.
    pub last: Option<(i64, i64)>,
}

/// What the restore that is under way in this database is at, if one is.
///
/// # Errors
/// The database's.
pub async fn begun(client: &impl GenericClient) -> Result<Option<Phase>, Error> {
    let row = client.query_opt("SELECT phase FROM restore", &[]).await?;
    Ok(row.map(|row| match row.get::<_, i16>(0) {
        0 => Phase::Importing,
        _ => Phase::Folding,
    }))
}

/// Begins one that is to read `spans`.
///
/// # Errors
/// The database's.
pub async fn begin(tx: &Transaction<'_>, spans: &[Span]) -> Result<(), Error> {
    tx.execute("INSERT INTO restore DEFAULT VALUES", &[]).await?;
    let partitions: Vec<i32> = spans.iter().map(|span| span.partition).collect();
    let firsts: Vec<i64> = spans.iter().map(|span| span.first).collect();
    let ends: Vec<i64> = spans.iter().map(|span| span.end).collect();
    tx.execute(
        "INSERT INTO restore_partitions (partition, first_offset, next_offset, end_offset)
         SELECT partition, first, first, ending FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS s (partition, first, ending)",
        &[&partitions, &firsts, &ends],
    )
    .await?;
    Ok(())
}

/// How far each partition is.
///
/// # Errors
/// The database's.
pub async fn partitions(client: &impl GenericClient) -> Result<Vec<Partition>, Error> {
    let rows = client
        .query(
            "SELECT partition, first_offset, next_offset, end_offset, last_offset, last_position
             FROM restore_partitions ORDER BY partition",
            &[],
        )
        .await?;
    let partition = |row: &tokio_postgres::Row| Partition {
        span: Span {
            partition: row.get(0),
            first: row.get(1),
            next: row.get(2),
            end: row.get(3),
        },
        last: row.get::<_, Option<i64>>(4).zip(row.get(5)),
    };
    Ok(rows.iter().map(partition).collect())
}

/// Remembers how far the import is.
///
/// # Errors
/// The database's.
pub async fn imported(tx: &Transaction<'_>, partitions: &[Partition]) -> Result<(), Error> {
    let numbers: Vec<i32> = partitions.iter().map(|partition| partition.span.partition).collect();
    let nexts: Vec<i64> = partitions.iter().map(|partition| partition.span.next).collect();
    let offsets: Vec<Option<i64>> = partitions.iter().map(|each| each.last.map(|last| last.0)).collect();
    let positions: Vec<Option<i64>> = partitions.iter().map(|each| each.last.map(|last| last.1)).collect();
    tx.execute(
        "UPDATE restore_partitions AS kept
         SET next_offset = done.next_offset, last_offset = done.last_offset, last_position = done.last_position
         FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[])
              AS done (partition, next_offset, last_offset, last_position)
         WHERE kept.partition = done.partition",
        &[&numbers, &nexts, &offsets, &positions],
    )
    .await?;
    Ok(())
}

/// The event store is whole.
///
/// # Errors
/// The database's.
pub async fn begin_folding(tx: &Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE restore SET phase = 1", &[]).await?;
    Ok(())
}

/// It is done: the service may start.
///
/// # Errors
/// The database's.
pub async fn end(tx: &Transaction<'_>) -> Result<(), Error> {
    tx.execute("DELETE FROM restore", &[]).await?;
    tx.execute("DELETE FROM restore_partitions", &[]).await?;
    Ok(())
}
