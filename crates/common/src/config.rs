//! Configuration of a service, from environment variables.
//!
//! Everything has a default that works on one machine, except where a wrong guess would lose data. A setting that would
//! break what the runtime promises is refused at start, with the variable's name and what to write instead. Secrets are
//! [`Secret`]s: nothing here prints one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::codec::RegistrySettings;

mod kafka;
mod patience;
mod secret;

pub use kafka::{kafka, kafka_variable};
pub use patience::{RETRY_CLASSES, breaker, retry};
pub use secret::Secret;

/// Why the environment is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing to fall back on.
    #[error("{variable} is not set; set it to {wanted}")]
    Missing {
        /// The variable, or several by which it can be given.
        variable: String,
        /// What belongs there.
        wanted: String,
    },
    /// There, but not usable.
    #[error("{variable} is {found}; set it to {wanted}")]
    Invalid {
        /// The variable.
        variable: String,
        /// What was found, unless it is a secret.
        found: String,
        /// What belongs there.
        wanted: String,
    },
    /// A setting that would break what the runtime promises.
    #[error("{variable} sets `{property}={value}`, which would break a guarantee: {reason}; remove it")]
    Refused {
        /// The variable.
        variable: String,
        /// The property of the Kafka client.
        property: String,
        /// What it was to become.
        value: String,
        /// What would go wrong.
        reason: &'static str,
    },
}

/// The variables that configuration is read from: the process's own, or given ones in tests and in `up`.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The process's environment. Variables that are not Unicode are left out.
    pub fn of_process() -> Self {
        let unicode =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self {
            variables: unicode.collect(),
        }
    }

    /// With `name` set to `value`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The variable's value without surrounding blanks; an empty one counts as not set, as compose files leave them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// The variable as a number or other plain value within `range`, or `default`.
    ///
    /// # Errors
    /// [`Error::Invalid`], also when it is out of range.
    pub fn number<T>(&self, name: &str, default: T, range: RangeInclusive<T>) -> Result<T, Error>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        text.parse()
            .ok()
            .filter(|value| range.contains(value))
            .ok_or_else(|| Error::Invalid {
                variable: name.to_owned(),
                found: format!("`{text}`"),
                wanted: format!("a number from {} to {} (default {default})", range.start(), range.end()),
            })
    }

    /// The variable as whole seconds within `range`, or `default`: for variables named `…_SECS`.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn seconds(&self, name: &str, default: u64, range: RangeInclusive<u64>) -> Result<Duration, Error> {
        self.number(name, default, range).map(Duration::from_secs)
    }

    /// The variable as a [`Secret`].
    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::from)
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.trim()))
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self {
            variables: variables.into_iter().collect(),
        }
    }
}

/// What every service needs to know; its own settings it reads from the same [`Environment`].
#[derive(Clone)]
pub struct Config {
    /// Postgres, with its password.
    pub database_url: Secret,
    /// Most connections to Postgres at once.
    pub database_connections: usize,
    /// The broker.
    pub kafka: crate::kafka::Settings,
    /// The schema registry.
    pub registry: RegistrySettings,
    /// The HTTP server.
    pub http: HttpConfig,
    /// What operators show; `None` leaves their endpoints open.
    pub operator_token: Option<Secret>,
}

/// The HTTP server's address and bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// Most requests being answered at once; one more is refused.
    pub in_flight_max: usize,
    /// Most open connections; one more waits in the listen queue.
    pub connections_max: usize,
    /// Longest request body.
    pub body_bytes_max: usize,
    /// How long one request may take, `Prefer: wait` included.
    pub request_timeout: Duration,
}

impl Config {
    /// Reads the configuration of the service called `service`, which listens on `port` unless told otherwise.
    ///
    /// # Errors
    /// The first variable that is missing, malformed or refused.
    pub fn read(environment: &Environment, service: &str, port: u16) -> Result<Self, Error> {
        Ok(Self {
            database_url: database_url(environment, service)?,
            database_connections: environment.number("RONDO_DATABASE_CONNECTIONS", 8, 3..=200)?,
            kafka: kafka(environment)?,
            registry: registry(environment)?,
            http: HttpConfig::read(environment, port)?,
            operator_token: operator_token(environment)?,
        })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("database_url", &crate::pg::redacted(self.database_url.expose()))
            .field("database_connections", &self.database_connections)
            .field("kafka", &self.kafka)
            .field("registry", &redacted_url(&self.registry.url))
            .field("http", &self.http)
            .field("operator_token", &self.operator_token)
            .finish()
    }
}

