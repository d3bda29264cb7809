//! `rondo replay state`: one order, payment or level of stock as it was, folded from the events up to a moment.

use anyhow::{Context as _, Result, bail};
use clap::ArgGroup;
use common::codec::Codec;
use common::event::{EventSet, Recorded, StreamId};
use common::model::Model;
use common::store;
use contracts::inventory::SKU_STREAM;
use deadpool_postgres::Client;
use inventory::goods::Sku;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::output::{self, Table};
use crate::cli::target::remember_schemas;
use crate::cli::{Output, Target, Verdict};

/// What `replay state` takes.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("of").required(true).args(["order", "sku", "payment"])))]
#[command(group(ArgGroup::new("as_of").args(["at", "at_version"])))]
pub struct Args {
    /// An order.
    #[arg(long, value_name = "ID")]
    order: Option<Uuid>,
    /// How much there was of these goods, under the name and price that they have now.
    #[arg(long, value_name = "SKU")]
    sku: Option<String>,
    /// The payment of an order.
    #[arg(long, value_name = "ORDER_ID")]
    payment: Option<Uuid>,
    /// As of this moment: 2026-01-31T12:00:00Z; now if absent.
    #[arg(long, value_name = "TIME", value_parser = crate::cli::offsets::parse_time)]
    at: Option<Timestamp>,
    /// As of this version of its stream. The versions of goods are their counts and receipts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    at_version: Option<i64>,
}

/// A state, and as of which event.
struct Found {
    version: i64,
    changed_at: Option<Timestamp>,
    state: Value,
}

/// Shows the state.
///
/// # Errors
/// The target is not usable, or there was nothing then.
pub(super) async fn run(args: &Args, target: &Target) -> Result<Verdict> {
    let (what, found) = match (args.order, &args.sku, args.payment) {
        (Some(id), ..) => ("order", order(target, id, args).await?),
        (_, Some(sku), _) => ("stock", stock(target, sku, args).await?),
        (.., Some(id)) => ("payment", payment(target, id, args).await?),
        _ => unreachable!("one of them is required"),
    };
    match target.output() {
        Output::Json => output::json(&json!({
            "at": args.at, "version": found.version, "changed_at": found.changed_at, what: found.state,
        })),
        Output::Table => {
            let mut table = Table::new(&["field", "value"]);
            for (field, value) in found.state.as_object().into_iter().flatten() {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                table.row([field.clone(), text]);
            }
            table.print();
            let changed = found
                .changed_at
                .map_or_else(String::new, |at| format!(", of {}", output::time(at)));
            output::line(output::dim(format_args!("version {}{changed}", found.version)));
        }
    }
    Ok(Verdict::Done)
}

/// The events of a stream up to what was asked for.
async fn history(client: &Client, service: &str, stream: &StreamId, args: &Args) -> Result<Vec<Recorded>> {
    let mut history = store::load_until(client, service, stream, args.at).await?;
    if let Some(version) = args.at_version {
        let last = history.last().map_or(0, |last| last.envelope.stream_version);
        if last < version {
            bail!("{service} has {last} versions of {}, not {version}", stream.key());
        }
        history.retain(|recorded| recorded.envelope.stream_version <= version);
    }
    if history.is_empty() {
        let when = args.at.map_or_else(String::new, |at| format!(" at {at}"));
        bail!("{service} knew nothing of {}{when}", stream.key());
    }
    Ok(history)
}

/// What `model` makes of a history.
async fn fold<M: Model>(model: &M, codec: &Codec, history: &[Recorded]) -> Result<M::State> {
    let mut state = M::State::default();
    for recorded in history {
        let event = codec
            .decode::<M::Event>(&recorded.payload)
            .await
            .with_context(|| format!("event {} of {} does not decode", recorded.envelope.id, M::Event::TOPIC))?;
        model.evolve(&mut state, &event, &recorded.envelope);
    }
    Ok(state)
}

fn found(history: &[Recorded], state: Value) -> Found {
    let last = history.last();
    Found {
        version: last.map_or(0, |last| last.envelope.stream_version),
        changed_at: last.map(|last| last.envelope.occurred_at),
        state,
    }
}

/// The database of `service`, and a codec that knows its schemas.
async fn reading(target: &Target, service: &str) -> Result<(Client, Codec)> {
    let (client, codec) = (target.database(service).await?, target.codec()?);
    remember_schemas(&codec, &client).await?;
    Ok((client, codec))
}

async fn order(target: &Target, id: Uuid, args: &Args) -> Result<Found> {
    let (client, codec) = reading(target, "orders").await?;
    let history = history(&client, "orders", &StreamId::new(id.to_string()), args).await?;
    let model = orders::service::Orders::new(orders::waiting::Endings::new(0));
    let state = fold(&model, &codec, &history).await?;
    let order = state.context("the order has events, but none that places it")?;
    let version = history.last().map_or(0, |last| last.envelope.stream_version);
    let view = orders::http::OrderView::new(orders::domain::OrderId(id), &order, version);
    Ok(found(&history, serde_json::to_value(view)?))
}

async fn payment(target: &Target, id: Uuid, args: &Args) -> Result<Found> {
    let (client, codec) = reading(target, "payments").await?;
    let stream = StreamId::new(id.to_string());
    let history = history(&client, "payments", &stream, args).await?;
    let state = fold(&payments::Payments, &codec, &history).await?;
    let last = history.last().expect("a history that is empty was refused");
    let view = payments::http::Payment::from(payments::store::Entry {
        order_id: id.to_string(),
        ledger: payments::store::Ledger::of(&state),
        version: last.envelope.stream_version,
        updated_at: last.envelope.occurred_at,
    });
    Ok(found(&history, serde_json::to_value(view)?))
}

/// Goods are moved by events of orders too, so their state is the sum of all movements up to then.
async fn stock(target: &Target, text: &str, args: &Args) -> Result<Found> {
    let sku = Sku::parse(text).with_context(|| format!("{text} is no SKU"))?;
    let client = target.database("inventory").await?;
    let stream = StreamId::of_kind(SKU_STREAM, sku.as_str());
    let history = history(&client, "inventory", &stream, args).await?;
    let item = match args.at_version {
        None => inventory::store::find_at(&client, &sku, args.at.unwrap_or(Timestamp::MAX)).await?,
        Some(_) => {
            let last = history.last().expect("a history that is empty was refused");
            inventory::store::find_at_position(&client, &sku, last.envelope.position).await?
        }
    };
    let item = item.with_context(|| format!("{sku} was not stocked then"))?;
    Ok(found(
        &history,
        serde_json::to_value(inventory::http::StockItem::from(item))?,
    ))
}
