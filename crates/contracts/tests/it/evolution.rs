//! Readers and writers of different versions, as they meet during an upgrade.
//!
//! The readers of version 1 are frozen here as they were compiled then: nothing else shows what an old copy of a service
//! makes of what a new one writes.

use std::collections::BTreeSet;

use common::codec::{DatumError, read_datum, write_datum};
use common::event::EventSet as _;
use contracts::orders::{self, OrderPlaced};
use contracts::payments::{self, DeclineReason, PaymentAttempted, PaymentDeclined};
use serde::Deserialize;

use crate::catalogue::{events, schema};

/// `OrderPlaced` as the first build read it.
#[derive(Debug, Deserialize)]
struct OrderPlacedV1 {
    order_id: String,
    lines: Vec<LineV1>,
    total_minor: i64,
    reference: Option<String>,
    settle_by_unix_ms: i64,
}

#[derive(Debug, PartialEq, Deserialize)]
struct LineV1 {
    sku: String,
    quantity: i64,
}

/// `PaymentDeclined` as the first build read it.
#[derive(Debug, Deserialize)]
struct PaymentDeclinedV1 {
    reason: DeclineReasonV1,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum DeclineReasonV1 {
    Declined,
    InsufficientFunds,
    Unavailable,
    Cancelled,
    #[serde(other)]
    Unknown,
}

/// `PaymentAttempted` as the first build read it: an int.
#[derive(Debug, Deserialize)]
struct PaymentAttemptedV1 {
    attempt: i32,
}

fn placed() -> OrderPlaced {
    OrderPlaced {
        order_id: "o-1".to_owned(),
        lines: vec![orders::Line {
            sku: "NW-001".to_owned(),
            quantity: 2,
            unit_price_minor: 150,
        }],
        total_minor: 300,
        reference: Some("r".to_owned()),
        settle_by_unix_ms: 7,
        channel: "app".to_owned(),
        note: Some("ring twice".to_owned()),
        tags: vec!["gift".to_owned()],
        ..OrderPlaced::default()
    }
}

/// The datum of `event` as today's build writes it, with its schema.
fn written(event: &orders::Event) -> (Vec<u8>, common::codec::Schema) {
    let newest = schema(event.event_type().newest().avsc);
    (event.write(&newest, Vec::new()).unwrap(), newest)
}

fn written_by_payments(event: &payments::Event) -> (Vec<u8>, common::codec::Schema) {
    let newest = schema(event.event_type().newest().avsc);
    (event.write(&newest, Vec::new()).unwrap(), newest)
}

#[test]
fn an_old_reader_passes_over_the_fields_of_a_new_writer() {
    let (datum, writer) = written(&placed().into());
    let read: OrderPlacedV1 = read_datum(&datum, &writer).unwrap();
    assert_eq!(
        (read.order_id.as_str(), read.total_minor, read.settle_by_unix_ms),
        ("o-1", 300, 7)
    );
    assert_eq!(read.reference.as_deref(), Some("r"));
    let line = LineV1 {
        sku: "NW-001".to_owned(),
        quantity: 2,
    };
    assert_eq!(read.lines, [line]);
}

#[test]
fn an_old_reader_sees_a_new_symbol_as_unknown_and_the_old_ones_as_they_were() {
    for (reason, expected) in [
        (DeclineReason::ExpiredCard, DeclineReasonV1::Unknown),
        (DeclineReason::Declined, DeclineReasonV1::Declined),
        (DeclineReason::InsufficientFunds, DeclineReasonV1::InsufficientFunds),
        (DeclineReason::Unavailable, DeclineReasonV1::Unavailable),
        (DeclineReason::Cancelled, DeclineReasonV1::Cancelled),
    ] {
        let order_id = "o-1".to_owned();
        let (datum, writer) = written_by_payments(&PaymentDeclined { order_id, reason }.into());
        let read: PaymentDeclinedV1 = read_datum(&datum, &writer).unwrap();
        assert_eq!(read.reason, expected);
    }
}

#[test]
fn an_old_reader_takes_a_widened_number_while_it_fits_and_refuses_it_loudly_when_not() {
    let attempted = |attempt| {
        let event = PaymentAttempted {
            order_id: "o-1".to_owned(),
            attempt,
            outcome: "unavailable".to_owned(),
            retry_at_unix_ms: 0,
        };
        written_by_payments(&event.into())
    };
    let (datum, writer) = attempted(3);
    let read: PaymentAttemptedV1 = read_datum(&datum, &writer).unwrap();
    assert_eq!(read.attempt, 3);
    let (datum, writer) = attempted(i64::from(i32::MAX) + 1);
    let read: Result<PaymentAttemptedV1, _> = read_datum(&datum, &writer);
    assert!(matches!(read, Err(DatumError::Malformed(_))), "{read:?}");
}

#[test]
fn writers_of_every_version_interleaved_are_all_read_by_todays_types() {
    let event = placed();
    let mut channels = Vec::new();
    for turn in 0..6 {
        let version = &orders::Event::type_named("OrderPlaced").unwrap().versions[turn % 3];
        let writer = schema(version.avsc);
        // What a build of that version knew of the order.
        let mut then = serde_json::to_value(&event).unwrap();
        let known: serde_json::Value = serde_json::from_str(version.avsc).unwrap();
        let fields = known["fields"].as_array().unwrap();
        let known: BTreeSet<&str> = fields.iter().filter_map(|field| field["name"].as_str()).collect();
        then.as_object_mut()
            .unwrap()
            .retain(|name, _| known.contains(name.as_str()));
        let datum = write_datum(&then, &writer, Vec::new()).unwrap();
        let Some(Ok(orders::Event::OrderPlaced(read))) = orders::Event::read("OrderPlaced", &datum, &writer) else {
            panic!("version {} is not read", version.version);
        };
        assert_eq!((&read.lines, read.total_minor), (&event.lines, event.total_minor));
        channels.push((read.channel, read.note.is_some(), read.tags.len()));
    }
    let expected = [("web", false, 0), ("app", false, 0), ("app", true, 1)];
    let expected = expected.map(|(channel, note, tags)| (channel.to_owned(), note, tags));
    assert_eq!(channels, [expected.clone(), expected].concat());
}

/// The rules, and data: each version reads each earlier one, and what today's wire type sees in made-up data of any
/// version is what schema resolution sees.
#[test]
fn every_version_reads_all_earlier_ones_and_the_wire_types_agree() {
    let mut compared = 0;
    for wire in events() {
        let parse = |text| avro::parse(text, avro::Defaults::Checked).unwrap();
        let versions: Vec<_> = wire
            .event_type
            .versions
            .iter()
            .map(|version| parse(version.avsc))
            .collect();
        for (index, new) in versions.iter().enumerate() {
            for old in &versions[..index] {
                assert_eq!(avro::advise(new, old), [], "{}", wire.event_type.name);
            }
        }
        let newest = versions.last().unwrap();
        for (version, old) in wire.event_type.versions.iter().zip(&versions) {
            let (resolution, writer) = (avro::Resolution::new(newest, old), schema(version.avsc));
            for variant in 0..old.variants() {
                let datum = old.sample(variant).unwrap();
                let read = (wire.decode)(wire.event_type.name, &datum, &writer).unwrap();
                assert_eq!(
                    read,
                    resolution.read(&datum).unwrap(),
                    "{} v{}",
                    wire.event_type.name,
                    version.version
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared}");
}
