//! Which installation a verb talks to: a running `rondo up`, or a deployment that the environment describes.
//!
//! `up` leaves a file in its data directory, [`Endpoints`]. It says the same things as the environment of a deployment
//! does, so both become one [`Environment`] and everything after that is one code path. A setting that a verb does not
//! need may be missing: it is asked for when it is needed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use common::codec::{Codec, Registry};
use common::config::{self, Environment, Secret};
use common::{kafka, pg, store};
use contracts::service::SERVICES;
use deadpool_postgres::{Client, Pool};
use serde::{Deserialize, Serialize};
use url::Url;

use super::Output;

/// The file in the data directory of a running `rondo up`.
pub const ENDPOINTS_FILE: &str = "endpoints.json";
/// Connections of one verb to one database.
const POOL_SIZE: usize = 2;
/// How long a TCP connection to a service may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a service may take to answer, `Prefer: wait` included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What every verb takes.
#[derive(Args, Clone, Debug, Default)]
pub struct GlobalArgs {
    /// Data directory of `rondo up`; other verbs find a running one by it.
    #[arg(long, global = true, env = "RONDO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How to print what is found.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

impl GlobalArgs {
    /// The data directory: the given one, else [`default_data_dir`].
    ///
    /// # Errors
    /// None is given and the user has no home directory.
    pub fn data_dir(&self) -> Result<PathBuf> {
        match &self.data_dir {
            Some(given) => Ok(given.clone()),
            None => default_data_dir(),
        }
    }
}

/// `$XDG_DATA_HOME/rondo`, else `~/.local/share/rondo`.
///
/// # Errors
/// Neither `XDG_DATA_HOME` nor `HOME` is set.
pub fn default_data_dir() -> Result<PathBuf> {
    let directory = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    directory("XDG_DATA_HOME")
        .filter(|data| data.is_absolute())
        .or_else(|| directory("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("rondo"))
        .context("there is no home directory to keep data in; name one by --data-dir")
}

/// Where the parts of a running `rondo up` are.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Base URL of all services.
    pub http: String,
    /// `host:port` of the broker.
    pub kafka: String,
    /// Base URL of the schema registry.
    pub registry: String,
    /// Postgres URL of each service's database, and of `registry`.
    pub postgres: BTreeMap<String, String>,
    /// The file that holds the operator's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Prefix of topics and groups, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Endpoints {
    /// Writes the file into `data_dir`, whole or not at all. Only its owner can read it: it holds database passwords.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, data_dir: &Path) -> Result<()> {
        let path = data_dir.join(ENDPOINTS_FILE);
        let beside = data_dir.join(format!(".{ENDPOINTS_FILE}.{}", std::process::id()));
        let mut text = serde_json::to_string_pretty(self).expect("endpoints are plain text");
        text.push('\n');
        let written = private_file(&beside)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&beside, &path));
        if written.is_err() {
            // Best effort: the error that matters is the one above.
            let _ = std::fs::remove_file(&beside);
        }
        written.with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Reads the file of `data_dir`; `None` where there is none.
    ///
    /// # Errors
    /// There is one, and it cannot be read.
    pub fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(ENDPOINTS_FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let endpoints = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(endpoints))
    }

    /// Takes the file away, when `up` stops.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove(data_dir: &Path) -> Result<()> {
        let path = data_dir.join(ENDPOINTS_FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The same as a deployment's environment says it. What `process` sets about operators and logs still counts.
    fn environment(&self, process: &Environment) -> Result<Environment> {
        let mut environment = Environment::default()
            .with("KAFKA_BROKERS", &self.kafka)
            .with("SCHEMA_REGISTRY_URL", &self.registry);
        for (service, url) in &self.postgres {
            environment = environment.with(&format!("{}_DATABASE_URL", service.to_uppercase()), url);
        }
        for service in &SERVICES {
            environment = environment.with(&base_url_variable(service.name), &self.http);
        }
        if let Some(namespace) = &self.namespace {
            environment = environment.with("RONDO_NAMESPACE", namespace);
        }
        if let Some(token) = process.get("RONDO_TOKEN") {
            return Ok(environment.with("RONDO_TOKEN", token));
        }
        match &self.token_file {
            None => Ok(environment),
            Some(file) => {
                let token = std::fs::read_to_string(file)
                    .with_context(|| format!("the token's file {} cannot be read", file.display()))?;
                Ok(environment.with("RONDO_TOKEN", &token))
            }
        }
    }
}

