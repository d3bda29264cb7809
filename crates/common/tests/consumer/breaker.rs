//! A consumer whose records die in numbers pauses itself, loses nothing, and goes on when they go through again; and each
//! error class is tried again as it is set.

use std::time::Duration;

use common::breaker;
use common::parking::Strategy;

use crate::model::{MEANINGLESS, REFUSED};
use crate::world::World;

/// Records that would all die.
const BAD: i64 = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_poison_is_not_poured_into_the_dead_letters() {
    let mut world = World::new().await;
    world.settings.breaker = breaker::Settings {
        share: 0.2,
        records_min: 40,
        pause: Duration::from_millis(300),
        probes: 2,
        ..breaker::Settings::default()
    };
    let bad: Vec<_> = (0..BAD)
        .map(|n| world.served(&format!("bad-{n}"), 1, MEANINGLESS))
        .collect();
    let good: Vec<_> = (0..20).map(|n| world.served(&format!("good-{n}"), 1, n)).collect();
    world
        .produce(&good[..10].iter().chain(&bad).chain(&good[10..]).collect::<Vec<_>>())
        .await;
    let copy = world.start().await;
    let complaint = testkit::eventually("the breaker opens", crate::world::PATIENCE, async || {
        copy.running.breaker.complaint()
    })
    .await;
    assert!(complaint.contains("dead letters"), "{complaint}");
    // It opened with the record that passed the share; then single probes die, one a pause, and the pauses grow.
    let dead = world.number("SELECT count(*) FROM dead_letters").await;
    assert!((30..60).contains(&dead), "{dead} dead letters");
    assert_eq!(world.tasted("good-3").await, [3]);
    assert!(world.tasted("good-15").await.is_empty());

    // The offset stands where the records were left, so nothing is lost; a build that understands them goes on from there.
    let next = world
        .number("SELECT next_offset FROM offsets WHERE next_offset IS NOT NULL")
        .await;
    let dead = world.number("SELECT count(*) FROM dead_letters").await;
    assert!(
        next <= 10 + dead + 1 && next < BAD,
        "{next} records are dealt with, {dead} died"
    );
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_consumer_goes_on_by_itself_when_records_go_through() {
    let mut world = World::new().await;
    world.settings.breaker = breaker::Settings {
        share: 0.5,
        records_min: 5,
        pause: Duration::from_millis(200),
        probes: 2,
        ..breaker::Settings::default()
    };
    let bad: Vec<_> = (0..8).map(|n| world.served(&format!("bad-{n}"), 1, REFUSED)).collect();
    let good: Vec<_> = (0..20).map(|n| world.served(&format!("good-{n}"), 1, n)).collect();
    world.produce(&bad.iter().chain(&good).collect::<Vec<_>>()).await;
    let copy = world.start().await;
    world.has_tasted("good-19", &[19]).await;
    world.has_dead_letters(8).await;
    world.caught_up().await;
    assert_eq!(copy.running.breaker.complaint(), None);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_error_class_is_tried_again_as_it_is_set() {
    let mut world = World::new().await;
    let at_once = |attempts_max| Strategy {
        attempts_max,
        first_wait: Duration::ZERO,
        wait_max: Duration::ZERO,
    };
    // The clock is slow, so that only what wakes it is tried soon.
    world.settings.clock_interval = Duration::from_secs(3_600);
    world.settings.retry.classes = [("data".to_owned(), at_once(3)), ("rejected".to_owned(), at_once(4))].into();
    world.forbid("soup").await;
    let copy = world.start().await;
    world
        .produce(&[
            &world.served("soup", 1, 1),
            &world.served("snails", 1, REFUSED),
            &world.served("nothing", 1, MEANINGLESS),
        ])
        .await;
    let mut letters = world.has_dead_letters(3).await;
    letters.sort_by_key(|letter| letter.attempts);
    let found: Vec<_> = letters
        .iter()
        .map(|letter| {
            (
                letter.error_class.as_str(),
                letter.disposition.as_str(),
                letter.attempts,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("meaning", "poison", 1),
            ("data", "exhausted", 3),
            ("rejected", "business", 4)
        ]
    );
    copy.stop().await;
}
