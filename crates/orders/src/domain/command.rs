//! What can be asked of an order, and why it may be refused.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Answer, CustomerId, Request, SourceId};

/// What can be asked of an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Take this order.
    Place {
        /// What the customer asks for.
        request: Arc<Request>,
        /// How long both may take to say whether they could.
        decide_within: SignedDuration,
        /// How long each later step may take.
        settle_within: SignedDuration,
    },
    /// Write down what a participant has answered.
    Note {
        /// What.
        answer: Answer,
        /// In which event.
        source: SourceId,
    },
    /// Call it off.
    Cancel {
        /// Who asks.
        by: Canceller,
    },
    /// A timer that was set for `due` has gone off.
    Deadline {
        /// The instant that has passed by the database's clock.
        due: Timestamp,
    },
    /// Try again what is stuck.
    Resume {
        /// Who asks, for the record.
        operator: Box<str>,
    },
}

/// Who calls an order off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Canceller {
    /// A customer: only their own order.
    Customer(CustomerId),
    /// An operator: any order.
    Operator,
}

/// Why a command is refused. Nobody waits for these but the caller: a refusal that others wait for is an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Nothing was ever placed under this id.
    #[error("there is no such order")]
    NotFound,
    /// The idempotency key belongs to another request.
    #[error("this idempotency key was used for an order with other content")]
    KeyReused,
    /// A customer calls off somebody else's order.
    #[error("the order belongs to another customer")]
    NotTheCustomer,
    /// Too late to cancel.
    #[error("the order is completed and can no longer be cancelled")]
    AlreadyCompleted,
    /// Nothing to resume.
    #[error("the order is {status}, not stuck")]
    NotStuck {
        /// Where it stands.
        status: &'static str,
    },
    /// An answer to something that the order never asked: the sender broke the choreography.
    #[error("{answer} answers nothing that an order which is {status} has asked")]
    NeverAsked {
        /// What came.
        answer: &'static str,
        /// Where the order stands.
        status: &'static str,
    },
}
