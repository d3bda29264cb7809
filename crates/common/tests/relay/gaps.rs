//! Positions are drawn before they commit: nothing may be passed, and nothing waited for that cannot come.

use std::time::Duration;

use common::relay::Error;
use jiff::Timestamp;
use rdkafka::Message as _;

use crate::world::{PATIENCE, World, append, envelope_of};

/// Waits until the relay has looked at who writes, after `since`, and has seen the answer: until it has met the gap.
async fn relay_looked_at_locks(world: &World, since: Timestamp) {
    testkit::eventually("the relay looks at the locks", PATIENCE, async || {
        let client = world.pool.get().await.unwrap();
        let row = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND query LIKE 'SELECT virtualtransaction%' AND query_start > $1 AND state <> 'active'",
                &[&since],
            )
            .await
            .unwrap();
        row.get::<_, i64>(0) > 0
    })
    .await;
}

async fn database_time(world: &World) -> Timestamp {
    let client = world.pool.get().await.unwrap();
    client.query_one("SELECT clock_timestamp()", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_commits_that_drew_positions_in_turns_are_published_in_order() {
    let world = World::new().await;
    let relay = world.start();
    relay.leads().await;
    for round in 1..=20 {
        let (mut one, mut other) = (world.pool.get().await.unwrap(), world.pool.get().await.unwrap());
        let (one, other) = (one.transaction().await.unwrap(), other.transaction().await.unwrap());
        let mut early = append(&one, &[("a", 2 * round - 1)]).await;
        let late = append(&other, &[("b", round)]).await;
        early.extend(append(&one, &[("a", 2 * round)]).await);
        other.commit().await.unwrap();
        relay.handle.offer(late);
        one.commit().await.unwrap();
        relay.handle.offer(early);
    }
    world.published().await;
    assert_eq!(world.assert_complete().await, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_commits_late_is_neither_passed_nor_skipped() {
    let world = World::new().await;
    let relay = world.start();
    relay.leads().await;
    relay.handle.offer(world.append(&[("a", 1)]).await);
    world.published().await;

    let mut late = world.pool.get().await.unwrap();
    let late = late.transaction().await.unwrap();
    let held = append(&late, &[("b", 1)]).await;
    relay.handle.offer(world.append(&[("a", 2)]).await);
    relay.handle.offer(world.append(&[("a", 3), ("c", 1)]).await);
    // Twice: the first look may have begun before the last commit.
    relay_looked_at_locks(&world, database_time(&world).await).await;
    relay_looked_at_locks(&world, database_time(&world).await).await;
    assert_eq!(
        world.log().await.len(),
        1,
        "nothing after the open position may be published"
    );
    assert_eq!(relay.handle.status().cursor, held[0].envelope.position - 1);

    late.commit().await.unwrap();
    world.published().await;
    assert_eq!(world.assert_complete().await, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_were_rolled_back_are_stepped_over_at_once() {
    let world = World::new().await;
    let relay = world.start();
    relay.leads().await;
    for round in 1..=10 {
        let mut client = world.pool.get().await.unwrap();
        let tx = client.transaction().await.unwrap();
        append(&tx, &[("x", 1), ("y", 1)]).await;
        tx.rollback().await.unwrap();
        relay.handle.offer(world.append(&[("a", round)]).await);
    }
    world.published().await;
    assert_eq!(world.assert_complete().await, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_gap_waits_for_writers_that_were_there_and_for_no_others() {
    let world = World::new().await;
    let relay = world.start();
    relay.leads().await;
    let (mut early, mut later) = (world.pool.get().await.unwrap(), world.pool.get().await.unwrap());
    let early = early.transaction().await.unwrap();
    append(&early, &[("e", 1)]).await;
    relay.handle.offer(world.append(&[("a", 1)]).await);
    relay_looked_at_locks(&world, database_time(&world).await).await;
    // It holds the same lock, but came after the gap was seen: it cannot fill it.
    let later = later.transaction().await.unwrap();
    append(&later, &[("l", 1)]).await;
    early.rollback().await.unwrap();
    testkit::eventually("the gap is stepped over", PATIENCE, async || {
        world.log().await.len() == 1
    })
    .await;

    later.commit().await.unwrap();
    world.published().await;
    assert_eq!(world.assert_complete().await, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_that_commit_late_or_roll_back_lose_nothing() {
    const WRITERS: usize = 6;
    const ROUNDS: i64 = 40;
    let world = World::new().await;
    let relay = world.start();
    let write = async |writer: usize| {
        let mut version = 0;
        for round in 0..ROUNDS {
            let mut client = world.pool.get().await.unwrap();
            let tx = client.transaction().await.unwrap();
            let stream = format!("w{writer}");
            let recorded = append(&tx, &[(&stream, version + 1), (&stream, version + 2)]).await;
            // The server's own delays: the writers' commits overtake each other.
            let pause = (writer as i64 * 7 + round * 3) % 11;
            tx.execute("SELECT pg_sleep($1)", &[&(pause as f64 / 1000.0)])
                .await
                .unwrap();
            if round % 4 == writer as i64 % 4 {
                tx.rollback().await.unwrap();
            } else {
                tx.commit().await.unwrap();
                version += 2;
                // Only some tell the relay; the others are another process.
                if writer.is_multiple_of(2) {
                    relay.handle.offer(recorded);
                }
            }
        }
    };
    futures_util::future::join_all((0..WRITERS).map(write)).await;
    world.published().await;
    assert_eq!(world.assert_complete().await, 0);
    assert_eq!(world.log().await.len(), WRITERS * (ROUNDS as usize * 3 / 4) * 2);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_carries_the_row_byte_for_byte_under_its_streams_key() {
    let world = World::new().await;
    let relay = world.start();
    let recorded = world.append(&[("a", 1)]).await.remove(0);
    world.published().await;
    let record = world.log().await.remove(0);
    assert_eq!(record.key(), Some(b"a".as_slice()));
    assert_eq!(record.payload(), Some(&recorded.payload[..]));
    assert_eq!(
        record.timestamp().to_millis(),
        Some(recorded.envelope.occurred_at.as_millisecond())
    );
    let envelope = envelope_of(&record);
    assert_eq!(
        (envelope.id, envelope.position),
        (recorded.envelope.id, recorded.envelope.position)
    );
    assert_eq!(envelope.occurred_at.as_microsecond(), {
        let client = world.pool.get().await.unwrap();
        let stored: Timestamp = client
            .query_one("SELECT occurred_at FROM events", &[])
            .await
            .unwrap()
            .get(0);
        stored.as_microsecond()
    });
    let status = testkit::eventually("nothing is unpublished", PATIENCE, async || {
        let status = relay.handle.status();
        if status.unpublished_age == Duration::ZERO {
            Ok(status)
        } else {
            Err(status)
        }
    })
    .await;
    assert_eq!((status.cursor, status.unpublished), (recorded.envelope.position, 0));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_hands_out_positions_in_blocks_is_refused() {
    let world = World::new().await;
    let client = world.pool.get().await.unwrap();
    client
        .batch_execute("ALTER TABLE events ALTER COLUMN position SET CACHE 32")
        .await
        .unwrap();
    let refused = world.start().task.await.unwrap();
    assert!(
        matches!(refused, Err(Error::PositionsCached { cached: 32 })),
        "{refused:?}"
    );
}
