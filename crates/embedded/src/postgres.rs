//! A private Postgres cluster in a data directory.
//!
//! ```text
//! <data_dir>/          owned by the account that runs Postgres, mode 0700
//!   lock               held by the process that runs the cluster, for as long as it lives
//!   password           of the superuser, made once, mode 0600
//!   port               where it listened last; kept, so that noted URLs stay true
//!   postgres.log       what the server says
//!   cluster/           PGDATA
//! ```
//!
//! It listens on 127.0.0.1 alone, and asks for the password because every user of a machine reaches loopback. Unix sockets
//! are off: their paths are bounded to about 100 bytes and a data directory's is not.
//!
//! A crash of this process leaves the postmaster running. The next start holds the lock, so whatever postmaster still
//! serves the directory belongs to nobody: it is stopped, and a fresh one started. It never touches a cluster whose lock
//! another living process holds, and never replaces the files of another major version.

mod account;
mod binaries;
mod postmaster;

use account::Account;
use binaries::Binaries;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// PGDATA within the data directory.
const CLUSTER: &str = "cluster";

/// The superuser that `initdb` makes and every URL names.
const USER: &str = "rondo";

/// The log is put aside at a start that finds it larger.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// How much of the log's end an error carries.
const LOG_TAIL_LINES: usize = 12;

/// Replaying the log after a crash takes seconds for each GB of it; beyond this the machine is in trouble.
const START_SECS_MAX: u64 = 180;

/// How often a starting server is asked whether it answers.
const START_POLL_MS: u64 = 20;

/// How often a start whose port was taken in between picks another.
const PORT_ATTEMPTS_MAX: usize = 5;

/// Patience with a fast shutdown, which writes a checkpoint, before an immediate one.
const STOP_SECS_MAX: u64 = 20;

/// What to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the cluster lives. As root it may have to live elsewhere: see [`Postgres::data_dir`].
    pub data_dir: PathBuf,
    /// Exactly this port, or by default the one of the last time if it is free, else any.
    pub port: Option<u16>,
    /// Whether commits survive the machine's crash. `false` is for clusters that are thrown away.
    pub durable: bool,
    /// Where fetched programs are kept; by default `rondo/postgres` in the user's cache directory.
    pub cache_dir: Option<PathBuf>,
}

impl Settings {
    /// A durable cluster in `data_dir` on any port.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: None,
            durable: true,
            cache_dir: None,
        }
    }
}

/// What a start is busy with: each step can take seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The programs of this major version are being downloaded and unpacked, once.
    Fetching {
        /// The major version.
        major: u32,
    },
    /// The cluster's files are being made, once.
    Initialising,
    /// A postmaster that a crashed process left behind is being stopped.
    StoppingLeftover,
    /// The server starts, and recovers if it was not stopped in order.
    Starting,
}

