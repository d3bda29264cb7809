//! Reactions, held to the choreography.

use std::collections::{BTreeMap, BTreeSet};

use common::event::EventSet as _;
use contracts::choreography;
use contracts::orders::{CancelCause, Line as OrderLine};

use super::*;
use crate::domain::{self, State};
use crate::stock::{Level, Stock};
use crate::{NAME, wire};

const ORDER: &str = "0199c0de-0000-7000-8000-000000000001";

fn placed(lines: &[(&str, i64)]) -> OrderPlaced {
    let line = |(sku, quantity): &(&str, i64)| OrderLine {
        sku: (*sku).to_owned(),
        quantity: *quantity,
        unit_price_minor: 100,
    };
    OrderPlaced {
        order_id: ORDER.to_owned(),
        customer_id: "c-1".to_owned(),
        currency: "EUR".to_owned(),
        lines: lines.iter().map(line).collect(),
        total_minor: 100,
        payment_method: "tok_visa".to_owned(),
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
fn inventory_reacts_to_what_the_choreography_says_and_to_nothing_else() {
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

#[test]
fn what_follows_from_each_event_is_what_the_choreography_says() {
    let inputs = [
        Input::OrderPlaced(placed(&[("apple", 1)])),
        Input::OrderPlaced(placed(&[("apple", 11)])),
        confirmed(),
        cancelling(),
        resumed(ResumeToward::Completion),
        resumed(ResumeToward::Cancellation),
    ];
    let level = Level {
        on_hand: 10,
        ..Level::default()
    };
    let stock = Stock::new([(Sku::parse("apple").unwrap(), level)], []);
    let mut produced: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let mut open = vec![(State::default(), 0)];
    while let Some((state, depth)) = open.pop() {
        for input in &inputs {
            let (_, command) = react(input).unwrap();
            let events = domain::decide(&state, &stock, &command).unwrap_or_default();
            let names = events
                .iter()
                .map(|event| wire::from_domain(ORDER, event).event_type().name);
            produced.entry(name(input)).or_default().extend(names);
            let next = events.iter().fold(state.clone(), domain::evolve);
            if next != state && depth < 4 {
                open.push((next, depth + 1));
            }
        }
    }
    for (cause, names) in produced {
        let map: BTreeSet<_> = choreography::reactions_to(cause)
            .filter(|reaction| reaction.service == NAME)
            .flat_map(|reaction| reaction.produces.iter().copied())
            .collect();
        assert_eq!(names, map, "{cause}");
    }
}

#[test]
fn lines_of_one_sku_are_summed() {
    let order = Input::OrderPlaced(placed(&[("pear", 1), ("apple", 2), ("pear", 3)]));
    let line = |sku: &str, quantity| Line {
        sku: Sku::parse(sku).unwrap(),
        quantity,
    };
    assert_eq!(
        react(&order),
        Ok((ORDER, Command::Reserve(Lines::sum([line("apple", 2), line("pear", 4)]))))
    );
}

#[test]
fn a_resumed_order_asks_for_the_step_that_it_was_stuck_at() {
    assert_eq!(react(&resumed(ResumeToward::Completion)), Ok((ORDER, Command::Commit)));
    assert_eq!(
        react(&resumed(ResumeToward::Cancellation)),
        Ok((ORDER, Command::Cancel))
    );
    assert!(react(&resumed(ResumeToward::Unknown)).is_err());
}

#[test]
fn an_order_that_cannot_be_meant_is_poison() {
    for lines in [&[][..], &[("apple", 0)], &[("apple", 1), ("a b", 1)], &[("apple", -1)]] {
        assert!(react(&Input::OrderPlaced(placed(lines))).is_err(), "{lines:?}");
    }
    let mut order = placed(&[("apple", 1)]);
    order.order_id = "sku:apple".to_owned();
    assert!(react(&Input::OrderPlaced(order)).is_err());
}
