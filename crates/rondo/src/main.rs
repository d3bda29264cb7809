//! `rondo`: the command line. Parses, calls, and turns the answer into an exit status: 0 done, 1 failed or found
//! wanting, 2 usage.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use common::config::{self, Environment};
use common::telemetry::{self, Level};
use contracts::service::SERVICES;
use contracts::topics::PARTITIONS_DEFAULT;
use rondo::cli::{GlobalArgs, Target, audit, bench, dlq, inventory, offsets, orders, replay, saga, schema};
use rondo::{init, serve};

/// Every message is a dozen small allocations, made in one thread and given back in another, in librdkafka too: under load
/// glibc's allocator took about a third of the services' processor time.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The variables that name a deployment; docs/configuration.md has all of them.
const ENVIRONMENT: &str = "\
Environment:
  ORDERS_DATABASE_URL, PAYMENTS_…, INVENTORY_…, REGISTRY_…   Postgres of that service
  DATABASE_URL           the same, for a process that serves one
  KAFKA_BROKERS          host:port, several separated by commas
  KAFKA_PROPERTIES       librdkafka's properties as k=v; or a variable each, such as KAFKA_SASL_USERNAME
  SCHEMA_REGISTRY_URL    any Confluent-compatible registry
  RONDO_NAMESPACE        prefix of topics and groups
  RONDO_TOKEN            what operators show
  RONDO_HTTP_ADDRESS     where a service listens
  RONDO_DECIDE_SECS, RONDO_SETTLE_SECS   an order's two deadlines
  RUST_LOG, RONDO_LOG_FORMAT             logs, on stderr
  OTEL_EXPORTER_OTLP_ENDPOINT            where traces go

All of them, with ranges: docs/configuration.md";

/// Event-sourced order sagas on Kafka and Postgres.
#[derive(Parser)]
#[command(version, max_term_width = 110, after_long_help = ENVIRONMENT)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything in one process tree: broker, registry, Postgres and all services
    #[cfg(feature = "embedded")]
    Up(rondo::up::Args),
    /// Run services of a deployment, configured by the environment
    #[command(after_long_help = ENVIRONMENT)]
    Serve {
        /// Which: one, or several that share this process and one HTTP port
        #[arg(value_enum, required = true)]
        services: Vec<serve::Service>,
    },
    /// Bring a deployment's databases, topics and schemas to what this build needs; safe to repeat
    #[command(after_long_help = ENVIRONMENT)]
    Init {
        /// Partitions of each topic that does not exist yet; they cannot be changed later
        #[arg(long, default_value_t = PARTITIONS_DEFAULT)]
        partitions: i32,
    },
    /// Place orders
    #[command(subcommand)]
    Orders(orders::Command),
    /// Count and load stock
    #[command(subcommand)]
    Inventory(inventory::Command),
    /// See what orders are doing and what they wait for
    #[command(subcommand)]
    Saga(saga::Command),
    /// Tell the log again: rebuild read models, see what a release would change, restore a database, look back
    #[command(subcommand)]
    Replay(replay::Command),
    /// See what could not be handled, and redrive, skip, discard or export it
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// See and move where services go on in the topics that they read
    #[command(subcommand)]
    Offsets(offsets::Command),
    /// Prove that no money, no goods and no event was made or lost
    Audit(audit::Args),
    /// Check, compare and register the contracts: files, registry and bytes
    #[command(subcommand)]
    Schema(schema::Command),
    /// Measure how many orders a second a running installation brings to their end
    Bench(bench::Args),
    /// Ask a URL whether it is well: exit status 0 or 1
    Health {
        /// For example http://127.0.0.1:8080/readyz
        url: String,
    },
}

/// How long work that was handed to threads may go on once the verb has ended. What a broken broker or a blocked call still
/// holds would keep the process for ever.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads to work with: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(run(arguments)).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    });
    runtime.shutdown_timeout(SHUTDOWN_WAIT);
    status
}

async fn run(Arguments { global, command }: Arguments) -> Result<ExitCode> {
    let verdict = match command {
        #[cfg(feature = "embedded")]
        Command::Up(args) => {
            return rondo::up::run(&args, &global.data_dir()?)
                .await
                .map(|()| ExitCode::SUCCESS);
        }
        Command::Serve { services } => return serve::run(&services).await.map(|()| ExitCode::SUCCESS),
        Command::Init { partitions } => return initialise(partitions).await.map(|()| ExitCode::SUCCESS),
        Command::Health { url } => return serve::health(&url).await.map(|()| ExitCode::SUCCESS),
        Command::Orders(command) => orders::run(command, &Target::locate(&global)?).await?,
        Command::Inventory(command) => inventory::run(command, &Target::locate(&global)?).await?,
        Command::Saga(command) => saga::run(command, &Target::locate(&global)?).await?,
        Command::Replay(command) => replay::run(command, &global, &Target::locate(&global)?).await?,
        Command::Dlq(command) => dlq::run(command, &Target::locate(&global)?).await?,
        Command::Schema(command) => schema::run(command, &global).await?,
        Command::Bench(args) => bench::run(args, &Target::locate(&global)?).await?,
        Command::Offsets(command) => offsets::run(command, &Target::locate(&global)?).await?,
        Command::Audit(args) => audit::run(args, &Target::locate(&global)?).await?,
    };
    Ok(verdict.into())
}

/// `rondo init`, as the environment says.
async fn initialise(partitions: i32) -> Result<()> {
    let _telemetry = telemetry::init("init", Level::WARN);
    let environment = Environment::of_process();
    for service in &SERVICES {
        let url = config::database_url(&environment, service.name)?;
        let applied = init::database(service.name, url.expose()).await?;
        eprintln!("✓ database of {}: {applied} migrations applied", service.name);
    }
    let kafka = config::kafka(&environment)?;
    let created = init::topics(&kafka, partitions).await?;
    eprintln!("✓ topics: {} created", created.len());
    if created.iter().any(|topic| topic.copies == 1) {
        eprintln!("! the topics have one copy: there are fewer than three brokers, and a lost disk loses records");
    }
    let schemas = init::schemas(&config::registry(&environment)?, kafka.namespace.as_deref()).await?;
    eprintln!("✓ schemas: {schemas} event types registered");
    Ok(())
}
