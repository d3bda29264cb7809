//! The saga's ways: to completion, to cancellation, and what is left behind.

use serde_json::Value;

use crate::shop::{Shop, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_can_be_paid_and_filled_completes() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    shop.until(&id, "completed").await;
    let stock = shop.get("/inventory/cup").await;
    assert_eq!(
        (&stock["on_hand"], &stock["reserved"], &stock["available"]),
        (&7.into(), &0.into(), &7.into())
    );
    let payment = shop.get(&format!("/payments/{id}")).await;
    assert_eq!(
        (&payment["status"], &payment["captured_minor"]),
        (&"captured".into(), &750.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_order_gives_its_goods_back() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_declined")).await;
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "payment_declined");
    let stock = shop.get("/inventory/cup").await;
    assert_eq!((&stock["on_hand"], &stock["reserved"]), (&10.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_beyond_the_shelf_gives_its_money_back() {
    let shop = Shop::open().await;
    shop.stock("cup", 2).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "out_of_stock");
    let payment = shop.get(&format!("/payments/{id}")).await;
    assert_eq!(
        (&payment["status"], &payment["captured_minor"]),
        (&"voided".into(), &0.into())
    );
    assert_eq!(shop.get("/inventory/cup").await["available"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_waits_is_answered_when_the_order_ends() {
    let shop = Shop::open().await;
    shop.stock("cup", 2).await;
    let answer = shop
        .client
        .post(format!("{}/orders", shop.base("orders")))
        .header("prefer", "wait=30")
        .json(&order_of(&[("cup", 1)], "tok_visa"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["preference-applied"], "wait=30");
    let order: Value = answer.json().await.unwrap();
    assert_eq!(order["status"], "completed");
}
