//! All SQL of the tables `stock`, `stock_movements` and `receipts`.
//!
//! A batch costs one statement that locks and one that writes, however many orders want the same goods.

use std::collections::BTreeMap;

use common::pg::copy::{Load, Rows};
use common::pg::{Transaction, Write};
use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::{Error, Row};

use crate::domain::Event;
use crate::goods::{ReceiptId, Sku};
use crate::stock::{Kind, Level, Movement, Stock};

/// What a batch of events does to the tables.
#[derive(Debug, Default)]
pub struct Effects {
    /// Every change of a level.
    pub movements: Vec<Moved>,
    /// Name and list price of the goods that were counted, the last of each.
    pub named: BTreeMap<Sku, (Box<str>, i64)>,
    /// Receipts that were counted, with their quantities.
    pub receipts: Vec<(Sku, ReceiptId, i64)>,
}

/// A movement and the event that made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The movement.
    pub movement: Movement,
    /// When the event occurred.
    pub occurred_at: Timestamp,
    /// The event's position in the event store.
    pub position: i64,
}

/// Goods with their level.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Which goods.
    pub sku: Sku,
    /// How much there is.
    pub level: Level,
}

/// The movements of one SKU, summed by what they were for, beside the level that they must add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Which goods.
    pub sku: Sku,
    /// The level's `on_hand`, and what all movements add up to.
    pub on_hand: (i64, i64),
    /// The level's `reserved`, and what all movements add up to.
    pub reserved: (i64, i64),
    /// Ever set aside for an order.
    pub set_aside: i64,
    /// Of that, left with an order.
    pub committed: i64,
    /// Of that, no longer set aside.
    pub released: i64,
    /// Left and come back.
    pub returned: i64,
    /// Added or taken away by counts.
    pub adjusted: i64,
    /// Arrived.
    pub received: i64,
}

impl Effects {
    /// Takes note of what `event` does beside moving levels.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Adjusted {
                sku,
                name,
                unit_price_minor,
                ..
            } => {
                self.named.insert(sku.clone(), (name.clone(), *unit_price_minor));
            }
            Event::Received { sku, quantity, receipt } => {
                self.receipts.push((sku.clone(), receipt.clone(), *quantity));
            }
            Event::Reserved(_) | Event::Rejected(_) | Event::Committed(_) | Event::Released(_) | Event::Returned(_) => {
            }
        }
    }
}

/// Locks the levels of `skus` until the transaction ends, in order, and looks up `receipts`.
///
/// Goods that nobody has stocked have no row to lock; whoever stocks them first is told apart by the version of their
/// stream.
///
/// # Errors
/// The database's.
pub async fn lock(tx: &Transaction<'_>, skus: &[&Sku], receipts: &[(&Sku, &ReceiptId)]) -> Result<Stock, Error> {
    let mut levels = Vec::new();
    if !skus.is_empty() {
        let names: Vec<&str> = skus.iter().map(|sku| sku.as_str()).collect();
        let statement = tx
            .prepare_cached(
                "SELECT sku, name, unit_price_minor, on_hand, reserved FROM stock
                 WHERE sku = ANY($1) ORDER BY sku FOR UPDATE",
            )
            .await?;
        levels = tx.query(&statement, &[&names]).await?;
    }
    // After the lock: what another transaction counted before it let go of the level is visible now.
    let mut counted = Vec::new();
    if !receipts.is_empty() {
        let names: Vec<&str> = receipts.iter().map(|(sku, _)| sku.as_str()).collect();
        let ids: Vec<&str> = receipts.iter().map(|(_, receipt)| receipt.as_str()).collect();
        let statement = tx
            .prepare_cached(
                "SELECT sku, receipt_id, quantity FROM receipts
                 WHERE (sku, receipt_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))",
            )
            .await?;
        counted = tx.query(&statement, &[&names, &ids]).await?;
    }
    let receipt = |row: &Row| {
        let key = (
            Sku::recorded(row.get("sku")),
            ReceiptId::recorded(row.get("receipt_id")),
        );
        (key, row.get("quantity"))
    };
    Ok(Stock::new(
        levels.iter().map(item).map(|item| (item.sku, item.level)),
        counted.iter().map(receipt),
    ))
}

/// What writes `effects`: names of goods, then the movements and, by their sums, the levels, then receipts.
///
/// A violated constraint means that a decision was taken without its lock, a defect.
pub fn save(effects: Effects) -> Vec<Write<'static>> {
    let Effects {
        movements,
        named,
        receipts,
    } = effects;
    let writes = [name_goods(named), move_levels(movements), count_receipts(receipts)];
    writes.into_iter().flatten().collect()
}

/// The rows of `movements`.
pub fn load(movements: &[Moved]) -> Load {
    let mut rows = Rows::default();
    for moved in movements {
        let movement = &moved.movement;
        rows.row(6)
            .text(movement.sku.as_str())
            .timestamptz(moved.occurred_at)
            .bigint(moved.position)
            .text(kind(movement.kind))
            .bigint(movement.on_hand)
            .bigint(movement.reserved);
    }
    Load {
        table: "stock_movements",
        columns: "sku, occurred_at, position, kind, on_hand_delta, reserved_delta",
        rows,
    }
}

