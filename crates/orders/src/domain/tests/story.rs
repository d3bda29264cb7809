//! How the saga's examples are told: given what has happened, when something is asked, then this happens.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::domain::*;

pub(super) const DECIDE: SignedDuration = SignedDuration::from_secs(60);
pub(super) const SETTLE: SignedDuration = SignedDuration::from_secs(600);

pub(crate) fn sample_request() -> Request {
    let lines = vec![Line {
        sku: Sku::new("NW-001").unwrap(),
        quantity: 2,
        unit_price_minor: 150,
    }];
    Request {
        customer_id: CustomerId::new("VINET").unwrap(),
        currency: Currency::new("USD").unwrap(),
        total_minor: total_minor(&lines).unwrap(),
        lines,
        payment_method: "tok_visa".into(),
        reference: Some("northwind-10248".into()),
        channel: "app".into(),
        note: Some("ring twice".into()),
        tags: vec!["gift".into(), "b2b".into()],
        idempotency_key: Some("northwind-10248".into()),
        request_hash: "c0ffee".into(),
    }
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

/// A story: one order and a clock that moves a second with each step.
pub(super) struct Story {
    pub(super) state: State,
    pub(super) step: i64,
    pub(super) then: Result<Vec<Event>, Rejection>,
}

pub(super) fn given_nothing() -> Story {
    Story {
        state: None,
        step: 0,
        then: Ok(Vec::new()),
    }
}

pub(super) fn given_a_placed_order() -> Story {
    given_nothing().when(place())
}

pub(super) fn given_a_confirmed_order() -> Story {
    given_a_placed_order().when(authorized()).when(reserved())
}

impl Story {
    /// Decides at the story's clock and folds what was decided.
    pub(super) fn when(self, command: Command) -> Self {
        let step = self.step + 1;
        self.when_at(step, command)
    }

    pub(super) fn when_at(mut self, step: i64, command: Command) -> Self {
        self.step = step;
        self.then = decide(&self.state, &command, at(step));
        for event in self.then.iter().flatten() {
            self.state = evolve(self.state, event, at(step));
        }
        self
    }

    #[track_caller]
    pub(super) fn then_moves(self, expected: &[Event]) -> Self {
        let events = self.then.as_ref().expect("the command is accepted");
        let is_note = |event: &&Event| !matches!(event, Event::PaymentNoted { .. } | Event::StockNoted { .. });
        assert_eq!(events.iter().filter(is_note).cloned().collect::<Vec<_>>(), expected);
        self
    }

    #[track_caller]
    pub(super) fn then_only_noted(self) -> Self {
        assert_eq!(self.then.as_ref().map(Vec::len), Ok(1));
        self.then_moves(&[])
    }

    #[track_caller]
    pub(super) fn then_nothing(self) -> Self {
        assert_eq!(self.then, Ok(Vec::new()));
        self
    }

    #[track_caller]
    pub(super) fn then_rejected(self, expected: Rejection) {
        assert_eq!(self.then, Err(expected));
    }

    #[track_caller]
    pub(super) fn and_it_is(self, status: &str) -> Self {
        assert_eq!(self.order().phase.name(), status);
        self
    }

    #[track_caller]
    pub(super) fn and_the_reason_is(self, reason: Cause) {
        assert_eq!(self.order().phase, Phase::Cancelled { reason });
    }

    pub(super) fn order(&self) -> &Order {
        self.state.as_ref().expect("the order was placed")
    }
}

pub(super) fn place() -> Command {
    Command::Place {
        request: Arc::new(sample_request()),
        decide_within: DECIDE,
        settle_within: SETTLE,
    }
}

pub(super) fn note(answer: Answer) -> Command {
    Command::Note {
        answer,
        source: SourceId(Uuid::new_v4()),
    }
}

pub(super) fn payment(answer: PaymentAnswer) -> Command {
    note(Answer::Payment(answer))
}

pub(super) fn stock(answer: StockAnswer) -> Command {
    note(Answer::Stock(answer))
}

pub(super) fn authorized() -> Command {
    payment(PaymentAnswer::Authorization(Authorization::Authorized))
}

pub(super) fn declined(why: Decline) -> Command {
    payment(PaymentAnswer::Authorization(Authorization::Declined(why)))
}

pub(super) fn captured() -> Command {
    payment(PaymentAnswer::Capture(Capture::Captured))
}

pub(super) fn capture_failed() -> Command {
    payment(PaymentAnswer::Capture(Capture::Failed("card expired".into())))
}

pub(super) fn voided() -> Command {
    payment(PaymentAnswer::Undo(PaymentUndo::Voided))
}

pub(super) fn refunded() -> Command {
    payment(PaymentAnswer::Undo(PaymentUndo::Refunded))
}

pub(super) fn refund_failed() -> Command {
    payment(PaymentAnswer::Undo(PaymentUndo::Failed("account closed".into())))
}

pub(super) fn reserved() -> Command {
    stock(StockAnswer::Reservation(Reservation::Reserved))
}

pub(super) fn rejected() -> Command {
    stock(StockAnswer::Reservation(Reservation::Rejected(Refusal::Shortage(
        "NW-001".into(),
    ))))
}

pub(super) fn refused_as_cancelled() -> Command {
    stock(StockAnswer::Reservation(Reservation::Rejected(Refusal::Cancelled)))
}

pub(super) fn committed() -> Command {
    stock(StockAnswer::Committed)
}

pub(super) fn released() -> Command {
    stock(StockAnswer::Undo(StockUndo::Released))
}

pub(super) fn returned() -> Command {
    stock(StockAnswer::Undo(StockUndo::Returned))
}

pub(super) fn cancel() -> Command {
    Command::Cancel {
        by: Canceller::Customer(CustomerId::new("VINET").unwrap()),
    }
}

pub(super) fn deadline_at(seconds: i64) -> Command {
    Command::Deadline { due: at(seconds) }
}

pub(super) fn resume() -> Command {
    Command::Resume { operator: "ops".into() }
}

pub(super) fn confirmed_event() -> Event {
    Event::OrderConfirmed {
        total_minor: 300,
        currency: Currency::new("USD").unwrap(),
    }
}

pub(super) fn cancelling_event(cause: Cause, step: i64) -> Event {
    Event::OrderCancelling {
        cause,
        settle_by: at(step + 600),
    }
}

pub(super) fn stuck_event(reason: &str) -> Event {
    Event::OrderStuck { reason: reason.into() }
}
