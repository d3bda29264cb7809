//! Orders over HTTP, on a real database, in two copies, while the broker is away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod world;

use axum::http::StatusCode;
use orders::domain::{
    Answer, Authorization, Capture, Command, PaymentAnswer, PaymentUndo, Refusal, Reservation, StockAnswer, StockUndo,
};
use serde_json::json;

use world::{Copy, PATIENCE, Reply, TOKEN, World, body};

const AUTHORIZED: Answer = Answer::Payment(PaymentAnswer::Authorization(Authorization::Authorized));
const RESERVED: Answer = Answer::Stock(StockAnswer::Reservation(Reservation::Reserved));
const CAPTURED: Answer = Answer::Payment(PaymentAnswer::Capture(Capture::Captured));
const COMMITTED: Answer = Answer::Stock(StockAnswer::Committed);
const VOIDED: Answer = Answer::Payment(PaymentAnswer::Undo(PaymentUndo::Voided));
const RELEASED: Answer = Answer::Stock(StockAnswer::Undo(StockUndo::Released));

fn rejected() -> Answer {
    Answer::Stock(StockAnswer::Reservation(Reservation::Rejected(Refusal::Shortage(
        "NW-011: 12 wanted".into(),
    ))))
}

fn capture_failed() -> Answer {
    Answer::Payment(PaymentAnswer::Capture(Capture::Failed("card expired".into())))
}

async fn complete(copy: &Copy, order_id: &str) {
    for answer in [AUTHORIZED, RESERVED, CAPTURED, COMMITTED] {
        copy.note(order_id, answer).await;
    }
}

#[tokio::test]
async fn a_posted_order_is_taken_and_shown() {
    let world = World::new().await;
    let taken = world.first.place(&[]).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED, "{taken:?}");
    let order_id = taken.order_id();
    assert_eq!(taken.header("location"), Some(&*format!("/orders/{order_id}")));
    assert_eq!(taken.body["status"], "placed");
    assert_eq!(taken.body["total_minor"], 16_800);
    assert_eq!(taken.body["payment"], json!({ "status": "pending" }));

    let shown = world.second.get(&format!("/orders/{order_id}")).await;
    assert_eq!((shown.status, &shown.body), (StatusCode::OK, &taken.body));
    complete(&world.second, &order_id).await;
    let shown = world.first.get(&format!("/orders/{order_id}")).await;
    assert_eq!(shown.body["status"], "completed");
    assert_eq!(shown.body["payment"]["status"], "captured");
    assert_eq!(shown.body["stock"]["status"], "committed");
}

#[tokio::test]
async fn equal_keys_in_one_gust_on_two_copies_are_one_order() {
    let world = World::new().await;
    let key = [("idempotency-key", "k-1")];
    let gust = (0..20).map(|n| if n % 2 == 0 { &world.first } else { &world.second }.place(&key));
    let replies = futures_util::future::join_all(gust).await;
    assert!(
        replies.iter().all(|reply| reply.status == StatusCode::ACCEPTED),
        "{replies:?}"
    );
    assert!(replies.iter().all(|reply| reply.order_id() == replies[0].order_id()));
    let replayed = |reply: &&Reply| reply.headers.contains_key("idempotent-replayed");
    assert_eq!(replies.iter().filter(replayed).count(), 19);
    let events = world
        .first
        .get(&format!("/orders/{}/events", replies[0].order_id()))
        .await;
    assert_eq!(events.body["items"].as_array().map(Vec::len), Some(1));

    let mut other = body();
    other["reference"] = json!("another");
    let reused = world.first.send("POST", "/orders", &key, Some(&other)).await;
    assert_eq!(reused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reused.body["type"], "/problems/idempotency-key-reused");
    let mut other = body();
    other["customer_id"] = json!("TOMSP");
    let anothers = world.first.send("POST", "/orders", &key, Some(&other)).await;
    assert_eq!(anothers.status, StatusCode::ACCEPTED, "a key is its customer's own");
    assert_ne!(anothers.order_id(), replies[0].order_id());

    complete(&world.first, &replies[0].order_id()).await;
    let again = world.second.place(&key).await;
    assert_eq!(
        (again.order_id(), &again.body["status"]),
        (replies[0].order_id(), &json!("completed"))
    );
}

