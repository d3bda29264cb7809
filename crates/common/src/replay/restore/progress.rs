//! That a restore is under way, what it is to read, and what it met last, kept in the transactions of the restore itself: all
//! SQL of the tables `restore` and `restore_partitions`. How far it is the shadow tables say.

use std::collections::HashMap;

use deadpool_postgres::{GenericClient, Transaction};
use tokio_postgres::Error;

use crate::replay::log::Span;

/// Whether a restore is under way in this database.
///
/// # Errors
/// The database's.
pub async fn begun(client: &impl GenericClient) -> Result<bool, Error> {
    let row = client.query_one("SELECT EXISTS (SELECT FROM restore)", &[]).await?;
    Ok(row.get(0))
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

/// All that is to be read, a span each partition.
///
/// # Errors
/// The database's.
pub async fn spans(client: &impl GenericClient) -> Result<Vec<Span>, Error> {
    let rows = client
        .query(
            "SELECT partition, first_offset, end_offset FROM restore_partitions ORDER BY partition",
            &[],
        )
        .await?;
    let span = |row: &tokio_postgres::Row| Span {
        partition: row.get(0),
        first: row.get(1),
        next: row.get(1),
        end: row.get(2),
    };
    Ok(rows.iter().map(span).collect())
}

/// The last event of each partition that has one: partition, offset, position.
///
/// # Errors
/// The database's.
pub async fn last(client: &impl GenericClient) -> Result<Vec<(i32, i64, i64)>, Error> {
    let rows = client
        .query(
            "SELECT partition, last_offset, last_position FROM restore_partitions
             WHERE last_offset IS NOT NULL ORDER BY partition",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// Remembers the last events so far, each with its offset and position.
///
/// # Errors
/// The database's.
pub async fn imported(tx: &Transaction<'_>, last: &HashMap<i32, (i64, i64)>) -> Result<(), Error> {
    let partitions: Vec<i32> = last.keys().copied().collect();
    let offsets: Vec<i64> = last.values().map(|last| last.0).collect();
    let positions: Vec<i64> = last.values().map(|last| last.1).collect();
    let statement = tx
        .prepare_cached(
            "UPDATE restore_partitions AS kept
             SET last_offset = done.last_offset, last_position = done.last_position
             FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS done (partition, last_offset, last_position)
             WHERE kept.partition = done.partition",
        )
        .await?;
    tx.execute(&statement, &[&partitions, &offsets, &positions]).await?;
    Ok(())
}

/// Forgets all of that: the import begins anew.
///
/// # Errors
/// The database's.
pub async fn begin_anew(tx: &Transaction<'_>) -> Result<(), Error> {
    let sql = "UPDATE restore_partitions SET last_offset = NULL, last_position = NULL";
    tx.execute(sql, &[]).await?;
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
