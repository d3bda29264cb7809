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
mod scratch;
mod usage;

mod curve;
mod sweep;

mod replay;
mod story;
mod versus;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, Subcommand};

use super::{Output, Target, Verdict, audit, output};
use endings::Endings;
use load::{Load, Measured, Plan, Shape};
use mix::Mix;
use report::Report;
use usage::Usage;

/// Most orders in flight at once, whichever way they are sent.
const IN_FLIGHT_MAX: i64 = 20_000;
/// How long the last orders are waited for.
const DRAIN: Duration = Duration::from_secs(90);

/// Measuring.
#[derive(ClapArgs, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

/// Other ways to measure.
#[derive(Debug, Subcommand)]
enum Command {
    /// Find the highest rate that is held with its p99 under a bound, and draw the latency curve
    Sweep(sweep::Args),
    /// Measure how fast a service's log is told again, beside a bare consumer of the same topic
    Replay(replay::Args),
    /// Run this system and another's bench in turns, and show the medians side by side
    Versus(versus::Args),
}

/// What one run takes.
#[derive(ClapArgs, Debug)]
struct RunArgs {
    /// Orders in flight: each is placed when one before it has ended (a closed loop).
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=IN_FLIGHT_MAX))]
    in_flight: u32,
    /// Orders a second, placed whether or not others have ended (an open loop); times count from when each was due.
    #[arg(long, value_name = "N", conflicts_with = "in_flight", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    #[command(flatten)]
    goods: Goods,
    /// Seconds before anything counts.
    #[arg(long, default_value_t = 5, value_name = "SECS")]
    warm_up: u64,
    /// Seconds that count.
    #[arg(long, default_value_t = 20, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: u64,
    /// Shows each figure beside that of an earlier run, kept by `--output json`.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

/// What is ordered.
#[derive(ClapArgs, Clone, Copy, Debug)]
struct Goods {
    /// How many in a hundred are of each kind: `declined`, `out_of_stock`, `cancelled` by the customer, and `hot`, which
    /// want one and the same SKU.
    #[arg(long, default_value = "declined=10", value_name = "KIND=N,…")]
    mix: Mix,
    /// SKUs that the orders draw from.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    skus: u32,
    /// Decides what is ordered; the same seed orders the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Sends an `Idempotency-Key` with each order. An order's id is then a hash, and no longer near those of its time in the
    /// indexes.
    #[arg(long)]
    keys: bool,
}

/// Runs the bench.
///
/// # Errors
/// The installation cannot be reached, or its audit fails.
pub async fn run(args: Args, target: &Target) -> Result<Verdict> {
    match args.command {
        None => once(args.run, target).await,
        Some(Command::Sweep(args)) => sweep::run(args, target).await,
        Some(Command::Replay(args)) => replay::run(&args, target).await,
        Some(Command::Versus(args)) => versus::run(args, target).await,
    }
}

async fn once(args: RunArgs, target: &Target) -> Result<Verdict> {
    let before = args.compare.as_deref().map(report::read).transpose()?;
    let shape = match args.rate {
        Some(rate) => Shape::Open { rate },
        None => Shape::Closed {
            in_flight: args.in_flight,
        },
    };
    let bench = Bench::prepare(&args.goods, target).await?;
    let plan = Plan {
        shape,
        warm_up: Duration::from_secs(args.warm_up),
        duration: Duration::from_secs(args.duration),
        drain: DRAIN,
    };
    let measured = bench.measure(plan).await?;
    if measured.sagas() == 0 {
        bail!(
            "no order ended within the {} s that count: {}",
            args.duration,
            measured.why_not()
        );
    }
    bench.prove().await?;
    let report = Report::of(shape, args.goods.mix, &measured);
    match target.output() {
        // One line, so that several runs make one file of lines.
        Output::Json => output::line(serde_json::to_string(&report)?),
        Output::Table => report.print(before.as_ref()),
    }
    Ok(Verdict::of(measured.held()))
}

/// An installation, ready to be measured.
struct Bench<'a> {
    target: &'a Target,
    load: Load,
    usage: Usage,
}

impl<'a> Bench<'a> {
    async fn prepare(goods: &Goods, target: &'a Target) -> Result<Self> {
        let skus = mix::stock(target, goods.skus)
            .await
            .context("the bench's goods could not be stocked")?;
        let endings = Endings::listen(&target.kafka_settings()?).await?;
        let orders = mix::Orders::new(goods.mix, skus, goods.seed);
        Ok(Self {
            target,
            load: Load::new(target, orders, endings, goods.keys)?,
            usage: Usage::of(target).await?,
        })
    }

    async fn measure(&self, plan: Plan) -> Result<Measured> {
        self.load.run(plan, &self.usage).await
    }

    /// The audit, without which there are no figures.
    async fn prove(&self) -> Result<()> {
        let proof = audit::examine(audit::Args::after_a_run(), self.target).await?;
        if proof.is_clean() {
            return Ok(());
        }
        proof.print();
        bail!("the audit found the system wanting: a run that loses or makes something has no figures")
    }
}
