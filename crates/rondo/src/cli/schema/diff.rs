//! `schema diff`: what changed between two versions, in words, and who is deployed first.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;

use avro::Finding;

use super::catalogue::Catalogue;
use super::judge::{self, Pair};
use crate::cli::output::{self, bad, bold, dim, good};
use crate::cli::{Output, Verdict};

/// What `schema diff` takes.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// The event, such as OrderPlaced.
    event: String,
    /// The older version; the one before the newest if left out.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    from: Option<u32>,
    /// The newer version; the newest if left out.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    to: Option<u32>,
    /// A directory of schemas; this build's own if left out.
    #[arg(long, value_name = "DIR")]
    schemas: Option<PathBuf>,
}

/// Who may be deployed before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Both ways: any order.
    Any,
    /// Readers first.
    Consumers,
    /// Writers first.
    Producers,
    /// Neither reads the other.
    Neither,
}

impl Order {
    pub(super) fn of(pair: &Pair) -> Self {
        match (pair.new_reads_old.is_empty(), pair.old_reads_new.is_empty()) {
            (true, true) => Self::Any,
            (true, false) => Self::Consumers,
            (false, true) => Self::Producers,
            (false, false) => Self::Neither,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Any => "any order: old and new read each other",
            Self::Consumers => {
                "consumers first: the new version reads old data, the old one does not read new data. Hold the writers back \
                 with RONDO_WRITE_VERSIONS until every consumer runs the new build"
            }
            Self::Producers => {
                "not at all: the new version does not read old data, which stay in the log. Only where topics are not kept \
                 could producers go first"
            }
            Self::Neither => "neither: this is another event, give it another name",
        }
    }
}

/// Runs `schema diff`.
pub(super) fn run(args: &Args, output: Output) -> Result<Verdict> {
    let catalogue = Catalogue::load(args.schemas.as_deref())?;
    let event = catalogue.event(&args.event)?;
    let to = args.to.unwrap_or(event.newest().number);
    let from = args.from.unwrap_or(to.saturating_sub(1));
    let find = |number: u32| {
        let known: Vec<String> = event
            .versions
            .iter()
            .map(|version| version.number.to_string())
            .collect();
        event.version(number).with_context(|| {
            format!(
                "{} has no version {number} to compare; it has {}",
                event.name,
                known.join(", ")
            )
        })
    };
    let (old, new) = (find(from)?, find(to)?);
    let json_of = |text: &str| serde_json::from_str::<Value>(text).with_context(|| "a schema is not plain JSON");
    let changes = changes(&json_of(&old.text)?, &json_of(&new.text)?);
    let pair = judge::pairs(event)
        .into_iter()
        .find(|pair| (pair.new, pair.old) == (to.max(from), to.min(from)))
        .with_context(|| "two versions are needed to compare")?;
    let order = Order::of(&pair);
    match output {
        Output::Json => output::json(&json!({
            "event": event.name, "from": from, "to": to, "changes": changes, "deploy_first": order,
            "new_reads_old": pair.new_reads_old.iter().map(finding).collect::<Vec<_>>(),
            "old_reads_new": pair.old_reads_new.iter().map(finding).collect::<Vec<_>>(),
        })),
        Output::Table => {
            output::line(format!("{} v{from} → v{to}", bold(&event.name)));
            for change in &changes {
                output::line(format!("  {change}"));
            }
            if changes.is_empty() {
                output::line(dim("  nothing that readers see"));
            }
            let words = order.words();
            let styled = if matches!(order, Order::Any | Order::Consumers) {
                good(words)
            } else {
                bad(words)
            };
            output::line(format!("deploy  {styled}"));
            for found in pair.new_reads_old.iter().chain(&pair.old_reads_new) {
                output::line(format!("  {} at {}: {}", found.reason, found.path, found.detail));
                output::line(dim(format!("    {}", found.hint)));
            }
        }
    }
    Ok(Verdict::Done)
}

/// A finding for programs.
pub(super) fn finding(found: &Finding) -> Value {
    json!({
        "reason": found.reason, "path": found.path, "field": found.field, "detail": found.detail, "hint": found.hint,
    })
}

