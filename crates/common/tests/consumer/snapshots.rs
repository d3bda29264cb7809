//! Long streams are loaded from snapshots, and nobody can tell but by the clock.

use std::time::{Duration, Instant};

use common::committer::Expect;
use common::event::{Cause, StreamId};
use common::store::snapshots::SNAPSHOT_EVERY;
use uuid::Uuid;

use crate::model::Taste;
use crate::world::{Copy, World};

/// Versions of the long stream.
const LONG: i64 = 100_000;

/// Tastes once, and returns how often was tasted in all, and how long that took.
async fn taste(copy: &Copy, dish: &str) -> (i64, Duration) {
    let id = Uuid::now_v7();
    let cause = Cause {
        id,
        correlation_id: id,
        traceparent: None,
    };
    let started = Instant::now();
    let tasted = copy
        .running
        .commands
        .submit(StreamId::new(dish), Taste::new(dish, 1), cause, Expect::Any);
    let outcome = tasted.await.unwrap();
    assert_eq!(*outcome.state, outcome.version, "the state counts the events");
    (*outcome.state, started.elapsed())
}

/// The same with nothing in memory.
async fn taste_afresh(world: &World, dish: &str) -> (i64, Duration) {
    let copy = world.start().await;
    // What a first command costs besides, such as connecting, is not what is measured.
    taste(&copy, "warm-up").await;
    let tasted = taste(&copy, dish).await;
    copy.stop().await;
    tasted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_hundred_thousand_events_loads_in_milliseconds() {
    let world = World::new().await;
    let (first, _) = taste_afresh(&world, "soup").await;
    assert_eq!(first, 1);
    let client = world.pool.get().await.unwrap();
    client
        .execute(
            "INSERT INTO events (id, stream_id, version, type, schema_id, payload, correlation_id, causation_id, occurred_at)
             SELECT gen_random_uuid(), stream_id, n, type, schema_id, payload, correlation_id, causation_id, occurred_at
             FROM events, generate_series(2, $1::bigint) AS n WHERE stream_id = 'soup'",
            &[&LONG],
        )
        .await
        .unwrap();
    // They are as good as published: this is not about the relay.
    client
        .batch_execute("UPDATE relay SET cursor = (SELECT max(position) FROM events); ANALYZE events")
        .await
        .unwrap();

    let (count, whole) = taste_afresh(&world, "soup").await;
    assert_eq!(count, LONG + 1);
    let kept = "SELECT version FROM snapshots WHERE stream_id = 'soup'";
    assert_eq!(world.number(kept).await, LONG + 1, "so long a load is not done twice");
    // The best of some: another process may have the machine at any one of them.
    let mut short = Duration::MAX;
    let mut tasted = LONG + 1;
    for _ in 0..5 {
        let (count, took) = taste_afresh(&world, "soup").await;
        tasted += 1;
        assert_eq!(count, tasted);
        short = short.min(took);
    }
    assert!(short * 5 < whole, "{short:?} against {whole:?}");

    // What other code folded is ignored, whatever it says, and overwritten.
    client
        .execute(
            "UPDATE snapshots SET fold = fold + 1, state = '\\x0700000000000000'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(taste_afresh(&world, "soup").await.0, tasted + 1);
    assert_eq!(world.number(kept).await, tasted + 1);
    // One that cannot be read is passed over.
    client
        .execute("UPDATE snapshots SET state = 'not eight bytes'", &[])
        .await
        .unwrap();
    assert_eq!(taste_afresh(&world, "soup").await.0, tasted + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_grows_gets_a_snapshot_now_and_then_which_says_what_its_events_say() {
    let world = World::new().await;
    let mut tasted = 0;
    for burst in [499, 1, 1, 730, 20, 249] {
        let copy = world.start().await;
        let all = (0..burst).map(|_| taste(&copy, "stew"));
        futures_util::future::join_all(all).await;
        tasted += burst;
        let kept = world.number("SELECT coalesce(max(version), 0) FROM snapshots").await;
        assert_eq!(tasted >= SNAPSHOT_EVERY, kept > 0, "{tasted} versions, kept at {kept}");
        assert!(tasted - kept < SNAPSHOT_EVERY, "{tasted} versions, kept at {kept}");
        let client = world.pool.get().await.unwrap();
        for row in client.query("SELECT version, state FROM snapshots", &[]).await.unwrap() {
            let (version, state): (i64, Vec<u8>) = (row.get(0), row.get(1));
            assert_eq!(state, version.to_le_bytes(), "the taster's state counts its events");
        }
        drop(client);
        copy.stop().await;
    }
    assert_eq!(taste_afresh(&world, "stew").await.0, tasted + 1);
}
