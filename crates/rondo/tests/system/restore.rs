//! A service's database is gone, and is made again from the service's own topic.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use testkit::kafka::{Raw, produce, read_all};

use crate::duplicates::{produce_again, until_all_is_read};
use crate::shop::{Answer, PATIENCE, SERVICES, Shop, order_of};

/// How often the command is killed before it may end.
const KILLS: usize = 6;

/// What must be the same afterwards: the events as they were, and what the service tells of them.
pub(crate) async fn store_of(shop: &Shop, service: &str) -> Vec<String> {
    let own = match service {
        "inventory" => {
            "SELECT s::text FROM stock s UNION ALL SELECT m::text FROM stock_movements m UNION ALL SELECT r::text FROM receipts r"
        }
        "payments" => "SELECT p::text FROM payments p",
        _ => "SELECT o::text FROM orders o",
    };
    let query = format!("SELECT e::text FROM events e UNION ALL {own} ORDER BY 1");
    let client = shop.database(service).client().await;
    let rows = client.query(&query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Holds a service to what it was, and shows the first rows that are not.
#[track_caller]
pub(crate) fn assert_same(now: &[String], before: &[String]) {
    let lacking: Vec<&String> = before.iter().filter(|row| !now.contains(row)).take(3).collect();
    let added: Vec<&String> = now.iter().filter(|row| !before.contains(row)).take(3).collect();
    assert!(
        lacking.is_empty() && added.is_empty(),
        "lacks {lacking:#?}, has {added:#?}"
    );
}

/// A shop with each service in a copy of its own, and orders of each kind behind it.
pub(crate) async fn shop_with_a_past() -> (Shop, BTreeMap<&'static str, usize>) {
    let mut shop = Shop::prepare(&[]).await;
    let mut copies = BTreeMap::new();
    for service in SERVICES {
        copies.insert(service, shop.start(&[service]).await);
    }
    shop.stock("TEA", 1_000).await;
    shop.stock("RARE", 1).await;
    for (sku, quantity, method) in [
        ("TEA", 1, "tok_visa"),
        ("TEA", 2, "tok_declined"),
        ("RARE", 5, "tok_visa"),
    ] {
        for _ in 0..5 {
            shop.place(&order_of(&[(sku, quantity)], method)).await;
        }
    }
    shop.until_all_ended(15).await;
    until_all_is_read(&shop).await;
    (shop, copies)
}

/// Waits until all that `service` has committed is published.
pub(crate) async fn until_published(shop: &Shop, service: &str) {
    testkit::eventually(&format!("{service} has published all"), PATIENCE, async || {
        let behind = "SELECT count(*) FROM events WHERE position > (SELECT cursor FROM relay)";
        shop.number(service, behind).await == 0
    })
    .await;
}

/// Waits until Kafka shows nobody who reads for `service`, as a restore demands.
pub(crate) async fn restore(shop: &Shop, service: &str) -> Answer {
    testkit::eventually(&format!("{service} is restored"), PATIENCE, async || {
        let answer = shop.verb(&["replay", "restore", "--service", service]).await;
        if answer.status == 0 { Ok(answer) } else { Err(answer) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_database_is_lost_in_turn_and_made_again_and_no_effect_is_repeated() {
    let (mut shop, mut copies) = shop_with_a_past().await;
    let mut placed = 15;
    for service in SERVICES {
        // An order is half way when the database goes: the others answer while nobody hears it here.
        let away = if service == "inventory" {
            "payments"
        } else {
            "inventory"
        };
        shop.stop(copies[away]).await;
        let half_way = shop.place(&order_of(&[("TEA", 1)], "tok_visa")).await;
        let table = if away == "inventory" { "payments" } else { "inventory" };
        testkit::eventually("the one that is there has answered", PATIENCE, async || {
            let query = format!("SELECT count(*) FROM events WHERE stream_id = '{half_way}'");
            shop.number(table, &query).await > 0
        })
        .await;
        for other in SERVICES {
            until_published(&shop, other).await;
        }
        let running = shop.verb(&["replay", "restore", "--service", service]).await;
        assert_eq!(running.status, 1, "it runs: {running:?}");
        shop.stop(copies[service]).await;
        let before = store_of(&shop, service).await;

        shop.database(service).lose().await;
        let restored = restore(&shop, service).await;
        assert!(restored.stdout.contains("not yet published"), "{restored:?}");
        assert_same(&store_of(&shop, service).await, &before);
        let again = shop.verb(&["replay", "restore", "--service", service]).await;
        assert!(again.status == 1 && again.stderr.contains("not empty"), "{again:?}");

        copies.insert(service, shop.start(&[service]).await);
        copies.insert(away, shop.start(&[away]).await);
        placed += 1;
        shop.until(&half_way, "completed").await;
        until_all_is_read(&shop).await;
        let events = "SELECT count(*) FROM events WHERE type IN ('PaymentCaptured', 'PaymentAuthorized')";
        let twice = "SELECT count(*) - count(DISTINCT (stream_id, type)) FROM events";
        assert!(shop.number("payments", events).await > 0);
        assert_eq!(shop.number("payments", twice).await, 0, "nothing was charged twice");
        let after = store_of(&shop, service).await;
        let lost: Vec<&String> = before
            .iter()
            .filter(|row| row.contains("Placed") && !after.contains(row))
            .collect();
        assert!(lost.is_empty(), "{lost:?}");
        let next = shop.place(&order_of(&[("TEA", 1)], "tok_visa")).await;
        placed += 1;
        shop.until(&next, "completed").await;
        shop.until_all_ended(placed).await;
        shop.audit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_at_random_moments_ends_the_same_and_no_service_starts_before() {
    let (mut shop, copies) = shop_with_a_past().await;
    for service in SERVICES {
        until_published(&shop, service).await;
    }
    let service = "payments";
    // Repetitions, so that there is something to read.
    let topic = shop.topic("payments.events");
    let records = read_all(&topic).await;
    for _ in 0..100 {
        produce_again(&topic, &records.iter().collect::<Vec<_>>()).await;
    }
    shop.stop(copies[service]).await;
    let before = store_of(&shop, service).await;
    shop.database(service).lose().await;
    let is_begun = async || {
        let client = shop.database(service).client().await;
        let begun = client.query("SELECT FROM restore", &[]).await;
        begun.is_ok_and(|rows| !rows.is_empty())
    };
    let mut half = 0;
    for _ in 0..KILLS {
        let mut restoring = shop
            .rondo(&["replay", "restore", "--service", service])
            .spawn()
            .unwrap();
        testkit::eventually("there is something to kill", PATIENCE, async || {
            is_begun().await || restoring.try_wait().unwrap().is_some()
        })
        .await;
        let delay = Duration::from_millis(rand::rng().random_range(0..500));
        if tokio::time::timeout(delay, restoring.wait()).await.is_err() {
            restoring.kill().await.unwrap();
        }
        if is_begun().await {
            half += 1;
            let refused = shop
                .rondo(&["serve", service])
                .env("RONDO_HTTP_ADDRESS", "127.0.0.1:0")
                .output()
                .await
                .unwrap();
            let why = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && why.contains("half restored"), "{why}");
        } else if shop
            .number(service, "SELECT count(*) FROM pg_class WHERE relname = 'offsets'")
            .await
            > 0
            && shop.number(service, "SELECT count(*) FROM offsets").await > 0
        {
            // It ended in time: from the beginning again.
            assert_same(&store_of(&shop, service).await, &before);
            shop.database(service).lose().await;
        }
    }
    assert!(half > 0, "none of {KILLS} was killed half way");
    restore(&shop, service).await;
    assert_same(&store_of(&shop, service).await, &before);
    shop.start(&[service]).await;
    let next = shop.place(&order_of(&[("TEA", 1)], "tok_visa")).await;
    shop.until(&next, "completed").await;
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repetitions_and_strangers_in_the_log_are_passed_over_and_a_hole_is_named() {
    let (shop, _copies) = shop_with_a_past().await;
    until_published(&shop, "payments").await;
    let records = read_all(&shop.topic("payments.events")).await;
    let events = shop.number("payments", "SELECT count(*) FROM events").await;

    // The same log in other hands: some of it twice, and records of a stranger.
    let whole = Shop::prepare(&[]).await;
    let topic = whole.topic("payments.events");
    produce_again(&topic, &records.iter().collect::<Vec<_>>()).await;
    produce_again(&topic, &records.iter().take(7).collect::<Vec<_>>()).await;
    produce(
        &topic,
        &[Raw {
            value: Some(b"hello"),
            ..Raw::default()
        }],
    )
    .await;
    whole.database("payments").lose().await;
    let restored = whole
        .verb(&["replay", "restore", "--service", "payments", "--output", "json"])
        .await;
    assert_eq!(restored.status, 0, "{restored:?}");
    let report: serde_json::Value = serde_json::from_str(&restored.stdout).unwrap();
    assert_eq!(
        (
            &report["events"],
            &report["repeated_records"],
            &report["foreign_records"]
        ),
        (&events.into(), &7.into(), &1.into()),
        "{report}"
    );
    assert_same(&store_of(&whole, "payments").await, &store_of(&shop, "payments").await);

    // The first event of a stream is not there.
    let holed = Shop::prepare(&[]).await;
    let first = |record: &&rdkafka::message::OwnedMessage| {
        use rdkafka::message::Headers as _;
        let headers = rdkafka::Message::headers(*record).unwrap();
        headers
            .iter()
            .any(|header| header.key == "stream-version" && header.value == Some(b"1"))
    };
    let missing = records.iter().position(|record| first(&record)).unwrap();
    let key = String::from_utf8(rdkafka::Message::key(&records[missing]).unwrap().to_vec()).unwrap();
    let rest: Vec<_> = records
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != missing)
        .map(|(_, record)| record)
        .collect();
    produce_again(&holed.topic("payments.events"), &rest).await;
    holed.database("payments").lose().await;
    let arguments = ["replay", "restore", "--service", "payments"];
    let refused = holed.verb(&arguments).await;
    assert!(refused.status == 1 && refused.stderr.contains(&key), "{refused:?}");
    let accepted = holed.verb(&[&arguments[..], &["--accept-gaps"]].concat()).await;
    assert!(
        accepted.status == 0 && accepted.stdout.contains("1 stream"),
        "{accepted:?}"
    );
    assert_eq!(
        holed.number("payments", "SELECT count(*) FROM events").await,
        events - 1
    );
}
