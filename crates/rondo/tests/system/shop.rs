//! One installation for one test.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use common::codec::RegistrySettings;
use common::config::Environment;
use common::{kafka, telemetry};
use reqwest::{Client, Response};
use rondo::{init, system};
use serde_json::{Value, json};
use testkit::Database;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What operators show in these tests.
pub(crate) const TOKEN: &str = "operator-of-the-tests";
/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// All of them, in the order of the saga.
pub(crate) const SERVICES: [&str; 3] = ["orders", "payments", "inventory"];

/// Partitions of each topic.
const PARTITIONS: i32 = 3;
/// How long requests under way hold up a copy that stops.
const DRAIN: Duration = Duration::from_secs(1);

/// Three databases, a namespace, and the services that run on them.
pub(crate) struct Shop {
    pub(crate) client: Client,
    variables: BTreeMap<String, String>,
    databases: BTreeMap<&'static str, Database>,
    copies: Vec<Option<Copy>>,
}

/// Some services, running in this process on one port.
struct Copy {
    http: String,
    services: Vec<&'static str>,
    shutdown: CancellationToken,
    ended: Vec<JoinHandle<anyhow::Result<()>>>,
}

/// What a verb of the command line answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Services that run in a process of their own, which dies with this value.
pub(crate) struct Process {
    pub(crate) http: String,
    child: Child,
}

impl Shop {
    /// A shop with one copy of each service and nothing on its shelves.
    pub(crate) async fn open() -> Self {
        Self::open_with(&[]).await
    }

    /// The same with more variables set.
    pub(crate) async fn open_with(variables: &[(&str, &str)]) -> Self {
        let mut shop = Self::prepare(variables).await;
        shop.start(&SERVICES).await;
        shop
    }

    /// Everything but running services.
    pub(crate) async fn prepare(variables: &[(&str, &str)]) -> Self {
        let database = async |service: &'static str| {
            let database = testkit::database(async |client| {
                common::migrate::apply(client, "common", common::service::MIGRATIONS)
                    .await
                    .unwrap();
                common::migrate::apply(client, service, init::migrations_of(service))
                    .await
                    .unwrap();
            });
            (service, database.await)
        };
        let [orders, payments, inventory] = SERVICES.map(database);
        let databases: BTreeMap<_, _> = <[_; 3]>::from(tokio::join!(orders, payments, inventory)).into();

