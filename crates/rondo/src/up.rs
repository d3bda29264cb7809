//! `rondo up`: broker, registry, Postgres and all services in one process tree, for a first look and for development.
//!
//! ```text
//!  Postgres ─► databases ─► registry ─► broker ─► topics, schemas ─► services ─► demo stock ─► one HTTP port
//! ```
//!
//! The services see the Kafka protocol, the registry's API and Postgres, as everywhere else. When any part ends, the
//! rest is stopped and it is said which part and why. Data stays in the data directory; a crash leaves nothing that the
//! next start does not mend.

use std::future;
use std::io::IsTerminal as _;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use common::config::{self, Environment, HttpConfig};
use common::http::server;
use common::telemetry::Level;
use common::{kafka, pg, relay, telemetry};
use embedded::broker::{self, Broker};
use embedded::port;
use embedded::postgres::{self, Postgres, Progress};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use rand::RngCore as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::target::{Endpoints, default_data_dir};
use crate::init;
use crate::system::{self, Part};

/// Databases of the private cluster.
const DATABASES: [&str; 4] = ["orders", "payments", "inventory", "registry"];
/// Connections of the embedded registry.
const REGISTRY_POOL_SIZE: usize = 4;
/// Partitions of each topic: one process reads them all, and the embedded broker asks its database for each of them at each
/// fetch. Fixed for the life of the data.
const PARTITIONS: i32 = 1;
/// How long requests that are under way may take at a stop.
const DRAIN: Duration = Duration::from_secs(10);
/// A broker that has not started by then is mentioned.
const BROKER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the services may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// What is on the shelves of a new installation, so that the first order can be filled: SKU, name, units, minor units.
const DEMO_STOCK: [(&str, &str, i64, i64); 3] = [
    ("DEMO-1", "Espresso cup", 1_000, 1_999),
    ("DEMO-2", "Coffee beans, 1 kg", 500, 2_450),
    ("DEMO-3", "Hand grinder", 10, 8_900),
];

/// How to start.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Port of the HTTP API; another one is taken, and named, when it is not free.
    #[arg(long, default_value_t = 8080, env = "RONDO_PORT")]
    pub port: u16,
    /// Removes all data of the data directory first.
    #[arg(long)]
    pub fresh: bool,
}

/// Starts everything and runs until Ctrl-C, SIGTERM, or the end of any part.
///
/// # Errors
/// Something cannot start, with what to do, or ended by itself.
pub async fn run(args: &Args, data_dir: &Path) -> Result<()> {
    let _telemetry = telemetry::init("rondo", Level::WARN);
    telemetry::metrics();
    let began = Instant::now();
    let steps = Steps::new();
    std::fs::create_dir_all(data_dir).with_context(|| format!("{} cannot be made", data_dir.display()))?;
    let data_dir = std::fs::canonicalize(data_dir)?;
    if args.fresh {
        remove_data(&data_dir).await?;
        steps.done(&format!("removed all data from {}", data_dir.display()));
    }
    let mut up = tokio::select! {
        up = Up::start(args, &data_dir, &steps) => up?,
        () = system::asked_to_stop() => bail!("stopped while starting; the next start goes on from here"),
    };
    steps.finish();
    up.greet(&data_dir, began.elapsed());
    let ended = tokio::select! {
        () = system::asked_to_stop() => Ok(()),
        ended = up.any_part_ended() => Err(ended),
    };
    steps.say("stopping");
    up.stop(&data_dir).await;
    steps.done("stopped; the data stays for the next start");
    steps.finish();
    ended
}

/// Starts the broker, which tries again by itself while a busy machine keeps its log locked. Its storage calls each of
/// these an error; one line says so here, and only where it takes long.
async fn start_broker(settings: broker::Settings, steps: &Steps) -> Result<Broker> {
    let _hush = telemetry::hush();
    let mut starting = pin!(Broker::start(settings));
    match tokio::time::timeout(BROKER_PATIENCE, starting.as_mut()).await {
        Ok(started) => Ok(started?),
        Err(_) => {
            steps.note("the broker takes its time: the machine is busy, and it tries again by itself");
            Ok(starting.await?)
        }
    }
}

