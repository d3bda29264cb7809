//! Every edge of the saga, by example.

mod story;

use std::sync::Arc;

use super::{Canceller, Cause, Command, CustomerId, Decline, Event, Rejection, Toward, deadline, leads_nowhere};

pub(crate) use story::sample_request;
use story::*;

// Placing.

#[test]
fn an_order_is_placed_with_both_of_its_deadlines() {
    let story = given_a_placed_order();
    let expected = Event::OrderPlaced {
        request: Arc::new(sample_request()),
        decide_by: at(1 + 60),
        settle_by: at(1 + 600),
    };
    assert_eq!(story.then, Ok(vec![expected]));
    assert_eq!(deadline(story.order()), Some(at(1 + 60)));
}

#[test]
fn the_same_request_again_is_the_same_order() {
    given_a_placed_order().when(place()).then_nothing().and_it_is("placed");
    given_a_confirmed_order()
        .when(place())
        .then_nothing()
        .and_it_is("confirmed");
}

#[test]
fn another_request_under_the_same_key_is_refused() {
    let mut request = sample_request();
    request.request_hash = "decaf".into();
    let other = Command::Place {
        request: Arc::new(request),
        decide_within: DECIDE,
        settle_within: SETTLE,
    };
    given_a_placed_order().when(other).then_rejected(Rejection::KeyReused);
}

// Both say yes.

#[test]
fn both_yes_confirms_whichever_came_first() {
    for (first, second) in [(authorized(), reserved()), (reserved(), authorized())] {
        given_a_placed_order()
            .when(first)
            .then_only_noted()
            .when(second)
            .then_moves(&[confirmed_event()])
            .and_it_is("confirmed");
    }
}

#[test]
fn only_the_first_yes_and_what_was_heard_before_lead_nowhere() {
    let placed = given_a_placed_order();
    for (first, second) in [(authorized(), reserved()), (reserved(), authorized())] {
        assert!(leads_nowhere(&placed.state, &first));
        let one_answered = given_a_placed_order().when(first.clone());
        assert!(leads_nowhere(&one_answered.state, &first), "it was heard before");
        assert!(!leads_nowhere(&one_answered.state, &second));
    }
    for command in [declined(Decline::ByIssuer), rejected(), cancel(), place(), captured()] {
        assert!(!leads_nowhere(&placed.state, &command), "{command:?}");
    }
    assert!(!leads_nowhere(&None, &authorized()));
}

#[test]
fn both_done_completes_whichever_came_first() {
    for (first, second) in [(captured(), committed()), (committed(), captured())] {
        let story = given_a_confirmed_order()
            .when(first)
            .then_only_noted()
            .when(second)
            .then_moves(&[Event::OrderCompleted])
            .and_it_is("completed");
        assert_eq!(deadline(story.order()), None);
    }
}

#[test]
fn a_confirmed_order_has_its_whole_settle_window_before_it() {
    let story = given_a_placed_order().when(authorized()).when_at(59, reserved());
    assert_eq!(deadline(story.order()), Some(at(59 + 600)));
}

// Somebody says no.

#[test]
fn the_first_no_begins_the_cancelling_without_waiting_for_the_other() {
    given_a_placed_order()
        .when(declined(Decline::ByIssuer))
        .then_moves(&[cancelling_event(Cause::PaymentDeclined, 2)]);
    given_a_placed_order()
        .when(rejected())
        .then_moves(&[cancelling_event(Cause::OutOfStock, 2)]);
    given_a_placed_order()
        .when(reserved())
        .when(declined(Decline::Unavailable))
        .then_moves(&[cancelling_event(Cause::PaymentDeclined, 3)]);
}

#[test]
fn an_order_is_cancelled_only_when_both_have_acknowledged() {
    for (first, second) in [(voided(), released()), (released(), voided())] {
        given_a_placed_order()
            .when(authorized())
            .when(rejected())
            .when(first)
            .then_only_noted()
            .and_it_is("cancelling")
            .when(second)
            .then_moves(&[Event::OrderCancelled {
                reason: Cause::OutOfStock,
            }])
            .and_it_is("cancelled");
    }
}

#[test]
fn a_no_is_not_an_acknowledgement() {
    given_a_placed_order()
        .when(declined(Decline::ByIssuer))
        .when(rejected())
        .then_only_noted()
        .and_it_is("cancelling")
        .when(voided())
        .then_only_noted()
        .when(released())
        .and_the_reason_is(Cause::PaymentDeclined);
}

