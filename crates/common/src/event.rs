//! Events and their identity: what is appended, what was recorded, what arrived.
//!
//! Ids of reactions are derived, not drawn: doing the same work twice yields the same ids, and the database's unique
//! constraint does the rest. This file never touches a database or a broker.

use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde_avro_fast::Schema;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// The name of one stream: `key`, or `kind:key` where two kinds of stream could share a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(Box<str>);

impl StreamId {
    /// A stream named by its key alone.
    pub fn new(key: impl Into<Box<str>>) -> Self {
        Self(key.into())
    }

    /// A stream of a named kind, for example `sku:NW-001`.
    pub fn of_kind(kind: &str, key: &str) -> Self {
        Self(format!("{kind}:{key}").into())
    }

    /// The kind before the colon, if the id has one.
    pub fn kind(&self) -> Option<&str> {
        self.0.split_once(':').map(|(kind, _)| kind)
    }

    /// What records of this stream are keyed by on Kafka: the id without its kind.
    pub fn key(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(_, key)| key)
    }

    /// The whole id, as stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One version of an event's Avro schema.
#[derive(Clone, Copy, Debug)]
pub struct SchemaVersion {
    /// Ascending from 1.
    pub version: u32,
    /// The `.avsc` text.
    pub avsc: &'static str,
}

/// One type of event: its names and every version its schema ever had.
#[derive(Debug)]
pub struct EventType {
    /// The record's simple name, which is the event's type everywhere: `OrderPlaced`.
    pub name: &'static str,
    /// The record's full name, which names its registry subject: `rondo.orders.OrderPlaced`.
    pub fullname: &'static str,
    /// Oldest first; the last one is written.
    pub versions: &'static [SchemaVersion],
}

impl EventType {
    /// The schema that this build writes.
    ///
    /// # Panics
    /// Never for a type made by [`events!`](crate::events), which requires one version.
    pub fn newest(&self) -> &'static SchemaVersion {
        self.versions.last().expect("events! requires at least one version")
    }

    /// The schema that is written where `versions` may hold it back.
    pub fn written(&self, versions: &crate::codec::WriteVersions) -> &'static SchemaVersion {
        let wanted = versions.get(self.name);
        let older = self.versions.iter().find(|version| Some(&version.version) == wanted);
        older.unwrap_or_else(|| self.newest())
    }

    /// The registry subject of this type on `topic` (TopicRecordNameStrategy).
    pub fn subject(&self, topic: &str) -> String {
        format!("{topic}-{}", self.fullname)
    }
}

/// All events that one service writes, as one enum. Made by [`events!`](crate::events).
pub trait EventSet: Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// The topic they are published to, without a namespace.
    const TOPIC: &'static str;
    /// Every type of the set.
    const TYPES: &'static [EventType];

    /// The type of this event.
    fn event_type(&self) -> &'static EventType;

    /// Appends this event's Avro datum, written with `schema`, to `buffer`.
    ///
    /// # Errors
    /// The value does not fit the schema.
    fn write(&self, schema: &Schema, buffer: Vec<u8>) -> Result<Vec<u8>, serde_avro_fast::ser::SerError>;

    /// This event as JSON, with the fields that its schema has.
    fn to_json(&self) -> serde_json::Value;

    /// Reads one datum that `writer` wrote. `None` if `name` is not a type of this set.
    ///
    /// # Errors
    /// The bytes are not exactly one datum of `writer`, or lack what this build needs.
    fn read(name: &str, datum: &[u8], writer: &Schema) -> Option<Result<Self, crate::codec::DatumError>>;

    /// The type called `name`, if it belongs to this set.
    fn type_named(name: &str) -> Option<&'static EventType> {
        Self::TYPES.iter().find(|event_type| event_type.name == name)
    }
}

