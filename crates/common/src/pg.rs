//! Connections to Postgres: a bounded pool, single connections for LISTEN, TLS as `sslmode` says, and what a failure means.
//!
//! `sslmode` has the meanings that libpq gives it: `prefer` and `require` encrypt without asking who answers,
//! `verify-ca` wants a certificate from a trusted authority, `verify-full` one for this very host. `sslrootcert=FILE`
//! replaces the machine's trust store and, as with libpq, makes `require` verify the authority. No message and no
//! `Debug` of this module shows a password.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, PoolBuilder, PoolError, RecyclingMethod, Runtime,
};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config};

pub mod copy;
mod tls;
mod transaction;

pub use transaction::{Transaction, Write};

/// How long to establish one TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to establish a whole session: TCP, TLS, login.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller waits for a free connection before it is told that the database is too busy.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to look whether a pooled connection still lives.
const RECYCLE_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that vanished without a word is noticed after idle + interval × retries = 30 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged, which keepalive does not see.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Shown in `pg_stat_activity` unless the URL says otherwise.
const APPLICATION_NAME: &str = "rondo";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one.
    #[error(
        "the database URL {url} cannot be used: {reason}; write it as postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=prefer"
    )]
    Url {
        /// The URL without its password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The trust store or `sslrootcert` cannot be used.
    #[error("TLS for {url} cannot be set up: {reason}")]
    Tls {
        /// The URL without its password.
        url: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The server could not be reached, or refused the login.
    #[error("no connection to {url}: {advice}")]
    Connect {
        /// The URL without its password.
        url: String,
        /// What to look at.
        advice: &'static str,
        /// The driver's or the server's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A pool of at most `size` connections; connects when first asked. Its clients keep prepared statements
/// (`prepare_cached`).
///
/// # Errors
/// [`Error::Url`] and [`Error::Tls`]; whether the server answers is found out later.
pub fn pool(url: &str, size: usize) -> Result<Pool, Error> {
    let pool = builder(url, size)?.build();
    Ok(pool.expect("a runtime is given with the timeouts"))
}

/// A [`pool`] for statements that find what they want by its key, however many values they are given: each is planned once,
/// with its keys.
///
/// Left to itself Postgres plans them for each short list of values anew, which takes longer than the statement; and a plan
/// that is made while the tables are empty reads them whole, until they are first vacuumed.
///
/// # Errors
/// As [`pool`].
pub fn planned_once(url: &str, size: usize) -> Result<Pool, Error> {
    // What has no key here, such as a table of one row, costs too much to be believed: nothing is to be compiled for that.
    const PLANNING: &str = "SET plan_cache_mode = force_generic_plan;
        SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
        SET jit = off";
    let set = Hook::async_fn(|client: &mut ClientWrapper, _| {
        Box::pin(async move { client.batch_execute(PLANNING).await.map_err(HookError::Backend) })
    });
    let pool = builder(url, size)?.post_create(set).build();
    Ok(pool.expect("a runtime is given with the timeouts"))
}

fn builder(url: &str, size: usize) -> Result<PoolBuilder, Error> {
    let (config, tls) = parse(url)?;
    let manager_config = ManagerConfig {
        // A dead connection fails its first statement, which every caller handles anyway; a round trip at each checkout
        // would be paid by all the others.
        recycling_method: RecyclingMethod::Fast,
    };
    Ok(Pool::builder(Manager::from_config(config, tls, manager_config))
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(WAIT_TIMEOUT))
        .create_timeout(Some(CREATE_TIMEOUT))
        .recycle_timeout(Some(RECYCLE_TIMEOUT)))
}

/// A [`pool`] whose first connection has been made, so that a wrong URL or password is found at start.
///
/// # Errors
/// See [`Error`].
pub async fn connect(url: &str, size: usize) -> Result<Pool, Error> {
    let pool = pool(url, size)?;
    match pool.get().await {
        Ok(_) => Ok(pool),
        Err(PoolError::Backend(source)) => Err(unreachable(url, source)),
        Err(other) => Err(Error::Connect {
            url: redacted(url),
            advice: "it did not answer in time; is the host right, and does a firewall drop the packets?",
            source: Box::new(other),
        }),
    }
}

/// One connection of its own, for LISTEN or a session lock. It ends when the client is dropped.
///
/// # Errors
/// See [`Error`].
pub async fn single(url: &str) -> Result<Client, Error> {
    let (config, tls) = parse(url)?;
    let (client, connection) = connected(url, config.connect(tls)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a Postgres connection ended");
        }
    });
    Ok(client)
}

