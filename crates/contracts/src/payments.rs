//! The wire types of payments: the money of an order.
//!
//! Twins of `schemas/payments/`, field for field and in the same order. They are what travels, not what payments thinks in:
//! its domain has types of its own.

use common::event::StreamId;
use serde::{Deserialize, Serialize};

common::events! {
    /// Everything that payments says.
    pub enum Event on "payments.events" in "rondo.payments" {
        PaymentIntentOpened { 1 => "../../../schemas/payments/PaymentIntentOpened.v1.avsc" },
        PaymentAttempted {
            1 => "../../../schemas/payments/PaymentAttempted.v1.avsc",
            2 => "../../../schemas/payments/PaymentAttempted.v2.avsc",
        },
        PaymentCancelRequested { 1 => "../../../schemas/payments/PaymentCancelRequested.v1.avsc" },
        PaymentAuthorized { 1 => "../../../schemas/payments/PaymentAuthorized.v1.avsc" },
        PaymentDeclined {
            1 => "../../../schemas/payments/PaymentDeclined.v1.avsc",
            2 => "../../../schemas/payments/PaymentDeclined.v2.avsc",
        },
        PaymentCaptured { 1 => "../../../schemas/payments/PaymentCaptured.v1.avsc" },
        PaymentCaptureFailed { 1 => "../../../schemas/payments/PaymentCaptureFailed.v1.avsc" },
        PaymentVoided { 1 => "../../../schemas/payments/PaymentVoided.v1.avsc" },
        PaymentRefunded { 1 => "../../../schemas/payments/PaymentRefunded.v1.avsc" },
        PaymentRefundFailed { 1 => "../../../schemas/payments/PaymentRefundFailed.v1.avsc" },
    }
}

impl Event {
    /// The order that this event belongs to.
    pub fn order_id(&self) -> &str {
        match self {
            Self::PaymentIntentOpened(event) => &event.order_id,
            Self::PaymentAttempted(event) => &event.order_id,
            Self::PaymentCancelRequested(event) => &event.order_id,
            Self::PaymentAuthorized(event) => &event.order_id,
            Self::PaymentDeclined(event) => &event.order_id,
            Self::PaymentCaptured(event) => &event.order_id,
            Self::PaymentCaptureFailed(event) => &event.order_id,
            Self::PaymentVoided(event) => &event.order_id,
            Self::PaymentRefunded(event) => &event.order_id,
            Self::PaymentRefundFailed(event) => &event.order_id,
        }
    }

    /// The stream that this event is appended to, which also gives its Kafka key: the order's.
    pub fn stream_id(&self) -> StreamId {
        StreamId::new(self.order_id())
    }
}

/// The gateway has not answered yet; the outcome is unknown and a worker goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentIntentOpened {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What is to be authorised, in minor units.
    pub amount_minor: i64,
    /// ISO 4217 code of the currency.
    pub currency: String,
    /// The gateway's token of how the customer pays.
    pub payment_method: String,
    /// When the intent was opened, in milliseconds since the Unix epoch.
    pub opened_unix_ms: i64,
}

/// One try of an open intent failed; nothing is decided yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentAttempted {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// Which try it was, counted from 1.
    pub attempt: i64,
    /// What the gateway did, for people.
    pub outcome: String,
    /// When it is tried again, in milliseconds since the Unix epoch.
    pub retry_at_unix_ms: i64,
}

/// The order is being cancelled while the intent's outcome is unknown; the worker ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCancelRequested {
    /// The order's id, a UUID as text.
    pub order_id: String,
}

/// The amount is held for the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentAuthorized {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// The payment's id at the gateway.
    pub payment_id: String,
    /// What is held, in minor units.
    pub amount_minor: i64,
    /// ISO 4217 code of the currency.
    pub currency: String,
}

/// The amount will not be held for the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentDeclined {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// Why the amount is not held.
    pub reason: DeclineReason,
}

/// The held amount was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCaptured {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// The payment's id at the gateway.
    pub payment_id: String,
    /// What was taken, in minor units.
    pub amount_minor: i64,
    /// ISO 4217 code of the currency.
    pub currency: String,
}

/// The held amount could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCaptureFailed {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What the gateway said, for people.
    pub reason: String,
}

/// Nothing is held for the order any more; acknowledges its cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentVoided {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// The voided payment's id at the gateway; null if there was none.
    pub payment_id: Option<String>,
    /// Whether there was nothing to void. Never said while the outcome of an authorisation is unknown.
    pub nothing_held: bool,
}

/// The taken amount was given back; acknowledges the cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRefunded {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// The payment's id at the gateway.
    pub payment_id: String,
    /// What was given back, in minor units.
    pub amount_minor: i64,
    /// ISO 4217 code of the currency.
    pub currency: String,
}

/// The taken amount could not be given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRefundFailed {
    /// The order's id, a UUID as text.
    pub order_id: String,
    /// What the gateway said, for people.
    pub reason: String,
}

/// Why a payment was declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeclineReason {
    /// The gateway declined.
    Declined,
    /// The customer has not enough money.
    InsufficientFunds,
    /// The gateway stayed unavailable until the tries were exhausted.
    Unavailable,
    /// The order had been cancelled before it was seen.
    Cancelled,
    /// The card that the token stands for is past its date.
    ExpiredCard,
    /// A symbol that a newer writer knows and this build does not.
    #[serde(other)]
    Unknown,
}
