//! The log is told again, and what comes of it is what the service has.

use std::time::Duration;

use rdkafka::message::{Headers as _, Message as _};
use serde_json::Value;
use testkit::kafka::Raw;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::shop::{SERVICES, Shop, order_of};

/// Customers at a time, each of whom waits for the end of an order before the next.
const CUSTOMERS: usize = 4;
/// A run is killed within so long after it has begun.
const KILLED_WITHIN: Duration = Duration::from_millis(1_500);
/// How often it is.
const KILLS: u32 = 4;
/// Writes during which a vacuum goes on.
const WRITES: u32 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn every_service_is_rebuilt_and_swapped_while_orders_go_on_and_nothing_differs() {
    let shop = stocked().await;
    let traffic = Traffic::begin(&shop);
    for service in SERVICES {
        let (code, report) = rebuild(&shop, service, &[]).await;
        assert_eq!(
            (code, &report["equal"], &report["swapped"]),
            (0, &true.into(), &true.into()),
            "{report:#}"
        );
        assert!(report["events"].as_u64().unwrap() > 0, "{report:#}");
    }
    // What runs now runs on the rebuilt tables; and the next rebuild finds them equal to the event store too.
    for service in SERVICES {
        let refused = shop
            .rondo(&["replay", "rebuild", "--service", service])
            .output()
            .await
            .unwrap();
        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1));
        assert!(complaint.contains("--drop-old"), "{complaint}");
        let dropped = ["replay", "rebuild", "--service", service, "--drop-old"];
        assert!(shop.rondo(&dropped).status().await.unwrap().success());
        let (code, report) = rebuild(&shop, service, &["--source", "store"]).await;
        assert_eq!((code, &report["swapped"]), (0, &true.into()), "{report:#}");
    }
    let placed = traffic.end().await;
    shop.until_all_ended(placed).await;
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_waits_for_a_vacuum_holds_up_nobody() {
    let shop = stocked().await;
    some_orders(&shop).await;
    let orders = shop.database("orders");
    let (mut vacuum, mut writer) = (orders.client().await, orders.client().await);
    let vacuum = vacuum.transaction().await.unwrap();
    // The lock that a vacuum takes.
    let sql = "LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE";
    vacuum.batch_execute(sql).await.unwrap();
    let write = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
        while shop.number("orders", waiting).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..WRITES {
            let tx = writer.transaction().await.unwrap();
            let sql = "SET LOCAL lock_timeout = 100; LOCK TABLE orders IN ROW EXCLUSIVE MODE";
            tx.batch_execute(sql).await.unwrap();
            tx.commit().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        vacuum.rollback().await.unwrap();
    };
    let ((code, report), ()) = tokio::join!(rebuild(&shop, "orders", &[]), write);
    assert_eq!((code, &report["swapped"]), (0, &true.into()), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_do_not_fit_into_memory_are_told_again() {
    let shop = stocked().await;
    some_orders(&shop).await;
    for (service, source) in [
        ("orders", "topic"),
        ("payments", "store"),
        ("inventory", "topic"),
        ("inventory", "store"),
    ] {
        let options = ["--streams-in-memory", "2", "--source", source, "--no-swap"];
        let (code, report) = rebuild(&shop, service, &options).await;
        assert_eq!((code, &report["equal"]), (0, &true.into()), "{report:#}");
        assert!(report["told_again"].as_u64().unwrap() > 0, "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_changed_by_hand_is_named_and_mended() {
    let shop = stocked().await;
    let order_id = some_orders(&shop).await;
    let by_hand = [
        (
            "orders",
            "orders",
            format!("UPDATE orders SET total_minor = 7 WHERE order_id = '{order_id}'"),
            "total_minor",
        ),
        (
            "payments",
            "payments",
            format!("UPDATE payments SET currency = 'XXX' WHERE order_id = '{order_id}'"),
            "currency",
        ),
        (
            "inventory",
            "stock",
            "UPDATE stock SET on_hand = on_hand + 1 WHERE sku = 'kettle'".to_owned(),
            "on_hand",
        ),
    ];
    for (service, table, sql, column) in by_hand {
        let client = shop.database(service).client().await;
        assert_eq!(client.execute(&sql, &[]).await.unwrap(), 1);
        let (code, report) = rebuild(&shop, service, &[]).await;
        assert_eq!((code, &report["swapped"]), (1, &false.into()), "{report:#}");
        let found = table_of(&report, table);
        assert_eq!(found["different"], 1, "{report:#}");
        let key = if table == "stock" { "kettle" } else { order_id.as_str() };
        assert_eq!(found["first"][0]["key"], key);
        assert_eq!(found["first"][0]["columns"][0]["name"], column);

        let (code, report) = diff(&shop, service, &["--candidate"]).await;
        assert_eq!(
            (code, &table_of(&report, table)["different"]),
            (1, &1.into()),
            "{report:#}"
        );

        let (code, report) = rebuild(&shop, service, &["--swap", "--accept-differences"]).await;
        assert_eq!((code, &report["swapped"]), (0, &true.into()), "{report:#}");
        let (code, report) = diff(&shop, service, &["--candidate"]).await;
        assert_eq!((code, &report["equal"]), (0, &true.into()), "{report:#}");
    }
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_missing_or_should_not_be_there_is_named() {
    let shop = stocked().await;
    let order_id = some_orders(&shop).await;
    let client = shop.database("orders").client().await;
    let stranger = "INSERT INTO timers (stream_id, due_at) VALUES ('nobody', now() + interval '1 day')";
    client.execute(stranger, &[]).await.unwrap();
    let missing = format!("DELETE FROM orders WHERE order_id = '{order_id}'");
    assert_eq!(client.execute(&missing, &[]).await.unwrap(), 1);
    let (code, report) = rebuild(&shop, "orders", &["--no-swap"]).await;
    assert_eq!(code, 1);
    let first = |table| table_of(&report, table)["first"][0].clone();
    assert_eq!(
        (&first("orders")["key"], &first("orders")["kind"]),
        (&order_id.as_str().into(), &"only_rebuilt".into())
    );
    assert_eq!(
        (&first("timers")["key"], &first("timers")["kind"]),
        (&"nobody".into(), &"only_live".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_killed_at_any_moment_comes_to_the_same_end() {
    let shop = stocked().await;
    some_orders(&shop).await;
    let traffic = Traffic::begin(&shop);
    for service in SERVICES {
        let options = [
            "replay",
            "rebuild",
            "--service",
            service,
            "--streams-in-memory",
            "20",
            "--output",
            "json",
        ];
        for _ in 0..KILLS {
            if !shop.kill_soon(&options, KILLED_WITHIN).await {
                break;
            }
        }
        if !swap_is_told(&shop, service).await {
            let (code, report) = rebuild(&shop, service, &["--streams-in-memory", "20"]).await;
            assert_eq!((code, &report["swapped"]), (0, &true.into()), "{report:#}");
        }
        let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'rebuild'";
        assert_eq!(
            shop.number(service, left).await,
            0,
            "nothing is left of a rebuild that has ended"
        );
        let swapped = "SELECT count(*) FROM pg_tables WHERE tablename = 'timers' AND schemaname = 'rebuild_old'";
        assert_eq!(shop.number(service, swapped).await, 1, "{service} was swapped");
    }
    let placed = traffic.end().await;
    shop.until_all_ended(placed + i64::from(ORDERS)).await;
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_mends_a_row_and_is_killed_at_any_moment_comes_to_the_same_end() {
    let shop = stocked().await;
    let order_id = some_orders(&shop).await;
    let by_hand = format!("UPDATE orders SET total_minor = 7 WHERE order_id = '{order_id}'");
    let client = shop.database("orders").client().await;
    assert_eq!(client.execute(&by_hand, &[]).await.unwrap(), 1);
    let swap = ["--swap", "--accept-differences"];
    let command = [&["replay", "rebuild", "--service", "orders"], &swap[..]].concat();
    for _ in 0..KILLS {
        if !shop.kill_soon(&command, KILLED_WITHIN).await {
            break;
        }
        let wrong = "SELECT count(*) FROM orders WHERE total_minor = 7";
        let old = "SELECT count(*) FROM pg_tables WHERE tablename = 'orders' AND schemaname = 'rebuild_old'";
        let found = (shop.number("orders", wrong).await, shop.number("orders", old).await);
        assert!(
            [(1, 0), (0, 1)].contains(&found),
            "swapped whole or not at all: {found:?}"
        );
    }
    if !swap_is_told(&shop, "orders").await {
        let mut told = command.clone();
        told.extend(["--output", "json"]);
        let (code, report) = said(&shop, &told).await;
        assert_eq!((code, &report["swapped"]), (0, &true.into()), "{report:#}");
    }
    let old = "SELECT count(*) FROM rebuild_old.orders WHERE total_minor = 7";
    assert_eq!(shop.number("orders", old).await, 1, "what was replaced is kept");
    let (code, report) = diff(&shop, "orders", &["--candidate"]).await;
    assert_eq!((code, &report["equal"]), (0, &true.into()), "{report:#}");
    shop.audit().await;
}

/// Whether a run has swapped and could say so before it was killed.
async fn swap_is_told(shop: &Shop, service: &str) -> bool {
    let there = "SELECT count(*) FROM pg_tables WHERE schemaname = 'rebuild_old' AND tablename = 'swapped'";
    shop.number(service, there).await == 1
        && shop
            .number(service, "SELECT count(*) FROM rebuild_old.swapped WHERE told")
            .await
            == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_log_is_compared_and_never_swapped() {
    let shop = stocked().await;
    some_orders(&shop).await;
    let middle =
        "SELECT (extract(epoch FROM occurred_at) * 1000000)::bigint FROM events ORDER BY position OFFSET 30 LIMIT 1";
    let middle = shop.number("orders", middle).await;
    let middle = jiff_time(middle);
    for options in [
        ["--from-datetime", &middle],
        ["--until", &middle],
        ["--from-offset", "12"],
    ] {
        for source in ["topic", "store"] {
            let options = [options[0], options[1], "--source", source];
            let (code, report) = rebuild(&shop, "orders", &options).await;
            let facts = (code, &report["equal"], &report["partial"], &report["swapped"]);
            assert_eq!(
                facts,
                (0, &true.into(), &true.into(), &false.into()),
                "{options:?} {report:#}"
            );
        }
    }
    // The offset before everything leaves nothing out.
    let (code, report) = rebuild(&shop, "inventory", &["--from-offset", "0"]).await;
    assert_eq!(
        (code, &report["partial"], &report["swapped"]),
        (0, &false.into(), &true.into()),
        "{report:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_lacks_an_event_is_not_taken_for_the_truth() {
    let mut shop = stocked().await;
    let order_id = some_orders(&shop).await;
    let (code, report) = rebuild(&shop, "orders", &["--no-swap"]).await;
    assert_eq!((code, &report["gaps"]), (0, &0.into()), "{report:#}");
    shop.stop(0).await;

    // The last event of an order once more, as if there had been one between that never came.
    let client = shop.database("orders").client().await;
    let published = client
        .query_one("UPDATE relay SET cursor = cursor + 10 RETURNING cursor", &[])
        .await
        .unwrap();
    let topic = shop.topic("orders.events");
    let records = testkit::kafka::read_all(&topic).await;
    let last = records
        .iter()
        .rfind(|record| record.key() == Some(order_id.as_bytes()))
        .unwrap();
    let mut headers: Vec<(String, Vec<u8>)> = last
        .headers()
        .unwrap()
        .iter()
        .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
        .collect();
    for (name, value) in &mut headers {
        match name.as_str() {
            "stream-version" => *value = b"100".to_vec(),
            "position" => *value = published.get::<_, i64>(0).to_string().into_bytes(),
            _ => {}
        }
    }
    let headers: Vec<(&str, &[u8])> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_slice()))
        .collect();
    let record = Raw {
        partition: Some(last.partition()),
        key: last.key(),
        value: last.payload(),
        headers: &headers,
    };
    testkit::kafka::produce(&topic, &[record]).await;

    let (code, report) = rebuild(&shop, "orders", &[]).await;
    let facts = (code, &report["gaps"], &report["gaps_first"][0], &report["swapped"]);
    assert_eq!(
        facts,
        (1, &1.into(), &order_id.as_str().into(), &false.into()),
        "{report:#}"
    );
    assert_eq!(
        table_of(&report, "orders")["different"],
        0,
        "the event store has it all: {report:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_binary_is_asked_and_one_that_cannot_answer_is_refused() {
    let shop = stocked().await;
    some_orders(&shop).await;
    let (code, report) = diff(&shop, "payments", &["--with", env!("CARGO_BIN_EXE_rondo")]).await;
    assert_eq!((code, &report["equal"]), (0, &true.into()), "{report:#}");
    for stranger in ["/bin/true", "/nonexistent/rondo"] {
        let arguments = ["replay", "diff", "--service", "payments", "--with", stranger];
        let refused = shop.rondo(&arguments).output().await.unwrap();
        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains(stranger), "{complaint}");
    }
    let nobody = shop
        .rondo(&["replay", "diff", "--service", "payments"])
        .output()
        .await
        .unwrap();
    assert_eq!(nobody.status.code(), Some(2));
}

/// Orders that [`some_orders`] places.
const ORDERS: u32 = 24;

/// A shop with goods on its shelves, some of them few.
async fn stocked() -> Shop {
    let shop = Shop::open().await;
    shop.stock("kettle", 100_000).await;
    shop.stock("cup", 100_000).await;
    shop.stock("last", 5).await;
    shop
}

/// Orders of every kind, placed and ended; the id of one that was completed.
async fn some_orders(shop: &Shop) -> String {
    for number in 0..ORDERS {
        shop.place(&an_order(number)).await;
    }
    shop.until_all_ended(ORDERS.into()).await;
    let client = shop.database("orders").client().await;
    let completed = "SELECT order_id::text FROM orders WHERE status = 'completed' ORDER BY order_id LIMIT 1";
    client.query_one(completed, &[]).await.unwrap().get(0)
}

fn an_order(number: u32) -> Value {
    match number % 6 {
        0 => order_of(&[("kettle", 1)], "tok_declined"),
        1 => order_of(&[("last", 1), ("cup", 1)], "tok_visa"),
        2 => order_of(&[("nobody-has-this", 1)], "tok_visa"),
        _ => order_of(&[("kettle", 1), ("cup", 2)], "tok_visa"),
    }
}

fn jiff_time(microseconds: i64) -> String {
    jiff::Timestamp::from_microsecond(microseconds).unwrap().to_string()
}

/// What `replay rebuild` says of `service`, and its exit status.
pub(crate) async fn rebuild(shop: &Shop, service: &str, options: &[&str]) -> (i32, Value) {
    let mut arguments = vec!["replay", "rebuild", "--service", service, "--output", "json"];
    if options.contains(&"--accept-differences") && swapped_before(shop, service).await {
        let dropped = ["replay", "rebuild", "--service", service, "--drop-old"];
        assert!(shop.rondo(&dropped).status().await.unwrap().success());
    }
    arguments.extend(options);
    said(shop, &arguments).await
}

async fn swapped_before(shop: &Shop, service: &str) -> bool {
    shop.number(
        service,
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'rebuild_old'",
    )
    .await
        == 1
}

/// What `replay diff` says of `service`, and its exit status.
async fn diff(shop: &Shop, service: &str, options: &[&str]) -> (i32, Value) {
    let mut arguments = vec!["replay", "diff", "--service", service, "--output", "json"];
    arguments.extend(options);
    said(shop, &arguments).await
}

async fn said(shop: &Shop, arguments: &[&str]) -> (i32, Value) {
    let output = shop.rondo(arguments).output().await.unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{complaint}"));
    (output.status.code().unwrap(), report)
}

fn table_of(report: &Value, table: &str) -> Value {
    let tables = report["tables"].as_array().unwrap();
    tables.iter().find(|one| one["table"] == table).unwrap().clone()
}

/// Customers who order while something else is done.
struct Traffic {
    stop: CancellationToken,
    customers: Vec<JoinHandle<i64>>,
}

impl Traffic {
    fn begin(shop: &Shop) -> Self {
        let stop = CancellationToken::new();
        let customer = |number: usize| {
            let (client, stop) = (shop.client.clone(), stop.clone());
            let url = format!("{}/orders", shop.base("orders"));
            tokio::spawn(async move {
                let mut placed = 0;
                while !stop.is_cancelled() {
                    let body = an_order(u32::try_from(placed).unwrap() + u32::try_from(number).unwrap());
                    let post = client.post(&url).header("Prefer", "wait=30").json(&body);
                    let answer = post.send().await.unwrap();
                    assert!(answer.status().is_success(), "{}", answer.status());
                    placed += 1;
                }
                placed
            })
        };
        Self {
            customers: (0..CUSTOMERS).map(customer).collect(),
            stop: stop.clone(),
        }
    }

    /// Nobody orders any more; how many orders were placed.
    async fn end(self) -> i64 {
        self.stop.cancel();
        let mut placed = 0;
        for customer in self.customers {
            placed += customer.await.unwrap();
        }
        assert!(placed > 0, "somebody has ordered meanwhile");
        placed
    }
}