/// Refuses a data directory that has the broker's log and no databases any more: new ones would know nothing of what the log
/// tells. The other way round the databases have it all, and what the log lacks is published again.
fn refuse_log_alone(postgres_dir: &Path, broker_dir: &Path) -> Result<()> {
    let log = broker_dir.join(broker::LOG_FILE);
    if let Some(place) = postgres::missing(postgres_dir)?
        && log.exists()
    {
        bail!(
            "the databases are gone from {}, and {} is still there: nothing was changed. Put the databases back, or begin \
             anew with `rondo up --fresh`, which removes both",
            place.display(),
            log.display()
        );
    }
    Ok(())
}

/// Takes away everything that an earlier `up` kept, unless it is still running.
async fn remove_data(data_dir: &Path) -> Result<()> {
    postgres::remove(&data_dir.join("postgres"))
        .await
        .context("the old data cannot be removed; is a `rondo up` running?")?;
    for name in ["broker", "postgres"] {
        let path = data_dir.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
        }
    }
    Endpoints::remove(data_dir)
}

struct Up {
    postgres: Postgres,
    broker: Broker,
    registry: Ended,
    parts: Vec<Part>,
    serving: Ended,
    shutdown: CancellationToken,
    http_port: u16,
    endpoints: Endpoints,
    token: String,
    notes: Vec<String>,
}

type Ended = tokio::task::JoinHandle<Result<()>>;

impl Up {
    async fn start(args: &Args, data_dir: &Path, steps: &Steps) -> Result<Self> {
        let mut notes = Vec::new();
        let shutdown = CancellationToken::new();
        let (postgres_dir, broker_dir) = (data_dir.join("postgres"), data_dir.join("broker"));
        refuse_log_alone(&postgres_dir, &broker_dir)?;
        steps.say("starting Postgres");
        let postgres = Postgres::start(postgres::Settings::new(postgres_dir), |progress| {
            steps.say(&match progress {
                Progress::Fetching { major } => format!("fetching Postgres {major}, once"),
                Progress::Initialising => "making the database cluster, once".to_owned(),
                Progress::StoppingLeftover => "stopping a Postgres that a crash left behind".to_owned(),
                Progress::Starting => "starting Postgres".to_owned(),
            });
        })
        .await?;
        for database in DATABASES {
            postgres.create_database(database).await?;
        }
        steps.done(&format!("Postgres on port {}", postgres.port()));

        let registry_database = postgres.url("registry");
        init::registry_database(&registry_database).await?;
        let pool = pg::connect(&registry_database, REGISTRY_POOL_SIZE).await?;
        let (listener, registry_port) = listen(8081, "the schema registry", &mut notes).await?;
        let registry_url = format!("http://127.0.0.1:{registry_port}");
        let registry = serve(
            listener,
            registry::router(pool),
            &http_config(registry_port)?,
            &shutdown,
        );
        steps.done(&format!("schema registry on {registry_url}"));

        steps.say("starting the broker");
        let (kafka_port, usual) = port::free_or(9092)?;
        if !usual {
            notes.push(format!(
                "port 9092 is taken; the Kafka protocol is spoken on {kafka_port}"
            ));
        }
        std::fs::create_dir_all(&broker_dir)?;
        let broker = start_broker(
            broker::Settings {
                data_dir: broker_dir,
                port: Some(kafka_port),
            },
            steps,
        )
        .await?;
        steps.done(&format!("Kafka protocol on {}", broker.address()));

        let token = operator_token(data_dir)?;
        let environment = environment(&postgres, &broker.address(), &registry_url, &token);
        let kafka = kafka::Settings {
            brokers: broker.address(),
            ..kafka::Settings::default()
        };
        steps.say("preparing databases, topics and schemas");
        for (service, _) in system::PORTS {
            let url = postgres.url(service);
            init::database(service, &url).await?;
            // This process holds the data directory, so a lease that is left is that of a crash.
            relay::end_lease(&pg::single(&url).await?).await?;
        }
        init::topics(&kafka, PARTITIONS).await?;
        init::schemas(&common::config::registry(&environment)?, None).await?;
        steps.done("databases, topics and schemas are in order");

        steps.say("starting orders, payments and inventory");
        let mut parts = Vec::new();
        let starting = async {
            for (service, _) in system::PORTS {
                parts.push(system::start(service, &environment, &shutdown).await?);
            }
            let (listener, http_port) = listen(args.port, "the HTTP API", &mut notes).await?;
            let config = http_config(http_port)?;
            let app = system::app(&mut parts, &config, &shutdown);
            let serving = serve(listener, app, &config, &shutdown);
            steps.done("orders, payments and inventory are running");
            let http = format!("http://127.0.0.1:{http_port}");
            fill_shelves(&http, &token).await?;
            anyhow::Ok((serving, http_port, http))
        };
        let (serving, http_port, http) = match starting.await {
            Ok(started) => started,
            // One that failed has stopped the rest, which those that still start then miss.
            Err(_) if shutdown.is_cancelled() => return Err(failure(&mut parts).await),
            Err(error) => return Err(error),
        };
        let endpoints = Endpoints {
            http,
            kafka: broker.address(),
            registry: registry_url,
            postgres: DATABASES
                .map(|database| (database.to_owned(), postgres.url(database)))
                .into(),
            token_file: Some(data_dir.join(TOKEN_FILE)),
            namespace: None,
        };
        endpoints.write(data_dir)?;
        Ok(Self {
            postgres,
            broker,
            registry,
            parts,
            serving,
            shutdown,
            http_port,
            endpoints,
            token,
            notes,
        })
    }

