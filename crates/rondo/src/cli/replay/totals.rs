//! `rondo replay totals`: what had been captured and refunded, and what was on the shelves, as of a moment.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use common::store;
use contracts::payments::Event;
use futures_util::{TryStreamExt as _, pin_mut};
use jiff::Timestamp;
use serde_json::json;

use crate::cli::output::{self, Table};
use crate::cli::target::remember_schemas;
use crate::cli::{Output, Target, Verdict};

/// What moves money.
const TYPES: [&str; 2] = ["PaymentCaptured", "PaymentRefunded"];

/// What `replay totals` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// As of this moment: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = crate::cli::offsets::parse_time)]
    at: Timestamp,
}

/// Minor units by currency.
type Sums = BTreeMap<String, i64>;

/// Shows the totals.
///
/// # Errors
/// The target is not usable.
pub(super) async fn run(args: &Args, target: &Target) -> Result<Verdict> {
    let (captured, refunded) = money(target, args.at).await?;
    let inventory = target.database("inventory").await?;
    let stock: Vec<inventory::http::StockItem> = inventory::store::all_at(&inventory, args.at)
        .await?
        .into_iter()
        .map(inventory::http::StockItem::from)
        .collect();
    if target.output() == Output::Json {
        output::json(&json!({ "at": args.at, "captured": captured, "refunded": refunded, "stock": stock }));
        return Ok(Verdict::Done);
    }
    let mut money = Table::new(&["", ">captured", ">refunded", ">kept"]);
    for (currency, captured) in &captured {
        let refunded = refunded.get(currency).copied().unwrap_or_default();
        let amount = |minor| output::money(minor, currency);
        money.row([
            currency.clone(),
            amount(*captured),
            amount(refunded),
            amount(captured - refunded),
        ]);
    }
    if money.is_empty() {
        output::line("nothing had been captured");
    } else {
        money.print();
    }
    output::line("");
    let mut table = Table::new(&["sku", "name", ">on hand", ">reserved", ">available"]);
    for item in stock {
        let numbers = [item.on_hand, item.reserved, item.available].map(|number| number.to_string());
        table.row([item.sku, item.name].into_iter().chain(numbers));
    }
    table.print();
    Ok(Verdict::Done)
}

/// What was captured and what of it was given back, until `at`. An answer that was given again counts once.
async fn money(target: &Target, at: Timestamp) -> Result<(Sums, Sums)> {
    let (client, codec) = (target.database("payments").await?, target.codec()?);
    remember_schemas(&codec, &client).await?;
    let bar = output::progress(None, "{spinner} {pos} payments  {elapsed}");
    let (mut captured, mut refunded) = (Sums::new(), Sums::new());
    let events = store::firsts(&client, "payments", &TYPES, at).await?;
    pin_mut!(events);
    while let Some(recorded) = events.try_next().await? {
        bar.inc(1);
        let id = recorded.envelope.id;
        let decoded = codec.decode::<Event>(&recorded.payload).await;
        let (sums, minor, currency) = match decoded.with_context(|| format!("event {id} does not decode"))? {
            Event::PaymentCaptured(event) => (&mut captured, event.amount_minor, event.currency),
            Event::PaymentRefunded(event) => (&mut refunded, event.amount_minor, event.currency),
            _ => continue,
        };
        *sums.entry(currency).or_default() += minor;
    }
    bar.finish_and_clear();
    Ok((captured, refunded))
}