#[tokio::test]
async fn whoever_waits_is_woken_by_the_end_whichever_copy_made_it() {
    let world = World::new().await;
    for ending in [&world.first, &world.second] {
        let key = uuid::Uuid::new_v4().to_string();
        let headers = [("idempotency-key", &*key), ("prefer", "wait=60")];
        let order_id = world.first.place(&headers[..1]).await.order_id();
        let waiting = async {
            let waited = tokio::time::timeout(PATIENCE, world.first.place(&headers)).await;
            waited.expect("the end wakes it long before its time is up")
        };
        let (waited, ()) = tokio::join!(waiting, complete(ending, &order_id));
        assert_eq!(waited.status, StatusCode::OK, "{waited:?}");
        assert_eq!(waited.header("preference-applied"), Some("wait=60"));
        assert_eq!(
            (waited.order_id(), &waited.body["status"]),
            (order_id, &json!("completed"))
        );
    }
}

#[tokio::test]
async fn a_wait_that_is_over_before_the_order_ends_is_answered_202() {
    let world = World::new().await;
    let reply = world.first.place(&[("prefer", "wait=0")]).await;
    assert_eq!(
        (reply.status, reply.header("preference-applied")),
        (StatusCode::ACCEPTED, None)
    );
    assert_eq!(reply.body["status"], "placed");
}

