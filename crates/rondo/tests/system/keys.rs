//! A request that is repeated, by a key of its sender's, is one order.

use futures_util::future::join_all;
use serde_json::Value;
use std::collections::BTreeSet;

use crate::shop::{Shop, order_of};

async fn post(shop: &Shop, copy: usize, key: &str, body: &Value) -> (u16, Value) {
    let post = shop
        .client
        .post(format!("{}/orders", shop.http(copy)))
        .header("idempotency-key", key);
    let answer = post.json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_equal_requests_in_one_gust_are_one_order_whichever_copy_took_them() {
    let mut shop = Shop::open().await;
    shop.start(&["orders"]).await;
    shop.stock("cup", 10).await;
    let answers = join_all((0..50).map(|n| {
        let shop = &shop;
        async move { post(shop, n % 2, "once", &order_of(&[("cup", 3)], "tok_visa")).await }
    }))
    .await;
    let ids: BTreeSet<&str> = answers
        .iter()
        .map(|(status, order)| {
            assert_eq!(*status, 202, "{order}");
            order["order_id"].as_str().unwrap()
        })
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(shop.until_all_ended(1).await["completed"], 1);
    shop.assert_stock("cup", 7, 0).await;

    let id = *ids.first().unwrap();
    let (status, order) = post(&shop, 0, "once", &order_of(&[("cup", 3)], "tok_visa")).await;
    assert_eq!((status, &order["status"]), (202, &"completed".into()), "{order}");
    assert_eq!(order["order_id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_does_not_take_another_body_and_belongs_to_one_customer() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let body = order_of(&[("cup", 1)], "tok_visa");
    let (status, order) = post(&shop, 0, "mine", &body).await;
    assert_eq!(status, 202);
    let (status, problem) = post(&shop, 0, "mine", &order_of(&[("cup", 2)], "tok_visa")).await;
    assert_eq!(status, 422, "{problem}");

    let mut others = body.clone();
    others["customer_id"] = "grace".into();
    let (status, other) = post(&shop, 0, "mine", &others).await;
    assert_eq!(status, 202);
    assert_ne!(order["order_id"], other["order_id"]);
    assert_eq!(shop.until_all_ended(2).await["completed"], 2);
    shop.assert_stock("cup", 8, 0).await;
}
