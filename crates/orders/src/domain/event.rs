//! What happens to an order: the events of its stream, as the domain thinks of them. What travels is in `contracts`.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Cause, Currency, PaymentAnswer, Request, SourceId, StockAnswer};

/// What has happened to an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It was taken: payments and inventory are asked whether they could.
    OrderPlaced {
        /// What the customer asked for.
        request: Arc<Request>,
        /// When it is cancelled for want of an answer.
        decide_by: Timestamp,
        /// When it is stuck, were it confirmed at once: carries the order's settle window.
        settle_by: Timestamp,
    },
    /// An answer of payments was written down.
    PaymentNoted {
        /// What payments said.
        answer: PaymentAnswer,
        /// In which event.
        source: SourceId,
    },
    /// An answer of inventory was written down.
    StockNoted {
        /// What inventory said.
        answer: StockAnswer,
        /// In which event.
        source: SourceId,
    },
    /// Both said yes: they are asked to do it.
    OrderConfirmed {
        /// What is to be captured.
        total_minor: i64,
        /// In which currency.
        currency: Currency,
    },
    /// It will not be: both are asked to undo.
    OrderCancelling {
        /// What began it.
        cause: Cause,
        /// When it is stuck for want of an acknowledgement.
        settle_by: Timestamp,
    },
    /// Captured and committed.
    OrderCompleted,
    /// Undone, by both.
    OrderCancelled {
        /// Why.
        reason: Cause,
    },
    /// It needs a person.
    OrderStuck {
        /// What went wrong.
        reason: Box<str>,
    },
    /// Somebody sent it on: both are asked again.
    OrderResumed {
        /// Who.
        operator: Box<str>,
        /// Where to.
        toward: Toward,
        /// When it is stuck again.
        settle_by: Timestamp,
    },
}

/// Where a resumed order goes: the way it was going when it stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// Capture and commit.
    Completion,
    /// Void or refund, and release or return.
    Cancellation,
}