/// Sets every level to what its movements add up to.
///
/// # Errors
/// The database's.
pub async fn sum_up(tx: &impl GenericClient) -> Result<(), Error> {
    tx.execute(
        "UPDATE stock SET on_hand = moved.on_hand, reserved = moved.reserved
         FROM (SELECT sku, sum(on_hand_delta)::bigint AS on_hand, sum(reserved_delta)::bigint AS reserved
               FROM stock_movements GROUP BY sku) AS moved
         WHERE moved.sku = stock.sku",
        &[],
    )
    .await?;
    Ok(())
}

fn name_goods(named: BTreeMap<Sku, (Box<str>, i64)>) -> Option<Write<'static>> {
    if named.is_empty() {
        return None;
    }
    let prices: Vec<i64> = named.values().map(|(_, price)| *price).collect();
    let (skus, names): (Vec<String>, Vec<Box<str>>) = named
        .into_iter()
        .map(|(sku, (name, _))| (sku.to_string(), name))
        .unzip();
    let write = Write::new(
        "INSERT INTO stock (sku, name, unit_price_minor, on_hand, reserved)
         SELECT sku, name, price, 0, 0 FROM unnest($1::text[], $2::text[], $3::bigint[]) AS named (sku, name, price)
         ON CONFLICT (sku) DO UPDATE SET name = excluded.name, unit_price_minor = excluded.unit_price_minor",
    );
    Some(write.with(skus).with(names).with(prices))
}

fn move_levels(moved: Vec<Moved>) -> Option<Write<'static>> {
    if moved.is_empty() {
        return None;
    }
    let write = Write::new(
        "WITH moved AS (
             INSERT INTO stock_movements (sku, occurred_at, position, kind, on_hand_delta, reserved_delta)
             SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[])
             RETURNING sku, on_hand_delta, reserved_delta
         ), total AS (
             SELECT sku, sum(on_hand_delta)::bigint AS on_hand, sum(reserved_delta)::bigint AS reserved
             FROM moved GROUP BY sku
         )
         UPDATE stock SET on_hand = stock.on_hand + total.on_hand, reserved = stock.reserved + total.reserved
         FROM total WHERE stock.sku = total.sku",
    )
    .column(moved.iter().map(|moved| moved.movement.sku.to_string()))
    .column(moved.iter().map(|moved| moved.occurred_at))
    .column(moved.iter().map(|moved| moved.position))
    .column(moved.iter().map(|moved| kind(moved.movement.kind)))
    .column(moved.iter().map(|moved| moved.movement.on_hand))
    .column(moved.iter().map(|moved| moved.movement.reserved));
    Some(write)
}

fn count_receipts(receipts: Vec<(Sku, ReceiptId, i64)>) -> Option<Write<'static>> {
    if receipts.is_empty() {
        return None;
    }
    let skus: Vec<String> = receipts.iter().map(|(sku, ..)| sku.to_string()).collect();
    let ids: Vec<String> = receipts
        .iter()
        .map(|(_, receipt, _)| receipt.as_str().to_owned())
        .collect();
    let quantities: Vec<i64> = receipts.iter().map(|(.., quantity)| *quantity).collect();
    let write = Write::new(
        "INSERT INTO receipts (sku, receipt_id, quantity)
         SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])",
    );
    Some(write.with(skus).with(ids).with(quantities))
}

/// How much there is of `sku`.
///
/// # Errors
/// The database's.
pub async fn find(client: &impl GenericClient, sku: &Sku) -> Result<Option<Item>, Error> {
    let statement = client
        .prepare_cached("SELECT sku, name, unit_price_minor, on_hand, reserved FROM stock WHERE sku = $1")
        .await?;
    let row = client.query_opt(&statement, &[&sku.as_str()]).await?;
    Ok(row.as_ref().map(item))
}

/// How much there was of `sku` at the end of the moment `at`, under the name and price that it has now. `None` if it was
/// not stocked then.
///
/// # Errors
/// The database's.
pub async fn find_at(client: &impl GenericClient, sku: &Sku, at: Timestamp) -> Result<Option<Item>, Error> {
    let statement = client
        .prepare_cached(
            "SELECT stock.sku, name, unit_price_minor, past.on_hand, past.reserved
             FROM stock, LATERAL (
                 SELECT sum(on_hand_delta)::bigint AS on_hand, sum(reserved_delta)::bigint AS reserved
                 FROM stock_movements AS movement
                 WHERE movement.sku = stock.sku AND movement.occurred_at <= $2
             ) AS past
             WHERE stock.sku = $1 AND past.on_hand IS NOT NULL",
        )
        .await?;
    let row = client.query_opt(&statement, &[&sku.as_str(), &at]).await?;
    Ok(row.as_ref().map(item))
}

