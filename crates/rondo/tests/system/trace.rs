//! One trace leads through the whole saga.

use crate::shop::{SERVICES, Shop, order_of};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_trace_is_in_every_event_of_every_service() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let post = shop
        .client
        .post(format!("{}/orders", shop.base("orders")))
        .header("traceparent", format!("00-{TRACE_ID}-b7ad6b7169203331-01"));
    let answer = post.json(&order_of(&[("cup", 1)], "tok_visa")).send().await.unwrap();
    let order: serde_json::Value = answer.json().await.unwrap();
    let id = order["order_id"].as_str().unwrap();
    shop.until(id, "completed").await;
    for (service, least) in SERVICES.into_iter().zip([6, 2, 2]) {
        let client = shop.database(service).client().await;
        let query = "SELECT type, traceparent FROM events WHERE correlation_id::text = $1";
        let events = client.query(query, &[&id]).await.unwrap();
        assert!(events.len() >= least, "{service} wrote {} events", events.len());
        for event in &events {
            let (event_type, trace): (String, Option<String>) = (event.get(0), event.get(1));
            let trace = trace.unwrap_or_else(|| panic!("{event_type} of {service} has no trace"));
            assert_eq!(trace.split('-').nth(1), Some(TRACE_ID), "{event_type} of {service}");
        }
    }
}
