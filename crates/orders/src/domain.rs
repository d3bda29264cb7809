//! The saga of one order, whole: every phase, what is asked, what is answered, and what follows.
//!
//! ```text
//!  OrderPlaced
//!      ▼
//!    placed ───────── OrderConfirmed ───────► confirmed ───── OrderCompleted ─────► completed
//!      │              both could               │   ▲          both did
//!      │                                       │   └─ OrderResumed ─┐
//!      │                                       ├── OrderStuck ──► stuck      capture failed, or not settled in time
//!      │                                       │                    │
//!      │ OrderCancelling: a no,                │ OrderCancelling:   │ OrderCancelling:
//!      │ the deadline, the customer            │ the customer       │ the customer
//!      ▼                                       ▼                    ▼
//!  cancelling ◄────────────────────────────────┴────────────────────┘
//!      │   ▲
//!      │   └─ OrderResumed ─┐
//!      ├── OrderStuck ──► stuck      refund failed, or not settled in time
//!      │
//!      │ OrderCancelled: both undid
//!      ▼
//!  cancelled
//! ```
//!
//! Nobody coordinates. An order asks payments and inventory the same thing at the same time by saying an event, up to
//! three times in its life, and each time both answer:
//!
//! | the order says    | which asks        | payments answers           | inventory answers    |
//! |-------------------|-------------------|----------------------------|----------------------|
//! | `OrderPlaced`     | could you?        | authorised, declined       | reserved, rejected   |
//! | `OrderConfirmed`  | then do it        | captured, failed           | committed            |
//! | `OrderCancelling` | undo what you did | voided, refunded, failed   | released, returned   |
//!
//! Each answer is first written down as an event of the order's own stream (`PaymentNoted`, `StockNoted`), and then
//! [`what_follows`] looks at everything written down so far. It looks at the answers, never at which came first, so two
//! answers that race lead to the same end; and a rebuild, a restore or a look into the past loses no half-joined order.
//!
//! Three pure functions carry it: [`decide`], [`evolve`] and, in [`reactions`](crate::reactions), `react`. Time, ids and
//! windows come in with the command. Nothing here waits, draws a random number, or knows of Avro, Kafka, HTTP or SQL.

mod answers;
mod command;
mod event;
mod phase;
mod request;

#[cfg(test)]
mod exploration;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::sample_request;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

pub use answers::{
    Answer, Authorization, Capture, Decline, Payment, PaymentAnswer, PaymentUndo, Refusal, Reservation, Stock,
    StockAnswer, StockUndo,
};
pub use command::{Canceller, Command, Rejection};
pub use event::{Event, Toward};
pub use phase::{Cause, Phase};
pub(crate) use request::printable;
pub use request::{Currency, CustomerId, Line, OrderId, Request, Sku, SourceId, total_minor};

/// An order's folded events; `None` before the first.
pub type State = Option<Order>;

/// One order: what was asked for, where it stands, and what has been answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// What the customer asked for.
    pub request: Arc<Request>,
    /// Where it stands.
    pub phase: Phase,
    /// What payments has answered.
    pub payment: Payment,
    /// What inventory has answered.
    pub stock: Stock,
    /// How long this order may take to settle, counted anew from each `OrderConfirmed`, `OrderCancelling` and
    /// `OrderResumed`.
    pub settle_within: SignedDuration,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it entered its phase.
    pub since: Timestamp,
    /// When its last event happened.
    pub updated_at: Timestamp,
    /// The events whose answers are written down: how a duplicate is recognised.
    heard: Vec<SourceId>,
}

/// The events that follow from `command`. A command that changes nothing, because it was heard before or comes too late
/// to matter, is `Ok` and decides to nothing.
///
/// # Errors
/// [`Rejection`] is the caller's mistake.
pub fn decide(state: &State, command: &Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    match (command, state) {
        (
            Command::Place {
                request,
                decide_within,
                settle_within,
            },
            None,
        ) => Ok(vec![Event::OrderPlaced {
            request: request.clone(),
            decide_by: after(now, *decide_within),
            settle_by: after(now, *settle_within),
        }]),
        (Command::Place { request, .. }, Some(order)) => place_again(order, request),
        (_, None) => Err(Rejection::NotFound),
        (Command::Note { answer, source }, Some(order)) => note(order, answer, *source, now),
        (Command::Cancel { by }, Some(order)) => cancel(order, by, now),
        (Command::Deadline { due }, Some(order)) => Ok(deadline_passed(order, *due, now)),
        (Command::Resume { operator }, Some(order)) => resume(order, operator, now),
    }
}

