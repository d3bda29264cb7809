//! A fourth service beside orders, payments and inventory: `cargo run -p common --example shipping`.
//!
//! It finds its database, broker and registry in the environment, as all services do, and brings them up to date first;
//! a deployment would do that once, beforehand.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::config::{Config, Environment};
use common::http::{Health, server};
use common::parking::RetryPolicy;
use common::{service, telemetry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

mod shipping;

/// The usual port; `RONDO_HTTP_ADDRESS` names another.
const PORT: u16 = 8084;
/// How long requests may take to end when the service stops.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _telemetry = telemetry::init("shipping", tracing::Level::INFO);
    let config = Config::read(&Environment::of_process(), "shipping", PORT)?;
    let settings = service::Settings {
        database_url: config.database_url.expose().to_owned(),
        pool_size: config.database_connections,
        kafka: config.kafka.clone(),
        registry: config.registry.clone(),
        retry: RetryPolicy::default(),
        breaker: common::breaker::Settings::default(),
        clock_interval: Duration::from_millis(500),
        deadline_grace: Duration::from_secs(5),
        schemas: Default::default(),
    };
    shipping::init(&settings).await?;

    let shutdown = CancellationToken::new();
    let running = service::start(Arc::new(shipping::Shipping), settings, shutdown.clone()).await?;
    let app = server::harden(shipping::router(running.pool.clone()), &config.http)
        .merge(Health::new().until(shutdown.clone()).routes())
        .merge(server::metrics_route(telemetry::metrics()));
    let listener = TcpListener::bind(config.http.address)
        .await
        .with_context(|| format!("cannot listen on {}", config.http.address))?;
    let serving = tokio::spawn({
        let (http, shutdown) = (config.http.clone(), shutdown.clone());
        async move { server::serve(listener, app, &http, shutdown, DRAIN).await }
    });
    let stop = shutdown.clone();
    tokio::spawn(async move {
        // Without a signal to wait for, only a failure of its own ends the service.
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    let ended = running.join().await;
    shutdown.cancel();
    serving.await.context("the HTTP server panicked")??;
    Ok(ended?)
}