/// Why there is no Postgres.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither fetched nor installed.
    #[error(
        "no Postgres {major} to run ({reason}). Install it (Debian: apt-get install postgresql; macOS: brew install \
         postgresql@{major}), or set RONDO_POSTGRES_BIN to a directory with initdb, postgres and pg_ctl"
    )]
    NoBinaries {
        /// The wanted major version.
        major: u32,
        /// Why it could not be fetched.
        reason: String,
    },
    /// `RONDO_POSTGRES_BIN` was set, and wrongly.
    #[error(
        "RONDO_POSTGRES_BIN is {}, where initdb, postgres and pg_ctl are not all present, executable and open to the account \
         that runs them", dir.display()
    )]
    UnusableBinaries {
        /// What the variable says.
        dir: PathBuf,
    },
    /// The cluster was made by another major version, whose files this one cannot read.
    #[error(
        "this cluster was made by Postgres {made_by}, and {} has version {found}: point RONDO_POSTGRES_BIN at a Postgres \
         {made_by}, or unset it, or start anew in an empty data directory", dir.display()
    )]
    OtherMajor {
        /// The cluster's version.
        made_by: u32,
        /// The programs' version.
        found: u32,
        /// Where the programs are.
        dir: PathBuf,
    },
    /// Another living process runs this cluster.
    #[error("another process already runs the Postgres cluster in {}", data_dir.display())]
    InUse {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A file or directory of the cluster could not be used.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program of Postgres failed or could not be run.
    #[error("{program} failed: {said}")]
    Program {
        /// Which program.
        program: &'static str,
        /// What it printed, or why it did not run.
        said: String,
    },
    /// The asked port is taken.
    #[error("port {port} is taken")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// A query of this module failed.
    #[error("the cluster refused a query")]
    Query(#[from] tokio_postgres::Error),
}

/// A running cluster. Dropping it stops the server the hard way, without a checkpoint; [`Postgres::stop`] is the tidy way.
#[derive(Debug)]
pub struct Postgres {
    data_dir: PathBuf,
    port: u16,
    password: Password,
    account: Account,
    binaries: Binaries,
    /// The reason the postmaster ended, once it has.
    ended: watch::Receiver<Option<String>>,
    stopped: AtomicBool,
    _lock: File,
}

/// Kept out of `Debug` output, and so out of logs.
struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Postgres {
    /// Starts the cluster of `settings`, making it first if it does not exist, and returns once it answers.
    ///
    /// # Errors
    ///
    /// See [`Error`]; each says what to do.
    pub async fn start(settings: Settings, progress: impl Fn(Progress) + Send + Sync) -> Result<Self, Error> {
        let (account, data_dir) = place(&settings.data_dir)?;
        account.create_private_dir(&data_dir).map_err(at(&data_dir))?;
        let lock = lock(account, &data_dir)?;

        let cluster = data_dir.join(CLUSTER);
        let made_by = fs::read_to_string(cluster.join("PG_VERSION"))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let binaries = Binaries::obtain(account, made_by, settings.cache_dir.as_deref(), &progress).await?;
        let password = Password(password(account, &data_dir)?);
        if made_by.is_none() {
            progress(Progress::Initialising);
            initialise(account, &binaries, &data_dir).await?;
        } else {
            postmaster::clear_leftover(account, &binaries, &cluster, &progress).await?;
        }

        progress(Progress::Starting);
        let mut port = match settings.port {
            Some(port) => port,
            None => remembered_port(&data_dir)?,
        };
        let mut attempt = 1;
        loop {
            match launch(account, &binaries, &data_dir, port, &password, settings.durable).await {
                Ok(ended) => {
                    let path = data_dir.join("port");
                    fs::write(&path, port.to_string())
                        .and_then(|()| account.own(&path))
                        .map_err(at(&path))?;
                    let stopped = AtomicBool::new(false);
                    return Ok(Self {
                        data_dir,
                        port,
                        password,
                        account,
                        binaries,
                        ended,
                        stopped,
                        _lock: lock,
                    });
                }
                Err(Error::PortTaken { .. }) if settings.port.is_none() && attempt < PORT_ATTEMPTS_MAX => {
                    port = crate::port::any().map_err(at(&data_dir))?;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The URL of a database of this cluster, for its superuser, with the password in it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{}@127.0.0.1:{}/{database}",
            self.password.0, self.port
        )
    }

    /// Where the cluster really lives: the asked directory, or as root a stand-in under `/var/lib/rondo` when the account
    /// that runs Postgres cannot enter the asked one.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates the database `name` unless it exists.
    ///
    /// # Errors
    ///
    /// [`Error::Query`] when the server refuses it.
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        let client = connect(&self.url("postgres")).await?;
        if client
            .query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name])
            .await?
            .is_some()
        {
            return Ok(());
        }
        let create = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
        match client.batch_execute(&create).await {
            // Another process created it in between: the second code is what two at the same instant get.
            Err(error)
                if matches!(
                    error.code(),
                    Some(&SqlState::DUPLICATE_DATABASE | &SqlState::UNIQUE_VIOLATION)
                ) =>
            {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Resolves when the server has ended, with the reason; forever pending while it runs.
    pub async fn wait(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The task that watches the server went down with its runtime: nobody is left to be told.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops the server: clients are disconnected and a checkpoint is written; after 20 seconds of that, without one.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] when it could not be stopped.
    pub async fn stop(&self) -> Result<(), Error> {
        self.stopped.store(true, Ordering::Relaxed);
        if self.ended.borrow().is_some() {
            return Ok(());
        }
        let cluster = self.data_dir.join(CLUSTER);
        postmaster::stop(self.account, &self.binaries, &cluster).await?;
        // `pg_ctl` saw the pid file go; the process itself follows within moments.
        let _ = timeout(Duration::from_secs(STOP_SECS_MAX), self.wait()).await;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.stopped.load(Ordering::Relaxed) || self.ended.borrow().is_some() {
            return;
        }
        let cluster = self.data_dir.join(CLUSTER);
        let mut command = self.account.command(&self.binaries.program("pg_ctl"), &self.data_dir);
        command
            .args(["stop", "--silent", "--no-wait", "--mode=immediate", "-D"])
            .arg(cluster);
        if let Err(error) = command
            .as_std_mut()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
        {
            tracing::warn!(%error, "the embedded Postgres could not be told to stop");
        }
    }
}

/// Where a start would make the cluster that `wanted` names, if there is none.
///
/// # Errors
///
/// [`Error::File`] when it cannot be told where the cluster lives.
pub fn missing(wanted: &Path) -> Result<Option<PathBuf>, Error> {
    let (_, data_dir) = place(wanted)?;
    Ok((!data_dir.join(CLUSTER).is_dir()).then_some(data_dir))
}

/// Removes the cluster that `wanted` names, wherever it really lives, stopping a postmaster left behind by a crash.
///
/// # Errors
///
/// [`Error::InUse`] while a living process runs it; [`Error::File`] when something cannot be removed.
pub async fn remove(wanted: &Path) -> Result<(), Error> {
    let (account, data_dir) = place(wanted)?;
    if !data_dir.is_dir() {
        return Ok(());
    }
    let _lock = lock(account, &data_dir)?;
    postmaster::kill_leftover(account, &data_dir.join(CLUSTER)).await?;
    fs::remove_dir_all(&data_dir).map_err(at(&data_dir))
}

/// A shell script that stops the cluster that `wanted` names at once and removes it: for a watchdog that outlives the
/// process which runs the cluster.
///
/// # Errors
///
/// [`Error::File`] when it cannot be told where the cluster lives.
pub fn destroy_script(wanted: &Path) -> Result<String, Error> {
    let (_, data_dir) = place(wanted)?;
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let pid = quoted(&data_dir.join(CLUSTER).join("postmaster.pid"));
    let dir = quoted(&data_dir);
    // SIGQUIT is the immediate shutdown; the postmaster removes its pid file as its last act.
    Ok(format!(
        "kill -QUIT $(head -n 1 {pid} 2>/dev/null) 2>/dev/null; n=0; \
         while [ -e {pid} ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done; rm -rf {dir}"
    ))
}

/// Who runs the cluster wanted in `wanted`, and where it lives.
fn place(wanted: &Path) -> Result<(Account, PathBuf), Error> {
    let wanted = std::path::absolute(wanted).map_err(at(wanted))?;
    Account::place(&wanted).map_err(at(&wanted))
}

/// Turns an [`io::Error`] into one that names the path.
fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

fn lock(account: Account, data_dir: &Path) -> Result<File, Error> {
    let held = crate::lock::hold(data_dir).map_err(at(data_dir))?;
    let file = held.ok_or_else(|| Error::InUse {
        data_dir: data_dir.to_owned(),
    })?;
    account.own(&data_dir.join("lock")).map_err(at(data_dir))?;
    Ok(file)
}

/// The superuser's password, made at the first call.
fn password(account: Account, data_dir: &Path) -> Result<String, Error> {
    let path = data_dir.join("password");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
        _ => {}
    }
    let made = Uuid::new_v4().simple().to_string();
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(made.as_bytes())?;
        account.own(&path)
    };
    write().map_err(at(&path))?;
    Ok(made)
}

/// Makes the cluster beside its place and moves it there whole, so that a crash on the way leaves none.
async fn initialise(account: Account, binaries: &Binaries, data_dir: &Path) -> Result<(), Error> {
    let beside = data_dir.join("cluster.new");
    match fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&beside)(error)),
        _ => {}
    }
    let output = account
        .command(&binaries.program("initdb"), data_dir)
        .args([
            "--username",
            USER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
        ])
        .arg("--pwfile")
        .arg(data_dir.join("password"))
        .arg("-D")
        .arg(&beside)
        .output()
        .await
        .map_err(|error| Error::Program {
            program: "initdb",
            said: error.to_string(),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Program {
            program: "initdb",
            said,
        });
    }
    let cluster = data_dir.join(CLUSTER);
    fs::rename(&beside, &cluster).map_err(at(&cluster))
}

