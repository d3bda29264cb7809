//! A transaction that waits for as few answers as it can: what is committed, what is not, and what is waited for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use common::pg::{self, Failure, Transaction, Write};
use testkit::Proxy;

const TABLE: &str = "CREATE TABLE parcels (id int PRIMARY KEY, label text NOT NULL)";
const PATIENCE: Duration = Duration::from_secs(30);

async fn database() -> testkit::Database {
    testkit::database(async |client| client.batch_execute(TABLE).await.expect("the table is made")).await
}

fn insert(id: i32, label: &str) -> Write<'_> {
    Write::new("INSERT INTO parcels (id, label) VALUES ($1, $2) RETURNING id")
        .with(id)
        .with(label)
}

fn rename<'a>(id: i32, label: &'a str) -> Write<'a> {
    Write::new("UPDATE parcels SET label = $2 WHERE id = $1")
        .with(id)
        .with(label)
}

async fn labels(client: &deadpool_postgres::Client) -> Vec<(i32, String)> {
    let rows = client.query("SELECT id, label FROM parcels ORDER BY id", &[]).await;
    rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn writes_are_executed_in_their_order_and_give_back_what_they_return() {
    let database = database().await;
    let mut client = database.pool(1).get().await.unwrap();
    for id in 1..=2 {
        // At first each statement has yet to be prepared, then none has.
        let writes = [insert(id, "a"), rename(id, "b"), rename(id, "c")];
        let returned = Transaction::begin(&mut client).commit(&writes).await.unwrap();
        assert_eq!(returned.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 0]);
        assert_eq!(returned[0][0].get::<_, i32>(0), id);
        assert_eq!(labels(&client).await.pop(), Some((id, "c".to_owned())));
    }
}

#[tokio::test]
async fn the_first_write_that_fails_is_told_and_none_is_committed() {
    let database = database().await;
    let mut client = database.pool(1).get().await.unwrap();
    let first = [insert(1, "a"), rename(1, "b")];
    Transaction::begin(&mut client).commit(&first).await.unwrap();
    let before = labels(&client).await;
    let writes = [insert(2, "a"), insert(1, "again"), rename(1, "z"), insert(3, "a")];
    let refused = Transaction::begin(&mut client).commit(&writes).await.unwrap_err();
    assert_eq!(
        pg::failure(&refused, &["parcels_pkey"]),
        Failure::Conflict,
        "{refused:?}"
    );
    assert_eq!(labels(&client).await, before);
    Transaction::begin(&mut client).commit(&[insert(4, "d")]).await.unwrap();
    assert_eq!(labels(&client).await.len(), 2);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_changes_nothing_and_leaves_its_connection_usable() {
    let database = database().await;
    let mut client = database.pool(1).get().await.unwrap();
    for _ in 0..2 {
        let tx = Transaction::begin(&mut client);
        insert(1, "a").run(&*tx).await.unwrap();
        drop(tx);
        assert_eq!(labels(&client).await, []);
    }
}

#[tokio::test]
async fn neither_the_beginning_nor_a_write_is_waited_for_before_the_next_statement_goes_out() {
    let database = database().await;
    let proxy = Proxy::before(database.url()).await;
    let pool = pg::pool(&proxy.instead_of(database.url()), 1).unwrap();
    let mut client = pool.get().await.unwrap();
    // Everything is prepared.
    let writes = [insert(1, "a"), rename(1, "b")];
    Transaction::begin(&mut client).commit(&writes).await.unwrap();

    proxy.answer_only_after("the first statement");
    let tx = Transaction::begin(&mut client);
    let statement = insert(2, "the first statement");
    tokio::time::timeout(PATIENCE, statement.run(&*tx))
        .await
        .unwrap()
        .unwrap();
    proxy.answer_only_after("COMMIT");
    let writes = [insert(3, "c"), rename(3, "d")];
    tokio::time::timeout(PATIENCE, tx.commit(&writes))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(labels(&client).await.len(), 3);
}
