//! `rondo serve` with several services: one process, one port, and one end for all.

use serde_json::Value;

use crate::shop::{PATIENCE, SERVICES, Shop, TOKEN, order_of};

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_all_three_on_one_port_and_stops_in_order() {
    let shop = Shop::prepare(&[]).await;
    let process = shop.spawn(&SERVICES).await;
    let at = |path: &str| format!("{}{path}", process.http);
    let shelf = r#"{"name":"cup","on_hand":3,"unit_price_minor":250}"#;
    let put = shop.client.put(at("/inventory/cup")).bearer_auth(TOKEN);
    let put = put.header("content-type", "application/json").body(shelf);
    assert!(put.send().await.unwrap().status().is_success());

    let post = shop.client.post(at("/orders")).header("prefer", "wait=60");
    let answer = post.json(&order_of(&[("cup", 2)], "tok_visa")).send().await.unwrap();
    let order: Value = answer.json().await.unwrap();
    assert_eq!(order["status"], "completed", "{order}");
    let id = order["order_id"].as_str().unwrap();
    for (path, field, value) in [
        (format!("/payments/{id}"), "captured_minor", 500),
        ("/inventory/cup".to_owned(), "available", 1),
    ] {
        let found: Value = shop.client.get(at(&path)).send().await.unwrap().json().await.unwrap();
        assert_eq!(found[field], value, "{found}");
    }

    assert!(process.stop().await.success());
    shop.audit().await;
}

/// The other two run by then; they must not keep the process.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_start_ends_the_process_and_is_named() {
    let shop = Shop::prepare(&[]).await;
    let payments = shop.database("payments");
    common::migrate::claim(&payments.client().await, "payments")
        .await
        .unwrap();
    let another = payments.url().to_owned();
    let mut rondo = shop.rondo(&["serve"]);
    let serve = rondo.args(SERVICES).env("INVENTORY_DATABASE_URL", another);
    let refused = serve.env("RONDO_HTTP_ADDRESS", "127.0.0.1:0").output();
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("it ends").unwrap();
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{why}");
    assert!(
        why.contains("inventory cannot start") && why.contains("belongs to payments"),
        "{why}"
    );
}
