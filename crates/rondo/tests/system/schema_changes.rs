//! Two dozen changes of a schema, each with the verdict of the Avro specification, through the three that refuse: `schema
//! check`, the registry, and a service at its start. Where it says "compatible", old bytes are read to the right values.
//!
//! Each change is told backwards: what an older build's schema was, given this build's. So the readers are real ones.

use std::fs;

use common::codec::{Registry, Schema, write_datum};
use common::event::EventSet as _;
use contracts::service::Service;
use contracts::{orders, payments};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::schema;
use crate::shop::Shop;

/// How a schema or a value differs from this build's.
type Edit = fn(&mut Value);

/// One change.
struct Change {
    /// What happened on the way to this build.
    name: &'static str,
    event: &'static str,
    /// Makes this build's schema the older one.
    older: Edit,
    /// Makes this build's value one of the older schema; and what it is read as. `None` for what cannot be read.
    compatible: Option<(Edit, Edit)>,
}

const ORDER: &str = "OrderPlaced";

fn nothing(_: &mut Value) {}

fn fields(schema: &mut Value) -> &mut Vec<Value> {
    schema["fields"].as_array_mut().unwrap()
}

fn field<'a>(schema: &'a mut Value, name: &str) -> &'a mut Value {
    let found = fields(schema).iter_mut().find(|field| field["name"] == name);
    found.unwrap_or_else(|| panic!("there is a field {name}"))
}

fn without(schema: &mut Value, name: &str) {
    fields(schema).retain(|field| field["name"] != name);
}

fn drop_of(value: &mut Value, name: &str) {
    value.as_object_mut().unwrap().remove(name).unwrap();
}

fn line(schema: &mut Value) -> &mut Value {
    &mut field(schema, "lines")["type"]["items"]
}

fn changes() -> Vec<Change> {
    let change = |name, event, older, compatible| Change {
        name,
        event,
        older,
        compatible,
    };
    vec![
        change(
            "nothing but a doc",
            ORDER,
            |s| s["doc"] = json!("Other words."),
            Some((nothing, nothing)),
        ),
        change(
            "a field with a default is added",
            ORDER,
            |s| without(s, "channel"),
            Some((|v| drop_of(v, "channel"), |v| v["channel"] = json!("web"))),
        ),
        change(
            "a nullable field is added",
            ORDER,
            |s| without(s, "note"),
            Some((|v| drop_of(v, "note"), |v| v["note"] = Value::Null)),
        ),
        change(
            "a list with a default is added",
            ORDER,
            |s| without(s, "tags"),
            Some((|v| drop_of(v, "tags"), |v| v["tags"] = json!([]))),
        ),
        change(
            "a field without a default is added",
            ORDER,
            |s| without(s, "payment_method"),
            None,
        ),
        change(
            "a field is removed",
            ORDER,
            |s| fields(s).insert(0, json!({"name": "promotion", "type": "string"})),
            Some((|v| v["promotion"] = json!("spring"), |_| {})),
        ),
        change(
            "a field is renamed",
            ORDER,
            |s| field(s, "total_minor")["name"] = json!("total"),
            None,
        ),
        change(
            "int is widened to long",
            ORDER,
            |s| field(s, "total_minor")["type"] = json!("int"),
            Some((nothing, nothing)),
        ),
        change(
            "double is narrowed to long",
            ORDER,
            |s| field(s, "total_minor")["type"] = json!("double"),
            None,
        ),
        change(
            "float is narrowed to long",
            ORDER,
            |s| field(s, "decide_by_unix_ms")["type"] = json!("float"),
            None,
        ),
        change(
            "a number becomes a text",
            ORDER,
            |s| field(s, "request_hash")["type"] = json!("long"),
            None,
        ),
        change(
            "a text becomes a number",
            ORDER,
            |s| field(s, "total_minor")["type"] = json!("string"),
            None,
        ),
        change(
            "a map becomes a list",
            ORDER,
            |s| {
                let items = line(s).clone();
                field(s, "lines")["type"] = json!({"type": "map", "values": items});
            },
            None,
        ),
        change(
            "a field without a default is added to a record inside",
            ORDER,
            |s| without(line(s), "unit_price_minor"),
            None,
        ),
        change(
            "a number inside is widened",
            ORDER,
            |s| field(line(s), "quantity")["type"] = json!("int"),
            Some((nothing, nothing)),
        ),
        change(
            "a record inside is renamed",
            ORDER,
            |s| line(s)["name"] = json!("Item"),
            None,
        ),
        change(
            "a record inside moves to another namespace",
            ORDER,
            |s| line(s)["namespace"] = json!("elsewhere"),
            Some((nothing, nothing)),
        ),
        change(
            "what could be null must be there",
            ORDER,
            |s| field(s, "customer_id")["type"] = json!(["null", "string"]),
            None,
        ),
        change(
            "what had to be there may be null",
            ORDER,
            |s| {
                let reference = field(s, "reference");
                reference["type"] = json!("string");
                reference.as_object_mut().unwrap().remove("default");
            },
            Some((|v| v["reference"] = json!("r"), |v| v["reference"] = json!("r"))),
        ),
        change(
            "the order of the fields changes",
            ORDER,
            |s| fields(s).reverse(),
            Some((nothing, nothing)),
        ),
        change(
            "a default changes",
            ORDER,
            |s| field(s, "channel")["default"] = json!("shop"),
            Some((nothing, nothing)),
        ),
        change(
            "a symbol is added",
            "PaymentDeclined",
            |s| {
                let symbols = field(s, "reason")["type"]["symbols"].as_array_mut().unwrap();
                symbols.retain(|symbol| symbol != "EXPIRED_CARD");
            },
            Some((|v| v["reason"] = json!("DECLINED"), |v| v["reason"] = json!("DECLINED"))),
        ),
        change(
            "a symbol is removed from an enum with a default",
            "PaymentDeclined",
            |s| {
                let symbols = field(s, "reason")["type"]["symbols"].as_array_mut().unwrap();
                symbols.insert(1, json!("STOLEN_CARD"));
            },
            Some((
                |v| v["reason"] = json!("STOLEN_CARD"),
                |v| v["reason"] = json!("UNKNOWN"),
            )),
        ),
        change(
            "an enum is renamed",
            "PaymentDeclined",
            |s| field(s, "reason")["type"]["name"] = json!("Why"),
            None,
        ),
        change(
            "a text becomes an enum",
            "PaymentDeclined",
            |s| field(s, "reason")["type"] = json!("string"),
            None,
        ),
    ]
}

