//! `rondo inventory import`: sets the level of every SKU of a file; a second run changes nothing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use common::config::Secret;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::import::{self, Line, Outcome, Plan, Try};
use super::{Target, Verdict};

/// Stock.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set the stock to what an NDJSON file says: `{"sku","name","on_hand","unit_price_minor"}` a line.
    Import(ImportArgs),
}

/// What `inventory import` takes.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The file.
    file: PathBuf,
    /// Most SKUs being set at once.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// How long the service may be away before the import gives up.
    #[arg(long, default_value_t = 120, value_name = "SECS")]
    patience: u64,
    /// Stock only what is not stocked yet; goods that are keep their level.
    #[arg(long)]
    only_new: bool,
}

/// Runs a verb about stock.
///
/// # Errors
/// The file cannot be read, or the target is not usable.
pub async fn run(command: Command, target: &Target) -> Result<Verdict> {
    match command {
        Command::Import(args) => import(args, target).await,
    }
}

async fn import(args: ImportArgs, target: &Target) -> Result<Verdict> {
    let base = target
        .http("inventory")?
        .join("inventory/")
        .context("the service's URL cannot hold a path")?;
    let token = target.token()?;
    let plan = Plan {
        concurrency: args.concurrency.into(),
        patience: Duration::from_secs(args.patience),
    };
    let set = async |line: &Line, _tries| set(target, &base, token.as_ref(), args.only_new, line).await;
    let summary = import::run(&args.file, plan, "SKU", set).await?;
    summary.print(target.output());
    Ok(Verdict::of(summary.is_well()))
}

/// One line: its SKU goes into the path, the rest to the service as it stands.
#[derive(Deserialize)]
struct Count {
    sku: String,
    #[serde(flatten)]
    found: Map<String, Value>,
}

async fn set(target: &Target, base: &Url, token: Option<&Secret>, only_new: bool, line: &Line) -> Try {
    let count: Count = match serde_json::from_str(&line.text) {
        Ok(count) => count,
        Err(error) => return Try::Done(Outcome::Refused(format!("not a line of stock: {error}"))),
    };
    let url = url(base, &count.sku);
    if only_new {
        match target.client().get(url.clone()).send().await {
            Err(error) => return import::unanswered(&error),
            Ok(response) => match response.status() {
                StatusCode::OK => return Try::Done(Outcome::AlreadyThere("kept".to_owned())),
                StatusCode::NOT_FOUND => {}
                _ => return import::not_taken(response).await,
            },
        }
    }
    let mut request = target.client().put(url).json(&count.found);
    if let Some(token) = token {
        request = request.bearer_auth(token.expose());
    }
    match request.send().await {
        Err(error) => import::unanswered(&error),
        Ok(response) => match response.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                Try::Done(Outcome::Accepted("set".to_owned()))
            }
            StatusCode::UNAUTHORIZED => Try::Done(Outcome::Refused(
                "401 setting stock needs the operator's token: set RONDO_TOKEN".to_owned(),
            )),
            _ => import::not_taken(response).await,
        },
    }
}

/// `base` with the SKU as one more segment, whatever it holds.
fn url(base: &Url, sku: &str) -> Url {
    let mut url = base.clone();
    url.path_segments_mut()
        .expect("a URL that a path was joined to can hold one")
        .pop_if_empty()
        .push(sku);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sku_is_one_segment_of_the_path_whatever_it_holds() {
        let base: Url = "http://127.0.0.1:8083/inventory/".parse().unwrap();
        assert_eq!(url(&base, "NW-001").as_str(), "http://127.0.0.1:8083/inventory/NW-001");
        assert_eq!(
            url(&base, "a/b c").as_str(),
            "http://127.0.0.1:8083/inventory/a%2Fb%20c"
        );
    }
}
