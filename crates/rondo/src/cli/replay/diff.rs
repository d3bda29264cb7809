//! `rondo replay diff`: what this build, or another one, would make of the log, beside what the running service has.
//!
//! Nothing is swapped, published or asked of anybody: the log is folded into tables of a schema of its own, in the shape that
//! the build's own migrations give them, and these are dropped at the end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use common::model::Model;
use common::replay::{Intent, Rebuild, Watch};
use tokio::process::Command;

use super::{Extent, Service, codec, progress, show, with_model};
use crate::cli::{GlobalArgs, Output, Target, Verdict};
use crate::init::migrations_of;

/// What `replay diff` takes.
#[derive(clap::Args, Debug)]
#[group(id = "whose", required = true, multiple = false, args = ["candidate", "with"])]
#[command(after_help = "Exit status: 0 nothing would change, 1 something would.")]
pub struct Args {
    /// Whose read models
    #[arg(long, value_enum)]
    service: Service,
    /// Fold with the code of this very binary
    #[arg(long)]
    candidate: bool,
    /// Have another build of rondo do it, and show what it says
    #[arg(long, value_name = "BINARY")]
    with: Option<PathBuf>,
    #[command(flatten)]
    extent: Extent,
}

/// Compares.
///
/// # Errors
/// Something cannot be read, or the other binary does not answer.
pub(super) async fn run(args: &Args, global: &GlobalArgs, target: &Target) -> Result<Verdict> {
    if let Some(binary) = &args.with {
        return other(binary, args, global).await;
    }
    with_model!(args.service, one(args, target))
}

async fn one<M: Model>(model: M, args: &Args, target: &Target) -> Result<Verdict> {
    let started = Instant::now();
    let mut plan = args.extent.plan::<M>(target)?;
    plan.intent = Intent::Candidate;
    plan.migrations = Some(migrations_of(M::NAME));
    let codec = Arc::new(codec(target, M::NAME).await?);
    let watch = Arc::new(Watch::default());
    let work = Rebuild::run(Arc::new(model), codec, plan, watch.clone());
    let report = progress::shown(watch, work)
        .await
        .with_context(|| format!("the log of {} cannot be folded with this build", M::NAME))?;
    show::report(&report, started.elapsed(), show::Verb::Diff, target.output());
    Ok(Verdict::of(report.is_equal()))
}

/// Runs the other build against the same installation; its output and its exit status are ours.
async fn other(binary: &Path, args: &Args, global: &GlobalArgs) -> Result<Verdict> {
    let shown = binary.display();
    let answer = Command::new(binary)
        .args(["replay", "diff", "--help"])
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("{shown} cannot be run; name an executable rondo"))?;
    if !answer.status.success() || !String::from_utf8_lossy(&answer.stdout).contains("--candidate") {
        bail!("{shown} knows no `replay diff --candidate`; it is no rondo, or one from before there was this verb");
    }
    let mut command = Command::new(binary);
    command.args(["replay", "diff", "--candidate", "--service", args.service.name()]);
    let extent = &args.extent;
    if extent.source == super::Source::Store {
        command.args(["--source", "store"]);
    }
    if let Some(offset) = extent.from_offset {
        command.arg("--from-offset").arg(offset.to_string());
    }
    for (option, at) in [("--from-datetime", extent.from_datetime), ("--until", extent.until)] {
        if let Some(at) = at {
            command.arg(option).arg(at.to_string());
        }
    }
    command.arg("--show").arg(extent.show.to_string());
    command
        .arg("--streams-in-memory")
        .arg(extent.streams_in_memory.to_string());
    if extent.fresh {
        command.arg("--fresh");
    }
    if let Some(directory) = &global.data_dir {
        command.arg("--data-dir").arg(directory);
    }
    if global.output == Output::Json {
        command.args(["--output", "json"]);
    }
    let status = command
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("{shown} cannot be run"))?;
    match status.code() {
        Some(0) => Ok(Verdict::Done),
        Some(1) => Ok(Verdict::Wanting),
        // Its usage errors are ours; what it has to say it has said.
        Some(code) => std::process::exit(code),
        None => bail!("{shown} was ended by a signal"),
    }
}
