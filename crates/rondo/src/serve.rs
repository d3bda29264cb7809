//! `rondo serve`: one service of a deployment, until it is told to stop.

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use common::config::{Environment, HttpConfig, database_url};
use common::http::server;
use common::telemetry::Level;
use common::{pg, telemetry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::system;

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

/// Serves one service as the environment says.
///
/// # Errors
/// It cannot start, or a part of it failed.
pub async fn run(service: Service) -> Result<()> {
    let environment = Environment::of_process();
    let (name, port) = match service {
        Service::Orders => ("orders", 8080),
        Service::Payments => ("payments", 8082),
        Service::Inventory => ("inventory", 8083),
        Service::Registry => ("registry", 8081),
    };
    let _telemetry = telemetry::init(name, Level::INFO);
    telemetry::metrics();
    let shutdown = CancellationToken::new();
    let config = HttpConfig::read(&environment, port)?;
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
    if service == Service::Registry {
        let url = database_url(&environment, name)?;
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
    // A stop does not wait for a database or a registry that keeps the start waiting; nothing has been taken on yet.
    let starting = system::start(name, &environment, &shutdown);
    let Some(part) = shutdown.run_until_cancelled(starting).await.transpose()? else {
        return Ok(());
    };
    let mut parts = [part];
    let app = system::app(&mut parts, &config, &shutdown);
    let serving = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { server::serve(listener, app, &config, shutdown, drain).await }
    });
    let [part] = parts;
    let ended = part
        .ended
        .await
        .unwrap_or_else(|panic| Err(anyhow!("{name} panicked: {panic}")));
    shutdown.cancel();
    serving.await.context("the HTTP server panicked")??;
    ended
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