#[test]
fn a_late_yes_is_written_down_and_never_taken_for_the_acknowledgement() {
    for late in [
        authorized(),
        declined(Decline::InsufficientFunds),
        captured(),
        capture_failed(),
    ] {
        given_a_placed_order()
            .when(rejected())
            .when(released())
            .when(late)
            .then_only_noted()
            .and_it_is("cancelling")
            .when(voided())
            .and_it_is("cancelled");
    }
    for late in [reserved(), rejected(), committed()] {
        given_a_placed_order()
            .when(declined(Decline::ByIssuer))
            .when(voided())
            .when(late)
            .then_only_noted()
            .and_it_is("cancelling")
            .when(released())
            .and_it_is("cancelled");
    }
}

// The reason is no race (edge 2).

#[test]
fn of_two_noes_the_payments_is_the_reason_whichever_came_first() {
    for (first, second) in [
        (declined(Decline::ByIssuer), rejected()),
        (rejected(), declined(Decline::ByIssuer)),
        (declined(Decline::InsufficientFunds), rejected()),
        (rejected(), declined(Decline::InsufficientFunds)),
    ] {
        given_a_placed_order()
            .when(first)
            .when(second)
            .when(voided())
            .when(released())
            .and_the_reason_is(Cause::PaymentDeclined);
    }
}

#[test]
fn a_gateway_that_was_away_does_not_outrank_a_shortage_whichever_came_first() {
    for (first, second) in [
        (declined(Decline::Unavailable), rejected()),
        (rejected(), declined(Decline::Unavailable)),
    ] {
        given_a_placed_order()
            .when(first)
            .when(second)
            .when(voided())
            .when(released())
            .and_the_reason_is(Cause::OutOfStock);
    }
    given_a_placed_order()
        .when(declined(Decline::Unavailable))
        .when(reserved())
        .when(released())
        .when(voided())
        .and_the_reason_is(Cause::PaymentDeclined);
}

#[test]
fn a_refusal_because_of_the_cancelling_is_no_reason() {
    given_a_placed_order()
        .when(rejected())
        .when(voided())
        .when(declined(Decline::Cancelled))
        .when(released())
        .and_the_reason_is(Cause::OutOfStock);
    given_a_placed_order()
        .when(declined(Decline::Unavailable))
        .when(released())
        .when(refused_as_cancelled())
        .when(voided())
        .and_the_reason_is(Cause::PaymentDeclined);
}

#[test]
fn what_the_customer_or_the_deadline_began_keeps_its_cause_whatever_is_answered_late() {
    for late in [declined(Decline::ByIssuer), authorized()] {
        given_a_placed_order()
            .when(cancel())
            .when(late.clone())
            .when(rejected())
            .when(voided())
            .when(released())
            .and_the_reason_is(Cause::CustomerRequest);
        given_a_placed_order()
            .when_at(61, deadline_at(61))
            .when(late)
            .when(rejected())
            .when(voided())
            .when(released())
            .and_the_reason_is(Cause::Deadline);
    }
}

// Cancelled by the customer (edge 3).

#[test]
fn a_cancel_is_accepted_until_the_order_is_completed() {
    given_a_placed_order()
        .when(cancel())
        .then_moves(&[cancelling_event(Cause::CustomerRequest, 2)]);
    given_a_confirmed_order()
        .when(captured())
        .when(cancel())
        .then_moves(&[cancelling_event(Cause::CustomerRequest, 5)])
        .when(committed())
        .then_only_noted()
        .when(refunded())
        .when(returned())
        .and_the_reason_is(Cause::CustomerRequest);
    given_a_confirmed_order()
        .when(captured())
        .when(committed())
        .when(cancel())
        .then_rejected(Rejection::AlreadyCompleted);
}

#[test]
fn a_confirm_that_the_cancel_overtook_is_undone() {
    given_a_confirmed_order()
        .when(cancel())
        .when(captured())
        .then_only_noted()
        .when(committed())
        .then_only_noted()
        .and_it_is("cancelling")
        .when(refunded())
        .then_only_noted()
        .when(returned())
        .and_the_reason_is(Cause::CustomerRequest);
}

