//! A Kafka-protocol broker in this process: Tansu, with its log in one SQLite file.
//!
//! ```text
//! <data_dir>/lock       held by the process that runs the broker, for as long as it lives
//! <data_dir>/log.db     topics, records, offsets, groups (and SQLite's -wal and -shm beside it)
//! ```
//!
//! It runs on threads of its own: its SQLite calls block, and must not hold up the caller's runtime, which it may outlive.
//!
//! What a client has to know about it:
//!
//! - A fetch is answered only when `fetch.wait.max.ms` is over, even if records are there: see [`CLIENT_PROPERTIES`].
//! - A record whose key and value reach 5 MiB is accepted and then never delivered: see [`RECORD_BYTES_MAX`].
//! - A fetch from beyond the end of the log is answered with nothing instead of `OffsetOutOfRange`, and looks like silence:
//!   compare positions with the watermarks.
//! - A member of a group that dies beside others may keep its partitions for as long as the broker lives; one that was alone
//!   keeps them until its session is over. A start forgets all members.
//! - It does not describe groups: listing them fails with a broken connection.
//! - It acknowledges before the disk does: acknowledged records survive this process's death, not the machine's.
//! - It has no transactions, and keeps every record for ever: nothing is deleted by age, nothing compacted.

mod batches;
mod liveness;
mod log;

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rama_core::{Context, Service};
use tansu_broker::coordinator::group::administrator::Controller;
use tansu_broker::service::services;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use url::Url;

use self::batches::BatchLog;

/// The largest sum of a record's key and value that this broker delivers to a consumer: it never fills a fetch to its
/// bound of 5 MiB, not even with a single record.
pub const RECORD_BYTES_MAX: usize = 5 * 1024 * 1024 - 1;

/// The log's file in the data directory.
pub const LOG_FILE: &str = "log.db";

/// What consumers of this broker set, as librdkafka names it. A lone order waits for it at each step, and a question that
/// finds nothing new costs next to nothing here. Kafka answers a fetch as soon as there is a record, so there so short a wait
/// would only make idle consumers ask hundreds of times a second. A heartbeat is a question to the log, too, and copies seldom
/// join here.
pub const CLIENT_PROPERTIES: [(&str, &str); 2] = [("fetch.wait.max.ms", "2"), ("heartbeat.interval.ms", "2000")];

/// Names the log to Tansu, which keeps several clusters apart in one file; renaming it would hide all data.
const CLUSTER_ID: &str = "embedded";

/// The only broker's id.
const NODE_ID: i32 = 1;

/// One thread is busy with SQLite while the other serves sockets.
const THREADS: usize = 2;

/// A start that takes longer hangs: opening the file takes milliseconds.
const START_SECS_MAX: u64 = 30;

/// How often a starting broker is asked whether it listens.
const START_POLL_MS: u64 = 5;

/// How often a start is tried: its port can be taken in between, and Tansu, which does not wait for SQLite's locks, can
/// meet the last of whoever had the log open before.
const START_ATTEMPTS_MAX: usize = 5;

/// How long to wait before the next try.
const START_AGAIN: Duration = Duration::from_millis(100);

/// How long to wait after a connection that the system refused.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Patience with requests under way at a stop.
const STOP_SECS_MAX: u64 = 5;

/// What to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the log lives.
    pub data_dir: PathBuf,
    /// Exactly this port of 127.0.0.1, or by default any that is free.
    pub port: Option<u16>,
}

