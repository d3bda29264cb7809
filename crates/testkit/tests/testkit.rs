//! The tests' tools do what tests will take for granted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rdkafka::message::{Headers, Message};
use std::path::PathBuf;
use std::time::Duration;
use testkit::kafka::{self, Raw};
use testkit::{Database, database, eventually, namespace};

const PATIENCE: Duration = Duration::from_secs(30);

/// Set for the copy of this test binary that starts servers and is killed.
const DIE: &str = "TESTKIT_TEST_DIE";

async fn numbers() -> Database {
    database(async |client| client.batch_execute("CREATE TABLE numbers (n int)").await.unwrap()).await
}

#[tokio::test]
async fn databases_of_two_tests_do_not_meet_and_go_when_dropped() {
    let (one, two) = tokio::join!(numbers(), numbers());
    one.client()
        .await
        .execute("INSERT INTO numbers VALUES (1)", &[])
        .await
        .unwrap();
    let pool = two.pool(2);
    let rows = pool
        .get()
        .await
        .unwrap()
        .query("SELECT n FROM numbers", &[])
        .await
        .unwrap();
    assert!(rows.is_empty());

    let still_there = one.client().await;
    let gone = two.url().rsplit('/').next().unwrap().to_owned();
    drop(two);
    let found = still_there
        .query("SELECT FROM pg_database WHERE datname = $1", &[&gone])
        .await
        .unwrap();
    assert!(found.is_empty());
}

#[tokio::test]
async fn records_are_read_back_as_they_were_produced() {
    let topic = format!("{}.things", namespace());
    kafka::create_topics(&[&topic], 4).await;
    kafka::create_topics(&[&topic], 4).await;
    assert!(kafka::read_all(&topic).await.is_empty());

    let headers: &[(&str, &[u8])] = &[("a", b"1"), ("a", b"\x00\xff")];
    let places = kafka::produce(
        &topic,
        &[
            Raw {
                partition: Some(2),
                key: Some(b"key"),
                value: Some(b"value"),
                headers,
            },
            Raw {
                partition: Some(2),
                key: Some(b"key"),
                ..Raw::default()
            },
            Raw {
                partition: Some(0),
                value: Some(b"\x00"),
                ..Raw::default()
            },
        ],
    )
    .await;
    assert_eq!(places, [(2, 0), (2, 1), (0, 0)]);

    let read = kafka::read_all(&topic).await;
    let places: Vec<_> = read
        .iter()
        .map(|record| (record.partition(), record.offset()))
        .collect();
    assert_eq!(places, [(0, 0), (2, 0), (2, 1)]);
    assert_eq!(
        (read[1].key(), read[1].payload()),
        (Some(&b"key"[..]), Some(&b"value"[..]))
    );
    let found: Vec<_> = read[1]
        .headers()
        .unwrap()
        .iter()
        .map(|header| (header.key, header.value.unwrap()))
        .collect();
    assert_eq!(found, headers);
    assert_eq!(read[2].payload(), None);
}

#[tokio::test]
async fn the_registry_answers_as_confluents_does() {
    let url = format!("{}/subjects/{}/versions/1", testkit::registry().await, namespace());
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.status(), 404);
    assert!(answer.text().await.unwrap().contains("40401"));
}

#[tokio::test]
async fn waiting_in_vain_names_what_was_awaited_and_what_was_found() {
    let waiting = tokio::spawn(eventually("the tide", Duration::from_millis(20), async || {
        Err::<(), _>("still ebb")
    }));
    let panic = waiting.await.unwrap_err().into_panic();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(
        message.contains("the tide") && message.contains("still ebb") && message.contains("testkit.rs"),
        "{message}"
    );
}

#[tokio::test]
async fn nothing_is_left_of_a_test_process_that_was_killed() {
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "die_on_request", "--nocapture"])
        .env_remove("DATABASE_URL")
        .env_remove("KAFKA_BROKERS")
        .env(DIE, "1")
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let home = PathBuf::from(said.lines().find_map(|line| line.strip_prefix("home: ")).expect(&said));
    eventually("the directory to be removed", PATIENCE, async || !home.exists()).await;
}

/// Does nothing in an ordinary run; see [`nothing_is_left_of_a_test_process_that_was_killed`].
#[tokio::test]
async fn die_on_request() {
    if std::env::var_os(DIE).is_none() {
        return;
    }
    let database = numbers().await;
    kafka::create_topics(&[&namespace()], 1).await;
    let row = database
        .client()
        .await
        .query_one("SHOW data_directory", &[])
        .await
        .unwrap();
    let cluster = PathBuf::from(row.get::<_, String>(0));
    eprintln!("home: {}", cluster.ancestors().nth(2).unwrap().display());
    std::process::abort();
}
