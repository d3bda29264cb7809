//! Values at the edges of what a schema allows, and what writers newer than this build may send.
//!
//! The values are made from the schemas, so a new event is covered without a line here.

use serde_json::{Map, Value, json};

use crate::catalogue::{decode_as, encode_as, events, schema};

/// Which edge of each type a value lies on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Edge {
    /// Least numbers, empty texts and lists, nothing where nothing is allowed.
    Least,
    /// Greatest numbers, long texts, many items.
    Greatest,
    /// Texts of every plane of Unicode and of every character that some format escapes.
    Odd,
}

const EDGES: [Edge; 3] = [Edge::Least, Edge::Greatest, Edge::Odd];

const ODD_TEXT: &str = "\0 \u{7f} \"\\/\r\n\t ' ünïcödé e\u{301} \u{202e}עברית\u{202c} 漢字 👩‍👩‍👧 \u{10ffff} \u{feff}";

/// A value of `avro` on `edge`. Enums take their `symbol`-th symbol, counted round.
fn value(avro: &Value, edge: Edge, symbol: usize) -> Value {
    let kind = avro.as_str().or(avro["type"].as_str());
    match (kind, edge) {
        (Some("boolean"), _) => json!(edge != Edge::Least),
        (Some("int"), Edge::Least) => json!(i32::MIN),
        (Some("int"), Edge::Greatest) => json!(i32::MAX),
        (Some("int" | "long"), Edge::Odd) => json!(-1),
        (Some("long"), Edge::Least) => json!(i64::MIN),
        (Some("long"), Edge::Greatest) => json!(i64::MAX),
        (Some("string"), Edge::Least) => json!(""),
        (Some("string"), Edge::Greatest) => json!("x".repeat(100_000)),
        (Some("string"), Edge::Odd) => json!(ODD_TEXT),
        (Some("array"), Edge::Least) => json!([]),
        (Some("array"), Edge::Greatest) => json!(vec![value(&avro["items"], Edge::Odd, symbol); 1_000]),
        (Some("array"), Edge::Odd) => json!(EDGES.map(|edge| value(&avro["items"], edge, symbol))),
        (Some("enum"), _) => {
            let symbols = avro["symbols"].as_array().expect("an enum has symbols");
            symbols[symbol % symbols.len()].clone()
        }
        (Some("record"), _) => {
            let fields = avro["fields"].as_array().expect("a record has fields").iter();
            let named = |field: &Value| field["name"].as_str().expect("a field has a name").to_owned();
            fields
                .map(|field| (named(field), value(&field["type"], edge, symbol)))
                .collect::<Map<_, _>>()
                .into()
        }
        (None, Edge::Least) => Value::Null,
        (None, _) => value(&avro[1], edge, symbol),
        (Some(other), _) => panic!("no values are known of {other}"),
    }
}

fn symbols_max(avro: &Value) -> usize {
    let fields = avro["fields"].as_array().into_iter().flatten();
    let symbols = fields.filter_map(|field| field["type"]["symbols"].as_array());
    symbols.map(Vec::len).max().unwrap_or(1)
}

#[test]
fn extreme_values_survive_the_wire() {
    for wire in events() {
        let name = wire.event_type.name;
        let avsc = wire.event_type.newest().avsc;
        let (avro, writer): (Value, _) = (serde_json::from_str(avsc).unwrap(), schema(avsc));
        for edge in EDGES {
            for symbol in 0..symbols_max(&avro) {
                let value = value(&avro, edge, symbol);
                let datum = (wire.encode)(&value, &writer).unwrap();
                assert_eq!((wire.decode)(name, &datum, &writer).unwrap(), value, "{name}, {edge:?}");
                assert_eq!(
                    decode_as(&datum, &writer),
                    value,
                    "{name}, {edge:?}, read without its wire type"
                );
            }
        }
    }
}

#[test]
fn a_symbol_of_a_newer_writer_is_read_as_unknown() {
    let mut enums = 0;
    for wire in events() {
        let name = wire.event_type.name;
        let mut avro: Value = serde_json::from_str(wire.event_type.newest().avsc).unwrap();
        let expected = value(&avro, Edge::Odd, 0);
        let mut sent = expected.clone();
        for field in avro["fields"].as_array_mut().unwrap() {
            let of_type = &mut field["type"];
            if of_type["type"] == "enum" {
                of_type["symbols"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!("OF_A_NEWER_WRITER"));
                let field_name = field["name"].as_str().unwrap();
                assert_eq!(expected[field_name], "UNKNOWN");
                sent[field_name] = json!("OF_A_NEWER_WRITER");
                enums += 1;
            }
        }
        let writer = schema(&avro.to_string());
        assert_eq!(
            (wire.decode)(name, &encode_as(&sent, &writer), &writer).unwrap(),
            expected,
            "{name}"
        );
    }
    assert!(enums > 0, "some event has an enum");
}

#[test]
fn a_field_of_a_newer_writer_is_passed_over() {
    for wire in events() {
        let name = wire.event_type.name;
        let mut avro: Value = serde_json::from_str(wire.event_type.newest().avsc).unwrap();
        let expected = value(&avro, Edge::Odd, 1);
        let mut sent = expected.clone();
        for (field, of_type, value) in [
            ("of_a_newer_writer", json!("string"), json!(ODD_TEXT)),
            (
                "list_of_a_newer_writer",
                json!({"type": "array", "items": "long"}),
                json!([1, -1]),
            ),
        ] {
            avro["fields"]
                .as_array_mut()
                .unwrap()
                .insert(0, json!({"name": field, "type": of_type}));
            sent[field] = value;
        }
        let writer = schema(&avro.to_string());
        assert_eq!(
            (wire.decode)(name, &encode_as(&sent, &writer), &writer).unwrap(),
            expected,
            "{name}"
        );
    }
}

#[test]
fn a_number_out_of_range_is_refused() {
    let narrow = schema(r#"{"type": "record", "name": "T", "fields": [{"name": "attempt", "type": "int"}]}"#);
    let too_much = json!({"attempt": i64::from(i32::MAX) + 1});
    assert!(common::codec::write_datum(&too_much, &narrow, Vec::new()).is_err());
}
