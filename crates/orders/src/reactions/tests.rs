//! Reactions, held to the choreography with the golden bytes of every event.

use std::collections::BTreeSet;
use std::path::Path;

use contracts::choreography::{consumed_by, topics_read_by};
use contracts::service::SERVICES;
use jiff::Timestamp;

use super::*;
use crate::domain;

/// What is read of every event there is, by its name.
fn every_reading() -> Vec<(&'static str, Option<Input>)> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts/golden");
    let read_one = |topic: &str, event_type: &'static common::event::EventType| {
        let newest = event_type.newest();
        let file = golden.join(format!("{}.v{}.hex", event_type.name, newest.version));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let datum = hex::decode(text.split_whitespace().collect::<String>()).unwrap();
        let writer = WriterSchema {
            name: event_type.name.into(),
            schema: newest.avsc.parse().unwrap(),
            text: newest.avsc.into(),
        };
        (event_type.name, read(topic, &writer, &datum).transpose().unwrap())
    };
    SERVICES
        .iter()
        .flat_map(|service| service.types.iter().map(move |event_type| (service.topic, event_type)))
        .map(|(topic, event_type)| read_one(topic, event_type))
        .collect()
}

fn envelope(id: Uuid) -> Envelope {
    Envelope {
        id,
        event_type: "PaymentAuthorized".into(),
        source: "payments".into(),
        subject: "o".into(),
        occurred_at: Timestamp::UNIX_EPOCH,
        correlation_id: id,
        causation_id: id,
        traceparent: None,
        stream_version: 1,
        position: 1,
    }
}

#[test]
fn exactly_the_events_that_the_choreography_names_are_read() {
    assert_eq!(LISTENS_TO, topics_read_by("orders"));
    let heard: BTreeSet<_> = every_reading()
        .into_iter()
        .filter_map(|(name, input)| input.map(|_| name))
        .collect();
    let named: BTreeSet<_> = consumed_by("orders").map(|reaction| reaction.event).collect();
    assert_eq!(heard, named);
}

#[test]
fn every_answer_is_noted_as_what_it_is_in_the_order_that_it_is_for() {
    for (name, input) in every_reading() {
        let Some(input) = input else { continue };
        assert_eq!(input.answer.name(), name);
        let id = Uuid::from_u128(7);
        let commands = react(&input, &envelope(id)).unwrap();
        let [(stream, Command::Note { answer, source })] = &commands[..] else {
            panic!("{name} led to {commands:?}");
        };
        assert_eq!(stream.as_str(), input.order_id);
        assert_eq!((answer, *source), (&input.answer, SourceId(id)));
    }
}

#[test]
fn an_order_id_that_is_none_is_poison() {
    let input = Input {
        order_id: "o-1".to_owned(),
        answer: Answer::Stock(StockAnswer::Committed),
    };
    let reason = react(&input, &envelope(Uuid::nil())).unwrap_err();
    assert!(reason.contains("o-1"), "{reason}");
}

#[test]
fn a_truncated_answer_is_an_error_and_not_nothing() {
    let avsc = PaymentsEvent::type_named("PaymentAuthorized").unwrap().newest().avsc;
    let writer = WriterSchema {
        name: "PaymentAuthorized".into(),
        schema: avsc.parse().unwrap(),
        text: avsc.into(),
    };
    assert!(read(topics::PAYMENTS, &writer, &[2]).unwrap().is_err());
    assert!(
        read(topics::INVENTORY, &writer, &[2]).is_none(),
        "inventory says no such thing"
    );
}

#[test]
fn why_a_payment_was_declined_is_kept() {
    for (reason, expected) in [
        (DeclineReason::Declined, Decline::ByIssuer),
        (DeclineReason::InsufficientFunds, Decline::InsufficientFunds),
        (DeclineReason::Unavailable, Decline::Unavailable),
        (DeclineReason::Cancelled, Decline::Cancelled),
        (DeclineReason::ExpiredCard, Decline::ExpiredCard),
        (DeclineReason::Unknown, Decline::ByIssuer),
    ] {
        let event = contracts::payments::PaymentDeclined {
            order_id: "o".to_owned(),
            reason,
        };
        let input = answer_of_payments(&event.into()).unwrap();
        let declined = PaymentAnswer::Authorization(Authorization::Declined(expected));
        assert_eq!(input.answer, Answer::Payment(declined));
    }
}

#[test]
fn shortages_are_told_in_words_and_a_refusal_of_a_cancelled_order_is_none() {
    let shortage = |number: usize| Shortage {
        sku: format!("NW-{number:03}"),
        requested: 2,
        available: 1,
    };
    let rejected = |shortages: usize, cancelled| contracts::inventory::StockRejected {
        order_id: "o".to_owned(),
        shortages: (1..=shortages).map(shortage).collect(),
        cancelled,
    };
    let refusal = |event: contracts::inventory::StockRejected| match answer_of_inventory(&event.into()).unwrap().answer
    {
        Answer::Stock(StockAnswer::Reservation(Reservation::Rejected(refusal))) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(rejected(1, false)).text(), "NW-001: 2 wanted, 1 available");
    assert!(
        refusal(rejected(7, false))
            .text()
            .ends_with("NW-005: 2 wanted, 1 available; and 2 more")
    );
    assert_eq!(refusal(rejected(0, true)), domain::Refusal::Cancelled);
}