impl Settings {
    /// A broker in `data_dir` on any port.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: None,
        }
    }
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another living process runs the broker of this directory.
    #[error("another process already runs the broker in {}", data_dir.display())]
    InUse {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// The asked port is taken.
    #[error("port {port} is taken")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// A file or directory could not be used, or a thread not started.
    #[error("cannot run a broker in {}", path.display())]
    Io {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log could not be opened.
    #[error("cannot open the broker's log")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The broker ended while it started, or did not listen in time.
    #[error("the broker did not start: {reason}")]
    NotListening {
        /// What it said.
        reason: String,
    },
}

/// A running broker. Dropping it stops it without waiting for requests under way; [`Broker::stop`] waits a little.
#[derive(Debug)]
pub struct Broker {
    port: u16,
    runtime: Mutex<Option<Runtime>>,
    /// The reason the broker ended, once it has.
    ended: watch::Receiver<Option<String>>,
    _detour: Option<TempDir>,
    _lock: File,
}

impl Broker {
    /// Starts the broker of `settings` and returns once it listens.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn start(settings: Settings) -> Result<Self, Error> {
        let data_dir = std::path::absolute(&settings.data_dir).map_err(at(&settings.data_dir))?;
        fs::create_dir_all(&data_dir).map_err(at(&data_dir))?;
        let lock = crate::lock::hold(&data_dir).map_err(at(&data_dir))?;
        let lock = lock.ok_or_else(|| Error::InUse {
            data_dir: data_dir.clone(),
        })?;
        let (storage, detour) = storage_url(&data_dir).map_err(at(&data_dir))?;

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("broker")
            .enable_all()
            .build()
            .map_err(at(&data_dir))?;
        let handle = runtime.handle().clone();
        // From here on an early return drops a `Broker`, which knows how to end a runtime from async code.
        let (tell, ended) = watch::channel(None);
        let mut broker = Self {
            port: 0,
            runtime: Mutex::new(Some(runtime)),
            ended,
            _detour: detour,
            _lock: lock,
        };

        let (preparing, file) = (storage.clone(), data_dir.join(LOG_FILE));
        let prepared = handle.spawn(async move { log::prepare(&preparing, &file).await });
        prepared.await.map_err(|error| Error::NotListening {
            reason: error.to_string(),
        })??;

        for attempt in 1.. {
            broker.port = match settings.port {
                Some(port) if crate::port::is_free(port) => port,
                Some(port) => return Err(Error::PortTaken { port }),
                None => crate::port::any().map_err(at(&data_dir))?,
            };
            let serving = handle.spawn(serve(storage.clone(), broker.port, tell.clone()));
            match broker.listening().await {
                Ok(()) => break,
                Err(error) if attempt == START_ATTEMPTS_MAX => return Err(error),
                Err(error) => {
                    tracing::debug!(attempt, %error, "the broker is started again");
                    serving.abort();
                    tell.send_replace(None);
                    sleep(START_AGAIN).await;
                }
            }
        }
        Ok(broker)
    }

    /// Where it listens, as `bootstrap.servers` wants it: `127.0.0.1:9092`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// Resolves when the broker has ended by itself, with the reason; forever pending while it runs or when it was stopped.
    pub async fn wait(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops it, waiting up to 5 seconds for what is being written.
    pub async fn stop(&self) {
        let runtime = self
            .runtime
            .lock()
            .expect("nothing panics while it holds this lock")
            .take();
        if let Some(runtime) = runtime {
            let patience = Duration::from_secs(STOP_SECS_MAX);
            // It fails only if the shutdown itself panicked, and then too the broker is gone.
            let _ = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(patience)).await;
        }
    }

    /// Waits until the port answers or the broker has given up.
    async fn listening(&self) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(START_SECS_MAX);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        loop {
            let answers = TcpStream::connect(address).await.is_ok();
            if let Some(reason) = self.ended.borrow().clone() {
                return Err(Error::NotListening { reason });
            }
            if answers {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::NotListening {
                    reason: format!("no answer within {START_SECS_MAX} s"),
                });
            }
            sleep(Duration::from_millis(START_POLL_MS)).await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().ok().and_then(Option::take) {
            runtime.shutdown_background();
        }
    }
}

/// Serves until the runtime ends or something breaks, which `tell` then hears.
async fn serve(storage: Url, port: u16, tell: watch::Sender<Option<String>>) {
    let reason = tokio::select! {
        outcome = accept(storage, port) => match outcome {
            Ok(never) => match never {},
            Err(error) => format!("the broker ended: {error:?}"),
        },
        reason = liveness::lost(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) => reason,
    };
    // Without a listener there is nobody left who would act on it.
    let _ = tell.send(Some(reason));
}

/// Serves each connection in a task of its own.
async fn accept(storage: Url, port: u16) -> Result<Infallible, tansu_broker::Error> {
    // A port that answers is taken for a broker that has started.
    let log = BatchLog::new(log::open(storage, port).await?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let groups = Controller::with_storage(log.clone())?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    stream.set_nodelay(true)?;
                    let service = services(CLUSTER_ID, groups.clone(), log.clone(), None)?;
                    connections.spawn(async move {
                        if let Err(error) = service.serve(Context::default(), stream).await {
                            tracing::debug!(?error, "a connection ended");
                        }
                    });
                }
                // Such as too many open files: some of them may be closed in a moment.
                Err(error) => {
                    tracing::warn!(%error, "the broker could not accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
}

/// Tansu's URL for the log in `data_dir`, and a symbolic link on the way there if needed.
///
/// Tansu takes the path from the URL as it stands, percent signs included, so a directory with a space in its name is
/// reached through a link that has none.
fn storage_url(data_dir: &Path) -> io::Result<(Url, Option<TempDir>)> {
    let plain = |dir: &Path| {
        let path = dir.join(LOG_FILE);
        let url = Url::parse(&format!("sqlite:///{}", path.to_str()?)).ok()?;
        (url.path().strip_prefix('/') == path.to_str()).then_some(url)
    };
    if let Some(url) = plain(data_dir) {
        return Ok((url, None));
    }
    let detour = tempfile::tempdir()?;
    let link = detour.path().join("broker");
    std::os::unix::fs::symlink(data_dir, &link)?;
    let url =
        plain(&link).ok_or_else(|| io::Error::other("the directory for temporary files has a name that is no URL"))?;
    Ok((url, Some(detour)))
}

/// Turns an [`io::Error`] into one that names the path.
fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_whose_name_a_url_would_change_is_reached_by_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (url, detour) = storage_url(dir.path()).unwrap();
        assert!(detour.is_none());
        assert_eq!(url.path(), format!("/{}/log.db", dir.path().display()));

        for odd in ["with space", "käse", "a?b#c"] {
            let odd = dir.path().join(odd);
            fs::create_dir(&odd).unwrap();
            let (url, detour) = storage_url(&odd).unwrap();
            let link = PathBuf::from(url.path().strip_prefix('/').unwrap());
            assert!(detour.is_some());
            assert_eq!(
                link.parent().unwrap().canonicalize().unwrap(),
                odd.canonicalize().unwrap()
            );
        }
    }
}