/// Last time's port when nothing else took it since, else a free one.
fn remembered_port(data_dir: &Path) -> Result<u16, Error> {
    let path = data_dir.join("port");
    let last = fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    crate::port::free_or(last).map(|(port, _)| port).map_err(at(&path))
}

/// Starts a postmaster and returns once it answers; the receiver learns why it ended.
async fn launch(
    account: Account,
    binaries: &Binaries,
    data_dir: &Path,
    port: u16,
    password: &Password,
    durable: bool,
) -> Result<watch::Receiver<Option<String>>, Error> {
    let (log_path, log) = open_log(account, data_dir)?;
    let log_start = log.metadata().map_err(at(&log_path))?.size();
    let program = |error: io::Error| Error::Program {
        program: "postgres",
        said: error.to_string(),
    };
    let mut command = account.command(&binaries.program("postgres"), data_dir);
    command
        .arg("-D")
        .arg(data_dir.join(CLUSTER))
        .arg("-p")
        .arg(port.to_string());
    for setting in SERVER_SETTINGS
        .iter()
        .chain(if durable { &[] } else { THROW_AWAY_SETTINGS })
    {
        command.arg("-c").arg(setting);
    }
    let stderr = log.try_clone().map_err(at(&log_path))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(stderr)
        .spawn()
        .map_err(program)?;

    let url = format!("postgres://{USER}:{}@127.0.0.1:{port}/postgres", password.0);
    let deadline = Instant::now() + Duration::from_secs(START_SECS_MAX);
    loop {
        if let Some(status) = child.try_wait().map_err(program)? {
            let said = log_tail(&log_path, log_start);
            if said.contains("could not create any TCP/IP sockets") {
                return Err(Error::PortTaken { port });
            }
            return Err(Error::Program {
                program: "postgres",
                said: format!("{status}; its log ends:\n{said}"),
            });
        }
        if let Ok(Ok(_)) = timeout(Duration::from_secs(1), connect(&url)).await {
            break;
        }
        if Instant::now() > deadline {
            let _ = child.kill().await;
            let said = format!(
                "no answer within {START_SECS_MAX} s; its log ends:\n{}",
                log_tail(&log_path, log_start)
            );
            return Err(Error::Program {
                program: "postgres",
                said,
            });
        }
        sleep(Duration::from_millis(START_POLL_MS)).await;
    }

    let (tell, ended) = watch::channel(None);
    tokio::spawn(async move {
        let how = child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        let said = log_tail(&log_path, log_start);
        // Without a listener there is nobody left who would act on it.
        let _ = tell.send(Some(format!("Postgres ended ({how}); its log ends:\n{said}")));
    });
    Ok(ended)
}

/// What every embedded server runs with; the rest is Postgres' own defaults (fsync and synchronous_commit are on).
const SERVER_SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=128MB",
    // Sagas are short statements: compiling one costs more than running it.
    "jit=off",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_line_prefix=%m [%p] %d ",
];

/// For clusters that are removed after use: nothing of theirs needs to reach the disk.
const THROW_AWAY_SETTINGS: &[&str] = &["fsync=off", "synchronous_commit=off", "full_page_writes=off"];

fn open_log(account: Account, data_dir: &Path) -> Result<(PathBuf, File), Error> {
    let path = data_dir.join("postgres.log");
    if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(&path, data_dir.join("postgres.log.1")).map_err(at(&path))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(at(&path))?;
    account.own(&path).map_err(at(&path))?;
    Ok((path, file))
}

/// The last lines that were logged past byte `start`.
fn log_tail(path: &Path, start: u64) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let start = usize::try_from(start).unwrap_or(0).min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[start..]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client; what goes wrong before, the client's own calls report.
    tokio::spawn(connection);
    Ok(client)
}
