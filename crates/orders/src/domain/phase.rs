//! Where an order stands, and why it is cancelled.

use jiff::Timestamp;

/// Where an order stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Asked both whether they could.
    Placed {
        /// When it is cancelled for want of an answer.
        decide_by: Timestamp,
    },
    /// Both said yes and were asked to do it.
    Confirmed {
        /// When it is stuck for want of an answer.
        settle_by: Timestamp,
    },
    /// Paid and shipped. The end.
    Completed,
    /// Asked both to undo what they did.
    Cancelling {
        /// What began it.
        cause: Cause,
        /// When it is stuck for want of an acknowledgement.
        settle_by: Timestamp,
    },
    /// Undone, and both have said so. The end.
    Cancelled {
        /// Why, as customers are told.
        reason: Cause,
    },
    /// Not done: stuck while it was confirmed. An operator resumes it, or the missing answer does come.
    StuckConfirmed {
        /// What went wrong, for the operator.
        reason: Box<str>,
    },
    /// Not undone: stuck while it was cancelling. An operator resumes it, or the missing acknowledgement does come.
    StuckCancelling {
        /// What went wrong, for the operator.
        reason: Box<str>,
        /// What began the cancelling.
        cause: Cause,
    },
}

/// Why an order is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Payments said no.
    PaymentDeclined,
    /// Inventory said no.
    OutOfStock,
    /// The customer, or an operator in their name, asked for it.
    CustomerRequest,
    /// Somebody did not answer in time.
    Deadline,
}

impl Phase {
    /// The order's status, as everybody outside sees it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Placed { .. } => "placed",
            Self::Confirmed { .. } => "confirmed",
            Self::Completed => "completed",
            Self::Cancelling { .. } => "cancelling",
            Self::Cancelled { .. } => "cancelled",
            Self::StuckConfirmed { .. } | Self::StuckCancelling { .. } => "stuck",
        }
    }

    /// Why it was cancelled; fixed only at the end.
    pub fn reason(&self) -> Option<Cause> {
        match self {
            Self::Cancelled { reason } => Some(*reason),
            Self::Placed { .. }
            | Self::Confirmed { .. }
            | Self::Completed
            | Self::Cancelling { .. }
            | Self::StuckConfirmed { .. }
            | Self::StuckCancelling { .. } => None,
        }
    }

    /// What went wrong, while it is stuck.
    pub fn stuck_reason(&self) -> Option<&str> {
        match self {
            Self::StuckConfirmed { reason } | Self::StuckCancelling { reason, .. } => Some(reason),
            Self::Placed { .. }
            | Self::Confirmed { .. }
            | Self::Completed
            | Self::Cancelling { .. }
            | Self::Cancelled { .. } => None,
        }
    }

    /// Whether nothing more will happen.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled { .. })
    }
}

impl Cause {
    /// The reason, as everybody outside sees it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PaymentDeclined => "payment_declined",
            Self::OutOfStock => "out_of_stock",
            Self::CustomerRequest => "customer_request",
            Self::Deadline => "deadline",
        }
    }
}
