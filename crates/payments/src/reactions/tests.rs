//! Reactions, held to the choreography.

use std::collections::{BTreeMap, BTreeSet};

use common::event::EventSet as _;
use contracts::choreography;
use contracts::orders::{CancelCause, Line};
use jiff::Timestamp;

use super::*;
use crate::domain::{self, Event, State};
use crate::{NAME, wire};

const ORDER: &str = "0199c0de-0000-7000-8000-000000000001";

fn placed(payment_method: &str) -> OrderPlaced {
    OrderPlaced {
        order_id: ORDER.to_owned(),
        customer_id: "c-1".to_owned(),
        currency: "EUR".to_owned(),
        lines: vec![Line {
            sku: "NW-001".to_owned(),
            quantity: 1,
            unit_price_minor: 100,
        }],
        total_minor: 100,
        payment_method: payment_method.to_owned(),
        reference: None,
        idempotency_key: None,
        request_hash: String::new(),
        decide_by_unix_ms: 60_000,
        settle_by_unix_ms: 600_000,
        ..OrderPlaced::default()
    }
}

fn resumed(toward: ResumeToward) -> Input {
    Input::OrderResumed(OrderResumed {
        order_id: ORDER.to_owned(),
        operator: "ops".to_owned(),
        toward,
        settle_by_unix_ms: 600_000,
    })
}

fn confirmed() -> Input {
    Input::OrderConfirmed(OrderConfirmed {
        order_id: ORDER.to_owned(),
        total_minor: 100,
        currency: "EUR".to_owned(),
    })
}

fn cancelling() -> Input {
    Input::OrderCancelling(OrderCancelling {
        order_id: ORDER.to_owned(),
        cause: CancelCause::CustomerRequest,
        settle_by_unix_ms: 600_000,
    })
}

fn name(input: &Input) -> &'static str {
    match input {
        Input::OrderPlaced(_) => "OrderPlaced",
        Input::OrderConfirmed(_) => "OrderConfirmed",
        Input::OrderCancelling(_) => "OrderCancelling",
        Input::OrderResumed(_) => "OrderResumed",
    }
}

#[test]
fn payments_reacts_to_what_the_choreography_says_and_to_nothing_else() {
    let ours: BTreeSet<_> = Input::EVENTS.iter().copied().collect();
    let map: BTreeSet<_> = choreography::consumed_by(NAME).map(|reaction| reaction.event).collect();
    assert_eq!(ours, map);
}

#[test]
fn each_event_that_is_consumed_is_read_and_no_other() {
    for event_type in contracts::orders::Event::TYPES {
        let writer = WriterSchema {
            name: event_type.name.into(),
            schema: event_type.newest().avsc.parse().unwrap(),
            text: event_type.newest().avsc.into(),
        };
        let heard = Input::EVENTS.contains(&event_type.name);
        assert_eq!(Input::read(&writer, &[]).is_some(), heard, "{}", event_type.name);
    }
}

/// What each input and each try leads to, over every state within reach of them.
fn produced() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let tokens = [
        "tok_visa",
        "tok_declined",
        "tok_timeout",
        "tok_unavailable",
        "tok_capture_fails",
        "tok_refund_fails",
    ];
    let inputs: Vec<Input> = tokens
        .into_iter()
        .map(|token| Input::OrderPlaced(placed(token)))
        .chain([confirmed(), cancelling()])
        .chain([ResumeToward::Completion, ResumeToward::Cancellation].map(resumed))
        .collect();
    let mut produced: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let mut open = vec![(State::default(), 0)];
    let now = Timestamp::from_millisecond(0).unwrap();
    while let Some((state, depth)) = open.pop() {
        if depth == 4 {
            continue;
        }
        let heard = inputs.iter().map(|input| (name(input), react(input).unwrap().1));
        let tried = state.intent().into_iter().map(|intent| {
            let cause = match (&state, intent.tries) {
                (State::Cancelling(_), _) => "PaymentCancelRequested",
                (_, 0) => "PaymentIntentOpened",
                _ => "PaymentAttempted",
            };
            (cause, crate::service::next_try(&state, ORDER).unwrap())
        });
        for (cause, command) in heard.chain(tried) {
            let events: Vec<Event> = domain::decide(&state, &command, now).unwrap();
            let names = events
                .iter()
                .map(|event| wire::from_domain(ORDER, event).event_type().name);
            produced.entry(cause).or_default().extend(names);
            let next = events.iter().fold(state.clone(), domain::evolve);
            if next != state {
                open.push((next, depth + 1));
            }
        }
    }
    produced
}

#[test]
fn what_follows_from_each_event_is_what_the_choreography_says() {
    for (cause, names) in produced() {
        let map: BTreeSet<_> = choreography::reactions_to(cause)
            .filter(|reaction| reaction.service == NAME)
            .flat_map(|reaction| reaction.produces.iter().copied())
            .collect();
        assert!(
            names.is_subset(&map),
            "{cause} leads to {names:?}, the map says {map:?}"
        );
        if Input::EVENTS.contains(&cause) {
            assert_eq!(names, map, "everything that the map says of {cause} can happen");
        }
    }
}

#[test]
fn a_resumed_order_asks_for_the_step_that_it_was_stuck_at() {
    assert_eq!(react(&resumed(ResumeToward::Completion)), Ok((ORDER, Command::Capture)));
    assert_eq!(
        react(&resumed(ResumeToward::Cancellation)),
        Ok((ORDER, Command::Cancel))
    );
    assert!(react(&resumed(ResumeToward::Unknown)).is_err());
}

#[test]
fn an_order_that_cannot_be_meant_is_poison() {
    let spoilt: [fn(&mut OrderPlaced); 5] = [
        |order| order.order_id = "o:1".to_owned(),
        |order| order.currency = "euro".to_owned(),
        |order| order.total_minor = -1,
        |order| order.payment_method.clear(),
        |order| order.payment_method = "x".repeat(Method::LENGTH_MAX + 1),
    ];
    assert!(react(&Input::OrderPlaced(placed("tok_visa"))).is_ok());
    for spoil in spoilt {
        let mut order = placed("tok_visa");
        spoil(&mut order);
        assert!(react(&Input::OrderPlaced(order.clone())).is_err(), "{order:?}");
    }
}
