//! What people decide about dead letters: redriven at the head of their key, with nothing overtaking; skipped or discarded,
//! so that the key goes on; held up, ended, and stopped by the loop guard.

use common::campaigns::{self, Campaign, Control, Kind, Plan};
use common::codec;
use common::parking::{Chosen, DeadLetter, Filter, dead_letters};
use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};
use serde_json::json;

use crate::model::{MEANINGLESS, REFUSED};
use crate::world::{PATIENCE, World};

fn plan(kind: Kind) -> Plan {
    Plan {
        kind,
        operator: "ada".to_owned(),
        reason: Some("mended".to_owned()),
        filter: json!({}),
        transform: None,
        rate: 1_000.0,
        returns_max: 3,
    }
}

fn as_they_are(letters: &[DeadLetter]) -> Vec<Chosen> {
    let chosen = letters.iter().map(|letter| Chosen {
        dead_letter: letter.id,
        value: None,
    });
    chosen.collect()
}

impl World {
    async fn decide(&self, plan: &Plan, chosen: &[Chosen]) -> Option<campaigns::Created> {
        let mut client = self.pool.get().await.unwrap();
        let tx = client.transaction().await.unwrap();
        let created = campaigns::create(&tx, "taster", plan, chosen).await.unwrap();
        tx.commit().await.unwrap();
        created
    }

    async fn campaign(&self, id: i64) -> Campaign {
        let client = self.pool.get().await.unwrap();
        campaigns::list(&client, Some(id), 1).await.unwrap().remove(0)
    }

    /// Waits until a campaign is in this state and rests.
    async fn rests(&self, id: i64, state: &str) -> Campaign {
        testkit::eventually(&format!("the campaign is {state}"), PATIENCE, async || {
            let campaign = self.campaign(id).await;
            if campaign.state == state && campaign.rests() {
                Ok(campaign)
            } else {
                Err(campaign)
            }
        })
        .await
    }

    async fn control(&self, id: i64, control: Control) {
        let mut client = self.pool.get().await.unwrap();
        let tx = client.transaction().await.unwrap();
        campaigns::control(&tx, id, control).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }

    async fn history(&self, letter: i64) -> Vec<String> {
        let client = self.pool.get().await.unwrap();
        let history = campaigns::history(&client, letter, 100).await.unwrap();
        history.into_iter().map(|step| step.what).collect()
    }

    /// Waits for so many records in the dead-letter topic.
    async fn has_copies(&self, count: usize) -> Vec<OwnedMessage> {
        let topic = format!("{}.taster.dlq", self.topic);
        testkit::eventually("each death has a copy", PATIENCE, async || {
            let copies = testkit::kafka::read_all(&topic).await;
            if copies.len() == count {
                Ok(copies)
            } else {
                Err(copies.len())
            }
        })
        .await
    }

