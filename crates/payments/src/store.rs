//! All SQL of the table `payments`: one row an order, a function of its stream alone.

use std::mem;

use common::pg::Write;
use common::pg::copy::{Load, Rows};
use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::{Error, Row};

use crate::domain::{DeclineReason, State};

/// What is known of one order's money.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    /// The gateway's id, once it has given one.
    pub payment_id: Option<String>,
    /// How far it has come: one of [`STATUSES`].
    pub status: String,
    /// How much was asked for, where the stream tells.
    pub amount_minor: Option<i64>,
    /// ISO 4217 code, where the stream tells an amount.
    pub currency: Option<String>,
    /// How much was taken, ever.
    pub captured_minor: i64,
    /// How much of that was given back.
    pub refunded_minor: i64,
    /// Why it was declined, or why the last step failed.
    pub reason: Option<String>,
    /// Tries of an open intent.
    pub tries: i32,
    /// When the next one is due.
    pub next_try_at: Option<Timestamp>,
}

/// Every value of `status`.
pub const STATUSES: &[&str] = &[
    "unseen",
    "pending",
    "cancelling",
    "authorized",
    "declined",
    "capture_failed",
    "captured",
    "refund_failed",
    "voided",
    "refunded",
];

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The order.
    pub order_id: String,
    /// Its money.
    pub ledger: Ledger,
    /// Version of its stream.
    pub version: i64,
    /// When the stream's last event occurred.
    pub updated_at: Timestamp,
}

impl Ledger {
    /// The ledger of a payment in `state`. Absolute amounts: an event that says again what was said changes nothing.
    pub fn of(state: &State) -> Self {
        let amount = state.amount();
        let minor = amount.map_or(0, |amount| amount.minor());
        let (captured_minor, refunded_minor) = match state {
            State::Captured(_) | State::RefundFailed { .. } => (minor, 0),
            State::Refunded(_) => (minor, minor),
            State::Unseen
            | State::Tombstone
            | State::Pending(_)
            | State::Cancelling(_)
            | State::Authorized(_)
            | State::Declined(_)
            | State::CaptureFailed { .. }
            | State::Voided { .. } => (0, 0),
        };
        let payment_id = match state {
            State::Authorized(payment)
            | State::CaptureFailed { payment, .. }
            | State::Captured(payment)
            | State::RefundFailed { payment, .. }
            | State::Refunded(payment) => Some(&payment.id),
            State::Voided { held, .. } => held.as_ref(),
            State::Unseen | State::Tombstone | State::Pending(_) | State::Cancelling(_) | State::Declined(_) => None,
        };
        let intent = state.intent();
        Self {
            payment_id: payment_id.map(|id| id.as_str().to_owned()),
            status: status(state).to_owned(),
            amount_minor: amount.map(|amount| amount.minor()),
            currency: amount.map(|amount| amount.currency().to_string()),
            captured_minor,
            refunded_minor,
            reason: reason(state).map(str::to_owned),
            tries: intent.map_or(0, |intent| intent.tries.cast_signed()),
            next_try_at: intent.map(|intent| intent.next_try),
        }
    }
}

fn status(state: &State) -> &'static str {
    match state {
        State::Unseen => "unseen",
        State::Pending(_) => "pending",
        State::Cancelling(_) => "cancelling",
        State::Authorized(_) => "authorized",
        State::Declined(_) => "declined",
        State::CaptureFailed { .. } => "capture_failed",
        State::Captured(_) => "captured",
        State::RefundFailed { .. } => "refund_failed",
        State::Tombstone | State::Voided { .. } => "voided",
        State::Refunded(_) => "refunded",
    }
}

fn reason(state: &State) -> Option<&str> {
    match state {
        State::Declined(DeclineReason::Declined) => Some("declined"),
        State::Declined(DeclineReason::InsufficientFunds) => Some("insufficient_funds"),
        State::Declined(DeclineReason::Unavailable) => Some("unavailable"),
        State::Declined(DeclineReason::Cancelled) | State::Tombstone => Some("cancelled"),
        State::Declined(DeclineReason::ExpiredCard) => Some("expired_card"),
        State::CaptureFailed { reason, .. } | State::RefundFailed { reason, .. } => Some(reason),
        State::Unseen
        | State::Pending(_)
        | State::Cancelling(_)
        | State::Authorized(_)
        | State::Captured(_)
        | State::Voided { .. }
        | State::Refunded(_) => None,
    }
}