    /// Waits until any part ends; says which and why.
    async fn any_part_ended(&mut self) -> anyhow::Error {
        let services = self
            .parts
            .iter_mut()
            .map(|part| Box::pin(async move { (part.service, why((&mut part.ended).await)) }));
        tokio::select! {
            biased;
            // A service that fails stops the rest. Theirs is not the ending to tell.
            () = self.shutdown.cancelled() => failure(&mut self.parts).await,
            reason = self.postgres.wait() => anyhow!("Postgres ended: {reason}"),
            reason = self.broker.wait() => anyhow!("the broker ended: {reason}"),
            ended = &mut self.registry => why(ended).context("the schema registry ended"),
            ended = &mut self.serving => why(ended).context("the HTTP server ended"),
            ((service, reason), ..) = futures_util::future::select_all(services) => reason.context(format!("{service} ended")),
        }
    }

    async fn stop(self, data_dir: &Path) {
        self.shutdown.cancel();
        let services = async {
            for part in self.parts {
                // One that ended by itself has been waited for already.
                if !part.ended.is_finished()
                    && let Ok(Err(error)) = part.ended.await
                {
                    tracing::warn!(
                        service = part.service,
                        error = format!("{error:#}"),
                        "did not stop in order"
                    );
                }
            }
            if !self.serving.is_finished() {
                drop(self.serving.await);
            }
        };
        if tokio::time::timeout(STOP_WAIT, services).await.is_err() {
            tracing::warn!("the services did not stop in time; nothing acknowledged is lost by that");
        }
        // Neither needs the other, and each may take its seconds.
        let (postgres, ()) = tokio::join!(self.postgres.stop(), self.broker.stop());
        if let Err(error) = postgres {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Postgres did not stop in order"
            );
        }
        if let Err(error) = Endpoints::remove(data_dir) {
            tracing::warn!(error = format!("{error:#}"), "stale endpoints stay behind");
        }
    }

    #[expect(clippy::print_stdout, reason = "what `up` is started for")]
    fn greet(&self, data_dir: &Path, took: Duration) {
        let http = &self.endpoints.http;
        println!(
            "\nRondo is up ({:.1} s). Data: {}\n",
            took.as_secs_f64(),
            data_dir.display()
        );
        println!("  API        {http}          {http}/docs");
        println!("  Kafka      {}", self.endpoints.kafka);
        println!("  Registry   {}", self.endpoints.registry);
        println!("  Postgres   {}", self.postgres.url("orders"));
        println!("  Token      {}   (for operators; RONDO_TOKEN sets it)", self.token);
        for note in &self.notes {
            println!("  Note       {note}");
        }
        println!("\nPlace an order and wait for its end:\n");
        println!("  curl -s -X POST {http}/orders -H 'content-type: application/json' -H 'Prefer: wait=10' \\");
        println!(
            "    -d '{{\"customer_id\":\"ada\",\"currency\":\"EUR\",\"payment_method\":\"tok_visa\",\
             \"lines\":[{{\"sku\":\"DEMO-1\",\"quantity\":2,\"unit_price_minor\":1999}}]}}'\n"
        );
        let binary = std::env::args().next().unwrap_or_else(|| "rondo".to_owned());
        let found_by_itself = std::env::var_os("RONDO_DATA_DIR").is_some()
            || default_data_dir()
                .and_then(|usual| Ok(usual.canonicalize()?))
                .is_ok_and(|usual| usual == data_dir);
        if !found_by_itself {
            println!("In other terminals first: export RONDO_DATA_DIR={}", data_dir.display());
        }
        println!("Then: {binary} saga list    {binary} saga show ORDER_ID    {binary} audit\nCtrl-C stops.\n");
        tracing::debug!(port = self.http_port, "up");
    }
}

