//! What a run costs: processor time by process, and what Postgres did.
//!
//! Processor time is read from `/proc`, so it is that of this machine and known on Linux only; with the servers elsewhere it
//! is left out. Postgres is asked for its own counts; a server that several services share is counted once.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result};
use contracts::service::SERVICES;
use deadpool_postgres::Pool;
use serde::Serialize;

use crate::cli::Target;

/// Ticks of `/proc/PID/stat` in a second: USER_HZ, which Linux keeps at 100 for programs.
const TICKS_A_SECOND: f64 = 100.0;
/// Processes that are counted, by how Linux calls them.
const COUNTED: [&str; 4] = ["rondo", "postgres", "java", "toxiproxy-serve"];

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
        }
    }
}

/// Processor time so far of each counted kind of process on this machine.
fn cpu_seconds() -> BTreeMap<String, f64> {
    let mut spent = BTreeMap::new();
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        // A process may end while it is looked at.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        if let Some((process, seconds)) = of_stat(&stat) {
            let process = if pid == own { "bench" } else { process };
            if process == "bench" || COUNTED.contains(&process) {
                *spent.entry(process.to_owned()).or_default() += seconds;
            }
        }
    }
    spent
}

/// Name and processor seconds of a line of `/proc/PID/stat` (proc(5): fields 2, 14 and 15).
fn of_stat(stat: &str) -> Option<(&str, f64)> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((name, (user + system) / TICKS_A_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_process_calls_itself() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 1 0 100 1 1 1";
        assert_eq!(of_stat(line), Some(("a) b (c", 4.0)));
        assert_eq!(of_stat("nonsense"), None);
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
