//! The money of an order, given what happened, when something is asked, then what follows.

use std::collections::{HashMap, VecDeque};

use super::*;
use crate::money::Currency;

const ORDER: &str = "0199c0de-0000-7000-8000-000000000001";

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
}

fn amount() -> Money {
    Money::new(4_200, Currency::parse("EUR").unwrap()).unwrap()
}

fn method(token: &str) -> Method {
    Method::parse(token).unwrap()
}

fn payment(token: &str) -> Payment {
    Payment {
        id: gateway::payment_id(&method(token), ORDER),
        amount: amount(),
    }
}

fn place(token: &str) -> Command {
    Command::Authorize {
        payment: payment(token),
        method: method(token),
    }
}

fn attempt(number: u32, answer: Answer) -> Command {
    Command::RecordAttempt {
        attempt: number,
        answer,
    }
}

fn opened(token: &str) -> Event {
    Event::IntentOpened {
        amount: amount(),
        method: method(token),
        at: at(0),
    }
}

fn attempted(number: u32, silence: Silence, retry_at: i64) -> Event {
    Event::Attempted {
        attempt: number,
        silence,
        retry_at: at(retry_at),
    }
}

fn nothing_held() -> Event {
    Event::Voided { held: None }
}

fn voided(token: &str) -> Event {
    Event::Voided {
        held: Some(payment(token).id),
    }
}

fn capture_failed(reason: &str) -> Event {
    Event::CaptureFailed { reason: reason.into() }
}

fn state_after(events: &[Event]) -> State {
    events.iter().fold(State::default(), evolve)
}

/// At 10 seconds past the start, unless the command is given another time.
fn check(given: &[Event], when: Command, then: &[Event]) {
    check_at(given, when, 10_000, then);
}

fn check_at(given: &[Event], when: Command, millis: i64, then: &[Event]) {
    let state = state_after(given);
    assert_eq!(
        decide(&state, &when, at(millis)).as_deref(),
        Ok(then),
        "given {given:?}, when {when:?}"
    );
}

#[test]
fn a_good_card_is_authorised_at_once() {
    check(&[], place("tok_visa"), &[Event::Authorized(payment("tok_visa"))]);
}

#[test]
fn a_refused_card_is_declined_at_once_with_the_gateways_reason() {
    check(&[], place("tok_declined"), &[Event::Declined(DeclineReason::Declined)]);
    check(
        &[],
        place("tok_insufficient_funds"),
        &[Event::Declined(DeclineReason::InsufficientFunds)],
    );
    check(
        &[],
        place("tok_expired_card"),
        &[Event::Declined(DeclineReason::ExpiredCard)],
    );
    check(&[], place("tok_mislaid"), &[Event::Declined(DeclineReason::Declined)]);
}

#[test]
fn a_gateway_that_has_to_be_asked_opens_an_intent() {
    for token in ["tok_timeout", "tok_unavailable"] {
        let opened = Event::IntentOpened {
            amount: amount(),
            method: method(token),
            at: at(10_000),
        };
        check(&[], place(token), std::slice::from_ref(&opened));
        let intent = state_after(&[opened]).intent().cloned().unwrap();
        assert_eq!(intent.next_try, at(10_000), "the first try is due at once");
    }
}

#[test]
fn an_order_that_is_placed_again_is_known() {
    for given in every_reachable_state() {
        if !matches!(given, State::Unseen | State::Tombstone) {
            assert_eq!(decide(&given, &place("tok_visa"), at(0)), Ok(vec![]), "{given:?}");
        }
    }
}

#[test]
fn an_unavailable_gateway_is_tried_five_times_and_then_declined() {
    let mut events = vec![opened("tok_unavailable")];
    let mut now = 0;
    for (number, pause) in [(1, 200), (2, 400), (3, 800), (4, 1_600)] {
        let expected = attempted(number, Silence::Unavailable, now + pause);
        check_at(
            &events,
            attempt(number, Answer::Unavailable),
            now,
            std::slice::from_ref(&expected),
        );
        events.push(expected);
        now += pause;
    }
    check_at(
        &events,
        attempt(5, Answer::Unavailable),
        now,
        &[Event::Declined(DeclineReason::Unavailable)],
    );
}

#[test]
fn a_gateway_that_comes_back_authorises() {
    let given = [opened("tok_unavailable"), attempted(1, Silence::Unavailable, 200)];
    let approved = payment("tok_unavailable");
    check(
        &given,
        attempt(2, Answer::Approved(approved.id.clone())),
        &[Event::Authorized(approved)],
    );
    check(
        &given,
        attempt(2, Answer::Refused(Refusal::InsufficientFunds)),
        &[Event::Declined(DeclineReason::InsufficientFunds)],
    );
}

