//! Between the domain's events and the ones that travel. No decision is taken here.

use contracts::payments as wire;
use jiff::Timestamp;

use crate::domain::{DeclineReason, Event, Payment, Silence};
use crate::gateway::{Method, PaymentId};
use crate::money::{Currency, Money};

/// The wire form of what happened to the payment of `order_id`.
pub fn from_domain(order_id: &str, event: &Event) -> wire::Event {
    let order_id = order_id.to_owned();
    match event {
        Event::IntentOpened { amount, method, at } => wire::PaymentIntentOpened {
            order_id,
            amount_minor: amount.minor(),
            currency: amount.currency().to_string(),
            payment_method: method.as_str().to_owned(),
            opened_unix_ms: at.as_millisecond(),
        }
        .into(),
        Event::Attempted {
            attempt,
            silence,
            retry_at,
        } => wire::PaymentAttempted {
            order_id,
            attempt: i64::from(*attempt),
            outcome: silence_text(*silence).to_owned(),
            retry_at_unix_ms: retry_at.as_millisecond(),
        }
        .into(),
        Event::CancelRequested { .. } => wire::PaymentCancelRequested { order_id }.into(),
        Event::Authorized(payment) => wire::PaymentAuthorized {
            order_id,
            payment_id: payment.id.as_str().to_owned(),
            amount_minor: payment.amount.minor(),
            currency: payment.amount.currency().to_string(),
        }
        .into(),
        Event::Declined(reason) => wire::PaymentDeclined {
            order_id,
            reason: match reason {
                DeclineReason::Declined => wire::DeclineReason::Declined,
                DeclineReason::InsufficientFunds => wire::DeclineReason::InsufficientFunds,
                DeclineReason::Unavailable => wire::DeclineReason::Unavailable,
                DeclineReason::Cancelled => wire::DeclineReason::Cancelled,
                DeclineReason::ExpiredCard => wire::DeclineReason::ExpiredCard,
            },
        }
        .into(),
        Event::Captured(payment) => wire::PaymentCaptured {
            order_id,
            payment_id: payment.id.as_str().to_owned(),
            amount_minor: payment.amount.minor(),
            currency: payment.amount.currency().to_string(),
        }
        .into(),
        Event::CaptureFailed { reason } => wire::PaymentCaptureFailed {
            order_id,
            reason: reason.to_string(),
        }
        .into(),
        Event::Voided { held } => wire::PaymentVoided {
            order_id,
            payment_id: held.as_ref().map(|id| id.as_str().to_owned()),
            nothing_held: held.is_none(),
        }
        .into(),
        Event::Refunded(payment) => wire::PaymentRefunded {
            order_id,
            payment_id: payment.id.as_str().to_owned(),
            amount_minor: payment.amount.minor(),
            currency: payment.amount.currency().to_string(),
        }
        .into(),
        Event::RefundFailed { reason } => wire::PaymentRefundFailed {
            order_id,
            reason: reason.to_string(),
        }
        .into(),
    }
}

/// What a recorded event of this service says; `at` is when it was recorded.
pub fn to_domain(event: &wire::Event, at: Timestamp) -> Event {
    match event {
        wire::Event::PaymentIntentOpened(event) => Event::IntentOpened {
            amount: money(event.amount_minor, &event.currency),
            method: Method::recorded(&event.payment_method),
            at: instant(event.opened_unix_ms),
        },
        wire::Event::PaymentAttempted(event) => Event::Attempted {
            // No intent is tried as often as does not fit.
            attempt: u32::try_from(event.attempt).unwrap_or(i32::MAX.cast_unsigned()),
            silence: silence(&event.outcome),
            retry_at: instant(event.retry_at_unix_ms),
        },
        wire::Event::PaymentCancelRequested(_) => Event::CancelRequested { at },
        wire::Event::PaymentAuthorized(event) => {
            Event::Authorized(payment(&event.payment_id, event.amount_minor, &event.currency))
        }
        wire::Event::PaymentDeclined(event) => Event::Declined(match event.reason {
            wire::DeclineReason::InsufficientFunds => DeclineReason::InsufficientFunds,
            wire::DeclineReason::Unavailable => DeclineReason::Unavailable,
            wire::DeclineReason::Cancelled => DeclineReason::Cancelled,
            wire::DeclineReason::ExpiredCard => DeclineReason::ExpiredCard,
            // A reason that a newer build gave is still a no.
            wire::DeclineReason::Declined | wire::DeclineReason::Unknown => DeclineReason::Declined,
        }),
        wire::Event::PaymentCaptured(event) => {
            Event::Captured(payment(&event.payment_id, event.amount_minor, &event.currency))
        }
        wire::Event::PaymentCaptureFailed(event) => Event::CaptureFailed {
            reason: event.reason.as_str().into(),
        },
        wire::Event::PaymentVoided(event) => Event::Voided {
            held: event.payment_id.as_deref().map(PaymentId::recorded),
        },
        wire::Event::PaymentRefunded(event) => {
            Event::Refunded(payment(&event.payment_id, event.amount_minor, &event.currency))
        }
        wire::Event::PaymentRefundFailed(event) => Event::RefundFailed {
            reason: event.reason.as_str().into(),
        },
    }
}

/// The words for a silence, in events and in tables.
pub fn silence_text(silence: Silence) -> &'static str {
    match silence {
        Silence::Unavailable => "unavailable",
        Silence::Unknown => "unknown",
    }
}

/// Words that this build does not know are taken for the silence that promises less.
fn silence(text: &str) -> Silence {
    if text == silence_text(Silence::Unavailable) {
        Silence::Unavailable
    } else {
        Silence::Unknown
    }
}

fn payment(id: &str, amount_minor: i64, currency: &str) -> Payment {
    Payment {
        id: PaymentId::recorded(id),
        amount: money(amount_minor, currency),
    }
}

fn money(minor: i64, currency: &str) -> Money {
    Currency::parse(currency)
        .and_then(|currency| Money::new(minor, currency))
        .expect("amounts are checked before an event is recorded")
}

/// An instant in range: those that this service records come from a clock.
fn instant(unix_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(unix_ms).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_comes_back_from_the_wire_as_it_went() {
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        let paid = payment("pay_1", 1_250, "EUR");
        let events = [
            Event::IntentOpened {
                amount: money(0, "JPY"),
                method: Method::parse("tok_timeout").unwrap(),
                at,
            },
            Event::Attempted {
                attempt: 3,
                silence: Silence::Unavailable,
                retry_at: at,
            },
            Event::Attempted {
                attempt: 1,
                silence: Silence::Unknown,
                retry_at: at,
            },
            Event::CancelRequested { at },
            Event::Authorized(paid.clone()),
            Event::Declined(DeclineReason::Declined),
            Event::Declined(DeclineReason::InsufficientFunds),
            Event::Declined(DeclineReason::Unavailable),
            Event::Declined(DeclineReason::Cancelled),
            Event::Declined(DeclineReason::ExpiredCard),
            Event::Captured(paid.clone()),
            Event::CaptureFailed { reason: "no".into() },
            Event::Voided { held: None },
            Event::Voided {
                held: Some(paid.id.clone()),
            },
            Event::Refunded(paid),
            Event::RefundFailed { reason: "no".into() },
        ];
        for event in events {
            assert_eq!(to_domain(&from_domain("o-1", &event), at), event);
        }
    }

    #[test]
    fn a_silence_in_unknown_words_promises_nothing() {
        assert_eq!(silence("unavailable"), Silence::Unavailable);
        assert_eq!(silence("rate_limited"), Silence::Unknown);
    }
}
