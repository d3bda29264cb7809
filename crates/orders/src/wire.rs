//! The order's events as they travel, and back.
//!
//! [`contracts`] says what travels; the domain never sees it. What is written can be read back as it was; a symbol that a
//! newer build wrote and this one does not know reads as no event at all, so that an older copy beside a newer one keeps
//! the order as it knew it.

use std::sync::Arc;

use contracts::orders as wire;
use jiff::Timestamp;
use uuid::Uuid;

use crate::domain::{
    Authorization, Capture, Cause, Currency, CustomerId, Decline, Event, Line, PaymentAnswer, PaymentUndo, Refusal,
    Request, Reservation, Sku, SourceId, StockAnswer, StockUndo, Toward,
};

/// What the order `order_id` says by `event`.
pub fn write(order_id: &str, event: &Event) -> wire::Event {
    let order_id = order_id.to_owned();
    match event {
        Event::OrderPlaced {
            request,
            decide_by,
            settle_by,
        } => placed(order_id, request, *decide_by, *settle_by).into(),
        Event::PaymentNoted { answer, source } => {
            let (outcome, detail) = payment_outcome(answer);
            wire::PaymentNoted {
                order_id,
                outcome,
                detail,
                source_event_id: source.to_string(),
            }
            .into()
        }
        Event::StockNoted { answer, source } => {
            let (outcome, detail) = stock_outcome(answer);
            wire::StockNoted {
                order_id,
                outcome,
                detail,
                source_event_id: source.to_string(),
            }
            .into()
        }
        Event::OrderConfirmed { total_minor, currency } => wire::OrderConfirmed {
            order_id,
            total_minor: *total_minor,
            currency: currency.code().to_owned(),
        }
        .into(),
        Event::OrderCancelling { cause, settle_by } => wire::OrderCancelling {
            order_id,
            cause: match cause {
                Cause::PaymentDeclined => wire::CancelCause::PaymentDeclined,
                Cause::OutOfStock => wire::CancelCause::OutOfStock,
                Cause::CustomerRequest => wire::CancelCause::CustomerRequest,
                Cause::Deadline => wire::CancelCause::Deadline,
            },
            settle_by_unix_ms: settle_by.as_millisecond(),
        }
        .into(),
        Event::OrderCompleted => wire::OrderCompleted { order_id }.into(),
        Event::OrderCancelled { reason } => wire::OrderCancelled {
            order_id,
            reason: match reason {
                Cause::PaymentDeclined => wire::CancelReason::PaymentDeclined,
                Cause::OutOfStock => wire::CancelReason::OutOfStock,
                Cause::CustomerRequest => wire::CancelReason::CustomerRequest,
                Cause::Deadline => wire::CancelReason::Deadline,
            },
        }
        .into(),
        Event::OrderStuck { reason } => wire::OrderStuck {
            order_id,
            reason: reason.to_string(),
        }
        .into(),
        Event::OrderResumed {
            operator,
            toward,
            settle_by,
        } => wire::OrderResumed {
            order_id,
            operator: operator.to_string(),
            toward: match toward {
                Toward::Completion => wire::ResumeToward::Completion,
                Toward::Cancellation => wire::ResumeToward::Cancellation,
            },
            settle_by_unix_ms: settle_by.as_millisecond(),
        }
        .into(),
    }
}