#[test]
fn an_unknown_outcome_is_asked_for_again_at_bounded_intervals_and_never_decided() {
    let mut events = vec![opened("tok_timeout")];
    let mut now = 0;
    for (number, pause) in (1..).zip([1, 2, 4, 8, 15, 15, 15]) {
        let expected = attempted(number, Silence::Unknown, now + pause * 1_000);
        check_at(
            &events,
            attempt(number, Answer::Unknown),
            now,
            std::slice::from_ref(&expected),
        );
        events.push(expected);
        now += pause * 1_000;
    }
    let forty_days_of_tries = Intent {
        amount: amount(),
        method: method("tok_timeout"),
        tries: 230_400,
        surely_unheard: false,
        next_try: at(0),
    };
    assert_eq!(
        decide(
            &State::Pending(forty_days_of_tries),
            &attempt(230_401, Answer::Unknown),
            at(0)
        ),
        Ok(vec![attempted(230_401, Silence::Unknown, 15_000)])
    );
}

#[test]
fn once_a_try_may_have_been_heard_unavailability_declines_nothing() {
    let mut events = vec![opened("tok_timeout"), attempted(1, Silence::Unknown, 1_000)];
    for number in 2..=UNAVAILABLE_TRIES_MAX + 3 {
        let followed = decide(&state_after(&events), &attempt(number, Answer::Unavailable), at(0)).unwrap();
        assert!(matches!(followed[..], [Event::Attempted { .. }]), "{followed:?}");
        events.extend(followed);
    }
    check(&events, Command::Cancel, &[Event::CancelRequested { at: at(10_000) }]);
}

#[test]
fn a_try_that_was_overtaken_and_learnt_nothing_is_no_news() {
    let given = [opened("tok_timeout"), attempted(1, Silence::Unknown, 1_000)];
    check(&given, attempt(1, Answer::Unknown), &[]);
    check(&given, attempt(1, Answer::Unavailable), &[]);
    let cancelling = [&given[..], &[Event::CancelRequested { at: at(2_000) }]].concat();
    check(&cancelling, attempt(1, Answer::Unknown), &[]);
    check(&cancelling, attempt(2, Answer::Unknown), &[]);
    assert_eq!(
        state_after(&cancelling).intent().unwrap().next_try,
        at(2_000),
        "the try that was under way does not put off the cancel"
    );
}

#[test]
fn an_overtaken_try_that_learnt_the_outcome_counts() {
    let given = [opened("tok_timeout"), attempted(1, Silence::Unknown, 1_000)];
    let paid = payment("tok_timeout");
    check(
        &given,
        attempt(1, Answer::Approved(paid.id.clone())),
        &[Event::Authorized(paid)],
    );
}

#[test]
fn a_cancel_before_the_order_leaves_a_tombstone_that_declines_it() {
    check(&[], Command::Cancel, &[nothing_held()]);
    let given = [nothing_held()];
    check(&given, Command::Cancel, &[nothing_held()]);
    check(&given, place("tok_visa"), &[Event::Declined(DeclineReason::Cancelled)]);
    let refused = [nothing_held(), Event::Declined(DeclineReason::Cancelled)];
    check(&refused, Command::Cancel, &[nothing_held()]);
}

#[test]
fn a_cancel_releases_what_is_held_and_refunds_what_was_taken() {
    let authorized = Event::Authorized(payment("tok_visa"));
    check(
        std::slice::from_ref(&authorized),
        Command::Cancel,
        &[voided("tok_visa")],
    );
    check(
        &[authorized, Event::Captured(payment("tok_visa"))],
        Command::Cancel,
        &[Event::Refunded(payment("tok_visa"))],
    );
    check(
        &[Event::Declined(DeclineReason::Declined)],
        Command::Cancel,
        &[nothing_held()],
    );
}

#[test]
fn between_two_tries_that_were_surely_unheard_a_cancel_ends_at_once() {
    let given = [opened("tok_unavailable"), attempted(1, Silence::Unavailable, 200)];
    check_at(&given, Command::Cancel, 199, &[nothing_held()]);
}

#[test]
fn while_a_try_may_be_under_way_nothing_is_promised() {
    let requested = |millis| [Event::CancelRequested { at: at(millis) }];
    let untried = [opened("tok_unavailable")];
    check_at(&untried, Command::Cancel, 0, &requested(0));
    let due = [opened("tok_unavailable"), attempted(1, Silence::Unavailable, 200)];
    check_at(&due, Command::Cancel, 200, &requested(200));
    let unknown = [opened("tok_timeout"), attempted(1, Silence::Unknown, 1_000)];
    check_at(&unknown, Command::Cancel, 500, &requested(500));
}