/// Why one of the services failed, and by that stopped the others.
async fn failure(parts: &mut [Part]) -> anyhow::Error {
    let endings = parts.iter_mut().map(async |part| match (&mut part.ended).await {
        Ok(Ok(())) => None,
        failed => Some(why(failed).context(format!("{} ended", part.service))),
    });
    let mut failures = pin!(endings.collect::<FuturesUnordered<_>>().filter_map(future::ready));
    let first = tokio::time::timeout(STOP_WAIT, failures.next()).await;
    first
        .ok()
        .flatten()
        .unwrap_or_else(|| anyhow!("the services stopped without being told to"))
}

fn why(ended: Result<Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("it stopped without being told to"),
        Ok(Err(error)) => error,
        Err(panic) => anyhow!("it panicked: {panic}"),
    }
}

/// A listener on `preferred`, or on any free port with a note that says so.
async fn listen(preferred: u16, what: &str, notes: &mut Vec<String>) -> Result<(TcpListener, u16)> {
    match TcpListener::bind(("127.0.0.1", preferred)).await {
        Ok(listener) => {
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let port = listener.local_addr()?.port();
            notes.push(format!("port {preferred} is taken; {what} is on {port}"));
            Ok((listener, port))
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on 127.0.0.1:{preferred} for {what}")),
    }
}

fn http_config(port: u16) -> Result<HttpConfig> {
    let own = std::env::vars().filter(|(name, _)| name.starts_with("RONDO_HTTP_") && name != "RONDO_HTTP_ADDRESS");
    Ok(HttpConfig::read(&own.collect(), port)?)
}

fn serve(listener: TcpListener, app: axum::Router, config: &HttpConfig, shutdown: &CancellationToken) -> Ended {
    let (config, shutdown) = (config.clone(), shutdown.clone());
    tokio::spawn(async move { Ok(server::serve(listener, app, &config, shutdown, DRAIN).await?) })
}

/// A deployment's environment, as the private parts give it. Of the process's own only `RONDO_…` counts.
fn environment(postgres: &Postgres, kafka: &str, registry: &str, token: &str) -> Environment {
    let own: Environment = std::env::vars()
        .filter(|(name, _)| name.starts_with("RONDO_") && name != "RONDO_NAMESPACE")
        .collect();
    system::PORTS.iter().fold(
        broker::CLIENT_PROPERTIES
            .iter()
            .fold(own.with("KAFKA_BROKERS", kafka), |environment, (property, value)| {
                environment.with(&config::kafka_variable(property), value)
            })
            .with("SCHEMA_REGISTRY_URL", registry)
            .with("RONDO_TOKEN", token),
        |environment, (service, _)| {
            environment.with(
                &format!("{}_DATABASE_URL", service.to_uppercase()),
                &postgres.url(service),
            )
        },
    )
}

/// The file that keeps the operator's token between starts.
const TOKEN_FILE: &str = "token";

/// `RONDO_TOKEN`, else the token of the last start, else a new one. It is kept in a file that only its owner can read.
fn operator_token(data_dir: &Path) -> Result<String> {
    let path = data_dir.join(TOKEN_FILE);
    let given = std::env::var("RONDO_TOKEN")
        .ok()
        .filter(|token| !token.trim().is_empty());
    let kept = std::fs::read_to_string(&path).ok().map(|token| token.trim().to_owned());
    let token = given.or(kept.filter(|token| !token.is_empty())).unwrap_or_else(|| {
        let mut bytes = [0; 18];
        rand::rng().fill_bytes(&mut bytes);
        hex::encode(bytes)
    });
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, token.as_bytes()));
    written.with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(token)
}