/// What writes `entries`, at most one an order, over what was known before.
pub fn save(mut entries: Vec<Entry>) -> Option<Write<'static>> {
    if entries.is_empty() {
        return None;
    }
    let write = Write::new(
        "INSERT INTO payments (order_id, payment_id, status, amount_minor, currency, captured_minor, refunded_minor,
                               reason, tries, next_try_at, version, updated_at)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[],
                              $7::bigint[], $8::text[], $9::int[], $10::timestamptz[], $11::bigint[],
                              $12::timestamptz[])
         ON CONFLICT (order_id) DO UPDATE SET
             payment_id = excluded.payment_id, status = excluded.status, amount_minor = excluded.amount_minor,
             currency = excluded.currency, captured_minor = excluded.captured_minor,
             refunded_minor = excluded.refunded_minor, reason = excluded.reason, tries = excluded.tries,
             next_try_at = excluded.next_try_at, version = excluded.version, updated_at = excluded.updated_at",
    )
    .column(entries.iter_mut().map(|entry| mem::take(&mut entry.order_id)))
    .column(entries.iter_mut().map(|entry| entry.ledger.payment_id.take()))
    .column(entries.iter_mut().map(|entry| mem::take(&mut entry.ledger.status)))
    .column(entries.iter().map(|entry| entry.ledger.amount_minor))
    .column(entries.iter_mut().map(|entry| entry.ledger.currency.take()))
    .column(entries.iter().map(|entry| entry.ledger.captured_minor))
    .column(entries.iter().map(|entry| entry.ledger.refunded_minor))
    .column(entries.iter_mut().map(|entry| entry.ledger.reason.take()))
    .column(entries.iter().map(|entry| entry.ledger.tries))
    .column(entries.iter().map(|entry| entry.ledger.next_try_at))
    .column(entries.iter().map(|entry| entry.version))
    .column(entries.iter().map(|entry| entry.updated_at));
    Some(write)
}

/// The rows of `entries`, of orders of which nothing was known before, at most one an order.
pub fn load(mut entries: Vec<Entry>) -> Load {
    // Neighbours in the index one after the other.
    entries.sort_unstable_by(|one, other| one.order_id.cmp(&other.order_id));
    let mut rows = Rows::default();
    for entry in entries {
        let ledger = &entry.ledger;
        rows.row(12)
            .text(&entry.order_id)
            .nullable(ledger.payment_id.as_deref(), Rows::text)
            .text(&ledger.status)
            .nullable(ledger.amount_minor, Rows::bigint)
            .nullable(ledger.currency.as_deref(), Rows::text)
            .bigint(ledger.captured_minor)
            .bigint(ledger.refunded_minor)
            .nullable(ledger.reason.as_deref(), Rows::text)
            .int(ledger.tries)
            .nullable(ledger.next_try_at, Rows::timestamptz)
            .bigint(entry.version)
            .timestamptz(entry.updated_at);
    }
    Load {
        table: "payments",
        columns: "order_id, payment_id, status, amount_minor, currency, captured_minor, refunded_minor, reason, tries, next_try_at, \
                  version, updated_at",
        rows,
    }
}

/// What is known of the money of `order_id`.
///
/// # Errors
/// The database's.
pub async fn find(client: &impl GenericClient, order_id: &str) -> Result<Option<Entry>, Error> {
    let statement = client
        .prepare_cached(
            "SELECT order_id, payment_id, status, amount_minor, currency, captured_minor, refunded_minor, reason, tries,
                    next_try_at, version, updated_at
             FROM payments WHERE order_id = $1",
        )
        .await?;
    let row = client.query_opt(&statement, &[&order_id]).await?;
    Ok(row.as_ref().map(entry))
}

fn entry(row: &Row) -> Entry {
    Entry {
        order_id: row.get("order_id"),
        ledger: Ledger {
            payment_id: row.get("payment_id"),
            status: row.get("status"),
            amount_minor: row.get("amount_minor"),
            currency: row.get("currency"),
            captured_minor: row.get("captured_minor"),
            refunded_minor: row.get("refunded_minor"),
            reason: row.get("reason"),
            tries: row.get("tries"),
            next_try_at: row.get("next_try_at"),
        },
        version: row.get("version"),
        updated_at: row.get("updated_at"),
    }
}