#[tokio::test]
async fn an_order_is_shown_as_it_was() {
    let world = World::new().await;
    let order_id = world.first.place(&[]).await.order_id();
    complete(&world.first, &order_id).await;
    let events = world.first.get(&format!("/orders/{order_id}/events")).await;
    let items = events.body["items"].as_array().expect("a list").clone();
    let types: Vec<_> = items
        .iter()
        .map(|event| event["type"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        types,
        [
            "OrderPlaced",
            "PaymentNoted",
            "StockNoted",
            "OrderConfirmed",
            "PaymentNoted",
            "StockNoted",
            "OrderCompleted"
        ]
    );
    assert_eq!(items[0]["data"]["payment_method"], "tok_visa");
    assert_eq!(items[6]["version"], 7);
    assert_eq!(items[6]["correlation_id"], order_id);
    let at = |event: usize| {
        format!(
            "/orders/{order_id}?at={}",
            items[event]["occurred_at"].as_str().expect("a time")
        )
    };
    assert_eq!(world.second.get(&at(0)).await.body["status"], "placed");
    assert_eq!(world.second.get(&at(3)).await.body["status"], "confirmed");
    assert_eq!(world.second.get(&at(6)).await.body["status"], "completed");
    let before = world
        .second
        .get(&format!("/orders/{order_id}?at=2020-01-01T00:00:00Z"))
        .await;
    assert_eq!(before.status, StatusCode::NOT_FOUND);
    let nonsense = world.second.get(&format!("/orders/{order_id}?at=yesterday")).await;
    assert_eq!(nonsense.body["errors"][0]["field"], "at");
}

#[tokio::test]
async fn orders_are_listed_newest_first_in_pages_and_by_status() {
    let world = World::new().await;
    let mut placed = Vec::new();
    for _ in 0..5 {
        placed.push(world.first.place(&[]).await.order_id());
    }
    complete(&world.first, &placed[1]).await;
    world.first.note(&placed[3], rejected()).await;
    placed.reverse();
    let mut seen = Vec::new();
    let mut path = "/orders?limit=2".to_owned();
    loop {
        let page = world.second.get(&path).await;
        assert_eq!(page.status, StatusCode::OK, "{page:?}");
        let items = page.body["items"].as_array().expect("a list");
        seen.extend(
            items
                .iter()
                .map(|order| order["order_id"].as_str().expect("an id").to_owned()),
        );
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("/orders?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, placed);

    let completed = world.first.get("/orders?status=completed").await;
    assert_eq!(completed.body["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(completed.body["items"][0]["order_id"], placed[3]);
    let cancelling = world.first.get("/orders?status=cancelling").await;
    assert_eq!(cancelling.body["items"][0]["order_id"], placed[1]);
    assert_eq!(
        world.first.get("/orders?status=mislaid").await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[tokio::test]
async fn a_customer_cancels_their_own_order_and_an_operator_any() {
    let world = World::new().await;
    let order_id = world.first.place(&[]).await.order_id();
    let path = format!("/orders/{order_id}/cancel");
    let operator = [("authorization", &*format!("Bearer {TOKEN}"))];
    let (own, others) = (json!({ "customer_id": "VINET" }), json!({ "customer_id": "TOMSP" }));
    assert_eq!(
        world.first.send("POST", &path, &[], None).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        world.first.send("POST", &path, &[], Some(&others)).await.status,
        StatusCode::FORBIDDEN
    );
    let cancelled = world.first.send("POST", &path, &[], Some(&own)).await;
    assert_eq!(
        (cancelled.status, &cancelled.body["status"]),
        (StatusCode::ACCEPTED, &json!("cancelling"))
    );
    let again = world.second.send("POST", &path, &operator, None).await;
    assert_eq!(
        (again.status, &again.body["version"]),
        (StatusCode::ACCEPTED, &json!(2))
    );

    world.second.note(&order_id, VOIDED).await;
    world.second.note(&order_id, RELEASED).await;
    let ended = world.first.get(&format!("/orders/{order_id}")).await;
    assert_eq!(
        (&ended.body["status"], &ended.body["reason"]),
        (&json!("cancelled"), &json!("customer_request"))
    );

    let completed = world.first.place(&[]).await.order_id();
    complete(&world.first, &completed).await;
    let late = world
        .first
        .send("POST", &format!("/orders/{completed}/cancel"), &operator, None)
        .await;
    assert_eq!(
        (late.status, &late.body["type"]),
        (StatusCode::CONFLICT, &json!("/problems/order-completed"))
    );
    let nowhere = format!("/orders/{}/cancel", uuid::Uuid::new_v4());
    assert_eq!(
        world.first.send("POST", &nowhere, &operator, None).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn an_operator_resumes_a_stuck_order() {
    let world = World::new().await;
    let order_id = world.first.place(&[]).await.order_id();
    let path = format!("/orders/{order_id}/resume");
    let operator = [("authorization", &*format!("Bearer {TOKEN}"))];
    assert_eq!(
        world.first.send("POST", &path, &[], None).await.status,
        StatusCode::UNAUTHORIZED
    );
    let early = world.first.send("POST", &path, &operator, None).await;
    assert_eq!(
        (early.status, &early.body["order_status"]),
        (StatusCode::CONFLICT, &json!("placed"))
    );

    for answer in [AUTHORIZED, RESERVED, COMMITTED, capture_failed()] {
        world.first.note(&order_id, answer).await;
    }
    let stuck = world.first.get("/orders?status=stuck").await;
    assert_eq!(stuck.body["items"][0]["order_id"], order_id);
    assert_eq!(
        stuck.body["items"][0]["stuck_reason"],
        "the payment could not be captured: card expired"
    );
    let resumed = world
        .first
        .send("POST", &path, &operator, Some(&json!({ "operator": "ops" })))
        .await;
    assert_eq!(
        (resumed.status, &resumed.body["status"]),
        (StatusCode::ACCEPTED, &json!("confirmed"))
    );
    world.first.note(&order_id, CAPTURED).await;
    assert_eq!(
        world.first.get(&format!("/orders/{order_id}")).await.body["status"],
        "completed"
    );
}

#[tokio::test]
async fn a_deadline_cancels_what_is_not_decided() {
    let world = World::new().await;
    let placed = world.first.place(&[]).await;
    let due = placed.body["due_at"]
        .as_str()
        .expect("it has a deadline")
        .parse()
        .expect("a time");
    world.first.submit(&placed.order_id(), Command::Deadline { due }).await;
    let order = world.first.get(&format!("/orders/{}", placed.order_id())).await;
    assert_eq!(order.body["status"], "cancelling");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_and_what_is_wrong_is_named() {
    let world = World::new().await;
    for path in [
        "/orders/nonsense",
        "/orders/00000000-0000-7000-8000-000000000000/events",
    ] {
        let missing = world.first.get(path).await;
        assert_eq!(missing.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(missing.body["type"], "/problems/not-found");
    }
    let mut wrong = body();
    wrong["currency"] = json!("usd");
    wrong["lines"][0]["quantity"] = json!(0);
    let refused = world.first.send("POST", "/orders", &[], Some(&wrong)).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let fields: Vec<_> = refused.body["errors"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|error| &error["field"])
        .collect();
    assert_eq!(fields, ["currency", "lines[0].quantity"]);
}
