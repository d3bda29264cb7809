//! Two copies of orders on one real database. The broker is away: what participants answer is told by the tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use common::claims::Claims;
use common::codec::{Codec, Registry, RegistrySettings};
use common::committer::Patience;
use common::committer::{Commands, Committer, Expect};
use common::config::Secret;
use common::event::{Cause, EventSet as _, StreamId};
use common::http::OperatorToken;
use common::relay::{self, Relay};
use common::{kafka, migrate, service};
use orders::domain::{Answer, Command, SourceId};
use orders::http::{Context, Windows, router};
use orders::service::Orders;
use orders::waiting::Endings;
use serde_json::{Value, json};
use testkit::Database;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;

pub(crate) const TOKEN: &str = "the-operators-token";

/// One copy of the service.
pub(crate) struct Copy {
    app: Router,
    commands: Commands<Orders>,
}

/// The copies and what they share; all stops with it.
pub(crate) struct World {
    pub(crate) first: Copy,
    pub(crate) second: Copy,
    shutdown: CancellationToken,
    _database: Database,
}

/// An answer of the service.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl World {
    pub(crate) async fn new() -> Self {
        let database = testkit::database(async |client| {
            migrate::apply(client, "common", service::MIGRATIONS)
                .await
                .expect("the runtime's tables are made");
            migrate::apply(client, "orders", orders::MIGRATIONS)
                .await
                .expect("the service's tables are made");
        })
        .await;
        let shutdown = CancellationToken::new();
        Self {
            first: copy(&database, &shutdown),
            second: copy(&database, &shutdown),
            shutdown,
            _database: database,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn copy(database: &Database, shutdown: &CancellationToken) -> Copy {
    let pool = database.pool(8);
    let endings = Endings::new(100);
    let codec = Arc::new(codec());
    let nowhere = kafka::Settings {
        brokers: "127.0.0.1:1".to_owned(),
        properties: BTreeMap::new(),
        namespace: None,
    };
    let settings = relay::Settings {
        service: "orders",
        topic: "orders.events".to_owned(),
        kafka: nowhere,
        lease: relay::LEASE,
        poll: relay::POLL,
    };
    let (relay, _) = Relay::start(pool.clone(), database.url().to_owned(), settings, shutdown.clone());
    let committer = Committer::new(
        Arc::new(Orders::new(endings.clone())),
        codec.clone(),
        pool.clone(),
        relay,
        Arc::new(Claims::default()),
        Patience::default(),
        None,
    );
    let (commands, serving) = committer.serve(mpsc::channel(1).1, shutdown.clone());
    tokio::spawn(serving);
    let (listener, url, listening) = (endings.clone(), database.url().to_owned(), pool.clone());
    let stopped = shutdown.clone();
    tokio::spawn(async move { stopped.run_until_cancelled(listener.run(&listening, &url)).await });
    let context = Context {
        commands: commands.clone(),
        pool,
        codec,
        endings,
        operator: OperatorToken::new(Some(Secret::from(TOKEN))),
        windows: Windows::default(),
    };
    let (app, _) = router(Arc::new(context)).split_for_parts();
    Copy { app, commands }
}

/// A codec that needs no registry: its schemas are pinned to ids of our own.
fn codec() -> Codec {
    let nowhere = RegistrySettings {
        url: "http://127.0.0.1:1".to_owned(),
        basic: None,
        token: None,
    };
    let mut codec = Codec::reader(Registry::new(&nowhere).expect("a client needs no server"));
    for (event_type, id) in contracts::orders::Event::TYPES.iter().zip(1..) {
        codec
            .pin_as(event_type, event_type.newest(), id)
            .expect("our schemas are valid");
    }
    codec
}

impl Copy {
    /// Sends a request with these headers; a body is sent as JSON.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let request = request.body(body).expect("the request is well-formed");
        let response = self.app.clone().oneshot(request).await.expect("a router is infallible");
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), 1 << 20)
            .await
            .expect("the body is in memory");
        Reply {
            status,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], None).await
    }

    pub(crate) async fn place(&self, headers: &[(&str, &str)]) -> Reply {
        self.send("POST", "/orders", headers, Some(&body())).await
    }

    /// Has a participant's answer noted, as the consumer would.
    pub(crate) async fn note(&self, order_id: &str, answer: Answer) {
        let source = SourceId(Uuid::new_v4());
        self.submit(order_id, Command::Note { answer, source }).await;
    }

    pub(crate) async fn submit(&self, order_id: &str, command: Command) {
        let cause = Cause {
            id: Uuid::now_v7(),
            correlation_id: order_id.parse().expect("an order's id is a UUID"),
            traceparent: None,
        };
        let submitted = self
            .commands
            .submit(StreamId::new(order_id), command, cause, Expect::Any);
        submitted.await.expect("the command is accepted");
    }
}

impl Reply {
    pub(crate) fn order_id(&self) -> String {
        self.body["order_id"]
            .as_str()
            .unwrap_or_else(|| panic!("no order: {self:?}"))
            .to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("our headers are text"))
    }
}

pub(crate) fn body() -> Value {
    json!({
        "customer_id": "VINET", "currency": "USD", "payment_method": "tok_visa", "reference": "northwind-10248",
        "lines": [{ "sku": "NW-011", "quantity": 12, "unit_price_minor": 1400 }],
    })
}

/// Long enough for anything that does not fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
