//! Stopping a postmaster, above all one that an earlier process left behind.
//!
//! The caller holds the data directory's lock: no living process of ours uses the server that is stopped here.

use super::account::Account;
use super::binaries::Binaries;
use super::{Error, Progress, STOP_SECS_MAX};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a dying process is looked at.
const GONE_POLL_MS: u64 = 20;

/// A killed process that lingers longer hangs in the kernel.
const KILL_SECS_MAX: u64 = 10;

/// Makes sure no postmaster serves `cluster`: one that does is stopped, a pid file without one is removed, for Postgres
/// would refuse to start if some other process of the same user had got that pid since.
pub(super) async fn clear_leftover(
    account: Account,
    binaries: &Binaries,
    cluster: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), Error> {
    if let Some(pid) = recorded_pid(cluster)
        && serves(pid, cluster).await
    {
        progress(Progress::StoppingLeftover);
        tracing::info!(
            process.pid = pid,
            "stopping the Postgres that an earlier crash left behind"
        );
        if let Err(error) = stop(account, binaries, cluster).await {
            tracing::warn!(%error, "the Postgres left behind does not stop; killing it");
            kill_leftover(account, cluster).await?;
        }
    }
    remove_pid_file(cluster)
}

/// Stops the postmaster of `cluster` fast, or after [`STOP_SECS_MAX`] immediately.
pub(super) async fn stop(account: Account, binaries: &Binaries, cluster: &Path) -> Result<(), Error> {
    let mut said = String::new();
    for mode in ["fast", "immediate"] {
        let output = account
            .command(&binaries.program("pg_ctl"), cluster)
            .args([
                "stop",
                "--wait",
                "--mode",
                mode,
                "--timeout",
                &STOP_SECS_MAX.to_string(),
                "-D",
            ])
            .arg(cluster)
            .output()
            .await
            .map_err(|error| Error::Program {
                program: "pg_ctl",
                said: error.to_string(),
            })?;
        // It also fails when there is nothing to stop, which is all we ask.
        if output.status.success() || recorded_pid(cluster).is_none() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    Err(Error::Program {
        program: "pg_ctl",
        said,
    })
}

/// Kills the postmaster of `cluster`, if one runs, without the help of Postgres' own programs; its data need not survive.
pub(super) async fn kill_leftover(account: Account, cluster: &Path) -> Result<(), Error> {
    let Some(pid) = recorded_pid(cluster) else {
        return Ok(());
    };
    let deadline = Instant::now() + Duration::from_secs(KILL_SECS_MAX);
    // SIGQUIT is Postgres' immediate shutdown: the postmaster takes its children along.
    let mut signal = "-QUIT";
    while serves(pid, cluster).await {
        // The shell's own `kill`: slim images lack the program.
        let kill = format!("kill {signal} {pid}");
        let _ = account
            .command(Path::new("/bin/sh"), Path::new("/"))
            .args(["-c", &kill])
            .output()
            .await;
        if Instant::now() > deadline {
            return Err(Error::Program {
                program: "postgres",
                said: format!("process {pid} cannot be killed"),
            });
        }
        if Instant::now() + Duration::from_secs(KILL_SECS_MAX / 2) > deadline {
            signal = "-KILL";
        }
        sleep(Duration::from_millis(GONE_POLL_MS)).await;
    }
    Ok(())
}

/// The pid on the first line of the cluster's `postmaster.pid`.
fn recorded_pid(cluster: &Path) -> Option<u32> {
    fs::read_to_string(cluster.join("postmaster.pid"))
        .ok()?
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}

fn remove_pid_file(cluster: &Path) -> Result<(), Error> {
    let path = cluster.join("postmaster.pid");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(super::at(&path)(error)),
        _ => Ok(()),
    }
}

/// Whether process `pid` is alive and is a postmaster on `cluster`: its command line names both.
async fn serves(pid: u32, cluster: &Path) -> bool {
    let proc = Path::new("/proc/self");
    let command_line = if proc.exists() {
        fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
    } else {
        let output = tokio::process::Command::new("ps")
            .args(["-o", "command=", "-p", &pid.to_string()])
            .output()
            .await;
        output.map(|output| output.stdout).unwrap_or_default()
    };
    let names = |what: &[u8]| command_line.windows(what.len()).any(|window| window == what);
    names(b"postgres") && names(cluster.as_os_str().as_encoded_bytes())
}
