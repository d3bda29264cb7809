//! `rondo dlq show`: dead letters, each as its writer meant it if that can be told, else byte by byte, with all that
//! happened to it.

use anyhow::{Result, bail};
use common::campaigns::{self, Step};
use common::codec::{Codec, split};
use common::parking::{self, DeadLetter, Queued};
use deadpool_postgres::Client;
use rdkafka::message::Headers as _;
use serde_json::{Map, Value, json};

use super::list::{status, summary};
use super::selection::{self, ByReason};
use super::{LetterId, hexdump};
use crate::cli::output::{self, Table};
use crate::cli::target::remember_schemas;
use crate::cli::{Output, Target, Verdict};

/// How many bytes of a value that does not decode are shown.
const BYTES_SHOWN_MAX: usize = 256;
/// How many of those that wait behind it are shown.
const WAITING_SHOWN_MAX: i64 = 20;
/// How many steps of its history are shown.
const HISTORY_SHOWN_MAX: i64 = 200;

/// What `dlq show` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    chosen: ByReason,
    /// Most to show of each service.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

/// A dead letter with all that there is to say about it.
struct Shown {
    id: LetterId,
    letter: DeadLetter,
    said: Result<Value, String>,
    /// In which campaign its value was changed, and what that says.
    changed: Option<(i64, Result<Value, String>)>,
    history: Vec<Step>,
    behind: Vec<Queued>,
}

/// Shows what was chosen.
pub(super) async fn run(target: &Target, args: &Args) -> Result<Verdict> {
    if args.chosen.selection.is_everything() {
        output::refuse("show needs an id such as orders/12, or a filter; `rondo dlq list` lists the ids");
    }
    let codec = target.codec()?;
    let mut shown = Vec::new();
    for (service, filter) in args.chosen.selection.filters(false) {
        let client = target.database(service).await?;
        remember_schemas(&codec, &client).await?;
        let mut letters = Vec::new();
        selection::each(&client, &filter, args.limit as usize, async |letter| {
            letters.push(letter);
            Ok(())
        })
        .await?;
        for letter in letters {
            let id = LetterId {
                service,
                row: letter.id,
            };
            shown.push(look(&client, &codec, id, letter).await?);
        }
    }
    let found: Vec<LetterId> = shown.iter().map(|one| one.id).collect();
    let missing = args.chosen.selection.missing(&found);
    if let Some(missing) = missing.first() {
        bail!("there is no dead letter {missing}; `rondo dlq list --all` lists those there are");
    }
    match (target.output(), &shown[..]) {
        (Output::Json, [one]) if args.chosen.selection.names_each() => output::json(&as_json(one)),
        (Output::Json, all) => output::json(&all.iter().map(as_json).collect::<Vec<_>>()),
        (Output::Table, []) => output::line(output::good("no dead letters")),
        (Output::Table, all) => {
            for (n, one) in all.iter().enumerate() {
                if n > 0 {
                    output::line("");
                }
                print(one);
            }
        }
    }
    Ok(Verdict::Done)
}

async fn look(client: &Client, codec: &Codec, id: LetterId, letter: DeadLetter) -> Result<Shown> {
    let waiting = match &letter.key {
        Some(key) => {
            let topic = &letter.record.topic;
            parking::queue(client, &letter.consumer, topic, key, WAITING_SHOWN_MAX + 1).await?
        }
        None => Vec::new(),
    };
    let changed = match campaigns::recorded(client, letter.id).await? {
        None => None,
        Some((campaign, value)) => {
            let said = codec.to_json(&value).await.map_err(|error| parking::chain(&error));
            Some((campaign, said))
        }
    };
    Ok(Shown {
        id,
        said: said(codec, &letter).await,
        changed,
        history: campaigns::history(client, letter.id, HISTORY_SHOWN_MAX).await?,
        behind: waiting
            .into_iter()
            .filter(|queued| Some(queued.event_id) != letter.event_id)
            .collect(),
        letter,
    })
}

