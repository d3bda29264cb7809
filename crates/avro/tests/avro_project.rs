//! The Avro project's own vectors for every language: canonical forms, fingerprints, and bytes that must be refused.
//!
//! Taken from `share/test/data` of github.com/apache/avro (Apache-2.0): `schema-tests.txt` of commit 0ea74a36, as
//! `avro_project/canonical.ndjson`, and `binary-rejections.json` of commit a3734520, as `avro_project/rejected.ndjson`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use avro::{Defaults, Resolution, check, parse};
use serde_json::Value;

fn cases(file: &'static str) -> impl Iterator<Item = Value> {
    file.lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().expect("each case has this text")
}

#[test]
fn canonical_forms_and_fingerprints_are_the_projects() {
    let mut count = 0;
    for case in cases(include_str!("avro_project/canonical.ndjson")) {
        let schema = parse(text(&case, "input"), Defaults::Unchecked).unwrap();
        assert_eq!(schema.parsing_canonical_form(), text(&case, "canonical"));
        if let Some(fingerprint) = case["fingerprint"].as_i64() {
            assert_eq!(schema.fingerprint_crc64().cast_signed(), fingerprint, "{case}");
        }
        count += 1;
    }
    assert_eq!(count, 34);
}

#[test]
fn bytes_that_no_reader_may_take_are_refused() {
    let mut count = 0;
    for case in cases(include_str!("avro_project/rejected.ndjson")) {
        let schema = parse(text(&case, "schema"), Defaults::Checked).unwrap();
        let datum = hex::decode(text(&case, "bytesHex")).unwrap();
        assert!(Resolution::new(&schema, &schema).read(&datum).is_err(), "{case}");
        count += 1;
    }
    assert_eq!(count, 9);
}

/// "Compatible" is a promise about bytes: of all the pairs that Java Avro has judged, what a writer may send is read by
/// each reader that is called compatible with it, and each reader that is not refuses some of it.
#[test]
fn a_compatible_reader_reads_whatever_its_writer_may_send() {
    let (mut kept, mut refused) = (0, 0);
    for case in cases(include_str!("java_avro/pairs.ndjson")) {
        let [reader, writer] = ["reader", "writer"].map(|key| parse(text(&case, key), Defaults::Unchecked).unwrap());
        let compatible = check(&reader, &writer).is_empty();
        let resolution = Resolution::new(&reader, &writer);
        let samples: Vec<_> = (0..writer.variants())
            .filter_map(|variant| writer.sample(variant))
            .collect();
        for datum in &samples {
            // The writer itself reads what it wrote, or the sample is none. (Where a field's alias is another's name, it
            // cannot, by Java's rules.)
            let own = Resolution::new(&writer, &writer).verify(datum);
            assert!(own.is_ok() || !check(&writer, &writer).is_empty(), "{case}: {own:?}");
            let read = resolution.verify(datum);
            assert!(!compatible || read.is_ok(), "{case}: {read:?}");
            kept += usize::from(compatible);
            refused += usize::from(read.is_err());
        }
    }
    assert!(kept > 1_000 && refused > 1_000, "{kept} were read, {refused} refused");
}
