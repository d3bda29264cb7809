//! `rondo up`, killed while orders are imported: as a whole, without its Postgres, or its Postgres alone.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use crate::customers::Customers;
use crate::plan::Plan;
use crate::process::{Desk, Process, kill};
use crate::{goods, verdict};

/// Orders of one file. Each round has a file of its own, so that each has work to be killed at.
const ORDERS: u32 = 300;
/// Customers beside the import.
const CUSTOMERS: u32 = 4;
/// Longer than any start may take on a busy machine, crash recovery included.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// A fault comes within so long after an import has begun: that is where most of its writing is.
const SPAN_MAX: Duration = Duration::from_secs(4);
/// Faults that met no work do not count; so many of them for each that counts would be a harness that cannot aim.
const MISSES_MAX: u32 = 3;
/// One start in so many is killed too.
const START_KILLED_ONE_IN: u32 = 3;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// Everything: a power cut, or a container that is removed.
    Tree,
    /// `rondo` alone; its Postgres goes on, and is there when the next `rondo` starts.
    Rondo,
    /// The postmaster alone; `rondo` says so and ends.
    Postmaster,
}

#[tokio::test(flavor = "multi_thread")]
async fn up_is_killed_during_imports_and_loses_nothing() {
    let mut plan = Plan::of("up");
    let mut shop = Shop::open().await;
    let customers = Customers::arrive(CUSTOMERS, std::slice::from_ref(&shop.http), plan.seed);
    let mut imported = Vec::new();

    // One file without a fault: how long it takes is the span from which moments are drawn, until an import is quicker.
    let (file, references) = goods::write_orders(shop.desk.path().join("first.ndjson"), "first", ORDERS, &mut plan.rng);
    imported.extend(references);
    let started = Instant::now();
    shop.import(file.to_str().unwrap(), true).succeeded().await;
    let mut span = started.elapsed().min(SPAN_MAX);

    let (mut faults, mut misses) = (0, 0);
    while faults < plan.rounds {
        let batch = format!("round-{faults}-{misses}");
        let path = shop.desk.path().join(format!("{batch}.ndjson"));
        let (file, references) = goods::write_orders(path, &batch, ORDERS, &mut plan.rng);
        imported.extend(references);
        let file = file.to_str().unwrap();

        let mut import = shop.import(file, true);
        let moment = plan.moment(span).await;
        let unfinished = import.is_running();
        let victim = *[Victim::Tree, Victim::Tree, Victim::Rondo, Victim::Postmaster]
            .choose(&mut plan.rng)
            .unwrap();
        shop.kill(victim).await;
        let import_dies = plan.rng.random();
        if import_dies {
            import.kill().await;
        }
        let took = shop.restart(&mut plan).await;
        eprintln!(
            "up: {victim:?} killed after {moment:?} of the import ({}); up again in {took:?}",
            if unfinished {
                "unfinished"
            } else {
                "finished: does not count"
            },
        );
        if import_dies {
            // The lines that were acknowledged are there already, the others are placed now. Their ends are left to the next fault.
            shop.import(file, false).succeeded().await;
        } else {
            import.succeeded().await;
        }
        if unfinished {
            faults += 1;
        } else {
            misses += 1;
            span = moment;
            assert!(
                misses <= MISSES_MAX * plan.rounds,
                "the import ends before it can be killed"
            );
        }
    }

    let promises = customers.leave().await;
    assert!(!promises.is_empty(), "the customers were promised something");
    let files = fs::read_dir(shop.desk.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "ndjson")) {
        if file.file_stem().is_some_and(|stem| stem != "stock") {
            shop.import(file.to_str().unwrap(), true).succeeded().await;
        }
    }
    let global = ["--data-dir", shop.data_dir.as_str()];
    verdict::all_is_well(&shop.desk, &global, &shop.variables, &shop.http, &promises, &imported).await;
}

