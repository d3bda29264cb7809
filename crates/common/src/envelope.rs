//! An event's envelope as Kafka headers, and back: CloudEvents binary mode plus Rondo's own names.
//!
//! [`headers`] and [`from_record`] are inverse. Reading is strict about what identity and order depend on and says which
//! header is at fault; what only helps to trace is dropped when it cannot be used. This file never touches a broker.

use jiff::{Timestamp, Unit};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use uuid::Uuid;

use crate::event::{Envelope, Recorded};

/// Longest type, source or subject that is accepted, in bytes: they become text columns and metric labels.
pub const TEXT_BYTES_MAX: usize = 255;
/// Longest `traceparent` that is kept, in bytes. Version 00 has 55; later versions may be longer.
const TRACEPARENT_BYTES_MAX: usize = 128;

/// What the value is: the Confluent wire format, which is not plain Avro.
const CONTENT_TYPE: &str = "application/vnd.confluent.avro";

/// Names of the headers.
pub mod names {
    /// The event's identity.
    pub const ID: &str = "ce_id";
    /// The event's simple type name.
    pub const TYPE: &str = "ce_type";
    /// The service that wrote it.
    pub const SOURCE: &str = "ce_source";
    /// RFC 3339.
    pub const TIME: &str = "ce_time";
    /// The key of its stream.
    pub const SUBJECT: &str = "ce_subject";
    /// Always `1.0`.
    pub const SPEC_VERSION: &str = "ce_specversion";
    /// CloudEvents' `datacontenttype` in binary mode.
    pub const CONTENT_TYPE: &str = "content-type";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// The same along one saga.
    pub const CORRELATION_ID: &str = "correlation-id";
    /// What led to this event.
    pub const CAUSATION_ID: &str = "causation-id";
    /// 1 for a stream's first event, then without gaps.
    pub const STREAM_VERSION: &str = "stream-version";
    /// In its service's event store.
    pub const POSITION: &str = "position";
}