/// Puts the demo goods on the shelves of an installation that has none.
async fn fill_shelves(http: &str, token: &str) -> Result<()> {
    let client = reqwest::Client::new();
    let listed: serde_json::Value = client
        .get(format!("{http}/inventory?limit=1"))
        .send()
        .await?
        .json()
        .await?;
    let empty = listed
        .get("items")
        .and_then(serde_json::Value::as_array)
        .is_none_or(Vec::is_empty);
    if !empty {
        return Ok(());
    }
    for (sku, name, on_hand, unit_price_minor) in DEMO_STOCK {
        let body = serde_json::json!({ "name": name, "on_hand": on_hand, "unit_price_minor": unit_price_minor });
        let put = client
            .put(format!("{http}/inventory/{sku}"))
            .bearer_auth(token)
            .json(&body)
            .send()
            .await?;
        put.error_for_status()
            .context("the demo stock could not be put on the shelves")?;
    }
    Ok(())
}

/// What a person sees while things start: a spinner on a terminal, lines elsewhere.
struct Steps {
    spinner: Option<ProgressBar>,
}

impl Steps {
    fn new() -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is valid");
            let spinner = ProgressBar::new_spinner().with_style(style);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self { spinner }
    }

    /// What is going on now.
    fn say(&self, message: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(format!("{message} …")),
            None => tracing::debug!("{message}"),
        }
    }

    /// What is worth a line although nothing is done yet.
    fn note(&self, message: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(format!("· {message}")),
            None => eprintln!("· {message}"),
        }
    }

    /// What is done now.
    fn done(&self, message: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(format!("✓ {message}")),
            None => eprintln!("✓ {message}"),
        }
    }

    fn finish(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use common::http::Health;
    use utoipa_axum::router::OpenApiRouter;

    use super::*;

    fn part(service: &'static str, ends: impl Future<Output = Result<()>> + Send + 'static) -> Part {
        Part {
            service,
            routes: OpenApiRouter::new(),
            health: Health::new(),
            ended: tokio::spawn(ends),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_services_that_end_together_the_one_that_failed_is_told() {
        let mut parts = [
            part("orders", async { Ok(()) }),
            part("payments", async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                bail!("its group is ahead")
            }),
            part("inventory", future::pending()),
        ];
        assert_eq!(
            format!("{:#}", failure(&mut parts).await),
            "payments ended: its group is ahead"
        );
    }

    #[test]
    fn a_log_without_its_databases_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (postgres, broker) = (dir.path().join("postgres"), dir.path().join("broker"));
        std::fs::create_dir(&broker).unwrap();
        refuse_log_alone(&postgres, &broker).expect("a first start, stopped before its broker started");
        std::fs::write(broker.join(broker::LOG_FILE), "").unwrap();
        let refused = refuse_log_alone(&postgres, &broker).unwrap_err().to_string();
        assert!(refused.contains("--fresh"), "{refused}");
        std::fs::create_dir_all(postgres.join("cluster")).unwrap();
        refuse_log_alone(&postgres, &broker).expect("both are there");
    }
}
