//! `rondo replay`: what the log and the event stores make possible after the fact: states as of then, and a database made
//! again.

mod restore;
mod state;
mod totals;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use super::{Target, Verdict};

/// Looking back, and beginning again.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a service's database again from the service's own topic, after the database is gone.
    Restore(restore::Args),
    /// Show an order, a payment or a level of stock as it was.
    State(state::Args),
    /// Show what had been captured and refunded, and what was on the shelves.
    Totals(totals::Args),
}

/// Runs a verb about the past.
///
/// # Errors
/// The target is not usable, or what is asked for is not there.
pub async fn run(command: Command, target: &Target) -> Result<Verdict> {
    match command {
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
