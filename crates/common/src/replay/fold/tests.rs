//! What is folded, what is set aside, and what is kept, of a service that counts.

use std::convert::Infallible;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::*;
use crate::codec::{self, DatumError, Registry, RegistrySettings, Schema, SerError, WriterSchema};
use crate::event::{Envelope, EventSet, EventType, SchemaVersion};
use crate::pg::{Transaction, Write};

const AVSC: &str = r#"{ "type": "record", "name": "Counted", "namespace": "test", "fields": [
    { "name": "by", "type": "long" } ] }"#;
const SCHEMA_ID: u32 = 7;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    by: i64,
}

impl EventSet for Counted {
    const TOPIC: &'static str = "counter.events";
    const TYPES: &'static [EventType] = &[EventType {
        name: "Counted",
        fullname: "test.Counted",
        versions: &[SchemaVersion { version: 1, avsc: AVSC }],
    }];

    fn event_type(&self) -> &'static EventType {
        &Self::TYPES[0]
    }

    fn write(&self, schema: &Schema, buffer: Vec<u8>) -> Result<Vec<u8>, SerError> {
        codec::write_datum(self, schema, buffer)
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "by": self.by })
    }

    fn read(name: &str, datum: &[u8], writer: &Schema) -> Option<Result<Self, DatumError>> {
        (name == "Counted").then(|| codec::read_datum(datum, writer))
    }
}

#[derive(Debug)]
struct Counter;

#[async_trait]
impl Model for Counter {
    const NAME: &'static str = "counter";
    const LISTENS_TO: &'static [&'static str] = &[];
    const DEADLINES_WAIT_FOR_INPUT: bool = false;

    type Event = Counted;
    type Input = ();
    type Command = ();
    type State = i64;
    type Rows = ();
    type Rejection = Refusal;

    fn read(&self, _topic: &str, _writer: &WriterSchema, _datum: &[u8]) -> Option<Result<(), DatumError>> {
        None
    }

    fn react(&self, (): &(), _envelope: &Envelope) -> Result<Vec<(StreamId, ())>, String> {
        Ok(Vec::new())
    }

    fn decide(&self, _: &StreamId, _: &i64, (): &mut (), (): &(), _: Timestamp) -> Result<Vec<Counted>, Refusal> {
        Ok(Vec::new())
    }

    fn evolve(&self, state: &mut i64, event: &Counted, _envelope: &Envelope) {
        *state += event.by;
    }

    async fn lock_rows(&self, _: &Transaction<'_>, _: &[(&StreamId, &(), &i64)]) -> Result<(), tokio_postgres::Error> {
        Ok(())
    }

    fn project<'a>(&self, _: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        Vec::new()
    }
}

/// A counter refuses nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("never")]
struct Refusal(Infallible);

fn fold(streams_max: usize) -> Fold<Counter> {
    let registry = Registry::new(&RegistrySettings {
        url: "http://127.0.0.1:9".to_owned(),
        basic: None,
        token: None,
    });
    let codec = Codec::reader(registry.unwrap());
    codec.remember(SCHEMA_ID, AVSC).unwrap();
    Fold::new(Arc::new(Counter), Arc::new(codec), streams_max)
}

/// The event of `stream` with `version`, found at `position`.
fn found(stream: &str, version: i64, position: i64) -> Found {
    let mut payload = vec![0];
    payload.extend_from_slice(&SCHEMA_ID.to_be_bytes());
    let payload = Counted { by: version }.write(&AVSC.parse().unwrap(), payload).unwrap();
    let recorded = Recorded {
        stream_id: StreamId::new(stream),
        envelope: Envelope {
            id: Uuid::from_u64_pair(0, position.cast_unsigned()),
            event_type: "Counted".into(),
            source: "counter".into(),
            subject: stream.into(),
            occurred_at: Timestamp::UNIX_EPOCH,
            correlation_id: Uuid::nil(),
            causation_id: Uuid::nil(),
            traceparent: None,
            stream_version: version,
            position,
        },
        schema_id: SCHEMA_ID,
        payload: Bytes::from(payload),
    };
    Found {
        partition: 0,
        offset: position,
        recorded: Some(recorded),
    }
}

