//! What the audit reads of the services' databases.
//!
//! These statements belong to no one table's file: they read several tables at once, in an order that only the audit
//! needs, and must not share the services' own statements, which are what is being audited. They write nothing. All of a
//! database's are read in one transaction, so they agree with each other.

use anyhow::{Context as _, Result};
use deadpool_postgres::{Client, Transaction};
use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, RowStream};

/// Version that a row of a read model is given, so that it comes after all events of its stream.
pub(super) const ROW_VERSION: i64 = i64::MAX;

const NOTHING: [&(dyn ToSql + Sync); 0] = [];

/// Begins a transaction that sees one moment of its database and changes nothing; the moment is now.
pub(super) async fn snapshot<'a>(client: &'a mut Client, service: &str) -> Result<(Transaction<'a>, Timestamp)> {
    let cannot = || format!("a snapshot of the database of {service} cannot be taken");
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .with_context(cannot)?;
    // The snapshot is taken by the first statement, not by BEGIN.
    let row = transaction
        .query_one("SELECT clock_timestamp()", &[])
        .await
        .with_context(cannot)?;
    let now = row.get(0);
    Ok((transaction, now))
}

/// The orders that have ended, in order.
pub(super) async fn ended(transaction: &Transaction<'_>) -> Result<RowStream> {
    let sql = "SELECT DISTINCT stream_id COLLATE \"C\" AS stream FROM events
               WHERE type IN ('OrderCompleted', 'OrderCancelled') ORDER BY stream";
    Ok(transaction.query_raw(sql, NOTHING).await?)
}

/// All events of orders, and after those of each order its row.
pub(super) async fn orders(transaction: &Transaction<'_>) -> Result<RowStream> {
    with_rows(
        transaction,
        "SELECT order_id::text, since, status, total_minor, NULL::bigint FROM orders",
    )
    .await
}

/// All events of payments, and after those of each order its row.
pub(super) async fn payments(transaction: &Transaction<'_>) -> Result<RowStream> {
    with_rows(
        transaction,
        "SELECT order_id, updated_at, status, captured_minor, refunded_minor FROM payments",
    )
    .await
}

/// All events of inventory.
pub(super) async fn inventory(transaction: &Transaction<'_>) -> Result<RowStream> {
    with_rows(
        transaction,
        "SELECT NULL::text, NULL::timestamptz, NULL::text, NULL::bigint, NULL::bigint WHERE false",
    )
    .await
}

/// Events and rows of a read model in one sequence: a connection answers one question at a time.
async fn with_rows(transaction: &Transaction<'_>, rows: &str) -> Result<RowStream> {
    let sql = format!(
        "SELECT * FROM (
             SELECT stream_id, version, position, id, payload, occurred_at,
                    NULL::text AS status, NULL::bigint AS first, NULL::bigint AS second
             FROM events
             UNION ALL
             SELECT model.stream_id, {ROW_VERSION}, 0, NULL::uuid, NULL::bytea, model.since,
                    model.status, model.first, model.second
             FROM ({rows}) AS model (stream_id, since, status, first, second)
         ) AS history ORDER BY stream_id COLLATE \"C\", version"
    );
    Ok(transaction.query_raw(&sql, NOTHING).await?)
}

/// SKUs whose level or reservations were below zero at some moment, or more reserved than there were, with what was.
///
/// A SKU's movements are decided under its lock, so their positions are the order in which they happened.
pub(super) async fn negative_levels(transaction: &Transaction<'_>) -> Result<Vec<(String, String)>> {
    let rows = transaction
        .query(
            "SELECT DISTINCT ON (sku) sku, position, on_hand::bigint, reserved::bigint FROM (
                 SELECT sku, position, sum(on_hand_delta) OVER past AS on_hand, sum(reserved_delta) OVER past AS reserved
                 FROM stock_movements WINDOW past AS (PARTITION BY sku ORDER BY position)
             ) AS levels WHERE reserved < 0 OR on_hand < reserved ORDER BY sku, position",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let (position, on_hand, reserved): (i64, i64, i64) = (row.get(1), row.get(2), row.get(3));
            (
                row.get(0),
                format!("{on_hand} on hand and {reserved} reserved after event {position}"),
            )
        })
        .collect())
}

/// Open payments whose next try has been due for longer than `slack_secs`.
pub(super) async fn overdue_tries(transaction: &Transaction<'_>, slack_secs: f64) -> Result<Vec<(String, Timestamp)>> {
    let rows = transaction
        .query(
            "SELECT order_id, next_try_at FROM payments
             WHERE next_try_at < now() - $1::double precision * interval '1 second' ORDER BY next_try_at",
            &[&slack_secs],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// How far the service's events are known to be in Kafka.
pub(super) async fn published_to(client: &Client) -> Result<i64> {
    Ok(client.query_one("SELECT cursor FROM relay", &[]).await?.get(0))
}
