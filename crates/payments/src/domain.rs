//! The money of one order: decided by its own stream alone. Pure; no clock, no database, no network.
//!
//! ```text
//!            ┌──────────► Declined                     CaptureFailed ──capture──┐
//!            │                                          ▲     │                 ▼
//!  Unseen ───┼──────────► Authorized ───────────capture─┴─────┼───────────► Captured ◄──► RefundFailed
//!    │       │                 ▲   │                          │                 │              │
//!    │       └──► Pending ─────┘   └──────────┐               │                 └───refund─────┤
//!    │               │                        ▼               ▼                                ▼
//!    └──► Tombstone  └──► Cancelling ──► Voided ◄─────────────┘                             Refunded
//! ```
//!
//! `Pending` and `Cancelling` are open intents: a worker asks the gateway, outside any transaction, and hands in what it
//! heard as [`Command::RecordAttempt`]. That nothing is held is never said while an authorisation may be under way.

use std::time::Duration;

use jiff::Timestamp;

use crate::gateway::{self, Answer, Failure, Method, PaymentId, Refusal, Verdict};
use crate::money::Money;

/// Tries of an unavailable gateway before the payment is declined: with the pauses between them about 3 seconds, well
/// within the time that an order has to be decided.
pub const UNAVAILABLE_TRIES_MAX: u32 = 5;
/// Pause after the first try that the gateway certainly did not hear; doubled after each further one.
pub const UNAVAILABLE_PAUSE: Duration = Duration::from_millis(200);
/// Pause after the first try whose outcome is unknown; doubled after each further one.
pub const UNKNOWN_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries: each try is an event, and a gateway that is away for hours must not fill the log.
pub const UNKNOWN_PAUSE_MAX: Duration = Duration::from_secs(15);

/// What can be asked of an order's payment.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Hold the amount.
    Authorize {
        /// What the gateway calls the payment.
        payment: Payment,
        /// How the customer pays.
        method: Method,
    },
    /// Take the held amount, or say again that it was taken.
    Capture,
    /// Hold or have taken nothing any more, and say so; again if it has been said before.
    Cancel,
    /// Take note of what the gateway answered to a try of the open intent.
    RecordAttempt {
        /// Which try it was, counted from 1.
        attempt: u32,
        /// What came of it.
        answer: Answer,
    },
}

/// One payment at the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Payment {
    /// What the gateway calls it.
    pub id: PaymentId,
    /// How much it is about.
    pub amount: Money,
}

/// What happened to an order's payment.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The gateway has to be asked and may not answer; the worker goes on.
    IntentOpened {
        /// How much.
        amount: Money,
        /// How the customer pays.
        method: Method,
        /// When, and so when the first try is due.
        at: Timestamp,
    },
    /// A try decided nothing.
    Attempted {
        /// Which try it was, counted from 1.
        attempt: u32,
        /// How it failed.
        silence: Silence,
        /// When the next one is due.
        retry_at: Timestamp,
    },
    /// The order is cancelled while an authorisation may be under way; the worker finds out and ends it.
    CancelRequested {
        /// When, and so when the gateway is asked.
        at: Timestamp,
    },
    /// The amount is held.
    Authorized(Payment),
    /// The amount will not be held.
    Declined(DeclineReason),
    /// The amount was taken.
    Captured(Payment),
    /// The amount was not taken.
    CaptureFailed {
        /// Why, for people.
        reason: Box<str>,
    },
    /// Nothing is held any more.
    Voided {
        /// What was held until now, if anything was.
        held: Option<PaymentId>,
    },
    /// The taken amount was given back.
    Refunded(Payment),
    /// The taken amount was not given back.
    RefundFailed {
        /// Why, for people.
        reason: Box<str>,
    },
}

/// How a try can fail without deciding anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The gateway certainly did not process the request.
    Unavailable,
    /// It may have.
    Unknown,
}

/// Why an amount will not be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclineReason {
    /// The gateway refused, without a reason.
    Declined,
    /// The customer has not enough money.
    InsufficientFunds,
    /// The gateway stayed unavailable until the tries were exhausted.
    Unavailable,
    /// The order was cancelled before it was seen here.
    Cancelled,
    /// The card is past its date.
    ExpiredCard,
}