#[test]
fn a_requested_cancel_ends_when_the_gateway_has_closed_the_key() {
    let given = [
        opened("tok_timeout"),
        attempted(1, Silence::Unknown, 1_000),
        Event::CancelRequested { at: at(2_000) },
    ];
    assert_eq!(state_after(&given).intent().unwrap().next_try, at(2_000));
    check(&given, attempt(3, Answer::NeverHeld), &[nothing_held()]);
    check(
        &given,
        attempt(3, Answer::Voided(payment("tok_timeout").id)),
        &[voided("tok_timeout")],
    );
    check(
        &given,
        attempt(3, Answer::Refused(Refusal::Declined)),
        &[nothing_held()],
    );
    check(
        &given,
        attempt(3, Answer::Unknown),
        &[attempted(3, Silence::Unknown, 14_000)],
    );
    check(
        &given,
        attempt(3, Answer::Unavailable),
        &[attempted(3, Silence::Unavailable, 14_000)],
    );
}

#[test]
fn an_authorisation_that_turns_up_while_cancelling_is_voided() {
    let given = [opened("tok_timeout"), Event::CancelRequested { at: at(1_000) }];
    check(
        &given,
        attempt(1, Answer::Approved(payment("tok_timeout").id)),
        &[voided("tok_timeout")],
    );
}

#[test]
fn an_authorisation_that_turns_up_after_the_end_is_voided_once() {
    let late = attempt(2, Answer::Approved(payment("tok_unavailable").id));
    let tried = [opened("tok_unavailable"), attempted(1, Silence::Unavailable, 200)];
    for end in [nothing_held(), Event::Declined(DeclineReason::Unavailable)] {
        let mut given = [&tried[..], &[end]].concat();
        check(&given, late.clone(), &[voided("tok_unavailable")]);
        given.push(voided("tok_unavailable"));
        check(&given, late.clone(), &[]);
    }
}

#[test]
fn a_repeated_cancel_is_answered_again_from_state() {
    let held = Event::Authorized(payment("tok_visa"));
    let void = [held.clone(), voided("tok_visa")];
    check(&void, Command::Cancel, &[voided("tok_visa")]);
    let refund = [
        held,
        Event::Captured(payment("tok_visa")),
        Event::Refunded(payment("tok_visa")),
    ];
    check(&refund, Command::Cancel, &[Event::Refunded(payment("tok_visa"))]);
    let open = [opened("tok_timeout"), Event::CancelRequested { at: at(0) }];
    check(&open, Command::Cancel, &[Event::CancelRequested { at: at(10_000) }]);
}

#[test]
fn a_repeated_capture_is_answered_again_from_state() {
    let taken = Event::Captured(payment("tok_visa"));
    let given = [Event::Authorized(payment("tok_visa")), taken.clone()];
    check(&given, Command::Capture, std::slice::from_ref(&taken));
    assert_eq!(state_after(&given), state_after(&[&given[..], &[taken]].concat()));
}

#[test]
fn a_capture_that_failed_succeeds_when_it_is_resumed() {
    let mut given = vec![Event::Authorized(payment("tok_capture_fails"))];
    let failed = capture_failed("the gateway refused the capture");
    check(&given, Command::Capture, std::slice::from_ref(&failed));
    given.push(failed);
    check(
        &given,
        Command::Capture,
        &[Event::Captured(payment("tok_capture_fails"))],
    );
    check(&given, Command::Cancel, &[voided("tok_capture_fails")]);
}

#[test]
fn a_refund_that_failed_succeeds_when_it_is_resumed() {
    let mut given = vec![
        Event::Authorized(payment("tok_refund_fails")),
        Event::Captured(payment("tok_refund_fails")),
    ];
    let failed = Event::RefundFailed {
        reason: "the gateway refused the refund".into(),
    };
    check(&given, Command::Cancel, std::slice::from_ref(&failed));
    given.push(failed);
    check(&given, Command::Cancel, &[Event::Refunded(payment("tok_refund_fails"))]);
    check(
        &given,
        Command::Capture,
        &[Event::Captured(payment("tok_refund_fails"))],
    );
}