#[test]
fn a_repeated_cancel_is_no_mistake_and_changes_nothing() {
    given_a_placed_order()
        .when(cancel())
        .when(cancel())
        .then_nothing()
        .when(voided())
        .when(released())
        .when(cancel())
        .then_nothing()
        .and_the_reason_is(Cause::CustomerRequest);
    given_a_placed_order().when(rejected()).when(cancel()).then_nothing();
    given_a_confirmed_order()
        .when(cancel())
        .when(refund_failed())
        .when(cancel())
        .then_nothing()
        .and_it_is("stuck");
}

#[test]
fn only_its_own_customer_or_an_operator_cancels_an_order() {
    let by = Canceller::Customer(CustomerId::new("TOMSP").unwrap());
    given_a_placed_order()
        .when(Command::Cancel { by })
        .then_rejected(Rejection::NotTheCustomer);
    let by = Canceller::Operator;
    given_a_placed_order()
        .when(Command::Cancel { by })
        .and_it_is("cancelling");
}

// Deadlines.

#[test]
fn an_order_that_is_not_decided_in_time_is_cancelled() {
    given_a_placed_order()
        .when(authorized())
        .when_at(61, deadline_at(61))
        .then_moves(&[cancelling_event(Cause::Deadline, 61)]);
}

#[test]
fn a_timer_of_a_phase_that_is_over_changes_nothing() {
    given_a_placed_order().when(deadline_at(60)).then_nothing();
    given_a_confirmed_order().when_at(61, deadline_at(61)).then_nothing();
    given_a_placed_order()
        .when(cancel())
        .when_at(601, deadline_at(601))
        .then_nothing();
    given_a_confirmed_order()
        .when(captured())
        .when(committed())
        .when_at(900, deadline_at(900))
        .then_nothing();
}

#[test]
fn an_order_that_is_not_settled_in_time_is_stuck_and_names_who_is_missing() {
    given_a_confirmed_order()
        .when_at(603, deadline_at(603))
        .then_moves(&[stuck_event(
            "confirmed, but not settled in time: waiting for payments to capture and inventory to commit",
        )]);
    given_a_confirmed_order()
        .when(captured())
        .when_at(603, deadline_at(603))
        .then_moves(&[stuck_event(
            "confirmed, but not settled in time: waiting for inventory to commit",
        )]);
    let story = given_a_placed_order()
        .when(cancel())
        .when(released())
        .when_at(602, deadline_at(602))
        .then_moves(&[stuck_event(
            "cancelling, but not settled in time: waiting for payments to void or refund",
        )]);
    assert_eq!(deadline(story.order()), None, "a stuck order waits for a person");
}

// Stuck.

#[test]
fn a_capture_that_fails_leaves_the_order_stuck() {
    given_a_confirmed_order()
        .when(committed())
        .when(capture_failed())
        .then_moves(&[stuck_event("the payment could not be captured: card expired")])
        .and_it_is("stuck");
}

#[test]
fn a_refund_that_fails_leaves_the_order_stuck() {
    given_a_confirmed_order()
        .when(captured())
        .when(cancel())
        .when(refund_failed())
        .then_moves(&[stuck_event("the payment could not be refunded: account closed")])
        .and_it_is("stuck");
}

#[test]
fn a_stuck_order_ends_by_itself_when_the_missing_answer_comes() {
    given_a_confirmed_order()
        .when(captured())
        .when_at(603, deadline_at(603))
        .when(committed())
        .then_moves(&[Event::OrderCompleted]);
    given_a_placed_order()
        .when(cancel())
        .when(voided())
        .when_at(602, deadline_at(602))
        .when(released())
        .then_moves(&[Event::OrderCancelled {
            reason: Cause::CustomerRequest,
        }]);
}

#[test]
fn an_answer_that_does_not_end_a_stuck_order_is_written_down() {
    given_a_confirmed_order()
        .when_at(603, deadline_at(603))
        .when(captured())
        .then_only_noted()
        .and_it_is("stuck")
        .when(committed())
        .and_it_is("completed");
    given_a_confirmed_order()
        .when(capture_failed())
        .when(committed())
        .then_only_noted()
        .and_it_is("stuck");
    given_a_confirmed_order()
        .when(cancel())
        .when(refund_failed())
        .when(returned())
        .then_only_noted()
        .and_it_is("stuck");
}

