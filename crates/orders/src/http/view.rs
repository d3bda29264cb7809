//! Orders as clients see them. These types serialise; the domain's do not.

use common::event::Recorded;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::{Line, Order, OrderId, deadline};
use crate::store::Row;

/// One order.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct OrderView {
    /// Its id.
    pub order_id: Uuid,
    /// `placed`, `confirmed`, `completed`, `cancelling`, `cancelled` or `stuck`.
    #[schema(example = "completed")]
    pub status: &'static str,
    /// Why it was cancelled: `payment_declined`, `out_of_stock`, `customer_request` or `deadline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What went wrong, while it is stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck_reason: Option<String>,
    /// Who ordered.
    pub customer_id: String,
    /// ISO 4217 code.
    #[schema(example = "USD")]
    pub currency: String,
    /// What was ordered, as it was sent.
    pub lines: Vec<LineView>,
    /// The sum of the lines, in minor units.
    pub total_minor: i64,
    /// The payment company's token.
    #[schema(example = "tok_visa")]
    pub payment_method: String,
    /// The customer's own name for the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Where it was placed.
    #[schema(example = "web")]
    pub channel: String,
    /// What the customer asks whoever packs or delivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The caller's own words to sort orders by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// When it was placed.
    #[schema(value_type = String, format = DateTime)]
    pub placed_at: Timestamp,
    /// When something last happened to it.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// By when its status changes, unless it has ended or is stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
    /// How many events its stream has.
    pub version: i64,
    /// What payments has answered so far.
    pub payment: ParticipantView,
    /// What inventory has answered so far.
    pub stock: ParticipantView,
    #[serde(skip)]
    #[schema(ignore)]
    ended: bool,
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LineView {
    /// Which goods.
    #[schema(example = "NW-001")]
    pub sku: String,
    /// How many.
    pub quantity: i64,
    /// What one costs, in minor units.
    pub unit_price_minor: i64,
}

/// What a participant has answered so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ParticipantView {
    /// `pending` until it has answered.
    #[schema(example = "pending")]
    pub status: &'static str,
    /// Its own words, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// One order in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OrderSummary {
    /// Its id.
    pub order_id: Uuid,
    /// Where it stands.
    #[schema(example = "completed")]
    pub status: String,
    /// Why it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong, while it is stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck_reason: Option<String>,
    /// Who ordered.
    pub customer_id: String,
    /// ISO 4217 code.
    #[schema(example = "USD")]
    pub currency: String,
    /// The sum of its lines, in minor units.
    pub total_minor: i64,
    /// The customer's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// When it was placed.
    #[schema(value_type = String, format = DateTime)]
    pub placed_at: Timestamp,
    /// Since when it has this status.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// By when its status changes, unless it has ended or is stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
}

/// One event of an order's stream.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EventView {
    /// Its id, the same in Kafka's `ce_id`.
    pub id: Uuid,
    /// Its type.
    #[serde(rename = "type")]
    #[schema(example = "OrderPlaced")]
    pub event_type: String,
    /// Its place in the stream, from 1.
    pub version: i64,
    /// Its place in the service's event store.
    pub position: i64,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Timestamp,
    /// The same for all that belongs to this order, in every service.
    pub correlation_id: Uuid,
    /// The event, request or timer that led to it.
    pub causation_id: Uuid,
    /// What it says.
    #[schema(value_type = Object)]
    pub data: Value,
}

impl OrderView {
    /// `order` as clients see it, at `version`.
    pub fn new(order_id: OrderId, order: &Order, version: i64) -> Self {
        let request = &order.request;
        let (payment, stock) = (order.payment.status(), order.stock.status());
        Self {
            order_id: order_id.0,
            status: order.phase.name(),
            reason: order.phase.reason().map(|reason| reason.name()),
            stuck_reason: order.phase.stuck_reason().map(str::to_owned),
            customer_id: request.customer_id.as_str().to_owned(),
            currency: request.currency.code().to_owned(),
            lines: request.lines.iter().map(LineView::new).collect(),
            total_minor: request.total_minor,
            payment_method: request.payment_method.to_string(),
            reference: request.reference.as_deref().map(str::to_owned),
            channel: request.channel.to_string(),
            note: request.note.as_deref().map(str::to_owned),
            tags: request.tags.iter().map(ToString::to_string).collect(),
            placed_at: order.placed_at,
            updated_at: order.updated_at,
            due_at: deadline(order),
            version,
            payment: ParticipantView::new(payment),
            stock: ParticipantView::new(stock),
            ended: order.phase.has_ended(),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }
}

impl LineView {
    fn new(line: &Line) -> Self {
        Self {
            sku: line.sku.as_str().to_owned(),
            quantity: line.quantity,
            unit_price_minor: line.unit_price_minor,
        }
    }
}

impl ParticipantView {
    fn new((status, detail): (&'static str, Option<&str>)) -> Self {
        Self {
            status,
            detail: detail.map(str::to_owned),
        }
    }
}

impl From<Row> for OrderSummary {
    fn from(row: Row) -> Self {
        Self {
            order_id: row.order_id,
            status: row.status,
            reason: row.reason,
            stuck_reason: row.stuck_reason,
            customer_id: row.customer_id,
            currency: row.currency,
            total_minor: row.total_minor,
            reference: row.reference,
            placed_at: row.placed_at,
            since: row.since,
            due_at: row.due_at,
        }
    }
}

impl EventView {
    pub(super) fn new(recorded: &Recorded, data: Value) -> Self {
        let envelope = &recorded.envelope;
        Self {
            id: envelope.id,
            event_type: envelope.event_type.to_string(),
            version: envelope.stream_version,
            position: envelope.position,
            occurred_at: envelope.occurred_at,
            correlation_id: envelope.correlation_id,
            causation_id: envelope.causation_id,
            data,
        }
    }
}
