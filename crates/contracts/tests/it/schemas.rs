//! The schemas as documents: complete, documented, within the house's rules, and the same as their Rust twins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};

use crate::catalogue::{Nested, Wire, enums, events, records};

/// One version of one event's schema.
struct Version {
    wire: Wire,
    /// Its path under `schemas/`.
    file: String,
    newest: bool,
    schema: Value,
}

fn versions() -> Vec<Version> {
    let mut all = Vec::new();
    for wire in events() {
        for version in wire.event_type.versions {
            all.push(Version {
                file: format!(
                    "{}/{}.v{}.avsc",
                    wire.service.name, wire.event_type.name, version.version
                ),
                newest: version.version == wire.event_type.newest().version,
                schema: serde_json::from_str(version.avsc).expect("a schema is JSON"),
                wire: wire.clone(),
            });
        }
    }
    all
}

/// Calls `visit` with the schema and with every record and enum inside it.
fn for_each_named<'a>(schema: &'a Value, visit: &mut dyn FnMut(&'a Value)) {
    match schema["type"].as_str() {
        Some("record") => {
            visit(schema);
            for field in fields(schema) {
                for_each_named(&field["type"], visit);
            }
        }
        Some("enum") => visit(schema),
        Some("array") => for_each_named(&schema["items"], visit),
        _ => {
            for branch in schema.as_array().into_iter().flatten() {
                for_each_named(branch, visit);
            }
        }
    }
}

fn fields(record: &Value) -> &[Value] {
    record["fields"].as_array().expect("a record has fields")
}

fn texts<'a>(values: &'a Value, of: impl Fn(&'a Value) -> &'a Value) -> Vec<&'a str> {
    let values = values.as_array().expect("a list");
    values.iter().map(|value| of(value).as_str().expect("a text")).collect()
}

#[test]
fn every_file_is_a_version_of_an_event_and_every_version_is_its_file() {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
    let mut on_disk = BTreeMap::new();
    for service in fs::read_dir(&schemas).unwrap() {
        let service = service.unwrap();
        for file in fs::read_dir(service.path())
            .unwrap()
            .collect::<io::Result<Vec<_>>>()
            .unwrap()
        {
            let name = format!("{}/{}", service.file_name().display(), file.file_name().display());
            on_disk.insert(name, fs::read_to_string(file.path()).unwrap());
        }
    }
    let mut compiled_in = BTreeMap::new();
    for wire in events() {
        for version in wire.event_type.versions {
            let name = format!(
                "{}/{}.v{}.avsc",
                wire.service.name, wire.event_type.name, version.version
            );
            compiled_in.insert(name, version.avsc.to_owned());
        }
    }
    let unnamed: Vec<_> = on_disk.keys().filter(|name| !compiled_in.contains_key(*name)).collect();
    assert!(unnamed.is_empty(), "files that no line of `events!` names: {unnamed:?}");
    assert_eq!(on_disk, compiled_in);
}

#[test]
fn versions_count_from_one_without_gaps() {
    for wire in events() {
        let versions: Vec<_> = wire.event_type.versions.iter().map(|version| version.version).collect();
        assert_eq!(
            versions,
            (1..=versions.len() as u32).collect::<Vec<_>>(),
            "{}",
            wire.event_type.name
        );
    }
}

#[test]
fn a_schema_is_named_as_its_event_is() {
    for Version { wire, file, schema, .. } in versions() {
        let fullname = format!(
            "{}.{}",
            schema["namespace"].as_str().unwrap(),
            schema["name"].as_str().unwrap()
        );
        assert_eq!(fullname, wire.event_type.fullname, "{file}");
        assert_eq!(schema["namespace"], format!("rondo.{}", wire.service.name), "{file}");
    }
}

#[test]
fn every_record_enum_and_field_is_documented() {
    fn is_documented(item: &Value) -> bool {
        item["doc"]
            .as_str()
            .is_some_and(|doc| doc.len() > 8 && doc.ends_with('.'))
    }
    for Version { file, schema, .. } in versions() {
        for_each_named(&schema, &mut |named| {
            assert!(is_documented(named), "{file}: {}", named["name"]);
            for field in named["fields"].as_array().into_iter().flatten() {
                assert!(is_documented(field), "{file}: {}.{}", named["name"], field["name"]);
            }
        });
    }
}

