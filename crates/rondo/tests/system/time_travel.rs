//! Orders, payments, stock and totals as they were.

use jiff::Timestamp;
use serde_json::Value;

use crate::shop::{Shop, order_of};

async fn shown(shop: &Shop, arguments: &[&str]) -> Value {
    let answer = shop.verb(&[arguments, &["--output", "json"]].concat()).await;
    assert_eq!(answer.status, 0, "{arguments:?}: {answer:?}");
    serde_json::from_str(&answer.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_moment_of_an_order_its_payment_and_its_goods_can_be_asked_for() {
    let shop = Shop::open().await;
    shop.stock("TEA", 10).await;
    let before = Timestamp::now();
    let order = shop.place(&order_of(&[("TEA", 3)], "tok_visa")).await;
    shop.until(&order, "completed").await;
    shop.until_path(&format!("/payments/{order}"), "captured").await;
    shop.assert_stock("TEA", 7, 0).await;
    let between = Timestamp::now();
    let later = shop.place(&order_of(&[("TEA", 2)], "tok_visa")).await;
    shop.until(&later, "completed").await;
    shop.assert_stock("TEA", 5, 0).await;
    shop.stock("TEA", 20).await;

    let (before, between) = (before.to_string(), between.to_string());
    let of_order = ["replay", "state", "--order", &order];
    let first = shown(&shop, &[&of_order[..], &["--at-version", "1"]].concat()).await;
    assert_eq!(
        (&first["order"]["status"], &first["version"]),
        (&"placed".into(), &1.into())
    );
    let then = shown(&shop, &[&of_order[..], &["--at", &between]].concat()).await;
    assert_eq!(then["order"], shop.get(&format!("/orders/{order}?at={between}")).await);
    assert_eq!(then["order"]["status"], "completed");
    let now = shown(&shop, &of_order).await;
    assert_eq!(now["order"], shop.order(&order).await);

    let payment = shown(&shop, &["replay", "state", "--payment", &order]).await;
    assert_eq!(payment["payment"], shop.get(&format!("/payments/{order}")).await);
    let first = shown(&shop, &["replay", "state", "--payment", &order, "--at-version", "1"]).await;
    assert_ne!(first["payment"]["status"], "captured");

    let of_tea = ["replay", "state", "--sku", "TEA"];
    let then = shown(&shop, &[&of_tea[..], &["--at", &between]].concat()).await;
    assert_eq!(
        (&then["stock"]["on_hand"], &then["stock"]["reserved"]),
        (&7.into(), &0.into())
    );
    assert_eq!(then["stock"], shop.get(&format!("/inventory/TEA?at={between}")).await);
    let first = shown(&shop, &[&of_tea[..], &["--at-version", "1"]].concat()).await;
    assert_eq!(first["stock"]["on_hand"], 10);
    assert_eq!(shown(&shop, &of_tea).await["stock"]["on_hand"], 20);

    for wrong in [
        [&of_order[..], &["--at", &before]].concat(),
        [&of_order[..], &["--at-version", "99"]].concat(),
        vec!["replay", "state", "--sku", "NOTHING"],
    ] {
        let answer = shop.verb(&wrong).await;
        assert!(
            answer.status == 1 && answer.stderr.starts_with("error: "),
            "{wrong:?}: {answer:?}"
        );
    }
    let contradiction = [&of_order[..], &["--at", &between, "--at-version", "1"]].concat();
    assert_eq!(shop.verb(&contradiction).await.status, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_told_as_of_any_moment() {
    let shop = Shop::open().await;
    shop.stock("TEA", 10).await;
    let nothing = Timestamp::now().to_string();
    let kept = shop.place(&order_of(&[("TEA", 2)], "tok_visa")).await;
    shop.place(&order_of(&[("TEA", 1)], "tok_declined")).await;
    shop.until_all_ended(2).await;
    shop.until_path(&format!("/payments/{kept}"), "captured").await;
    shop.assert_stock("TEA", 8, 0).await;
    let then = Timestamp::now().to_string();
    let more = shop.place(&order_of(&[("TEA", 4)], "tok_visa")).await;
    shop.until(&more, "completed").await;

    let totals = shown(&shop, &["replay", "totals", "--at", &nothing]).await;
    assert_eq!(
        (&totals["captured"], &totals["stock"][0]["on_hand"]),
        (&serde_json::json!({}), &10.into())
    );
    let totals = shown(&shop, &["replay", "totals", "--at", &then]).await;
    assert_eq!(
        (&totals["captured"]["EUR"], &totals["stock"][0]["on_hand"]),
        (&500.into(), &8.into())
    );
    let now = Timestamp::now().to_string();
    let totals = shown(&shop, &["replay", "totals", "--at", &now]).await;
    assert_eq!(
        (&totals["captured"]["EUR"], &totals["stock"][0]["on_hand"]),
        (&1_500.into(), &4.into())
    );
    let table = shop.verb(&["replay", "totals", "--at", &then]).await;
    assert!(
        table.stdout.contains("5.00 EUR") && table.stdout.contains("TEA"),
        "{table:?}"
    );
}
