//! What the database's failures look like when a real server makes them, and who may live in a database.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use common::migrate;
use common::pg::{self, Failure};
use tokio::sync::mpsc;

const TABLE: &str = "CREATE TABLE parcels (id int PRIMARY KEY, weight int CONSTRAINT has_weight CHECK (weight > 0));
                     INSERT INTO parcels VALUES (1, 1), (2, 1);";

async fn database() -> testkit::Database {
    testkit::database(async |client| client.batch_execute(TABLE).await.expect("the table is made")).await
}

#[tokio::test]
async fn a_database_has_one_owner() {
    let database = database().await;
    let client = pg::single(database.url()).await.unwrap();
    migrate::refuse_another(&client, "billing").await.unwrap();
    migrate::claim(&client, "shipping").await.unwrap();
    migrate::claim(&client, "shipping").await.unwrap();
    migrate::refuse_another(&client, "shipping").await.unwrap();
    for refused in [
        migrate::claim(&client, "billing").await,
        migrate::refuse_another(&client, "billing").await,
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("belongs to shipping") && refused.contains("BILLING_DATABASE_URL"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn each_failure_of_a_server_is_told_apart() {
    let database = database().await;
    let client = pg::single(database.url()).await.unwrap();
    client.batch_execute("SET statement_timeout = '100ms'").await.unwrap();
    for (statement, contended, expected) in [
        (
            "INSERT INTO parcels VALUES (1, 1)",
            &["parcels_pkey"][..],
            Failure::Conflict,
        ),
        ("INSERT INTO parcels VALUES (1, 1)", &[], Failure::Data),
        ("INSERT INTO parcels VALUES (3, 0)", &["parcels_pkey"], Failure::Data),
        ("INSERT INTO parcels VALUES (4, 5000000000)", &[], Failure::Data),
        ("SELECT 1 / 0", &[], Failure::Data),
        ("SELECT * FROM nowhere", &[], Failure::Other),
        ("SELECT pg_sleep(30)", &[], Failure::Conflict),
    ] {
        let error = client.batch_execute(statement).await.expect_err(statement);
        assert_eq!(pg::failure(&error, contended), expected, "{statement}: {error:?}");
    }
}

#[tokio::test]
async fn a_statement_for_batches_is_planned_once_for_all_values() {
    let database = database().await;
    let plans = async |pool: Result<deadpool_postgres::Pool, pg::Error>| {
        let client = pool.unwrap().get().await.unwrap();
        for _ in 0..3 {
            let statement = client
                .prepare_cached("SELECT weight FROM parcels WHERE id = ANY($1)")
                .await;
            client.query(&statement.unwrap(), &[&vec![1, 2]]).await.unwrap();
        }
        let counts = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%ANY($1)'";
        let row = client.query_one(counts, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    assert_eq!(plans(pg::planned_once(database.url(), 1)).await, (3, 0));
    assert_eq!(plans(pg::pool(database.url(), 1)).await, (0, 3));
}

#[tokio::test]
async fn a_statement_for_batches_keeps_to_its_keys_when_it_is_planned_on_empty_tables() {
    let database = database().await;
    let plan = async |pool: Result<deadpool_postgres::Pool, pg::Error>, statement: &str| {
        let client = pool.unwrap().get().await.unwrap();
        let prepare = format!("PREPARE batch (int[]) AS {statement}");
        client.batch_execute(&prepare).await.unwrap();
        let lines = client.query("EXPLAIN EXECUTE batch ('{1,2}')", &[]).await.unwrap();
        lines.iter().map(|line| line.get(0)).collect::<Vec<String>>().join("\n")
    };
    for statement in [
        "SELECT weight FROM parcels WHERE id = ANY($1)",
        "UPDATE parcels SET weight = 2 FROM unnest($1) AS moved (id) WHERE parcels.id = moved.id",
    ] {
        let keyed = plan(pg::planned_once(database.url(), 1), statement).await;
        assert!(
            keyed.contains("parcels_pkey") && !keyed.contains("Seq Scan"),
            "{statement}: {keyed}"
        );
        assert!(!keyed.contains("JIT"), "{statement}: {keyed}");
    }
}

#[tokio::test]
async fn the_loser_of_a_deadlock_has_a_conflict() {
    let database = database().await;
    let (first, second) = (database.client().await, database.client().await);
    let update = |id: u8| format!("UPDATE parcels SET weight = weight + 1 WHERE id = {id}");
    first.batch_execute("BEGIN").await.unwrap();
    second.batch_execute("BEGIN").await.unwrap();
    first.batch_execute(&update(1)).await.unwrap();
    second.batch_execute(&update(2)).await.unwrap();
    let (two, one) = (update(2), update(1));
    let (left, right) = tokio::join!(first.batch_execute(&two), async {
        let outcome = second.batch_execute(&one).await;
        // Lets the other go on if it is the one that waits.
        second.batch_execute("ROLLBACK").await.unwrap();
        outcome
    });
    let error = left.err().or(right.err()).expect("one of the two loses");
    assert_eq!(pg::failure(&error, &[]), Failure::Conflict);
}

#[tokio::test]
async fn a_session_that_is_ended_is_a_lost_connection_and_the_pool_makes_another() {
    let database = database().await;
    let pool = pg::connect(database.url(), 1).await.unwrap();
    let client = pool.get().await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    database
        .client()
        .await
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .await
        .unwrap();
    let error = client
        .query("SELECT pg_sleep(10)", &[])
        .await
        .expect_err("the session was ended");
    assert_eq!(pg::failure(&error, &[]), Failure::Connection, "{error:?}");
    drop(client);
    // The pool hands the session out again until its end has been noticed.
    testkit::eventually("another session", Duration::from_secs(30), async || {
        let again = pool.get().await.map_err(|error| error.to_string())?;
        let one = again.query_one("SELECT 1", &[]).await;
        one.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test]
async fn notifications_arrive_until_the_client_is_dropped() {
    let database = database().await;
    let (sender, mut received) = mpsc::unbounded_channel();
    let listening = pg::listening(database.url(), move |channel, payload| {
        let _ = sender.send(format!("{channel} {payload}"));
    });
    let (client, task) = listening.await.unwrap();
    client.batch_execute("LISTEN arrivals").await.unwrap();
    database
        .client()
        .await
        .batch_execute("NOTIFY arrivals, 'seven'")
        .await
        .unwrap();
    let first = tokio::time::timeout(Duration::from_secs(10), received.recv())
        .await
        .unwrap();
    assert_eq!(first.as_deref(), Some("arrivals seven"));
    drop(client);
    tokio::time::timeout(Duration::from_secs(10), task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(received.recv().await, None);
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_said_to_be_the_trouble() {
    let database = database().await;
    let (server, _) = database.url().rsplit_once('/').expect("a URL with a path");
    let error = pg::connect(&format!("{server}/no_such_database"), 1)
        .await
        .expect_err("there is none");
    assert!(error.to_string().contains("no such database"), "{error}");
}