/// How much there was of `sku` after the event at `position`, under the name and price that it has now. `None` if it was
/// not stocked then.
///
/// # Errors
/// The database's.
pub async fn find_at_position(client: &impl GenericClient, sku: &Sku, position: i64) -> Result<Option<Item>, Error> {
    let row = client
        .query_opt(
            "SELECT stock.sku, name, unit_price_minor, past.on_hand, past.reserved
             FROM stock, LATERAL (
                 SELECT sum(on_hand_delta)::bigint AS on_hand, sum(reserved_delta)::bigint AS reserved
                 FROM stock_movements AS movement
                 WHERE movement.sku = stock.sku AND movement.position <= $2
             ) AS past
             WHERE stock.sku = $1 AND past.on_hand IS NOT NULL",
            &[&sku.as_str(), &position],
        )
        .await?;
    Ok(row.as_ref().map(item))
}

/// All goods that were stocked at the end of the moment `at`, in order of their SKUs, under the names and prices that they
/// have now: for totals, since it reads all movements.
///
/// # Errors
/// The database's.
pub async fn all_at(client: &impl GenericClient, at: Timestamp) -> Result<Vec<Item>, Error> {
    let rows = client
        .query(
            "SELECT sku, name, unit_price_minor, past.on_hand, past.reserved
             FROM stock JOIN (
                 SELECT sku, sum(on_hand_delta)::bigint AS on_hand, sum(reserved_delta)::bigint AS reserved
                 FROM stock_movements WHERE occurred_at <= $1 GROUP BY sku
             ) AS past USING (sku) ORDER BY sku",
            &[&at],
        )
        .await?;
    Ok(rows.iter().map(item).collect())
}

/// Up to `limit` goods that follow `after` in order of their SKUs; from the first for `None`.
///
/// # Errors
/// The database's.
pub async fn page(client: &impl GenericClient, after: Option<&str>, limit: i64) -> Result<Vec<Item>, Error> {
    let statement = client
        .prepare_cached(
            "SELECT sku, name, unit_price_minor, on_hand, reserved FROM stock WHERE sku > $1 ORDER BY sku LIMIT $2",
        )
        .await?;
    let rows = client.query(&statement, &[&after.unwrap_or_default(), &limit]).await?;
    Ok(rows.iter().map(item).collect())
}

/// The ledger of every SKU, in order: for an audit, since it reads all movements.
///
/// # Errors
/// The database's.
pub async fn totals(client: &impl GenericClient) -> Result<Vec<Totals>, Error> {
    let rows = client
        .query(
            "SELECT sku, coalesce(stock.on_hand, 0) AS on_hand, coalesce(stock.reserved, 0) AS reserved,
                    coalesce(moved.on_hand, 0)::bigint AS on_hand_moved,
                    coalesce(moved.reserved, 0)::bigint AS reserved_moved,
                    coalesce(set_aside, 0)::bigint AS set_aside, coalesce(committed, 0)::bigint AS committed,
                    coalesce(released, 0)::bigint AS released, coalesce(returned, 0)::bigint AS returned,
                    coalesce(adjusted, 0)::bigint AS adjusted, coalesce(received, 0)::bigint AS received
             FROM stock FULL JOIN (
                 SELECT sku, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
                        sum(reserved_delta) FILTER (WHERE kind = 'reserved') AS set_aside,
                        -sum(reserved_delta) FILTER (WHERE kind = 'committed') AS committed,
                        -sum(reserved_delta) FILTER (WHERE kind = 'released') AS released,
                        sum(on_hand_delta) FILTER (WHERE kind = 'returned') AS returned,
                        sum(on_hand_delta) FILTER (WHERE kind = 'adjusted') AS adjusted,
                        sum(on_hand_delta) FILTER (WHERE kind = 'received') AS received
                 FROM stock_movements GROUP BY sku
             ) AS moved USING (sku) ORDER BY sku",
            &[],
        )
        .await?;
    let totals = |row: &Row| Totals {
        sku: Sku::recorded(row.get("sku")),
        on_hand: (row.get("on_hand"), row.get("on_hand_moved")),
        reserved: (row.get("reserved"), row.get("reserved_moved")),
        set_aside: row.get("set_aside"),
        committed: row.get("committed"),
        released: row.get("released"),
        returned: row.get("returned"),
        adjusted: row.get("adjusted"),
        received: row.get("received"),
    };
    Ok(rows.iter().map(totals).collect())
}

fn item(row: &Row) -> Item {
    Item {
        sku: Sku::recorded(row.get("sku")),
        level: Level {
            name: row.get::<_, &str>("name").into(),
            unit_price_minor: row.get("unit_price_minor"),
            on_hand: row.get("on_hand"),
            reserved: row.get("reserved"),
        },
    }
}

/// The words for a kind, in the table.
fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Reserved => "reserved",
        Kind::Committed => "committed",
        Kind::Released => "released",
        Kind::Returned => "returned",
        Kind::Adjusted => "adjusted",
        Kind::Received => "received",
    }
}
