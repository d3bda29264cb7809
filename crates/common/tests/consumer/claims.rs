//! Whose a partition is, from where it is read, and how much of it is held in memory.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use common::claims::Claims;
use common::{consumer, inbox};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_ahead_of_the_database_is_refused_with_an_explanation() {
    let world = World::new().await;
    let dishes: Vec<_> = (0..5).map(|n| world.served(&format!("dish-{n}"), 1, n)).collect();
    world.produce(&dishes.iter().collect::<Vec<_>>()).await;
    let mut config = testkit::kafka::config().await;
    config.set("group.id", world.settings.kafka.named("taster"));
    let topic = world.topic.clone();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&topic, 0, Offset::Offset(3)).unwrap();
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
    })
    .await
    .unwrap();
    let copy = world.start().await;
    let ended = tokio::time::timeout(PATIENCE, copy.running.join()).await.unwrap();
    let error = ended.unwrap_err();
    let why = error.source().unwrap().to_string();
    for word in [
        "committed offset 3",
        "up to 0",
        "restored",
        "rondo offsets reset --group",
    ] {
        assert!(why.contains(word), "{why}");
    }
    assert_eq!(world.number("SELECT count(*) FROM tastings").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_partition_that_was_claimed_away_are_dropped() {
    let mut world = World::new().await;
    // The shortest that brokers allow: a copy waits for twice as long before it takes back what the group says is its own.
    let properties = &mut world.settings.kafka.properties;
    properties.insert("session.timeout.ms".to_owned(), "6000".to_owned());
    let copy = world.start().await;
    let closed = copy.model.gate.write().await;
    world.produce(&[&world.served("soup", 1, 1)]).await;
    copy.at_the_gate(1).await;
    // Its batch is open, and holds the row of its offset.
    testkit::eventually("the offset is locked", PATIENCE, async || {
        world
            .number("SELECT count(*) FROM (SELECT FROM offsets FOR UPDATE SKIP LOCKED) AS free")
            .await
            == 0
    })
    .await;
    let client = world.pool.get().await.unwrap();
    let claim = client.query_one("SELECT next_offset FROM offsets", &[]).await.unwrap();
    assert_eq!(claim.get::<_, Option<i64>>(0), None, "nothing is committed yet");
    // Another copy takes the partition, and goes on behind what this one was about to do: its claim waits for the open batch.
    let claiming = tokio::spawn({
        let (pool, topic) = (world.pool.clone(), world.topic.clone());
        async move {
            let client = pool.get().await.unwrap();
            inbox::claim(&client, "taster", &topic, 0).await.unwrap()
        }
    });
    testkit::eventually("the claim waits", PATIENCE, async || {
        world
            .number(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            )
            .await
            > 0
    })
    .await;
    drop(closed);
    let claim = claiming.await.unwrap();
    assert_eq!(claim.next_offset, Some(1));
    // This copy reads on, for nobody has told it.
    world.produce(&[&world.served("soup", 2, 2)]).await;
    // Fenced, this copy drops what it had read, claims again because the partition is still assigned to it, and reads on.
    world.has_tasted("soup", &[1, 2]).await;
    let row = client
        .query_one("SELECT epoch, next_offset FROM offsets", &[])
        .await
        .unwrap();
    assert!(row.get::<_, i64>(0) > claim.epoch, "it was claimed anew");
    drop(client);
    world.caught_up().await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_copy_goes_on_where_its_offset_was_moved_to_and_the_group_follows() {
    let world = World::new().await;
    let copy = world.start().await;
    let dishes: Vec<_> = (0..5).map(|n| world.served("soup", n + 1, n)).collect();
    world.produce(&dishes.iter().collect::<Vec<_>>()).await;
    world.has_tasted("soup", &[0, 1, 2, 3, 4]).await;
    world.caught_up().await;
    let repeated = world.counted("stream_repeats_total") + world.counted("inbox_duplicates_total");
    assert_eq!(repeated, 0);
    // Nothing arrives meanwhile: the copy finds out by itself, goes back, and takes nothing twice.
    let moved = |next_offset: i64| {
        let (pool, topic) = (world.pool.clone(), world.topic.clone());
        async move {
            let client = pool.get().await.unwrap();
            inbox::reset(&client, "taster", &[(&topic, 0, next_offset)])
                .await
                .unwrap();
        }
    };
    moved(1).await;
    let mark = "SELECT count(*) FROM offsets WHERE reset_epoch IS NOT NULL";
    testkit::eventually("the reset is settled", PATIENCE, async || world.number(mark).await == 0).await;
    world.caught_up().await;
    world.has_tasted("soup", &[0, 1, 2, 3, 4]).await;
    // What comes next is handled: the jump back is no gap.
    world.produce(&[&world.served("soup", 6, 5)]).await;
    world.has_tasted("soup", &[0, 1, 2, 3, 4, 5]).await;
    copy.stop().await;

    // Nobody runs. The group is ahead of the row then, and that is no reason to refuse.
    moved(2).await;
    let copy = world.start().await;
    testkit::eventually("the reset is settled", PATIENCE, async || world.number(mark).await == 0).await;
    world.produce(&[&world.served("soup", 7, 6)]).await;
    world.has_tasted("soup", &[0, 1, 2, 3, 4, 5, 6]).await;
    assert_eq!(
        (world.parked_keys().await.len(), world.dead_letters().await.len()),
        (0, 0)
    );
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_is_moved_under_an_open_batch_which_changes_nothing_and_is_done_again() {
    let world = World::new().await;
    let copy = world.start().await;
    world.produce(&[&world.served("soup", 1, 1)]).await;
    world.has_tasted("soup", &[1]).await;
    world.caught_up().await;
    let closed = copy.model.gate.write().await;
    world.produce(&[&world.served("soup", 2, 2)]).await;
    copy.at_the_gate(2).await;
    let moving = tokio::spawn({
        let (pool, topic) = (world.pool.clone(), world.topic.clone());
        async move {
            let client = pool.get().await.unwrap();
            inbox::reset(&client, "taster", &[(&topic, 0, 0)]).await.unwrap();
        }
    });
    drop(closed);
    moving.await.unwrap();
    world.produce(&[&world.served("soup", 3, 3)]).await;
    world.has_tasted("soup", &[1, 2, 3]).await;
    world.caught_up().await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_share_the_partitions_and_each_event_takes_effect_once() {
    let world = World::with_partitions(4).await;
    let first = world.start().await;
    let dishes: Vec<_> = (0..400)
        .map(|n| world.served(&format!("dish-{}", n % 40), 1 + n / 40, n))
        .collect();
    let all: Vec<_> = dishes.iter().collect();
    world.produce(&all[..100]).await;
    world.caught_up().await;
    let second = world.start().await;
    world.produce(&all[100..250]).await;
    testkit::eventually("the second copy has work", PATIENCE, async || {
        // Repetitions, so that there is traffic for whoever joins.
        world.produce(&all[..40]).await;
        world.number("SELECT max(epoch) FROM offsets").await > 1
    })
    .await;
    first.stop().await;
    world.produce(&all[250..]).await;
    world.caught_up().await;
    let parked = world.parked_keys().await;
    assert!(parked.is_empty(), "{parked:?}");
    assert_eq!(world.number("SELECT count(*) FROM tastings").await, 400);
    for n in 0..40 {
        let expected: Vec<i64> = (0..10).map(|version| version * 40 + n).collect();
        assert_eq!(world.tasted(&format!("dish-{n}")).await, expected);
    }
    assert_eq!(
        (world.parked_keys().await.len(), world.dead_letters().await.len()),
        (0, 0)
    );
    second.stop().await;
}

/// The queue is full for longer than the consumer waits before it pauses; a rebalance comes meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_loses_nothing_and_costs_no_membership() {
    const RECORDS: usize = 300;
    const QUEUE: usize = 10;
    let world = World::with_partitions(2).await;
    let dishes: Vec<_> = (0..RECORDS)
        .map(|n| world.served(&format!("dish-{n}"), 1, n as i64))
        .collect();
    world.produce(&dishes.iter().collect::<Vec<_>>()).await;
    let settings = consumer::Settings {
        consumer: "taster",
        group: world.settings.kafka.named("taster"),
        topics: vec![world.topic.clone()],
        kafka: world.settings.kafka.clone(),
    };
    let start = |shutdown: &CancellationToken| {
        let (queue, records) = mpsc::channel(QUEUE);
        let claims = Arc::new(Claims::default());
        let run = consumer::run(
            settings.clone(),
            world.pool.clone(),
            claims.clone(),
            queue,
            shutdown.clone(),
        );
        (tokio::spawn(run), records, claims)
    };
    // Another member has one of the partitions, and leaves while the queue is full.
    let (leave, stop) = (CancellationToken::new(), CancellationToken::new());
    let (other, other_records, other_claims) = start(&leave);
    let held = |claims: &Claims| {
        (0..2)
            .filter(|partition| claims.epoch(&world.topic, *partition).is_some())
            .count()
    };
    testkit::eventually("the first member has all", PATIENCE, async || held(&other_claims) == 2).await;
    let (task, mut records, claims) = start(&stop);
    testkit::eventually("they share", PATIENCE, async || {
        held(&other_claims) == 1 && held(&claims) == 1 && records.len() == QUEUE
    })
    .await;
    leave.cancel();
    drop(other_records);
    other.await.unwrap().unwrap();
    testkit::eventually("the full one gets the other partition", PATIENCE, async || {
        held(&claims) == 2
    })
    .await;
    assert_eq!(records.len(), QUEUE);
    let epochs = [0, 1].map(|partition| claims.epoch(&world.topic, partition).unwrap());

    let mut offsets: [Vec<i64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..RECORDS {
        let record = tokio::time::timeout(PATIENCE, records.recv()).await.unwrap().unwrap();
        offsets[usize::try_from(record.partition).unwrap()].push(record.offset);
    }
    for read in &offsets {
        assert_eq!(*read, (0..read.len() as i64).collect::<Vec<_>>(), "each once, in order");
    }
    assert_eq!(
        epochs,
        [0, 1].map(|partition| claims.epoch(&world.topic, partition).unwrap())
    );
    let more = tokio::time::timeout(Duration::from_millis(300), records.recv()).await;
    assert!(more.is_err(), "{more:?}");
    stop.cancel();
    drop(records);
    task.await.unwrap().unwrap();
}
