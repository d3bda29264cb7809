//! Kafka acknowledged it and has it no more: the database refills the log.

use common::relay::Settings;
use rdkafka::Message as _;

use crate::world::{World, envelope_of};

async fn log_ends(world: &World) -> Vec<(i32, i64, i64)> {
    let client = world.pool.get().await.unwrap();
    let rows = client
        .query(
            "SELECT partition, last_offset, last_position FROM relay_log_ends ORDER BY partition",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Publishes versions up to `last` of six streams, with a relay that is started and stopped for it.
async fn publish(world: &World, versions: std::ops::RangeInclusive<i64>) {
    let relay = world.start();
    for version in versions {
        world
            .append(&["a", "b", "c", "d", "e", "f"].map(|stream| (stream, version)))
            .await;
    }
    world.published().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_acknowledged_record_of_each_partition_is_kept() {
    let world = World::new().await;
    publish(&world, 1..=4).await;
    let log = world.log().await;
    for (partition, offset, position) in log_ends(&world).await {
        let last = log
            .iter()
            .filter(|record| record.partition() == partition)
            .max_by_key(|record| record.offset());
        let last = last.expect("only partitions with records are kept");
        assert_eq!((offset, position), (last.offset(), envelope_of(last).position));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_tail_is_filled_from_the_last_record_that_is_left() {
    let world = World::new().await;
    publish(&world, 1..=4).await;
    let before = world.log().await.len();
    // The database says that more was acknowledged than the log of one partition holds: its tail is gone.
    world
        .append(&["a", "b", "c", "d", "e", "f"].map(|stream| (stream, 5)))
        .await;
    let (partition, ..) = log_ends(&world).await[0];
    let client = world.pool.get().await.unwrap();
    client
        .batch_execute("UPDATE relay SET cursor = (SELECT max(position) FROM events)")
        .await
        .unwrap();
    client
        .execute(
            "UPDATE relay_log_ends SET last_offset = last_offset + 6, last_position = (SELECT max(position) FROM events)
             WHERE partition = $1",
            &[&partition],
        )
        .await
        .unwrap();
    publish(&world, 6..=6).await;
    world.assert_complete().await;
    let log = world.log().await;
    let repeated = log.len() - world.committed().await.len();
    assert!(
        log.len() > before && repeated < before,
        "{repeated} of {before} were published again"
    );
    // What was found is what is kept: the next start finds nothing missing.
    let length = log.len();
    publish(&world, 7..=7).await;
    assert_eq!(world.log().await.len(), length + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_gets_everything_again() {
    let world = World::new().await;
    publish(&world, 1..=4).await;
    let fresh = World {
        settings: Settings {
            topic: format!("{}.again", world.settings.topic),
            ..world.settings.clone()
        },
        ..world
    };
    testkit::kafka::create_topics(&[&fresh.settings.topic], crate::world::PARTITIONS).await;
    let client = fresh.pool.get().await.unwrap();
    client
        .execute("UPDATE relay_log_ends SET topic = $1", &[&fresh.settings.topic])
        .await
        .unwrap();
    drop(client);
    publish(&fresh, 5..=5).await;
    assert_eq!(fresh.assert_complete().await, 0);
}
