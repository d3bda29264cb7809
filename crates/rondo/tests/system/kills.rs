//! Verbs that change something, ended by `kill -9` at any moment and given again: the end is that of one that nobody hurt.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::Rng as _;
use serde_json::{Value, json};

use crate::dlq::{ALLOW_CAPTURES, REFUSE_CAPTURES};
use crate::duplicates::{books, until_all_is_read};
use crate::restore::shop_with_a_past;
use crate::shop::{Answer, PATIENCE, SERVICES, Shop, order_of};

/// How often a verb is killed before it may end.
const KILLS: u32 = 8;

impl Shop {
    /// Runs a verb and ends it as `kill -9` does, at some moment `within` so long, unless it has come to its end by then;
    /// whether it was killed.
    pub(crate) async fn kill_soon(&self, arguments: &[&str], within: Duration) -> bool {
        let mut verb = self
            .rondo(arguments)
            .env("USER", "ada")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moment = within.mul_f64(rand::rng().random());
        let killed = tokio::time::timeout(moment, verb.wait()).await.is_err();
        if killed {
            verb.kill().await.unwrap();
        }
        killed
    }

    /// Kills `command` again and again, each time within about as long as it takes, which `harmless` tells; then has it
    /// end.
    async fn kill_and_end(&self, harmless: &[&str], command: &[&str]) -> Answer {
        let started = Instant::now();
        let answer = self.verb(harmless).await;
        assert_eq!(answer.status, 0, "{harmless:?}: {answer:?}");
        let within = started.elapsed().mul_f64(1.2);
        let mut killed = 0;
        for _ in 0..KILLS {
            killed += u32::from(self.kill_soon(command, within).await);
        }
        assert!(killed > 0, "{command:?} was never killed within {within:?}");
        let answer = self.verb(command).await;
        assert_eq!(answer.status, 0, "{command:?}: {answer:?}");
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn campaigns_are_paused_resumed_and_cancelled_whole() {
    const ORDERS: usize = 12;
    let shop = Shop::open_with(&[("RONDO_PAYMENTS_RETRY_DATA", "never")]).await;
    shop.stock("cup", 100).await;
    shop.in_payments(REFUSE_CAPTURES).await;
    for _ in 0..ORDERS {
        shop.place(&order_of(&[("cup", 1)], "tok_visa")).await;
    }
    shop.until_dead(ORDERS).await;
    shop.in_payments(ALLOW_CAPTURES).await;
    // The first letter goes at once, the second in a hundred seconds.
    let slowly = ["redrive", "--service", "payments", "--rate", "0.01", "--detach"];
    let campaign = shop.dlq_json(&slowly).await["campaigns"][0]["id"].clone();
    let campaign = campaign.as_str().unwrap();
    let show = ["dlq", "campaigns", campaign];
    testkit::eventually("the first is through", PATIENCE, async || {
        let shown = shop.dlq_json(&show[1..]).await;
        if shown["outcomes"]["applied"] == 1 {
            Ok(())
        } else {
            Err(shown)
        }
    })
    .await;

    for (verb, state) in [("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")] {
        shop.kill_and_end(&show, &["dlq", "campaigns", verb, campaign]).await;
        let shown = shop.dlq_json(&show[1..]).await;
        let left = if verb == "cancel" { "cancelled" } else { "pending" };
        assert_eq!(shown["state"], state, "{verb}: {shown}");
        assert_eq!(shown["outcomes"], json!({ "applied": 1, left: ORDERS - 1 }), "{verb}");
    }
    // What was not sent is as dead as before, and nobody's.
    shop.until_dead(ORDERS - 1).await;
    let rest = shop.dlq_json(&["redrive", "--service", "payments"]).await;
    assert_eq!(rest["campaigns"][0]["outcomes"], json!({ "applied": ORDERS - 1 }));
    assert_eq!(shop.until_all_ended(ORDERS as i64).await["completed"], ORDERS as i64);
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_moved_and_nothing_is_done_twice() {
    let (mut shop, copies) = shop_with_a_past().await;
    let before = books(&shop).await;
    let plan: Vec<&str> =
        "offsets reset --service orders --service payments --service inventory --all-topics --to-earliest"
            .split(' ')
            .collect();
    let reset = [&plan[..], &["--execute"]].concat();
    // Under services that run, and under services that do not.
    for running in [true, false] {
        if !running {
            for copy in copies.values() {
                shop.stop(*copy).await;
            }
        }
        shop.kill_and_end(&plan, &reset).await;
        if !running {
            shop.start(&SERVICES).await;
        }
        testkit::eventually("all groups have followed", PATIENCE, async || {
            let mut marks = 0;
            for service in SERVICES {
                let marked = "SELECT count(*) FROM offsets WHERE reset_epoch IS NOT NULL";
                marks += shop.number(service, marked).await;
            }
            if marks == 0 { Ok(()) } else { Err(marks) }
        })
        .await;
        until_all_is_read(&shop).await;
        assert_eq!(books(&shop).await, before, "running: {running}");
    }
    let order = shop.place(&order_of(&[("TEA", 1)], "tok_visa")).await;
    shop.until(&order, "completed").await;
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_registered_once_each_at_the_level_that_replay_needs() {
    let mut shop = Shop::prepare(&[]).await;
    // Subjects that the registry does not have yet.
    shop.set("RONDO_NAMESPACE", &testkit::namespace());
    let plan = ["schema", "register"];
    shop.kill_and_end(&plan, &["schema", "register", "--execute"]).await;
    let again = shop.verb(&plan).await;
    assert!(again.stdout.contains("nothing to register"), "{again:?}");
    let listed = shop.verb(&["schema", "list", "--output", "json"]).await;
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    let versions: usize = listed.iter().map(|row| row["versions"].as_array().unwrap().len()).sum();
    let types = || contracts::service::SERVICES.iter().flat_map(|service| service.types);
    let expected: usize = types().map(|event_type| event_type.versions.len()).sum();
    assert_eq!((listed.len(), versions), (types().count(), expected), "{listed:?}");
    for row in &listed {
        assert_eq!(row["level"], "BACKWARD_TRANSITIVE", "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_was_left_without_its_level_gets_it_and_one_that_was_given_another_keeps_it() {
    let mut shop = Shop::prepare(&[]).await;
    let namespace = testkit::namespace();
    shop.set("RONDO_NAMESPACE", &namespace);
    let registry = common::codec::Registry::new(&shop.registry()).unwrap();
    let subject = |event: &str| format!("{namespace}.orders.events-rondo.orders.{event}");
    // As a run leaves it that ends between the two.
    let newest = |event: &str| {
        let types = contracts::service::SERVICES[0].types;
        types.iter().find(|found| found.name == event).unwrap().newest().avsc
    };
    for event in ["OrderConfirmed", "OrderCompleted"] {
        registry.register_text(&subject(event), newest(event)).await.unwrap();
    }
    registry.set_level(&subject("OrderCompleted"), "FULL").await.unwrap();
    let done = shop.verb(&["schema", "register", "--execute"]).await;
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(
        registry.level(&subject("OrderConfirmed")).await.unwrap(),
        "BACKWARD_TRANSITIVE"
    );
    assert_eq!(registry.level(&subject("OrderCompleted")).await.unwrap(), "FULL");
}