/// One data directory, and the `rondo up` that runs on it.
struct Shop {
    desk: Desk,
    data_dir: String,
    port: String,
    http: String,
    variables: BTreeMap<String, String>,
    up: Process,
}

impl Shop {
    async fn open() -> Self {
        let desk = Desk::new();
        let data_dir = desk.path().join("data").to_str().unwrap().to_owned();
        let port = embedded::port::any().unwrap().to_string();
        let variables = BTreeMap::from([("RONDO_DECIDE_SECS".to_owned(), "10".to_owned())]);
        let up = desk.start(&["up", "--data-dir", &data_dir, "--port", &port], &variables);
        let mut shop = Self {
            http: format!("http://127.0.0.1:{port}"),
            desk,
            data_dir,
            port,
            variables,
            up,
        };
        shop.until_up().await;
        let stock = goods::write_stock(shop.desk.path());
        let import = [
            "--data-dir",
            &shop.data_dir,
            "inventory",
            "import",
            stock.to_str().unwrap(),
        ];
        shop.desk.run(&import, &shop.variables).await;
        shop
    }

    fn import(&self, file: &str, wait: bool) -> Process {
        let mut arguments = vec![
            "orders",
            "import",
            file,
            "--concurrency",
            "64",
            "--data-dir",
            &self.data_dir,
        ];
        if wait {
            arguments.push("--wait");
        }
        self.desk.start(&arguments, &self.variables)
    }

    async fn kill(&mut self, victim: Victim) {
        self.up.still_runs();
        let postmaster = self.postmaster();
        match victim {
            Victim::Tree => {
                let tree = self.up.descendants();
                assert!(tree.contains(&postmaster), "{tree:?} holds the postmaster {postmaster}");
                self.up.kill_tree().await;
            }
            Victim::Rondo => self.up.kill().await,
            Victim::Postmaster => {
                kill(&[postmaster]).await;
                let status = self.up.ended().await;
                assert_eq!(status.code(), Some(1), "{}", self.up.output());
                assert!(self.up.output().contains("Postgres ended"), "{}", self.up.output());
            }
        }
    }

    /// Starts again on the same data, in some cases after a start that is killed on its way; how long the good one took.
    async fn restart(&mut self, plan: &mut Plan) -> Duration {
        if plan.rng.random_ratio(1, START_KILLED_ONE_IN) {
            self.start();
            plan.moment(Duration::from_secs(2)).await;
            self.up.still_runs();
            self.up.kill_tree().await;
            eprintln!("up: a start was killed too");
        }
        let started = Instant::now();
        self.start();
        self.until_up().await;
        started.elapsed()
    }

    fn start(&mut self) {
        let arguments = ["up", "--data-dir", &self.data_dir, "--port", &self.port];
        self.up = self.desk.start(&arguments, &self.variables);
    }

    async fn until_up(&mut self) {
        let up = &mut self.up;
        testkit::eventually("`rondo up` is up", START_PATIENCE, async || {
            up.still_runs();
            let output = up.output();
            if output.contains("Rondo is up") {
                Ok(())
            } else {
                Err(output)
            }
        })
        .await;
    }

    fn postmaster(&self) -> u32 {
        postmaster(&self.data_dir).expect("a running `up` has a postmaster")
    }
}

impl Drop for Shop {
    /// A postmaster that has lost its `rondo` would outlive the test.
    fn drop(&mut self) {
        let mut pids = self.up.descendants();
        pids.extend(postmaster(&self.data_dir));
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let script = format!("kill -QUIT {} 2>/dev/null", pids.join(" "));
        let _ = std::process::Command::new("/bin/sh").args(["-c", &script]).status();
    }
}

/// The pid of the Postgres of a data directory, if one runs or was killed there.
fn postmaster(data_dir: &str) -> Option<u32> {
    let file = fs::read_to_string(format!("{data_dir}/postgres/cluster/postmaster.pid")).ok()?;
    file.lines().next()?.trim().parse().ok()
}
