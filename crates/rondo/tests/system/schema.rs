//! Contracts that change while the system runs: copies of two builds, every version in one log, and changes that are
//! refused three times.

use std::fs;
use std::path::Path;

use common::codec::Registry;
use common::event::{EventType, SchemaVersion};
use contracts::service::Service;
use rdkafka::Message as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::shop::{SERVICES, Shop, order_of};

/// What the build before the newest wrote.
const FIRST: &str = "OrderPlaced=1,PaymentDeclined=1,PaymentAttempted=1";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// An order with everything that version 3 has room for.
fn full_order(payment_method: &str) -> Value {
    let mut order = order_of(&[("cup", 1)], payment_method);
    order["channel"] = json!("app");
    order["note"] = json!("ring twice");
    order["tags"] = json!(["gift"]);
    order
}

async fn place_at(shop: &Shop, copy: usize, body: &Value) -> String {
    let post = shop.client.post(format!("{}/orders", shop.http(copy))).json(body);
    let answer = post.send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let order: Value = answer.json().await.unwrap();
    order["order_id"].as_str().unwrap().to_owned()
}

fn registry(shop: &Shop) -> Registry {
    Registry::new(&common::config::registry(&shop.environment()).unwrap()).unwrap()
}

fn event_type(event: &str) -> (&'static Service, &'static EventType) {
    let service = Service::writing(event).unwrap();
    let found = service.types.iter().find(|event_type| event_type.name == event);
    (service, found.unwrap())
}

fn subject(shop: &Shop, event: &str) -> String {
    let (service, event_type) = event_type(event);
    event_type.subject(&shop.topic(service.topic))
}

