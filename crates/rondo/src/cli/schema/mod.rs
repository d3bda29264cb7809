//! `rondo schema`: the contracts as files, in the registry and in the bytes.
//!
//! ```text
//!  schemas/ or this build ─► Catalogue ─► judge (pure) ─► check, diff
//!                                   └───► registry: register, list, show, download, check --registry
//!                                   └───► topics, event stores, dead letters: check --bytes
//! ```
//!
//! What needs no server asks for none, so that a pipeline can run it on a directory. Only `register --execute` changes
//! anything.

mod bytes;
mod catalogue;
mod check;
mod diff;
mod download;
mod judge;
mod registered;
mod sources;

use anyhow::Result;
use clap::Subcommand;

use super::{GlobalArgs, Verdict};

/// Schemas.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold every version of every schema against all earlier ones; and against the registry, and the bytes that are there.
    Check(check::Args),
    /// Say in words what changed between two versions, and who is deployed first.
    Diff(diff::Args),
    /// Register what the registry does not have. Shows what would be done; `--execute` does it.
    Register(registered::RegisterArgs),
    /// List what the registry has: subjects, versions, ids, levels.
    List,
    /// Show one schema of the registry.
    Show(registered::ShowArgs),
    /// Write the registry's schemas to files, named as in schemas/.
    Download(download::Args),
}

/// Runs a verb about schemas.
///
/// # Errors
/// The files cannot be read, or the target is not usable.
pub async fn run(command: Command, global: &GlobalArgs) -> Result<Verdict> {
    match command {
        Command::Check(args) => check::run(&args, global).await,
        Command::Diff(args) => diff::run(&args, global.output),
        Command::Register(args) => registered::register(&args, global).await,
        Command::List => registered::list(global).await,
        Command::Show(args) => registered::show(&args, global).await,
        Command::Download(args) => download::run(&args, global).await,
    }
}
