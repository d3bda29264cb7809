//! A transaction that waits for as few answers as it can: what is committed, what is not, and what is waited for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use common::pg::{self, Failure, Transaction, Write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

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
    let line = Line::to(database.url()).await;
    let mut client = pg::pool(&line.url, 1).unwrap().get().await.unwrap();
    // Everything is prepared.
    let writes = [insert(1, "a"), rename(1, "b")];
    Transaction::begin(&mut client).commit(&writes).await.unwrap();

    line.answer_only_after("the first statement");
    let tx = Transaction::begin(&mut client);
    let statement = insert(2, "the first statement");
    tokio::time::timeout(PATIENCE, statement.run(&*tx))
        .await
        .unwrap()
        .unwrap();
    line.answer_only_after("COMMIT");
    let writes = [insert(3, "c"), rename(3, "d")];
    tokio::time::timeout(PATIENCE, tx.commit(&writes))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(labels(&client).await.len(), 3);
}

/// A line to a server that can hold back its answers.
struct Line {
    url: String,
    /// Bytes that must have gone to the server before any answer comes back.
    awaited: watch::Sender<Option<Vec<u8>>>,
}

impl Line {
    async fn to(url: &str) -> Self {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let tokio_postgres::config::Host::Tcp(host) = &config.get_hosts()[0] else {
            panic!("{url} is reached by TCP");
        };
        let server = (host.clone(), config.get_ports()[0]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let there = format!("{}:{}", server.0, server.1);
        assert!(url.contains(&there), "{url} names {there}");
        let (awaited, _) = watch::channel(None);
        let line = awaited.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(carry(client, server, line.clone()));
            }
        });
        Self {
            url: url.replace(&there, &here),
            awaited,
        }
    }

    fn answer_only_after(&self, sent: &str) {
        self.awaited.send_replace(Some(sent.as_bytes().to_vec()));
    }
}

async fn carry(client: TcpStream, server: TcpStream, awaited: watch::Sender<Option<Vec<u8>>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut held = awaited.subscribe();
    let asks = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            to_server.write_all(&buffer[..length]).await.unwrap();
            awaited.send_if_modified(|awaited| {
                let came = |bytes: &Vec<u8>| buffer[..length].windows(bytes.len()).any(|window| window == bytes);
                awaited.take_if(|bytes| came(bytes)).is_some()
            });
        }
    };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            held.wait_for(Option::is_none).await.unwrap();
            to_client.write_all(&buffer[..length]).await.unwrap();
        }
    };
    tokio::join!(asks, answers);
}