/// How many other connections processes of ours have to this database.
///
/// # Errors
/// The database's.
pub async fn others(client: &impl deadpool_postgres::GenericClient) -> Result<i64, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = $1",
            &[&APPLICATION_NAME],
        )
        .await?;
    Ok(row.get(0))
}

/// One connection and the notifications it receives: called for each, from the connection's own task, so it must not
/// block. The task ends, and so can be awaited, when the connection is lost or the client dropped.
///
/// # Errors
/// See [`Error`].
pub async fn listening<F>(url: &str, mut notified: F) -> Result<(Client, JoinHandle<()>), Error>
where
    F: FnMut(&str, &str) + Send + 'static,
{
    let (config, tls) = parse(url)?;
    let (client, mut connection) = connected(url, config.connect(tls)).await?;
    let task = tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(note))) => notified(note.channel(), note.payload()),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a listening connection ended");
                    return;
                }
                None => return,
            }
        }
    });
    Ok((client, task))
}

async fn connected<T>(
    url: &str,
    connecting: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CREATE_TIMEOUT, connecting).await {
        Ok(result) => result.map_err(|source| unreachable(url, source)),
        Err(elapsed) => Err(Error::Connect {
            url: redacted(url),
            advice: "it did not answer in time; is the host right, and does a firewall drop the packets?",
            source: Box::new(elapsed),
        }),
    }
}

fn unreachable(url: &str, source: tokio_postgres::Error) -> Error {
    let advice = match source.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => {
            "the server refuses this user or password; correct them in the URL"
        }
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "the server does not let this user in this way; check the user, and whether it demands TLS (sslmode=require)"
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            "the server has no such database; create it or correct the URL's path"
        }
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => {
            "the server has no connection left; raise max_connections or make the pools smaller"
        }
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => "the server is starting or stopping; try again soon",
        Some(_) => "the server refused the session",
        None if source.to_string().contains("TLS") => {
            "the TLS handshake failed; check sslmode and sslrootcert in the URL"
        }
        None => "is the server running, and are host and port right?",
    };
    Error::Connect {
        url: redacted(url),
        advice,
        source: Box::new(source),
    }
}

/// What a failed statement means for the work that it was part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Somebody else was first: reload and try the whole transaction again.
    Conflict,
    /// The session or the server is gone or has no room: try again later, on another connection.
    Connection,
    /// This data cannot be stored: one of the records is at fault.
    Data,
    /// The statement itself is wrong, or something nobody foresaw.
    Other,
}

/// Classifies `error`. A violation of one of the unique constraints `contended` is a conflict, any other is data.
pub fn failure(error: &tokio_postgres::Error, contended: &[&str]) -> Failure {
    let Some(server) = error.as_db_error() else {
        return without_server(error);
    };
    let constraint = server.constraint().unwrap_or_default();
    of_code(server.code().code(), contended.contains(&constraint))
}

/// Classifies an error of the pool: what it could not get is a connection.
pub fn pool_failure(error: &PoolError, contended: &[&str]) -> Failure {
    match error {
        PoolError::Backend(error) => match failure(error, contended) {
            // No session could be made. Nothing a record could be blamed for.
            Failure::Data | Failure::Other => Failure::Connection,
            other => other,
        },
        _ => Failure::Connection,
    }
}

fn of_code(code: &str, contended: bool) -> Failure {
    match code {
        "23505" if contended => Failure::Conflict,
        // The outcome of the commit is unknown: the same as a connection lost at commit.
        "40003" => Failure::Connection,
        // Serialization, deadlock; lock_timeout; statement_timeout, which is contention too.
        "40000" | "40001" | "40002" | "40P01" | "55P03" | "57014" => Failure::Conflict,
        // Connected to what has become a standby.
        "25006" => Failure::Connection,
        // A prepared statement that a migration or a connection pooler has taken away.
        "26000" => Failure::Connection,
        _ => match &code[..code.len().min(2)] {
            // Connection exceptions; out of disk, memory or connections; shutdown and recovery; I/O errors.
            "08" | "53" | "57" | "58" => Failure::Connection,
            "22" | "23" => Failure::Data,
            _ => Failure::Other,
        },
    }
}

fn without_server(error: &tokio_postgres::Error) -> Failure {
    if error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>()) {
        return Failure::Connection;
    }
    // The driver keeps its error kinds to itself; these two have neither a source of a known type nor a code.
    match error.to_string() {
        text if text.starts_with("error connecting to server") => Failure::Connection,
        text if text.starts_with("timeout waiting for server") => Failure::Connection,
        // A value that the driver could not write, such as a text with a NUL.
        text if text.starts_with("error serializing parameter") => Failure::Data,
        _ => Failure::Other,
    }
}

