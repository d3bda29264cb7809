//! A record that fails holds back its key and nothing else, until it succeeds or becomes a dead letter.

use std::time::Duration;

use bytes::Bytes;
use common::parking::Disposition;
use rdkafka::Message as _;
use rdkafka::message::Headers as _;

use crate::model::{MEANINGLESS, REFUSED};
use crate::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_may_pass_parks_its_key_and_nothing_overtakes_it() {
    let world = World::new().await;
    world.forbid("soup").await;
    let copy = world.start().await;
    let soup: Vec<_> = (1..=3).map(|version| world.served("soup", version, version)).collect();
    let stew: Vec<_> = (1..=3).map(|version| world.served("stew", version, version)).collect();
    let all = soup.iter().zip(&stew).flat_map(|(soup, stew)| [soup, stew]);
    world.produce(&all.collect::<Vec<_>>()).await;
    world.has_tasted("stew", &[1, 2, 3]).await;
    world.caught_up().await;
    let keys = world.parked_keys().await;
    assert_eq!((keys.len(), keys[0].waiting, keys[0].dead), (1, 3, false));
    assert!(keys[0].error.as_deref().unwrap().contains("nobody may taste soup"));
    // Redelivery of what waits is recognised.
    world.produce(&[&soup[1]]).await;
    world.caught_up().await;
    assert_eq!(world.number("SELECT count(*) FROM parked").await, 3);
    assert!(world.tasted("soup").await.is_empty());

    world.allow("soup").await;
    world.has_tasted("soup", &[1, 2, 3]).await;
    testkit::eventually("the key is released", PATIENCE, async || {
        world.parked_keys().await.is_empty()
    })
    .await;
    world.produce(&[&world.served("soup", 4, 4)]).await;
    world.has_tasted("soup", &[1, 2, 3, 4]).await;
    assert_eq!(world.number("SELECT count(*) FROM inbox WHERE outcome <> 0").await, 0);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_behind_a_key_does_not_wait_for_the_clock_at_each_record() {
    let mut world = World::new().await;
    world.settings.clock_interval = Duration::from_secs(5);
    world.forbid("soup").await;
    let copy = world.start().await;
    let soup: Vec<_> = (1..=100)
        .map(|version| world.served("soup", version, version))
        .collect();
    world.produce(&soup.iter().collect::<Vec<_>>()).await;
    world.caught_up().await;
    world.allow("soup").await;
    // A turn of the clock for each would be more than eight minutes.
    world.has_tasted("soup", &(1..=100).collect::<Vec<_>>()).await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_retries_end_in_a_dead_letter_that_keeps_its_key() {
    common::telemetry::metrics();
    let world = World::new().await.retrying(3);
    world.forbid("soup").await;
    let copy = world.start().await;
    let first = world.served("soup", 1, 1);
    let places = world.produce(&[&first, &world.served("soup", 2, 2)]).await;
    let letter = world.has_dead_letters(1).await.remove(0);
    assert_eq!((letter.disposition.as_str(), letter.attempts), ("exhausted", 3));
    assert_eq!((letter.event_id, letter.waiting), (Some(first.id), 1));
    assert_eq!(letter.record.value, Some(first.value.clone()));
    assert!(world.parked_keys().await[0].dead);
    assert!(counted_exhausted() > 0);

    // It does not go on by itself, even if it could by now.
    world.allow("soup").await;
    world
        .produce(&[&world.served("soup", 3, 3), &world.served("stew", 1, 1)])
        .await;
    world.has_tasted("stew", &[1]).await;
    assert!(world.tasted("soup").await.is_empty());
    assert_eq!(
        world
            .number("SELECT outcome::bigint FROM inbox WHERE outcome = 2")
            .await,
        2
    );

    let copies = format!("{}.taster.dlq", world.topic);
    let published = testkit::eventually("its public copy is there", PATIENCE, async || {
        testkit::kafka::read_all(&copies).await.pop()
    })
    .await;
    assert_eq!(published.payload(), Some(&*first.value));
    assert!(counted_exhausted() > 0);
    assert_eq!(published.key(), Some(b"soup".as_slice()));
    let headers: Vec<(&str, &[u8])> = published
        .headers()
        .unwrap()
        .iter()
        .map(|header| (header.key, header.value.unwrap_or_default()))
        .collect();
    let value = |name: &str| {
        headers
            .iter()
            .rev()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    };
    assert_eq!(value("ce_id"), Some(first.id.to_string().as_bytes()));
    assert_eq!(value("kafka_dlt-original-topic"), Some(world.topic.as_bytes()));
    assert_eq!(
        value("kafka_dlt-original-offset"),
        Some(places[0].1.to_be_bytes().as_slice())
    );
    assert_eq!(value("rondo-dlt-attempts"), Some(b"3".as_slice()));
    let message = String::from_utf8_lossy(value("kafka_dlt-exception-message").unwrap());
    assert!(message.contains("nobody may taste soup"), "{message}");
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_the_middle_of_a_batch_costs_only_itself() {
    let world = World::new().await;
    let dishes: Vec<_> = (0..40).map(|n| world.served(&format!("dish-{n}"), 1, n)).collect();
    let unreadable = world.served("raw", 1, 1).with_value(b"not avro");
    let truncated = world.served("cut", 1, 1).with_value(b"\0\0\0");
    let nobodys = world.served("nobody", 1, 1).without_envelope();
    let meaningless = world.served("nothing", 1, MEANINGLESS);
    let refused = world.served("snails", 1, REFUSED);
    let behind = [
        world.served("snails", 2, 2),
        world.served("nothing", 2, 2),
        world.served("nobody", 2, 2),
    ];
    world.forbid("liver").await;
    let unstorable = world.served("liver", 1, 1);
    let bad = [&unreadable, &truncated, &nobodys, &meaningless, &refused, &unstorable];
    let mut all: Vec<_> = dishes.iter().collect();
    for (place, record) in bad.into_iter().enumerate() {
        all.insert(5 + place * 6, record);
    }
    all.extend(&behind);
    world.produce(&all).await;

    let copy = world.start().await;
    world.caught_up().await;
    for (n, dish) in dishes.iter().enumerate() {
        assert_eq!(world.tasted(&dish.key).await, [n as i64]);
    }
    // Without an envelope there is no key to hold back.
    assert_eq!(world.tasted("nobody").await, [2]);
    let letters = world.dead_letters().await;
    let found: Vec<_> = letters
        .iter()
        .map(|letter| {
            (
                letter.key.as_deref(),
                letter.disposition.as_str(),
                letter.error_class.as_str(),
            )
        })
        .collect();
    let expected = [
        (Some("raw"), Disposition::Poison, "decode"),
        (Some("cut"), Disposition::Poison, "decode"),
        (None, Disposition::Poison, "envelope"),
        (Some("nothing"), Disposition::Poison, "meaning"),
        (Some("snails"), Disposition::Business, "rejected"),
    ];
    let expected = expected.map(|(key, disposition, class)| (key, disposition.as_str(), class));
    assert_eq!(found, expected);
    assert_eq!(letters[0].record.value, Some(Bytes::from_static(b"not avro")));
    let waiting: Vec<_> = world
        .parked_keys()
        .await
        .into_iter()
        .map(|key| (key.key, key.waiting, key.dead))
        .collect();
    for (key, count, dead) in [
        ("raw", 1, true),
        ("nothing", 2, true),
        ("snails", 2, true),
        ("liver", 1, false),
    ] {
        assert!(waiting.contains(&(key.to_owned(), count, dead)), "{key}: {waiting:?}");
    }
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_took_effect_is_known_by_its_effect() {
    let world = World::new().await;
    let copy = world.start().await;
    let soup = world.served("soup", 1, 1);
    world.produce(&[&soup]).await;
    world.has_tasted("soup", &[1]).await;
    assert_eq!(world.number("SELECT count(*) FROM inbox").await, 0);
    world.produce(&[&soup, &soup, &world.served("stew", 1, 1)]).await;
    world.has_tasted("stew", &[1]).await;
    assert_eq!(world.tasted("soup").await, [1]);
    assert!(world.dead_letters().await.is_empty());
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_conflicts_without_end_is_given_up_and_others_go_on() {
    let world = World::new().await.retrying(2);
    let client = world.pool.get().await.unwrap();
    client
        .batch_execute(
            "CREATE FUNCTION taken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE unique_violation USING CONSTRAINT = 'events_id_key';
             END $$;
             CREATE TRIGGER taken BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.stream_id = 'soup')
                 EXECUTE FUNCTION taken();",
        )
        .await
        .unwrap();
    drop(client);
    let copy = world.start().await;
    world
        .produce(&[&world.served("soup", 1, 1), &world.served("stew", 1, 1)])
        .await;
    world.has_tasted("stew", &[1]).await;
    let letter = world.has_dead_letters(1).await.remove(0);
    assert_eq!(letter.error_class, "conflict");
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_fails_for_every_record_makes_none_a_dead_letter() {
    let world = World::new().await.retrying(1);
    let copy = world.start().await;
    let client = world.pool.get().await.unwrap();
    client
        .batch_execute("ALTER TABLE tastings RENAME TO put_away")
        .await
        .unwrap();
    world
        .produce(&[&world.served("soup", 1, 1), &world.served("stew", 1, 1)])
        .await;
    copy.at_the_gate(2).await;
    client
        .batch_execute("ALTER TABLE put_away RENAME TO tastings")
        .await
        .unwrap();
    drop(client);
    world.has_tasted("soup", &[1]).await;
    world.has_tasted("stew", &[1]).await;
    assert_eq!(
        (world.dead_letters().await.len(), world.parked_keys().await.len()),
        (0, 0)
    );
    copy.stop().await;
}

fn counted_exhausted() -> u64 {
    let text = common::telemetry::metrics().render();
    let series = r#"dead_letters_total{consumer="taster",reason="exhausted"} "#;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |value| value.parse().unwrap())
}