/// What follows once an answer has been written down: the saga's table. At most one event, which ends the phase.
fn what_follows(order: &Order, now: Timestamp) -> Option<Event> {
    let (payment, stock) = (&order.payment, &order.stock);
    match order.phase {
        // Both yes confirms; the first no cancels, without waiting for the other.
        Phase::Placed { .. } => match (&payment.authorization, &stock.reservation) {
            (Some(Authorization::Declined(_)), _) => Some(order.cancelling(Cause::PaymentDeclined, now)),
            (_, Some(Reservation::Rejected(_))) => Some(order.cancelling(Cause::OutOfStock, now)),
            (Some(Authorization::Authorized), Some(Reservation::Reserved)) => Some(order.confirmed()),
            (None, _) | (_, None) => None,
        },
        // Both done completes. A failed capture leaves stock committed and no money: a person decides (edge 3).
        Phase::Confirmed { .. } => match (&payment.capture, stock.committed) {
            (Some(Capture::Failed(why)), _) => Some(stuck(format!("the payment could not be captured: {why}"))),
            (Some(Capture::Captured), true) => Some(Event::OrderCompleted),
            (None, _) | (_, false) => None,
        },
        // Only two acknowledgements cancel. Late answers to what was asked before are written down and change nothing
        // here: a participant that authorised or reserved late is undoing it, and says so in its acknowledgement
        // (edge 1).
        Phase::Cancelling { cause, .. } => match (&payment.undo, &stock.undo) {
            (Some(PaymentUndo::Failed(why)), _) => Some(stuck(format!("the payment could not be refunded: {why}"))),
            (Some(PaymentUndo::Voided | PaymentUndo::Refunded), Some(StockUndo::Released | StockUndo::Returned)) => {
                Some(order.cancelled(cause))
            }
            (None, _) | (_, None) => None,
        },
        // What it waited for may still come, and then nobody need resume it. A further failure changes nothing.
        Phase::StuckConfirmed { .. } => match (&payment.capture, stock.committed) {
            (Some(Capture::Captured), true) => Some(Event::OrderCompleted),
            (None | Some(Capture::Failed(_)), _) | (_, false) => None,
        },
        Phase::StuckCancelling { cause, .. } => match (&payment.undo, &stock.undo) {
            (Some(PaymentUndo::Voided | PaymentUndo::Refunded), Some(StockUndo::Released | StockUndo::Returned)) => {
                Some(order.cancelled(cause))
            }
            (None | Some(PaymentUndo::Failed(_)), _) | (_, None) => None,
        },
        // Ended is ended.
        Phase::Completed | Phase::Cancelled { .. } => None,
    }
}

/// The reason that a cancelled order shows, fixed when both have answered everything, so that it does not depend on
/// whose no came first (edge 2).
///
/// | cancelling began by           | payments said             | inventory said | reason             |
/// |-------------------------------|---------------------------|----------------|--------------------|
/// | the customer                  | anything                  | anything       | `customer_request` |
/// | the deadline                  | anything                  | anything       | `deadline`         |
/// | a no                          | declined                  | anything       | `payment_declined` |
/// | a no                          | anything else             | rejected       | `out_of_stock`     |
/// | a no                          | the gateway was away      | anything else  | `payment_declined` |
///
/// A participant that refuses an order *because* it is being cancelled has not said no to the customer, and a gateway
/// that could not be reached has not judged the payment: neither outranks a shortage.
fn reason(cause: Cause, payment: &Payment, stock: &Stock) -> Cause {
    match (cause, &payment.authorization, &stock.reservation) {
        (Cause::CustomerRequest, _, _) => Cause::CustomerRequest,
        (Cause::Deadline, _, _) => Cause::Deadline,
        (
            _,
            Some(Authorization::Declined(Decline::ByIssuer | Decline::InsufficientFunds | Decline::ExpiredCard)),
            _,
        ) => Cause::PaymentDeclined,
        (_, _, Some(Reservation::Rejected(Refusal::Shortage(_)))) => Cause::OutOfStock,
        (Cause::PaymentDeclined | Cause::OutOfStock, _, _) => cause,
    }
}