        let namespace = testkit::namespace();
        let mut all: BTreeMap<String, String> = databases
            .iter()
            .map(|(service, database)| {
                let variable = format!("{}_DATABASE_URL", service.to_uppercase());
                (variable, database.url().to_owned())
            })
            .collect();
        for (name, value) in [
            ("KAFKA_BROKERS", testkit::kafka::brokers().await),
            ("SCHEMA_REGISTRY_URL", testkit::registry().await),
            ("RONDO_NAMESPACE", &namespace),
            ("RONDO_TOKEN", TOKEN),
            ("RONDO_CLOCK_INTERVAL_MS", "50"),
            // On a machine that is busy with more than these tests nobody is late, unless lateness is what is tested.
            ("RONDO_DECIDE_SECS", "600"),
            ("RONDO_DEADLINE_GRACE_MS", "300"),
            ("RONDO_DATABASE_CONNECTIONS", "6"),
        ]
        .iter()
        .chain(variables)
        {
            all.insert((*name).to_owned(), (*value).to_owned());
        }
        for (property, value) in testkit::kafka::properties() {
            all.insert(common::config::kafka_variable(&property), value);
        }
        let shop = Self {
            client: Client::new(),
            variables: all,
            databases,
            copies: Vec::new(),
        };
        let kafka = kafka::Settings {
            brokers: shop.variables["KAFKA_BROKERS"].clone(),
            namespace: Some(namespace.clone()),
            ..kafka::Settings::default()
        };
        init::topics(&kafka, PARTITIONS).await.unwrap();
        init::schemas(&shop.registry(), Some(&namespace)).await.unwrap();
        shop
    }

    /// Sets a variable of what is started from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// How to reach the registry.
    pub(crate) fn registry(&self) -> RegistrySettings {
        common::config::registry(&self.environment()).unwrap()
    }

    /// What its services are started with.
    pub(crate) fn environment(&self) -> Environment {
        self.variables.clone().into_iter().collect()
    }

    /// Starts a copy of `services` in this process; its number.
    pub(crate) async fn start(&mut self, services: &[&'static str]) -> usize {
        let environment = self.environment();
        let shutdown = CancellationToken::new();
        let mut parts = Vec::new();
        for service in services {
            parts.push(system::start(service, &environment, &shutdown).await.unwrap());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = format!("http://{}", listener.local_addr().unwrap());
        let config = common::config::HttpConfig::read(&environment, 0).unwrap();
        let app = system::app(&mut parts, &config, &shutdown);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            common::http::server::serve(listener, app, &config, stop, DRAIN)
                .await
                .unwrap();
        });
        self.copies.push(Some(Copy {
            http,
            services: services.to_vec(),
            shutdown,
            ended: parts.into_iter().map(|part| part.ended).collect(),
        }));
        self.copies.len() - 1
    }

    /// Stops a copy as SIGTERM would, and waits for it.
    pub(crate) async fn stop(&mut self, copy: usize) {
        let copy = self.copies[copy].take().unwrap();
        copy.shutdown.cancel();
        for ended in copy.ended {
            ended.await.unwrap().unwrap();
        }
    }

    /// Starts `services` in a process of their own, and waits until it is ready.
    pub(crate) async fn spawn(&self, services: &[&str]) -> Process {
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .unwrap();
        let child = self
            .rondo(&["serve"])
            .args(services)
            .env("RONDO_HTTP_ADDRESS", address.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process {
            http: format!("http://{address}"),
            child,
        };
        testkit::eventually(&format!("{services:?} are ready"), PATIENCE, async || {
            let ready = self.client.get(format!("{}/readyz", process.http)).send().await;
            ready.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        process
    }

    /// Has `rondo audit` find nothing wrong, warnings included.
    pub(crate) async fn audit(&self) {
        let patience = PATIENCE.as_secs().to_string();
        let output = self
            .rondo(&["audit", "--strict", "--wait-idle", &patience])
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{complaint}");
    }

    /// Runs `rondo` with these arguments to its end.
    pub(crate) async fn verb(&self, arguments: &[&str]) -> Answer {
        let output = self.rondo(arguments).output().await.unwrap();
        Answer {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The binary with `arguments`, about this shop.
    pub(crate) fn rondo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rondo"));
        command
            .args(arguments)
            .envs(&self.variables)
            // No running `up` of whoever runs these tests is meant.
            .env("RONDO_DATA_DIR", "/nonexistent")
            .env("RUST_LOG", "warn")
            .kill_on_drop(true);
        command
    }

    /// The first running copy's URL for what `service` answers.
    pub(crate) fn base(&self, service: &str) -> &str {
        let mut copies = self.copies.iter().flatten();
        let copy = copies.find(|copy| copy.services.contains(&service));
        &copy.unwrap_or_else(|| panic!("{service} does not run")).http
    }

    /// The URL of copy number `copy`.
    pub(crate) fn http(&self, copy: usize) -> &str {
        &self.copies[copy].as_ref().unwrap().http
    }

    /// The database of `service`.
    pub(crate) fn database(&self, service: &str) -> &Database {
        &self.databases[service]
    }

    /// The whole name of `topic`.
    pub(crate) fn topic(&self, topic: &str) -> String {
        format!("{}.{topic}", self.variables["RONDO_NAMESPACE"])
    }

    /// How many records took effect in `service`, if nothing was asked of it but to place orders and to stock goods.
    pub(crate) async fn taken(&self, service: &str) -> i64 {
        let query =
            "SELECT count(DISTINCT causation_id) FROM events WHERE type NOT IN ('OrderPlaced', 'StockAdjusted')";
        self.number(service, query).await
    }

    /// What a query of one number gives in the database of `service`.
    pub(crate) async fn number(&self, service: &str, query: &str) -> i64 {
        let client = self.database(service).client().await;
        client.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Puts goods on the shelf.
    pub(crate) async fn stock(&self, sku: &str, on_hand: i64) {
        let body = json!({ "name": sku, "on_hand": on_hand, "unit_price_minor": 100 });
        let put = self
            .client
            .put(format!("{}/inventory/{sku}", self.base("inventory")))
            .bearer_auth(TOKEN)
            .json(&body);
        let answer = put.send().await.unwrap();
        assert!(
            answer.status().is_success(),
            "{}: {}",
            answer.status(),
            answer.text().await.unwrap()
        );
    }

    /// Holds the shelf to what must be on it, and how much of that set aside.
    pub(crate) async fn assert_stock(&self, sku: &str, on_hand: i64, reserved: i64) {
        let item = self.get(&format!("/inventory/{sku}")).await;
        assert_eq!(
            (&item["on_hand"], &item["reserved"], &item["available"]),
            (&on_hand.into(), &reserved.into(), &(on_hand - reserved).into()),
            "{item}"
        );
    }

    /// Holds an order's payment to where it must stand, and how much was taken and given back.
    pub(crate) async fn assert_payment(&self, order_id: &str, status: &str, captured: i64, refunded: i64) {
        let payment = self.get(&format!("/payments/{order_id}")).await;
        assert_eq!(
            (
                &payment["status"],
                &payment["captured_minor"],
                &payment["refunded_minor"]
            ),
            (&status.into(), &captured.into(), &refunded.into()),
            "{payment}"
        );
    }

    /// Places an order and does not wait; the answer as it is.
    pub(crate) async fn post(&self, body: &Value) -> Response {
        let post = self.client.post(format!("{}/orders", self.base("orders"))).json(body);
        post.send().await.unwrap()
    }

    /// Places an order; its id.
    pub(crate) async fn place(&self, body: &Value) -> String {
        let answer = self.post(body).await;
        assert_eq!(answer.status(), 202);
        let order: Value = answer.json().await.unwrap();
        order["order_id"].as_str().unwrap().to_owned()
    }

    /// Has an operator `cancel` or `resume` an order; the answer's status.
    pub(crate) async fn tell(&self, order_id: &str, verb: &str) -> u16 {
        let url = format!("{}/orders/{order_id}/{verb}", self.base("orders"));
        let answer = self.client.post(url).bearer_auth(TOKEN).send().await.unwrap();
        answer.status().as_u16()
    }

    /// An order as it is now.
    pub(crate) async fn order(&self, order_id: &str) -> Value {
        self.get(&format!("/orders/{order_id}")).await
    }

    /// Whatever a path answers, which must be well.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.try_get(path)
            .await
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    async fn try_get(&self, path: &str) -> Result<Value, String> {
        let service = path.split('/').nth(1).unwrap();
        let url = format!("{}{path}", self.base(service));
        let answer = self.client.get(url).send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if status.is_success() {
            Ok(serde_json::from_str(&text).unwrap())
        } else {
            Err(format!("{status} {text}"))
        }
    }

    /// Waits until what a path answers has this status.
    pub(crate) async fn until_path(&self, path: &str, status: &str) -> Value {
        testkit::eventually(&format!("{path} is {status}"), PATIENCE, async || {
            let found = self.try_get(path).await?;
            if found["status"] == status {
                Ok(found)
            } else {
                Err(found.to_string())
            }
        })
        .await
    }

    /// Waits until an order has this status.
    pub(crate) async fn until(&self, order_id: &str, status: &str) -> Value {
        self.until_path(&format!("/orders/{order_id}"), status).await
    }

    /// Waits until `count` orders are there and each has ended; how many in which status and for which reason.
    pub(crate) async fn until_all_ended(&self, count: i64) -> BTreeMap<String, i64> {
        testkit::eventually(&format!("{count} orders ended"), PATIENCE, async || {
            let client = self.database("orders").client().await;
            let query = "SELECT concat_ws(' ', status, reason), count(*) FROM orders GROUP BY 1";
            let rows = client
                .query(query, &[])
                .await
                .map_err(|error| BTreeMap::from([(error.to_string(), 0)]))?;
            let found: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let ended = |status: &String| status == "completed" || status.starts_with("cancelled");
            if found.values().sum::<i64>() == count && found.keys().all(ended) {
                Ok(found)
            } else {
                Err(found)
            }
        })
        .await
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        for copy in self.copies.iter().flatten() {
            copy.shutdown.cancel();
        }
    }
}

impl Process {
    /// Ends it as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Ends it as a supervisor does; how it ended.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        // The shell's own `kill` needs no program, and no unsafe code.
        let script = format!("kill -TERM {}", self.child.id().unwrap());
        let told = Command::new("/bin/sh").args(["-c", &script]).status().await;
        assert!(told.unwrap().success());
        self.child.wait().await.unwrap()
    }
}

/// An order body of one line a SKU, at 250 each.
pub(crate) fn order_of(lines: &[(&str, i64)], payment_method: &str) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity, "unit_price_minor": 250 }))
        .collect();
    json!({ "customer_id": "ada", "currency": "EUR", "payment_method": payment_method, "lines": lines })
}

/// What a counter of this process stands at, summed over the series whose labels contain `label`.
pub(crate) fn counted(name: &str, label: &str) -> u64 {
    let page = telemetry::metrics().render();
    let series = page
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    let values = series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum::<f64>() as u64
}