fn service_of(event: &str) -> &'static Service {
    Service::writing(event).unwrap()
}

fn newest(event: &str) -> Value {
    serde_json::from_str(schema::newest(event).avsc).unwrap()
}

fn value(event: &str) -> Value {
    let version = schema::newest(event).version;
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../contracts/golden");
    let text = std::fs::read_to_string(format!("{golden}/{event}.v{version}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What this build's wire type sees in `datum`.
fn read(event: &str, datum: &[u8], writer: &Schema) -> Result<Value, String> {
    match service_of(event).name {
        "orders" => orders::Event::read(event, datum, writer)
            .unwrap()
            .map(|event| event.to_json()),
        _ => payments::Event::read(event, datum, writer)
            .unwrap()
            .map(|event| event.to_json()),
    }
    .map_err(|error| error.to_string())
}

/// Whether `service` refuses to start because of schemas. That the topics are missing is found only after them.
async fn refuses(shop: &Shop, service: &str) -> Option<String> {
    let stop = CancellationToken::new();
    let started = rondo::system::start(service, &shop.environment(), &stop).await;
    stop.cancel();
    let error = started.err()?;
    match error.downcast_ref::<common::service::Error>() {
        Some(common::service::Error::Topics { .. }) => None,
        Some(common::service::Error::Unreadable { .. }) => Some(format!("{error:#}")),
        _ => panic!("{service} does not start for another reason: {error:#}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_registry_and_start_give_the_verdict_of_the_specification_and_old_bytes_are_read_rightly() {
    let changes = changes();
    assert!(changes.len() >= 20);
    let mut shop = Shop::prepare(&[]).await;
    let settings = common::config::registry(&shop.environment()).unwrap();
    let registry = Registry::new(&settings).unwrap();
    for change in changes {
        let (name, service) = (change.name, service_of(change.event));
        let today = newest(change.event);
        let mut older = today.clone();
        (change.older)(&mut older);
        let compatible = change.compatible.is_some();

        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(service.name)).unwrap();
        for (version, schema) in [(1, &older), (2, &today)] {
            let file = format!("{}/{}.v{version}.avsc", service.name, change.event);
            fs::write(directory.path().join(file), schema.to_string()).unwrap();
        }
        let files = directory.path().to_str().unwrap();
        let answer = shop
            .verb(&["schema", "check", "--schemas", files, "--output", "json"])
            .await;
        let found: Value =
            serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{name}: {error}: {answer:?}"));
        let only_a_doc = older["doc"] != today["doc"];
        assert_eq!(answer.status == 0, compatible, "check, {name}: {found}");
        if !compatible {
            let hints = found["findings"].as_array().unwrap().iter();
            assert!(
                hints.clone().count() > 0
                    && hints
                        .clone()
                        .all(|finding| !finding["hint"].as_str().unwrap().is_empty())
            );
        }

        let namespace = testkit::namespace();
        let subject = format!("{namespace}.{}-rondo.{}.{}", service.topic, service.name, change.event);
        registry
            .register_text(&format!("{subject}-alone"), &older.to_string())
            .await
            .unwrap();
        registry
            .set_level(&format!("{subject}-alone"), "BACKWARD_TRANSITIVE")
            .await
            .unwrap();
        let objections = registry
            .objections(&format!("{subject}-alone"), &today.to_string())
            .await
            .unwrap();
        assert_eq!(objections.is_empty(), compatible, "registry, {name}: {objections:?}");

        rondo::init::schemas(&settings, Some(&namespace)).await.unwrap();
        registry.set_level(&subject, "NONE").await.unwrap();
        registry.register_text(&subject, &older.to_string()).await.unwrap();
        shop.set("RONDO_NAMESPACE", &namespace);
        let refusal = refuses(&shop, service.name).await;
        assert_eq!(refusal.is_none(), compatible, "start, {name}: {refusal:?}");
        if let Some(refusal) = refusal {
            assert!(refusal.contains(&subject) && refusal.contains("/fields/"), "{refusal}");
        }

        let writer: Schema = older.to_string().parse().unwrap();
        let Some((write, read_as)) = change.compatible else {
            continue;
        };
        let (mut written, mut expected) = (value(change.event), value(change.event));
        write(&mut written);
        read_as(&mut expected);
        let datum = write_datum(&written, &writer, Vec::new()).unwrap();
        assert_eq!(read(change.event, &datum, &writer), Ok(expected), "bytes, {name}");
        assert!(!only_a_doc || compatible);
    }
}

/// Changes of schemas that this build has none of: the specification's other rules, and the traps that it leaves open.
#[tokio::test(flavor = "multi_thread")]
async fn other_rules_and_the_traps_are_refused_by_check_and_registry_alike() {
    let shop = Shop::prepare(&[]).await;
    let registry = Registry::new(&common::config::registry(&shop.environment()).unwrap()).unwrap();
    let of = |of_type: Value| json!({"type": "record", "name": "T", "namespace": "t", "fields": [{"name": "f", "type": of_type}]});
    let symbols = |symbols: &[&str]| of(json!({"type": "enum", "name": "E", "symbols": symbols}));
    let logical = |kind: &str, name: &str| of(json!({"type": kind, "logicalType": name}));
    let card = json!({"type": "record", "name": "Card", "fields": [{"name": "id", "type": "string"}]});
    let bank = json!({"type": "record", "name": "Bank", "fields": [{"name": "id", "type": "string"}]});
    let mut renamed = of(json!("int"));
    renamed["fields"][0]["name"] = json!("g");
    let mut by_alias = renamed.clone();
    by_alias["fields"][0]["aliases"] = json!(["f"]);
    let cases = [
        (
            "a symbol is removed from an enum without a default",
            symbols(&["A", "B"]),
            symbols(&["A"]),
            None,
        ),
        (
            "a symbol is added to an enum without a default",
            symbols(&["A"]),
            symbols(&["A", "B"]),
            Some(()),
        ),
        ("a field is renamed", of(json!("int")), renamed, None),
        (
            "a branch is removed",
            of(json!(["int", "string"])),
            of(json!(["string"])),
            None,
        ),
        (
            "a branch is added",
            of(json!(["string"])),
            of(json!(["int", "string"])),
            Some(()),
        ),
    ];
    let traps = [
        (
            "a field is renamed and says so",
            of(json!("int")),
            by_alias,
            "RENAMED_BY_ALIAS",
        ),
        (
            "an instant in another unit",
            logical("long", "timestamp-millis"),
            logical("long", "timestamp-micros"),
            "LOGICAL_TYPE_CHANGED",
        ),
        (
            "a decimal of another scale",
            of(json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2})),
            of(json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3})),
            "LOGICAL_TYPE_CHANGED",
        ),
        (
            "a union of like records",
            of(json!([card.clone()])),
            of(json!([card, bank])),
            "UNION_OF_LIKE_RECORDS",
        ),
    ];
    let judged = cases
        .into_iter()
        .map(|(name, old, new, verdict)| (name, old, new, verdict.is_some(), ""))
        .chain(
            traps
                .into_iter()
                .map(|(name, old, new, word)| (name, old, new, false, word)),
        );
    for (index, (name, old, new, compatible, word)) in judged.enumerate() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("t")).unwrap();
        for (version, schema) in [(1, &old), (2, &new)] {
            fs::write(
                directory.path().join(format!("t/T.v{version}.avsc")),
                schema.to_string(),
            )
            .unwrap();
        }
        let files = directory.path().to_str().unwrap();
        let answer = shop.verb(&["schema", "check", "--schemas", files]).await;
        assert_eq!(answer.status == 0, compatible, "check, {name}: {answer:?}");
        assert!(answer.stdout.contains(word), "{name}: {}", answer.stdout);

        // Registries that are not ours know no traps; they are caught before.
        if word.is_empty() || std::env::var("SCHEMA_REGISTRY_URL").is_err() {
            let subject = format!("{}-{index}", shop.topic("t"));
            registry.register_text(&subject, &old.to_string()).await.unwrap();
            let objections = registry.objections(&subject, &new.to_string()).await.unwrap();
            assert_eq!(objections.is_empty(), compatible, "registry, {name}: {objections:?}");
        }
    }
}
