//! `rondo replay`: what the log and the event stores make possible after the fact: read models told again, a
//! database made again, states as they were.

mod diff;
pub(in crate::cli) mod progress;
mod rebuild;
mod restore;
mod show;
mod state;
mod totals;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use common::codec::Codec;
use common::model::Model;
use common::replay::{From, Input, Plan, STREAMS_OPEN_MAX};
use jiff::Timestamp;

use super::target::remember_schemas;
use super::{GlobalArgs, Target, Verdict};

/// Telling the log again, and looking back.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a service's read models again from its log, prove them equal to the ones it has, and put them in their place
    Rebuild(rebuild::Args),
    /// Show what another build, or this one, would make of the log: what would a release change?
    Diff(diff::Args),
    /// Make a service's database again from the service's own topic, after the database is gone
    Restore(restore::Args),
    /// Show an order, a payment or a level of stock as it was
    State(state::Args),
    /// Show what had been captured and refunded, and what was on the shelves
    Totals(totals::Args),
}

/// Runs a replay.
///
/// # Errors
/// The target is not usable, or something cannot be read.
pub async fn run(command: Command, global: &GlobalArgs, target: &Target) -> Result<Verdict> {
    match command {
        Command::Rebuild(args) => rebuild::run(&args, target).await,
        Command::Diff(args) => diff::run(&args, global, target).await,
        Command::Restore(args) => restore::run(&args, target).await,
        Command::State(args) => state::run(&args, target).await,
        Command::Totals(args) => totals::run(&args, target).await,
    }
}

/// The services that have a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Service {
    Orders,
    Payments,
    Inventory,
}

impl Service {
    /// As everywhere.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Payments => "payments",
            Self::Inventory => "inventory",
        }
    }
}

/// Runs a generic function with the model of a service: `with_model!(service, run(args, target))` calls
/// `run(model, args, target)`.
macro_rules! with_model {
    ($service:expr, $run:ident($($argument:expr),*)) => {
        match $service {
            $crate::cli::replay::Service::Orders => {
                $run(orders::service::Orders::new(orders::waiting::Endings::new(0)), $($argument),*).await
            }
            $crate::cli::replay::Service::Payments => $run(payments::Payments, $($argument),*).await,
            $crate::cli::replay::Service::Inventory => $run(inventory::Inventory, $($argument),*).await,
        }
    };
}
pub(in crate::cli) use with_model;

/// Where events are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Source {
    /// The service's own topic
    #[default]
    Topic,
    /// The table `events` of its database
    Store,
}

/// What is read of the log.
#[derive(Args, Clone, Debug)]
struct Extent {
    /// Where events are read from
    #[arg(long, value_enum, default_value_t)]
    source: Source,
    /// Read everything that is kept; the default
    #[arg(long, conflicts_with_all = ["from_offset", "from_datetime"])]
    from_earliest: bool,
    /// Begin with this offset of each partition (with --source store: this position), and compare only the rows of streams
    /// that have an event from there on
    #[arg(long, value_name = "N", conflicts_with = "from_datetime", value_parser = clap::value_parser!(i64).range(0..))]
    from_offset: Option<i64>,
    /// The same from the first event of this moment or later, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "RFC3339")]
    from_datetime: Option<Timestamp>,
    /// End with the last event of this moment or before, and compare only the rows of streams that have not gone on since;
    /// the default is now, and what comes until the verdict
    #[arg(long, value_name = "RFC3339")]
    until: Option<Timestamp>,
    /// Streams whose state is kept in memory; those that go on after they were let go are told again at the end
    #[arg(long, value_name = "N", default_value_t = STREAMS_OPEN_MAX, value_parser = streams_in_memory)]
    streams_in_memory: usize,
    /// Differences shown of each table; all are counted
    #[arg(long, value_name = "N", default_value_t = 10)]
    show: usize,
    /// Begin anew, even if an earlier run was broken off
    #[arg(long)]
    fresh: bool,
}

fn streams_in_memory(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 2..=10_000_000) => Ok(number),
        _ => Err("write a number from 2 to 10000000".to_owned()),
    }
}

impl Extent {
    fn from(&self) -> From {
        match (self.from_offset, self.from_datetime) {
            (Some(offset), _) => From::Offset(offset),
            (None, Some(at)) => From::Time(at),
            (None, None) => From::Earliest,
        }
    }

    /// The plan for `M`, but for what is to become of the tables.
    fn plan<M: Model>(&self, target: &Target) -> Result<Plan> {
        let input = match self.source {
            Source::Store => Input::Store,
            Source::Topic => {
                let kafka = target.kafka_settings()?;
                let topic = Plan::topic_of::<M>(&kafka);
                Input::Topic { kafka, topic }
            }
        };
        Ok(Plan {
            database_url: target.database_url(M::NAME)?,
            input,
            from: self.from(),
            until: self.until,
            cutoff: None,
            intent: common::replay::Intent::Compare,
            migrations: None,
            streams_max: self.streams_in_memory,
            fingerprint: fingerprint(),
            fresh: self.fresh,
            shown_max: self.show,
        })
    }
}

/// A codec that reads everything this service has ever written, also while the registry is away.
pub(in crate::cli) async fn codec(target: &Target, service: &str) -> Result<Codec> {
    let codec = target.codec()?;
    remember_schemas(&codec, &target.database(service).await?).await?;
    Ok(codec)
}

/// Tells this build from others: a run that was broken off is resumed by the code that began it.
pub(in crate::cli) fn fingerprint() -> String {
    let file = std::env::current_exe().and_then(std::fs::metadata);
    let built = file.map(|file| {
        let modified = file
            .modified()
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        format!("{} {}", file.len(), modified.unwrap_or_default().as_nanos())
    });
    format!("{} {}", env!("CARGO_PKG_VERSION"), built.unwrap_or_default())
}