/// What the value says, or why it cannot be told.
pub(super) async fn said(codec: &Codec, letter: &DeadLetter) -> Result<Value, String> {
    let value = letter.record.value.as_deref().unwrap_or_default();
    codec.to_json(value).await.map_err(|error| parking::chain(&error))
}

fn print(shown: &Shown) {
    let Shown { id, letter, said, .. } = shown;
    let record = &letter.record;
    let what = letter.event_type.as_deref().unwrap_or("a record of unknown type");
    output::line(format_args!(
        "{}  {what}, {}",
        output::bold(id),
        status(id.service, letter)
    ));
    let copy = match letter.published_at {
        Some(at) => format!(
            "published {} on {}.{}.dlq",
            output::time(at),
            record.topic,
            letter.consumer
        ),
        None => output::warn("not yet published").to_string(),
    };
    let mut facts = Table::new(&["", ""]);
    let mut fact = |name: &str, value: String| facts.row([output::dim(name).to_string(), value]);
    fact(
        "from",
        format!(
            "{} partition {} offset {}",
            record.topic, record.partition, record.offset
        ),
    );
    fact("consumer", letter.consumer.clone());
    fact(
        "key",
        letter
            .key
            .clone()
            .unwrap_or_else(|| "none that could be told".to_owned()),
    );
    fact(
        "reason",
        output::bad(format_args!(
            "{} ({}, {})",
            letter.error, letter.disposition, letter.error_class
        ))
        .to_string(),
    );
    fact(
        "failed",
        format!(
            "first {}, given up {}",
            output::time(letter.first_failed_at),
            output::time(letter.dead_at)
        ),
    );
    fact("attempts", letter.attempts.to_string());
    fact("copy", copy);
    facts.lines().iter().skip(1).for_each(output::line);

    output::line(format_args!("\n{}", output::bold("headers")));
    let mut headers = Table::new(&["", ""]);
    for header in record.headers.iter().flat_map(|headers| headers.iter()) {
        headers.row([output::dim(header.key).to_string(), header_text(header.value)]);
    }
    if headers.is_empty() {
        output::line("none");
    }
    headers.lines().iter().skip(1).for_each(output::line);

    print_value(record.value.as_deref(), said);
    match &shown.changed {
        Some((campaign, Ok(said))) => {
            output::line(format_args!(
                "\n{} by campaign {}/{campaign}; the value above is the original",
                output::bold("changed"),
                id.service
            ));
            output::json(said);
        }
        Some((campaign, Err(why))) => output::line(output::bad(format_args!(
            "\nwhat campaign {}/{campaign} made of it does not decode: {why}",
            id.service
        ))),
        None => {}
    }
    print_history(id.service, &shown.history);
    print_behind(letter, &shown.behind);
}

fn print_history(service: &str, history: &[Step]) {
    output::line(format_args!("\n{}", output::bold("history")));
    let mut table = Table::new(&["at", "what", "campaign", "by", "why"]);
    for step in history {
        let why = match (&step.error_class, &step.error) {
            (Some(class), Some(error)) => format!("{class}: {error}"),
            _ => step.reason.clone().unwrap_or_default(),
        };
        table.row([
            output::time(step.at),
            step.what.clone(),
            step.campaign
                .map_or_else(String::new, |campaign| format!("{service}/{campaign}")),
            step.operator.clone().unwrap_or_default(),
            why,
        ]);
    }
    table.print();
}

