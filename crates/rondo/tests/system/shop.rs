//! One installation for one test.

use std::time::Duration;

use common::config::Environment;
use common::kafka;
use reqwest::{Client, Response};
use rondo::{init, system};
use serde_json::{Value, json};
use testkit::Database;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What operators show in these tests.
pub(crate) const TOKEN: &str = "operator-of-the-tests";
/// Partitions of each topic.
const PARTITIONS: i32 = 3;
/// How long a saga may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Three databases, a namespace, and the services that run on them.
pub(crate) struct Shop {
    pub(crate) environment: Environment,
    pub(crate) http: String,
    pub(crate) client: Client,
    _databases: [Database; 3],
    copies: Vec<Copy>,
}

/// One running copy of all services, on one port.
struct Copy {
    shutdown: CancellationToken,
    _parts: Vec<system::Part>,
}

impl Shop {
    /// A shop with short deadlines' grace and nothing on its shelves.
    pub(crate) async fn open() -> Self {
        Self::open_with(&[]).await
    }

    /// A shop with more variables set.
    pub(crate) async fn open_with(variables: &[(&str, &str)]) -> Self {
        let mut shop = Self::prepare(variables).await;
        shop.http = shop.start_copy().await;
        shop
    }

    /// Everything but running services.
    pub(crate) async fn prepare(variables: &[(&str, &str)]) -> Self {
        let namespace = testkit::namespace();
        let database = async |service: &'static str| {
            testkit::database(async |client| {
                common::migrate::apply(client, "common", common::service::MIGRATIONS)
                    .await
                    .unwrap();
                common::migrate::apply(client, service, init::migrations_of(service))
                    .await
                    .unwrap();
            })
            .await
        };
        let (orders, payments, inventory) =
            tokio::join!(database("orders"), database("payments"), database("inventory"));
        let brokers = testkit::kafka::brokers().await;
        let registry = testkit::registry().await;
        let mut environment = Environment::default()
            .with("ORDERS_DATABASE_URL", orders.url())
            .with("PAYMENTS_DATABASE_URL", payments.url())
            .with("INVENTORY_DATABASE_URL", inventory.url())
            .with("KAFKA_BROKERS", brokers)
            .with("SCHEMA_REGISTRY_URL", registry)
            .with("RONDO_NAMESPACE", &namespace)
            .with("RONDO_TOKEN", TOKEN)
            .with("RONDO_CLOCK_INTERVAL_MS", "50")
            .with("RONDO_DEADLINE_GRACE_MS", "300")
            .with("RONDO_DATABASE_CONNECTIONS", "6");
        for (name, value) in variables {
            environment = environment.with(name, value);
        }
        let kafka = kafka::Settings {
            brokers: brokers.to_owned(),
            namespace: Some(namespace.clone()),
            ..kafka::Settings::default()
        };
        init::topics(&kafka, PARTITIONS).await.unwrap();
        init::schemas(&common::config::registry(&environment).unwrap(), Some(&namespace))
            .await
            .unwrap();
        Self {
            environment,
            http: String::new(),
            client: Client::new(),
            _databases: [orders, payments, inventory],
            copies: Vec::new(),
        }
    }

    /// Starts one more copy of all services; its base URL.
    pub(crate) async fn start_copy(&mut self) -> String {
        let shutdown = CancellationToken::new();
        let mut parts = Vec::new();
        for (service, _) in system::PORTS {
            parts.push(system::start(service, &self.environment, &shutdown).await.unwrap());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = common::config::HttpConfig::read(&self.environment, 0).unwrap();
        let app = system::app(&mut parts, &config, &shutdown);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            common::http::server::serve(listener, app, &config, stop, Duration::from_secs(1))
                .await
                .unwrap();
        });
        self.copies.push(Copy {
            shutdown,
            _parts: parts,
        });
        format!("http://{address}")
    }

    /// Puts goods on the shelf.
    pub(crate) async fn stock(&self, sku: &str, on_hand: i64) {
        let body = json!({ "name": sku, "on_hand": on_hand, "unit_price_minor": 100 });
        let put = self
            .client
            .put(format!("{}/inventory/{sku}", self.http))
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

    /// Places an order and does not wait; the answer as it is.
    pub(crate) async fn post(&self, body: &Value) -> Response {
        self.client
            .post(format!("{}/orders", self.http))
            .json(body)
            .send()
            .await
            .unwrap()
    }

    /// Places an order; its id.
    pub(crate) async fn place(&self, body: &Value) -> String {
        let answer = self.post(body).await;
        assert_eq!(answer.status(), 202);
        let order: Value = answer.json().await.unwrap();
        order["order_id"].as_str().unwrap().to_owned()
    }

    /// An order as it is now.
    pub(crate) async fn order(&self, order_id: &str) -> Value {
        self.get(&format!("/orders/{order_id}")).await
    }

    /// Whatever a path answers, which must be well.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}{path}", self.http)).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until an order has this status.
    pub(crate) async fn until(&self, order_id: &str, status: &str) -> Value {
        testkit::eventually(&format!("order {order_id} is {status}"), PATIENCE, async || {
            let order = self.order(order_id).await;
            if order["status"] == status {
                Ok(order)
            } else {
                Err(order.to_string())
            }
        })
        .await
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        for copy in &self.copies {
            copy.shutdown.cancel();
        }
    }
}

/// An order body of one line a SKU.
pub(crate) fn order_of(lines: &[(&str, i64)], payment_method: &str) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity, "unit_price_minor": 250 }))
        .collect();
    json!({ "customer_id": "ada", "currency": "EUR", "payment_method": payment_method, "lines": lines })
}