/// What `event` says of its order, or `None` where it says something that this build has no word for.
pub fn read(event: &wire::Event) -> Option<Event> {
    Some(match event {
        wire::Event::OrderPlaced(event) => Event::OrderPlaced {
            request: Arc::new(request(event)),
            decide_by: time(event.decide_by_unix_ms),
            settle_by: time(event.settle_by_unix_ms),
        },
        wire::Event::PaymentNoted(event) => Event::PaymentNoted {
            answer: payment_answer(event)?,
            source: source(&event.source_event_id)?,
        },
        wire::Event::StockNoted(event) => Event::StockNoted {
            answer: stock_answer(event)?,
            source: source(&event.source_event_id)?,
        },
        wire::Event::OrderConfirmed(event) => Event::OrderConfirmed {
            total_minor: event.total_minor,
            currency: Currency::recorded(&event.currency),
        },
        wire::Event::OrderCancelling(event) => Event::OrderCancelling {
            cause: match event.cause {
                wire::CancelCause::PaymentDeclined => Cause::PaymentDeclined,
                wire::CancelCause::OutOfStock => Cause::OutOfStock,
                wire::CancelCause::CustomerRequest => Cause::CustomerRequest,
                wire::CancelCause::Deadline => Cause::Deadline,
                wire::CancelCause::Unknown => return None,
            },
            settle_by: time(event.settle_by_unix_ms),
        },
        wire::Event::OrderCompleted(_) => Event::OrderCompleted,
        wire::Event::OrderCancelled(event) => Event::OrderCancelled {
            reason: match event.reason {
                wire::CancelReason::PaymentDeclined => Cause::PaymentDeclined,
                wire::CancelReason::OutOfStock => Cause::OutOfStock,
                wire::CancelReason::CustomerRequest => Cause::CustomerRequest,
                wire::CancelReason::Deadline => Cause::Deadline,
                wire::CancelReason::Unknown => return None,
            },
        },
        wire::Event::OrderStuck(event) => Event::OrderStuck {
            reason: event.reason.as_str().into(),
        },
        wire::Event::OrderResumed(event) => Event::OrderResumed {
            operator: event.operator.as_str().into(),
            toward: match event.toward {
                wire::ResumeToward::Completion => Toward::Completion,
                wire::ResumeToward::Cancellation => Toward::Cancellation,
                wire::ResumeToward::Unknown => return None,
            },
            settle_by: time(event.settle_by_unix_ms),
        },
    })
}

fn placed(order_id: String, request: &Request, decide_by: Timestamp, settle_by: Timestamp) -> wire::OrderPlaced {
    let line = |line: &Line| wire::Line {
        sku: line.sku.as_str().to_owned(),
        quantity: line.quantity,
        unit_price_minor: line.unit_price_minor,
    };
    wire::OrderPlaced {
        order_id,
        customer_id: request.customer_id.as_str().to_owned(),
        currency: request.currency.code().to_owned(),
        lines: request.lines.iter().map(line).collect(),
        total_minor: request.total_minor,
        payment_method: request.payment_method.to_string(),
        reference: request.reference.as_deref().map(str::to_owned),
        idempotency_key: request.idempotency_key.as_deref().map(str::to_owned),
        request_hash: request.request_hash.to_string(),
        decide_by_unix_ms: decide_by.as_millisecond(),
        settle_by_unix_ms: settle_by.as_millisecond(),
        channel: request.channel.to_string(),
        note: request.note.as_deref().map(str::to_owned),
        tags: request.tags.iter().map(ToString::to_string).collect(),
    }
}

fn request(event: &wire::OrderPlaced) -> Request {
    let line = |line: &wire::Line| Line {
        sku: Sku::recorded(&line.sku),
        quantity: line.quantity,
        unit_price_minor: line.unit_price_minor,
    };
    Request {
        customer_id: CustomerId::recorded(&event.customer_id),
        currency: Currency::recorded(&event.currency),
        lines: event.lines.iter().map(line).collect(),
        total_minor: event.total_minor,
        payment_method: event.payment_method.as_str().into(),
        reference: event.reference.as_deref().map(Into::into),
        channel: event.channel.as_str().into(),
        note: event.note.as_deref().map(Into::into),
        tags: event.tags.iter().map(|tag| tag.as_str().into()).collect(),
        idempotency_key: event.idempotency_key.as_deref().map(Into::into),
        request_hash: event.request_hash.as_str().into(),
    }
}

fn payment_outcome(answer: &PaymentAnswer) -> (wire::PaymentOutcome, Option<String>) {
    use wire::PaymentOutcome as Outcome;
    match answer {
        PaymentAnswer::Authorization(Authorization::Authorized) => (Outcome::Authorized, None),
        PaymentAnswer::Authorization(Authorization::Declined(why)) => (Outcome::Declined, Some(why.name().to_owned())),
        PaymentAnswer::Capture(Capture::Captured) => (Outcome::Captured, None),
        PaymentAnswer::Capture(Capture::Failed(why)) => (Outcome::CaptureFailed, Some(why.to_string())),
        PaymentAnswer::Undo(PaymentUndo::Voided) => (Outcome::Voided, None),
        PaymentAnswer::Undo(PaymentUndo::Refunded) => (Outcome::Refunded, None),
        PaymentAnswer::Undo(PaymentUndo::Failed(why)) => (Outcome::RefundFailed, Some(why.to_string())),
    }
}