fn print_value(value: Option<&[u8]>, said: &Result<Value, String>) {
    let length = value.map_or(0, <[u8]>::len);
    let schema = value
        .and_then(|value| split(value).ok())
        .map(|(id, _)| format!(", schema {id}"))
        .unwrap_or_default();
    output::line(format_args!("\n{} {length} bytes{schema}", output::bold("value")));
    match said {
        Ok(said) => output::json(said),
        Err(why) => {
            output::line(output::bad(format_args!("does not decode: {why}")));
            hexdump::rows(value.unwrap_or_default(), BYTES_SHOWN_MAX).for_each(output::line);
            if length > BYTES_SHOWN_MAX {
                output::line(output::dim(format_args!("… {} more bytes", length - BYTES_SHOWN_MAX)));
            }
        }
    }
}

fn print_behind(letter: &DeadLetter, behind: &[Queued]) {
    if behind.is_empty() {
        output::line(format_args!("\n{}", output::good("nothing waits behind it")));
        return;
    }
    let number = output::counted(letter.waiting.cast_unsigned(), "record");
    output::line(format_args!(
        "\n{}",
        output::bold(format_args!("{number} waiting behind it"))
    ));
    let mut table = Table::new(&["type", ">version", "event", "since"]);
    for queued in behind.iter().take(WAITING_SHOWN_MAX as usize) {
        table.row([
            queued.event_type.clone(),
            queued.stream_version.to_string(),
            queued.event_id.to_string(),
            output::time(queued.parked_at),
        ]);
    }
    table.print();
}

/// A header's value: text if it is, else hexadecimal.
pub(super) fn header_text(value: Option<&[u8]>) -> String {
    match value {
        None => "null".to_owned(),
        Some(value) => match str::from_utf8(value) {
            Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
            _ => format!("0x{}", hex::encode(value)),
        },
    }
}

fn as_json(one: &Shown) -> Value {
    let Shown {
        id,
        letter,
        said,
        behind,
        ..
    } = one;
    let mut shown = match summary(id.service, letter) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let record = &letter.record;
    let headers = record.headers.iter().flat_map(|headers| headers.iter());
    let headers: Vec<Value> = headers
        .map(|header| json!({ "name": header.key, "value": header.value.map(|value| header_text(Some(value))) }))
        .collect();
    shown.insert("headers".to_owned(), headers.into());
    shown.insert(
        "record_key_hex".to_owned(),
        record.key.as_deref().map(hex::encode).into(),
    );
    shown.insert("value_hex".to_owned(), record.value.as_deref().map(hex::encode).into());
    shown.insert("value".to_owned(), said.as_ref().ok().cloned().into());
    shown.insert("does_not_decode".to_owned(), said.as_ref().err().cloned().into());
    let behind: Vec<Value> = behind
        .iter()
        .map(|queued| {
            json!({
                "event_id": queued.event_id, "event_type": queued.event_type, "version": queued.stream_version,
                "partition": queued.partition, "offset": queued.offset, "parked_at": queued.parked_at,
            })
        })
        .collect();
    shown.insert("behind".to_owned(), behind.into());
    let changed = one.changed.as_ref().map(|(campaign, said)| {
        json!({
            "campaign": format!("{}/{campaign}", id.service),
            "value": said.as_ref().ok(), "does_not_decode": said.as_ref().err(),
        })
    });
    shown.insert("changed".to_owned(), changed.into());
    shown.insert("history".to_owned(), history_json(id.service, &one.history));
    shown.into()
}

/// What happened to a letter, for programs.
pub(super) fn history_json(service: &str, history: &[Step]) -> Value {
    let step = |step: &Step| {
        json!({
            "at": step.at, "what": step.what,
            "campaign": step.campaign.map(|campaign| format!("{service}/{campaign}")),
            "operator": step.operator, "reason": step.reason, "attempts": step.attempts,
            "error_class": step.error_class, "error": step.error,
        })
    };
    history.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_text_if_it_can_be() {
        assert_eq!(header_text(Some("payé".as_bytes())), "payé");
        assert_eq!(header_text(Some(b"\xff\x00")), "0xff00");
        assert_eq!(header_text(Some(b"a\nb")), "0x610a62");
        assert_eq!(header_text(None), "null");
    }
}
