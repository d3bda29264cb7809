//! `rondo dlq redrive`: sends dead letters back to the consumer that failed, and to nobody else.
//!
//! Each goes to the head of its key's queue in that service's own database, with its own bytes; what waits behind it
//! follows, and nothing overtakes. What is decided here is a campaign: the running service works it off.

use std::path::PathBuf;

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::campaigns::{Kind, Plan, RECORDS_MAX};
use common::codec::{Codec, split};
use common::parking::{self, Chosen, DeadLetter, ORIGINAL, REDRIVE_CAMPAIGN, REDRIVE_COUNT, REDRIVE_OPERATOR};
use deadpool_postgres::Client;
use serde_json::{Value, json};

use super::selection::{self, ByReason};
use super::transform::{Changed, Encoding, Transform};
use super::{LetterId, campaigns, diff, work};
use crate::cli::output::{self, Table};
use crate::cli::target::remember_schemas;
use crate::cli::{Output, Target, Verdict};

/// Records of a dry run that a person is shown; JSON has all.
const SHOWN_MAX: usize = 50;
/// Differences of a dry run that a person is shown.
const DIFFS_SHOWN_MAX: usize = 20;
/// Records behind a key that a dry run names.
const BEHIND_MAX: i64 = 20;

/// What `dlq redrive` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    chosen: ByReason,
    /// All dead letters of all services.
    #[arg(long)]
    all: bool,
    /// Show precisely what would be sent, and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Most dead letters a second, for each service; what waits behind them comes on top.
    #[arg(long, default_value_t = 200.0, value_parser = rate)]
    rate: f64,
    /// A record that has come back this often stops its campaign.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1_000))]
    returns_max: i32,
    /// Mend what the records say by the patch in this file: an array is a JSON Patch, an object a merge patch.
    #[arg(long, value_name = "FILE")]
    transform: Option<PathBuf>,
    /// Encode with this schema of the registry, or with the newest of the record's subject.
    #[arg(long, value_name = "ID|newest")]
    schema: Option<Encoding>,
    /// The schema that the bytes were really written with, if they name another.
    #[arg(long, value_name = "ID")]
    writer_schema: Option<u32>,
    /// Who decides; the user of this shell if nobody is named.
    #[arg(long, env = "RONDO_OPERATOR", value_name = "NAME")]
    operator: Option<String>,
    /// Why, for whoever reads it later.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
}

/// A dead letter that would go.
struct Going {
    id: LetterId,
    letter: DeadLetter,
    changed: Option<Changed>,
    behind: Vec<parking::Queued>,
}

/// Redrives, or shows what that would be.
pub(super) async fn run(target: &Target, args: Args) -> Result<Verdict> {
    if !args.all && args.chosen.selection.is_everything() {
        output::refuse("which dead letters? Give ids such as orders/12, a filter, or --all");
    }
    let transform = Transform::read(args.transform.as_deref(), args.schema, args.writer_schema)?;
    let operator = work::operator(args.operator.as_deref()).unwrap_or_else(|| "unnamed".to_owned());
    let codec = target.codec()?;
    let (mut going, mut left, mut services) = (Vec::new(), Vec::new(), Vec::new());
    let mut found = Vec::new();
    for (service, filter) in args.chosen.selection.filters(!args.chosen.selection.names_each()) {
        let client = target.database(service).await?;
        remember_schemas(&codec, &client).await?;
        let mut chosen = Vec::new();
        let read = selection::each(&client, &filter, RECORDS_MAX, async |letter| {
            let id = LetterId {
                service,
                row: letter.id,
            };
            found.push(id);
            match prepare(&codec, transform.as_ref(), service, &letter).await {
                Err(why) => left.push((id, why)),
                Ok(changed) if args.dry_run => {
                    let behind = behind(&client, &letter).await?;
                    going.push(Going {
                        id,
                        letter,
                        changed,
                        behind,
                    });
                }
                Ok(changed) => chosen.push(Chosen {
                    dead_letter: letter.id,
                    value: changed.map(|changed| changed.bytes),
                }),
            }
            Ok(())
        })
        .await?;
        work::warn_of_bound(read);
        let plan = Plan {
            kind: Kind::Redrive,
            operator: operator.clone(),
            reason: args.note.clone(),
            filter: selection::as_json(&filter),
            transform: transform.as_ref().map(Transform::as_json),
            rate: args.rate,
            returns_max: args.returns_max,
        };
        services.push((service, plan, chosen));
    }
    if let Some(missing) = args.chosen.selection.missing(&found).first() {
        bail!("there is no dead letter {missing}; `rondo dlq list --all` lists those there are");
    }
    if args.dry_run {
        // Oldest first, as they would go.
        going.reverse();
        show(target, &args, &operator, &going, &left);
        return Ok(Verdict::of(left.is_empty()));
    }
    let started = work::start(target, services).await?;
    campaigns::follow(target, &started, &left, args.detach).await
}

/// What would be sent for a letter, or why it cannot be.
async fn prepare(
    codec: &Codec,
    transform: Option<&Transform>,
    service: &str,
    letter: &DeadLetter,
) -> Result<Option<Changed>, String> {
    if let Some(why) = work::left_out(Kind::Redrive, service, letter) {
        return Err(why);
    }
    match transform {
        None => Ok(None),
        Some(transform) => match transform.apply(codec, letter).await {
            Ok(changed) => Ok(Some(changed)),
            Err(why) => Err(format!("{why:#}")),
        },
    }
}

