//! What cannot be settled is stuck, says why, and can be sent on.

use crate::gate::Gate;
use crate::shop::{Shop, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_not_settled_in_time_is_stuck_until_it_is_answered() {
    let shop = Shop::open_with(&[("RONDO_SETTLE_SECS", "1")]).await;
    shop.stock("cup", 10).await;
    let gate = Gate::shut(shop.database("inventory"), "StockCommitted").await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    let order = shop.until(&id, "stuck").await;
    let why = order["stuck_reason"].as_str().unwrap();
    assert!(why.contains("inventory to commit"), "{why}");

    // Sent on, it waits for the same again.
    assert_eq!(shop.tell(&id, "resume").await, 202);
    shop.until(&id, "stuck").await;
    gate.open().await;
    shop.until(&id, "completed").await;
    assert_eq!(shop.tell(&id, "resume").await, 409);
    shop.assert_stock("cup", 7, 0).await;
    shop.assert_payment(&id, "captured", 750, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_is_not_settled_in_time_is_stuck_until_payments_returns() {
    let variables = [("RONDO_DECIDE_SECS", "1"), ("RONDO_SETTLE_SECS", "1")];
    let mut shop = Shop::prepare(&variables).await;
    shop.start(&["orders", "inventory"]).await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    let order = shop.until(&id, "stuck").await;
    let why = order["stuck_reason"].as_str().unwrap();
    assert!(why.contains("payments to void or refund"), "{why}");
    assert_eq!(shop.tell(&id, "resume").await, 202);
    shop.start(&["payments"]).await;
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "deadline");
    shop.assert_stock("cup", 10, 0).await;
    shop.assert_payment(&id, "voided", 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_capture_is_stuck_and_completes_when_it_is_sent_on() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_capture_fails")).await;
    let order = shop.until(&id, "stuck").await;
    let why = order["stuck_reason"].as_str().unwrap();
    assert!(why.contains("captured"), "{why}");
    shop.assert_payment(&id, "capture_failed", 0, 0).await;
    assert_eq!(shop.tell(&id, "resume").await, 202);
    shop.until(&id, "completed").await;
    shop.assert_stock("cup", 7, 0).await;
    shop.assert_payment(&id, "captured", 750, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_capture_can_be_called_off_instead() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_capture_fails")).await;
    shop.until(&id, "stuck").await;
    assert_eq!(shop.tell(&id, "cancel").await, 202);
    shop.until(&id, "cancelled").await;
    shop.assert_stock("cup", 10, 0).await;
    shop.assert_payment(&id, "voided", 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_refund_is_stuck_and_paid_back_when_it_is_sent_on() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let gate = Gate::shut(shop.database("inventory"), "StockCommitted").await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_refund_fails")).await;
    shop.until_path(&format!("/payments/{id}"), "captured").await;
    assert_eq!(shop.tell(&id, "cancel").await, 202);
    gate.open().await;
    let order = shop.until(&id, "stuck").await;
    let why = order["stuck_reason"].as_str().unwrap();
    assert!(why.contains("refunded"), "{why}");
    shop.assert_payment(&id, "refund_failed", 750, 0).await;
    assert_eq!(shop.tell(&id, "resume").await, 202);
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "customer_request");
    shop.assert_stock("cup", 10, 0).await;
    shop.assert_payment(&id, "refunded", 750, 750).await;
}
