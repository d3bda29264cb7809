//! `rondo dlq`: what no consumer could handle, what waits because of it, and what is decided about it.
//!
//! ```text
//!   list, show, export ─► read the services' databases
//!   redrive, skip, discard ─► write a campaign ─► the running service works it off ─► watched here, or not
//! ```
//!
//! The rows of the services' databases are the truth; ids carry the service, as `orders/12`.

mod campaigns;
mod decide;
mod diff;
mod export;
mod hexdump;
mod id;
mod list;
mod redrive;
mod selection;
mod show;
mod transform;
mod work;

pub use id::LetterId;

use anyhow::Result;
use clap::Subcommand;

use super::{Target, Verdict};

/// Dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List dead letters of all services, newest first, and the keys that are being tried again.
    List(list::Args),
    /// Show dead letters: what each says or why it says nothing, its headers, its history, and who waits behind it.
    Show(show::Args),
    /// Send dead letters back to the consumer that failed, at the head of their keys.
    Redrive(redrive::Args),
    /// Let dead letters go as done: somebody has done by hand what they ask for. Their keys go on.
    Skip(decide::Args),
    /// Let dead letters go for good: they shall never take effect. Their keys go on.
    Discard(decide::Args),
    /// Write dead letters to a file or stdout, whole, a line of JSON each.
    Export(export::Args),
    /// List what was decided, show one decision with what became of each record, or pause, resume or cancel it.
    Campaigns(campaigns::Args),
}

/// Runs a verb about dead letters.
///
/// # Errors
/// The target is not usable, or there is no such dead letter or campaign.
pub async fn run(command: Command, target: &Target) -> Result<Verdict> {
    match command {
        Command::List(args) => list::run(target, &args).await,
        Command::Show(args) => show::run(target, &args).await,
        Command::Redrive(args) => redrive::run(target, args).await,
        Command::Skip(args) => decide::run(target, common::campaigns::Kind::Skip, args).await,
        Command::Discard(args) => decide::run(target, common::campaigns::Kind::Discard, args).await,
        Command::Export(args) => export::run(target, &args).await,
        Command::Campaigns(args) => campaigns::run(target, args).await,
    }
}
