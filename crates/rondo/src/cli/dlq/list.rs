//! `rondo dlq list`: the dead letters of all services, and the keys that are being tried again.

use anyhow::Result;
use common::parking::{self, DeadLetter, ParkedKey};
use contracts::service::SERVICES;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::selection::{self, ByReason};
use crate::cli::output::{self, Table};
use crate::cli::{Output, Target, Verdict};

/// What `dlq list` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    chosen: ByReason,
    /// Also those about which somebody has decided.
    #[arg(long)]
    all: bool,
    /// Most to list of each service.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Lists.
pub(super) async fn run(target: &Target, args: &Args) -> Result<Verdict> {
    let mut letters = Vec::new();
    let mut retrying = Vec::new();
    for (service, filter) in args
        .chosen
        .selection
        .filters(!args.all && !args.chosen.selection.names_each())
    {
        let client = target.database(service).await?;
        selection::each(&client, &filter, args.limit as usize, async |letter| {
            letters.push((service, letter));
            Ok(())
        })
        .await?;
    }
    if args.chosen.selection.is_everything() {
        for service in &SERVICES {
            let client = target.database(service.name).await?;
            let keys = parking::parked_keys(&client, None, args.limit.into()).await?;
            retrying.extend(keys.into_iter().filter(|key| !key.dead).map(|key| (service.name, key)));
        }
    }
    letters.sort_by_key(|(_, letter)| std::cmp::Reverse(letter.dead_at));
    match target.output() {
        Output::Json => output::json(&json!({
            "dead_letters": letters.iter().map(|(service, letter)| summary(service, letter)).collect::<Vec<_>>(),
            "retrying": retrying.iter().map(|(service, key)| waiting(service, key)).collect::<Vec<_>>(),
        })),
        Output::Table => {
            print_letters(&letters);
            print_retrying(&retrying);
        }
    }
    Ok(Verdict::Done)
}

fn print_letters(letters: &[(&str, DeadLetter)]) {
    if letters.is_empty() {
        output::line(output::good("no dead letters"));
        return;
    }
    let now = Timestamp::now();
    let mut table = Table::new(&[
        "id", "topic", "key", "type", "class", "dead", ">waiting", "status", "reason",
    ]);
    for (service, letter) in letters {
        table.row([
            output::bold(format_args!("{service}/{}", letter.id)).to_string(),
            letter.record.topic.to_string(),
            letter.key.clone().unwrap_or_else(|| "-".to_owned()),
            letter.event_type.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{}:{}", letter.disposition, letter.error_class),
            output::ago(letter.dead_at, now),
            letter.waiting.to_string(),
            status(service, letter),
            letter.error.lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    table.print();
}

/// Where a letter stands, in few words.
pub(super) fn status(service: &str, letter: &DeadLetter) -> String {
    match (letter.campaign, letter.returns) {
        (Some(campaign), _) => format!("{}, in {service}/{campaign}", letter.status),
        (None, 0) => letter.status.clone(),
        (None, returns) => format!("{}, came back {returns}×", letter.status),
    }
}

fn print_retrying(keys: &[(&str, ParkedKey)]) {
    if keys.is_empty() {
        return;
    }
    let now = Timestamp::now();
    output::line(format_args!("\n{}", output::bold("parked, and being tried again")));
    let mut table = Table::new(&["service", "topic", "key", "since", ">tries", ">waiting", "reason"]);
    for (service, key) in keys {
        table.row([
            output::service(service).to_string(),
            key.topic.clone(),
            key.key.clone(),
            output::ago(key.since, now),
            key.attempts.to_string(),
            key.waiting.to_string(),
            key.error.clone().unwrap_or_default(),
        ]);
    }
    table.print();
}

/// A dead letter without its bytes.
pub(super) fn summary(service: &str, letter: &DeadLetter) -> Value {
    json!({
        "id": format!("{service}/{}", letter.id),
        "service": service,
        "topic": letter.record.topic,
        "partition": letter.record.partition,
        "offset": letter.record.offset,
        "consumer": letter.consumer,
        "key": letter.key,
        "event_type": letter.event_type,
        "event_id": letter.event_id,
        "disposition": letter.disposition,
        "error_class": letter.error_class,
        "error": letter.error,
        "attempts": letter.attempts,
        "first_failed_at": letter.first_failed_at,
        "dead_at": letter.dead_at,
        "published_at": letter.published_at,
        "waiting": letter.waiting,
        "status": letter.status,
        "redrives": letter.redrives,
        "returns": letter.returns,
        "campaign": letter.campaign.map(|campaign| format!("{service}/{campaign}")),
    })
}

fn waiting(service: &str, key: &ParkedKey) -> Value {
    json!({
        "service": service,
        "topic": key.topic,
        "key": key.key,
        "since": key.since,
        "attempts": key.attempts,
        "next_attempt_at": key.next_attempt_at,
        "waiting": key.waiting,
        "error": key.error,
    })
}
