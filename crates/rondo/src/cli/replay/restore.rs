//! `rondo replay restore`: a service's database is gone, and is made again from the service's own topic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use common::event::EventSet as _;
use common::model::Model;
use common::replay::Watch;
use common::replay::restore::{self, Error, Options, Report};
use common::{kafka, pg};
use deadpool_postgres::Pool;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Service, progress, with_model};
use crate::cli::output;
use crate::cli::{Output, Target, Verdict};
use crate::{init, system};

/// How long connections of others may take to end.
const IN_USE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often to look whether they have.
const IN_USE_POLL: Duration = Duration::from_millis(200);

/// What `replay restore` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Whose database is gone.
    #[arg(long, value_enum)]
    service: Service,
    /// Go on although the log lacks events of some streams.
    #[arg(long)]
    accept_gaps: bool,
}

/// Restores the database, whose name the environment says and which must be there and empty.
///
/// # Errors
/// It is not empty, a copy of the service runs, or the log is not whole.
pub(super) async fn run(args: &Args, target: &Target) -> Result<Verdict> {
    let options = Options {
        accept_gaps: args.accept_gaps,
    };
    with_model!(args.service, one(options, target))
}

async fn one<M: Model>(model: M, options: Options, target: &Target) -> Result<Verdict> {
    let (service, started) = (M::NAME, Instant::now());
    let settings = target.kafka_settings()?;
    nobody_runs(&settings, service).await?;
    let url = target.database_url(service)?;
    let pool = target.pool(service)?;
    not_in_use(&pool, service).await?;
    init::database(service, &url).await?;

    let stop = CancellationToken::new();
    let stopper = stop.clone();
    let listening = tokio::spawn(async move {
        system::asked_to_stop().await;
        stopper.cancel();
    });
    let source = restore::Source {
        model: Arc::new(model),
        codec: Arc::new(target.codec()?),
        topic: settings.named(M::Event::TOPIC),
        kafka: &settings,
        database_url: &url,
    };
    let watch = Arc::new(Watch::default());
    let restored = progress::shown(watch.clone(), restore::restore(source, options, &stop, watch)).await;
    listening.abort();
    let report = match restored {
        Ok(report) => report,
        Err(error @ (Error::NotEmpty | Error::Holes { .. } | Error::Stopped)) => {
            eprintln!("{service}: {error}");
            return Ok(Verdict::Wanting);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("the database of {service} is not restored; run this again"));
        }
    };
    print(service, &report, started, target.output());
    Ok(Verdict::Done)
}

/// Refuses while Kafka shows a member of the group: it would consume into a database that is half there.
async fn nobody_runs(settings: &kafka::Settings, service: &str) -> Result<()> {
    let group = settings.named(service);
    let members = kafka::Client::new(settings)?
        .group(&group)
        .await?
        .map_or_else(Vec::new, |group| group.members);
    if !members.is_empty() {
        bail!(
            "{service} is running: group {group} has {}. Stop all copies first; of one that was killed the broker learns \
             after its session timeout, 10 seconds",
            members.join(", ")
        );
    }
    Ok(())
}

/// Refuses while another process of ours is connected, such as a copy that did not notice that its database is a new one.
async fn not_in_use(pool: &Pool, service: &str) -> Result<()> {
    let client = pool.get().await.with_context(|| {
        format!("the database of {service} cannot be reached; it must be there, and empty: CREATE DATABASE")
    })?;
    // Of a run that was killed the server learns in a moment.
    let patience = Instant::now() + IN_USE_WAIT_MAX;
    loop {
        let others = pg::others(&client).await?;
        if others == 0 {
            return Ok(());
        }
        if Instant::now() >= patience {
            let connections = output::counted(others.unsigned_abs(), "connection");
            bail!(
                "{service} is running on this database ({connections}), and nothing was changed: stop all copies first"
            );
        }
        tokio::time::sleep(IN_USE_POLL).await;
    }
}

fn print(service: &str, report: &Report, started: Instant, output: Output) {
    let elapsed = started.elapsed();
    let per_second = report.events as f64 / elapsed.as_secs_f64().max(0.001);
    if output == Output::Json {
        output::json(&json!({
            "service": service, "events": report.events, "last_position": report.last_position,
            "repeated_records": report.repeated, "foreign_records": report.foreign, "streams_with_gaps": report.holes,
            "resumed": report.resumed, "elapsed_ms": elapsed.as_millis() as u64, "per_second": per_second.round(),
        }));
        return;
    }
    let events = output::counted(report.events.unsigned_abs(), "event");
    output::line(format!(
        "{} {service} is restored from its topic: {events}, up to position {}, in {} ({} a second)",
        output::good("✓"),
        report.last_position,
        output::span(elapsed.as_millis() as i64),
        output::count(per_second as u64),
    ));
    if report.repeated + report.foreign > 0 {
        output::line(format!(
            "  {} repeated an event and {} were no events of this service",
            output::counted(report.repeated, "record"),
            output::counted(report.foreign, "record"),
        ));
    }
    if report.holes > 0 {
        let streams = output::counted(report.holes, "stream");
        output::line(output::warn(format!("! {streams} lack events, as was accepted")));
    }
    output::line("! what was committed and not yet published when the database went is lost with it");
    output::line("  start the service: it reads its inputs from their beginning and repeats no effect");
}
