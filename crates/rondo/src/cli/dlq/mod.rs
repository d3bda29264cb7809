//! `rondo dlq`: what no consumer could handle, and what waits because of it.
//!
//! The rows of the services' databases are the truth; ids carry the service, as `orders/12`. This only looks.

mod hexdump;

mod show;

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, Subcommand};
use common::parking::{self, DeadLetter, ParkedKey};
use contracts::service::{SERVICES, Service};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::output::{self, Table};
use super::{Output, Target, Verdict};

/// Dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List dead letters of all services, newest first, and the keys that are being tried again.
    List(ListArgs),
    /// Show one dead letter: what it says or why it says nothing, its headers, and who waits behind it.
    Show {
        /// Its id, as listed: `orders/12`.
        id: LetterId,
    },
}

/// What `dlq list` takes.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Also those about which somebody has decided.
    #[arg(long)]
    all: bool,
    /// Most to list of each service.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Which dead letter of which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterId {
    service: &'static str,
    row: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.row)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = text
            .split_once('/')
            .and_then(|(service, row)| Some((Service::named(service)?.name, row.parse().ok()?)));
        known.map(|(service, row)| Self { service, row }).ok_or_else(|| {
            let names: Vec<&str> = SERVICES.iter().map(|service| service.name).collect();
            format!(
                "an id is SERVICE/NUMBER, such as orders/12, with a service of {}",
                names.join(", ")
            )
        })
    }
}

/// Runs a verb about dead letters.
///
/// # Errors
/// The target is not usable, or there is no such dead letter.
pub async fn run(command: Command, target: &Target) -> Result<Verdict> {
    match command {
        Command::List(args) => list(target, &args).await,
        Command::Show { id } => show::run(target, id).await,
    }
}

async fn list(target: &Target, args: &ListArgs) -> Result<Verdict> {
    let mut letters = Vec::new();
    let mut retrying = Vec::new();
    for service in &SERVICES {
        let client = target.database(service.name).await?;
        let found = dead_letters(&client, args).await?;
        letters.extend(found.into_iter().map(|letter| (service.name, letter)));
        let keys = parking::parked_keys(&client, None, args.limit.into()).await?;
        retrying.extend(keys.into_iter().filter(|key| !key.dead).map(|key| (service.name, key)));
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

/// Up to the limit of dead letters, skipping over decided ones unless they are asked for.
async fn dead_letters(client: &deadpool_postgres::Client, args: &ListArgs) -> Result<Vec<DeadLetter>> {
    let limit = args.limit as usize;
    let mut found: Vec<DeadLetter> = Vec::new();
    let mut before = i64::MAX;
    while found.len() < limit {
        let page = parking::dead_letters(client, before, args.limit.into()).await?;
        let Some(last) = page.last() else { break };
        before = last.id;
        found.extend(page.into_iter().filter(|letter| args.all || letter.status == "dead"));
    }
    found.truncate(limit);
    Ok(found)
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
            letter.status.clone(),
            letter.error.lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    table.print();
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

fn summary(service: &str, letter: &DeadLetter) -> Value {
    json!({
        "id": format!("{service}/{}", letter.id),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_a_service_and_a_row() {
        let id: LetterId = "orders/12".parse().unwrap();
        assert_eq!((id.service, id.row), ("orders", 12));
        assert_eq!(id.to_string(), "orders/12");
        for wrong in ["12", "shipping/12", "orders/", "orders/x"] {
            assert!(
                wrong.parse::<LetterId>().is_err_and(|why| why.contains("orders/12")),
                "{wrong}"
            );
        }
    }
}
