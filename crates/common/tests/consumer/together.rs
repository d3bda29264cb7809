//! Records and commands share a transaction, and neither pays for the other's trouble.

use std::time::{Duration, Instant};

use common::breaker;
use common::committer::{SubmitError, TOGETHER_RECORDS_MAX};
use tokio::task::JoinSet;

use crate::model::{REFUSED, Refusal};
use crate::world::{Copy, PATIENCE, Tastes, World};

/// Commands that wait in a round, and the records beside them: more than all commands.
const COMMANDS: usize = 10;
const RECORDS: usize = 12;
/// How long records take to arrive behind their acknowledgement, nearly always.
const ARRIVAL: Duration = Duration::from_millis(100);

/// Has commands of these amounts and so many records wait behind one transaction, until one took more than `more_than` of them
/// at once: some records may be slow on their way. What became of the commands is returned.
async fn together(
    world: &World,
    copy: &Copy,
    amount: impl Fn(usize) -> i64,
    records: usize,
    more_than: usize,
) -> Vec<Tastes> {
    let (begun, mut outcomes) = (Instant::now(), Vec::new());
    for round in 0.. {
        let closed = copy.model.gate.write().await;
        let before = copy.batches().len();
        let mut waiting = JoinSet::new();
        waiting.spawn(copy.tastes(&format!("first-{round}"), 0));
        copy.at_the_gate(before + 1).await;
        for n in 0..COMMANDS {
            waiting.spawn(copy.tastes(&format!("asked-{round}-{n}"), amount(n)));
        }
        let records: Vec<_> = (0..records)
            .map(|n| world.served(&format!("dish-{round}-{n}"), 1, n as i64))
            .collect();
        world.produce(&records.iter().collect::<Vec<_>>()).await;
        tokio::time::sleep(ARRIVAL).await;
        drop(closed);
        outcomes.extend(waiting.join_all().await);
        world.caught_up().await;
        if copy.batches()[before..].iter().any(|size| *size > more_than) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "never so many: {:?}", copy.batches());
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_and_what_arrived_is_one_transaction() {
    let world = World::new().await;
    let copy = world.start().await;
    let outcomes = together(&world, &copy, |n| n as i64, RECORDS, RECORDS).await;
    for outcome in outcomes {
        let outcome = outcome.expect("nothing is refused");
        assert_eq!((outcome.version, outcome.events.len()), (1, 1));
    }
    assert_eq!(world.tasted("dish-0-7").await, [7]);
    assert_eq!(world.tasted("asked-0-7").await, [7]);
    assert_eq!(world.parked_keys().await.len(), 0);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_refused_costs_the_records_beside_it_nothing() {
    let world = World::new().await;
    let copy = world.start().await;
    let outcomes = together(&world, &copy, |n| if n == 3 { REFUSED } else { 1 }, RECORDS, RECORDS).await;
    let refused = |outcome: &&Tastes| matches!(outcome, Err(SubmitError::Rejected(Refusal)));
    assert_eq!(outcomes.iter().filter(refused).count() * (COMMANDS + 1), outcomes.len());
    let taken = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(taken * (COMMANDS + 1), outcomes.len() * COMMANDS);
    assert_eq!(world.tasted("dish-0-7").await, [7]);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_stored_costs_the_commands_beside_it_nothing() {
    let world = World::new().await;
    let copy = world.start().await;
    for round in 0..20 {
        world.forbid(&format!("dish-{round}-7")).await;
    }
    let outcomes = together(&world, &copy, |n| n as i64, RECORDS, RECORDS).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(world.tasted("asked-0-7").await, [7]);
    assert_eq!(world.tasted("dish-0-6").await, [6]);
    assert!(world.tasted("dish-0-7").await.is_empty());
    let parked = world.parked_keys().await;
    assert!(parked.iter().all(|parked| parked.key.ends_with("-7")), "{parked:?}");
    world.allow("dish-0-7").await;
    world.has_tasted("dish-0-7", &[7]).await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_stored_costs_the_records_beside_it_nothing() {
    let world = World::new().await;
    let copy = world.start().await;
    for round in 0..20 {
        world.forbid(&format!("asked-{round}-3")).await;
    }
    let outcomes = together(&world, &copy, |n| n as i64, RECORDS, RECORDS).await;
    let told =
        |outcome: &&Tastes| matches!(outcome, Err(SubmitError::Unavailable(why)) if why.contains("nobody may taste"));
    assert_eq!(
        outcomes.iter().filter(told).count() * (COMMANDS + 1),
        outcomes.len(),
        "{outcomes:?}"
    );
    assert_eq!(world.tasted("asked-0-4").await, [4]);
    for n in 0..RECORDS {
        assert_eq!(world.tasted(&format!("dish-0-{n}")).await, [n as i64]);
    }
    assert_eq!(world.parked_keys().await.len(), 0);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_records_keeps_no_command_waiting() {
    let world = World::new().await;
    let copy = world.start().await;
    let backlog = TOGETHER_RECORDS_MAX * 3;
    let outcomes = together(&world, &copy, |n| n as i64, backlog, TOGETHER_RECORDS_MAX).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    // What is of one transaction is of one time.
    let transactions = "SELECT max(waits) FROM (
        SELECT count(*) FILTER (WHERE stream_id LIKE 'dish-%') AS waits FROM events
        GROUP BY occurred_at HAVING bool_or(stream_id LIKE 'asked-%')) AS transactions";
    assert!(world.number(transactions).await <= TOGETHER_RECORDS_MAX as i64);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_on_while_a_transaction_of_records_does_not() {
    let world = World::new().await;
    let copy = world.start().await;
    world.produce(&[&world.served("soup", 1, 1)]).await;
    world.caught_up().await;
    // The offset's row is somebody else's for a while.
    let mut client = world.pool.get().await.unwrap();
    let theirs = client.transaction().await.unwrap();
    theirs.execute("SELECT FROM offsets FOR UPDATE", &[]).await.unwrap();
    world.produce(&[&world.served("soup", 2, 2)]).await;
    tokio::time::sleep(ARRIVAL).await;
    let taken = tokio::time::timeout(PATIENCE, copy.tastes("asked", 1)).await;
    assert!(taken.expect("it waits for no record").is_ok());
    assert_eq!(world.tasted("soup").await, [1]);
    theirs.rollback().await.unwrap();
    world.has_tasted("soup", &[1, 2]).await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_on_while_the_consumer_is_paused() {
    let mut world = World::new().await;
    world.settings.breaker = breaker::Settings {
        share: 0.5,
        records_min: 5,
        pause: PATIENCE * 10,
        ..breaker::Settings::default()
    };
    let bad: Vec<_> = (0..8).map(|n| world.served(&format!("bad-{n}"), 1, REFUSED)).collect();
    world.produce(&bad.iter().collect::<Vec<_>>()).await;
    let copy = world.start().await;
    testkit::eventually("the breaker opens", PATIENCE, async || copy.running.breaker.complaint()).await;
    for n in 0..3 {
        let taken = tokio::time::timeout(PATIENCE, copy.tastes("asked", n)).await;
        assert!(taken.expect("it waits for no record").is_ok());
    }
    assert_eq!(world.tasted("asked").await, [0, 1, 2]);
    copy.stop().await;
}