/// What changed from `old` to `new`, a sentence each.
pub(super) fn changes(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let at = |field: &str| {
        if path.is_empty() {
            field.to_owned()
        } else {
            format!("{path}.{field}")
        }
    };
    let here = if path.is_empty() {
        "the record".to_owned()
    } else {
        path.to_owned()
    };
    match (kind(old), kind(new)) {
        ("record", "record") => {
            if old["name"] != new["name"] {
                found.push(format!("{here}: renamed from {} to {}", old["name"], new["name"]));
            }
            let (before, after) = (fields(old), fields(new));
            for field in after.values() {
                let name = field["name"].as_str().unwrap_or_default();
                let aliases = field["aliases"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str);
                let was = before
                    .get(name)
                    .or_else(|| aliases.into_iter().find_map(|alias| before.get(alias)));
                match was {
                    None => found.push(match field.get("default") {
                        Some(default) => format!(
                            "field {} added: {}, default {default}",
                            at(name),
                            described(&field["type"])
                        ),
                        None => format!(
                            "field {} added: {}, without a default",
                            at(name),
                            described(&field["type"])
                        ),
                    }),
                    Some(was) => {
                        if was["name"] != field["name"] {
                            found.push(format!("field {} renamed from {} by alias", at(name), was["name"]));
                        }
                        compare(&at(name), &was["type"], &field["type"], found);
                        match (was.get("default"), field.get("default")) {
                            (Some(_), None) => found.push(format!("field {} lost its default", at(name))),
                            (None, Some(default)) => found.push(format!("field {} got a default: {default}", at(name))),
                            (Some(one), Some(other)) if one != other => {
                                found.push(format!("field {}: default changed from {one} to {other}", at(name)));
                            }
                            _ => {}
                        }
                    }
                }
            }
            for (name, field) in &before {
                let read_as = |other: &Value| {
                    other["aliases"]
                        .as_array()
                        .is_some_and(|aliases| aliases.contains(&json!(name)))
                };
                if !after.contains_key(name) && !after.values().any(|other| read_as(other)) {
                    found.push(match field.get("default") {
                        Some(_) => format!("field {} removed; older readers see its default", at(name)),
                        None => format!("field {} removed; older readers have no default for it", at(name)),
                    });
                }
            }
        }
        ("enum", "enum") => {
            let symbols = |of: &Value| -> Vec<String> {
                let symbols = of["symbols"].as_array().into_iter().flatten();
                symbols
                    .filter_map(|symbol| symbol.as_str().map(str::to_owned))
                    .collect()
            };
            let (before, after) = (symbols(old), symbols(new));
            for symbol in after.iter().filter(|symbol| !before.contains(symbol)) {
                found.push(match old["default"].as_str() {
                    Some(default) => format!("{here}: symbol {symbol} added; older readers see {default}"),
                    None => format!("{here}: symbol {symbol} added; older readers have no default for it"),
                });
            }
            for symbol in before.iter().filter(|symbol| !after.contains(symbol)) {
                found.push(format!("{here}: symbol {symbol} removed"));
            }
        }
        ("array", "array") => compare(path, &old["items"], &new["items"], found),
        ("map", "map") => compare(path, &old["values"], &new["values"], found),
        ("union", "union") => {
            let branches = |of: &Value| of.as_array().cloned().unwrap_or_default();
            for (one, other) in branches(old).iter().zip(&branches(new)) {
                if kind(one) == kind(other) {
                    compare(path, one, other, found);
                }
            }
            if described(old) != described(new) {
                found.push(format!("{here}: {} became {}", described(old), described(new)));
            }
        }
        (one, other) => {
            let widened = matches!(
                (one, other),
                ("int", "long" | "float" | "double") | ("long", "float" | "double") | ("float", "double")
            );
            if widened {
                found.push(format!("{here}: widened from {one} to {other}"));
            } else if one != other || old["logicalType"] != new["logicalType"] {
                found.push(format!("{here}: {} became {}", described(old), described(new)));
            }
        }
    }
}

fn kind(schema: &Value) -> &str {
    match schema {
        Value::String(name) => name,
        Value::Array(_) => "union",
        other => other["type"].as_str().unwrap_or("?"),
    }
}

fn described(schema: &Value) -> String {
    match schema {
        Value::Array(branches) => branches.iter().map(described).collect::<Vec<_>>().join(" or "),
        Value::Object(object) => match kind(schema) {
            "array" => format!("array of {}", described(&schema["items"])),
            "map" => format!("map of {}", described(&schema["values"])),
            kind => match object.get("logicalType").or(object.get("name")).and_then(Value::as_str) {
                Some(name) => format!("{kind} {name}"),
                None => kind.to_owned(),
            },
        },
        other => kind(other).to_owned(),
    }
}

fn fields(record: &Value) -> BTreeMap<String, &Value> {
    let fields = record["fields"].as_array().into_iter().flatten();
    fields
        .filter_map(|field| Some((field["name"].as_str()?.to_owned(), field)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_said_in_words() {
        let old = json!({"type": "record", "name": "R", "fields": [
            {"name": "n", "type": "int"},
            {"name": "gone", "type": "string"},
            {"name": "why", "type": {"type": "enum", "name": "E", "symbols": ["U", "A"], "default": "U"}},
        ]});
        let new = json!({"type": "record", "name": "R", "fields": [
            {"name": "n", "type": "long"},
            {"name": "why", "type": {"type": "enum", "name": "E", "symbols": ["U", "B"], "default": "U"}},
            {"name": "note", "type": ["null", "string"], "default": null},
        ]});
        assert_eq!(
            changes(&old, &new),
            [
                "n: widened from int to long",
                "field note added: null or string, default null",
                "why: symbol B added; older readers see U",
                "why: symbol A removed",
                "field gone removed; older readers have no default for it",
            ]
        );
        assert_eq!(changes(&old, &old), Vec::<String>::new());
    }

    #[test]
    fn the_evolution_of_this_build_says_who_goes_first() {
        let catalogue = Catalogue::load(None).unwrap();
        let order = |name: &str| Order::of(&judge::pairs(catalogue.event(name).unwrap())[0]);
        assert_eq!(order("OrderPlaced"), Order::Any);
        assert_eq!(order("PaymentDeclined"), Order::Any);
        assert_eq!(order("PaymentAttempted"), Order::Consumers);
    }
}
