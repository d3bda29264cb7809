//! A log in which every version of every schema lies, told again from its first record.

use common::codec::Registry;
use contracts::service::Service;
use rdkafka::Message as _;

use crate::duplicates::until_all_is_read;
use crate::replay::rebuild;
use crate::restore::{assert_same, restore, store_of, until_published};
use crate::shop::{SERVICES, Shop, order_of};

/// Which versions are written, one after the other: each that there ever was, and what this build writes by itself.
const WRITTEN: [&str; 3] = [
    "OrderPlaced=1,PaymentDeclined=1,PaymentAttempted=1",
    "OrderPlaced=2,PaymentDeclined=1,PaymentAttempted=2",
    "",
];

/// How many records of `event` are written with each version of its schema, oldest first.
async fn versions_of(shop: &Shop, event: &str) -> Vec<usize> {
    let registry = Registry::new(&common::config::registry(&shop.environment()).unwrap()).unwrap();
    let service = Service::writing(event).unwrap();
    let event_type = service.types.iter().find(|one| one.name == event).unwrap();
    let topic = shop.topic(service.topic);
    let log = testkit::kafka::read_all(&topic).await;
    let mut counts = Vec::new();
    for version in event_type.versions {
        let id = registry.lookup(&topic, event_type, version).await.unwrap();
        let written = log
            .iter()
            .filter(|record| record.payload().unwrap()[1..5] == id.to_be_bytes());
        counts.push(written.count());
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_all_versions_is_told_again_from_offset_0_and_a_lost_database_is_made_of_it() {
    let mut shop = Shop::prepare(&[("RONDO_RETRY_FIRST_WAIT_MS", "50")]).await;
    let (mut placed, mut running) = (0, None);
    for written in WRITTEN {
        shop.set("RONDO_WRITE_VERSIONS", written);
        // One after the other: where a copy leaves while another joins, the embedded broker may keep partitions for the one that left.
        if let Some(copy) = running.take() {
            shop.stop(copy).await;
        }
        running = Some(shop.start(&SERVICES).await);
        if placed == 0 {
            shop.stock("cup", 1_000).await;
        }
        // An older version has no word for an expired card, and then the service's own rows must not have it either.
        for method in ["tok_visa", "tok_expired_card", "tok_declined", "tok_unavailable"] {
            shop.place(&order_of(&[("cup", 1)], method)).await;
            placed += 1;
        }
        shop.until_all_ended(placed).await;
        until_all_is_read(&shop).await;
        for service in SERVICES {
            until_published(&shop, service).await;
        }
    }
    for event in ["OrderPlaced", "PaymentDeclined", "PaymentAttempted"] {
        let counts = versions_of(&shop, event).await;
        assert!(counts.iter().all(|count| *count > 0), "{event}: {counts:?}");
    }

    for service in SERVICES {
        let events = shop.number(service, "SELECT count(*) FROM events").await;
        for start in [&["--from-offset", "0"][..], &["--from-earliest"]] {
            let (code, report) = rebuild(&shop, service, &[start, &["--no-swap"]].concat()).await;
            assert_eq!(
                (code, &report["equal"], &report["partial"], &report["events"]),
                (0, &true.into(), &false.into(), &events.into()),
                "{report:#}"
            );
        }
    }

    shop.stop(running.unwrap()).await;
    for service in ["orders", "payments"] {
        let before = store_of(&shop, service).await;
        shop.database(service).lose().await;
        restore(&shop, service).await;
        assert_same(&store_of(&shop, service).await, &before);
    }
}
