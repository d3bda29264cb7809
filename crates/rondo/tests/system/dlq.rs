//! Dead letters by the verbs that people have: looked at, chosen by filters, mended, sent back, let go, kept.

use std::process::Output;
use std::time::Duration;

use common::codec::{Codec, Registry, from_json, split};
use rand::Rng as _;
use serde_json::{Value, json};
use testkit::kafka::{Raw, produce};
use uuid::Uuid;

use crate::shop::{PATIENCE, Shop, order_of};

/// Has payments' database refuse an event, as a defect in a trigger or a constraint would.
const REFUSE_CAPTURES: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no captures today' USING ERRCODE = 'check_violation';
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.type = 'PaymentCaptured')
        EXECUTE FUNCTION refuse();";
const ALLOW_CAPTURES: &str = "DROP TRIGGER refuse ON events";

impl Shop {
    async fn dlq(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["dlq"];
        all.extend(arguments);
        self.rondo(&all).env("USER", "ada").output().await.unwrap()
    }

    /// What a verb of `dlq` answers in JSON, having ended well.
    async fn dlq_json(&self, arguments: &[&str]) -> Value {
        let output = self.dlq(&[arguments, &["--output", "json"]].concat()).await;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until so many dead letters of payments are undecided; their ids, newest first.
    async fn until_dead(&self, count: usize) -> Vec<String> {
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

    async fn in_payments(&self, statements: &str) {
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
    let headers: [(&str, &[u8]); 6] = [
        ("ce_id", &Uuid::now_v7().to_string().into_bytes()),
        ("ce_type", b"OrderPlaced"),
        ("ce_source", b"orders"),
        ("ce_time", b"2026-01-31T12:00:00Z"),
        ("ce_subject", id.as_bytes()),
        ("stream-version", b"1"),
    ];
    let headers = headers.map(|(name, value)| (name, value.to_vec()));
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
    let lines: Vec<Value> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
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
    let mut payments = shop.spawn("payments").await;
    shop.stock("cup", 100).await;
    shop.in_payments(REFUSE_CAPTURES).await;
    for _ in 0..ORDERS {
        shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    }
    shop.until_dead(ORDERS as usize).await;
    shop.in_payments(ALLOW_CAPTURES).await;

    for round in 0..6 {
        let mut verb = shop
            .rondo(&[
                "dlq",
                "redrive",
                "--service",
                "payments",
                "--rate",
                "4",
                "--operator",
                "ada",
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let moment = Duration::from_millis(rand::rng().random_range(5..600));
        // Either it has come to its end by then, or it ends here.
        if tokio::time::timeout(moment, verb.wait()).await.is_err() {
            verb.kill().await.unwrap();
        }
        if round == 3 {
            payments.kill().await;
            payments = shop.spawn("payments").await;
        }
    }
    let done = shop
        .dlq(&["redrive", "--service", "payments", "--operator", "ada"])
        .await;
    assert!(done.status.code().is_some());
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