#[test]
fn a_resumed_order_tries_again_the_way_it_was_going() {
    given_a_confirmed_order()
        .when(capture_failed())
        .when(resume())
        .then_moves(&[Event::OrderResumed {
            operator: "ops".into(),
            toward: Toward::Completion,
            settle_by: at(5 + 600),
        }])
        .and_it_is("confirmed")
        .when(committed())
        .then_only_noted()
        .when(captured())
        .then_moves(&[Event::OrderCompleted]);
    given_a_confirmed_order()
        .when(captured())
        .when(cancel())
        .when(refund_failed())
        .when(resume())
        .then_moves(&[Event::OrderResumed {
            operator: "ops".into(),
            toward: Toward::Cancellation,
            settle_by: at(7 + 600),
        }])
        .and_it_is("cancelling")
        .when(returned())
        .then_only_noted()
        .when(refunded())
        .and_the_reason_is(Cause::CustomerRequest);
}

#[test]
fn a_resumed_order_that_fails_again_is_stuck_again() {
    given_a_confirmed_order()
        .when(capture_failed())
        .when(resume())
        .when(capture_failed())
        .then_moves(&[stuck_event("the payment could not be captured: card expired")])
        .when(resume())
        .when_at(900, deadline_at(900))
        .and_it_is("stuck");
}

#[test]
fn an_order_that_is_stuck_while_confirmed_can_still_be_cancelled() {
    given_a_confirmed_order()
        .when(committed())
        .when(capture_failed())
        .when(cancel())
        .then_moves(&[cancelling_event(Cause::CustomerRequest, 6)])
        .when(voided())
        .then_only_noted()
        .when(returned())
        .and_the_reason_is(Cause::CustomerRequest);
}

#[test]
fn only_a_stuck_order_is_resumed() {
    given_a_placed_order()
        .when(resume())
        .then_rejected(Rejection::NotStuck { status: "placed" });
    given_a_placed_order()
        .when(cancel())
        .when(resume())
        .then_rejected(Rejection::NotStuck { status: "cancelling" });
}

// Late and twice.

#[test]
fn the_same_answer_twice_is_written_down_once() {
    let answer = reserved();
    given_a_placed_order().when(answer.clone()).when(answer).then_nothing();
    let answer = captured();
    given_a_confirmed_order()
        .when(answer.clone())
        .when(committed())
        .when(answer)
        .then_nothing()
        .and_it_is("completed");
}

#[test]
fn acknowledgements_repeated_after_a_resume_do_not_end_an_order_twice() {
    given_a_placed_order()
        .when(cancel())
        .when(voided())
        .when_at(700, deadline_at(700))
        .when(resume())
        .when(released())
        .and_it_is("cancelled")
        .when(voided())
        .then_only_noted()
        .when(released())
        .then_only_noted()
        .and_the_reason_is(Cause::CustomerRequest);
    given_a_confirmed_order()
        .when(captured())
        .when_at(700, deadline_at(700))
        .when(resume())
        .when(committed())
        .and_it_is("completed")
        .when(captured())
        .then_only_noted()
        .and_it_is("completed");
}

#[test]
fn a_participant_that_was_cancelled_first_may_refuse_the_order_after_it_has_ended() {
    given_a_placed_order()
        .when(cancel())
        .when(voided())
        .when(released())
        .when(declined(Decline::Cancelled))
        .then_only_noted()
        .when(refused_as_cancelled())
        .then_only_noted()
        .and_the_reason_is(Cause::CustomerRequest);
}

#[test]
fn an_answer_to_what_was_never_asked_is_a_failure_of_its_sender() {
    let never = |answer, status| Rejection::NeverAsked { answer, status };
    given_a_placed_order()
        .when(captured())
        .then_rejected(never("PaymentCaptured", "placed"));
    given_a_placed_order()
        .when(voided())
        .then_rejected(never("PaymentVoided", "placed"));
    given_a_placed_order()
        .when(released())
        .then_rejected(never("StockReleased", "placed"));
    given_a_confirmed_order()
        .when(refunded())
        .then_rejected(never("PaymentRefunded", "confirmed"));
    given_a_confirmed_order()
        .when(rejected())
        .then_rejected(never("StockRejected", "confirmed"));
    given_a_confirmed_order()
        .when(captured())
        .when(committed())
        .when(voided())
        .then_rejected(never("PaymentVoided", "completed"));
}

#[test]
fn nothing_can_be_asked_of_an_order_that_was_never_placed() {
    for command in [authorized(), reserved(), cancel(), resume(), deadline_at(1)] {
        given_nothing().when(command).then_rejected(Rejection::NotFound);
    }
}
