//! Recorded bytes: what every version of every event looked like on the wire, and what it must mean for ever.
//!
//! `golden/<Event>.v<N>.hex` is a datum that version N's writer wrote; `.json` beside it is what that writer meant. The
//! *newest* wire type reads the same from it, and of fields that came later what the newest schema has for default: so the
//! upcasters cannot differ from the schemas. A new version adds a pair; those of earlier versions are never edited.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::codec::DatumError;
use serde_json::{Map, Value};

use crate::catalogue::{Wire, decode_as, events, schema};

/// One recorded datum.
struct Golden {
    wire: Wire,
    avsc: &'static str,
    newest: bool,
    /// For messages: `OrderPlaced.v1`.
    label: String,
    datum: Vec<u8>,
    value: Value,
}

impl Golden {
    /// The value as today's readers must see it: with the fields of the newest schema, no more and no fewer.
    fn today(&self) -> Value {
        let newest = serde_json::from_str(self.wire.event_type.newest().avsc).expect("a schema is JSON");
        upcast(&self.value, &newest)
    }
}

/// What schema resolution makes of `value` under `reader`: absent fields get the reader's defaults, others go.
fn upcast(value: &Value, reader: &Value) -> Value {
    match reader["type"].as_str() {
        Some("record") => {
            let fields = reader["fields"].as_array().expect("a record has fields").iter();
            let read = fields.map(|field| {
                let name = field["name"].as_str().expect("a field has a name");
                let value = match value.get(name) {
                    Some(value) => upcast(value, &field["type"]),
                    None => field.get("default").expect("a later field has a default").clone(),
                };
                (name.to_owned(), value)
            });
            read.collect::<Map<_, _>>().into()
        }
        Some("array") => {
            let items = value.as_array().expect("a list").iter();
            items.map(|item| upcast(item, &reader["items"])).collect()
        }
        _ => value.clone(),
    }
}

fn path(label: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(format!("{label}.{extension}"))
}

fn read(label: &str, extension: &str) -> String {
    let path = path(label, extension);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("every version has a {}: {error}", path.display()))
}

/// The recorded datum of every version of every event; a missing one fails whichever test asks.
fn all() -> Vec<Golden> {
    let mut all = Vec::new();
    for wire in events() {
        for version in wire.event_type.versions {
            let label = format!("{}.v{}", wire.event_type.name, version.version);
            let value = serde_json::from_str(&read(&label, "json")).unwrap_or_else(|error| panic!("{label}: {error}"));
            let hex: String = read(&label, "hex").split_whitespace().collect();
            all.push(Golden {
                avsc: version.avsc,
                newest: version.version == wire.event_type.newest().version,
                datum: hex::decode(hex).unwrap_or_else(|error| panic!("{label}: {error}")),
                value,
                label,
                wire: wire.clone(),
            });
        }
    }
    all
}

#[test]
fn every_recorded_file_belongs_to_a_version() {
    let labels: BTreeSet<_> = all().into_iter().map(|golden| golden.label).collect();
    let expected = labels
        .iter()
        .flat_map(|label| [path(label, "hex"), path(label, "json")])
        .collect::<BTreeSet<_>>();
    let directory = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")).unwrap();
    assert_eq!(
        directory.map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>(),
        expected
    );
}

#[test]
fn todays_encoder_writes_the_recorded_bytes() {
    for golden in all().into_iter().filter(|golden| golden.newest) {
        let written = (golden.wire.encode)(&golden.value, &schema(golden.avsc)).unwrap();
        assert_eq!(hex::encode(written), hex::encode(golden.datum), "{}", golden.label);
    }
}

#[test]
fn the_bytes_of_every_version_are_read_as_recorded() {
    for golden in all() {
        let name = golden.wire.event_type.name;
        let read = (golden.wire.decode)(name, &golden.datum, &schema(golden.avsc)).unwrap();
        assert_eq!(read, golden.today(), "{}", golden.label);
        assert_eq!(
            decode_as(&golden.datum, &schema(golden.avsc)),
            golden.value,
            "{}",
            golden.label
        );
    }
}

#[test]
fn the_recorded_values_leave_nothing_to_defaults() {
    for golden in all().into_iter().filter(|golden| golden.newest) {
        assert_eq!(
            (golden.wire.normal)(&golden.value).unwrap(),
            golden.value,
            "{}",
            golden.label
        );
    }
}

#[test]
fn a_datum_cut_anywhere_is_refused() {
    for golden in all() {
        let writer = schema(golden.avsc);
        assert!(!golden.datum.is_empty(), "{}", golden.label);
        for length in 0..golden.datum.len() {
            let cut = (golden.wire.decode)(golden.wire.event_type.name, &golden.datum[..length], &writer);
            assert!(
                matches!(cut, Err(DatumError::Malformed(_))),
                "{} cut to {length}: {cut:?}",
                golden.label
            );
        }
    }
}

#[test]
fn a_byte_after_the_datum_is_refused() {
    for golden in all() {
        let mut longer = golden.datum;
        longer.push(0);
        let read = (golden.wire.decode)(golden.wire.event_type.name, &longer, &schema(golden.avsc));
        assert!(
            matches!(read, Err(DatumError::TrailingBytes(1))),
            "{}: {read:?}",
            golden.label
        );
    }
}
