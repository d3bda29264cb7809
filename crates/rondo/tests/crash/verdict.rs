//! What must hold when the last fault is over.

use std::collections::{BTreeMap, HashMap};

use reqwest::Client;
use serde_json::Value;

use crate::customers::Promise;
use crate::process::Desk;

/// Every order that customers were promised is there and has ended, every imported reference is exactly one order, no
/// order is unfinished, and the audit finds nothing wanting.
pub(crate) async fn all_is_well(
    desk: &Desk,
    global: &[&str],
    variables: &BTreeMap<String, String>,
    orders_url: &str,
    promises: &BTreeMap<String, Promise>,
    imported: &[String],
) {
    let audit = [global, &["audit", "--wait-idle", "120", "--strict"]].concat();
    desk.run(&audit, variables).await;

    let orders = all_orders(orders_url).await;
    let mut ids: HashMap<&str, Vec<&str>> = HashMap::new();
    for order in &orders {
        let (id, reference) = (
            order["order_id"].as_str().unwrap(),
            order["reference"].as_str().unwrap(),
        );
        let status = order["status"].as_str().unwrap();
        assert!(
            matches!(status, "completed" | "cancelled"),
            "{reference} is unfinished: {order}"
        );
        ids.entry(reference).or_default().push(id);
    }
    for reference in imported {
        let found = ids.get(reference.as_str()).map_or(0, Vec::len);
        assert_eq!(found, 1, "{reference} was imported and is {found} orders");
    }
    for (reference, promise) in promises {
        let found = ids.get(reference.as_str()).map_or(&[][..], Vec::as_slice);
        assert_eq!(found, [promise.order_id.as_str()], "{reference} was acknowledged");
    }
    assert_eq!(
        orders.len(),
        imported.len() + promises.len(),
        "nobody placed other orders"
    );
}

/// Every order there is, page by page.
async fn all_orders(url: &str) -> Vec<Value> {
    let client = Client::new();
    let mut orders = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", "100".to_owned())];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let answer = client.get(format!("{url}/orders")).query(&query).send().await.unwrap();
        let page: Value = answer.error_for_status().unwrap().json().await.unwrap();
        orders.extend(page["items"].as_array().unwrap().iter().cloned());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return orders;
        }
    }
}
