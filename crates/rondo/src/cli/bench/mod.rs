//! `rondo bench`: how many orders a running installation brings to their end, and how long each takes.
//!
//! ```text
//!   mix ─► load ─► POST /orders ─► … ─► the log ─► endings ─► load
//!            └─► recorder ─► report ◄─ usage (CPU, commits, rows, WAL)
//! ```
//!
//! A saga counts when it has *ended*, and that is learnt from the stream of events itself: nothing polls. The orders are
//! real ones and stay; the goods are the bench's own. At the end the audit runs, and a run that fails it has no figures.

mod endings;
mod load;
mod mix;

mod recorder;
mod report;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;

use super::{Output, Target, Verdict, audit, output};
use endings::Endings;
use load::{Load, Plan, Shape};
use mix::Mix;
use report::Report;
use usage::Usage;

/// Most orders in flight at once, whichever way they are sent.
const IN_FLIGHT_MAX: i64 = 20_000;
/// How long the last orders are waited for.
const DRAIN: Duration = Duration::from_secs(90);

/// What `bench` takes.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Orders in flight: each is placed when one before it has ended (a closed loop).
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=IN_FLIGHT_MAX))]
    in_flight: u32,
    /// Orders a second, placed whether or not others have ended (an open loop); times count from when each was due.
    #[arg(long, value_name = "N", conflicts_with = "in_flight", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// How many in a hundred are of each kind: `declined`, `out_of_stock`, `cancelled` by the customer, and `hot`, which
    /// want one and the same SKU.
    #[arg(long, default_value = "declined=10", value_name = "KIND=N,…")]
    mix: Mix,
    /// SKUs that the orders draw from.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    skus: u32,
    /// Seconds before anything counts.
    #[arg(long, default_value_t = 5, value_name = "SECS")]
    warm_up: u64,
    /// Seconds that count.
    #[arg(long, default_value_t = 20, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: u64,
    /// Decides what is ordered; the same seed orders the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Shows each figure beside that of an earlier run, kept by `--output json`.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

/// Runs the bench.
///
/// # Errors
/// The installation cannot be reached, or the audit could not be made.
pub async fn run(args: Args, target: &Target) -> Result<Verdict> {
    let before = args.compare.as_deref().map(report::read).transpose()?;
    let shape = match args.rate {
        Some(rate) => Shape::Open { rate },
        None => Shape::Closed {
            in_flight: args.in_flight,
        },
    };
    let goods = mix::stock(target, args.skus)
        .await
        .context("the bench's goods could not be stocked")?;
    let endings = Endings::listen(&target.kafka_settings()?).await?;
    let usage = Usage::of(target).await?;
    let plan = Plan {
        shape,
        warm_up: Duration::from_secs(args.warm_up),
        duration: Duration::from_secs(args.duration),
        drain: DRAIN,
    };
    let orders = mix::Orders::new(args.mix, goods, args.seed);
    let load = Load::new(target, orders, endings)?;
    let measured = load.run(plan, &usage).await?;
    if measured.sagas() == 0 {
        bail!(
            "no order ended within the {} s that count: {}",
            args.duration,
            measured.why_not()
        );
    }
    let proof = audit::examine(audit::Args::after_a_run(), target).await?;
    if !proof.is_clean() {
        proof.print();
        bail!("the audit found the system wanting: a run that loses or makes something has no figures");
    }
    let report = Report::of(shape, args.mix, &measured);
    match target.output() {
        Output::Json => output::json(&report),
        Output::Table => report.print(before.as_ref()),
    }
    Ok(Verdict::of(measured.held()))
}
