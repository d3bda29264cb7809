//! Dead letters leave byte for byte, with the headers that consoles know, after their row commits.

use jiff::Timestamp;
use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};

use crate::world::{PATIENCE, World};

struct Dead<'a> {
    topic: &'a str,
    offset: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [(&'a str, Option<&'a [u8]>)],
    error: &'a str,
}

async fn insert(world: &World, dead: &Dead<'_>) -> i64 {
    let (names, values): (Vec<&str>, Vec<Option<&[u8]>>) = dead.headers.iter().copied().unzip();
    let client = world.pool.get().await.unwrap();
    let row = client
        .query_one(
            "INSERT INTO dead_letters (consumer, topic, partition, record_offset, record_timestamp, record_key, value,
                                       header_names, header_values, disposition, error_class, error, attempts,
                                       first_failed_at, traceparent)
             VALUES ('billing', $1, 2, $2, '2026-01-02T03:04:05.678Z', $3, $4, $5, $6, 'exhausted', 'Timeout', $7, 9,
                     '2026-01-02T03:00:00Z', '00-aa-bb-01') RETURNING id",
            &[
                &dead.topic,
                &dead.offset,
                &dead.key,
                &dead.value,
                &names,
                &values,
                &dead.error,
            ],
        )
        .await
        .unwrap();
    row.get(0)
}

async fn is_published(world: &World, id: i64) -> bool {
    let client = world.pool.get().await.unwrap();
    let row = client
        .query_one("SELECT published_at FROM dead_letters WHERE id = $1", &[&id])
        .await
        .unwrap();
    row.get::<_, Option<Timestamp>>(0).is_some()
}

async fn published(world: &World, id: i64) {
    testkit::eventually("the dead letter is published", PATIENCE, async || {
        is_published(world, id).await
    })
    .await;
}

fn headers<'a>(record: &'a OwnedMessage, name: &str) -> Vec<Option<&'a [u8]>> {
    let all = record.headers().unwrap();
    all.iter()
        .filter(|header| header.key == name)
        .map(|header| header.value)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_keeps_its_bytes_and_says_why_it_died() {
    let world = World::new().await;
    let topic = format!("{}.src", world.settings.topic);
    let dlq = format!("{topic}.billing.dlq");
    testkit::kafka::create_topics(&[&dlq], 1).await;
    let relay = world.start();
    relay.leads().await;
    let long = "é".repeat(10_000);
    let own: [(&str, Option<&[u8]>); 5] = [
        ("ce_id", Some(b"7")),
        ("twice", Some(b"1")),
        ("null", None),
        ("twice", Some(&[0xff, 0])),
        ("kafka_dlt-original-topic", Some(b"an earlier death")),
    ];
    let id = insert(
        &world,
        &Dead {
            topic: &topic,
            offset: 41,
            key: Some(&[1, 0, 2]),
            value: Some(&[0, 0, 0xff]),
            headers: &own,
            error: &long,
        },
    )
    .await;
    let bare = insert(
        &world,
        &Dead {
            topic: &topic,
            offset: 42,
            key: None,
            value: None,
            headers: &[],
            error: "e",
        },
    )
    .await;
    relay.handle.dead_letters_waiting();
    published(&world, id).await;
    published(&world, bare).await;

    let log = testkit::kafka::read_all(&dlq).await;
    let [record, tombstone] = &log[..] else {
        panic!("{} records", log.len())
    };
    assert_eq!(
        (record.key(), record.payload()),
        (Some([1, 0, 2].as_slice()), Some([0, 0, 0xff].as_slice()))
    );
    assert_eq!((tombstone.key(), tombstone.payload()), (None, None));
    assert_eq!(
        headers(record, "twice"),
        vec![Some(b"1".as_slice()), Some([0xff, 0].as_slice())]
    );
    assert_eq!(headers(record, "null"), vec![None]);
    let one = |name: &str| match headers(record, name)[..] {
        [Some(value)] => value.to_vec(),
        ref other => panic!("{name}: {other:?}"),
    };
    assert_eq!(one("kafka_dlt-original-topic"), topic.as_bytes());
    assert_eq!(one("kafka_dlt-original-partition"), 2_i32.to_be_bytes());
    assert_eq!(one("kafka_dlt-original-offset"), 41_i64.to_be_bytes());
    let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
    assert_eq!(one("kafka_dlt-original-timestamp"), at.as_millisecond().to_be_bytes());
    assert_eq!(one("kafka_dlt-original-consumer-group"), b"billing");
    assert_eq!(one("kafka_dlt-exception-fqcn"), b"Timeout");
    assert_eq!(one("kafka_dlt-exception-message"), "é".repeat(512).as_bytes());
    assert_eq!(one("kafka_dlt-exception-stacktrace").len(), 8 * 1024);
    assert_eq!(one("rondo-dlt-id"), id.to_string().as_bytes());
    assert_eq!(one("rondo-dlt-disposition"), b"exhausted");
    assert_eq!(one("rondo-dlt-attempts"), b"9");
    assert_eq!(one("rondo-dlt-first-failed-at"), b"2026-01-02T03:00:00Z");
    assert_eq!(one("rondo-dlt-traceparent"), b"00-aa-bb-01");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_holds_up_neither_other_dead_letters_nor_events() {
    let world = World::new().await;
    let (absent, present) = (
        format!("{}.absent", world.settings.topic),
        format!("{}.present", world.settings.topic),
    );
    testkit::kafka::create_topics(&[&format!("{present}.billing.dlq")], 1).await;
    let dead = |topic, offset| Dead {
        topic,
        offset,
        key: Some(b"k"),
        value: Some(b"v"),
        headers: &[],
        error: "e",
    };
    let waiting = insert(&world, &dead(&absent, 1)).await;
    let going = insert(&world, &dead(&present, 1)).await;
    let relay = world.start();
    published(&world, going).await;
    relay.handle.offer(world.append(&[("a", 1)]).await);
    world.published().await;
    assert!(!is_published(&world, waiting).await);
    testkit::kafka::create_topics(&[&format!("{absent}.billing.dlq")], 1).await;
    published(&world, waiting).await;
    relay.stop().await;
}
