//! The read model `orders`: all SQL of its table.
//!
//! It answers what a single stream cannot: listings and counts. It decides nothing, and one order alone is read from its
//! stream, not from here.

use common::pg::Write;
use common::pg::copy::{Load, Rows};
use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Error;
use uuid::Uuid;

use crate::domain::{Cause, Order, OrderId, deadline};

/// All statuses, in the order in which an order meets them.
pub const STATUSES: [&str; 6] = ["placed", "confirmed", "completed", "cancelling", "cancelled", "stuck"];

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The order.
    pub order_id: Uuid,
    /// Who ordered.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The order's total.
    pub total_minor: i64,
    /// The customer's own name for it.
    pub reference: Option<String>,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// Where it stands.
    pub status: String,
    /// Since when.
    pub since: Timestamp,
    /// Why it was cancelled.
    pub reason: Option<String>,
    /// What went wrong, while it is stuck.
    pub stuck_reason: Option<String>,
    /// By when the status must change.
    pub due_at: Option<Timestamp>,
}

/// Where a page of a listing ended: when the last row's order was placed, and its id.
pub type Cursor = (Timestamp, Uuid);

const COLUMNS: &str = "order_id, customer_id, currency, total_minor, reference, placed_at, status, since, reason, \
                       stuck_reason, due_at";

/// What inserts or updates the rows of `orders`, in order of their ids, in one statement.
pub fn upsert<'a>(mut orders: Vec<(OrderId, &'a Order)>) -> Option<Write<'a>> {
    if orders.is_empty() {
        return None;
    }
    orders.sort_unstable_by_key(|(order_id, _)| order_id.0);
    let write = Write::new(
        "INSERT INTO orders (order_id, customer_id, currency, total_minor, reference, placed_at, status, since,
                             reason, stuck_reason, due_at)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::timestamptz[],
                              $7::text[], $8::timestamptz[], $9::text[], $10::text[], $11::timestamptz[])
         ON CONFLICT (order_id) DO UPDATE
         SET status = EXCLUDED.status, since = EXCLUDED.since, reason = EXCLUDED.reason,
             stuck_reason = EXCLUDED.stuck_reason, due_at = EXCLUDED.due_at",
    )
    .column(orders.iter().map(|(order_id, _)| order_id.0))
    .column(orders.iter().map(|(_, order)| order.request.customer_id.as_str()))
    .column(orders.iter().map(|(_, order)| order.request.currency.code()))
    .column(orders.iter().map(|(_, order)| order.request.total_minor))
    .column(orders.iter().map(|(_, order)| order.request.reference.as_deref()))
    .column(orders.iter().map(|(_, order)| order.placed_at))
    .column(orders.iter().map(|(_, order)| order.phase.name()))
    .column(orders.iter().map(|(_, order)| order.since))
    .column(orders.iter().map(|(_, order)| order.phase.reason().map(Cause::name)))
    .column(orders.iter().map(|(_, order)| order.phase.stuck_reason()))
    .column(orders.iter().map(|(_, order)| deadline(order)));
    Some(write)
}

/// The rows of `orders`, of which none is there.
pub fn load(orders: &mut [(OrderId, &Order)]) -> Load {
    // Neighbours in the index one after the other.
    orders.sort_unstable_by_key(|(order_id, _)| order_id.0);
    let mut rows = Rows::default();
    for (order_id, order) in orders {
        let (request, phase) = (&order.request, &order.phase);
        rows.row(11)
            .uuid(order_id.0)
            .text(request.customer_id.as_str())
            .text(request.currency.code())
            .bigint(request.total_minor)
            .nullable(request.reference.as_deref(), Rows::text)
            .timestamptz(order.placed_at)
            .text(phase.name())
            .timestamptz(order.since)
            .nullable(phase.reason().map(Cause::name), Rows::text)
            .nullable(phase.stuck_reason(), Rows::text)
            .nullable(deadline(order), Rows::timestamptz);
    }
    Load {
        table: "orders",
        columns: COLUMNS,
        rows,
    }
}

/// Up to `limit` orders with one of `statuses`, newest first, that come after `cursor`.
///
/// # Errors
/// The database's.
pub async fn page(
    client: &impl GenericClient,
    statuses: &[&str],
    cursor: Option<Cursor>,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    // Each status is a range of the index in the order of the listing: at most `limit` rows are read of each.
    let statement = client
        .prepare_cached(&format!(
            "SELECT listed.* FROM unnest($1::text[]) AS wanted (status),
             LATERAL (SELECT {COLUMNS} FROM orders
                      WHERE orders.status = wanted.status
                        AND ($2::timestamptz IS NULL OR (orders.placed_at, orders.order_id) < ($2, $3::uuid))
                      ORDER BY orders.placed_at DESC, orders.order_id DESC LIMIT $4) AS listed
             ORDER BY listed.placed_at DESC, listed.order_id DESC LIMIT $4"
        ))
        .await?;
    let (placed_at, order_id) = cursor.unzip();
    let rows = client
        .query(&statement, &[&statuses, &placed_at, &order_id, &limit])
        .await?;
    Ok(rows.iter().map(row).collect())
}

/// Up to `limit` orders whose status should have changed by now, by the database's clock, longest overdue first.
///
/// # Errors
/// The database's.
pub async fn overdue(client: &impl GenericClient, limit: i64) -> Result<Vec<Row>, Error> {
    let rows = client
        .query(
            &format!(
                "SELECT {COLUMNS} FROM orders
                 WHERE status IN ('placed', 'confirmed', 'cancelling') AND due_at < now()
                 ORDER BY due_at, order_id LIMIT $1"
            ),
            &[&limit],
        )
        .await?;
    Ok(rows.iter().map(row).collect())
}

/// How many orders are stuck, and how many should have changed their status by now.
///
/// # Errors
/// The database's.
pub async fn wanting(client: &impl GenericClient) -> Result<(i64, i64), Error> {
    let row = client
        .query_one(
            "SELECT count(*) FILTER (WHERE status = 'stuck'), count(*) FILTER (WHERE status <> 'stuck' AND due_at < now())
             FROM orders WHERE status IN ('placed', 'confirmed', 'cancelling', 'stuck')",
            &[],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

/// How many orders have each status; statuses that no order has are left out.
///
/// # Errors
/// The database's.
pub async fn count_by_status(client: &impl GenericClient) -> Result<Vec<(String, i64)>, Error> {
    let rows = client
        .query(
            "SELECT status, count(*) FROM orders GROUP BY status ORDER BY status",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Which of `order_ids` have ended.
///
/// # Errors
/// The database's.
pub async fn ended(client: &impl GenericClient, order_ids: &[Uuid]) -> Result<Vec<OrderId>, Error> {
    let statement = client
        .prepare_cached("SELECT order_id FROM orders WHERE order_id = ANY($1) AND status IN ('completed', 'cancelled')")
        .await?;
    let rows = client.query(&statement, &[&order_ids]).await?;
    Ok(rows.iter().map(|row| OrderId(row.get(0))).collect())
}

fn row(row: &tokio_postgres::Row) -> Row {
    Row {
        order_id: row.get("order_id"),
        customer_id: row.get("customer_id"),
        currency: row.get("currency"),
        total_minor: row.get("total_minor"),
        reference: row.get("reference"),
        placed_at: row.get("placed_at"),
        status: row.get("status"),
        since: row.get("since"),
        reason: row.get("reason"),
        stuck_reason: row.get("stuck_reason"),
        due_at: row.get("due_at"),
    }
}
