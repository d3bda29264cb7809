//! What a replay found, for people and for programs.

use std::time::Duration;

use common::replay::{Difference, Kind, Report, TableReport};
use serde_json::{Value, json};

use crate::cli::Output;
use crate::cli::output::{self, Table};

/// Longest value that is shown of a column, in characters.
const VALUE_CHARACTERS_MAX: usize = 60;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Rebuild,
    Diff,
}

/// Prints `report`.
pub(super) fn report(report: &Report, elapsed: Duration, verb: Verb, output: Output) {
    match output {
        Output::Json => output::json(&as_json(report, elapsed)),
        Output::Table => print(report, elapsed, verb),
    }
}

fn as_json(report: &Report, elapsed: Duration) -> Value {
    let mut value = serde_json::to_value(report).expect("a report is plain data");
    value["equal"] = report.is_equal().into();
    value["elapsed_ms"] = json!(elapsed.as_millis());
    value
}

fn print(report: &Report, elapsed: Duration, verb: Verb) {
    let from = match report.source.as_str() {
        "topic" => "its topic",
        _ => "its event store",
    };
    let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
    output::line(format_args!(
        "{} told again from {from}: {} up to position {}, in {}",
        output::service(&report.service),
        output::counted(report.events, "event"),
        report.position,
        output::span(elapsed_ms)
    ));
    for note in notes(report) {
        output::line(output::dim(note));
    }
    output::line("");
    let mut table = Table::new(&["table", ">rows", ">rebuilt", "content hash", ""]);
    for one in &report.tables {
        table.row([
            one.table.clone(),
            output::count(one.live_rows),
            output::count(one.rebuilt_rows),
            hash(one),
            verdict(one),
        ]);
    }
    table.print();
    let written_meanwhile = |one: &TableReport| one.is_equal() && one.live_hash != one.rebuilt_hash;
    if report.tables.iter().any(written_meanwhile) {
        output::line(output::dim(
            "both sides were counted while orders went on; what was written between the two was compared row by row",
        ));
    }
    for one in report.tables.iter().filter(|one| !one.is_equal()) {
        print_differences(one, verb);
    }
    if report.gaps > 0 {
        let streams = output::counted(report.gaps, "stream");
        output::line(format_args!(
            "\n{} in the log:",
            output::bad(format_args!("{streams} with missing versions"))
        ));
        for stream in &report.gaps_first {
            output::line(format_args!("  {stream}"));
        }
    }
    output::line("");
    output::line(conclusion(report, verb));
}

fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if report.resumed {
        notes.push("an earlier run that was broken off has been continued".to_owned());
    }
    if report.partial {
        notes.push(
            "only a part of the log was read: rows of streams without an event in it are not compared".to_owned(),
        );
    }
    if report.repeated > 0 {
        let records = output::counted(report.repeated, "record");
        notes.push(format!("{records} of the log repeat an event, as is normal"));
    }
    if report.foreign > 0 {
        let records = output::counted(report.foreign, "record");
        notes.push(format!("{records} of the log are no events of this service"));
    }
    if report.told_again > 0 {
        let streams = output::counted(report.told_again, "stream");
        notes.push(format!(
            "{streams} went on after they were let go, and were ended from the event store"
        ));
    }
    notes
}

fn hash(table: &TableReport) -> String {
    match (table.is_equal(), table.live_hash == table.rebuilt_hash) {
        (true, _) | (_, true) => table.rebuilt_hash.clone(),
        (false, false) => format!("{} → {}", table.live_hash, table.rebuilt_hash),
    }
}

fn verdict(table: &TableReport) -> String {
    if let Some(why) = &table.left_out {
        return output::dim(format_args!("not compared: {why}")).to_string();
    }
    if table.is_equal() {
        return output::good("equal").to_string();
    }
    let mut parts = Vec::new();
    if table.different > 0 {
        let more = if table.more { "at least " } else { "" };
        let verb = if table.different == 1 { "differs" } else { "differ" };
        parts.push(format!("{more}{} {verb}", output::counted(table.different, "row")));
    }
    if !table.other_columns.is_empty() {
        parts.push("other columns".to_owned());
    }
    output::bad(parts.join(", ")).to_string()
}

fn print_differences(table: &TableReport, verb: Verb) {
    let whose = match verb {
        Verb::Rebuild => "what the service has → what its events say",
        Verb::Diff => "what the service has → what this build makes of its events",
    };
    output::line(format_args!("\n{}  {}", output::bold(&table.table), output::dim(whose)));
    for column in &table.other_columns {
        output::line(format_args!("  column {column}"));
    }
    for difference in &table.first {
        output::line(format_args!("  {}", described(difference)));
    }
    let shown = table.first.len() as u64;
    if table.different > shown {
        output::line(output::dim(format_args!(
            "  … and {} more",
            output::count(table.different - shown)
        )));
    }
}

fn described(difference: &Difference) -> String {
    let key = &difference.key;
    match difference.kind {
        Kind::OnlyLive => format!("{key}  no event says that there is such a row"),
        Kind::OnlyRebuilt => format!("{key}  the row is missing"),
        Kind::Differs => {
            let columns: Vec<String> = difference
                .columns
                .iter()
                .map(|column| format!("{} {} → {}", column.name, value(&column.live), value(&column.rebuilt)))
                .collect();
            format!("{key}  {}", columns.join(", "))
        }
    }
}

fn value(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn conclusion(report: &Report, verb: Verb) -> String {
    let service = &report.service;
    match (verb, report.swapped, report.is_equal()) {
        (_, true, _) => format!(
            "{}: the rebuilt tables are in place. The old ones are in the schema rebuild_old; once you no longer need them: \
             rondo replay rebuild --service {service} --drop-old",
            output::good("swapped")
        ),
        (Verb::Diff, _, true) => output::good("nothing would change").to_string(),
        (Verb::Diff, _, false) => output::bad("this would change").to_string(),
        (Verb::Rebuild, _, true) if report.partial => format!(
            "{}; nothing is swapped, for that takes the whole log",
            output::good("nothing differs")
        ),
        (Verb::Rebuild, _, true) => output::good("nothing differs").to_string(),
        (Verb::Rebuild, _, false) if report.partial => output::bad("not equal").to_string(),
        (Verb::Rebuild, _, false) => format!(
            "{}: nothing was swapped. If the log is right: rondo replay rebuild --service {service} --swap --accept-differences",
            output::bad("not equal")
        ),
    }
}

#[cfg(test)]
mod tests {
    use common::replay::Column;

    use super::*;

    #[test]
    fn a_row_that_differs_is_told_with_both_values() {
        let difference = Difference {
            key: "o-1".to_owned(),
            kind: Kind::Differs,
            columns: vec![Column {
                name: "status".to_owned(),
                live: json!("placed"),
                rebuilt: json!("x".repeat(80)),
            }],
        };
        let text = described(&difference);
        assert!(text.starts_with("o-1  status \"placed\" → \"xxx"), "{text}");
        assert!(text.ends_with('…'), "{text}");
    }
}