fn private_file(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The installation that a verb talks to.
#[derive(Debug)]
pub struct Target {
    environment: Environment,
    output: Output,
    client: reqwest::Client,
}

impl Target {
    /// Finds the installation: the `up` of a data directory that was named and has one, else what the environment
    /// describes, else the `up` of the default directory.
    ///
    /// # Errors
    /// There is none, or its description cannot be read.
    pub fn locate(args: &GlobalArgs) -> Result<Self> {
        Self::locate_with(args, Environment::of_process())
    }

    fn locate_with(args: &GlobalArgs, process: Environment) -> Result<Self> {
        let named = match &args.data_dir {
            Some(directory) => Endpoints::read(directory)?,
            None => None,
        };
        let environment = match named {
            Some(endpoints) => endpoints.environment(&process)?,
            None if describes_a_deployment(&process) => process,
            None => {
                let directory = args.data_dir()?;
                match Endpoints::read(&directory)? {
                    Some(endpoints) => endpoints.environment(&process)?,
                    None => bail!(
                        "no installation found: nothing runs with its data in {}, and the environment names none\n  start \
                         one here:        rondo up\n  or, if it runs elsewhere: --data-dir DIR\n  or name a deployment:   \
                         KAFKA_BROKERS, SCHEMA_REGISTRY_URL, DATABASE_URL (or ORDERS_DATABASE_URL, …), RONDO_ORDERS_URL",
                        directory.display()
                    ),
                }
            }
        };
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .context("an HTTP client could not be made")?;
        Ok(Self {
            environment,
            output: args.output,
            client,
        })
    }

    /// How to print.
    pub fn output(&self) -> Output {
        self.output
    }

    /// The HTTP client, with its time limits.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Base URL of `service`, with a slash at its end: paths are joined to it.
    ///
    /// # Errors
    /// The variable holds no URL.
    pub fn http(&self, service: &str) -> Result<Url> {
        let variable = base_url_variable(service);
        let default = match service {
            "payments" => "http://127.0.0.1:8082",
            "inventory" => "http://127.0.0.1:8083",
            _ => "http://127.0.0.1:8080",
        };
        let text = self.environment.get(&variable).unwrap_or(default).trim_end_matches('/');
        let url: Url = format!("{text}/")
            .parse()
            .with_context(|| format!("{variable} is no URL: {text}"))?;
        Ok(url)
    }

    /// What operators show, if anything.
    ///
    /// # Errors
    /// The token could not be sent.
    pub fn token(&self) -> Result<Option<Secret>> {
        Ok(config::operator_token(&self.environment)?)
    }

    /// Where the database of `service` is, password included.
    ///
    /// # Errors
    /// It is not known.
    pub fn database_url(&self, service: &str) -> Result<String> {
        Ok(config::database_url(&self.environment, service)?.expose().to_owned())
    }

    /// Connections to the database of `service`.
    ///
    /// # Errors
    /// It is not known where the database is.
    pub fn pool(&self, service: &str) -> Result<Pool> {
        let url = config::database_url(&self.environment, service)?;
        Ok(pg::pool(url.expose(), POOL_SIZE)?)
    }

    /// One connection to the database of `service`, made now.
    ///
    /// # Errors
    /// It is not known where the database is, or it does not answer.
    pub async fn database(&self, service: &str) -> Result<Client> {
        let url = config::database_url(&self.environment, service)?;
        let cannot = || format!("the database of {service} cannot be read");
        let pool = pg::connect(url.expose(), POOL_SIZE).await.with_context(cannot)?;
        pool.get().await.with_context(cannot)
    }

    /// How to reach Kafka.
    ///
    /// # Errors
    /// A variable is missing, malformed or refused.
    pub fn kafka_settings(&self) -> Result<kafka::Settings> {
        Ok(config::kafka(&self.environment)?)
    }

    /// A client of the schema registry.
    ///
    /// # Errors
    /// It is not known where the registry is.
    pub fn registry(&self) -> Result<Registry> {
        let settings = config::registry(&self.environment)?;
        Registry::new(&settings).context("an HTTP client could not be made")
    }

    /// Prefix of topics and groups, if there is one.
    ///
    /// # Errors
    /// It is malformed.
    pub fn namespace(&self) -> Result<Option<String>> {
        Ok(config::namespace(&self.environment)?)
    }

    /// A codec that reads everybody's events.
    ///
    /// # Errors
    /// It is not known where the registry is.
    pub fn codec(&self) -> Result<Codec> {
        let settings = config::registry(&self.environment)?;
        Ok(Codec::reader(
            Registry::new(&settings).context("an HTTP client could not be made")?,
        ))
    }
}

/// Lets `codec` know what this database remembers of schemas, so that looking works while the registry is away.
///
/// # Errors
/// The database's.
pub async fn remember_schemas(codec: &Codec, client: &Client) -> Result<()> {
    for (id, name, text) in store::schemas(client).await? {
        if codec.remember(id, &text).is_err() {
            tracing::warn!(schema.id = id, schema.name = %name, "a schema that the database remembers cannot be used");
        }
    }
    Ok(())
}

/// Where a service's HTTP is, for those who call it.
fn base_url_variable(service: &str) -> String {
    format!("RONDO_{}_URL", service.to_uppercase())
}

fn describes_a_deployment(environment: &Environment) -> bool {
    let of_services = SERVICES.iter().flat_map(|service| {
        [
            base_url_variable(service.name),
            format!("{}_DATABASE_URL", service.name.to_uppercase()),
        ]
    });
    ["KAFKA_BROKERS", "DATABASE_URL", "SCHEMA_REGISTRY_URL"]
        .map(str::to_owned)
        .into_iter()
        .chain(of_services)
        .any(|variable| environment.get(&variable).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(token_file: Option<PathBuf>) -> Endpoints {
        let database = |service: &str| (service.to_owned(), format!("postgres://rondo@127.0.0.1:5433/{service}"));
        Endpoints {
            http: "http://127.0.0.1:8090".to_owned(),
            kafka: "127.0.0.1:9092".to_owned(),
            registry: "http://127.0.0.1:8081".to_owned(),
            postgres: ["orders", "payments", "inventory", "registry"].map(database).into(),
            token_file,
            namespace: None,
        }
    }

    fn args(data_dir: &Path) -> GlobalArgs {
        GlobalArgs {
            data_dir: Some(data_dir.to_owned()),
            output: Output::Table,
        }
    }

    #[test]
    fn what_up_writes_is_found_again_with_its_token() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "hunter2hunter2\n").unwrap();
        endpoints(Some(token)).write(directory.path()).unwrap();

        let target = Target::locate_with(&args(directory.path()), Environment::default()).unwrap();
        assert_eq!(target.token().unwrap().unwrap().expose(), "hunter2hunter2");
        assert_eq!(target.kafka_settings().unwrap().brokers, "127.0.0.1:9092");
        for service in &SERVICES {
            assert_eq!(target.http(service.name).unwrap().as_str(), "http://127.0.0.1:8090/");
        }
        let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(files.len(), 2, "nothing but the token and the endpoints is left");
    }

    #[test]
    fn a_second_write_replaces_the_first_and_a_removal_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        endpoints(None).write(directory.path()).unwrap();
        let mut moved = endpoints(None);
        moved.http = "http://127.0.0.1:8091".to_owned();
        moved.write(directory.path()).unwrap();
        assert!(Endpoints::read(directory.path()).unwrap() == Some(moved));
        Endpoints::remove(directory.path()).unwrap();
        Endpoints::remove(directory.path()).unwrap();
        assert!(Endpoints::read(directory.path()).unwrap().is_none());
    }

    #[test]
    fn without_an_up_the_environment_is_the_target() {
        let directory = tempfile::tempdir().unwrap();
        let deployment = Environment::default()
            .with("KAFKA_BROKERS", "kafka:9092")
            .with("RONDO_ORDERS_URL", "http://orders:8080/base");
        let target = Target::locate_with(&args(directory.path()), deployment).unwrap();
        assert_eq!(target.http("orders").unwrap().as_str(), "http://orders:8080/base/");
        assert_eq!(target.http("inventory").unwrap().as_str(), "http://127.0.0.1:8083/");
        let missing = target.pool("orders").unwrap_err().to_string();
        assert!(missing.contains("ORDERS_DATABASE_URL"), "{missing}");
    }

    #[test]
    fn with_neither_it_is_said_how_to_start_one() {
        let directory = tempfile::tempdir().unwrap();
        let error = Target::locate_with(&args(directory.path()), Environment::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("rondo up") && error.contains("KAFKA_BROKERS"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(ENDPOINTS_FILE), "{").unwrap();
        let error = Target::locate_with(&args(directory.path()), Environment::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(ENDPOINTS_FILE), "{error}");
    }
}