impl HttpConfig {
    /// Reads the server's settings; `port` is the service's usual one.
    ///
    /// # Errors
    /// The first variable that is malformed.
    pub fn read(environment: &Environment, port: u16) -> Result<Self, Error> {
        let address = match environment.get("RONDO_HTTP_ADDRESS") {
            None => SocketAddr::from(([0, 0, 0, 0], port)),
            Some(text) => text.parse().map_err(|_| Error::Invalid {
                variable: "RONDO_HTTP_ADDRESS".to_owned(),
                found: format!("`{text}`"),
                wanted: format!("an IP address and port, such as 127.0.0.1:{port} or [::]:{port}"),
            })?,
        };
        Ok(Self {
            address,
            in_flight_max: environment.number("RONDO_HTTP_IN_FLIGHT_MAX", 4_096, 1..=100_000)?,
            connections_max: environment.number("RONDO_HTTP_CONNECTIONS_MAX", 8_192, 1..=200_000)?,
            body_bytes_max: environment.number("RONDO_HTTP_BODY_BYTES_MAX", 256 * 1024, 1_024..=16 * 1024 * 1024)?,
            request_timeout: environment.seconds("RONDO_HTTP_REQUEST_SECS", 75, 1..=600)?,
        })
    }
}

/// `RONDO_NAMESPACE`: a topic-name prefix, or nothing.
///
/// # Errors
/// [`Error::Invalid`] when Kafka would refuse it in a topic's name.
pub fn namespace(environment: &Environment) -> Result<Option<String>, Error> {
    const LENGTH_MAX: usize = 64;
    let Some(name) = environment.get("RONDO_NAMESPACE") else {
        return Ok(None);
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.len() > LENGTH_MAX || !name.bytes().all(legal) {
        return Err(Error::Invalid {
            variable: "RONDO_NAMESPACE".to_owned(),
            found: format!("`{name}`"),
            wanted: format!("at most {LENGTH_MAX} letters, digits, `-` and `_`"),
        });
    }
    Ok(Some(name.to_owned()))
}

/// `<SERVICE>_DATABASE_URL`, or else `DATABASE_URL`.
///
/// # Errors
/// [`Error::Missing`].
pub fn database_url(environment: &Environment, service: &str) -> Result<Secret, Error> {
    let own = format!("{}_DATABASE_URL", service.to_uppercase().replace('-', "_"));
    environment
        .secret(&own)
        .or_else(|| environment.secret("DATABASE_URL"))
        .ok_or_else(|| Error::Missing {
            variable: format!("{own} (or DATABASE_URL)"),
            wanted: format!("postgres://USER:PASSWORD@HOST:5432/{service}"),
        })
}

/// `RONDO_TOKEN`: what operators show.
///
/// # Errors
/// [`Error::Invalid`] when it could not be sent in a header, or is too short to be a secret.
pub fn operator_token(environment: &Environment) -> Result<Option<Secret>, Error> {
    const LENGTH_MIN: usize = 8;
    let Some(token) = environment.secret("RONDO_TOKEN") else {
        return Ok(None);
    };
    let text = token.expose();
    if text.len() < LENGTH_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Invalid {
            variable: "RONDO_TOKEN".to_owned(),
            found: "too short, or has characters that a header cannot carry".to_owned(),
            wanted: format!(
                "at least {LENGTH_MIN} visible ASCII characters, such as the output of `openssl rand -hex 24`"
            ),
        });
    }
    Ok(Some(token))
}