/// `url` with its password, if any, replaced by `***`: for messages.
pub fn redacted(url: &str) -> String {
    let hidden = match url.split_once("://") {
        Some((scheme, rest)) => {
            let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
            // A password may hold an unescaped slash or question mark: whatever ends at the last @ is user information.
            let at = rest
                .rfind('@')
                .filter(|at| *at < authority_end || rest[..*at].contains(':'));
            match at.map(|at| rest.split_at(at)) {
                Some((user, host)) => match user.split_once(':') {
                    Some((name, _)) => format!("{scheme}://{name}:***{host}"),
                    None => url.to_owned(),
                },
                None => url.to_owned(),
            }
        }
        None => url.to_owned(),
    };
    hide_parameter(&hidden, "password=")
}

fn hide_parameter(text: &str, name: &str) -> String {
    let Some(start) = text.find(name).map(|found| found + name.len()) else {
        return text.to_owned();
    };
    let rest = &text[start..];
    let end = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.find('\'').map_or(rest.len(), |end| end + 2),
        None => rest.find(['&', ' ']).unwrap_or(rest.len()),
    };
    format!("{}***{}", &text[..start], &rest[end..])
}

fn parse(url: &str) -> Result<(Config, tokio_postgres_rustls::MakeRustlsConnect), Error> {
    let (plain, settings) = tls::Settings::taken_from(url).map_err(|reason| Error::Url {
        url: redacted(url),
        reason,
    })?;
    let mut config: Config = plain.parse().map_err(|error: tokio_postgres::Error| Error::Url {
        url: redacted(url),
        reason: error
            .source()
            .map_or_else(|| error.to_string(), |source| source.to_string()),
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Error::Url {
            url: redacted(url),
            reason: "it names no host".to_owned(),
        });
    }
    config.ssl_mode(settings.mode());
    if config.get_application_name().is_none() {
        config.application_name(APPLICATION_NAME);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    config
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES);
    let connector = settings.connector().map_err(|reason| Error::Tls {
        url: redacted(url),
        reason,
    })?;
    Ok((config, connector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            (
                "postgres://app:s3cret@db:5432/orders",
                "postgres://app:***@db:5432/orders",
            ),
            ("postgres://app:p@ss/w?rd@db/orders", "postgres://app:***@db/orders"),
            ("postgres://app@db/orders", "postgres://app@db/orders"),
            (
                "postgres://db/orders?user=app&password=s3cret&sslmode=disable",
                "postgres://db/orders?user=app&password=***&sslmode=disable",
            ),
            (
                "host=db user=app password=s3cret dbname=orders",
                "host=db user=app password=*** dbname=orders",
            ),
            (
                "host=db password='s3 cret' dbname=orders",
                "host=db password=*** dbname=orders",
            ),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn a_bad_url_is_explained_without_its_password() {
        let error = pool("postgres://app:s3cret@db:port/orders", 2).expect_err("the port is no number");
        let text = error.to_string();
        assert!(text.contains("port"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[test]
    fn what_the_url_leaves_open_is_bounded() {
        let (config, _) = parse("postgres://app@db/orders?application_name=mine&connect_timeout=2").unwrap();
        assert_eq!(config.get_application_name(), Some("mine"));
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(2)));
        assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert_eq!(config.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
    }

    #[test]
    fn a_failure_tells_whether_to_retry_all_or_to_look_for_the_culprit() {
        for (code, contended, expected) in [
            ("23505", true, Failure::Conflict),
            ("23505", false, Failure::Data),
            ("40001", false, Failure::Conflict),
            ("40P01", false, Failure::Conflict),
            ("55P03", false, Failure::Conflict),
            ("40003", false, Failure::Connection),
            ("57P01", false, Failure::Connection),
            ("57P03", false, Failure::Connection),
            ("53300", false, Failure::Connection),
            ("08006", false, Failure::Connection),
            ("25006", false, Failure::Connection),
            ("22021", false, Failure::Data),
            ("23514", false, Failure::Data),
            ("42P01", false, Failure::Other),
            ("", false, Failure::Other),
        ] {
            assert_eq!(of_code(code, contended), expected, "{code}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_a_connection_failure_with_advice() {
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = refused.local_addr().unwrap().port();
        drop(refused);
        let url = format!("postgres://app:s3cret@127.0.0.1:{port}/orders");
        let error = connect(&url, 1).await.expect_err("nobody listens");
        assert!(error.to_string().contains("is the server running"), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"));
        let direct = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
        assert_eq!(
            failure(&direct.err().expect("nobody listens"), &[]),
            Failure::Connection
        );
    }
}
