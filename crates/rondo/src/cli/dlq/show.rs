//! `rondo dlq show`: one dead letter, as its writer meant it if that can be told, else byte by byte.

use anyhow::{Context as _, Result};
use common::codec::{Codec, split};
use common::parking::{self, DeadLetter, Queued};
use rdkafka::message::Headers as _;
use serde_json::{Map, Value, json};

use super::{LetterId, hexdump, summary};
use crate::cli::output::{self, Table};
use crate::cli::target::remember_schemas;
use crate::cli::{Output, Target, Verdict};

/// How many bytes of a value that does not decode are shown.
const BYTES_SHOWN_MAX: usize = 256;
/// How many of those that wait behind it are shown.
const WAITING_SHOWN_MAX: i64 = 20;

/// Shows the dead letter `id`.
pub(super) async fn run(target: &Target, id: LetterId) -> Result<Verdict> {
    let client = target.database(id.service).await?;
    let codec = target.codec()?;
    remember_schemas(&codec, &client).await?;
    let letter = parking::dead_letter(&client, id.row)
        .await?
        .with_context(|| format!("there is no dead letter {id}; `rondo dlq list --all` lists those there are"))?;
    let said = said(&codec, &letter).await;
    let waiting = match &letter.key {
        Some(key) => {
            parking::queue(
                &client,
                &letter.consumer,
                &letter.record.topic,
                key,
                WAITING_SHOWN_MAX + 1,
            )
            .await?
        }
        None => Vec::new(),
    };
    let behind: Vec<Queued> = waiting
        .into_iter()
        .filter(|queued| Some(queued.event_id) != letter.event_id)
        .collect();
    match target.output() {
        Output::Json => output::json(&as_json(id, &letter, &said, &behind)),
        Output::Table => print(id, &letter, &said, &behind),
    }
    Ok(Verdict::Done)
}

/// What the value says, or why it cannot be told.
async fn said(codec: &Codec, letter: &DeadLetter) -> Result<Value, String> {
    let value = letter.record.value.as_deref().unwrap_or_default();
    codec.to_json(value).await.map_err(|error| parking::chain(&error))
}

fn print(id: LetterId, letter: &DeadLetter, said: &Result<Value, String>, behind: &[Queued]) {
    let record = &letter.record;
    let what = letter.event_type.as_deref().unwrap_or("a record of unknown type");
    output::line(format_args!("{}  {what}, {}", output::bold(id), letter.status));
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
    print_behind(letter, behind);
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
fn header_text(value: Option<&[u8]>) -> String {
    match value {
        None => "null".to_owned(),
        Some(value) => match str::from_utf8(value) {
            Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
            _ => format!("0x{}", hex::encode(value)),
        },
    }
}

fn as_json(id: LetterId, letter: &DeadLetter, said: &Result<Value, String>, behind: &[Queued]) -> Value {
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
    shown.into()
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
