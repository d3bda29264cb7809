//! Dead letters by the verbs that people have: looked at, chosen by filters, mended, sent back, let go, kept.

use std::process::Output;
use std::time::{Duration, Instant};

use common::codec::{Codec, Registry, from_json, split};
use serde_json::{Value, json};
use testkit::kafka::{Raw, produce};
use uuid::Uuid;

use crate::shop::{PATIENCE, Shop, order_of};

/// Has payments' database refuse an event, as a defect in a trigger or a constraint would.
pub(crate) const REFUSE_CAPTURES: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no captures today' USING ERRCODE = 'check_violation';
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.type = 'PaymentCaptured')
        EXECUTE FUNCTION refuse();";
pub(crate) const ALLOW_CAPTURES: &str = "DROP TRIGGER refuse ON events";

/// A verb is killed within so long after it has begun.
const KILLED_WITHIN: Duration = Duration::from_millis(600);

impl Shop {
    async fn dlq(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["dlq"];
        all.extend(arguments);
        self.rondo(&all).env("USER", "ada").output().await.unwrap()
    }

    /// What a verb of `dlq` answers in JSON, having ended well.
    pub(crate) async fn dlq_json(&self, arguments: &[&str]) -> Value {
        let output = self.dlq(&[arguments, &["--output", "json"]].concat()).await;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until so many dead letters of payments are undecided; their ids, newest first.
    pub(crate) async fn until_dead(&self, count: usize) -> Vec<String> {
        testkit::eventually(&format!("{count} dead letters"), PATIENCE, async || {
            let listed = self
                .dlq_json(&["list", "--service", "payments", "--limit", "1000"])
                .await;
            let letters = listed["dead_letters"].as_array().unwrap();
            let ids: Vec<String> = letters
                .iter()
                .map(|letter| letter["id"].as_str().unwrap().to_owned())
                .collect();
            if ids.len() == count { Ok(ids) } else { Err(listed) }
        })
        .await
    }

    pub(crate) async fn in_payments(&self, statements: &str) {
        let client = self.database("payments").client().await;
        client.batch_execute(statements).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_the_middle_of_an_order_is_mended_and_the_saga_ends_in_order() {
    let shop = Shop::open_with(&[("RONDO_PAYMENTS_RETRY_DATA", "backoff:1000:20:1")]).await;
    shop.stock("cup", 10).await;
    shop.in_payments(REFUSE_CAPTURES).await;
    let id = shop.place(&order_of(&[("cup", 2)], "tok_visa")).await;
    shop.until(&id, "confirmed").await;
    let waiting = async |records: i64| {
        testkit::eventually("records wait in payments", PATIENCE, async || {
            let found = shop.number("payments", "SELECT count(*) FROM parked").await;
            if found == records { Ok(()) } else { Err(found) }
        })
        .await;
    };
    waiting(1).await;
    assert_eq!(shop.tell(&id, "cancel").await, 202);
    waiting(2).await;

    // A bad writer: what it wrote decodes, and names no order.
    let registry = Registry::new(&shop.registry()).unwrap();
    let codec = Codec::reader(registry);
    let client = shop.database("payments").client().await;
    let confirmed = "event_type = 'OrderConfirmed'";
    let row = client
        .query_one(&format!("SELECT value FROM parked WHERE {confirmed}"), &[])
        .await
        .unwrap();
    let value: Vec<u8> = row.get(0);
    let (schema_id, _) = split(&value).unwrap();
    let mut said = codec.to_json(&value).await.unwrap();
    said["order_id"] = json!("what is an order?");
    let poison = from_json(schema_id, &codec.schema(schema_id).await.unwrap(), &said).unwrap();
    client
        .execute(&format!("UPDATE parked SET value = $1 WHERE {confirmed}"), &[&poison])
        .await
        .unwrap();
    let letter = shop.until_dead(1).await.remove(0);
    shop.in_payments(ALLOW_CAPTURES).await;

    let shown = shop.dlq_json(&["show", &letter]).await;
    assert_eq!(shown["value"]["order_id"], "what is an order?");
    assert_eq!(
        (&shown["error_class"], &shown["waiting"]),
        (&json!("meaning"), &json!(1))
    );
    assert_eq!(shown["behind"][0]["event_type"], "OrderCancelling");
    assert_eq!(shown["history"][0]["what"], "died");

    let patch = tempfile::NamedTempFile::new().unwrap();
    let operations = json!([{ "op": "replace", "path": "/order_id", "value": id }]);
    std::fs::write(patch.path(), operations.to_string()).unwrap();
    let patch = patch.path().to_str().unwrap();
    let redrive = ["redrive", "--key", &id, "--transform", patch, "--schema", "newest"];
    let preview = shop.dlq(&[&redrive[..], &["--dry-run"]].concat()).await;
    let text = String::from_utf8_lossy(&preview.stdout);
    assert!(
        preview.status.success() && text.contains(&format!("+   \"order_id\": \"{id}\"")),
        "{text}"
    );
    assert!(
        text.contains("-   \"order_id\": \"what is an order?\"") && text.contains("OrderCancelling"),
        "{text}"
    );
    let precisely = shop.dlq_json(&[&redrive[..], &["--dry-run"]].concat()).await;
    assert_eq!(precisely["records"][0]["after"]["order_id"], json!(id));
    assert_eq!(precisely["records"][0]["to"], "payments");
    assert_eq!(shop.until_dead(1).await[0], letter, "a dry run changes nothing");

    let done = shop.dlq_json(&redrive).await;
    assert_eq!(done["campaigns"][0]["outcomes"], json!({ "applied": 1 }));
    shop.until(&id, "cancelled").await;
    shop.assert_payment(&id, "refunded", 500, 500).await;
    let order = shop
        .number(
            "payments",
            "SELECT (SELECT position FROM events WHERE type = 'PaymentCaptured')
                  - (SELECT position FROM events WHERE type = 'PaymentRefunded')",
        )
        .await;
    assert!(order < 0, "captured before it was refunded");
    let shown = shop.dlq_json(&["show", &letter]).await;
    assert_eq!(
        (&shown["status"], &shown["value"]["order_id"]),
        (&json!("redriven"), &json!("what is an order?"))
    );
    assert_eq!(shown["changed"]["value"]["order_id"], json!(id));
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_needs_a_reason_and_is_kept_in_writing() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let id = Uuid::now_v7().to_string();
    let headers = envelope(&id);
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, &value[..])).collect();
    let garbage = Raw {
        partition: None,
        key: Some(id.as_bytes()),
        value: Some(b"{}"),
        headers: &headers,
    };
    let nobodys = Raw {
        value: Some(b"nothing"),
        ..Raw::default()
    };
    produce(&shop.topic("orders.events"), &[garbage, nobodys]).await;
    shop.until_dead(2).await;

    // Usage is usage: nothing was let go.
    for wrong in [
        &["discard", "--key", &id][..],
        &["discard", "--key", &id, "--reason", " "],
        &["discard", "--reason", "test data"],
        &["redrive"],
        &["show"],
        &["list", "--since", "yesterday"],
        &["show", "orders"],
    ] {
        assert_eq!(shop.dlq(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(shop.dlq(&["show", "payments/4711"]).await.status.code(), Some(1));

    // Without an envelope there is no key to go back to: it is left out, and says why.
    let refused = shop
        .dlq(&["redrive", "--service", "payments", "--reason", "envelope"])
        .await;
    let text = String::from_utf8_lossy(&refused.stdout);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text.contains("no valid envelope") && text.contains("dlq export"),
        "{text}"
    );

    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("letters.ndjson");
    let exported = shop
        .dlq(&["export", "--service", "payments", "--to", path.to_str().unwrap()])
        .await;
    assert!(exported.status.success());
    let mut lines: Vec<Value> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // They lie on partitions of their own, so either may be read first.
    lines.sort_by_key(|line| line["key"].is_string());
    let bytes: Vec<&Value> = lines.iter().map(|line| &line["value_base64"]).collect();
    assert_eq!(bytes, [&json!("bm90aGluZw=="), &json!("e30=")]);
    assert_eq!(
        lines[1]["headers"][1],
        json!({ "name": "ce_type", "value": "OrderPlaced", "value_base64": "T3JkZXJQbGFjZWQ=" })
    );

    let because = ["--reason", "a test wrote it", "--operator", "grace"];
    let discarded = shop
        .dlq_json(&[&["discard", "--key", &id], &because[..]].concat())
        .await;
    assert_eq!(
        discarded["campaigns"].as_array().unwrap().len(),
        2,
        "payments and inventory had it"
    );
    let skipped = shop.dlq_json(&[&["skip", "--all"], &because[..]].concat()).await;
    assert_eq!(skipped["campaigns"][0]["outcomes"], json!({ "skipped": 1 }));
    let listed = shop.dlq_json(&["campaigns"]).await;
    let kinds: Vec<&Value> = listed.as_array().unwrap().iter().map(|one| &one["kind"]).collect();
    assert_eq!(kinds.len(), 4, "{listed}");
    for campaign in listed.as_array().unwrap() {
        assert_eq!(
            (&campaign["operator"], &campaign["reason"]),
            (&json!("grace"), &json!("a test wrote it"))
        );
        let shown = shop.dlq_json(&["campaigns", campaign["id"].as_str().unwrap()]).await;
        assert_eq!(shown["records"].as_array().unwrap().len(), 1);
    }
    shop.until_dead(0).await;
    assert_eq!(shop.number("payments", "SELECT count(*) FROM parked_keys").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_and_run_again_a_redrive_comes_to_the_same_end() {
    const ORDERS: i64 = 25;
    let mut shop = Shop::prepare(&[("RONDO_PAYMENTS_RETRY_DATA", "never")]).await;
    shop.start(&["orders", "inventory"]).await;
    let mut payments = shop.spawn(&["payments"]).await;
    shop.stock("cup", 100).await;
    shop.in_payments(REFUSE_CAPTURES).await;
    for _ in 0..ORDERS {
        shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    }
    shop.until_dead(ORDERS as usize).await;
    shop.in_payments(ALLOW_CAPTURES).await;

    for round in 0..6 {
        shop.kill_soon(
            &["dlq", "redrive", "--service", "payments", "--rate", "4"],
            KILLED_WITHIN,
        )
        .await;
        if round == 3 {
            payments.kill().await;
            payments = shop.spawn(&["payments"]).await;
        }
    }
    assert!(
        shop.dlq(&["redrive", "--service", "payments"])
            .await
            .status
            .code()
            .is_some()
    );
    shop.until_dead(0).await;
    assert_eq!(shop.until_all_ended(ORDERS).await["completed"], ORDERS);
    let twice = "SELECT count(*) FROM (SELECT FROM campaign_records WHERE outcome = 'applied'
                 GROUP BY dead_letter HAVING count(*) > 1) AS twice";
    assert_eq!(shop.number("payments", twice).await, 0);
    let applied = "SELECT count(*) FROM campaign_records WHERE outcome = 'applied'";
    testkit::eventually("each is settled", PATIENCE, async || {
        let applied = shop.number("payments", applied).await;
        if applied == ORDERS { Ok(()) } else { Err(applied) }
    })
    .await;
    shop.audit().await;
    payments.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_and_run_again_letters_are_let_go_once_and_exported_whole() {
    const LETTERS: usize = 30;
    let shop = Shop::open_with(&[("RONDO_BREAKER_PERCENT", "100")]).await;
    let keys: Vec<String> = (0..LETTERS).map(|_| Uuid::now_v7().to_string()).collect();
    let headers: Vec<[(&str, Vec<u8>); 6]> = keys.iter().map(|key| envelope(key)).collect();
    let headers: Vec<Vec<(&str, &[u8])>> = headers
        .iter()
        .map(|headers| headers.iter().map(|(name, value)| (*name, &value[..])).collect())
        .collect();
    let garbage: Vec<Raw<'_>> = keys
        .iter()
        .zip(&headers)
        .map(|(key, headers)| Raw {
            partition: None,
            key: Some(key.as_bytes()),
            value: Some(b"{}"),
            headers,
        })
        .collect();
    produce(&shop.topic("orders.events"), &garbage).await;
    shop.until_dead(LETTERS).await;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("letters.ndjson");
    let export = ["export", "--service", "payments", "--to", path.to_str().unwrap()];
    for _ in 0..4 {
        shop.kill_soon(&[&["dlq"], &export[..]].concat(), KILLED_WITHIN).await;
        let lines = std::fs::read_to_string(&path).map_or(LETTERS, |text| text.lines().count());
        assert_eq!(lines, LETTERS, "there is all of it or nothing");
    }
    assert!(shop.dlq(&export).await.status.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), LETTERS);

    let because = ["--service", "payments", "--reason", "a test wrote them"];
    for verb in ["skip", "discard", "discard", "skip"] {
        shop.kill_soon(&[&["dlq", verb], &because[..]].concat(), KILLED_WITHIN)
            .await;
    }
    shop.dlq(&[&["discard"], &because[..]].concat()).await;
    shop.until_dead(0).await;
    let told = "SELECT count(*) FROM dead_letter_history WHERE what IN ('skipped', 'discarded')";
    assert_eq!(shop.number("payments", told).await, LETTERS as i64);
    assert_eq!(shop.number("payments", "SELECT count(*) FROM parked_keys").await, 0);
}

/// What an event's record carries, about an order that there is not.
pub(crate) fn envelope(order_id: &str) -> [(&'static str, Vec<u8>); 6] {
    [
        ("ce_id", Uuid::now_v7().to_string().into()),
        ("ce_type", "OrderPlaced".into()),
        ("ce_source", "orders".into()),
        ("ce_time", "2026-01-31T12:00:00Z".into()),
        ("ce_subject", order_id.into()),
        ("stream-version", "1".into()),
    ]
}

/// How long each of up to `count` orders takes, one after another, while `go_on` says so.
async fn timed_orders(shop: &Shop, count: usize, go_on: impl AsyncFn() -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while took.len() < count && go_on().await {
        let started = Instant::now();
        let post = shop.client.post(format!("{}/orders", shop.base("orders")));
        let answer = post
            .header("prefer", "wait=60")
            .json(&order_of(&[("cup", 1)], "tok_visa"));
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), 200, "it ended while it was waited for");
        took.push(started.elapsed());
    }
    took.sort_unstable();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_many_dead_letters_does_not_stall_live_orders() {
    // `RONDO_TEST_DEAD_LETTERS=20000 cargo test … -- --nocapture` measures what docs/dead-letters.md tells.
    let set = |name: &str, default: usize| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let letters = set("RONDO_TEST_DEAD_LETTERS", 600);
    let orders = set("RONDO_TEST_ORDERS", 25);
    let shop = Shop::open_with(&[("RONDO_BREAKER_PERCENT", "100")]).await;
    shop.stock("cup", 1_000_000).await;
    // Their bytes name a schema that there is not; payments has nothing to do for what they are.
    let order_id = Uuid::now_v7().to_string();
    let completed = json!({ "order_id": order_id });
    let registry = Registry::new(&shop.registry()).unwrap();
    let subject = format!("{}-rondo.orders.OrderCompleted", shop.topic("orders.events"));
    let schema_id = registry.newest(&subject).await.unwrap();
    let schema = Codec::reader(registry).schema(schema_id).await.unwrap();
    let mut value = from_json(schema_id, &schema, &completed).unwrap();
    value[1..5].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    for chunk in (0..letters).collect::<Vec<_>>().chunks(500) {
        let keys: Vec<String> = chunk.iter().map(|_| Uuid::now_v7().to_string()).collect();
        let headers: Vec<_> = keys.iter().map(|key| envelope(key)).collect();
        let headers: Vec<Vec<(&str, &[u8])>> = headers
            .iter()
            .map(|all| all.iter().map(|(name, value)| (*name, &value[..])).collect())
            .map(|mut all: Vec<(&str, &[u8])>| {
                all[1].1 = b"OrderCompleted";
                all
            })
            .collect();
        let records: Vec<Raw<'_>> = keys
            .iter()
            .zip(&headers)
            .map(|(key, headers)| Raw {
                partition: None,
                key: Some(key.as_bytes()),
                value: Some(&value),
                headers,
            })
            .collect();
        produce(&shop.topic("orders.events"), &records).await;
    }
    let dead = "SELECT count(*) FROM dead_letters WHERE status = 'dead'";
    testkit::eventually("all are dead", PATIENCE * 4, async || {
        let found = shop.number("payments", dead).await;
        if found == letters as i64 { Ok(()) } else { Err(found) }
    })
    .await;

    let without = timed_orders(&shop, orders, async || true).await;
    let schema_id = schema_id.to_string();
    let redrive = [
        "redrive",
        "--service",
        "payments",
        "--writer-schema",
        &schema_id,
        "--detach",
        "--rate",
        "100",
    ];
    shop.dlq_json(&redrive).await;
    let pending = "SELECT count(*) FROM campaign_records WHERE outcome = 'pending'";
    let with = timed_orders(&shop, orders, async || shop.number("payments", pending).await > 0).await;
    let at = |took: &[Duration], percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    for (what, took) in [("without", &without), ("with", &with)] {
        eprintln!(
            "{what} a redrive: {} orders, p50 {:?}, p99 {:?}",
            took.len(),
            at(took, 50),
            at(took, 99)
        );
    }
    // Orders end while the campaign is under way, not behind it.
    assert!(with.len() > 1, "an order ended before the campaign did");

    let campaign = shop.dlq_json(&["campaigns"]).await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let ended = shop.dlq_json(&["campaigns", "watch", &campaign]).await;
    assert_eq!(ended["campaigns"][0]["outcomes"], json!({ "applied": letters }));
}
