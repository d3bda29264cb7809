//! The example service, on real servers: an order that is completed is shipped once, however often that is said.

#[path = "../examples/shipping/shipping.rs"]
mod shipping;

use std::sync::Arc;
use std::time::Duration;

use common::codec::{Codec, Registry, RegistrySettings};
use common::parking::RetryPolicy;
use common::service::{self, Settings};
use common::{envelope, kafka};
use rdkafka::Message as _;
use serde::{Deserialize, Serialize};
use testkit::kafka::Raw;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// As the orders' writer knows it: with more than shipping reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OrderCompleted {
    /// The order's id.
    pub(crate) order_id: String,
}

mod orders {
    use super::OrderCompleted;

    common::events! {
        /// What orders says, as far as this test needs it.
        pub enum Event on "orders.events" in "rondo.orders" {
            OrderCompleted { 1 => "../../../schemas/orders/OrderCompleted.v1.avsc" },
        }
    }
}

async fn settings(database: &testkit::Database) -> Settings {
    let namespace = testkit::namespace();
    Settings {
        database_url: database.url().to_owned(),
        pool_size: 6,
        kafka: kafka::Settings {
            brokers: testkit::kafka::brokers().await.to_owned(),
            namespace: Some(namespace),
            properties: testkit::kafka::properties(),
        },
        registry: RegistrySettings {
            url: testkit::registry().await.to_owned(),
            basic: None,
            token: None,
        },
        retry: RetryPolicy::default(),
        breaker: common::breaker::Settings::default(),
        clock_interval: Duration::from_millis(50),
        deadline_grace: Duration::ZERO,
        schemas: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_order_is_shipped_once_though_it_is_told_twice() {
    let database = testkit::database(async |_| {}).await;
    let settings = settings(&database).await;
    let input = settings.kafka.named("orders.events");
    testkit::kafka::create_topics(&[&input], 12).await;
    let registry = Registry::new(&settings.registry).unwrap();
    for event_type in <orders::Event as common::event::EventSet>::TYPES {
        registry
            .register(&input, event_type, "BACKWARD_TRANSITIVE")
            .await
            .unwrap();
    }
    let codec = Codec::pin::<orders::Event>(registry, &input, &Default::default())
        .await
        .unwrap();
    shipping::init(&settings).await.unwrap();
    shipping::init(&settings).await.expect("it is safe to repeat");
    let shutdown = CancellationToken::new();
    let running = service::start(Arc::new(shipping::Shipping), settings.clone(), shutdown.clone())
        .await
        .unwrap();

    // The same event twice, and another one that says the same.
    let order_id = "0199c0de-0000-7000-8000-000000000001";
    let completed = OrderCompleted {
        order_id: order_id.to_owned(),
    };
    let (_, value) = codec.encode(&orders::Event::from(completed)).unwrap();
    for id in ["7", "7", "8"] {
        let id = format!("0199c0de-0000-7000-8000-00000000000{id}");
        let headers: [(&str, &[u8]); 4] = [
            (envelope::names::ID, id.as_bytes()),
            (envelope::names::TYPE, b"OrderCompleted"),
            (envelope::names::SOURCE, b"orders"),
            (envelope::names::TIME, b"2026-01-02T03:04:05Z"),
        ];
        let record = Raw {
            key: Some(order_id.as_bytes()),
            value: Some(&value),
            headers: &headers,
            ..Raw::default()
        };
        testkit::kafka::produce(&input, &[record]).await;
    }
    let client = running.pool.get().await.unwrap();
    testkit::eventually("all three records are dealt with", PATIENCE, async || {
        let offsets = common::inbox::offsets(&client, "shipping").await.unwrap();
        if offsets.values().any(|next| *next == 3) {
            Ok(())
        } else {
            Err(offsets)
        }
    })
    .await;
    let events: i64 = client
        .query_one("SELECT count(*) FROM events", &[])
        .await
        .unwrap()
        .get(0);
    let seen: i64 = client
        .query_one("SELECT count(*) FROM inbox WHERE outcome = 0", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!((events, seen), (1, 1), "events written, and events that found it done");
    drop(client);

    let output = settings.kafka.named("shipping.events");
    let published = testkit::eventually("the shipment is published", PATIENCE, async || {
        testkit::kafka::read_all(&output).await.pop()
    })
    .await;
    assert_eq!(published.key(), Some(order_id.as_bytes()));
    let said: shipping::Event = running.codec.decode(published.payload().unwrap()).await.unwrap();
    let shipping::Event::ShipmentPlanned(planned) = said;
    assert_eq!(planned.order_id, order_id);

    // Over HTTP, as somebody else would read it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/shipments/", listener.local_addr().unwrap());
    let app = shipping::router(running.pool.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let answer = reqwest::get(format!("{url}{order_id}")).await.unwrap();
    let body: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(body["ship_by"], planned.ship_by);
    assert_eq!(reqwest::get(format!("{url}unknown")).await.unwrap().status(), 404);
    serving.abort();
    shutdown.cancel();
    running.join().await.unwrap();
}