/// Why a record has no usable envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A header that identity or order depends on is absent.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// A header, or the record's key, is there and unusable.
    #[error("{name} is not usable: {why}")]
    Bad {
        /// The header's name, or `key`.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The headers under which `recorded` is published by `service`.
pub fn headers(recorded: &Recorded, service: &str) -> OwnedHeaders {
    let envelope = &recorded.envelope;
    let mut id = Uuid::encode_buffer();
    // Microseconds, as the database keeps them: a row that was handed over and a row that was read look the same.
    let time = envelope
        .occurred_at
        .round(Unit::Microsecond)
        .unwrap_or(envelope.occurred_at);
    let time = format!("{time:.6}");
    let text = |headers: OwnedHeaders, key, value: &str| {
        headers.insert(Header {
            key,
            value: Some(value),
        })
    };

    let all = OwnedHeaders::new_with_capacity(12);
    let all = text(all, names::ID, envelope.id.hyphenated().encode_lower(&mut id));
    let all = text(all, names::TYPE, &envelope.event_type);
    let all = text(all, names::SOURCE, service);
    let all = text(all, names::TIME, &time);
    let all = text(all, names::SUBJECT, recorded.stream_id.key());
    let all = text(all, names::SPEC_VERSION, "1.0");
    let all = text(all, names::CONTENT_TYPE, CONTENT_TYPE);
    let all = text(
        all,
        names::CORRELATION_ID,
        envelope.correlation_id.hyphenated().encode_lower(&mut id),
    );
    let all = text(
        all,
        names::CAUSATION_ID,
        envelope.causation_id.hyphenated().encode_lower(&mut id),
    );
    let all = text(all, names::STREAM_VERSION, &envelope.stream_version.to_string());
    let all = text(all, names::POSITION, &envelope.position.to_string());
    match &envelope.traceparent {
        Some(traceparent) => text(all, names::TRACEPARENT, traceparent),
        None => all,
    }
}

/// Reads a record's envelope. Where a header is repeated, the last one counts, as with Kafka's own clients.
///
/// The subject is the record's key, which partitions and order go by, and only without one the `ce_subject`. Writers
/// that know nothing of sagas may leave out the rest: correlation and causation are then the event itself, version and
/// position 0, which means unknown.
///
/// # Errors
/// [`EnvelopeError`] names the first header that is missing or bad.
pub fn from_record(headers: Option<&impl Headers>, key: Option<&[u8]>) -> Result<Envelope, EnvelopeError> {
    let found = Found::among(headers);
    let id = uuid(names::ID, found.id.ok_or(EnvelopeError::Missing(names::ID))?)?;
    let event_type = text(
        names::TYPE,
        found.event_type.ok_or(EnvelopeError::Missing(names::TYPE))?,
    )?;
    let source = text(
        names::SOURCE,
        found.source.ok_or(EnvelopeError::Missing(names::SOURCE))?,
    )?;
    let occurred_at = time(found.time.ok_or(EnvelopeError::Missing(names::TIME))?)?;
    let subject = match (key, found.subject) {
        (Some(key), _) => text("key", key)?,
        (None, Some(subject)) => text(names::SUBJECT, subject)?,
        (None, None) => return Err(EnvelopeError::Missing(names::SUBJECT)),
    };
    Ok(Envelope {
        id,
        event_type: event_type.into(),
        source: source.into(),
        subject: subject.into(),
        occurred_at,
        correlation_id: found
            .correlation_id
            .map_or(Ok(id), |value| uuid(names::CORRELATION_ID, value))?,
        causation_id: found
            .causation_id
            .map_or(Ok(id), |value| uuid(names::CAUSATION_ID, value))?,
        traceparent: found.traceparent.and_then(traceparent),
        stream_version: found
            .stream_version
            .map_or(Ok(0), |value| count(names::STREAM_VERSION, value))?,
        position: found.position.map_or(Ok(0), |value| count(names::POSITION, value))?,
    })
}

/// The headers that matter, found in one pass. A header with a null value counts as absent.
#[derive(Default)]
struct Found<'a> {
    id: Option<&'a [u8]>,
    event_type: Option<&'a [u8]>,
    source: Option<&'a [u8]>,
    time: Option<&'a [u8]>,
    subject: Option<&'a [u8]>,
    correlation_id: Option<&'a [u8]>,
    causation_id: Option<&'a [u8]>,
    traceparent: Option<&'a [u8]>,
    stream_version: Option<&'a [u8]>,
    position: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn among(headers: Option<&'a impl Headers>) -> Self {
        let mut found = Self::default();
        for header in headers.into_iter().flat_map(Headers::iter) {
            let place = match header.key {
                names::ID => &mut found.id,
                names::TYPE => &mut found.event_type,
                names::SOURCE => &mut found.source,
                names::TIME => &mut found.time,
                names::SUBJECT => &mut found.subject,
                names::CORRELATION_ID => &mut found.correlation_id,
                names::CAUSATION_ID => &mut found.causation_id,
                names::TRACEPARENT => &mut found.traceparent,
                names::STREAM_VERSION => &mut found.stream_version,
                names::POSITION => &mut found.position,
                _ => continue,
            };
            *place = header.value;
        }
        found
    }
}

fn bad(name: &'static str, why: &'static str) -> EnvelopeError {
    EnvelopeError::Bad { name, why }
}

/// Text that Postgres can store: UTF-8 without control characters (it refuses NUL), not empty, of bounded length.
fn text<'a>(name: &'static str, value: &'a [u8]) -> Result<&'a str, EnvelopeError> {
    let value = str::from_utf8(value).map_err(|_| bad(name, "not UTF-8"))?;
    if value.is_empty() {
        return Err(bad(name, "empty"));
    }
    if value.len() > TEXT_BYTES_MAX {
        return Err(bad(name, "longer than 255 bytes"));
    }
    if value.chars().any(char::is_control) {
        return Err(bad(name, "holds a control character"));
    }
    Ok(value)
}

fn uuid(name: &'static str, value: &[u8]) -> Result<Uuid, EnvelopeError> {
    Uuid::try_parse_ascii(value).map_err(|_| bad(name, "not a UUID"))
}

fn time(value: &[u8]) -> Result<Timestamp, EnvelopeError> {
    let value = text(names::TIME, value)?;
    value.parse().map_err(|_| bad(names::TIME, "not an RFC 3339 time"))
}

fn count(name: &'static str, value: &[u8]) -> Result<i64, EnvelopeError> {
    let count: i64 = text(name, value)?
        .parse()
        .map_err(|_| bad(name, "not a decimal number"))?;
    if count < 0 {
        Err(bad(name, "negative"))
    } else {
        Ok(count)
    }
}

