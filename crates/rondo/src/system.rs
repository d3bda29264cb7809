//! From an environment to running services: the one code path of `up`, `serve` and the tests.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use common::codec::WriteVersions;
use common::config::{self, Config, Environment};
use common::http::{Health, OperatorToken, server};
use common::model::Model;
use common::service::{self, Running};
use common::telemetry;
use contracts::service::SERVICES;
use deadpool_postgres::Pool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

/// Callers of `POST /orders` that may wait for an ending at once, in one copy.
const WAITERS_MAX: usize = 4_096;
/// How long a readiness check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The services, with the port that each has when it runs alone.
pub const PORTS: [(&str, u16); 3] = [("orders", 8080), ("payments", 8082), ("inventory", 8083)];

#[derive(OpenApi)]
#[openapi(info(
    title = "Rondo",
    description = "Event-sourced order sagas on Kafka: place an order, watch it end, ask for any moment of its past."
))]
struct Api;

/// One running service.
pub struct Part {
    /// Its name.
    pub service: &'static str,
    /// Its routes.
    pub routes: OpenApiRouter,
    /// What it needs to be ready.
    pub health: Health,
    /// Ends when the service has stopped, with why if it was not told to.
    pub ended: JoinHandle<Result<()>>,
}

/// How `service` reaches the world.
///
/// # Errors
/// A variable is missing, malformed or refused.
pub fn settings(service: &str, config: &Config, environment: &Environment) -> Result<service::Settings> {
    Ok(service::Settings {
        database_url: config.database_url.expose().to_owned(),
        pool_size: config.database_connections,
        kafka: config.kafka.clone(),
        registry: config.registry.clone(),
        retry: config::retry(environment, service)?,
        breaker: config::breaker(environment)?,
        clock_interval: Duration::from_millis(environment.number("RONDO_CLOCK_INTERVAL_MS", 500, 10..=60_000)?),
        deadline_grace: Duration::from_millis(environment.number("RONDO_DEADLINE_GRACE_MS", 30_000, 0..=600_000)?),
        schemas: service::Schemas {
            write_versions: write_versions(environment)?,
            start_with_unreadable: start_with_unreadable(environment)?,
        },
    })
}

/// `RONDO_WRITE_VERSIONS`: which events are written in an older version than this build's newest.
fn write_versions(environment: &Environment) -> Result<WriteVersions> {
    const NAME: &str = "RONDO_WRITE_VERSIONS";
    let mut versions = WriteVersions::new();
    let pairs = environment.get(NAME).unwrap_or_default().split(',').map(str::trim);
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (event, version) = pair
            .split_once('=')
            .with_context(|| format!("{NAME} has `{pair}`; it wants EVENT=VERSION, such as OrderPlaced=2"))?;
        let (event, version) = (event.trim(), version.trim());
        let event_type = SERVICES
            .iter()
            .flat_map(|service| service.types)
            .find(|event_type| event_type.name == event)
            .with_context(|| format!("{NAME} names {event}, which is no event"))?;
        let known: Vec<String> = event_type.versions.iter().map(|one| one.version.to_string()).collect();
        if !known.iter().any(|one| one == version) {
            bail!("{NAME} has {pair}; the versions of {event} are {}", known.join(", "));
        }
        versions.insert(event.to_owned(), version.parse()?);
    }
    Ok(versions)
}

/// `RONDO_UNREADABLE_SCHEMAS`: whether a start may pass over schemas that this build cannot read.
fn start_with_unreadable(environment: &Environment) -> Result<bool> {
    match environment.get("RONDO_UNREADABLE_SCHEMAS").unwrap_or("refuse") {
        "refuse" => Ok(false),
        "warn" => Ok(true),
        other => bail!("RONDO_UNREADABLE_SCHEMAS is `{other}`; it wants refuse or warn"),
    }
}

/// Starts the service called `service` as `environment` says.
///
/// # Errors
/// What a person must mend, with what to do.
pub async fn start(service: &str, environment: &Environment, shutdown: &CancellationToken) -> Result<Part> {
    match service {
        "orders" => start_orders(environment, shutdown).await,
        "payments" => start_payments(environment, shutdown).await,
        _ => start_inventory(environment, shutdown).await,
    }
    .with_context(|| format!("{service} cannot start"))
}

