//! `rondo serve`: services of a deployment in one process, one or several, until they are told to stop.

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use common::config::{Environment, HttpConfig, database_url};
use common::http::server;
use common::telemetry::Level;
use common::{pg, telemetry};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::output;
use crate::system::{self, Part};

/// Connections of the registry to its database.
const REGISTRY_POOL_SIZE: usize = 8;
/// How long requests that are under way may take at a stop.
pub const DRAIN_SECS: u64 = 20;

/// What can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// Takes orders and decides what becomes of them (port 8080).
    Orders,
    /// Holds, takes and gives back money (port 8082).
    Payments,
    /// Sets goods aside, lets them leave, takes them back (port 8083).
    Inventory,
    /// A Confluent-compatible schema registry (port 8081).
    Registry,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Payments => "payments",
            Self::Inventory => "inventory",
            Self::Registry => "registry",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Orders => 8080,
            Self::Payments => 8082,
            Self::Inventory => 8083,
            Self::Registry => 8081,
        }
    }
}

/// Serves `services` as the environment says, on one HTTP port: that of the first. When one of them ends, all do.
///
/// # Errors
/// One cannot start, or a part of one failed. Services that do not go together are wrong usage, which ends the process.
pub async fn run(services: &[Service]) -> Result<()> {
    let first = check(services).unwrap_or_else(|why| output::refuse(&why));
    let environment = Environment::of_process();
    let _telemetry = telemetry::init(if services.len() == 1 { first.name() } else { "rondo" }, Level::INFO);
    telemetry::metrics();
    let shutdown = CancellationToken::new();
    let config = HttpConfig::read(&environment, first.port())?;
    let listener = TcpListener::bind(config.address).await.with_context(|| {
        format!(
            "cannot listen on {}; RONDO_HTTP_ADDRESS names another address",
            config.address
        )
    })?;
    let stopper = shutdown.clone();
    tokio::spawn(async move {
        system::asked_to_stop().await;
        tracing::info!("stopping");
        stopper.cancel();
    });
    let drain = std::time::Duration::from_secs(DRAIN_SECS);
    if first == Service::Registry {
        let url = database_url(&environment, first.name())?;
        let starting = async {
            crate::init::registry_database(url.expose()).await?;
            anyhow::Ok(pg::connect(url.expose(), REGISTRY_POOL_SIZE).await?)
        };
        let Some(pool) = shutdown.run_until_cancelled(starting).await.transpose()? else {
            return Ok(());
        };
        let app = registry::router(pool).merge(server::metrics_route(telemetry::metrics()));
        return Ok(server::serve(listener, app, &config, shutdown, drain).await?);
    }
    let mut parts = Vec::new();
    for service in services {
        // A stop does not wait for a database or a registry that keeps the start waiting; nothing has been taken on yet.
        let starting = system::start(service.name(), &environment, &shutdown);
        match shutdown.run_until_cancelled(starting).await {
            Some(Ok(part)) => parts.push(part),
            failed_or_stopped => {
                shutdown.cancel();
                let ended = all_ended(parts, &shutdown).await;
                return failed_or_stopped.map_or(ended, |failed| failed.map(drop));
            }
        }
    }
    let app = system::app(&mut parts, &config, &shutdown);
    let serving = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { server::serve(listener, app, &config, shutdown, drain).await }
    });
    let ended = all_ended(parts, &shutdown).await;
    shutdown.cancel();
    serving.await.context("the HTTP server panicked")??;
    ended
}

/// The first of `services`, if they can run in one process; else why not.
fn check(services: &[Service]) -> Result<Service, String> {
    let [first, others @ ..] = services else {
        return Err("no service is named".to_owned());
    };
    let mut named = services.iter().enumerate();
    if let Some((_, twice)) = named.find(|(at, service)| services[..*at].contains(service)) {
        let name = twice.name();
        return Err(format!("{name} is named twice; a second copy is a process of its own"));
    }
    if !others.is_empty() && services.contains(&Service::Registry) {
        let why = "the others need the registry when they start; it is a process of its own: `rondo serve registry`";
        return Err(why.to_owned());
    }
    Ok(*first)
}

/// Waits until all have stopped, which the end of the first makes the others do; why, if one was not told to.
async fn all_ended(parts: Vec<Part>, shutdown: &CancellationToken) -> Result<()> {
    let mut endings: FuturesUnordered<_> = parts
        .into_iter()
        .map(async |part| match part.ended.await {
            Ok(ended) => ended.with_context(|| format!("{} failed", part.service)),
            Err(panic) => Err(anyhow!("{} panicked: {panic}", part.service)),
        })
        .collect();
    let mut first = Ok(());
    while let Some(ended) = endings.next().await {
        shutdown.cancel();
        first = first.and(ended);
    }
    first
}

/// Asks a URL whether it is well, for health checks of containers that have no other client.
///
/// # Errors
/// It is not, or does not answer.
pub async fn health(url: &str) -> Result<()> {
    let answer = reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(3))
        .build()?
        .get(url)
        .send()
        .await
        .with_context(|| format!("{url} does not answer"))?;
    answer
        .error_for_status()
        .map(drop)
        .with_context(|| format!("{url} is not well"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_do_not_go_together_are_told_apart() {
        use Service::{Inventory, Orders, Payments, Registry};
        assert_eq!(check(&[Payments, Orders, Inventory]).unwrap(), Payments);
        assert_eq!(check(&[Registry]).unwrap(), Registry);
        for (services, named) in [
            (vec![], "no service"),
            (vec![Orders, Payments, Orders], "orders is named twice"),
            (vec![Orders, Registry], "rondo serve registry"),
        ] {
            let refused = check(&services).unwrap_err();
            assert!(refused.contains(named), "{services:?}: {refused}");
        }
    }
}
