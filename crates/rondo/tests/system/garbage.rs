//! Whatever lies in a topic, it is set aside byte for byte, and the others go on.

use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};
use testkit::kafka::{Raw, produce, read_all};
use uuid::Uuid;

use crate::shop::{PATIENCE, Shop, order_of};

/// Who reads the orders' topic.
const READERS: [&str; 2] = ["payments", "inventory"];
/// A schema id that no registry gives in these tests.
const UNKNOWN_SCHEMA: [u8; 5] = [0, 0x7f, 0xff, 0xff, 0xff];
/// Far above what an event has, and below what the topic takes.
const LARGE_BYTES: usize = 2 * 1024 * 1024;

/// One record that nobody can make sense of.
struct Garbage {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(&'static str, Vec<u8>)>,
    /// What the dead letter says is wrong with it.
    complaint: &'static str,
}

impl Garbage {
    /// A record with a good envelope about an order of its own, and `value`.
    fn of_value(value: Option<Vec<u8>>, complaint: &'static str) -> Self {
        let order_id = Uuid::new_v4().to_string();
        Self {
            headers: envelope(&order_id),
            key: Some(order_id.into_bytes()),
            value,
            complaint,
        }
    }

    /// A record with a good value and no usable envelope.
    fn of_headers(headers: Vec<(&'static str, Vec<u8>)>, good: &[u8], complaint: &'static str) -> Self {
        Self {
            key: Some(Uuid::new_v4().to_string().into_bytes()),
            value: Some(good.to_vec()),
            headers,
            complaint,
        }
    }
}

/// What an event's record carries, and beside it what any producer may add.
fn envelope(order_id: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("ce_id", Uuid::now_v7().to_string().into()),
        ("ce_type", "OrderPlaced".into()),
        ("ce_source", "orders".into()),
        ("ce_time", "2026-01-31T12:00:00Z".into()),
        ("ce_subject", order_id.into()),
        ("stream-version", "1".into()),
        ("of-no-text", vec![0, 255, 0]),
        ("twice", "first".into()),
        ("twice", "second".into()),
    ]
}

fn garbage(good: &[u8]) -> Vec<Garbage> {
    let mut bad_id = envelope("order");
    bad_id[0].1 = b"not a uuid".to_vec();
    let mut nameless = Garbage::of_headers(envelope("order"), good, "ce_subject");
    nameless.headers.retain(|(name, _)| *name != "ce_subject");
    nameless.key = None;
    vec![
        Garbage::of_value(Some(br#"{"order_id":"1"}"#.to_vec()), "0x7b"),
        Garbage::of_value(Some(b"\x00\x00\x01".to_vec()), "3 bytes"),
        Garbage::of_value(Some([&UNKNOWN_SCHEMA, &good[5..]].concat()), "2147483647"),
        Garbage::of_value(Some(good[..good.len() - 3].to_vec()), "does not decode"),
        Garbage::of_value(Some([good, b"\x00"].concat()), "bytes follow"),
        Garbage::of_value(Some(Vec::new()), "no value"),
        Garbage::of_value(None, "no value"),
        Garbage::of_value(Some(vec![0xab; LARGE_BYTES]), "0xab"),
        Garbage::of_headers(Vec::new(), good, "ce_id"),
        Garbage::of_headers(bad_id, good, "ce_id"),
        nameless,
    ]
}

/// The record's own headers and then those of its death, as names and values.
fn headers_of(record: &OwnedMessage) -> Vec<(&str, &[u8])> {
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    headers
        .map(|header| (header.key, header.value.unwrap_or_default()))
        .collect()
}

fn header<'a>(record: &'a OwnedMessage, name: &str) -> &'a [u8] {
    let mut found = headers_of(record).into_iter().filter(|(key, _)| *key == name);
    let (_, value) = found.next().unwrap_or_else(|| panic!("{name} is missing"));
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

async fn dead_letters(shop: &Shop, reader: &str, count: usize) -> Vec<OwnedMessage> {
    let topic = shop.topic(&format!("orders.events.{reader}.dlq"));
    testkit::eventually(&format!("{count} records in {topic}"), PATIENCE, async || {
        let records = read_all(&topic).await;
        if records.len() >= count {
            Ok(records)
        } else {
            Err(records.len())
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_set_aside_byte_for_byte_and_other_orders_go_on() {
    let shop = Shop::open().await;
    shop.stock("cup", 100).await;
    let first = shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    shop.until(&first, "completed").await;
    let topic = shop.topic("orders.events");
    let log = read_all(&topic).await;
    let placed = log.iter().find(|record| header(record, "ce_type") == b"OrderPlaced");
    let garbage = garbage(placed.unwrap().payload().unwrap());

    let headers: Vec<Vec<(&str, &[u8])>> = garbage
        .iter()
        .map(|one| one.headers.iter().map(|(name, value)| (*name, &value[..])).collect())
        .collect();
    let records: Vec<Raw<'_>> = garbage
        .iter()
        .zip(&headers)
        .map(|(one, headers)| Raw {
            partition: None,
            key: one.key.as_deref(),
            value: one.value.as_deref(),
            headers,
        })
        .collect();
    let places = produce(&topic, &records).await;
    // Behind the garbage on every partition, with all likelihood.
    for _ in 0..12 {
        shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    }
    assert_eq!(shop.until_all_ended(13).await["completed"], 13);

    for reader in READERS {
        let dead = dead_letters(&shop, reader, garbage.len()).await;
        assert_eq!(dead.len(), garbage.len(), "{reader}");
        for ((one, headers), (partition, offset)) in garbage.iter().zip(&headers).zip(&places) {
            let about = |record: &&OwnedMessage| {
                header(record, "kafka_dlt-original-partition") == partition.to_be_bytes()
                    && header(record, "kafka_dlt-original-offset") == offset.to_be_bytes()
            };
            let record = dead.iter().find(about).unwrap();
            assert_eq!(record.key(), one.key.as_deref());
            assert_eq!(record.payload(), one.value.as_deref(), "{}", one.complaint);
            assert_eq!(headers_of(record)[..headers.len()], headers[..]);
            assert_eq!(header(record, "kafka_dlt-original-topic"), topic.as_bytes());
            let group = header(record, "kafka_dlt-original-consumer-group");
            assert_eq!(
                group,
                shop.topic(reader).as_bytes(),
                "a group has the namespace as well"
            );
            assert_eq!(header(record, "kafka_dlt-original-timestamp-type"), b"CreateTime");
            assert_eq!(header(record, "kafka_dlt-original-timestamp").len(), 8);
            assert!(!header(record, "kafka_dlt-exception-fqcn").is_empty());
            assert_eq!(header(record, "rondo-dlt-disposition"), b"poison");
            let message = String::from_utf8_lossy(header(record, "kafka_dlt-exception-stacktrace"));
            assert!(message.contains(one.complaint), "{message}: {}", one.complaint);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_an_envelope_parks_no_order() {
    let shop = Shop::open().await;
    shop.stock("cup", 10).await;
    let id = shop.place(&order_of(&[("cup", 1)], "tok_timeout")).await;
    shop.until_path(&format!("/payments/{id}"), "pending").await;
    let record = Raw {
        key: Some(id.as_bytes()),
        value: Some(b"nothing at all"),
        ..Raw::default()
    };
    produce(&shop.topic("orders.events"), &[record]).await;
    for reader in READERS {
        dead_letters(&shop, reader, 1).await;
    }
    // What is read behind the garbage, under the same key, is handled.
    assert_eq!(shop.tell(&id, "cancel").await, 202);
    shop.until(&id, "cancelled").await;
}