/// `SCHEMA_REGISTRY_URL` and its credentials: `SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO=user:password` or
/// `SCHEMA_REGISTRY_TOKEN`.
///
/// # Errors
/// [`Error::Missing`] or [`Error::Invalid`].
pub fn registry(environment: &Environment) -> Result<RegistrySettings, Error> {
    const URL: &str = "SCHEMA_REGISTRY_URL";
    let url = environment.get(URL).ok_or_else(|| Error::Missing {
        variable: URL.to_owned(),
        wanted: "the schema registry's base URL, such as http://localhost:8081".to_owned(),
    })?;
    if !url
        .split(',')
        .all(|one| one.trim().starts_with("http://") || one.trim().starts_with("https://"))
    {
        return Err(Error::Invalid {
            variable: URL.to_owned(),
            found: format!("`{}`", redacted_url(url)),
            wanted: "one or more URLs, separated by commas, that begin with http:// or https://".to_owned(),
        });
    }
    const BASIC: &str = "SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO";
    let basic = match environment.get(BASIC) {
        None => None,
        Some(text) => Some(text.split_once(':').ok_or_else(|| Error::Invalid {
            variable: BASIC.to_owned(),
            found: "without a colon".to_owned(),
            wanted: "user:password".to_owned(),
        })?),
    };
    let token = environment.get("SCHEMA_REGISTRY_TOKEN");
    if basic.is_some() && token.is_some() {
        return Err(Error::Invalid {
            variable: "SCHEMA_REGISTRY_TOKEN".to_owned(),
            found: format!("set together with {BASIC}"),
            wanted: "one of the two".to_owned(),
        });
    }
    Ok(RegistrySettings {
        url: url.to_owned(),
        basic: basic.map(|(user, password)| (user.to_owned(), password.to_owned())),
        token: token.map(str::to_owned),
    })
}

fn redacted_url(urls: &str) -> String {
    let each: Vec<String> = urls.split(',').map(|url| crate::pg::redacted(url.trim())).collect();
    each.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Environment {
        Environment::default()
            .with("DATABASE_URL", "postgres://app:s3cret@db/all")
            .with("KAFKA_BROKERS", "kafka:9092")
            .with("SCHEMA_REGISTRY_URL", "http://registry:8081")
    }

    #[test]
    fn three_variables_are_enough() {
        let config = Config::read(&complete(), "shipping", 8090).unwrap();
        assert_eq!(config.http.address.port(), 8090);
        assert_eq!(config.kafka.namespace, None);
        assert!(config.operator_token.is_none());
    }

    #[test]
    fn a_services_own_database_comes_before_the_common_one() {
        let environment = complete().with("SHIPPING_DATABASE_URL", "postgres://app@db/shipping");
        let config = Config::read(&environment, "shipping", 0).unwrap();
        assert_eq!(config.database_url.expose(), "postgres://app@db/shipping");
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_set() {
        let error = Config::read(&Environment::default(), "shipping", 0).expect_err("nothing is set");
        assert_eq!(
            error.to_string(),
            "SHIPPING_DATABASE_URL (or DATABASE_URL) is not set; set it to postgres://USER:PASSWORD@HOST:5432/shipping"
        );
        let blank = complete().with("KAFKA_BROKERS", "  ");
        assert!(matches!(
            Config::read(&blank, "shipping", 0),
            Err(Error::Missing { variable, .. }) if variable == "KAFKA_BROKERS"
        ));
    }

    #[test]
    fn a_number_out_of_range_says_the_range() {
        let environment = complete().with("RONDO_DECIDE_SECS", "0");
        let error = environment
            .seconds("RONDO_DECIDE_SECS", 60, 1..=3600)
            .expect_err("zero is too small");
        assert_eq!(
            error.to_string(),
            "RONDO_DECIDE_SECS is `0`; set it to a number from 1 to 3600 (default 60)"
        );
        assert_eq!(
            environment.seconds("RONDO_SETTLE_SECS", 600, 1..=3600),
            Ok(Duration::from_secs(600))
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let environment = complete()
            .with("RONDO_TOKEN", "hunter2hunter2")
            .with("KAFKA_SASL_PASSWORD", "s3cret")
            .with("SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO", "me:s3cret");
        let config = Config::read(&environment, "shipping", 0).unwrap();
        let shown = format!("{config:?} {environment:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(config.registry.basic, Some(("me".to_owned(), "s3cret".to_owned())));
    }

    #[test]
    fn two_ways_to_log_in_to_the_registry_are_one_too_many() {
        let environment = complete()
            .with("SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO", "me:secret")
            .with("SCHEMA_REGISTRY_TOKEN", "token");
        assert!(registry(&environment).is_err());
    }

    #[test]
    fn a_namespace_is_what_a_topics_name_may_hold() {
        assert_eq!(
            namespace(&complete().with("RONDO_NAMESPACE", "blue-2")),
            Ok(Some("blue-2".to_owned()))
        );
        assert!(namespace(&complete().with("RONDO_NAMESPACE", "a/b")).is_err());
    }
}