/// Whether an order in `phase` has asked what `answer` answers: the rows of the table.
///
/// A placed order has asked whether they could. A confirmed one had both answers to that, so only answers to the confirm
/// can come, also again after a resume, and also when it has ended. A cancelled one hears everything: the cancelling may
/// have overtaken any answer to what was asked before, a participant that was cancelled before it saw the order refuses
/// it later, and after a resume both acknowledge again.
fn was_asked(phase: &Phase, answer: &Answer) -> bool {
    match phase {
        Phase::Placed { .. } => matches!(
            answer,
            Answer::Payment(PaymentAnswer::Authorization(_)) | Answer::Stock(StockAnswer::Reservation(_))
        ),
        Phase::Confirmed { .. } | Phase::StuckConfirmed { .. } | Phase::Completed => matches!(
            answer,
            Answer::Payment(PaymentAnswer::Capture(_)) | Answer::Stock(StockAnswer::Committed)
        ),
        Phase::Cancelling { .. } | Phase::StuckCancelling { .. } | Phase::Cancelled { .. } => true,
    }
}

/// An answer: written down once, whatever the phase, and then whatever follows.
fn note(order: &Order, answer: &Answer, source: SourceId, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    if order.heard.contains(&source) {
        return Ok(Vec::new());
    }
    if !was_asked(&order.phase, answer) {
        return Err(Rejection::NeverAsked {
            answer: answer.name(),
            status: order.phase.name(),
        });
    }
    let noted = match answer.clone() {
        Answer::Payment(answer) => Event::PaymentNoted { answer, source },
        Answer::Stock(answer) => Event::StockNoted { answer, source },
    };
    let mut after = order.clone();
    after.apply(&noted, now);
    Ok(std::iter::once(noted).chain(what_follows(&after, now)).collect())
}

/// Whether `command` is an answer that is written down, if at all, and nothing follows from it before another one comes.
pub fn leads_nowhere(state: &State, command: &Command) -> bool {
    let (Some(order), Command::Note { answer, source }) = (state, command) else {
        return false;
    };
    // Whether something follows does not depend on the time.
    note(order, answer, *source, order.updated_at).is_ok_and(|events| events.len() < 2)
}

/// The same request again is answered from state; another one under the same key is a mistake.
fn place_again(order: &Order, request: &Request) -> Result<Vec<Event>, Rejection> {
    if order.request.request_hash == request.request_hash {
        Ok(Vec::new())
    } else {
        Err(Rejection::KeyReused)
    }
}

/// Accepted until the order is completed, also after it was confirmed (edge 3); repeating it is no mistake.
fn cancel(order: &Order, by: &Canceller, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    if matches!(by, Canceller::Customer(customer) if *customer != order.request.customer_id) {
        return Err(Rejection::NotTheCustomer);
    }
    match &order.phase {
        Phase::Placed { .. } | Phase::Confirmed { .. } | Phase::StuckConfirmed { .. } => {
            Ok(vec![order.cancelling(Cause::CustomerRequest, now)])
        }
        Phase::Cancelling { .. } | Phase::StuckCancelling { .. } | Phase::Cancelled { .. } => Ok(Vec::new()),
        Phase::Completed => Err(Rejection::AlreadyCompleted),
    }
}

/// A timer went off. The phase says whether it still matters: one that was set for a phase long over does not.
fn deadline_passed(order: &Order, due: Timestamp, now: Timestamp) -> Vec<Event> {
    match &order.phase {
        Phase::Placed { decide_by } if due >= *decide_by => vec![order.cancelling(Cause::Deadline, now)],
        Phase::Confirmed { settle_by } if due >= *settle_by => {
            let missing = unanswered(
                order.payment.capture.is_none().then_some("payments to capture"),
                (!order.stock.committed).then_some("inventory to commit"),
            );
            vec![stuck(format!(
                "confirmed, but not settled in time: waiting for {missing}"
            ))]
        }
        Phase::Cancelling { settle_by, .. } if due >= *settle_by => {
            let missing = unanswered(
                order.payment.undo.is_none().then_some("payments to void or refund"),
                order.stock.undo.is_none().then_some("inventory to release or return"),
            );
            vec![stuck(format!(
                "cancelling, but not settled in time: waiting for {missing}"
            ))]
        }
        Phase::Placed { .. }
        | Phase::Confirmed { .. }
        | Phase::Cancelling { .. }
        | Phase::StuckConfirmed { .. }
        | Phase::StuckCancelling { .. }
        | Phase::Completed
        | Phase::Cancelled { .. } => Vec::new(),
    }
}