impl From<Refusal> for DeclineReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Declined => Self::Declined,
            Refusal::InsufficientFunds => Self::InsufficientFunds,
            Refusal::ExpiredCard => Self::ExpiredCard,
        }
    }
}

/// How far an order's payment has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum State {
    /// The order has not been seen.
    #[default]
    Unseen,
    /// Cancelled before the order was seen; it will be declined when it turns up.
    Tombstone,
    /// Asked for, outcome not known.
    Pending(Intent),
    /// Cancelled, and the outcome of the authorisation is not known.
    Cancelling(Intent),
    /// Held.
    Authorized(Payment),
    /// Will not be held.
    Declined(DeclineReason),
    /// Held; taking it failed.
    CaptureFailed {
        /// What is held.
        payment: Payment,
        /// How often.
        failures: u32,
        /// Why, the last time.
        reason: Box<str>,
    },
    /// Taken.
    Captured(Payment),
    /// Taken; giving it back failed.
    RefundFailed {
        /// What was taken.
        payment: Payment,
        /// How often.
        failures: u32,
        /// Why, the last time.
        reason: Box<str>,
    },
    /// Not held any more.
    Voided {
        /// What was held until then, if anything was.
        held: Option<PaymentId>,
        /// How much had been asked for, where that is known.
        amount: Option<Money>,
    },
    /// Taken and given back.
    Refunded(Payment),
}

/// An authorisation that the worker goes on with.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// How much.
    pub amount: Money,
    /// How the customer pays.
    pub method: Method,
    /// Tries so far.
    pub tries: u32,
    /// Whether some try has been heard of and the gateway certainly processed none of them.
    pub surely_unheard: bool,
    /// When the next try is due; none is under way before.
    pub next_try: Timestamp,
}

/// A command that makes no sense where it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is no intent that the try could belong to.
    #[error("no payment of this order was ever asked for")]
    NoIntent,
}

/// The events that follow from `command`.
///
/// # Errors
/// See [`Rejection`]; whatever others wait for is an event.
pub fn decide(state: &State, command: &Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::Authorize { payment, method } => Ok(authorize(state, payment, method, now)),
        Command::Capture => Ok(vec![capture(state)]),
        Command::Cancel => Ok(vec![cancel(state, now)]),
        Command::RecordAttempt { attempt, answer } => record(state, *attempt, answer, now),
    }
}

fn authorize(state: &State, payment: &Payment, method: &Method, now: Timestamp) -> Vec<Event> {
    match state {
        State::Unseen => vec![match gateway::authorize(method) {
            Verdict::Approved => Event::Authorized(payment.clone()),
            Verdict::Refused(refusal) => Event::Declined(refusal.into()),
            Verdict::Unanswered => Event::IntentOpened {
                amount: payment.amount,
                method: method.clone(),
                at: now,
            },
        }],
        State::Tombstone => vec![Event::Declined(DeclineReason::Cancelled)],
        // An order is placed once: this is the same one again, and it has its answer.
        State::Pending(_)
        | State::Cancelling(_)
        | State::Authorized(_)
        | State::Declined(_)
        | State::CaptureFailed { .. }
        | State::Captured(_)
        | State::RefundFailed { .. }
        | State::Voided { .. }
        | State::Refunded(_) => Vec::new(),
    }
}

fn capture(state: &State) -> Event {
    let nothing_to_take = |reason: &str| Event::CaptureFailed { reason: reason.into() };
    match state {
        State::Authorized(payment) => take(payment, 0),
        State::CaptureFailed { payment, failures, .. } => take(payment, *failures),
        // Said again, and after a failed refund as true as before. It is one payment: who counts, counts it once.
        State::Captured(payment) | State::RefundFailed { payment, .. } => Event::Captured(payment.clone()),
        State::Unseen | State::Tombstone => nothing_to_take("no payment of this order was ever authorised"),
        State::Pending(_) | State::Cancelling(_) => nothing_to_take("the authorisation has not been answered"),
        State::Declined(_) => nothing_to_take("the payment was declined"),
        State::Voided { .. } => nothing_to_take("the payment was voided"),
        State::Refunded(_) => nothing_to_take("the payment was refunded"),
    }
}

fn take(payment: &Payment, failures: u32) -> Event {
    match gateway::capture(&payment.id, failures) {
        Ok(()) => Event::Captured(payment.clone()),
        Err(Failure(reason)) => Event::CaptureFailed { reason: reason.into() },
    }
}

