//! A hole in a stream's versions holds its key back until it is filled, or a person decides.

use crate::world::World;

const GAPS: &str = "stream_gaps_total";

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_hole_waits_for_it_and_then_goes_on_in_order() {
    common::telemetry::metrics();
    let world = World::new().await;
    let copy = world.start().await;
    let soup: Vec<_> = (1..=5)
        .map(|version| world.served("soup", version, version * 10))
        .collect();
    let stew = world.served("stew", 1, 7);
    world.produce(&[&soup[0], &soup[3], &soup[4], &stew]).await;
    world.has_tasted("stew", &[7]).await;
    world.caught_up().await;
    assert_eq!(world.tasted("soup").await, [10]);
    let keys = world.parked_keys().await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!(
        (keys[0].key.as_str(), keys[0].waiting, keys[0].dead),
        ("soup", 2, false)
    );
    let error = keys[0].error.as_deref().unwrap();
    assert!(error.contains("2 to 3 did not arrive"), "{error}");
    assert_eq!(world.counted(GAPS), 1);

    // The hole is filled from its far end: the order is still that of the versions.
    world.produce(&[&soup[2]]).await;
    world.caught_up().await;
    assert_eq!(world.tasted("soup").await, [10]);
    world.produce(&[&soup[1]]).await;
    world.has_tasted("soup", &[10, 20, 30, 40, 50]).await;
    testkit::eventually("the key is released", crate::world::PATIENCE, async || {
        world.parked_keys().await.is_empty()
    })
    .await;
    assert_eq!(world.counted(GAPS), 1);
    assert_eq!(world.dead_letters().await.len(), 0);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_means_nothing_here_opens_and_fills_holes_as_well() {
    let world = World::new().await;
    let copy = world.start().await;
    let (late, opener) = (world.cleared("soup", 2), world.cleared("soup", 3));
    world
        .produce(&[&world.served("soup", 1, 1), &opener, &world.served("soup", 4, 4)])
        .await;
    world.caught_up().await;
    assert_eq!(world.tasted("soup").await, [1]);
    world.produce(&[&late]).await;
    world.has_tasted("soup", &[1, 4]).await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_is_never_filled_ends_where_a_person_sees_it() {
    let world = World::new().await.retrying(4);
    let copy = world.start().await;
    let last = world.served("soup", 4, 4);
    world
        .produce(&[&world.served("soup", 1, 1), &world.served("soup", 3, 3), &last])
        .await;
    let letters = world.has_dead_letters(1).await;
    let letter = &letters[0];
    assert_eq!(
        (letter.disposition.as_str(), letter.error_class.as_str()),
        ("exhausted", "gap")
    );
    assert_eq!((letter.attempts, letter.waiting), (4, 1));
    assert!(letter.error.contains(": 2 did not arrive"), "{}", letter.error);
    assert_eq!(world.tasted("soup").await, [1]);
    let keys = world.parked_keys().await;
    assert!(keys[0].dead, "{keys:?}");
    assert_eq!(
        world
            .number("SELECT count(*) FROM parked_keys WHERE missing <> '{}'")
            .await,
        0
    );
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repetitions_in_any_order_are_no_alarm() {
    common::telemetry::metrics();
    let world = World::new().await;
    let copy = world.start().await;
    let soup: Vec<_> = (1..=4).map(|version| world.served("soup", version, version)).collect();
    world.produce(&[&soup[0], &soup[1], &soup[2]]).await;
    world.has_tasted("soup", &[1, 2, 3]).await;
    world
        .produce(&[&soup[2], &soup[0], &soup[1], &soup[0], &soup[3], &soup[1]])
        .await;
    world.caught_up().await;
    assert_eq!(world.tasted("soup").await, [1, 2, 3, 4]);
    assert_eq!(world.parked_keys().await.len(), 0);
    assert_eq!((world.counted(GAPS), world.counted("stream_repeats_total")), (0, 5));
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_restarts_or_joins_late_takes_its_first_record_for_no_alarm() {
    common::telemetry::metrics();
    let world = World::new().await;
    let copy = world.start().await;
    world
        .produce(&[&world.served("soup", 1, 1), &world.served("stew", 6, 6)])
        .await;
    world.has_tasted("stew", &[6]).await;
    copy.stop().await;
    let copy = world.start().await;
    // Version 2 went by while nobody of this claim looked; that cannot be told from here.
    world
        .produce(&[
            &world.served("soup", 3, 3),
            &world.served("stew", 7, 7),
            &world.served("soup", 4, 4),
        ])
        .await;
    world.has_tasted("stew", &[6, 7]).await;
    world.has_tasted("soup", &[1, 3, 4]).await;
    assert_eq!(world.counted(GAPS), 0);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_remembered_and_filled_across_a_restart() {
    let world = World::new().await;
    let copy = world.start().await;
    let missing = world.served("soup", 2, 2);
    world
        .produce(&[&world.served("soup", 1, 1), &world.served("soup", 3, 3)])
        .await;
    world.caught_up().await;
    copy.stop().await;
    let copy = world.start().await;
    world
        .produce(&[&world.served("soup", 4, 4), &world.served("stew", 1, 1)])
        .await;
    world.has_tasted("stew", &[1]).await;
    let attempts = "SELECT attempts::bigint FROM parked_keys";
    let before = world.number(attempts).await;
    testkit::eventually("it was tried again in vain", crate::world::PATIENCE, async || {
        world.number(attempts).await > before
    })
    .await;
    assert_eq!(world.tasted("soup").await, [1]);
    world.produce(&[&missing]).await;
    world.has_tasted("soup", &[1, 2, 3, 4]).await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_that_comes_first_after_a_restart_is_no_alarm() {
    common::telemetry::metrics();
    let world = World::new().await;
    let copy = world.start().await;
    let soup: Vec<_> = (1..=4).map(|version| world.served("soup", version, version)).collect();
    let cleared = world.cleared("stew", 1);
    world
        .produce(&[&soup[0], &soup[1], &soup[2], &cleared, &world.served("stew", 2, 2)])
        .await;
    world.has_tasted("stew", &[2]).await;
    copy.stop().await;
    let copy = world.start().await;
    world
        .produce(&[&soup[0], &soup[3], &cleared, &world.served("stew", 3, 3)])
        .await;
    world.has_tasted("soup", &[1, 2, 3, 4]).await;
    world.has_tasted("stew", &[2, 3]).await;
    assert_eq!((world.counted(GAPS), world.parked_keys().await.len()), (0, 0));
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_its_own_batch_fills_is_told_and_heals() {
    common::telemetry::metrics();
    let world = World::new().await;
    let soup: Vec<_> = (1..=5).map(|version| world.served("soup", version, version)).collect();
    let cleared = world.cleared("stew", 2);
    let stew = [world.served("stew", 1, 1), world.served("stew", 3, 3)];
    world
        .produce(&[
            &soup[0], &soup[4], &soup[2], &soup[1], &soup[3], &stew[0], &stew[1], &cleared,
        ])
        .await;
    let copy = world.start().await;
    world.has_tasted("soup", &[1, 2, 3, 4, 5]).await;
    world.has_tasted("stew", &[1, 3]).await;
    assert_eq!(world.counted(GAPS), 2);
    copy.stop().await;
}