#[test]
fn fields_have_only_the_types_that_every_reader_handles_well() {
    fn is_plain(schema: &Value) -> bool {
        match schema {
            Value::String(name) => ["boolean", "int", "long", "string"].contains(&name.as_str()),
            // Two records in a union can be mistaken for one another, so a union only says "or nothing".
            Value::Array(branches) => matches!(&branches[..], [null, Value::String(_)] if null == "null"),
            Value::Object(object) if object.contains_key("logicalType") => false,
            Value::Object(object) if object["type"] == "array" => is_plain(&object["items"]),
            Value::Object(object) => object["type"] == "record" || object["type"] == "enum",
            _ => false,
        }
    }
    for Version { file, schema, .. } in versions() {
        for_each_named(&schema, &mut |named| {
            for field in named["fields"].as_array().into_iter().flatten() {
                let (name, of_type) = (field["name"].as_str().unwrap(), &field["type"]);
                assert!(is_plain(of_type), "{file}: {name} is {of_type}");
                assert_eq!(
                    field.get("aliases"),
                    None,
                    "{file}: {name} is renamed; readers would see its default"
                );
                if of_type.is_array() {
                    assert_eq!(field.get("default"), Some(&Value::Null), "{file}: {name}");
                }
                if name.ends_with("_minor") || name.ends_with("_unix_ms") {
                    assert_eq!(of_type, "long", "{file}: {name}");
                }
            }
            if named["type"] == "enum" {
                assert_eq!(named["default"], "UNKNOWN", "{file}: {}", named["name"]);
                assert_eq!(named["symbols"][0], "UNKNOWN", "{file}: {}", named["name"]);
            }
        });
    }
}

#[test]
fn a_record_and_its_rust_twin_have_the_same_fields_in_the_same_order() {
    for Version { wire, file, schema, .. } in versions().into_iter().filter(|version| version.newest) {
        assert_eq!(texts(&schema["fields"], |field| &field["name"]), wire.fields, "{file}");
    }
    hold_to_twins("record", records(), |schema, twin, file| {
        assert_eq!(
            texts(&schema["fields"], |field| &field["name"]),
            twin.parts,
            "{file}: {}",
            twin.name
        );
    });
}

#[test]
fn an_enum_and_its_rust_twin_have_the_same_symbols() {
    hold_to_twins("enum", enums(), |schema, twin, file| {
        let symbols: BTreeSet<_> = texts(&schema["symbols"], |symbol| symbol).into_iter().collect();
        assert_eq!(symbols, twin.parts.iter().copied().collect(), "{file}: {}", twin.name);
        assert_eq!(
            twin.parts.last(),
            Some(&"UNKNOWN"),
            "{}: what reads symbols of newer writers",
            twin.name
        );
    });
}

/// Calls `hold` with each named type of `kind` inside the newest schemas and its twin, and requires every twin to occur.
fn hold_to_twins(kind: &str, twins: Vec<Nested>, hold: impl Fn(&Value, &Nested, &str)) {
    let mut met = BTreeSet::new();
    for Version { wire, file, schema, .. } in versions().into_iter().filter(|version| version.newest) {
        for_each_named(&schema, &mut |named| {
            if named["type"] == kind && named.get("namespace").is_none() {
                let is_twin = |twin: &&Nested| twin.service == wire.service.name && named["name"] == twin.name;
                let twin = twins
                    .iter()
                    .find(is_twin)
                    .unwrap_or_else(|| panic!("{file}: no twin of {}", named["name"]));
                hold(named, twin, &file);
                met.insert((twin.service, twin.name));
            }
        });
    }
    assert_eq!(met, twins.iter().map(|twin| (twin.service, twin.name)).collect());
}

#[test]
fn a_type_that_several_events_contain_is_the_same_in_each() {
    let mut first: BTreeMap<(&str, String), (String, Value)> = BTreeMap::new();
    for Version { wire, file, schema, .. } in versions().into_iter().filter(|version| version.newest) {
        for_each_named(&schema, &mut |named| {
            let name = (wire.service.name, named["name"].to_string());
            let (first_file, expected) = first.entry(name).or_insert_with(|| (file.clone(), named.clone()));
            assert_eq!(named, expected, "{file} and {first_file} differ");
        });
    }
}

#[test]
fn the_walk_through_a_schema_meets_every_named_type() {
    let two_levels = json!({"type": "record", "name": "Outer", "fields": [
        {"name": "inner", "type": {"type": "array", "items": {"type": "enum", "name": "Inner", "symbols": ["A"]}}},
        {"name": "maybe", "type": ["null", {"type": "record", "name": "Deep", "fields": []}]},
    ]});
    let mut names = Vec::new();
    for_each_named(&two_levels, &mut |named| {
        names.push(named["name"].as_str().unwrap().to_owned())
    });
    assert_eq!(names, ["Outer", "Inner", "Deep"]);
}
