//! What a run costs: processor time and memory by process, and what Postgres did.
//!
//! Both are read from `/proc`, so they are those of this machine and known on Linux only; with the servers elsewhere they
//! are left out. Postgres is asked for its own counts; a server that several services share is counted once.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use contracts::service::SERVICES;
use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};

use crate::cli::Target;

/// Ticks of `/proc/PID/stat` in a second: USER_HZ, which Linux keeps at 100 for programs.
const TICKS_A_SECOND: f64 = 100.0;
/// Processes that are counted, by how Linux calls them.
const COUNTED: [&str; 4] = ["rondo", "postgres", "java", "toxiproxy-serve"];
/// Those of them whose memory is told. Postgres's processes share most of theirs, which would be counted once for each.
const WEIGHED: [&str; 2] = ["rondo", "java"];
/// How the load itself is called.
const OWN: &str = "bench";
/// Parts of a run whose memory is told apart: where it grows, a later part has more than the one before.
const PARTS: usize = 4;

/// Where a run's costs are read.
pub(super) struct Usage {
    pools: Vec<Pool>,
}

/// Counts so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    cpu_seconds: BTreeMap<String, f64>,
    commits: i64,
    rows: i64,
    wal_bytes: i64,
    wal_syncs: Option<i64>,
}

/// Counts of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Spent {
    /// Processor time, by process; `bench` is the load itself.
    pub(super) cpu_seconds: BTreeMap<String, f64>,
    /// Transactions of Postgres.
    pub(super) commits: i64,
    /// Rows inserted, updated and deleted.
    pub(super) rows: i64,
    /// Bytes of its log.
    pub(super) wal_bytes: i64,
    /// Flushes of its log to disk, where Postgres tells.
    pub(super) wal_syncs: Option<i64>,
    /// Most memory in each quarter of the run, by process.
    pub(super) memory: Memory,
}

/// Most memory in each quarter of a run, in MiB, by process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Memory(BTreeMap<String, [u64; PARTS]>);

impl Memory {
    /// Notes what the processes have at `passed` of the run, of 0 to 1.
    pub(super) fn note(&mut self, passed: f64) {
        let part = ((passed * PARTS as f64) as usize).min(PARTS - 1);
        for (process, mib) in memory_mib() {
            let highest = &mut self.0.entry(process).or_default()[part];
            *highest = mib.max(*highest);
        }
    }

    /// By process.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u64; PARTS])> {
        self.0.iter().map(|(process, mib)| (&**process, mib))
    }
}

impl Usage {
    /// Of the installation at `target`.
    ///
    /// # Errors
    /// It is not known where a database is.
    pub(super) async fn of(target: &Target) -> Result<Self> {
        let pools: Result<Vec<Pool>> = SERVICES.iter().map(|service| target.pool(service.name)).collect();
        let usage = Self { pools: pools? };
        usage.read().await?;
        Ok(usage)
    }

    /// The counts now.
    ///
    /// # Errors
    /// A database does not answer.
    pub(super) async fn read(&self) -> Result<Reading> {
        let mut reading = Reading {
            cpu_seconds: cpu_seconds(),
            wal_syncs: Some(0),
            ..Reading::default()
        };
        let mut servers = HashSet::new();
        let mut databases = HashSet::new();
        for pool in &self.pools {
            let client = pool.get().await.context("a database does not answer")?;
            let row = client
                .query_one(
                    "SELECT c.system_identifier, d.datname::text, d.xact_commit,
                            d.tup_inserted + d.tup_updated + d.tup_deleted, w.wal_bytes::bigint
                     FROM pg_control_system() c, pg_stat_database d, pg_stat_wal w
                     WHERE d.datname = current_database()",
                    &[],
                )
                .await?;
            let (server, database): (i64, String) = (row.get(0), row.get(1));
            if databases.insert((server, database)) {
                reading.commits += row.get::<_, i64>(2);
                reading.rows += row.get::<_, i64>(3);
            }
            if servers.insert(server) {
                reading.wal_bytes += row.get::<_, i64>(4);
                reading.wal_syncs = match (reading.wal_syncs, wal_syncs(&client).await) {
                    (Some(all), Some(more)) => Some(all + more),
                    _ => None,
                };
            }
        }
        Ok(reading)
    }
}

/// Flushes of the log: `pg_stat_wal` has them until Postgres 17, `pg_stat_io` from 18 on.
async fn wal_syncs(client: &deadpool_postgres::Client) -> Option<i64> {
    for query in [
        "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'",
        "SELECT wal_sync FROM pg_stat_wal",
    ] {
        if let Ok(row) = client.query_one(query, &[]).await
            && let Some(syncs) = row.get(0)
        {
            return Some(syncs);
        }
    }
    None
}

