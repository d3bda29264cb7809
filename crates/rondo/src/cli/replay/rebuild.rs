//! `rondo replay rebuild`: the read models of a service, told again from its log while it runs.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use common::model::Model;
use common::replay::{Intent, Rebuild, Watch, drop_old};

use super::{Extent, Service, codec, progress, show, with_model};
use crate::cli::{Target, Verdict, output};

/// What `replay rebuild` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
The rebuilt tables are compared with those of the running service as of one moment, row by row. If nothing differs they take
their place; the old ones stay in the schema rebuild_old until --drop-old. A run that was broken off goes on where it was when
the same command is given again. Exit status: 0 nothing differs, 1 something does.")]
pub struct Args {
    /// Whose read models
    #[arg(long, value_enum)]
    service: Service,
    #[command(flatten)]
    extent: Extent,
    /// Swap if nothing differs; the default
    #[arg(long, conflicts_with_all = ["no_swap", "until"])]
    swap: bool,
    /// Only compare
    #[arg(long)]
    no_swap: bool,
    /// Swap although rows differ: what the log says counts
    #[arg(long, requires = "swap")]
    accept_differences: bool,
    /// Only drop the tables that the last swap has replaced
    #[arg(long, conflicts_with_all = ["swap", "no_swap", "from_offset", "from_datetime", "until", "fresh"])]
    drop_old: bool,
}

/// Rebuilds.
///
/// # Errors
/// Something cannot be read or written.
pub(super) async fn run(args: &Args, target: &Target) -> Result<Verdict> {
    if args.drop_old {
        let service = args.service.name();
        let dropped = drop_old(&target.pool(service)?).await?;
        output::line(match dropped {
            true => format!("the old tables of {service} are dropped"),
            false => format!("there are no old tables of {service}"),
        });
        return Ok(Verdict::Done);
    }
    with_model!(args.service, one(args, target))
}

async fn one<M: Model>(model: M, args: &Args, target: &Target) -> Result<Verdict> {
    let started = Instant::now();
    let mut plan = args.extent.plan::<M>(target)?;
    plan.intent = match (args.no_swap, args.accept_differences) {
        (true, _) => Intent::Compare,
        (false, true) => Intent::SwapAnyway,
        (false, false) => Intent::SwapIfEqual,
    };
    let codec = Arc::new(codec(target, M::NAME).await?);
    let watch = Arc::new(Watch::default());
    let url = plan.database_url.clone();
    let work = Rebuild::run(Arc::new(model), codec, plan, watch.clone());
    let report = progress::shown(watch, work)
        .await
        .with_context(|| format!("the read models of {} cannot be rebuilt", M::NAME))?;
    show::report(&report, started.elapsed(), show::Verb::Rebuild, target.output());
    if report.swapped {
        Rebuild::<M>::told(&url).await?;
    }
    Ok(Verdict::of(report.swapped || (report.is_equal() && !args.swap)))
}