/// Defines the enum of all events of one topic and its [`EventSet`](crate::event::EventSet).
///
/// ```ignore
/// common::events! {
///     /// Everything that orders says.
///     pub enum Event on "orders.events" in "rondo.orders" {
///         OrderPlaced { 1 => "../../../schemas/orders/OrderPlaced.v1.avsc" },
///     }
/// }
/// ```
#[macro_export]
macro_rules! events {
    (
        $(#[$meta:meta])*
        pub enum $set:ident on $topic:literal in $namespace:literal {
            $( $(#[$event_meta:meta])* $event:ident { $( $version:literal => $file:literal ),+ $(,)? } ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $set {
            $( #[doc = concat!("See [`", stringify!($event), "`].")] $(#[$event_meta])* $event($event), )+
        }

        $( impl From<$event> for $set {
            fn from(event: $event) -> Self {
                Self::$event(event)
            }
        } )+

        impl $crate::event::EventSet for $set {
            const TOPIC: &'static str = $topic;
            const TYPES: &'static [$crate::event::EventType] = &[
                $( $crate::event::EventType {
                    name: stringify!($event),
                    fullname: concat!($namespace, ".", stringify!($event)),
                    versions: &[ $( $crate::event::SchemaVersion { version: $version, avsc: include_str!($file) } ),+ ],
                } ),+
            ];

            fn event_type(&self) -> &'static $crate::event::EventType {
                let name = match self { $( Self::$event(_) => stringify!($event), )+ };
                Self::type_named(name).expect("every variant has a row in TYPES")
            }

            fn write(
                &self,
                schema: &$crate::codec::Schema,
                buffer: Vec<u8>,
            ) -> Result<Vec<u8>, $crate::codec::SerError> {
                match self { $( Self::$event(event) => $crate::codec::write_datum(event, schema, buffer), )+ }
            }

            fn to_json(&self) -> $crate::codec::Json {
                match self { $( Self::$event(event) => $crate::codec::to_json(event), )+ }
            }

            fn read(
                name: &str,
                datum: &[u8],
                writer: &$crate::codec::Schema,
            ) -> Option<Result<Self, $crate::codec::DatumError>> {
                match name {
                    $( stringify!($event) => Some($crate::codec::read_datum(datum, writer).map(Self::$event)), )+
                    _ => None,
                }
            }
        }
    };
}

/// What travels beside an event's payload: CloudEvents attributes and Rondo's own headers.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// `ce_id`: takes effect once per consumer.
    pub id: Uuid,
    /// `ce_type`: the event's simple name.
    pub event_type: Box<str>,
    /// `ce_source`: the service that wrote it.
    pub source: Box<str>,
    /// `ce_subject`: the key of its stream.
    pub subject: Box<str>,
    /// `ce_time`: when its transaction decided it.
    pub occurred_at: Timestamp,
    /// `correlation-id`: the same along one saga.
    pub correlation_id: Uuid,
    /// `causation-id`: the event or command that led to this one.
    pub causation_id: Uuid,
    /// W3C `traceparent`, if the cause carried one.
    pub traceparent: Option<Box<str>>,
    /// `stream-version`: 1 for a stream's first event, then without gaps.
    pub stream_version: i64,
    /// `position`: in its service's event store.
    pub position: i64,
}

/// One row of the event store.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The stream it belongs to.
    pub stream_id: StreamId,
    /// Its identity and causes.
    pub envelope: Envelope,
    /// Registry id of the schema it was written with.
    pub schema_id: u32,
    /// The very bytes that go to Kafka: magic byte, schema id, Avro datum.
    pub payload: Bytes,
}

/// Why something happens: what a new event inherits from its cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// Id of the event, command or timer.
    pub id: Uuid,
    /// The saga it belongs to; a saga's first command starts with its own id.
    pub correlation_id: Uuid,
    /// W3C trace context.
    pub traceparent: Option<Box<str>>,
}

impl From<&Envelope> for Cause {
    fn from(envelope: &Envelope) -> Self {
        Self {
            id: envelope.id,
            correlation_id: envelope.correlation_id,
            traceparent: envelope.traceparent.clone(),
        }
    }
}

/// The id of the `ordinal`-th event that `consumer` appends because of `cause`: the same each time it is asked.
///
/// The first 48 bits are those of the cause's id, which hold the time of what began it all (UUIDv7) and keep indexes local;
/// the rest is a hash (UUIDv8).
pub fn derived_id(consumer: &str, cause: Uuid, ordinal: usize) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(consumer.as_bytes());
    hash.update([0]);
    hash.update(cause.as_bytes());
    hash.update((ordinal as u64).to_be_bytes());
    let mut bytes = *cause.as_bytes();
    bytes[6..].copy_from_slice(&hash.finalize()[..10]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// The id of something named by text, such as an idempotency key: the same text gives the same id.
pub fn named_id(scope: &str, parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for part in std::iter::once(&scope).chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_is_the_same_each_time_and_differs_by_consumer_cause_and_ordinal() {
        let cause = Uuid::from_u128(7);
        let id = derived_id("orders", cause, 0);
        assert_eq!(id, derived_id("orders", cause, 0));
        assert_ne!(id, derived_id("payments", cause, 0));
        assert_ne!(id, derived_id("orders", cause, 1));
        assert_ne!(id, derived_id("orders", Uuid::from_u128(8), 0));
    }

    #[test]
    fn a_derived_id_carries_its_causes_time_first() {
        let cause = Uuid::now_v7();
        let id = derived_id("orders", cause, 0);
        assert_eq!(id.get_version_num(), 8);
        assert_eq!(id.as_bytes()[..6], cause.as_bytes()[..6]);
    }

    #[test]
    fn a_named_id_does_not_confuse_where_one_part_ends() {
        assert_ne!(named_id("key", &["ab", "c"]), named_id("key", &["a", "bc"]));
    }

    #[test]
    fn the_key_of_a_stream_leaves_out_its_kind() {
        assert_eq!(StreamId::of_kind("sku", "NW-001").key(), "NW-001");
        assert_eq!(StreamId::new("o-1").key(), "o-1");
    }
}
