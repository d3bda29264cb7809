//! Positions are drawn before they commit, and commit in any order; the saga of a late one is not lost.

use testkit::kafka::read_all;
use uuid::Uuid;

use crate::shop::{PATIENCE, Shop, order_of};

/// Appends a second `OrderPlaced` of another order by hand: its bytes are the first one's, but for the id.
const COPY: &str =
    "INSERT INTO events (id, stream_id, version, type, schema_id, payload, correlation_id, causation_id, occurred_at)
    SELECT $1, $2::text, 1, type, schema_id,
           overlay(payload PLACING convert_to($2, 'UTF8') FROM position(convert_to(stream_id, 'UTF8') IN payload)),
           $1, $1, clock_timestamp()
    FROM events WHERE stream_id = $3 AND version = 1 RETURNING position";

/// The last position that the relay has had acknowledged.
const CURSOR: &str = "SELECT cursor FROM relay";

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_commits_after_later_ones_is_neither_passed_nor_skipped() {
    let shop = Shop::open().await;
    shop.stock("cup", 100).await;
    let first = shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    shop.until(&first, "completed").await;

    let mut connection = shop.database("orders").client().await;
    let late = connection.transaction().await.unwrap();
    let late_id = Uuid::now_v7();
    let row = late
        .query_one(COPY, &[&late_id, &late_id.to_string(), &first])
        .await
        .unwrap();
    let held: i64 = row.get(0);
    for _ in 0..10 {
        shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    }
    // They are taken and durable, and wait behind the open position.
    testkit::eventually("the relay has come to the open position", PATIENCE, async || {
        shop.number("orders", CURSOR).await == held - 1
    })
    .await;
    assert_eq!(
        shop.number("orders", "SELECT count(*) FROM orders WHERE status = 'placed'")
            .await,
        10
    );
    assert!(shop.number("orders", "SELECT max(position) FROM events").await > held);

    late.commit().await.unwrap();
    assert_eq!(shop.until_all_ended(12).await["completed"], 12);
    shop.until(&late_id.to_string(), "completed").await;
    shop.assert_stock("cup", 88, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_rolled_back_holds_nobody_up() {
    let shop = Shop::open().await;
    shop.stock("cup", 100).await;
    let first = shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    shop.until(&first, "completed").await;
    let mut connection = shop.database("orders").client().await;
    for _ in 0..5 {
        let undone = connection.transaction().await.unwrap();
        let id = Uuid::now_v7();
        undone.query_one(COPY, &[&id, &id.to_string(), &first]).await.unwrap();
        let order = shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
        undone.rollback().await.unwrap();
        shop.until(&order, "completed").await;
    }
    let committed = shop.number("orders", "SELECT count(*) FROM events").await;
    testkit::eventually("every event is in the log", PATIENCE, async || {
        let logged = read_all(&shop.topic("orders.events")).await.len();
        if logged as i64 == committed {
            Ok(())
        } else {
            Err(format!("{logged} of {committed}"))
        }
    })
    .await;
}