/// Folds these streams' events, in order of position from `position` on, as one batch.
async fn batch(fold: &mut Fold<Counter>, position: i64, events: &[(&str, i64)]) -> Batch<Counter> {
    let mut batch = Batch::new();
    for (at, (stream, version)) in (position..).zip(events) {
        let record = found(stream, *version, at);
        fold.take(&mut batch, record, (position - 1, i64::MAX)).await.unwrap();
    }
    fold.keep(&batch);
    batch
}

fn changes(batch: &Batch<Counter>) -> Vec<(String, i64, i64, i64)> {
    let changed = batch.changes();
    let mut changes: Vec<_> = changed
        .iter()
        .map(|change| {
            (
                change.stream_id.to_string(),
                *change.before,
                *change.after,
                change.version,
            )
        })
        .collect();
    changes.sort();
    changes
}

fn aside(first: i64, last: i64, gap: bool) -> Aside {
    Aside { first, last, gap }
}

#[tokio::test]
async fn a_stream_goes_on_in_the_next_batch_where_it_was() {
    let mut fold = fold(10);
    let first = batch(&mut fold, 1, &[("a", 1), ("b", 1), ("a", 2)]).await;
    assert_eq!(changes(&first), [("a".to_owned(), 0, 3, 2), ("b".to_owned(), 0, 1, 1)]);
    let second = batch(&mut fold, 4, &[("a", 3)]).await;
    assert_eq!(changes(&second), [("a".to_owned(), 3, 6, 3)]);
    assert!(first.aside.is_empty() && second.aside.is_empty());
}

#[tokio::test]
async fn a_stream_that_was_let_go_is_set_aside_from_its_first_version_that_was_not_folded() {
    let mut fold = fold(4);
    batch(&mut fold, 1, &[("a", 1), ("a", 2)]).await;
    for (position, stream) in (3..).zip(["b", "c", "d", "e", "f"]) {
        batch(&mut fold, position, &[(stream, 1)]).await;
        assert!(fold.len() <= 4, "no more is kept than is allowed");
    }
    let late = batch(&mut fold, 8, &[("a", 3), ("f", 2), ("a", 4)]).await;
    assert_eq!(changes(&late), [("f".to_owned(), 1, 3, 2)]);
    assert_eq!(late.aside, HashMap::from([(StreamId::new("a"), aside(3, 4, false))]));
}

#[tokio::test]
async fn a_version_that_comes_after_a_later_one_is_told_again_too() {
    let mut fold = fold(10);
    let turned = batch(&mut fold, 1, &[("a", 2), ("a", 1), ("a", 2)]).await;
    assert!(changes(&turned).is_empty());
    assert_eq!(turned.aside, HashMap::from([(StreamId::new("a"), aside(1, 2, false))]));
}

#[tokio::test]
async fn a_version_that_is_missing_is_noticed_and_what_came_before_it_is_written() {
    let mut fold = fold(10);
    let holed = batch(&mut fold, 1, &[("a", 1), ("a", 3), ("a", 4)]).await;
    assert_eq!(changes(&holed), [("a".to_owned(), 0, 1, 1)]);
    assert_eq!(holed.aside, HashMap::from([(StreamId::new("a"), aside(2, 4, true))]));
    let later = batch(&mut fold, 4, &[("a", 5)]).await;
    assert_eq!(later.aside, HashMap::from([(StreamId::new("a"), aside(5, 5, false))]));
}

#[tokio::test]
async fn a_record_that_repeats_an_event_changes_nothing_and_one_beyond_the_cutoff_is_left_for_later() {
    let mut fold = fold(10);
    let mut batch = Batch::new();
    for (record, cutoff) in [
        (found("a", 1, 1), 9),
        (found("a", 2, 2), 9),
        // The relay began again at the first.
        (found("a", 1, 1), 9),
        (found("a", 2, 2), 9),
        (found("a", 3, 10), 9),
    ] {
        fold.take(&mut batch, record, (0, cutoff)).await.unwrap();
    }
    assert_eq!(changes(&batch), [("a".to_owned(), 0, 3, 2)]);
    assert_eq!((batch.events, batch.repeated), (2, 2));
    assert_eq!(batch.next, HashMap::from([(0, (11, 2))]));
}