/// Back to where it was going, with a new deadline. Both participants answer again from their state or try again.
fn resume(order: &Order, operator: &str, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    let toward = match &order.phase {
        Phase::StuckConfirmed { .. } => Toward::Completion,
        Phase::StuckCancelling { .. } => Toward::Cancellation,
        Phase::Placed { .. }
        | Phase::Confirmed { .. }
        | Phase::Completed
        | Phase::Cancelling { .. }
        | Phase::Cancelled { .. } => {
            let status = order.phase.name();
            return Err(Rejection::NotStuck { status });
        }
    };
    Ok(vec![Event::OrderResumed {
        operator: operator.into(),
        toward,
        settle_by: after(now, order.settle_within),
    }])
}

/// Folds one event that happened at `at`. What was decided has happened: an event that does not fit is not judged here.
pub fn evolve(state: State, event: &Event, at: Timestamp) -> State {
    match (state, event) {
        (
            None,
            Event::OrderPlaced {
                request,
                decide_by,
                settle_by,
            },
        ) => Some(Order {
            request: request.clone(),
            phase: Phase::Placed { decide_by: *decide_by },
            payment: Payment::default(),
            stock: Stock::default(),
            settle_within: settle_by.duration_since(at),
            placed_at: at,
            since: at,
            updated_at: at,
            heard: Vec::new(),
        }),
        (None, _) => None,
        (Some(mut order), event) => {
            order.apply(event, at);
            Some(order)
        }
    }
}

/// When an order needs attention if nothing else happens: never once it has ended, nor while it waits for a person.
pub fn deadline(order: &Order) -> Option<Timestamp> {
    match order.phase {
        Phase::Placed { decide_by } => Some(decide_by),
        Phase::Confirmed { settle_by } | Phase::Cancelling { settle_by, .. } => Some(settle_by),
        Phase::StuckConfirmed { .. } | Phase::StuckCancelling { .. } | Phase::Completed | Phase::Cancelled { .. } => {
            None
        }
    }
}

impl Order {
    fn apply(&mut self, event: &Event, at: Timestamp) {
        self.updated_at = at;
        match event {
            Event::OrderPlaced { .. } => {}
            Event::PaymentNoted { answer, source } => {
                self.payment.hear(answer);
                self.heard.push(*source);
            }
            Event::StockNoted { answer, source } => {
                self.stock.hear(answer);
                self.heard.push(*source);
            }
            Event::OrderConfirmed { .. } => {
                let settle_by = after(at, self.settle_within);
                self.enter(Phase::Confirmed { settle_by }, at);
            }
            Event::OrderCancelling { cause, settle_by } => {
                let (cause, settle_by) = (*cause, *settle_by);
                self.enter(Phase::Cancelling { cause, settle_by }, at);
            }
            Event::OrderCompleted => self.enter(Phase::Completed, at),
            Event::OrderCancelled { reason } => self.enter(Phase::Cancelled { reason: *reason }, at),
            Event::OrderStuck { reason } => {
                let reason = reason.clone();
                let stuck = match self.phase {
                    Phase::Cancelling { cause, .. } => Phase::StuckCancelling { reason, cause },
                    _ => Phase::StuckConfirmed { reason },
                };
                self.enter(stuck, at);
            }
            Event::OrderResumed { settle_by, .. } => {
                // What failed is asked again, so its old answer no longer counts.
                self.payment.forget_failures();
                let settle_by = *settle_by;
                let resumed = match self.phase {
                    Phase::StuckCancelling { cause, .. } => Phase::Cancelling { cause, settle_by },
                    _ => Phase::Confirmed { settle_by },
                };
                self.enter(resumed, at);
            }
        }
    }

    fn enter(&mut self, phase: Phase, at: Timestamp) {
        self.phase = phase;
        self.since = at;
    }

    fn confirmed(&self) -> Event {
        Event::OrderConfirmed {
            total_minor: self.request.total_minor,
            currency: self.request.currency.clone(),
        }
    }

    fn cancelling(&self, cause: Cause, now: Timestamp) -> Event {
        Event::OrderCancelling {
            cause,
            settle_by: after(now, self.settle_within),
        }
    }

    fn cancelled(&self, cause: Cause) -> Event {
        Event::OrderCancelled {
            reason: reason(cause, &self.payment, &self.stock),
        }
    }
}

fn stuck(reason: String) -> Event {
    Event::OrderStuck { reason: reason.into() }
}

fn unanswered(payments: Option<&'static str>, inventory: Option<&'static str>) -> String {
    [payments, inventory]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" and ")
}

/// `now` plus `window`, in the whole milliseconds that events carry.
fn after(now: Timestamp, window: SignedDuration) -> Timestamp {
    let milliseconds = now.as_millisecond().saturating_add(window.as_millis() as i64);
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}