fn payment_answer(event: &wire::PaymentNoted) -> Option<PaymentAnswer> {
    use wire::PaymentOutcome as Outcome;
    let detail = event.detail.as_deref().unwrap_or_default();
    Some(match event.outcome {
        Outcome::Authorized => PaymentAnswer::Authorization(Authorization::Authorized),
        Outcome::Declined => PaymentAnswer::Authorization(Authorization::Declined(Decline::named(detail))),
        Outcome::Captured => PaymentAnswer::Capture(Capture::Captured),
        Outcome::CaptureFailed => PaymentAnswer::Capture(Capture::Failed(detail.into())),
        Outcome::Voided => PaymentAnswer::Undo(PaymentUndo::Voided),
        Outcome::Refunded => PaymentAnswer::Undo(PaymentUndo::Refunded),
        Outcome::RefundFailed => PaymentAnswer::Undo(PaymentUndo::Failed(detail.into())),
        Outcome::Unknown => return None,
    })
}

fn stock_outcome(answer: &StockAnswer) -> (wire::StockOutcome, Option<String>) {
    use wire::StockOutcome as Outcome;
    match answer {
        StockAnswer::Reservation(Reservation::Reserved) => (Outcome::Reserved, None),
        StockAnswer::Reservation(Reservation::Rejected(refusal)) => {
            (Outcome::Rejected, Some(refusal.text().to_owned()))
        }
        StockAnswer::Committed => (Outcome::Committed, None),
        StockAnswer::Undo(StockUndo::Released) => (Outcome::Released, None),
        StockAnswer::Undo(StockUndo::Returned) => (Outcome::Returned, None),
    }
}

fn stock_answer(event: &wire::StockNoted) -> Option<StockAnswer> {
    use wire::StockOutcome as Outcome;
    let detail = event.detail.as_deref().unwrap_or_default();
    Some(match event.outcome {
        Outcome::Reserved => StockAnswer::Reservation(Reservation::Reserved),
        Outcome::Rejected => StockAnswer::Reservation(Reservation::Rejected(Refusal::recorded(detail))),
        Outcome::Committed => StockAnswer::Committed,
        Outcome::Released => StockAnswer::Undo(StockUndo::Released),
        Outcome::Returned => StockAnswer::Undo(StockUndo::Returned),
        Outcome::Unknown => return None,
    })
}

fn source(text: &str) -> Option<SourceId> {
    text.parse::<Uuid>().ok().map(SourceId)
}

fn time(unix_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(unix_ms).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(event: Event) {
        assert_eq!(
            read(&write("0197d0c5-0000-7000-8000-000000000001", &event)),
            Some(event)
        );
    }

    #[test]
    fn every_event_reads_back_as_it_was_written() {
        let source = SourceId(Uuid::from_u128(7));
        let settle_by = Timestamp::from_millisecond(1_700_000_600_000).unwrap();
        round_trip(Event::OrderPlaced {
            request: Arc::new(crate::domain::sample_request()),
            decide_by: Timestamp::from_millisecond(1_700_000_060_000).unwrap(),
            settle_by,
        });
        for answer in PaymentAnswer::samples() {
            round_trip(Event::PaymentNoted { answer, source });
        }
        for answer in StockAnswer::samples() {
            round_trip(Event::StockNoted { answer, source });
        }
        round_trip(Event::OrderConfirmed {
            total_minor: 300,
            currency: Currency::new("USD").unwrap(),
        });
        for cause in [
            Cause::PaymentDeclined,
            Cause::OutOfStock,
            Cause::CustomerRequest,
            Cause::Deadline,
        ] {
            round_trip(Event::OrderCancelling { cause, settle_by });
            round_trip(Event::OrderCancelled { reason: cause });
        }
        round_trip(Event::OrderCompleted);
        round_trip(Event::OrderStuck { reason: "why".into() });
        for toward in [Toward::Completion, Toward::Cancellation] {
            round_trip(Event::OrderResumed {
                operator: "ops".into(),
                toward,
                settle_by,
            });
        }
    }

    #[test]
    fn a_symbol_of_a_newer_build_reads_as_nothing() {
        let noted = wire::PaymentNoted {
            order_id: "o".to_owned(),
            outcome: wire::PaymentOutcome::Unknown,
            detail: None,
            source_event_id: Uuid::nil().to_string(),
        };
        assert_eq!(read(&noted.into()), None);
    }
}
