//! `schema check`: one verdict over files, registry and bytes, with what to do about each finding.

use std::path::PathBuf;

use anyhow::Result;
use avro::Finding;
use clap::Args as ClapArgs;
use registry::Level;
use serde_json::{Value, json};

use super::bytes::{self, Read};
use super::catalogue::{Catalogue, Event};
use super::diff::finding;
use super::judge::{self, Pair};
use super::registered::{self, Standing};
use crate::cli::output::{self, Table, bad, bold, dim, good, warn};
use crate::cli::{GlobalArgs, Output, Target, Verdict};

/// What `schema check` takes.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// A directory of schemas, <service>/<Event>.v<N>.avsc; this build's own if left out.
    #[arg(long, value_name = "DIR")]
    schemas: Option<PathBuf>,
    /// What the versions owe each other: NONE, BACKWARD, FORWARD, FULL, or one of these with _TRANSITIVE.
    #[arg(long, default_value = "BACKWARD_TRANSITIVE", value_parser = level)]
    level: Level,
    /// Also against what the registry has.
    #[arg(long)]
    registry: bool,
    /// Also against production bytes: the newest schemas read every retained record of the topics and the event stores.
    #[arg(long)]
    bytes: bool,
    /// Which topics, without a namespace, separated by commas; all if left out.
    #[arg(long, requires = "bytes", value_delimiter = ',')]
    topics: Vec<String>,
    /// Dead letters too.
    #[arg(long, requires = "bytes")]
    dlq: bool,
    /// About how many records of each topic and event store, evenly taken; all if left out.
    #[arg(long, requires = "bytes", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
}

fn level(word: &str) -> Result<Level, String> {
    Level::from_word(word).ok_or_else(|| {
        let words: Vec<&str> = Level::ALL.iter().map(|level| level.word()).collect();
        format!("a level is one of {}", words.join(", "))
    })
}

/// One finding between two versions.
struct Row<'a> {
    event: &'a Event,
    new: u32,
    old: u32,
    new_reads_old: bool,
    required: bool,
    finding: &'a Finding,
}

/// Runs `schema check`.
pub(super) async fn run(args: &Args, global: &GlobalArgs) -> Result<Verdict> {
    let catalogue = Catalogue::load(args.schemas.as_deref())?;
    let judged: Vec<(&Event, Vec<Pair>)> = catalogue
        .events
        .iter()
        .map(|event| (event, judge::pairs(event)))
        .collect();
    let rows: Vec<Row<'_>> = judged
        .iter()
        .flat_map(|(event, pairs)| rows(event, pairs, args.level))
        .collect();
    let target = (args.registry || args.bytes)
        .then(|| Target::locate(global))
        .transpose()?;
    let standings = match &target {
        Some(target) if args.registry => Some(registered::compare(&catalogue, target, args.level).await?),
        _ => None,
    };
    let read = match &target {
        Some(target) if args.bytes => {
            let wanted = bytes::Wanted {
                topics: &args.topics,
                dead_letters: args.dlq,
                sample: args.sample,
            };
            Some(bytes::read(&catalogue, target, &wanted).await?)
        }
        _ => None,
    };
    let well = catalogue.faults.is_empty()
        && !rows.iter().any(|row| row.required)
        && !standings.iter().flatten().any(|standing| standing.is_wanting())
        && read.as_ref().is_none_or(Read::is_well);
    match global.output {
        Output::Json => output::json(&json!({
            "level": args.level.word(),
            "compatible": well,
            "events": judged.iter().map(|(event, pairs)| event_json(event, pairs)).collect::<Vec<_>>(),
            "faults": catalogue.faults,
            "findings": rows.iter().map(row_json).collect::<Vec<_>>(),
            "registry": standings.as_ref().map(|standings| standings.iter().map(Standing::json).collect::<Vec<_>>()),
            "bytes": read.as_ref().map(Read::json),
        })),
        Output::Table => {
            print_events(&judged, args.level);
            print_faults(&catalogue);
            print_rows(&rows, args.level);
            if let Some(standings) = &standings {
                registered::print(standings);
            }
            if let Some(read) = &read {
                read.print();
            }
            let versions: usize = catalogue.events.iter().map(|event| event.versions.len()).sum();
            let what = format!(
                "{versions} versions of {} events at {}",
                catalogue.events.len(),
                args.level.word()
            );
            output::line(if well {
                format!("{} {what}", good("compatible"))
            } else {
                format!("{} {what}", bad("not compatible"))
            });
        }
    }
    Ok(Verdict::of(well))
}

