//! What a batch locks and what it writes.

use bytes::Bytes;
use common::event::Recorded;
use uuid::Uuid;

use super::*;
use crate::goods::{Line, Lines};
use crate::stock::{Kind, Level};

const ORDER: &str = "0199c0de-0000-7000-8000-000000000001";

fn sku(text: &str) -> Sku {
    Sku::parse(text).unwrap()
}

fn basket() -> Lines {
    Lines::sum([("pear", 1), ("apple", 2)].map(|(name, quantity)| Line {
        sku: sku(name),
        quantity,
    }))
}

fn recorded(stream: &StreamId, position: i64) -> Recorded {
    Recorded {
        stream_id: stream.clone(),
        envelope: Envelope {
            id: Uuid::from_u128(position as u128),
            event_type: "".into(),
            source: NAME.into(),
            subject: stream.key().into(),
            occurred_at: Timestamp::from_millisecond(position).unwrap(),
            correlation_id: Uuid::nil(),
            causation_id: Uuid::nil(),
            traceparent: None,
            stream_version: position,
            position,
        },
        schema_id: 1,
        payload: Bytes::new(),
    }
}

/// What a batch of `commands` on one stream writes, given the stock of ten apples and ten pears.
fn written(stream: &StreamId, commands: &[Command]) -> store::Effects {
    let level = || Level {
        on_hand: 10,
        ..Level::default()
    };
    let mut stock = Stock::new([(sku("apple"), level()), (sku("pear"), level())], []);
    let mut state = State::default();
    let mut events = Vec::new();
    for command in commands {
        let decided = Inventory
            .decide(stream, &state, &mut stock, command, Timestamp::UNIX_EPOCH)
            .unwrap();
        for event in decided {
            let recorded = recorded(stream, events.len() as i64 + 1);
            Inventory.evolve(&mut state, &event, &recorded.envelope);
            events.push((event, recorded));
        }
    }
    effects(&[Change {
        stream_id: stream,
        before: &State::default(),
        after: &state,
        version: events.len() as i64,
        events: &events,
    }])
}

#[test]
fn a_batch_locks_each_sku_once_and_in_order() {
    let streams = [
        StreamId::new("a"),
        StreamId::new("b"),
        StreamId::of_kind("sku", "quince"),
    ];
    let (unseen, reserved) = (State::Unseen, State::Reserved(basket()));
    let quinces = Lines::sum([Line {
        sku: sku("quince"),
        quantity: 1,
    }]);
    let receipt = ReceiptId::parse("r-1").unwrap();
    let commands = [
        Command::Reserve(quinces),
        Command::Commit,
        Command::Receive {
            sku: sku("quince"),
            quantity: 1,
            receipt: receipt.clone(),
        },
    ];
    let (skus, receipts) = needed(&[
        (&streams[0], &commands[0], &unseen),
        (&streams[1], &commands[1], &reserved),
        (&streams[2], &commands[2], &unseen),
    ]);
    assert_eq!(skus, [&sku("apple"), &sku("pear"), &sku("quince")]);
    assert_eq!(receipts, [(&sku("quince"), &receipt)]);
}

#[test]
fn each_line_moves_once_however_often_it_is_answered() {
    let commands = [
        Command::Reserve(basket()),
        Command::Commit,
        Command::Commit,
        Command::Cancel,
        Command::Cancel,
    ];
    let effects = written(&StreamId::new(ORDER), &commands);
    let moved: Vec<_> = effects
        .movements
        .iter()
        .map(|moved| (moved.position, moved.movement.sku.as_str(), moved.movement.kind))
        .collect();
    assert_eq!(
        moved,
        [
            (1, "apple", Kind::Reserved),
            (1, "pear", Kind::Reserved),
            (2, "apple", Kind::Committed),
            (2, "pear", Kind::Committed),
            (4, "apple", Kind::Returned),
            (4, "pear", Kind::Returned),
        ]
    );
}

#[test]
fn a_count_and_a_receipt_are_written_with_their_movements() {
    let commands = [
        Command::Adjust {
            sku: sku("apple"),
            name: "Apple".into(),
            unit_price_minor: 50,
            on_hand: 4,
        },
        Command::Receive {
            sku: sku("apple"),
            quantity: 3,
            receipt: ReceiptId::parse("r-1").unwrap(),
        },
    ];
    let effects = written(&StreamId::of_kind("sku", "apple"), &commands);
    let moved: Vec<_> = effects
        .movements
        .iter()
        .map(|moved| (moved.movement.kind, moved.movement.on_hand))
        .collect();
    assert_eq!(moved, [(Kind::Adjusted, -6), (Kind::Received, 3)]);
    assert_eq!(effects.named[&sku("apple")], ("Apple".into(), 50));
    assert_eq!(effects.receipts, [(sku("apple"), ReceiptId::parse("r-1").unwrap(), 3)]);
}
