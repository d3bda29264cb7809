//! `rondo orders import`: places every order of a file, each once however often the file is imported.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use common::event::named_id;
use common::http::headers::IDEMPOTENCY_KEY_LENGTH_MAX;
use reqwest::{StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;

use super::import::{self, Line, Outcome, Plan, Try};
use super::{Target, Verdict};

/// How long one request asks the service to hold its answer back.
const WAIT_SECS: u64 = 30;
/// How long an order is waited for in all: longer than its two deadlines together.
const WAIT_IN_ALL: Duration = Duration::from_secs(15 * 60);
/// An order that was there before is answered with this header.
const REPLAYED: &str = "idempotent-replayed";

/// Orders.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Place the orders of an NDJSON file, one a line, each a body of `POST /orders`.
    Import(ImportArgs),
}

/// What `orders import` takes.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The file. Each line's `reference` is its idempotency key, so a second run places nothing twice.
    file: PathBuf,
    /// Most orders being sent at once. With 1 and `--wait`, each has ended before the next is placed.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Wait until each order has ended, and count how.
    #[arg(long)]
    wait: bool,
    /// How long the service may be away before the import gives up.
    #[arg(long, default_value_t = 120, value_name = "SECS")]
    patience: u64,
}

/// Runs a verb about orders.
///
/// # Errors
/// The file cannot be read, or the target is not usable.
pub async fn run(command: Command, target: &Target) -> Result<Verdict> {
    match command {
        Command::Import(args) => import(args, target).await,
    }
}

async fn import(args: ImportArgs, target: &Target) -> Result<Verdict> {
    let url = target
        .http("orders")?
        .join("orders")
        .context("the service's URL cannot hold a path")?;
    let plan = Plan {
        concurrency: args.concurrency.into(),
        patience: Duration::from_secs(args.patience),
    };
    let place = async |line: &Line, _tries| place(target, &url, line, args.wait).await;
    let summary = import::run(&args.file, plan, "order", place).await?;
    summary.print(target.output());
    Ok(Verdict::of(summary.is_well()))
}

/// One line's own part that matters here; the rest goes to the service as it stands.
#[derive(Deserialize)]
struct Keyed {
    reference: Option<String>,
}

/// What the service says of an order that matters here.
#[derive(Deserialize)]
struct Placed {
    status: String,
    reason: Option<String>,
}

impl Placed {
    fn what(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{} ({reason})", self.status),
            None => self.status.clone(),
        }
    }

    /// Whether waiting longer changes nothing.
    fn is_settled(&self) -> bool {
        self.has_ended() || self.status == "stuck"
    }

    fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "cancelled")
    }
}

async fn place(target: &Target, url: &Url, line: &Line, wait: bool) -> Try {
    let key = match key(&line.text) {
        Ok(key) => key,
        Err(why) => return Try::Done(Outcome::Refused(why)),
    };
    let started = Instant::now();
    let mut new = false;
    loop {
        let mut request = target
            .client()
            .post(url.clone())
            .header("idempotency-key", &key)
            .header(header::CONTENT_TYPE, "application/json");
        if wait {
            request = request.header("prefer", format!("wait={WAIT_SECS}"));
        }
        let response = match request.body(line.text.clone()).send().await {
            Ok(response) => response,
            Err(error) => return import::unanswered(&error),
        };
        if !matches!(
            response.status(),
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED
        ) {
            return import::not_taken(response).await;
        }
        new |= !response.headers().contains_key(REPLAYED);
        let placed: Placed = match response.json().await {
            Ok(placed) => placed,
            Err(error) => return import::unanswered(&error),
        };
        // The same request again waits again: it is the same order.
        if wait && !placed.is_settled() && started.elapsed() < WAIT_IN_ALL {
            continue;
        }
        return Try::Done(if wait && !placed.has_ended() {
            Outcome::Unfinished(placed.what())
        } else if new {
            Outcome::Accepted(placed.what())
        } else {
            Outcome::AlreadyThere(placed.what())
        });
    }
}

/// The line's idempotency key: its reference, without which a second run would place the order again.
fn key(line: &str) -> Result<String, String> {
    serde_json::from_str::<IgnoredAny>(line).map_err(|error| format!("not JSON: {error}"))?;
    let keyed: Keyed = serde_json::from_str(line).map_err(|error| format!("not an order: {error}"))?;
    let reference = keyed
        .reference
        .filter(|reference| !reference.is_empty())
        .ok_or("it has no reference, which is its idempotency key: without one a second import would place it twice")?;
    let fits = reference.len() <= IDEMPOTENCY_KEY_LENGTH_MAX
        && reference.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    Ok(if fits {
        reference
    } else {
        // What a header cannot carry is named by its hash: the same each time.
        named_id("reference", &[&reference]).to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_the_key() {
        assert_eq!(
            key(r#"{"reference":"northwind-10248","lines":[]}"#),
            Ok("northwind-10248".to_owned())
        );
        let spaced = key(r#"{"reference":"order no. 7"}"#).unwrap();
        assert_eq!(key(r#"{"reference":"order no. 7"}"#), Ok(spaced.clone()));
        assert!(spaced.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn a_line_that_could_be_placed_twice_is_refused() {
        for line in [r#"{"lines":[]}"#, r#"{"reference":null}"#, r#"{"reference":""}"#] {
            assert!(key(line).is_err_and(|why| why.contains("reference")), "{line}");
        }
        assert!(key("{").is_err_and(|why| why.starts_with("not JSON")));
        assert!(key("7").is_err_and(|why| why.starts_with("not an order")));
    }

    #[test]
    fn a_stuck_order_is_not_waited_for_and_has_not_ended() {
        let stuck = Placed {
            status: "stuck".to_owned(),
            reason: None,
        };
        assert!(stuck.is_settled() && !stuck.has_ended());
    }
}
