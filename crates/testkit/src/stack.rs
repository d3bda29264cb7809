//! The servers of a test process.
//!
//! They run on a runtime of their own, since each `#[tokio::test]` has one that ends with it. Statics are never dropped, so
//! a watchdog cleans up instead: a shell that reads a pipe which only this process holds open. When the process ends,
//! however it ends, the read returns and the shell stops the postmaster and removes the directory.

use crate::database;
use embedded::broker::{self, Broker};
use embedded::postgres::{self, Postgres};
use std::env;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// One for all test processes of a shared server: nobody would drop one of each.
const REGISTRY_DATABASE: &str = "testkit_registry";

/// Tests register a handful of schemas at a time.
const REGISTRY_CONNECTIONS_MAX: usize = 4;

/// Outlives every test's own runtime.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("testkit")
        .enable_all()
        .build()
        .expect("a test machine has a thread to spare")
});

static HOME: LazyLock<Home> = LazyLock::new(Home::create);
static POSTGRES: OnceCell<Server> = OnceCell::const_new();
static REGISTRY: OnceCell<String> = OnceCell::const_new();
static BROKER: OnceCell<Brokers> = OnceCell::const_new();

/// The directory of the embedded servers, and who removes it.
struct Home {
    dir: PathBuf,
    _watchdog: Child,
}

/// The Postgres that tests make their databases in.
pub(crate) struct Server {
    /// Of a database that exists, for a user who may create others.
    pub(crate) url: String,
    _embedded: Option<Postgres>,
}

struct Brokers {
    bootstrap: String,
    _embedded: Option<Broker>,
}

/// `DATABASE_URL`, or a cluster of this process.
pub(crate) async fn postgres() -> &'static Server {
    POSTGRES
        .get_or_init(async || {
            if let Some(url) = variable("DATABASE_URL") {
                return Server { url, _embedded: None };
            }
            on_own_runtime(async {
                let settings = postgres::Settings {
                    durable: false,
                    ..postgres::Settings::new(cluster_dir(&HOME.dir))
                };
                let postgres = Postgres::start(settings, |_| {})
                    .await
                    .expect("the embedded Postgres starts");
                Server {
                    url: postgres.url("postgres"),
                    _embedded: Some(postgres),
                }
            })
            .await
        })
        .await
}

/// `KAFKA_BROKERS`, or a broker of this process.
pub(crate) async fn brokers() -> &'static str {
    let brokers = BROKER
        .get_or_init(async || {
            if let Some(bootstrap) = variable("KAFKA_BROKERS") {
                return Brokers {
                    bootstrap,
                    _embedded: None,
                };
            }
            on_own_runtime(async {
                let settings = broker::Settings::new(HOME.dir.join("broker"));
                let broker = Broker::start(settings).await.expect("the embedded broker starts");
                Brokers {
                    bootstrap: broker.address(),
                    _embedded: Some(broker),
                }
            })
            .await
        })
        .await;
    &brokers.bootstrap
}

/// `SCHEMA_REGISTRY_URL`, or a registry of this process in a database of its own.
pub(crate) async fn registry() -> &'static str {
    REGISTRY
        .get_or_init(async || {
            if let Some(url) = variable("SCHEMA_REGISTRY_URL") {
                return url;
            }
            let server = &postgres().await.url;
            on_own_runtime(serve_registry(server)).await
        })
        .await
}

async fn serve_registry(server_url: &str) -> String {
    let server = database::connect(server_url).await;
    let exists = "SELECT FROM pg_database WHERE datname = $1";
    if server
        .query_opt(exists, &[&REGISTRY_DATABASE])
        .await
        .expect("the tests' Postgres answers")
        .is_none()
    {
        // It fails when another test process is faster, and then the database is there.
        let _ = server
            .batch_execute(&format!("CREATE DATABASE {REGISTRY_DATABASE}"))
            .await;
    }
    let url = database::with_database(server_url, REGISTRY_DATABASE);
    registry::migrate(&mut database::connect(&url).await)
        .await
        .expect("the registry's migrations apply");
    let router = registry::router(database::pool(&url, REGISTRY_CONNECTIONS_MAX));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// Whether tests run against the embedded broker, which lacks a few things that Kafka has.
pub(crate) fn broker_is_embedded() -> bool {
    variable("KAFKA_BROKERS").is_none()
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

async fn on_own_runtime<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    RUNTIME.spawn(work).await.expect("the embedded servers start")
}

fn cluster_dir(home: &Path) -> PathBuf {
    home.join("postgres")
}

impl Home {
    fn create() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rondo-test-")
            .tempdir()
            .expect("a temporary directory")
            .keep();
        // As root, Postgres runs under another account, which must get in.
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("its maker may change its mode");
        let destroy = postgres::destroy_script(&cluster_dir(&dir)).expect("the directory exists");
        let watchdog = Command::new("/bin/sh")
            .args(["-c", &format!("read -r _; {destroy}; rm -rf \"$1\""), "watchdog"])
            .arg(&dir)
            // The shell must survive the Ctrl-C that ends the tests.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        Self {
            dir,
            _watchdog: watchdog,
        }
    }
}