/// What waits behind a letter and would follow it.
async fn behind(client: &Client, letter: &DeadLetter) -> Result<Vec<parking::Queued>> {
    let Some(key) = letter.key.as_ref().filter(|_| letter.waiting > 0) else {
        return Ok(Vec::new());
    };
    let queue = parking::queue(client, &letter.consumer, &letter.record.topic, key, BEHIND_MAX + 1).await?;
    Ok(queue
        .into_iter()
        .filter(|queued| Some(queued.event_id) != letter.event_id)
        .collect())
}

fn show(target: &Target, args: &Args, operator: &str, going: &[Going], left: &[(LetterId, String)]) {
    if target.output() == Output::Json {
        output::json(&json!({
            "dry_run": true,
            "rate": args.rate,
            "returns_max": args.returns_max,
            "operator": operator,
            "records": going.iter().map(|one| record_json(one, operator)).collect::<Vec<_>>(),
            "left_out": campaigns::left_out_json(left),
        }));
        return;
    }
    let mut table = Table::new(&["id", "to", "key", "type", "bytes", ">redrive", "then"]);
    for one in going.iter().take(SHOWN_MAX) {
        let letter = &one.letter;
        table.row([
            output::bold(one.id).to_string(),
            letter.consumer.clone(),
            letter.key.clone().unwrap_or_default(),
            letter.event_type.clone().unwrap_or_default(),
            bytes_text(one),
            (letter.redrives + 1).to_string(),
            then_text(one),
        ]);
    }
    if !table.is_empty() {
        table.print();
    }
    if going.len() > SHOWN_MAX {
        output::line(output::dim(format_args!(
            "… and {} more; --output json shows all",
            going.len() - SHOWN_MAX
        )));
    }
    for one in going.iter().take(DIFFS_SHOWN_MAX) {
        let Some(changed) = &one.changed else { continue };
        output::line(format_args!("\n{}", output::bold(one.id)));
        let lines = diff::lines(&changed.before, &changed.after);
        if lines.is_empty() {
            output::line("says the same as before");
        }
        lines.iter().for_each(output::line);
    }
    campaigns::print_left_out(left);
    let count = output::counted(going.len() as u64, "dead letter");
    output::line(format_args!(
        "\n{count} would be sent, each to the consumer that failed, with these headers added: {}; nothing was",
        headers_added("ID", 1, operator)
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    ));
}

fn bytes_text(one: &Going) -> String {
    let length = one.letter.record.value.as_ref().map_or(0, bytes::Bytes::len);
    match &one.changed {
        None => format!("{length}, unchanged"),
        Some(changed) => format!("{length} → {}, schema {}", changed.bytes.len(), changed.schema_id),
    }
}

fn then_text(one: &Going) -> String {
    let types: Vec<&str> = one.behind.iter().map(|queued| queued.event_type.as_str()).collect();
    match one.letter.waiting {
        0 => "nothing waits".to_owned(),
        n if n.cast_unsigned() as usize > types.len() => format!("{n} behind it: {}, …", types.join(", ")),
        n => format!("{n} behind it: {}", types.join(", ")),
    }
}

/// The headers that the record gets, as far as they are known before the campaign is.
fn headers_added(campaign: &str, count: i32, operator: &str) -> Vec<(&'static str, String)> {
    let mut added = vec![
        (REDRIVE_CAMPAIGN, campaign.to_owned()),
        (REDRIVE_COUNT, count.to_string()),
        (REDRIVE_OPERATOR, operator.to_owned()),
    ];
    added.extend(ORIGINAL.map(|name| (name, String::new())));
    added
}

fn record_json(one: &Going, operator: &str) -> Value {
    let record = &one.letter.record;
    let original = record.value.as_deref();
    let sent = one.changed.as_ref().map_or(original, |changed| Some(&changed.bytes));
    let place = [
        record.topic.to_string(),
        record.partition.to_string(),
        record.offset.to_string(),
    ];
    let mut added = headers_added(&format!("{}/…", one.id.service), one.letter.redrives + 1, operator);
    for ((_, value), place) in added.iter_mut().rev().zip(place.into_iter().rev()) {
        *value = place;
    }
    let added: Vec<Value> = added
        .into_iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let behind: Vec<Value> = one
        .behind
        .iter()
        .map(|queued| json!({ "event_id": queued.event_id, "event_type": queued.event_type, "version": queued.stream_version }))
        .collect();
    json!({
        "id": one.id.to_string(),
        "to": one.letter.consumer,
        "topic": record.topic,
        "key": one.letter.key,
        "event_id": one.letter.event_id,
        "event_type": one.letter.event_type,
        "schema": sent.and_then(|value| split(value).ok()).map(|(id, _)| id),
        "value_base64": sent.map(|value| BASE64.encode(value)),
        "unchanged": one.changed.is_none(),
        "before": one.changed.as_ref().map(|changed| &changed.before),
        "after": one.changed.as_ref().map(|changed| &changed.after),
        "headers_added": added,
        "waiting": one.letter.waiting,
        "behind": behind,
    })
}

fn rate(text: &str) -> Result<f64, String> {
    let wanted = || "a rate is a number of records a second, from 0.01 to 10000".to_owned();
    let rate: f64 = text.parse().map_err(|_| wanted())?;
    (0.01..=10_000.0).contains(&rate).then_some(rate).ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_sensible_number() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "fast", "nan", "1e9"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
