//! An order can be called off at any moment until it has completed, and then nothing of it is left.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::gate::Gate;
use crate::shop::{Shop, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_called_off_while_it_is_placed_gives_everything_back() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let gate = Gate::shut(shop.database("inventory"), "StockReserved").await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    gate.reached().await;
    shop.until_path(&format!("/payments/{id}"), "authorized").await;
    assert_eq!(shop.order(&id).await["status"], "placed");

    assert_eq!(shop.tell(&id, "cancel").await, 202);
    // The money is back already, yet the order has not ended: inventory has not answered.
    shop.until_path(&format!("/payments/{id}"), "voided").await;
    assert_eq!(shop.order(&id).await["status"], "cancelling");
    gate.open().await;
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "customer_request");
    shop.assert_stock("cup", 10, 0).await;
    shop.assert_payment(&id, "voided", 0, 0).await;
    assert_eq!(
        shop.tell(&id, "cancel").await,
        202,
        "calling off again changes nothing and is no mistake"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_called_off_after_it_was_confirmed_is_refunded_and_returned() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let gate = Gate::shut(shop.database("inventory"), "StockCommitted").await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    gate.reached().await;
    shop.until_path(&format!("/payments/{id}"), "captured").await;
    assert_eq!(shop.order(&id).await["status"], "confirmed");

    assert_eq!(shop.tell(&id, "cancel").await, 202);
    gate.open().await;
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "customer_request");
    assert_eq!(
        order["stock"]["status"], "returned",
        "it was committed before it came back"
    );
    shop.assert_stock("cup", 10, 0).await;
    shop.assert_payment(&id, "refunded", 750, 750).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_order_cannot_be_called_off() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    shop.until(&id, "completed").await;
    assert_eq!(shop.tell(&id, "cancel").await, 409);
    assert_eq!(shop.order(&id).await["status"], "completed");
    shop.assert_stock("cup", 7, 0).await;
    shop.assert_payment(&id, "captured", 750, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_called_off_an_order_ends_one_way_and_wholly() {
    const ORDERS: usize = 60;
    let shop = Shop::open().await;
    shop.stock("cup", 1_000).await;
    let answers = join_all((0..ORDERS).map(|n| {
        let shop = &shop;
        async move {
            let id = shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
            // Looking takes a moment: each order is called off a little later than the one before.
            for _ in 0..n {
                shop.order(&id).await;
            }
            (shop.tell(&id, "cancel").await, id)
        }
    }))
    .await;

    let mut ends = BTreeMap::new();
    for (answer, id) in &answers {
        let end = match answer {
            202 => "cancelled",
            409 => "completed",
            other => panic!("cancelling {id} was answered by {other}"),
        };
        let order = shop.until(id, end).await;
        *ends.entry(end).or_insert(0) += 1;
        let payment = shop.get(&format!("/payments/{id}")).await;
        let kept = payment["captured_minor"].as_i64().unwrap() - payment["refunded_minor"].as_i64().unwrap();
        assert_eq!(kept, if end == "completed" { 250 } else { 0 }, "{order} {payment}");
    }
    let sold = ends.get("completed").copied().unwrap_or(0);
    shop.assert_stock("cup", 1_000 - sold, 0).await;
    assert!(ends["cancelled"] > 0, "{ends:?}");
    shop.audit().await;
}
