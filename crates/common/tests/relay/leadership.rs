//! One copy publishes; another takes over when it stops or dies.

use std::time::{Duration, Instant};

use common::relay::Settings;

use crate::world::{PATIENCE, Running, World};

/// Appends a version to each of five streams per round while `during` goes on, offering to `copies` in turn.
async fn append_rounds(world: &World, copies: &[&Running], rounds: std::ops::RangeInclusive<i64>) {
    for version in rounds {
        let streams = ["a", "b", "c", "d", "e"].map(|stream| (stream, version));
        let recorded = world.append(&streams).await;
        copies[version as usize % copies.len()].handle.offer(recorded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_stops_hands_over_without_the_wait_for_its_lease() {
    let world = World::new().await;
    let first = world.start();
    first.leads().await;
    let second = world.start();
    append_rounds(&world, &[&first, &second], 1..=50).await;
    assert!(!second.handle.status().leading);
    let stopped_at = Instant::now();
    first.stop().await;
    append_rounds(&world, &[&second], 51..=100).await;
    second.leads().await;
    world.published().await;
    assert!(
        stopped_at.elapsed() < world.settings.lease / 2,
        "took {:?}",
        stopped_at.elapsed()
    );
    assert_eq!(world.assert_complete().await, 0, "a clean hand-over repeats nothing");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_dies_in_mid_stream_loses_nothing_and_breaks_no_streams_order() {
    let world = World::new().await;
    let short = Settings {
        lease: Duration::from_secs(2),
        ..world.settings.clone()
    };
    let first = world.start_with(short.clone());
    first.leads().await;
    let second = world.start_with(short);
    append_rounds(&world, &[&first], 1..=100).await;
    first.kill().await;
    append_rounds(&world, &[&second], 101..=200).await;
    second.leads().await;
    world.published().await;
    // What was acknowledged since the cursor was kept is there twice; each stream still reads in order.
    world.assert_complete().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_was_taken_stops_and_changes_nothing_more() {
    let world = World::new().await;
    let relay = world.start();
    relay.leads().await;
    append_rounds(&world, &[&relay], 1..=5).await;
    world.published().await;
    // Another copy, in a process that was believed dead.
    let client = world.pool.get().await.unwrap();
    client
        .batch_execute("UPDATE relay SET epoch = epoch + 1, owner = 'other', cursor = 3, leased_until = 'infinity'")
        .await
        .unwrap();
    append_rounds(&world, &[&relay], 6..=6).await;
    testkit::eventually("it no longer leads", PATIENCE, async || !relay.handle.status().leading).await;
    let cursor: i64 = client.query_one("SELECT cursor FROM relay", &[]).await.unwrap().get(0);
    assert_eq!(cursor, 3, "a fenced leader must not move the cursor");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_wakes_the_leader_for_what_it_appends() {
    let world = World::new().await;
    // Without a wake-up the table would be read in an hour.
    let idle = Settings {
        poll: Duration::from_secs(3600),
        ..world.settings.clone()
    };
    let leader = world.start_with(idle.clone());
    leader.leads().await;
    let standby = world.start_with(idle);
    append_rounds(&world, &[&leader], 1..=1).await;
    world.published().await;
    append_rounds(&world, &[&standby], 2..=2).await;
    world.published().await;
    assert_eq!(world.assert_complete().await, 0);
    standby.stop().await;
    leader.stop().await;
}
