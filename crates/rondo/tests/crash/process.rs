//! Processes of the real binary, and their end by SIGKILL.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use tokio::process::{Child, Command};

/// What a verb of these tests must not take from the environment: it would speak to somebody's real servers.
const DEPLOYMENT: [&str; 3] = ["KAFKA_BROKERS", "SCHEMA_REGISTRY_URL", "DATABASE_URL"];
/// So much of a process's output is shown when it failed.
const SHOWN_LINES: usize = 30;

/// Where a test keeps its files; kept when it fails.
pub(crate) struct Desk {
    directory: Option<TempDir>,
    path: PathBuf,
    processes: AtomicU32,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("rondo-crash-").tempdir().unwrap();
        // As root, Postgres runs under another account, which must get in.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self {
            path: directory.path().to_owned(),
            directory: Some(directory),
            processes: AtomicU32::new(0),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts `rondo` with `arguments` and these variables.
    pub(crate) fn start(&self, arguments: &[&str], variables: &BTreeMap<String, String>) -> Process {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let verb = arguments.iter().take(2).copied().collect::<Vec<_>>().join("-");
        let output = self.path.join(format!("{number:03}-{verb}.log").replace('/', "_"));
        let file = File::create(&output).unwrap();
        let built = env!("CARGO_BIN_EXE_rondo");
        let mut command = Command::new(std::env::var_os("RONDO_CRASH_BINARY").unwrap_or(built.into()));
        command.args(arguments).kill_on_drop(true).stdin(Stdio::null());
        command.stderr(file.try_clone().unwrap()).stdout(file);
        for name in DEPLOYMENT {
            command.env_remove(name);
        }
        let child = command.envs(variables).spawn().unwrap();
        Process {
            name: format!("rondo {}", arguments.join(" ")),
            child,
            output,
        }
    }

    /// Runs `rondo` to its end, which must be a good one; what it printed.
    pub(crate) async fn run(&self, arguments: &[&str], variables: &BTreeMap<String, String>) -> String {
        self.start(arguments, variables).succeeded().await
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("what the processes said is in {}", directory.keep().display());
        }
    }
}

/// A running `rondo`. Dropping it kills it.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Everything it has printed.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Its end, whatever it is.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    /// Its good end; what it printed.
    pub(crate) async fn succeeded(mut self) -> String {
        let status = self.ended().await;
        assert!(status.success(), "{}", self.said(&status.to_string()));
        self.output()
    }

    /// Fails the test if it has ended.
    pub(crate) fn still_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{}", self.said(&status.to_string()));
        }
    }

    /// SIGKILL to it alone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM, which it must obey in order.
    pub(crate) async fn terminate(self) {
        let pid = self.child.id().expect("a process is told to stop while it runs");
        signal("TERM", &[pid]).await;
        self.succeeded().await;
    }

    /// SIGKILL to it and to all that descend from it.
    pub(crate) async fn kill_tree(&mut self) {
        let tree = self.descendants();
        self.child.start_kill().unwrap();
        kill(&tree).await;
        self.ended().await;
    }

    /// The processes that descend from it, its own children first.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        let Some(root) = self.child.id() else { return Vec::new() };
        let parents = parents();
        let mut found = vec![root];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        found.split_off(1)
    }

    fn said(&self, how: &str) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        format!("{}: {how}\n{tail}", self.name)
    }
}

/// SIGKILL to each of `pids`; those that are gone already are none the worse.
pub(crate) async fn kill(pids: &[u32]) {
    signal("KILL", pids).await;
}

async fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    // The shell's own `kill` needs no program, and no unsafe code.
    let script = format!("kill -{name} {} 2>/dev/null || true", pids.join(" "));
    let status = Command::new("/bin/sh").args(["-c", &script]).status().await.unwrap();
    assert!(status.success());
}

/// Every process that can be seen, with its parent.
#[cfg(target_os = "linux")]
fn parents() -> Vec<(u32, u32)> {
    let stat = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in brackets may hold anything, brackets too; after it come the state and the parent.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(stat).collect()
}

#[cfg(not(target_os = "linux"))]
fn parents() -> Vec<(u32, u32)> {
    let listed = std::process::Command::new("ps")
        .args(["-axo", "pid=,ppid="])
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let pair = |line: &str| {
        let (pid, parent) = line.trim().split_once(' ')?;
        Some((pid.parse().ok()?, parent.trim().parse().ok()?))
    };
    listed.lines().filter_map(pair).collect()
}