async fn start_orders(environment: &Environment, shutdown: &CancellationToken) -> Result<Part> {
    let config = Config::read(environment, "orders", 8080)?;
    let settings = settings("orders", &config, environment)?;
    let window = |seconds: Duration| jiff::SignedDuration::try_from(seconds).context("the window is too long");
    let windows = orders::http::Windows {
        decide_within: window(environment.seconds("RONDO_DECIDE_SECS", 60, 1..=86_400)?)?,
        settle_within: window(environment.seconds("RONDO_SETTLE_SECS", 600, 1..=86_400 * 30)?)?,
    };
    let endings = orders::waiting::Endings::new(WAITERS_MAX);
    let model = Arc::new(orders::service::Orders::new(endings.clone()));
    let running = service::start(model, settings.clone(), shutdown.clone()).await?;
    let routes = orders::http::router(Arc::new(orders::http::Context {
        commands: running.commands.clone(),
        pool: running.pool.clone(),
        codec: running.codec.clone(),
        endings: endings.clone(),
        operator: OperatorToken::new(config.operator_token.clone()),
        windows,
    }));
    let (pool, stop) = (running.pool.clone(), shutdown.clone());
    let part = part(running, routes);
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = endings.run(&pool, &settings.database_url) => {}
        }
        endings.close();
    });
    Ok(part)
}

async fn start_payments(environment: &Environment, shutdown: &CancellationToken) -> Result<Part> {
    let config = Config::read(environment, "payments", 8082)?;
    let settings = settings("payments", &config, environment)?;
    let running = service::start(Arc::new(payments::Payments), settings, shutdown.clone()).await?;
    let routes = payments::http::router(Arc::new(payments::http::Context {
        pool: running.pool.clone(),
    }));
    Ok(part(running, routes))
}

async fn start_inventory(environment: &Environment, shutdown: &CancellationToken) -> Result<Part> {
    let config = Config::read(environment, "inventory", 8083)?;
    let settings = settings("inventory", &config, environment)?;
    let running = service::start(Arc::new(inventory::Inventory), settings, shutdown.clone()).await?;
    let routes = inventory::http::router(Arc::new(inventory::http::Context {
        commands: running.commands.clone(),
        pool: running.pool.clone(),
        operator: OperatorToken::new(config.operator_token.clone()),
    }));
    Ok(part(running, routes))
}

fn part<M: Model>(running: Running<M>, routes: OpenApiRouter) -> Part {
    let breaker = running.breaker.clone();
    let health =
        health(M::NAME, running.pool.clone()).advice(format!("{}.consumer", M::NAME), move || breaker.complaint());
    let ended = tokio::spawn(async move { Ok(running.join().await?) });
    Part {
        service: M::NAME,
        routes,
        health,
        ended,
    }
}

/// Ready means that orders can be taken: the database answers. A broker that is away delays, it does not refuse.
fn health(service: &'static str, pool: Pool) -> Health {
    Health::new().check(format!("{service}.database"), CHECK_TIMEOUT, move || {
        let pool = pool.clone();
        async move {
            let client = pool.get().await.map_err(|error| error.to_string())?;
            client
                .simple_query("SELECT 1")
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        }
    })
}

/// Everything that one HTTP port answers: the services' routes, their description, health and metrics.
pub fn app(parts: &mut [Part], config: &common::config::HttpConfig, shutdown: &CancellationToken) -> Router {
    let mut routes = OpenApiRouter::with_openapi(Api::openapi());
    let mut health = Health::new().until(shutdown.clone());
    for part in parts {
        routes = routes.merge(std::mem::take(&mut part.routes));
        health = health.merge(std::mem::take(&mut part.health));
    }
    let (routes, api) = routes.split_for_parts();
    server::harden(routes, config)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", api))
        .merge(health.routes())
        .merge(server::metrics_route(telemetry::metrics()))
}

/// Resolves when the process is asked to stop: Ctrl-C, or SIGTERM from a supervisor.
pub async fn asked_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            },
            Err(_) => drop(interrupt.await),
        }
    }
    #[cfg(not(unix))]
    drop(interrupt.await);
}
