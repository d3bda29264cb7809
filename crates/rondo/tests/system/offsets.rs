//! Offsets are moved on purpose, under services that run and under services that do not.

use serde_json::Value;

use crate::duplicates::{books, until_all_is_read};
use crate::shop::{PATIENCE, SERVICES, Shop, counted, order_of};

/// A shop in which orders of each kind have ended.
async fn shop_with_a_past() -> Shop {
    let shop = Shop::open().await;
    shop.stock("TEA", 1_000).await;
    shop.stock("RARE", 1).await;
    for (sku, quantity, method) in [
        ("TEA", 1, "tok_visa"),
        ("TEA", 2, "tok_declined"),
        ("RARE", 5, "tok_visa"),
    ] {
        for _ in 0..4 {
            shop.place(&order_of(&[(sku, quantity)], method)).await;
        }
    }
    shop.until_all_ended(12).await;
    until_all_is_read(&shop).await;
    shop
}

/// Where a service goes on: partition 0 of the topic, and the epoch.
async fn place(shop: &Shop, service: &str, topic: &str) -> (i64, i64) {
    let client = shop.database(service).client().await;
    let row = "SELECT next_offset, epoch FROM offsets WHERE topic = $1 AND partition = 0";
    let row = client.query_one(row, &[&shop.topic(topic)]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn running_services_reset_to_earliest_three_times_take_nothing_twice() {
    let shop = shop_with_a_past().await;
    let before = books(&shop).await;
    for _ in 0..3 {
        for service in SERVICES {
            let repeated = || counted("inbox_duplicates_total", service);
            let seen = repeated();
            let known = shop.taken(service).await;
            let answer = shop
                .verb(&[
                    "offsets",
                    "reset",
                    "--service",
                    service,
                    "--all-topics",
                    "--to-earliest",
                    "--execute",
                ])
                .await;
            assert_eq!(answer.status, 0, "{answer:?}");
            testkit::eventually("all comes again, and is known", PATIENCE, async || {
                let found = repeated() - seen;
                if found >= known.unsigned_abs() {
                    Ok(())
                } else {
                    Err(found)
                }
            })
            .await;
        }
        testkit::eventually("the groups have followed", PATIENCE, async || {
            let mut marks = 0;
            for service in SERVICES {
                marks += shop
                    .number(service, "SELECT count(*) FROM offsets WHERE reset_epoch IS NOT NULL")
                    .await;
            }
            if marks == 0 { Ok(()) } else { Err(marks) }
        })
        .await;
        until_all_is_read(&shop).await;
        assert_eq!(books(&shop).await, before);
    }
    // And they go on.
    let order = shop.place(&order_of(&[("TEA", 1)], "tok_visa")).await;
    shop.until(&order, "completed").await;
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_a_plan_until_it_is_executed_and_skips_nothing_unless_told() {
    let mut shop = shop_with_a_past().await;
    let topic = "orders.events";
    let stands = place(&shop, "payments", topic).await;
    let reset = [
        "offsets",
        "reset",
        "--service",
        "payments",
        "--topic",
        "orders.events:0",
    ];
    let with = |more: &[&'static str]| [&reset[..], more].concat();

    let dry = shop.verb(&with(&["--to-earliest", "--output", "json"])).await;
    assert_eq!(dry.status, 0, "{dry:?}");
    let plan: Value = serde_json::from_str(&dry.stdout).unwrap();
    assert_eq!((&plan["executed"], &plan["plan"][0]["new"]), (&false.into(), &0.into()));
    assert_eq!(plan["plan"][0]["repeated"], stands.0);
    let clamped = shop.verb(&with(&["--to-offset", "1000000"])).await;
    assert!(clamped.status == 0 && clamped.stdout.contains("clamped"), "{clamped:?}");
    for (wrong, status) in [
        (with(&[]), 2),
        (with(&["--to-earliest", "--to-latest"]), 2),
        (vec!["offsets", "reset", "--service", "payments", "--to-earliest"], 2),
        (
            vec![
                "offsets",
                "reset",
                "--service",
                "payments",
                "--topic",
                "payments.events",
                "--to-earliest",
            ],
            1,
        ),
        (
            vec![
                "offsets",
                "reset",
                "--service",
                "payments",
                "--topic",
                "orders.events:77",
                "--to-earliest",
            ],
            1,
        ),
    ] {
        let answer = shop.verb(&wrong).await;
        assert_eq!(answer.status, status, "{wrong:?}: {answer:?}");
    }
    assert_eq!(place(&shop, "payments", topic).await, stands, "nothing was moved");

    // Payments is away while orders are placed, until one of them falls into the partition.
    let others = ["orders", "inventory"];
    shop.stop(0).await;
    shop.start(&others).await;
    let mut orders = 12;
    testkit::eventually("there is something to skip", PATIENCE, async || {
        orders += 1;
        shop.place(&order_of(&[("TEA", 1)], "tok_visa")).await;
        let plan = shop.verb(&with(&["--to-latest", "--output", "json"])).await;
        let read = serde_json::from_str::<Value>(&plan.stdout);
        if read.is_ok_and(|plan| plan["skipped"].as_i64() > Some(0)) {
            Ok(())
        } else {
            Err(plan)
        }
    })
    .await;
    let refused = shop.verb(&with(&["--to-latest", "--execute"])).await;
    assert!(
        refused.status == 1 && refused.stderr.contains("--accept-skipped"),
        "{refused:?}"
    );
    assert_eq!(place(&shop, "payments", topic).await, stands);

    // What show exports is what reset reads.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("offsets.csv");
    let file = file.to_str().unwrap();
    let shown = shop
        .verb(&["offsets", "show", "--service", "payments", "--export", file])
        .await;
    assert_eq!(shown.status, 0, "{shown:?}");
    let csv = std::fs::read_to_string(file).unwrap();
    assert!(
        csv.contains(&format!("{},0,{}\n", shop.topic(topic), stands.0)),
        "{csv}"
    );
    let earlier: String = csv
        .lines()
        .map(|line| format!("{},0\n", line.rsplit_once(',').unwrap().0))
        .collect();
    std::fs::write(file, earlier).unwrap();
    let moved = shop
        .verb(&[
            "offsets",
            "reset",
            "--service",
            "payments",
            "--from-file",
            file,
            "--execute",
        ])
        .await;
    assert_eq!(moved.status, 0, "{moved:?}");
    assert_eq!(place(&shop, "payments", topic).await.0, 0);
    let shown = shop
        .verb(&["offsets", "show", "--service", "payments", "--output", "json"])
        .await;
    let rows: Value = serde_json::from_str(&shown.stdout).unwrap();
    for row in rows.as_array().unwrap() {
        assert_eq!(row["next_offset"], 0, "{row}");
        assert!(row["lag"].as_i64() > Some(0) || row["log_end"] == 0, "{row}");
    }
    std::fs::write(file, "").unwrap();
    let empty = shop
        .verb(&["offsets", "reset", "--service", "payments", "--from-file", file])
        .await;
    assert_eq!(empty.status, 1, "an empty plan: {empty:?}");

    // It starts there, although its group once was further, and ends what was left.
    shop.start(&["payments"]).await;
    shop.until_all_ended(orders).await;
    shop.audit().await;
}
