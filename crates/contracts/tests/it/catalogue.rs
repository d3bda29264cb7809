//! Every wire type, as values that a test can iterate over.
//!
//! A type that is missing here fails [`the_catalogue_is_complete`] or the comparison with the schemas.

use common::codec::{DatumError, Schema, SerError, read_datum, write_datum};
use common::event::{EventSet, EventType};
use contracts::service::{SERVICES, Service};
use contracts::{inventory, orders, payments};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::shape;

/// One event of one service with its wire type's operations on JSON, so that tests need not name the type.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) service: &'static Service,
    pub(crate) event_type: &'static EventType,
    pub(crate) fields: Vec<&'static str>,
    /// The wire type's reading of JSON, as JSON again: with defaults filled in.
    pub(crate) normal: fn(&Value) -> serde_json::Result<Value>,
    /// The datum of a value, written as the service writes it.
    pub(crate) encode: fn(&Value, &Schema) -> Result<Vec<u8>, SerError>,
    /// The value of a datum, read as every service reads it.
    pub(crate) decode: fn(&str, &[u8], &Schema) -> Result<Value, DatumError>,
}

/// A record or enum that occurs inside events: its service, its name, and its fields or symbols.
pub(crate) struct Nested {
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
    pub(crate) parts: Vec<&'static str>,
}

macro_rules! wire {
    ($service:ident: $($event:ident),+ $(,)?) => {
        [$( Wire {
            service: Service::named(stringify!($service)).unwrap(),
            event_type: <$service::Event as EventSet>::type_named(stringify!($event)).unwrap(),
            fields: shape::fields::<$service::$event>(),
            normal: normal::<$service::$event>,
            encode: encode::<$service::Event, $service::$event>,
            decode: |name, datum, writer| match $service::Event::read(name, datum, writer) {
                Some(Ok($service::Event::$event(event))) => Ok(json(&event)),
                Some(Ok(other)) => panic!("{name} was read as {other:?}"),
                Some(Err(error)) => Err(error),
                None => panic!("{name} is not in its own set"),
            },
        } ),+]
    };
}

/// Every event of every service.
pub(crate) fn events() -> Vec<Wire> {
    let mut all = Vec::new();
    all.extend(wire!(orders:
        OrderPlaced, PaymentNoted, StockNoted, OrderConfirmed, OrderCancelling, OrderCompleted, OrderCancelled,
        OrderStuck, OrderResumed,
    ));
    all.extend(wire!(payments:
        PaymentIntentOpened, PaymentAttempted, PaymentCancelRequested, PaymentAuthorized, PaymentDeclined,
        PaymentCaptured, PaymentCaptureFailed, PaymentVoided, PaymentRefunded, PaymentRefundFailed,
    ));
    all.extend(wire!(inventory:
        StockReserved, StockRejected, StockCommitted, StockReleased, StockReturned, StockAdjusted, StockReceived,
    ));
    all
}

macro_rules! nested {
    ($shape:ident, $service:ident: $($name:ident),+ $(,)?) => {
        [$( Nested {
            service: stringify!($service),
            name: stringify!($name),
            parts: shape::$shape::<$service::$name>(),
        } ),+]
    };
}

/// Every record that occurs inside events.
pub(crate) fn records() -> Vec<Nested> {
    let mut all = Vec::new();
    all.extend(nested!(fields, orders: Line));
    all.extend(nested!(fields, inventory: StockLine, Shortage));
    all
}

/// Every enum.
pub(crate) fn enums() -> Vec<Nested> {
    let mut all = Vec::new();
    all.extend(nested!(symbols, orders: PaymentOutcome, StockOutcome, CancelCause, CancelReason, ResumeToward));
    all.extend(nested!(symbols, payments: DeclineReason));
    all
}

/// Parses a schema of this repository.
pub(crate) fn schema(avsc: &str) -> Schema {
    avsc.parse().expect("a schema of this repository is Avro")
}

/// What a writer with any schema whatever would write: no wire type is involved.
pub(crate) fn encode_as(value: &Value, writer: &Schema) -> Vec<u8> {
    write_datum(value, writer, Vec::new()).expect("the value fits the schema")
}

/// What a reader without any wire type sees.
pub(crate) fn decode_as(datum: &[u8], writer: &Schema) -> Value {
    read_datum(datum, writer).expect("the datum was written with this schema")
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("a wire type is JSON too")
}

fn normal<T: Serialize + DeserializeOwned>(value: &Value) -> serde_json::Result<Value> {
    serde_json::from_value::<T>(value.clone()).map(|value| json(&value))
}

fn encode<E: EventSet + From<T>, T: DeserializeOwned>(value: &Value, schema: &Schema) -> Result<Vec<u8>, SerError> {
    let event: T = serde_json::from_value(value.clone()).expect("the value is one of the wire type");
    E::from(event).write(schema, Vec::new())
}

#[test]
fn the_catalogue_is_complete() {
    let catalogued = events();
    for service in &SERVICES {
        for event_type in service.types {
            let entries = catalogued
                .iter()
                .filter(|wire| wire.event_type.fullname == event_type.fullname)
                .count();
            assert_eq!(entries, 1, "{}", event_type.fullname);
        }
    }
}
