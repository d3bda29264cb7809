//! Two copies of each service as processes of their own, killed in turn while customers order.
//!
//! The embedded broker serves one process tree, `rondo up`, and never takes partitions from a member of a group that died
//! without a word while the broker went on. On it copies are told to stop, by SIGTERM; SIGKILL needs a real Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::seq::SliceRandom as _;

use crate::customers::Customers;
use crate::plan::Plan;
use crate::process::{Desk, Process};
use crate::{goods, verdict};

const SERVICES: [&str; 3] = ["orders", "payments", "inventory"];
const COPIES: usize = 2;
const CUSTOMERS: u32 = 24;
/// A fault comes within so long after the last one was made good.
const SPAN: Duration = Duration::from_millis(1500);
/// Longer than any start may take on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// Longer than a consumer group takes to notice a lost member and hand its partitions on.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(120);
/// So many more orders must end before the next fault.
const SERVED_BETWEEN: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn services_are_killed_in_turn_and_lose_nothing() {
    let mut plan = Plan::of("serve");
    let mut deployment = Deployment::open().await;
    let customers = Customers::arrive(CUSTOMERS, &deployment.addresses("orders"), plan.seed);
    deployment.until_served(&customers, SERVED_BETWEEN).await;

    let mut turn: Vec<&str> = Vec::new();
    for _ in 0..plan.rounds {
        if turn.is_empty() {
            turn = SERVICES.to_vec();
            turn.shuffle(&mut plan.rng);
        }
        let service = turn.pop().unwrap();
        let both = plan.rng.random();
        let moment = plan.moment(SPAN).await;
        let first = plan.rng.random_range(0..COPIES);
        deployment.kill(service, first).await;
        // Acknowledged and not ended just after the kill: it was under way at the kill.
        let met = customers.waiting();
        assert!(met > 0, "the fault met no work");
        let (what, took) = if both {
            deployment.kill(service, 1 - first).await;
            deployment.start(service, 1 - first).await;
            let took = deployment.start(service, first).await;
            deployment.until_served(&customers, SERVED_BETWEEN).await;
            ("both copies", took)
        } else {
            // The other copy does everything alone, and then not.
            deployment.until_served(&customers, SERVED_BETWEEN).await;
            let took = deployment.start(service, first).await;
            deployment.until_served(&customers, SERVED_BETWEEN).await;
            ("one copy", took)
        };
        eprintln!("serve: {what} of {service} killed after {moment:?} with {met} orders under way; ready in {took:?}");
    }

    let promises = customers.leave().await;
    deployment.nobody_else_ended();
    let orders_url = &deployment.addresses("orders")[0];
    verdict::all_is_well(&deployment.desk, &[], &deployment.variables, orders_url, &promises, &[]).await;
}

/// Databases, topics and schemas of a shop, and its services' processes.
struct Deployment {
    copies: BTreeMap<(&'static str, usize), Copy>,
    variables: BTreeMap<String, String>,
    desk: Desk,
    _databases: [testkit::Database; 3],
}

struct Copy {
    address: String,
    /// None between its kill and its next start.
    process: Option<Process>,
}

impl Deployment {
    async fn open() -> Self {
        let desk = Desk::new();
        let empty = || testkit::database(async |_| {});
        let (orders, payments, inventory) = tokio::join!(empty(), empty(), empty());
        let mut variables: BTreeMap<String, String> = [
            ("ORDERS_DATABASE_URL", orders.url()),
            ("PAYMENTS_DATABASE_URL", payments.url()),
            ("INVENTORY_DATABASE_URL", inventory.url()),
            ("KAFKA_BROKERS", testkit::kafka::brokers().await),
            ("SCHEMA_REGISTRY_URL", testkit::registry().await),
            ("RONDO_NAMESPACE", &testkit::namespace()),
            ("RONDO_TOKEN", "operator-of-the-tests"),
            ("RONDO_DECIDE_SECS", "10"),
            ("RONDO_DATABASE_CONNECTIONS", "6"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let properties = testkit::kafka::properties().into_iter();
        variables.extend(properties.map(|(property, value)| (common::config::kafka_variable(&property), value)));
        let mut deployment = Self {
            copies: BTreeMap::new(),
            variables,
            desk,
            _databases: [orders, payments, inventory],
        };
        deployment
            .desk
            .run(&["init", "--partitions", "4"], &deployment.variables)
            .await;
        for service in SERVICES {
            for copy in 0..COPIES {
                deployment.start(service, copy).await;
            }
        }
        for service in SERVICES {
            let name = format!("RONDO_{}_URL", service.to_uppercase());
            let address = deployment.addresses(service).swap_remove(0);
            deployment.variables.insert(name, address);
        }
        let stock = goods::write_stock(deployment.desk.path());
        let import = ["inventory", "import", stock.to_str().unwrap()];
        deployment.desk.run(&import, &deployment.variables).await;
        deployment
    }

    fn addresses(&self, service: &str) -> Vec<String> {
        let of_service = self.copies.iter().filter(|((name, _), _)| *name == service);
        of_service.map(|(_, copy)| copy.address.clone()).collect()
    }

    async fn kill(&mut self, service: &'static str, copy: usize) {
        self.nobody_else_ended();
        let copy = self.copies.get_mut(&(service, copy)).unwrap();
        let mut process = copy.process.take().expect("a copy is killed while it runs");
        if testkit::kafka::is_embedded() {
            process.terminate().await;
        } else {
            process.kill().await;
        }
    }

    /// Starts a copy, at the address that it had before if there was one; how long it took to be ready.
    async fn start(&mut self, service: &'static str, copy: usize) -> Duration {
        let started = Instant::now();
        let address = match self.copies.remove(&(service, copy)) {
            Some(before) => before.address,
            None => format!("http://127.0.0.1:{}", embedded::port::any().unwrap()),
        };
        let mut variables = self.variables.clone();
        let host = address.trim_start_matches("http://").to_owned();
        variables.insert("RONDO_HTTP_ADDRESS".to_owned(), host);
        let mut process = self.desk.start(&["serve", service], &variables);
        let ready = format!("{address}/readyz");
        testkit::eventually(&format!("{service} is ready"), START_PATIENCE, async || {
            process.still_runs();
            let answer = reqwest::get(&ready).await.map_err(|error| format!("{error:?}"))?;
            answer
                .error_for_status()
                .map(drop)
                .map_err(|error| format!("{error:?}"))
        })
        .await;
        self.copies.insert(
            (service, copy),
            Copy {
                address,
                process: Some(process),
            },
        );
        started.elapsed()
    }

    /// Waits until so many more orders have ended.
    async fn until_served(&self, customers: &Customers, more: usize) {
        let wanted = customers.served() + more;
        let started = Instant::now();
        testkit::eventually(&format!("{more} more orders end"), TAKEOVER_PATIENCE, async || {
            let (served, waiting) = (customers.served(), customers.waiting());
            if served >= wanted {
                Ok(())
            } else {
                Err(format!("{served} of {wanted} ended, {waiting} under way"))
            }
        })
        .await;
        eprintln!("serve: {more} more orders ended in {:?}", started.elapsed());
    }

    /// Fails the test if a process ended that nobody killed.
    fn nobody_else_ended(&mut self) {
        for process in self.copies.values_mut().filter_map(|copy| copy.process.as_mut()) {
            process.still_runs();
        }
    }
}