/// What this build writes.
pub(crate) fn newest(event: &str) -> &'static SchemaVersion {
    event_type(event).1.newest()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_different_versions_share_one_log_and_every_version_is_read_from_the_beginning() {
    let mut shop = Shop::prepare(&[("RONDO_WRITE_VERSIONS", FIRST)]).await;
    let old = shop.start(&SERVICES).await;
    shop.stock("cup", 1_000).await;
    // The log begins with version 1 alone.
    for _ in 0..3 {
        place_at(&shop, old, &order_of(&[("cup", 1)], "tok_visa")).await;
    }
    // Then a second copy comes, one version on, and a third, and all of them write.
    shop.set("RONDO_WRITE_VERSIONS", "OrderPlaced=2");
    let middle = shop.start(&SERVICES).await;
    shop.set("RONDO_WRITE_VERSIONS", "");
    let new = shop.start(&SERVICES).await;
    let mut orders = Vec::new();
    for turn in 0..12 {
        let copy = [old, middle, new][turn % 3];
        let method = ["tok_visa", "tok_expired_card"][turn / 3 % 2];
        orders.push((copy, place_at(&shop, copy, &full_order(method)).await));
    }
    let ends = shop.until_all_ended(15).await;
    assert_eq!(
        (ends["completed"], ends["cancelled payment_declined"]),
        (9, 6),
        "{ends:?}"
    );

    // What each copy wrote of the order is what everyone sees of it, whichever copy answers.
    for (copy, order_id) in &orders {
        let order = shop.order(order_id).await;
        let expected = match *copy {
            copy if copy == old => (json!("web"), Value::Null, Value::Null),
            copy if copy == middle => (json!("app"), Value::Null, Value::Null),
            _ => (json!("app"), json!("ring twice"), json!(["gift"])),
        };
        assert_eq!(
            (order["channel"].clone(), order["note"].clone(), order["tags"].clone()),
            expected
        );
    }
    // All the versions that were written lie in one topic, interleaved.
    let log = testkit::kafka::read_all(&shop.topic("orders.events")).await;
    let registry = registry(&shop);
    let mut ids = Vec::new();
    for version in [1, 2, newest("OrderPlaced").version] {
        ids.push(
            registry
                .version(&subject(&shop, "OrderPlaced"), version)
                .await
                .unwrap()
                .id,
        );
    }
    let count = |id: u32| {
        let begins = |record: &&rdkafka::message::OwnedMessage| record.payload().unwrap()[1..5] == id.to_be_bytes();
        log.iter().filter(begins).count()
    };
    assert_eq!(ids.into_iter().map(count).collect::<Vec<_>>(), [3 + 4, 4, 4]);

    // The old copies go; what they wrote is read from the beginning by what is left.
    shop.stop(old).await;
    shop.stop(middle).await;
    let answer = shop
        .verb(&["schema", "check", "--bytes", "--dlq", "--registry", "--output", "json"])
        .await;
    let found = parsed(&answer.stdout);
    assert_eq!(
        (answer.status, &found["bytes"]["failures"]),
        (0, &json!([])),
        "{}",
        answer.stderr
    );
    let table = shop.number("orders", "SELECT count(*) FROM events").await;
    let sources = found["bytes"]["sources"].as_array().unwrap();
    let records = |source: &str| sources.iter().find(|found| found["source"] == source).unwrap()["records"].clone();
    assert_eq!(records("orders.events (table)"), table);
    assert!(
        records("orders.events").as_i64().unwrap() >= table,
        "duplicates are possible, losses are not"
    );
    let sampled = shop
        .verb(&[
            "schema",
            "check",
            "--bytes",
            "--sample",
            "10",
            "--topics",
            "orders.events",
            "--output",
            "json",
        ])
        .await;
    let sampled = parsed(&sampled.stdout)["bytes"]["sources"][0]["records"]
        .as_i64()
        .unwrap();
    assert!((10..=13).contains(&sampled), "{sampled}");
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_held_back_goes_on_from_its_own_older_events() {
    let mut shop = Shop::prepare(&[("RONDO_WRITE_VERSIONS", FIRST), ("RONDO_RETRY_FIRST_WAIT_MS", "50")]).await;
    let old = shop.start(&SERVICES).await;
    shop.stock("cup", 10).await;
    // Attempts are ints in version 1; the copy that comes after it counts on in longs.
    let order_id = place_at(&shop, old, &order_of(&[("cup", 1)], "tok_unavailable")).await;
    let attempted = "SELECT count(*) FROM events WHERE type = 'PaymentAttempted'";
    testkit::eventually("one try has failed", crate::shop::PATIENCE, async || {
        shop.number("payments", attempted).await > 0
    })
    .await;
    shop.stop(old).await;
    shop.set("RONDO_WRITE_VERSIONS", "");
    shop.start(&SERVICES).await;
    let order = shop.until(&order_id, "cancelled").await;
    assert_eq!(order["payment"]["detail"], "unavailable", "{order}");
    shop.audit().await;
}

/// Has payments' database refuse its answer to an order, as a defect in a constraint would.
const REFUSE_ANSWERS: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'not today' USING ERRCODE = 'check_violation';
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.type = 'PaymentAuthorized')
        EXECUTE FUNCTION refuse();";

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_version_1_is_redriven_under_the_code_of_version_3() {
    let mut shop = Shop::prepare(&[("RONDO_WRITE_VERSIONS", FIRST)]).await;
    let old = shop.start(&SERVICES).await;
    shop.stock("cup", 10).await;
    let payments = shop.database("payments").client().await;
    payments.batch_execute(REFUSE_ANSWERS).await.unwrap();
    let order_id = place_at(&shop, old, &order_of(&[("cup", 1)], "tok_visa")).await;
    testkit::eventually("the order is a dead letter", crate::shop::PATIENCE, async || {
        shop.number("payments", "SELECT count(*) FROM dead_letters").await == 1
    })
    .await;
    let first = registry(&shop)
        .version(&subject(&shop, "OrderPlaced"), 1)
        .await
        .unwrap()
        .id;
    let row = payments.query_one("SELECT value FROM dead_letters", &[]).await.unwrap();
    assert_eq!(
        row.get::<_, Vec<u8>>(0)[1..5],
        first.to_be_bytes(),
        "it is of version 1"
    );

    shop.stop(old).await;
    payments.batch_execute("DROP TRIGGER refuse ON events").await.unwrap();
    shop.set("RONDO_WRITE_VERSIONS", "");
    shop.start(&SERVICES).await;
    let checked = shop.verb(&["schema", "check", "--bytes", "--dlq"]).await;
    assert_eq!(checked.status, 0, "{}{}", checked.stdout, checked.stderr);
    assert!(checked.stdout.contains("payments dead letters 1"), "{}", checked.stdout);
    let redriven = shop
        .verb(&["dlq", "redrive", "--service", "payments", "--operator", "ada"])
        .await;
    assert_eq!(redriven.status, 0, "{}{}", redriven.stdout, redriven.stderr);
    let order = shop.until(&order_id, "completed").await;
    assert_eq!(order["channel"], "web", "{order}");
    shop.audit().await;
}