    async fn found(&self, filter: Filter) -> Vec<i64> {
        let client = self.pool.get().await.unwrap();
        let letters = dead_letters(&client, &filter, i64::MAX, 100).await.unwrap();
        letters.into_iter().map(|letter| letter.id).rev().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_the_middle_of_a_busy_key_is_mended_and_taken_in_its_place() {
    let world = World::new().await;
    let copy = world.start().await;
    let soup: Vec<_> = [1, 2, MEANINGLESS, 4, 5]
        .iter()
        .zip(1..)
        .map(|(amount, version)| world.served("soup", version, *amount))
        .collect();
    world.produce(&soup.iter().collect::<Vec<_>>()).await;
    let letters = world.has_dead_letters(1).await;
    world.caught_up().await;
    world.has_tasted("soup", &[1, 2]).await;

    let said = world
        .kitchen
        .to_json(letters[0].record.value.as_deref().unwrap())
        .await
        .unwrap();
    let (id, _) = codec::split(letters[0].record.value.as_deref().unwrap()).unwrap();
    let schema = world.kitchen.schema(id).await.unwrap();
    let mut mended = said.clone();
    mended["amount"] = json!(3);
    let value = codec::from_json(id, &schema, &mended).unwrap();
    let chosen = Chosen {
        dead_letter: letters[0].id,
        value: Some(value.clone()),
    };
    let created = world.decide(&plan(Kind::Redrive), &[chosen]).await.unwrap();
    let campaign = world.rests(created.id, "done").await;
    assert_eq!((campaign.count("applied"), campaign.records()), (1, 1));
    world.has_tasted("soup", &[1, 2, 3, 4, 5]).await;

    // The original is kept byte for byte, and what was made of it beside it.
    let letter = world.dead_letters().await.remove(0);
    assert_eq!(
        (letter.status.as_str(), &letter.record.value),
        ("redriven", &letters[0].record.value)
    );
    let client = world.pool.get().await.unwrap();
    let beside = campaigns::recorded(&client, letter.id).await.unwrap();
    assert_eq!(beside, Some((created.id, value)));
    drop(client);
    assert_eq!(world.history(letter.id).await, ["died", "sent", "applied"]);
    assert_eq!(world.number("SELECT count(*) FROM inbox WHERE outcome <> 0").await, 0);
    assert!(world.parked_keys().await.is_empty());
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_keeps_coming_back_stops_its_campaign_and_its_copy_is_told_anew() {
    let world = World::new().await.retrying(1);
    world.forbid("soup").await;
    let copy = world.start().await;
    let soup = world.served("soup", 1, 1);
    world.produce(&[&soup, &world.served("soup", 2, 2)]).await;
    let letters = world.has_dead_letters(1).await;
    assert_eq!(letters[0].attempts, 1, "one attempt is one attempt");
    let mut redrive = plan(Kind::Redrive);
    redrive.returns_max = 2;

    world.has_copies(1).await;
    let first = world.decide(&redrive, &as_they_are(&letters)).await.unwrap();
    let campaign = world.rests(first.id, "done").await;
    assert_eq!(campaign.count("died_again"), 1);
    let letter = world.dead_letters().await.remove(0);
    assert_eq!(
        (letter.status.as_str(), letter.redrives, letter.returns),
        ("dead", 1, 1)
    );
    assert_eq!(letter.waiting, 1);

    world.has_copies(2).await;
    let second = world.decide(&redrive, &as_they_are(&letters)).await.unwrap();
    let campaign = world.rests(second.id, "stopped").await;
    assert!(
        campaign.why.as_deref().unwrap().contains("came back 2 times"),
        "{campaign:?}"
    );
    assert_eq!(world.history(letter.id).await, ["died", "sent", "died", "sent", "died"]);

    let copies = world.has_copies(3).await;
    for (copy, returns) in copies.iter().zip([None, Some("1"), Some("2")]) {
        assert_eq!(copy.payload(), Some(&*soup.value));
        let headers: Vec<(&str, &[u8])> = copy
            .headers()
            .unwrap()
            .iter()
            .map(|header| (header.key, header.value.unwrap_or_default()))
            .collect();
        let value = |name: &str| {
            let mut found = headers.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value);
            let value = found.next();
            assert!(found.next().is_none(), "{name} is there twice");
            value
        };
        assert_eq!(value("rondo-dlt-returns"), returns.map(str::as_bytes));
        assert_eq!(value("rondo-redrive-count"), returns.map(str::as_bytes));
        assert!(value("kafka_dlt-exception-message").is_some());
    }

    // It is not lost to a later campaign, once the cause is mended.
    world.allow("soup").await;
    let third = world.decide(&redrive, &as_they_are(&letters)).await.unwrap();
    assert_eq!(world.rests(third.id, "done").await.count("applied"), 1);
    world.has_tasted("soup", &[1, 2]).await;
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_record_has_its_own_bytes_and_says_where_it_came_from() {
    let world = World::new().await;
    let copy = world.start().await;
    let snails = world.served("snails", 1, REFUSED);
    let places = world.produce(&[&snails]).await;
    let letters = world.has_dead_letters(1).await;
    copy.stop().await;
    let mut redrive = plan(Kind::Redrive);
    redrive.rate = 0.01;
    let created = world.decide(&redrive, &as_they_are(&letters)).await.unwrap();
    // A letter is in one open campaign at a time.
    assert_eq!(world.decide(&redrive, &as_they_are(&letters)).await, None);

    let copy = world.start().await;
    world.rests(created.id, "done").await;
    let client = world.pool.get().await.unwrap();
    let row = client
        .query_one("SELECT value, header_names, header_values FROM parked", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, Vec<u8>>("value"), snails.value);
    let names: Vec<String> = row.get("header_names");
    let values: Vec<Vec<u8>> = row.get("header_values");
    let value = |name: &str| {
        let place = names.iter().position(|known| known == name).unwrap();
        String::from_utf8(values[place].clone()).unwrap()
    };
    assert_eq!(value("ce_id"), snails.id.to_string());
    assert_eq!(value("rondo-redrive-campaign"), format!("taster/{}", created.id));
    assert_eq!(value("rondo-redrive-count"), "1");
    assert_eq!(value("rondo-redrive-operator"), "ada");
    assert_eq!(value("rondo-original-topic"), world.topic);
    assert_eq!(value("rondo-original-offset"), places[0].1.to_string());
    drop(client);
    // The shared topic has nothing new.
    assert_eq!(testkit::kafka::read_all(&world.topic).await.len(), 1);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_is_paused_resumed_and_cancelled() {
    let world = World::new().await.retrying(1);
    let dishes: Vec<String> = (0..6).map(|n| format!("dish-{n}")).collect();
    for dish in &dishes {
        world.forbid(dish).await;
    }
    let records: Vec<_> = dishes.iter().map(|dish| world.served(dish, 1, 1)).collect();
    let copy = world.start().await;
    world.produce(&records.iter().collect::<Vec<_>>()).await;
    let letters = world.has_dead_letters(6).await;
    for dish in &dishes {
        world.allow(dish).await;
    }
    let mut slowly = plan(Kind::Redrive);
    slowly.rate = 0.05;
    let created = world.decide(&slowly, &as_they_are(&letters)).await.unwrap();
    testkit::eventually("the first has gone", PATIENCE, async || {
        let campaign = world.campaign(created.id).await;
        if campaign.count("applied") == 1 {
            Ok(())
        } else {
            Err(campaign)
        }
    })
    .await;
    world.control(created.id, Control::Pause).await;
    assert!(world.campaign(created.id).await.rests());
    world.control(created.id, Control::Resume).await;
    assert_eq!(world.campaign(created.id).await.state, "running");
    world.control(created.id, Control::Cancel).await;
    let campaign = world.rests(created.id, "cancelled").await;
    assert_eq!((campaign.count("applied"), campaign.count("cancelled")), (1, 5));
    // It has ended for good.
    world.control(created.id, Control::Resume).await;
    assert_eq!(world.campaign(created.id).await.state, "cancelled");

    // What was not sent is as dead as before, and goes with another campaign.
    let again = world
        .decide(&plan(Kind::Redrive), &as_they_are(&letters))
        .await
        .unwrap();
    assert_eq!(again.records, 5);
    assert_eq!(world.rests(again.id, "done").await.count("applied"), 5);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_releases_its_key_and_is_told_apart() {
    let world = World::new().await;
    let copy = world.start().await;
    let nobodys = world.served("nobody", 1, 1).without_envelope();
    let records = [
        world.served("snails", 1, REFUSED),
        world.served("snails", 2, 2),
        world.served("frogs", 1, REFUSED),
        world.served("frogs", 2, 2),
        nobodys,
    ];
    world.produce(&records.iter().collect::<Vec<_>>()).await;
    let letters = world.has_dead_letters(3).await;
    world.caught_up().await;
    let of = |key: Option<&str>| {
        let found = letters.iter().find(|letter| letter.key.as_deref() == key).unwrap();
        as_they_are(std::slice::from_ref(found))
    };
    let skipped = world.decide(&plan(Kind::Skip), &of(Some("snails"))).await.unwrap();
    let discarded = world
        .decide(&plan(Kind::Discard), &[of(Some("frogs")), of(None)].concat())
        .await
        .unwrap();
    // One without an envelope cannot go back to its consumer as it is.
    world.rests(skipped.id, "done").await;
    assert_eq!(world.rests(discarded.id, "done").await.count("discarded"), 2);
    world.has_tasted("snails", &[2]).await;
    world.has_tasted("frogs", &[2]).await;
    let outcome = async |id: uuid::Uuid| {
        world
            .number(&format!("SELECT outcome::bigint FROM inbox WHERE event_id = '{id}'"))
            .await
    };
    assert_eq!((outcome(records[0].id).await, outcome(records[2].id).await), (0, 3));
    let statuses: Vec<String> = world
        .dead_letters()
        .await
        .into_iter()
        .map(|letter| letter.status)
        .collect();
    assert_eq!(statuses, ["skipped", "discarded", "discarded"]);
    // Redelivered, neither takes effect.
    world.produce(&[&records[0], &records[2]]).await;
    world.caught_up().await;
    assert_eq!(world.tasted("snails").await, [2]);
    assert_eq!(world.tasted("frogs").await, [2]);
    // And none can be redriven any more.
    assert_eq!(world.decide(&plan(Kind::Redrive), &as_they_are(&letters)).await, None);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_chooses_what_it_says() {
    let world = World::new().await;
    let copy = world.start().await;
    let records = [
        world.served("snails", 1, REFUSED),
        world.served("nothing", 1, MEANINGLESS),
        world.served("nobody", 1, 1).without_envelope(),
    ];
    world.produce(&records.iter().collect::<Vec<_>>()).await;
    let letters = world.has_dead_letters(3).await;
    let [snails, nothing, nobody] = [letters[0].id, letters[1].id, letters[2].id];
    let text = |text: &str| Some(text.to_owned());
    let filter = Filter::default;
    let cases = [
        (
            Filter {
                ids: Some(vec![nothing]),
                ..filter()
            },
            vec![nothing],
        ),
        (
            Filter {
                topic: text(&world.topic),
                ..filter()
            },
            vec![snails, nothing, nobody],
        ),
        (
            Filter {
                topic: text("kitchen.events"),
                ..filter()
            },
            vec![snails, nothing, nobody],
        ),
        (
            Filter {
                topic: text("events"),
                key: text("snails"),
                ..filter()
            },
            vec![snails],
        ),
        (
            Filter {
                topic: text("other.events"),
                ..filter()
            },
            vec![],
        ),
        (
            Filter {
                consumer: text("taster"),
                ..filter()
            },
            vec![snails, nothing, nobody],
        ),
        (
            Filter {
                consumer: text("cook"),
                ..filter()
            },
            vec![],
        ),
        (
            Filter {
                key: text("snails"),
                ..filter()
            },
            vec![snails],
        ),
        (
            Filter {
                event_type: text("Served"),
                ..filter()
            },
            vec![snails, nothing],
        ),
        (
            Filter {
                failure: text("poison"),
                ..filter()
            },
            vec![nothing, nobody],
        ),
        (
            Filter {
                failure: text("meaning"),
                ..filter()
            },
            vec![nothing],
        ),
        (
            Filter {
                failure: text("business:rejected"),
                ..filter()
            },
            vec![snails],
        ),
        (
            Filter {
                failure: text("NO APPETITE"),
                ..filter()
            },
            vec![snails],
        ),
        (
            Filter {
                since: Some(letters[1].dead_at),
                until: Some(jiff::Timestamp::MAX),
                key: text("nothing"),
                ..filter()
            },
            vec![nothing],
        ),
        (
            Filter {
                until: Some(letters[0].dead_at),
                ..filter()
            },
            vec![],
        ),
        (
            Filter {
                headers: vec![("ce_id".to_owned(), records[0].id.to_string())],
                ..filter()
            },
            vec![snails],
        ),
        (
            Filter {
                headers: vec![
                    ("ce_type".to_owned(), "Served".to_owned()),
                    ("ce_subject".to_owned(), "nothing".to_owned()),
                ],
                ..filter()
            },
            vec![nothing],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(world.found(filter.clone()).await, expected, "{filter:?}");
    }
    let discarded = world
        .decide(&plan(Kind::Discard), &as_they_are(&letters[..1]))
        .await
        .unwrap();
    world.rests(discarded.id, "done").await;
    let undecided = Filter {
        undecided: true,
        ..filter()
    };
    assert_eq!(world.found(undecided).await, [nothing, nobody]);
    copy.stop().await;
}
