//! Java Avro, on which Confluent's registry is built, has answered each of these cases; so must we.
//!
//! `java_avro/schemas.ndjson` has schema texts with the verdict of Java Avro 1.11.4 (`ok`), its `Schema.toString` with
//! unchecked defaults (`canonical`), Parsing Canonical Form (`pcf`) and 64-bit fingerprint (`crc`). `java_avro/pairs.ndjson`
//! has readers and writers with what `SchemaCompatibility` of 1.12.0 found, or the `exception` that it gave up with;
//! 1.11.4 gives the same verdicts and less exact paths.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use avro::{Defaults, Reason, check, parse};
use serde_json::Value;

fn cases(file: &'static str) -> impl Iterator<Item = Value> {
    file.lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().expect("each case has this text")
}

#[test]
fn schemas_are_refused_and_rendered_as_java_does() {
    let mut differences = Vec::new();
    let mut count = 0;
    for case in cases(include_str!("java_avro/schemas.ndjson")) {
        count += 1;
        let schema = text(&case, "schema");
        let checked = parse(schema, Defaults::Checked);
        if checked.is_ok() != case["ok"].as_bool().unwrap() {
            differences.push(format!(
                "{schema}\n  Java accepts: {}\n  we: {:?}",
                case["ok"],
                checked.map(|s| s.canonical())
            ));
        }
        let ours = parse(schema, Defaults::Unchecked).ok();
        for (key, ours) in [
            ("canonical", ours.as_ref().map(|schema| schema.canonical())),
            ("pcf", ours.as_ref().map(|schema| schema.parsing_canonical_form())),
            (
                "crc",
                ours.as_ref().map(|schema| schema.fingerprint_crc64().to_string()),
            ),
        ] {
            if case[key].as_str() != ours.as_deref() {
                differences.push(format!(
                    "{schema}\n  {key} of Java: {}\n  {key}, ours: {ours:?}",
                    case[key]
                ));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {count} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn what_is_stored_reads_back_to_the_same_text() {
    for case in cases(include_str!("java_avro/schemas.ndjson")).filter(|case| case["ok"] == true) {
        let schema = parse(text(&case, "schema"), Defaults::Unchecked).unwrap();
        let stored = schema.canonical();
        assert_eq!(parse(&stored, Defaults::Unchecked).unwrap().canonical(), stored);
        let normal = schema.normalized().canonical();
        assert_eq!(
            parse(&normal, Defaults::Unchecked).unwrap().normalized().canonical(),
            normal,
            "of {stored}"
        );
    }
}

#[test]
fn pairs_are_judged_as_java_does() {
    let mut differences = Vec::new();
    let mut count = 0;
    for case in cases(include_str!("java_avro/pairs.ndjson")) {
        count += 1;
        let (reader, writer) = (text(&case, "reader"), text(&case, "writer"));
        let read = |schema| parse(schema, Defaults::Unchecked).unwrap();
        let found = check(&read(reader), &read(writer));
        let ours = match found.first() {
            Some(first) if first.reason == Reason::AmbiguousField => None,
            _ => Some(
                found
                    .iter()
                    .map(|f| vec![f.reason.word(), &f.path, &f.detail])
                    .collect::<Vec<_>>(),
            ),
        };
        if serde_json::to_value(&ours).unwrap() != *case.get("found").unwrap_or(&Value::Null) {
            differences.push(format!(
                "reader {reader}\n  writer {writer}\n  Java: {}\n  we: {ours:?}",
                case["found"]
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {count} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}