/// A change that no reader survives: `total_minor` by another name.
fn renamed(text: &str) -> String {
    text.replace("\"total_minor\"", "\"total\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_change_is_refused_three_times_with_what_to_do_and_the_good_one_goes_live() {
    let shop = Shop::prepare(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().to_str().unwrap();
    let downloaded = shop.verb(&["schema", "download", files]).await;
    assert_eq!(downloaded.status, 0, "{}", downloaded.stderr);
    let check = ["schema", "check", "--schemas", files];
    let well = shop.verb(&check).await;
    assert_eq!(well.status, 0, "{}{}", well.stdout, well.stderr);

    // First by the files.
    let (newest, last) = (newest("OrderPlaced").avsc, newest("OrderPlaced").version);
    let next = last + 1;
    let file = directory.path().join(format!("orders/OrderPlaced.v{next}.avsc"));
    fs::write(&file, renamed(newest)).unwrap();
    let refused = shop.verb(&check).await;
    assert_eq!(refused.status, 1);
    for part in [
        &format!("OrderPlaced v{next} cannot read v{last}")[..],
        "READER_FIELD_MISSING_DEFAULT_VALUE",
        "total_minor by another name",
    ] {
        assert!(refused.stdout.contains(part), "{part}: {}", refused.stdout);
    }

    // Then by the registry, whoever registers.
    let register = ["schema", "register", "--schemas", files, "OrderPlaced", "--execute"];
    let refused = shop.verb(&register).await;
    assert_eq!(
        (refused.status, refused.stdout.contains("refused")),
        (1, true),
        "{}",
        refused.stdout
    );
    let (registry, subject) = (registry(&shop), subject(&shop, "OrderPlaced"));
    let error = registry.register_text(&subject, &renamed(newest)).await.unwrap_err();
    assert!(error.to_string().contains("409"), "{error}");

    // Somebody forces it. Who reads it does not start, and says why.
    registry.set_level(&subject, "NONE").await.unwrap();
    registry.register_text(&subject, &renamed(newest)).await.unwrap();
    for service in SERVICES {
        let stop = CancellationToken::new();
        let Err(error) = rondo::system::start(service, &shop.environment(), &stop).await else {
            panic!("{service} started");
        };
        let error = format!("{error:#}");
        for part in [
            &subject[..],
            &format!("version {next}"),
            "rondo.orders.OrderPlaced",
            "delete that version",
            "RONDO_UNREADABLE_SCHEMAS",
            "/fields/",
        ] {
            // Of orders' own events orders reads only its payments' and inventory's answers elsewhere.
            assert!(error.contains(part), "{service}, {part}: {error}");
        }
    }
    let wanting = shop.verb(&["schema", "check", "--registry"]).await;
    assert_eq!(
        (
            wanting.status,
            wanting
                .stdout
                .contains(&format!("cannot read registered version {next}"))
        ),
        (1, true)
    );

    // The good change, in a shop that nobody forced.
    let mut shop = Shop::open().await;
    let mut good = parsed(newest);
    let gift = json!({ "name": "gift_message", "type": ["null", "string"], "default": null });
    good["fields"].as_array_mut().unwrap().push(gift);
    fs::write(&file, good.to_string()).unwrap();
    assert_eq!(shop.verb(&check).await.status, 0);
    let dry = shop.verb(&register[..5]).await;
    assert!(
        dry.stdout.contains("would register") && dry.stdout.contains("dry run"),
        "{}",
        dry.stdout
    );
    let done = shop.verb(&register).await;
    assert_eq!(
        (done.status, done.stdout.contains("registered")),
        (0, true),
        "{}",
        done.stdout
    );
    let again = shop.verb(&register).await;
    assert!(again.stdout.contains("nothing to register"), "{}", again.stdout);
    let shown = shop
        .verb(&["schema", "show", &crate::schema::subject(&shop, "OrderPlaced")])
        .await;
    assert!(shown.stdout.contains("gift_message"), "{}", shown.stdout);
    // Copies that do not know it start, and go on.
    shop.start(&SERVICES).await;
    shop.stock("cup", 1).await;
    let order_id = shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    shop.until(&order_id, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_a_candidate_cannot_read_are_listed_by_schema_type_and_offset() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let order_id = shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    shop.until(&order_id, "completed").await;
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    copy_schemas(files);
    // The files alone are in order: one version. The log knows better.
    for version in event_type("OrderPlaced").1.versions {
        fs::remove_file(files.join(format!("orders/OrderPlaced.v{}.avsc", version.version))).unwrap();
    }
    let renamed = renamed(newest("OrderPlaced").avsc);
    fs::write(files.join("orders/OrderPlaced.v1.avsc"), renamed).unwrap();
    testkit::kafka::produce(
        &shop.topic("orders.events"),
        &[testkit::kafka::Raw {
            value: Some(b"not avro"),
            ..Default::default()
        }],
    )
    .await;
    let files = files.to_str().unwrap();
    let found = shop
        .verb(&["schema", "check", "--schemas", files, "--bytes", "--output", "json"])
        .await;
    assert_eq!(found.status, 1, "{}", found.stderr);
    let found = parsed(&found.stdout);
    let failures = found["bytes"]["failures"].as_array().unwrap();
    let refused: Vec<_> = failures.iter().filter(|failure| failure["refused"] == true).collect();
    assert_eq!(refused.len(), 2, "the topic's and the table's: {failures:?}");
    for failure in refused {
        assert_eq!(
            (&failure["type"], &failure["count"]),
            (&json!("OrderPlaced"), &json!(1))
        );
        assert!(failure["schema_id"].as_u64().unwrap() > 0);
        assert!(!failure["first"].as_array().unwrap().is_empty());
    }
    let broken: Vec<_> = failures.iter().filter(|failure| failure["refused"] == false).collect();
    assert_eq!(broken.len(), 1, "{failures:?}");
}

fn copy_schemas(to: &Path) {
    for service in &contracts::service::SERVICES {
        fs::create_dir_all(to.join(service.name)).unwrap();
        for event_type in service.types {
            for version in event_type.versions {
                let file = format!("{}/{}.v{}.avsc", service.name, event_type.name, version.version);
                fs::write(to.join(file), version.avsc).unwrap();
            }
        }
    }
}
