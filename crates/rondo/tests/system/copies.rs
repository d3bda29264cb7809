//! Several copies of each service share the work, and one that dies leaves nothing undone.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;

use crate::shop::{PATIENCE, Process, SERVICES, Shop, order_of};

/// Every stream's versions are 1, 2, 3 and so on.
const STREAMS_WITH_GAPS: &str = "SELECT count(*) FROM (
    SELECT stream_id FROM events GROUP BY stream_id HAVING count(*) <> max(version) OR min(version) <> 1
) AS gaps";

/// How many partitions were claimed more than once: by one copy and then by another.
const HANDED_OVER: &str = "SELECT count(*) FROM offsets WHERE epoch > 1";

/// Places an order by its key at any of the copies, as a client does that has to know: again until it is taken.
async fn place_surely(shop: &Shop, copies: &[String], n: usize) {
    let body = order_of(&[("cup", 1)], "tok_visa");
    testkit::eventually(&format!("order {n} is taken"), PATIENCE, async || {
        for attempt in 0..copies.len() {
            let copy = &copies[(n + attempt) % copies.len()];
            let post = shop.client.post(format!("{copy}/orders")).json(&body);
            let answer = post.header("idempotency-key", format!("order-{n}")).send().await;
            match answer.map(|answer| answer.status().as_u16()) {
                Ok(202) => return Ok(()),
                Ok(503) | Err(_) => {}
                Ok(status) => panic!("order {n} was answered by {status}"),
            }
        }
        Err("no copy takes it")
    })
    .await;
}

async fn assert_sold(shop: &Shop, orders: i64) {
    let ends = shop.until_all_ended(orders).await;
    assert_eq!(ends["completed"], orders, "{ends:?}");
    shop.assert_stock("cup", 1_000 - orders, 0).await;
    let taken = "SELECT sum(captured_minor - refunded_minor)::bigint FROM payments";
    assert_eq!(shop.number("payments", taken).await, 250 * orders);
    for service in SERVICES {
        assert_eq!(shop.number(service, STREAMS_WITH_GAPS).await, 0, "{service}");
    }
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_share_the_orders_and_one_that_stops_leaves_none() {
    let mut shop = Shop::open().await;
    shop.stock("cup", 1_000).await;
    let second = shop.start(&SERVICES).await;
    for service in SERVICES {
        testkit::eventually(&format!("{service} has two members"), PATIENCE, async || {
            shop.number(service, HANDED_OVER).await > 0
        })
        .await;
    }
    let copies = [shop.http(0).to_owned(), shop.http(second).to_owned()];
    join_all((0..100).map(|n| place_surely(&shop, &copies, n))).await;
    // In the middle of these hundred, with all likelihood.
    shop.stop(0).await;
    join_all((100..200).map(|n| place_surely(&shop, &copies, n))).await;
    assert_sold(&shop, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_leaves_none_of_its_orders() {
    let shop = Shop::open().await;
    shop.stock("cup", 1_000).await;
    let mut doomed: Vec<Process> = Vec::new();
    for service in SERVICES {
        doomed.push(shop.spawn(&[service]).await);
        testkit::eventually(&format!("{service} has two members"), PATIENCE, async || {
            shop.number(service, HANDED_OVER).await > 0
        })
        .await;
    }
    let copies = [shop.http(0).to_owned(), doomed[0].http.clone()];
    let placing = join_all((0..200).map(|n| place_surely(&shop, &copies, n)));
    let killing = async {
        let some_are_under_way = "SELECT count(*) FROM orders";
        testkit::eventually("some orders are under way", PATIENCE, async || {
            shop.number("orders", some_are_under_way).await >= 50
        })
        .await;
        for process in doomed {
            process.kill().await;
        }
    };
    tokio::join!(placing, killing);
    assert_sold(&shop, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_waits_is_answered_whichever_copy_ends_the_order() {
    const WAIT_SECS: u64 = 45;
    let mut shop = Shop::prepare(&[("RONDO_HTTP_REQUEST_SECS", "60")]).await;
    let both = [shop.start(&SERVICES).await, shop.start(&["orders"]).await];
    shop.stock("cup", 100).await;
    let answers = join_all((0..20).map(|n| {
        let (shop, copy) = (&shop, both[n % 2]);
        async move {
            let started = Instant::now();
            let post = shop
                .client
                .post(format!("{}/orders", shop.http(copy)))
                .header("prefer", format!("wait={WAIT_SECS}"));
            let answer = post.json(&order_of(&[("cup", 1)], "tok_visa")).send().await.unwrap();
            let status = answer.status().as_u16();
            let order: Value = answer.json().await.unwrap();
            (status, order, started.elapsed())
        }
    }))
    .await;
    for (status, order, elapsed) in answers {
        assert_eq!((status, &order["status"]), (200, &"completed".into()), "{order}");
        assert!(
            elapsed < Duration::from_secs(WAIT_SECS),
            "{elapsed:?}: it was not woken"
        );
    }
}
