//! The wire types of orders: what becomes of an order, decided by orders alone.
//!
//! Twins of `schemas/orders/`, field for field and in the same order. They are what travels, not what orders thinks in:
//! its domain has types of its own.

use common::event::StreamId;
use serde::{Deserialize, Serialize};

use crate::upcast;

common::events! {
    /// Everything that orders says.
    pub enum Event on "orders.events" in "rondo.orders" {
        OrderPlaced {
            1 => "../../../schemas/orders/OrderPlaced.v1.avsc",
            2 => "../../../schemas/orders/OrderPlaced.v2.avsc",
            3 => "../../../schemas/orders/OrderPlaced.v3.avsc",
        },
        PaymentNoted { 1 => "../../../schemas/orders/PaymentNoted.v1.avsc" },
        StockNoted { 1 => "../../../schemas/orders/StockNoted.v1.avsc" },
        OrderConfirmed { 1 => "../../../schemas/orders/OrderConfirmed.v1.avsc" },
        OrderCancelling { 1 => "../../../schemas/orders/OrderCancelling.v1.avsc" },
        OrderCompleted { 1 => "../../../schemas/orders/OrderCompleted.v1.avsc" },
        OrderCancelled { 1 => "../../../schemas/orders/OrderCancelled.v1.avsc" },
        OrderStuck { 1 => "../../../schemas/orders/OrderStuck.v1.avsc" },
        OrderResumed { 1 => "../../../schemas/orders/OrderResumed.v1.avsc" },
    }
}

impl Event {
    /// The order that this event belongs to.
    pub fn order_id(&self) -> &str {
        match self {
            Self::OrderPlaced(event) => &event.order_id,
            Self::PaymentNoted(event) => &event.order_id,
            Self::StockNoted(event) => &event.order_id,
            Self::OrderConfirmed(event) => &event.order_id,
            Self::OrderCancelling(event) => &event.order_id,
            Self::OrderCompleted(event) => &event.order_id,
            Self::OrderCancelled(event) => &event.order_id,
            Self::OrderStuck(event) => &event.order_id,
            Self::OrderResumed(event) => &event.order_id,
        }
    }

    /// The stream that this event is appended to, which also gives its Kafka key: the order's.
    pub fn stream_id(&self) -> StreamId {
        StreamId::new(self.order_id())
    }
}

/// An order was accepted; payments and inventory start on it in parallel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPlaced {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// Who ordered.
    pub customer_id: String,
    /// ISO 4217 code of the currency.
    pub currency: String,
    /// What was ordered, as the customer listed it: one SKU may occur twice.
    pub lines: Vec<Line>,
    /// Sum of quantity times unit price over the lines, in minor units.
    pub total_minor: i64,
    /// The gateway's token of how the customer pays.
    pub payment_method: String,
    /// The customer's own reference, if one was given.
    pub reference: Option<String>,
    /// The Idempotency-Key that the order was placed with; unique for the customer.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the request body in hex; tells a repeated request from a different one under the same key.
    pub request_hash: String,
    /// When both answers must have arrived, in milliseconds since the Unix epoch; past it the order is cancelled.
    pub decide_by_unix_ms: i64,
    /// When the order must have ended, in milliseconds since the Unix epoch; past it the order is stuck.
    pub settle_by_unix_ms: i64,
    /// Where the order was placed: web unless the customer's request said otherwise.
    #[serde(default = "upcast::order_placed::channel")]
    pub channel: String,
    /// What the customer asks whoever packs or delivers, if anything.
    pub note: Option<String>,
    /// Words by which the caller sorts its orders; Rondo gives them no meaning.
    #[serde(default = "upcast::order_placed::tags")]
    pub tags: Vec<String>,
}

/// An answer of payments joined the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentNoted {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What payments answered.
    pub outcome: PaymentOutcome,
    /// The answer's own reason, for people; null where it gives none.
    pub detail: Option<String>,
    /// Id of the event that this notes.
    pub source_event_id: String,
}

/// An answer of inventory joined the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockNoted {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What inventory answered.
    pub outcome: StockOutcome,
    /// The answer's own reason, for people; null where it gives none.
    pub detail: Option<String>,
    /// Id of the event that this notes.
    pub source_event_id: String,
}

/// Both answers are yes: payments captures, inventory commits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderConfirmed {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What to capture, in minor units.
    pub total_minor: i64,
    /// ISO 4217 code of the currency.
    pub currency: String,
}

/// The order will not complete: payments and inventory undo what they did, and say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCancelling {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What began the cancellation.
    pub cause: CancelCause,
    /// When the order must have ended, in milliseconds since the Unix epoch; past it the order is stuck.
    pub settle_by_unix_ms: i64,
}

/// The money is captured and the stock committed: the order has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCompleted {
    /// The order's id, a UUID as text.
    pub order_id: String,
}

/// Both participants have acknowledged the cancellation: the order has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCancelled {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// Why, fixed from both answers so that their order of arrival does not matter.
    pub reason: CancelReason,
}

/// The order can neither complete nor cancel by itself; a person must look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStuck {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What is in the way, for people.
    pub reason: String,
}

/// An operator set a stuck order going again; participants answer again from state or retry the failed step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderResumed {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// Who resumed it.
    pub operator: String,
    /// Which end it heads for.
    pub toward: ResumeToward,
    /// When the order must have ended, in milliseconds since the Unix epoch; past it the order is stuck.
    pub settle_by_unix_ms: i64,
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What is ordered.
    pub sku: String,
    /// How many, at least one.
    pub quantity: i64,
    /// Price of one, in minor units of the order's currency.
    pub unit_price_minor: i64,
}

/// What payments answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PaymentOutcome {
    /// The amount is held.
    Authorized,
    /// The amount will not be held.
    Declined,
    /// The amount was taken.
    Captured,
    /// The amount could not be taken.
    CaptureFailed,
    /// Nothing is held any more.
    Voided,
    /// The amount was given back.
    Refunded,
    /// The amount could not be given back.
    RefundFailed,
    /// A symbol that a newer writer knows and this build does not.
    #[serde(other)]
    Unknown,
}

/// What inventory answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StockOutcome {
    /// The goods are set aside.
    Reserved,
    /// Nothing is set aside.
    Rejected,
    /// The goods have left the stock.
    Committed,
    /// Nothing is set aside any more.
    Released,
    /// The goods are back in stock.
    Returned,
    /// A symbol that a newer writer knows and this build does not.
    #[serde(other)]
    Unknown,
}

/// What began a cancellation: the first no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CancelCause {
    /// Payments said no.
    PaymentDeclined,
    /// Inventory said no.
    OutOfStock,
    /// The customer asked for it.
    CustomerRequest,
    /// An answer did not arrive in time.
    Deadline,
    /// A symbol that a newer writer knows and this build does not.
    #[serde(other)]
    Unknown,
}

/// Why an order ended cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CancelReason {
    /// Payments said no, whatever inventory said.
    PaymentDeclined,
    /// Inventory said no and payments did not.
    OutOfStock,
    /// The customer asked for it.
    CustomerRequest,
    /// An answer did not arrive in time.
    Deadline,
    /// A symbol that a newer writer knows and this build does not.
    #[serde(other)]
    Unknown,
}

/// Which end a resumed order heads for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ResumeToward {
    /// Capture and commit.
    Completion,
    /// Undo what was done.
    Cancellation,
    /// A symbol that a newer writer knows and this build does not.
    #[serde(other)]
    Unknown,
}
