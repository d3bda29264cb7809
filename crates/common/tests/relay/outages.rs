//! Kafka or Postgres is away: nothing is lost, nothing is overtaken, and it goes on by itself.

use std::time::Duration;

use common::relay::Settings;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::world::{PATIENCE, World};

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// librdkafka's own cluster: not for what a log keeps, but it can be made to fail.
async fn mock_world() -> (Cluster, World) {
    let cluster = MockCluster::new(3).unwrap();
    let mut world = World::on(cluster.bootstrap_servers()).await;
    world.settings.topic = "counter.events".to_owned();
    // It takes a request that was under way behind one that it refused; Kafka refuses that too, by its sequence numbers. So
    // what one commit appends goes in one request.
    let linger = ("linger.ms".to_owned(), "100".to_owned());
    world.settings.kafka.properties.extend([linger]);
    cluster.create_topic(&world.settings.topic, 3, 3).unwrap();
    (cluster, world)
}

/// Positions in the mock cluster's log, in the order in which they were first written, by partition.
async fn assert_log_has_all(world: &World) {
    use common::envelope;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::{Message, Offset, TopicPartitionList};
    let mut committed = world.committed().await;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.settings.kafka.brokers)
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..3 {
        all.add_partition_offset(&world.settings.topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut last = std::collections::HashMap::<Vec<u8>, i64>::new();
    let topic = world.settings.topic.clone();
    tokio::task::spawn_blocking(move || {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !committed.is_empty() {
            assert!(std::time::Instant::now() < deadline, "{topic} lacks {committed:?}");
            let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) else {
                continue;
            };
            let envelope = envelope::from_record(record.headers(), record.key()).unwrap();
            committed.retain(|position| *position != envelope.position);
            let last = last.entry(record.key().unwrap().to_vec()).or_default();
            assert!(
                envelope.stream_version <= *last + 1,
                "{envelope:?} overtakes version {last}"
            );
            *last = envelope.stream_version.max(*last);
        }
    })
    .await
    .unwrap();
}

fn rows(version: i64) -> [(&'static str, i64); 4] {
    ["a", "b", "c", "d"].map(|stream| (stream, version))
}

async fn append_versions(world: &World, versions: std::ops::RangeInclusive<i64>) {
    for version in versions {
        world.append(&rows(version)).await;
    }
}

async fn append_at_once(world: &World, versions: std::ops::RangeInclusive<i64>) {
    world.append(&versions.flat_map(rows).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_may_be_away_and_come_back() {
    let (cluster, world) = mock_world().await;
    let relay = world.start();
    append_versions(&world, 1..=5).await;
    world.published().await;
    cluster.broker_down(-1).unwrap();
    append_versions(&world, 6..=50).await;
    testkit::eventually("the backlog shows", PATIENCE, async || {
        let status = relay.handle.status();
        if status.unpublished == 180 && status.unpublished_age > Duration::from_millis(500) {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    cluster.broker_up(-1).unwrap();
    world.published().await;
    assert_log_has_all(&world).await;
    relay.stop().await;
}

/// Where the logs of two partitions end that have a leader.
async fn log_ends(world: &World, partitions: [i32; 2]) -> [i64; 2] {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let (brokers, topic) = (world.settings.kafka.brokers.clone(), world.settings.topic.clone());
    let ask = move || {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        partitions.map(|partition| consumer.fetch_watermarks(&topic, partition, PATIENCE).unwrap().1)
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_away_holds_up_no_other() {
    let (cluster, world) = mock_world().await;
    let (away, others) = (1, [0, 2]);
    cluster.partition_leader(&world.settings.topic, away, Some(2)).unwrap();
    for partition in others {
        cluster
            .partition_leader(&world.settings.topic, partition, Some(1))
            .unwrap();
    }
    let relay = world.start_with(Settings {
        poll: PATIENCE * 2,
        ..world.settings.clone()
    });
    relay.leads().await;
    let commit = async |versions: std::ops::RangeInclusive<i64>| {
        for version in versions {
            relay.handle.offer(world.append(&rows(version)).await);
        }
    };
    commit(1..=5).await;
    world.published().await;
    let before = log_ends(&world, others).await;
    let not_away: i64 = before.iter().sum();
    assert!(0 < not_away && not_away < 20, "streams are on both sides: {before:?}");
    cluster.broker_down(2).unwrap();
    commit(6..=10).await;
    testkit::eventually("the others are published", PATIENCE, async || {
        let now = log_ends(&world, others).await;
        if now == before.map(|end| end * 2) {
            Ok(())
        } else {
            Err(now)
        }
    })
    .await;
    assert!(relay.handle.status().cursor < 40);
    cluster.broker_up(2).unwrap();
    world.published().await;
    assert_log_has_all(&world).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_kafka_waits_for_it() {
    let (cluster, world) = mock_world().await;
    cluster.broker_down(-1).unwrap();
    let relay = world.start();
    relay.leads().await;
    append_versions(&world, 1..=5).await;
    cluster.broker_up(-1).unwrap();
    world.published().await;
    assert_log_has_all(&world).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_without_kafka_is_bounded_and_keeps_the_cursor() {
    let (cluster, world) = mock_world().await;
    let relay = world.start();
    append_versions(&world, 1..=5).await;
    world.published().await;
    cluster.broker_down(-1).unwrap();
    append_versions(&world, 6..=10).await;
    tokio::time::timeout(Duration::from_secs(25), relay.stop())
        .await
        .expect("a stop is bounded");
    cluster.broker_up(-1).unwrap();
    let relay = world.start();
    world.published().await;
    assert_log_has_all(&world).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_refused_is_published_again_and_nothing_overtakes_it() {
    let (cluster, world) = mock_world().await;
    let relay = world.start();
    append_versions(&world, 1..=5).await;
    world.published().await;
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Produce, &[refused; 4]);
    append_at_once(&world, 6..=30).await;
    world.published().await;
    assert_log_has_all(&world).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_lost_its_sequence_is_replaced() {
    let (cluster, world) = mock_world().await;
    let relay = world.start();
    append_versions(&world, 1..=5).await;
    world.published().await;
    let errors = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    ];
    cluster.request_errors(RDKafkaApiKey::Produce, &errors);
    append_at_once(&world, 6..=30).await;
    world.published().await;
    assert_log_has_all(&world).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_to_postgres_are_made_again() {
    let world = World::new().await;
    let relay = world.start_with(Settings {
        lease: Duration::from_secs(3),
        ..world.settings.clone()
    });
    relay.leads().await;
    for version in 1..=5 {
        append_versions(&world, version..=version).await;
        let client = world.pool.get().await.unwrap();
        client
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'",
                &[],
            )
            .await
            .unwrap();
    }
    append_versions(&world, 6..=10).await;
    world.published().await;
    world.assert_complete().await;
    relay.stop().await;
}