impl Reading {
    /// What came since an earlier reading.
    pub(super) fn since(&self, before: &Self) -> Spent {
        let cpu = self.cpu_seconds.iter().map(|(name, now)| {
            let then = before.cpu_seconds.get(name).copied().unwrap_or_default();
            (name.clone(), (now - then).max(0.0))
        });
        Spent {
            cpu_seconds: cpu.collect(),
            commits: self.commits - before.commits,
            rows: self.rows - before.rows,
            wal_bytes: self.wal_bytes - before.wal_bytes,
            wal_syncs: self.wal_syncs.zip(before.wal_syncs).map(|(now, then)| now - then),
            memory: Memory::default(),
        }
    }
}

/// Processor time so far of each counted kind of process on this machine.
fn cpu_seconds() -> BTreeMap<String, f64> {
    let mut spent = BTreeMap::new();
    for (process, directory) in processes(&COUNTED) {
        // A process may end while it is looked at.
        if let Ok(stat) = std::fs::read_to_string(directory.join("stat"))
            && let Some(seconds) = seconds_of_stat(&stat)
        {
            *spent.entry(process).or_default() += seconds;
        }
    }
    spent
}

/// Memory of each weighed kind of process on this machine, in MiB.
fn memory_mib() -> BTreeMap<String, u64> {
    let mut kib: BTreeMap<String, u64> = BTreeMap::new();
    for (process, directory) in processes(&WEIGHED) {
        if let Ok(status) = std::fs::read_to_string(directory.join("status"))
            && let Some(resident) = kib_of(&status, "VmRSS:")
        {
            *kib.entry(process).or_default() += resident;
        }
    }
    kib.into_iter().map(|(process, kib)| (process, kib / 1024)).collect()
}

/// The processes of these names, each with its directory in `/proc`; this one is the load.
fn processes(names: &[&str]) -> impl Iterator<Item = (String, PathBuf)> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        // Of `self` and `thread-self` too there is a `comm`: they are this process once more.
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let directory = entry.path();
        let name = if pid == own {
            OWN.to_owned()
        } else {
            std::fs::read_to_string(directory.join("comm")).ok()?
        };
        let name = name.trim_end();
        (name == OWN || names.contains(&name)).then(|| (name.to_owned(), directory))
    })
}

/// Processor seconds of a line of `/proc/PID/stat` (proc(5): fields 14 and 15).
fn seconds_of_stat(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_A_SECOND)
}

/// KiB of a field of `/proc/PID/status`.
pub(super) fn kib_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_process_calls_itself() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 1 0 100 1 1 1";
        assert_eq!(seconds_of_stat(line), Some(4.0));
        assert_eq!(seconds_of_stat("nonsense"), None);
    }

    #[test]
    fn memory_is_told_as_the_most_of_each_quarter() {
        let mut memory = Memory::default();
        for passed in [0.0, 0.3, 0.3, 0.8, 1.0] {
            memory.note(passed);
        }
        let (_, own) = memory.iter().find(|(process, _)| *process == OWN).unwrap();
        assert!(own[0] > 0 && own[1] > 0 && own[2] == 0 && own[3] > 0, "{own:?}");
        assert_eq!(
            kib_of("Name:\ta\nVmHWM:\t  9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"),
            Some(1234)
        );
    }

    #[test]
    fn this_process_is_the_load_and_counted_once() {
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        let load = PathBuf::from(format!("/proc/{}", std::process::id()));
        let (loads, others): (Vec<_>, Vec<_>) = processes(&[own.trim_end()]).partition(|(name, _)| name == OWN);
        assert_eq!(loads, [(OWN.to_owned(), load)]);
        for (_, directory) in others {
            let pid = directory.file_name().unwrap().to_str().unwrap();
            assert!(
                pid.bytes().all(|byte| byte.is_ascii_digit()),
                "{pid} is no process of its own"
            );
        }
    }

    #[test]
    fn a_run_costs_what_came_between_two_readings() {
        let reading = |cpu, commits| Reading {
            cpu_seconds: [("rondo".to_owned(), cpu)].into(),
            commits,
            wal_syncs: Some(commits),
            ..Reading::default()
        };
        let spent = reading(5.0, 70).since(&reading(3.0, 50));
        assert_eq!(
            (spent.cpu_seconds["rondo"], spent.commits, spent.wal_syncs),
            (2.0, 20, Some(20))
        );
    }
}
