//! What has arrived while a transaction was open is the next one: bounded, each event once, decided again as a whole.

use std::time::Duration;

use common::committer::BATCH_ITEMS_MAX;

use crate::model::UNHURRIED;
use crate::world::World;

/// The wait of a record that nobody waits for.
const A_MOMENT: Duration = Duration::from_millis(3);

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_is_one_transaction_within_the_bound() {
    let world = World::new().await;
    let copy = world.start().await;
    let closed = copy.model.gate.write().await;
    world.produce(&[&world.served("first", 1, 0)]).await;
    copy.at_the_gate(1).await;
    let count = BATCH_ITEMS_MAX * 2 + 300;
    let dishes: Vec<_> = (0..count)
        .map(|n| world.served(&format!("dish-{n}"), 1, n as i64))
        .collect();
    world.produce(&dishes.iter().collect::<Vec<_>>()).await;
    drop(closed);
    world.caught_up().await;
    assert_eq!(world.number("SELECT count(*) FROM tastings").await, count as i64 + 1);
    assert_eq!(
        world.number("SELECT count(DISTINCT amount) FROM tastings").await,
        count as i64
    );
    let batches = copy.batches();
    assert!(batches.iter().all(|size| *size <= BATCH_ITEMS_MAX), "{batches:?}");
    assert!(
        batches.len() < count / 10,
        "{} transactions for {count} records",
        batches.len()
    );
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_waits_a_moment_for_others_and_is_committed_without_them() {
    let world = World::new().await;
    let copy = world.start().await;
    world.produce(&[&world.served("soup", 1, 1)]).await;
    world.caught_up().await;
    world.produce(&[&world.served("soup", 2, UNHURRIED)]).await;
    world.caught_up().await;
    assert_eq!(world.tasted("soup").await, [1, UNHURRIED]);
    let waits = copy.model.waits.lock().unwrap().1.clone();
    let [wait] = waits[..] else { panic!("{waits:?}") };
    assert!(wait >= A_MOMENT, "it waited for {wait:?}");
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_one_stream_may_lead_on_together_and_wait_no_longer() {
    const PAIRS: i64 = 20;
    let world = World::new().await;
    let copy = world.start().await;
    world.produce(&[&world.served("soup", 1, 1)]).await;
    world.caught_up().await;
    for n in 0..PAIRS {
        let pair = [2 + 2 * n, 3 + 2 * n].map(|version| world.served("soup", version, UNHURRIED));
        world.produce(&[&pair[0], &pair[1]]).await;
        world.caught_up().await;
    }
    // Some pairs may have come apart on their way.
    let waits = copy.model.waits.lock().unwrap().1.clone();
    assert!(waits.iter().any(|wait| *wait < A_MOMENT), "all waited: {waits:?}");
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_batch_have_positions_in_the_order_in_which_they_were_decided() {
    const DISHES: i64 = 50;
    let world = World::new().await;
    // Their streams' names run against the order in which they are served.
    let dishes: Vec<_> = (0..DISHES)
        .map(|n| world.served(&format!("dish-{:02}", DISHES - n), 1, n))
        .collect();
    world.produce(&dishes.iter().collect::<Vec<_>>()).await;
    let copy = world.start().await;
    world.caught_up().await;
    assert!(copy.batches().iter().any(|size| *size > 1), "nothing was batched");
    let overtaken = world
        .number(
            "SELECT count(*) FROM (SELECT stream_id > lag(stream_id) OVER (ORDER BY position) AS overtaken FROM events) AS e
             WHERE overtaken",
        )
        .await;
    assert_eq!(overtaken, 0);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_twice_in_a_batch_takes_effect_once() {
    let world = World::new().await;
    let soup = world.served("soup", 1, 1);
    let stew = world.served("stew", 1, 2);
    world.produce(&[&soup, &stew, &soup, &soup, &stew]).await;
    let copy = world.start().await;
    world.caught_up().await;
    assert_eq!(
        (world.tasted("soup").await, world.tasted("stew").await),
        (vec![1], vec![2])
    );
    assert_eq!(world.number("SELECT count(*) FROM events").await, 2);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_meets_a_conflict_is_decided_again_as_a_whole() {
    let world = World::new().await;
    let copy = world.start().await;
    let dishes: Vec<_> = (0..20).map(|n| world.served(&format!("dish-{n}"), 1, n)).collect();
    world.produce(&dishes.iter().collect::<Vec<_>>()).await;
    world.caught_up().await;
    // A transaction has looked at its streams and waits; somebody else appends to one of them meanwhile.
    let closed = copy.model.gate.write().await;
    let before = copy.batches().len();
    let again: Vec<_> = (0..20)
        .map(|n| world.served(&format!("dish-{n}"), 2, 100 + n))
        .collect();
    world.produce(&again.iter().collect::<Vec<_>>()).await;
    copy.at_the_gate(before + 1).await;
    let looked = copy.batches()[before];
    let stolen = "INSERT INTO events (id, stream_id, version, type, schema_id, payload, correlation_id, causation_id, occurred_at)
                  SELECT gen_random_uuid(), stream_id, 2, type, schema_id, payload, correlation_id, causation_id, now()
                  FROM events WHERE stream_id = 'dish-0' AND version = 1";
    world.pool.get().await.unwrap().execute(stolen, &[]).await.unwrap();
    drop(closed);
    world.caught_up().await;
    for n in 0..20 {
        assert_eq!(world.tasted(&format!("dish-{n}")).await, [n, 100 + n]);
    }
    assert_eq!(
        world
            .number("SELECT max(version) FROM events WHERE stream_id = 'dish-0'")
            .await,
        3
    );
    assert_eq!(world.number("SELECT count(*) FROM events WHERE version = 2").await, 20);
    let batches = copy.batches();
    assert_eq!(batches[before + 1], looked, "decided again whole: {batches:?}");
    assert_eq!(world.parked_keys().await.len(), 0);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_stored_costs_a_few_transactions_and_not_one_for_each() {
    let world = World::new().await;
    world.forbid("dish-77").await;
    let dishes: Vec<_> = (0..256).map(|n| world.served(&format!("dish-{n}"), 1, n)).collect();
    world.produce(&dishes.iter().collect::<Vec<_>>()).await;
    let copy = world.start().await;
    world.caught_up().await;
    assert_eq!(world.number("SELECT count(*) FROM tastings").await, 255);
    let batches = copy.batches();
    assert!(batches.len() < 128, "{} transactions for 256 records", batches.len());
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_share_a_transaction_too() {
    let world = World::new().await;
    let copy = world.start().await;
    let closed = copy.model.gate.write().await;
    let first = tokio::spawn(copy.tastes("first", 0));
    copy.at_the_gate(1).await;
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..100 {
        waiting.spawn(copy.tastes(&format!("dish-{}", n % 10), n));
    }
    tokio::task::yield_now().await;
    drop(closed);
    first.await.unwrap().unwrap();
    let mut versions = Vec::new();
    while let Some(outcome) = waiting.join_next().await {
        let outcome = outcome.unwrap().unwrap();
        assert_eq!(outcome.events.len(), 1);
        versions.push(outcome.events[0].envelope.stream_version);
    }
    versions.sort_unstable();
    let expected: Vec<i64> = (1..=10).flat_map(|version| [version; 10]).collect();
    assert_eq!(versions, expected, "each command got its own event of its stream");
    assert!(copy.batches().len() < 50, "{:?}", copy.batches());
    copy.stop().await;
}