fn cancel(state: &State, now: Timestamp) -> Event {
    match state {
        State::Unseen | State::Tombstone | State::Declined(_) => Event::Voided { held: None },
        // Between two tries that the gateway did not hear, nothing can be held. From the moment the next one is due it
        // may be under way, and the gateway has to be asked.
        State::Pending(intent) if intent.surely_unheard && now < intent.next_try => Event::Voided { held: None },
        State::Pending(_) | State::Cancelling(_) => Event::CancelRequested { at: now },
        State::Authorized(payment) | State::CaptureFailed { payment, .. } => Event::Voided {
            held: Some(payment.id.clone()),
        },
        State::Captured(payment) => give_back(payment, 0),
        State::RefundFailed { payment, failures, .. } => give_back(payment, *failures),
        State::Voided { held, .. } => Event::Voided { held: held.clone() },
        State::Refunded(payment) => Event::Refunded(payment.clone()),
    }
}

fn give_back(payment: &Payment, failures: u32) -> Event {
    match gateway::refund(&payment.id, failures) {
        Ok(()) => Event::Refunded(payment.clone()),
        Err(Failure(reason)) => Event::RefundFailed { reason: reason.into() },
    }
}

fn record(state: &State, attempt: u32, answer: &Answer, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    let void = |held: Option<&PaymentId>| Event::Voided { held: held.cloned() };
    let event = match (state, answer) {
        (State::Unseen | State::Tombstone, _) => return Err(Rejection::NoIntent),

        (State::Pending(intent), Answer::Approved(id)) => Event::Authorized(Payment {
            id: id.clone(),
            amount: intent.amount,
        }),
        (State::Pending(_), Answer::Refused(refusal)) => Event::Declined((*refusal).into()),
        // The key was closed at the gateway, by its own people: nothing will be held under it.
        (State::Pending(_), Answer::Voided(_) | Answer::NeverHeld) => Event::Declined(DeclineReason::Cancelled),

        (State::Cancelling(_), Answer::Approved(id) | Answer::Voided(id)) => void(Some(id)),
        (State::Cancelling(_), Answer::Refused(_) | Answer::NeverHeld) => void(None),

        // What an overtaken try did not learn is no news; what it did learn is handled above, whichever try it was.
        (State::Pending(intent) | State::Cancelling(intent), Answer::Unavailable | Answer::Unknown)
            if attempt != intent.tries + 1 =>
        {
            return Ok(Vec::new());
        }
        (State::Pending(intent), Answer::Unavailable) => unheard(intent, now),
        (State::Pending(intent), Answer::Unknown) => missed(intent, Silence::Unknown, UNKNOWN_PAUSE, now),
        (State::Cancelling(intent), Answer::Unavailable) => missed(intent, Silence::Unavailable, UNKNOWN_PAUSE, now),
        (State::Cancelling(intent), Answer::Unknown) => missed(intent, Silence::Unknown, UNKNOWN_PAUSE, now),

        // It was said that nothing is held, and now something is: undone at once.
        (State::Declined(_) | State::Voided { held: None, .. }, Answer::Approved(id) | Answer::Voided(id)) => {
            void(Some(id))
        }
        (
            State::Declined(_) | State::Voided { held: None, .. },
            Answer::Refused(_) | Answer::Unavailable | Answer::Unknown | Answer::NeverHeld,
        ) => return Ok(Vec::new()),

        // The intent has ended, and by its key this can only be the same payment: a try that was overtaken.
        (
            State::Authorized(_)
            | State::CaptureFailed { .. }
            | State::Captured(_)
            | State::RefundFailed { .. }
            | State::Voided { held: Some(_), .. }
            | State::Refunded(_),
            _,
        ) => return Ok(Vec::new()),
    };
    Ok(vec![event])
}

/// What a try that the gateway certainly did not hear leads to, unless an earlier one may have been heard.
fn unheard(intent: &Intent, now: Timestamp) -> Event {
    if intent.tries > 0 && !intent.surely_unheard {
        return missed(intent, Silence::Unavailable, UNKNOWN_PAUSE, now);
    }
    if intent.tries + 1 >= UNAVAILABLE_TRIES_MAX {
        return Event::Declined(DeclineReason::Unavailable);
    }
    missed(intent, Silence::Unavailable, UNAVAILABLE_PAUSE, now)
}