#[test]
fn where_nothing_is_held_a_capture_fails_aloud() {
    for (given, reason) in [
        (vec![], "no payment of this order was ever authorised"),
        (vec![nothing_held()], "no payment of this order was ever authorised"),
        (vec![opened("tok_timeout")], "the authorisation has not been answered"),
        (
            vec![Event::Declined(DeclineReason::Declined)],
            "the payment was declined",
        ),
        (
            vec![Event::Authorized(payment("tok_visa")), voided("tok_visa")],
            "the payment was voided",
        ),
        (vec![Event::Refunded(payment("tok_visa"))], "the payment was refunded"),
    ] {
        let failed = capture_failed(reason);
        check(&given, Command::Capture, std::slice::from_ref(&failed));
        let before = state_after(&given);
        assert_eq!(evolve(before.clone(), &failed), before, "it changes nothing");
    }
}

#[test]
fn a_try_of_a_payment_that_nobody_asked_for_is_refused() {
    for state in [State::Unseen, State::Tombstone] {
        assert_eq!(
            decide(&state, &attempt(1, Answer::Unknown), at(0)),
            Err(Rejection::NoIntent)
        );
    }
}

fn every_command() -> Vec<Command> {
    let methods = [
        "tok_visa",
        "tok_declined",
        "tok_timeout",
        "tok_unavailable",
        "tok_capture_fails",
        "tok_refund_fails",
    ];
    let id = payment("tok_timeout").id;
    let answers = [
        Answer::Approved(id.clone()),
        Answer::Refused(Refusal::Declined),
        Answer::Unavailable,
        Answer::Unknown,
        Answer::Voided(id),
        Answer::NeverHeld,
    ];
    let attempts = (1..=UNAVAILABLE_TRIES_MAX)
        .flat_map(|number| answers.iter().map(move |answer| attempt(number, answer.clone())));
    methods
        .into_iter()
        .map(place)
        .chain([Command::Capture, Command::Cancel])
        .chain(attempts)
        .collect()
}

/// Breadth first over every command, with as many tries of an intent as an unavailable gateway is given.
fn every_reachable_state() -> Vec<State> {
    let mut seen = HashMap::from([(format!("{:?}", State::Unseen), State::Unseen)]);
    let mut open = VecDeque::from([State::Unseen]);
    while let Some(state) = open.pop_front() {
        for command in every_command() {
            // Before the next try is due, and when it is.
            for now in [at(-1), at(0)] {
                let Ok(events) = decide(&state, &command, now) else {
                    continue;
                };
                let mut next = events.iter().fold(state.clone(), evolve);
                if let State::Pending(intent) | State::Cancelling(intent) = &mut next {
                    intent.next_try = at(0);
                }
                if seen.insert(format!("{next:?}"), next.clone()).is_none() {
                    open.push_back(next);
                }
            }
        }
    }
    seen.into_values().collect()
}

#[test]
fn every_command_has_a_row_in_every_reachable_state() {
    let states = every_reachable_state();
    assert!(states.len() > 20, "the exploration reaches {} states", states.len());
    for state in &states {
        for command in every_command() {
            let decided = decide(state, &command, at(0));
            let no_intent =
                matches!(state, State::Unseen | State::Tombstone) && matches!(command, Command::RecordAttempt { .. });
            assert_eq!(decided.is_err(), no_intent, "{command:?} in {state:?}");
            if matches!(command, Command::Capture | Command::Cancel) {
                assert_eq!(decided.unwrap().len(), 1, "{command:?} in {state:?} is waited for");
            }
        }
    }
}

#[test]
fn nothing_is_lost_or_made_on_any_walk() {
    let commands = every_command();
    for seed in 1..=500_u64 {
        let mut random = seed;
        let mut state = State::default();
        let (mut asked, mut taken, mut given_back) = (0, 0, 0);
        for step in 0..60 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let command = &commands[(random >> 33) as usize % commands.len()];
            for event in decide(&state, command, at(step)).unwrap_or_default() {
                if let Event::Voided { held: None } = event {
                    let may_be_held = matches!(&state, State::Pending(intent)
                        if !intent.surely_unheard || at(step) >= intent.next_try);
                    assert!(!may_be_held, "seed {seed}: nothing is promised while {state:?}");
                }
                state = evolve(state, &event);
            }
            let ledger = crate::store::Ledger::of(&state);
            asked = ledger.amount_minor.unwrap_or(asked);
            assert!(
                ledger.captured_minor >= taken || matches!(state, State::Unseen),
                "seed {seed}: taken once is taken, in {state:?}"
            );
            (taken, given_back) = (ledger.captured_minor, ledger.refunded_minor.max(given_back));
            assert!(given_back <= taken && taken <= asked, "seed {seed}: {ledger:?}");
        }
    }
}
