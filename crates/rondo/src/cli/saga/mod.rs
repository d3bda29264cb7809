//! `rondo saga`: what has become of orders, and what each waits for.
//!
//! Listings come from the read model; one order is shown from the three event stores themselves.

mod list;

mod show;

mod expectation;
mod timeline;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use orders::store::STATUSES;
use reqwest::StatusCode;
use serde_json::Value;
use uuid::Uuid;

use super::{Output, Target, Verdict, import, output};

/// Sagas.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show one order through all services: what happened and why, what is expected next, and what is overdue.
    Show {
        /// The order's id.
        order_id: Uuid,
    },
    /// List orders, newest first.
    List(ListArgs),
    /// List the orders that wait for a person. Exits 1 if there are any.
    Stuck {
        /// Most orders to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Send a stuck order on: what failed is tried again.
    Resume {
        /// The order's id.
        order_id: Uuid,
    },
}

/// What `saga list` takes.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only orders with this status.
    #[arg(long, value_parser = STATUSES)]
    status: Option<String>,
    /// Most orders to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Runs a verb about sagas.
///
/// # Errors
/// The target is not usable, or there is no such order.
pub async fn run(command: Command, target: &Target) -> Result<Verdict> {
    match command {
        Command::Show { order_id } => show::run(target, order_id).await,
        Command::List(args) => list::all(target, args.status.as_deref(), args.limit.into()).await,
        Command::Stuck { limit } => list::stuck(target, limit.into()).await,
        Command::Resume { order_id } => resume(target, order_id).await,
    }
}

async fn resume(target: &Target, order_id: Uuid) -> Result<Verdict> {
    let url = target.http("orders")?.join(&format!("orders/{order_id}/resume"))?;
    let mut request = target.client().post(url.clone());
    if let Some(token) = target.token()? {
        request = request.bearer_auth(token.expose());
    }
    let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
    let status = response.status();
    let body = response.bytes().await?;
    if status == StatusCode::UNAUTHORIZED {
        bail!("resuming an order needs the operator's token: set RONDO_TOKEN");
    }
    if !status.is_success() {
        bail!("order {order_id} was not resumed: {}", import::problem(status, &body));
    }
    let order: Value = serde_json::from_slice(&body).unwrap_or_default();
    match target.output() {
        Output::Json => output::json(&order),
        Output::Table => output::line(format_args!(
            "{order_id} is {} again; see `rondo saga show {order_id}`",
            output::status(order["status"].as_str().unwrap_or("on its way"))
        )),
    }
    Ok(Verdict::Done)
}
