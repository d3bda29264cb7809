//! A made-up shop: goods of which some are scarce, and orders for them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

/// SKUs of the shop; the first are in everybody's orders.
const SKUS: u32 = 12;
/// Units of goods that do not run out, and of those that do.
const PLENTY: u32 = 1_000_000;
const SCARCE: u32 = 150;
/// How customers pay: most can.
const METHODS: [(&str, u32); 3] = [("tok_visa", 85), ("tok_declined", 10), ("tok_insufficient_funds", 5)];

/// Writes a file for `rondo inventory import`.
pub(crate) fn write_stock(directory: &Path) -> PathBuf {
    let lines = (0..SKUS).map(|sku| {
        let on_hand = if sku % 4 == 3 { SCARCE } else { PLENTY };
        json!({ "sku": name(sku), "name": format!("Goods {sku}"), "on_hand": on_hand, "unit_price_minor": 250 })
    });
    write(directory.join("stock.ndjson"), lines)
}

/// Writes a file of `count` orders for `rondo orders import`; the references of its lines.
pub(crate) fn write_orders(path: PathBuf, batch: &str, count: u32, rng: &mut impl Rng) -> (PathBuf, Vec<String>) {
    let references: Vec<String> = (0..count).map(|number| format!("{batch}-{number}")).collect();
    let orders = references.iter().map(|reference| order(reference, rng));
    (write(path, orders), references)
}

/// One order, paid in most cases.
pub(crate) fn order(reference: &str, rng: &mut impl Rng) -> Value {
    let lines: Vec<Value> = (0..rng.random_range(1..=3))
        .map(|_| {
            // The smaller of two: some goods are in far more orders than others.
            let sku = rng.random_range(0..SKUS).min(rng.random_range(0..SKUS));
            json!({ "sku": name(sku), "quantity": rng.random_range(1..=4), "unit_price_minor": 250 })
        })
        .collect();
    let (method, _) = METHODS.choose_weighted(rng, |(_, weight)| *weight).unwrap();
    json!({
        "customer_id": format!("customer-{}", rng.random_range(0..50)),
        "currency": "EUR",
        "payment_method": method,
        "reference": reference,
        "lines": lines,
    })
}

/// An order that no payment company answers: only its deadline ends it.
pub(crate) fn order_never_answered(reference: &str, rng: &mut impl Rng) -> Value {
    let mut order = order(reference, rng);
    order["payment_method"] = json!("tok_timeout");
    order
}

fn name(sku: u32) -> String {
    format!("CRASH-{sku}")
}

fn write(path: PathBuf, lines: impl Iterator<Item = Value>) -> PathBuf {
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{line}").unwrap();
    }
    std::fs::write(&path, text).unwrap();
    path
}