fn rows<'a>(event: &'a Event, pairs: &'a [Pair], level: Level) -> Vec<Row<'a>> {
    let of = |pair: &'a Pair| {
        let (backward, forward) = pair.wanted(level);
        let row = move |new_reads_old: bool, required: bool| {
            move |finding: &'a Finding| Row {
                event,
                new: pair.new,
                old: pair.old,
                new_reads_old,
                required,
                finding,
            }
        };
        let back = pair.new_reads_old.iter().map(row(true, backward));
        let forth = pair.old_reads_new.iter().map(row(false, forward));
        back.chain(forth)
    };
    pairs.iter().flat_map(of).collect()
}

fn event_json(event: &Event, pairs: &[Pair]) -> Value {
    let version = |number: u32, file: &str| {
        let of: Vec<&Pair> = pairs.iter().filter(|pair| pair.new == number).collect();
        let against = of.iter().map(|pair| {
            json!({
                "version": pair.old,
                "new_reads_old": pair.new_reads_old.is_empty(),
                "old_reads_new": pair.old_reads_new.is_empty(),
            })
        });
        json!({
            "version": number, "file": file, "satisfies": judge::strongest(&of).word(),
            "against": against.collect::<Vec<_>>(),
        })
    };
    let versions = event.versions.iter().map(|one| version(one.number, &one.file));
    json!({ "service": event.service, "event": event.name, "versions": versions.collect::<Vec<_>>() })
}

fn row_json(row: &Row<'_>) -> Value {
    let mut value = finding(row.finding);
    value["event"] = json!(row.event.name);
    value["version"] = json!(row.new);
    value["against"] = json!(row.old);
    value["direction"] = json!(if row.new_reads_old {
        "new_reads_old"
    } else {
        "old_reads_new"
    });
    value["required"] = json!(row.required);
    value
}

fn print_events(judged: &[(&Event, Vec<Pair>)], level: Level) {
    let mut table = Table::new(&[
        "service",
        "event",
        "version",
        "against",
        "new reads old",
        "old reads new",
        "satisfies",
    ]);
    let mut single = 0;
    for (event, pairs) in judged {
        if pairs.is_empty() {
            single += 1;
        }
        for pair in pairs {
            let (backward, forward) = pair.wanted(level);
            let word = |findings: &[Finding], wanted: bool| match (findings.is_empty(), wanted) {
                (true, _) => good("yes").to_string(),
                (false, true) => bad("no").to_string(),
                (false, false) => warn("no, not asked").to_string(),
            };
            let of: Vec<&Pair> = pairs.iter().filter(|other| other.new == pair.new).collect();
            table.row([
                output::service(&event.service).to_string(),
                event.name.clone(),
                format!("v{}", pair.new),
                format!("v{}", pair.old),
                word(&pair.new_reads_old, backward),
                word(&pair.old_reads_new, forward),
                judge::strongest(&of).word().to_owned(),
            ]);
        }
    }
    if !table.is_empty() {
        table.print();
    }
    if single > 0 {
        output::line(dim(format!("and {} of one version", output::counted(single, "event"))));
    }
}

fn print_faults(catalogue: &Catalogue) {
    for fault in &catalogue.faults {
        output::line(format!("{} {}: {}", bad("✗"), bold(&fault.file), fault.what));
        output::line(dim(format!("    {}", fault.hint)));
    }
}

fn print_rows(rows: &[Row<'_>], level: Level) {
    for row in rows {
        let (reader, writer) = if row.new_reads_old {
            (row.new, row.old)
        } else {
            (row.old, row.new)
        };
        let Finding {
            reason,
            path,
            field,
            detail,
            hint,
        } = row.finding;
        let place = if field.is_empty() {
            path.clone()
        } else {
            format!("{field} ({path})")
        };
        let (mark, why) = if row.required {
            (bad("✗").to_string(), String::new())
        } else {
            (warn("·").to_string(), format!("; {} does not ask for it", level.word()))
        };
        output::line(format!(
            "{mark} {} v{reader} cannot read v{writer}{why}\n    {reason} at {place}: {detail}",
            bold(&row.event.name)
        ));
        output::line(dim(format!("    {hint}")));
    }
}
