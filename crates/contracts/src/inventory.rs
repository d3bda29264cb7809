//! The wire types of inventory: the stock of an order, and the level of each SKU.
//!
//! Twins of `schemas/inventory/`, field for field and in the same order. They are what travels, not what inventory thinks in:
//! its domain has types of its own.

use common::event::StreamId;
use serde::{Deserialize, Serialize};

common::events! {
    /// Everything that inventory says.
    pub enum Event on "inventory.events" in "rondo.inventory" {
        StockReserved { 1 => "../../../schemas/inventory/StockReserved.v1.avsc" },
        StockRejected { 1 => "../../../schemas/inventory/StockRejected.v1.avsc" },
        StockCommitted { 1 => "../../../schemas/inventory/StockCommitted.v1.avsc" },
        StockReleased { 1 => "../../../schemas/inventory/StockReleased.v1.avsc" },
        StockReturned { 1 => "../../../schemas/inventory/StockReturned.v1.avsc" },
        StockAdjusted { 1 => "../../../schemas/inventory/StockAdjusted.v1.avsc" },
        StockReceived { 1 => "../../../schemas/inventory/StockReceived.v1.avsc" },
    }
}

/// Kind of the streams that hold the level of one SKU.
pub const SKU_STREAM: &str = "sku";

impl Event {
    /// The order that this event belongs to; none for the level of a SKU.
    pub fn order_id(&self) -> Option<&str> {
        match self {
            Self::StockReserved(event) => Some(&event.order_id),
            Self::StockRejected(event) => Some(&event.order_id),
            Self::StockCommitted(event) => Some(&event.order_id),
            Self::StockReleased(event) => Some(&event.order_id),
            Self::StockReturned(event) => Some(&event.order_id),
            Self::StockAdjusted(_) | Self::StockReceived(_) => None,
        }
    }

    /// The stream that this event is appended to, which also gives its Kafka key: the order's, or the SKU's.
    pub fn stream_id(&self) -> StreamId {
        match self {
            Self::StockReserved(event) => StreamId::new(event.order_id.as_str()),
            Self::StockRejected(event) => StreamId::new(event.order_id.as_str()),
            Self::StockCommitted(event) => StreamId::new(event.order_id.as_str()),
            Self::StockReleased(event) => StreamId::new(event.order_id.as_str()),
            Self::StockReturned(event) => StreamId::new(event.order_id.as_str()),
            Self::StockAdjusted(event) => StreamId::of_kind(SKU_STREAM, &event.sku),
            Self::StockReceived(event) => StreamId::of_kind(SKU_STREAM, &event.sku),
        }
    }
}

/// All lines of the order are set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReserved {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What is set aside: summed by SKU, sorted by SKU.
    pub lines: Vec<StockLine>,
}

/// Nothing is set aside for the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRejected {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What was missing, sorted by SKU; empty if the order had been cancelled before.
    pub shortages: Vec<Shortage>,
    /// Whether it was refused because its cancellation had arrived first.
    pub cancelled: bool,
}

/// What was set aside has left the stock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockCommitted {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What left: summed by SKU, sorted by SKU.
    pub lines: Vec<StockLine>,
}

/// Nothing is set aside for the order any more; acknowledges its cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReleased {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What was set aside until now; empty if nothing was.
    pub lines: Vec<StockLine>,
    /// Whether there was nothing to release.
    pub nothing_held: bool,
}

/// What had left the stock for the order is back; acknowledges the cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReturned {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What came back: summed by SKU, sorted by SKU.
    pub lines: Vec<StockLine>,
}

/// The level of a SKU was set, as a count or an import found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockAdjusted {
    /// Which goods.
    pub sku: String,
    /// What people call it.
    pub name: String,
    /// List price of one, in minor units.
    pub unit_price_minor: i64,
    /// The level from now on.
    pub on_hand: i64,
    /// The new level less the one before.
    pub delta: i64,
}

/// Goods arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReceived {
    /// Which goods.
    pub sku: String,
    /// How many arrived, at least one.
    pub quantity: i64,
    /// Id of the receipt; the same receipt counts once.
    pub receipt_id: String,
}

/// A quantity of one SKU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockLine {
    /// Which goods.
    pub sku: String,
    /// How many, at least one.
    pub quantity: i64,
}

/// One SKU of which there was not enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// Which goods.
    pub sku: String,
    /// How many the order asks for.
    pub requested: i64,
    /// How many were available; 0 for an unknown SKU.
    pub available: i64,
}
