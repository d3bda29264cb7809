//! Nothing waits for ever: who does not answer in time, or cannot, costs the order and nothing else.

use crate::shop::{Shop, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_payments_never_hears_of_is_cancelled_by_its_deadline() {
    let mut shop = Shop::prepare(&[("RONDO_DECIDE_SECS", "1")]).await;
    shop.start(&["orders", "inventory"]).await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    shop.until(&id, "cancelling").await;
    // Cancelled it is only when payments has said that nothing is held.
    shop.start(&["payments"]).await;
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "deadline");
    shop.assert_payment(&id, "voided", 0, 0).await;
    shop.assert_stock("cup", 10, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passed_while_orders_was_down_waits_for_the_answers() {
    // The grace is what a busy machine may take until both have answered; a deadline that did not wait would fire at once.
    let mut shop = Shop::prepare(&[("RONDO_DECIDE_SECS", "2"), ("RONDO_DEADLINE_GRACE_MS", "30000")]).await;
    let orders = shop.start(&["orders"]).await;
    let others = shop.start(&["payments", "inventory"]).await;
    shop.stock("cup", 10).await;
    // Only the order itself gets out before orders goes down.
    shop.stop(others).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_visa")).await;
    let placed = "SELECT (cursor > 0)::int::bigint FROM relay";
    testkit::eventually("the order is in the log", crate::shop::PATIENCE, async || {
        shop.number("orders", placed).await == 1
    })
    .await;
    shop.stop(orders).await;
    shop.start(&["payments", "inventory"]).await;
    shop.until_path(&format!("/payments/{id}"), "authorized").await;
    let late = "SELECT count(*) FROM timers WHERE due_at < clock_timestamp()";
    testkit::eventually("the deadline has passed", crate::shop::PATIENCE, async || {
        shop.number("orders", late).await == 1
    })
    .await;
    shop.start(&["orders"]).await;
    shop.until(&id, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_never_answers_costs_the_order_by_its_deadline() {
    let shop = Shop::open_with(&[("RONDO_DECIDE_SECS", "1")]).await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_timeout")).await;
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "deadline");
    shop.assert_payment(&id, "voided", 0, 0).await;
    shop.assert_stock("cup", 10, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stays_unavailable_declines_and_nothing_is_set_aside() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 3)], "tok_unavailable")).await;
    let order = shop.until(&id, "cancelled").await;
    assert_eq!(order["reason"], "payment_declined");
    let payment = shop.get(&format!("/payments/{id}")).await;
    assert_eq!(payment["reason"], "unavailable", "{payment}");
    shop.assert_stock("cup", 10, 0).await;
    let troubles = "SELECT (SELECT count(*) FROM dead_letters) + (SELECT count(*) FROM parked)";
    assert_eq!(
        shop.number("payments", troubles).await,
        0,
        "a gateway's failure is no record's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_on_while_another_waits_for_its_gateway() {
    let shop = Shop::open().await;
    shop.stock("cup", 100).await;
    for _ in 0..6 {
        shop.place(&order_of(&[("cup", 1)], "tok_timeout")).await;
    }
    for _ in 0..6 {
        let id = shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
        shop.until(&id, "completed").await;
    }
    shop.assert_stock("cup", 94, 6).await;
}
