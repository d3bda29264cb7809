//! Many want the same few goods.

use futures_util::future::join_all;

use crate::shop::{Shop, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_orders_for_the_last_ten_sell_exactly_ten() {
    let shop = Shop::open().await;
    shop.stock("last", 10).await;
    join_all((0..100).map(|_| {
        let shop = &shop;
        async move { shop.place(&order_of(&[("last", 1)], "tok_visa")).await }
    }))
    .await;
    let ends = shop.until_all_ended(100).await;
    assert_eq!(
        (ends["completed"], ends["cancelled out_of_stock"]),
        (10, 90),
        "{ends:?}"
    );
    shop.assert_stock("last", 0, 0).await;
    let lowest = "SELECT min(level)::bigint FROM (
        SELECT sum(on_hand_delta - reserved_delta) OVER (ORDER BY occurred_at, position) AS level FROM stock_movements
    ) AS levels";
    assert_eq!(
        shop.number("inventory", lowest).await,
        0,
        "the last ten were to be had, and never more"
    );
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_want_the_same_goods_in_another_order_do_not_lock_each_other_out() {
    let shop = Shop::open().await;
    shop.stock("left", 30).await;
    shop.stock("right", 30).await;
    join_all((0..60).map(|n| {
        let shop = &shop;
        let lines = if n % 2 == 0 {
            [("left", 1), ("right", 1)]
        } else {
            [("right", 1), ("left", 1)]
        };
        async move { shop.place(&order_of(&lines, "tok_visa")).await }
    }))
    .await;
    let ends = shop.until_all_ended(60).await;
    assert_eq!(
        (ends["completed"], ends["cancelled out_of_stock"]),
        (30, 30),
        "{ends:?}"
    );
    shop.assert_stock("left", 0, 0).await;
    shop.assert_stock("right", 0, 0).await;
}