fn missed(intent: &Intent, silence: Silence, first_pause: Duration, now: Timestamp) -> Event {
    let doublings = intent.tries.min(16);
    let pause = (first_pause * 2_u32.pow(doublings)).min(UNKNOWN_PAUSE_MAX);
    Event::Attempted {
        attempt: intent.tries + 1,
        silence,
        retry_at: now + pause,
    }
}

/// Folds one event into the state.
pub fn evolve(state: State, event: &Event) -> State {
    match event {
        Event::IntentOpened { amount, method, at } => State::Pending(Intent {
            amount: *amount,
            method: method.clone(),
            tries: 0,
            surely_unheard: false,
            next_try: *at,
        }),
        Event::Attempted {
            attempt,
            silence,
            retry_at,
        } => match state {
            State::Pending(intent) => State::Pending(intent.after(*attempt, *silence, *retry_at)),
            State::Cancelling(intent) => State::Cancelling(intent.after(*attempt, *silence, *retry_at)),
            ended => ended,
        },
        Event::CancelRequested { at } => match state {
            // It counts as a try, so that an authorisation that was being asked for counts as overtaken: what that one did
            // not learn must not put off the next.
            State::Pending(intent) => State::Cancelling(Intent {
                tries: intent.tries + 1,
                next_try: *at,
                ..intent
            }),
            State::Cancelling(intent) => State::Cancelling(Intent {
                next_try: *at,
                ..intent
            }),
            ended => ended,
        },
        Event::Authorized(payment) => State::Authorized(payment.clone()),
        Event::Declined(reason) => State::Declined(*reason),
        Event::Captured(payment) => State::Captured(payment.clone()),
        Event::CaptureFailed { reason } => {
            let (payment, failures) = match state {
                State::Authorized(payment) => (payment, 0),
                State::CaptureFailed { payment, failures, .. } => (payment, failures),
                // It answered a capture of nothing.
                other => return other,
            };
            State::CaptureFailed {
                payment,
                failures: failures + 1,
                reason: reason.clone(),
            }
        }
        Event::Voided { held } => match state {
            State::Unseen | State::Tombstone if held.is_none() => State::Tombstone,
            State::Declined(reason) if held.is_none() => State::Declined(reason),
            other => State::Voided {
                held: held.clone(),
                amount: other.amount(),
            },
        },
        Event::Refunded(payment) => State::Refunded(payment.clone()),
        Event::RefundFailed { reason } => {
            let (payment, failures) = match state {
                State::Captured(payment) => (payment, 0),
                State::RefundFailed { payment, failures, .. } => (payment, failures),
                other => return other,
            };
            State::RefundFailed {
                payment,
                failures: failures + 1,
                reason: reason.clone(),
            }
        }
    }
}

impl Intent {
    fn after(self, attempt: u32, silence: Silence, retry_at: Timestamp) -> Self {
        let first = self.tries == 0;
        Self {
            tries: attempt,
            surely_unheard: silence == Silence::Unavailable && (first || self.surely_unheard),
            next_try: retry_at,
            ..self
        }
    }
}

impl State {
    /// How much was asked for, where the stream tells.
    pub fn amount(&self) -> Option<Money> {
        match self {
            Self::Unseen | Self::Tombstone | Self::Declined(_) => None,
            Self::Pending(intent) | Self::Cancelling(intent) => Some(intent.amount),
            Self::Authorized(payment)
            | Self::CaptureFailed { payment, .. }
            | Self::Captured(payment)
            | Self::RefundFailed { payment, .. }
            | Self::Refunded(payment) => Some(payment.amount),
            Self::Voided { amount, .. } => *amount,
        }
    }

    /// The open intent, if there is one.
    pub fn intent(&self) -> Option<&Intent> {
        match self {
            Self::Pending(intent) | Self::Cancelling(intent) => Some(intent),
            Self::Unseen
            | Self::Tombstone
            | Self::Authorized(_)
            | Self::Declined(_)
            | Self::CaptureFailed { .. }
            | Self::Captured(_)
            | Self::RefundFailed { .. }
            | Self::Voided { .. }
            | Self::Refunded(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