/// A trace context that cannot be used is a lost line in a trace, never a failed event.
fn traceparent(value: &[u8]) -> Option<Box<str>> {
    let usable = value.len() <= TRACEPARENT_BYTES_MAX && value.iter().all(u8::is_ascii_graphic);
    str::from_utf8(value)
        .ok()
        .filter(|value| usable && !value.is_empty())
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::StreamId;

    fn recorded() -> Recorded {
        Recorded {
            stream_id: StreamId::of_kind("sku", "NW-001"),
            envelope: Envelope {
                id: Uuid::from_u128(1),
                event_type: "Counted".into(),
                source: "counter".into(),
                subject: "NW-001".into(),
                occurred_at: Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
                correlation_id: Uuid::from_u128(2),
                causation_id: Uuid::from_u128(3),
                traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
                stream_version: 4,
                position: 5,
            },
            schema_id: 1,
            payload: Bytes::from_static(b"\0\0\0\0\x01x"),
        }
    }

    fn with(pairs: &[(&str, &str)]) -> OwnedHeaders {
        pairs.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        })
    }

    const ID: &str = "00000000-0000-0000-0000-000000000001";
    const BARE: [(&str, &str); 4] = [
        ("ce_id", ID),
        ("ce_type", "Counted"),
        ("ce_source", "counter"),
        ("ce_time", "2026-01-02T03:04:05Z"),
    ];

    #[test]
    fn what_is_written_is_read_again() {
        let recorded = recorded();
        let read = from_record(Some(&headers(&recorded, "counter")), Some(b"NW-001"));
        assert_eq!(read, Ok(recorded.envelope));
    }

    #[test]
    fn the_time_is_written_as_the_database_keeps_it() {
        let mut recorded = recorded();
        recorded.envelope.occurred_at = Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap();
        let written = headers(&recorded, "counter");
        let time = written.iter().find(|header| header.key == names::TIME).unwrap().value;
        assert_eq!(time, Some(b"2023-11-14T22:13:20.123457Z".as_slice()));
    }

    #[test]
    fn a_writer_may_leave_out_causes_version_and_position() {
        let envelope = from_record(Some(&with(&BARE)), Some(b"k")).unwrap();
        assert_eq!(
            (envelope.correlation_id, envelope.causation_id),
            (envelope.id, envelope.id)
        );
        assert_eq!((envelope.stream_version, envelope.position), (0, 0));
    }

    #[test]
    fn each_required_header_is_named_when_it_is_missing() {
        for (missing, _) in BARE {
            let rest: Vec<_> = BARE.into_iter().filter(|(name, _)| *name != missing).collect();
            let refused = from_record(Some(&with(&rest)), Some(b"k")).unwrap_err();
            assert!(
                matches!(refused, EnvelopeError::Missing(name) if name == missing),
                "{refused}"
            );
        }
        assert_eq!(
            from_record(None::<&OwnedHeaders>, Some(b"k")),
            Err(EnvelopeError::Missing("ce_id"))
        );
        assert_eq!(
            from_record(Some(&with(&BARE)), None),
            Err(EnvelopeError::Missing("ce_subject"))
        );
    }

    #[test]
    fn the_key_is_the_subject_and_stands_in_for_it() {
        let both = with(&[&BARE[..], &[("ce_subject", "other")]].concat());
        assert_eq!(&*from_record(Some(&both), Some(b"key")).unwrap().subject, "key");
        assert_eq!(&*from_record(Some(&both), None).unwrap().subject, "other");
    }

    #[test]
    fn what_the_database_could_not_hold_is_refused_by_name() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        for (name, value) in [
            ("ce_id", "7"),
            ("ce_type", ""),
            ("ce_type", "a\0b"),
            ("ce_source", long.as_str()),
            ("ce_time", "yesterday"),
            ("correlation-id", "none"),
            ("stream-version", "-1"),
            ("position", "1e3"),
        ] {
            let refused = from_record(Some(&with(&[&BARE[..], &[(name, value)]].concat())), Some(b"k")).unwrap_err();
            assert!(
                matches!(refused, EnvelopeError::Bad { name: found, .. } if found == name),
                "{name}: {refused}"
            );
        }
        assert_eq!(
            from_record(Some(&with(&BARE)), Some(&[0xff])),
            Err(bad("key", "not UTF-8"))
        );
    }

    #[test]
    fn a_useless_trace_context_is_dropped() {
        let traced = with(&[&BARE[..], &[("traceparent", "tr\u{e9}s \n")]].concat());
        assert_eq!(from_record(Some(&traced), Some(b"k")).unwrap().traceparent, None);
    }
}
