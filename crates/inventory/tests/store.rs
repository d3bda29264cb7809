//! Batches of inventory on a real Postgres: what is locked, decided and written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use bytes::Bytes;
use common::event::{Envelope, Recorded, StreamId};
use common::model::{Change, Model as _};
use common::pg::Transaction;
use contracts::inventory::{Event, SKU_STREAM};
use deadpool_postgres::Pool;
use inventory::Inventory;
use inventory::domain::{Command, Rejection, State};
use inventory::goods::{Line, Lines, ReceiptId, Sku};
use inventory::stock::Level;
use inventory::store::{self, Totals};
use jiff::Timestamp;
use uuid::Uuid;

/// An inventory whose events are kept in memory and whose tables are real.
struct Shop {
    pool: Pool,
    position: i64,
    _database: testkit::Database,
}

/// One stream in a batch.
struct Stream {
    id: StreamId,
    state: State,
}

fn sku(text: &str) -> Sku {
    Sku::parse(text).unwrap()
}

fn apples(quantity: i64) -> Command {
    let sku = sku("apple");
    Command::Reserve(Lines::sum([Line { sku, quantity }]))
}

fn order(number: usize) -> Stream {
    Stream {
        id: StreamId::new(Uuid::from_u128(number as u128).to_string()),
        state: State::default(),
    }
}

fn goods(name: &str) -> Stream {
    Stream {
        id: StreamId::of_kind(SKU_STREAM, name),
        state: State::default(),
    }
}

fn count(on_hand: i64) -> Command {
    Command::Adjust {
        sku: sku("apple"),
        name: "Apple".into(),
        unit_price_minor: 50,
        on_hand,
    }
}

fn receive(quantity: i64) -> Command {
    Command::Receive {
        sku: sku("apple"),
        quantity,
        receipt: ReceiptId::parse("r-1").unwrap(),
    }
}

fn at(position: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + position).unwrap()
}

impl Shop {
    async fn open() -> Self {
        let database = testkit::database(async |client| {
            common::migrate::apply(client, inventory::NAME, inventory::MIGRATIONS)
                .await
                .unwrap();
        })
        .await;
        Self {
            pool: database.pool(4),
            position: 0,
            _database: database,
        }
    }

    /// One transaction over a command for each stream, as the committer drives it.
    async fn batch(&mut self, streams: &mut [Stream], command: &Command) -> Result<Vec<Event>, Rejection> {
        let mut client = self.pool.get().await.unwrap();
        let tx = Transaction::begin(&mut client);
        let commands: Vec<_> = streams
            .iter()
            .map(|stream| (&stream.id, command, &stream.state))
            .collect();
        let mut rows = Inventory.lock_rows(&tx, &commands).await.unwrap();
        let mut decided = Vec::new();
        for stream in &mut *streams {
            let before = stream.state.clone();
            let mut events = Vec::new();
            for event in Inventory.decide(&stream.id, &before, &mut rows, command, at(self.position))? {
                self.position += 1;
                let recorded = recorded(&stream.id, self.position);
                Inventory.evolve(&mut stream.state, &event, &recorded.envelope);
                events.push((event, recorded));
            }
            decided.push((before, events));
        }
        let changes: Vec<Change<'_, Inventory>> = streams
            .iter()
            .zip(&decided)
            .filter(|(_, (_, events))| !events.is_empty())
            .map(|(stream, (before, events))| Change {
                stream_id: &stream.id,
                before,
                after: &stream.state,
                version: 1,
                events,
            })
            .collect();
        tx.commit(&Inventory.project(&changes)).await.unwrap();
        let events = decided.into_iter().flat_map(|(_, events)| events);
        Ok(events.map(|(event, _)| event).collect())
    }

    async fn level(&self) -> Level {
        let client = self.pool.get().await.unwrap();
        store::find(&client, &sku("apple")).await.unwrap().unwrap().level
    }

    async fn apples(&self) -> (i64, i64) {
        let level = self.level().await;
        (level.on_hand, level.reserved)
    }
}

fn recorded(stream: &StreamId, position: i64) -> Recorded {
    Recorded {
        stream_id: stream.clone(),
        envelope: Envelope {
            id: Uuid::from_u128(position as u128),
            event_type: "".into(),
            source: inventory::NAME.into(),
            subject: stream.key().into(),
            occurred_at: at(position),
            correlation_id: Uuid::nil(),
            causation_id: Uuid::nil(),
            traceparent: None,
            stream_version: 1,
            position,
        },
        schema_id: 1,
        payload: Bytes::new(),
    }
}

#[tokio::test]
async fn the_last_ten_go_to_ten_of_a_hundred_orders_and_the_ledger_tells() {
    let mut shop = Shop::open().await;
    shop.batch(&mut [goods("apple")], &count(10)).await.unwrap();
    let mut orders: Vec<_> = (0..100).map(order).collect();
    shop.batch(&mut orders, &apples(1)).await.unwrap();
    assert_eq!(shop.apples().await, (10, 10));

    let mut held: Vec<_> = orders
        .into_iter()
        .filter(|order| matches!(order.state, State::Reserved(_)))
        .collect();
    assert_eq!(held.len(), 10);
    let mut sold = held.split_off(3);
    shop.batch(&mut held, &Command::Cancel).await.unwrap();
    shop.batch(&mut sold, &Command::Commit).await.unwrap();
    assert_eq!(shop.apples().await, (3, 0));
    shop.batch(&mut sold[..2], &Command::Cancel).await.unwrap();
    // Answers that are given again move nothing.
    shop.batch(&mut sold[..2], &Command::Cancel).await.unwrap();
    shop.batch(&mut sold[2..], &Command::Commit).await.unwrap();
    assert_eq!(shop.apples().await, (5, 0));

    let client = shop.pool.get().await.unwrap();
    assert_eq!(
        store::totals(&client).await.unwrap(),
        [Totals {
            sku: sku("apple"),
            on_hand: (5, 5),
            reserved: (0, 0),
            set_aside: 10,
            committed: 7,
            released: 3,
            returned: 2,
            adjusted: 10,
            received: 0,
        }]
    );
}

#[tokio::test]
async fn a_receipt_counts_once_and_a_count_sets_the_level() {
    let mut shop = Shop::open().await;
    let unknown = shop.batch(&mut [goods("apple")], &receive(5)).await;
    assert_eq!(unknown, Err(Rejection::UnknownSku(sku("apple"))));
    shop.batch(&mut [goods("apple")], &count(10)).await.unwrap();
    assert_eq!(shop.batch(&mut [goods("apple")], &receive(5)).await.unwrap().len(), 1);
    assert_eq!(shop.batch(&mut [goods("apple")], &receive(5)).await.unwrap(), []);
    assert_eq!(shop.apples().await, (15, 0));
    assert_eq!(shop.batch(&mut [goods("apple")], &count(15)).await.unwrap(), []);
    shop.batch(&mut [goods("apple")], &count(7)).await.unwrap();
    let level = shop.level().await;
    assert_eq!((level.on_hand, &*level.name, level.unit_price_minor), (7, "Apple", 50));
}

#[tokio::test]
async fn a_level_can_be_asked_for_as_of_any_moment() {
    let mut shop = Shop::open().await;
    let mut order = [order(1)];
    shop.batch(&mut [goods("apple")], &count(10)).await.unwrap();
    shop.batch(&mut order, &apples(4)).await.unwrap();
    shop.batch(&mut order, &Command::Commit).await.unwrap();
    shop.batch(&mut order, &Command::Cancel).await.unwrap();
    let client = shop.pool.get().await.unwrap();
    for (moment, expected) in [
        (0, None),
        (1, Some((10, 0))),
        (2, Some((10, 4))),
        (3, Some((6, 0))),
        (4, Some((10, 0))),
        (99, Some((10, 0))),
    ] {
        let item = store::find_at(&client, &sku("apple"), at(moment)).await.unwrap();
        assert_eq!(
            item.map(|item| (item.level.on_hand, item.level.reserved)),
            expected,
            "{moment}"
        );
    }
    assert_eq!(store::find_at(&client, &sku("pear"), at(99)).await.unwrap(), None);
}

#[tokio::test]
async fn pages_follow_each_other_in_order_of_the_skus() {
    let mut shop = Shop::open().await;
    for name in ["b", "a", "B", "a.1"] {
        let count = Command::Adjust {
            sku: sku(name),
            name: name.into(),
            unit_price_minor: 0,
            on_hand: 0,
        };
        shop.batch(&mut [goods(name)], &count).await.unwrap();
    }
    let client = shop.pool.get().await.unwrap();
    let names = |items: Vec<store::Item>| items.iter().map(|item| item.sku.to_string()).collect::<Vec<_>>();
    assert_eq!(names(store::page(&client, None, 3).await.unwrap()), ["B", "a", "a.1"]);
    assert_eq!(names(store::page(&client, Some("a.1"), 3).await.unwrap()), ["b"]);
}

#[tokio::test]
async fn a_batch_waits_for_the_levels_that_another_has_locked() {
    let mut shop = Shop::open().await;
    shop.batch(&mut [goods("apple")], &count(1)).await.unwrap();
    let mut client = shop.pool.get().await.unwrap();
    let first = Transaction::begin(&mut client);
    store::lock(&first, &[&sku("apple")], &[]).await.unwrap();
    let mut other = shop.pool.get().await.unwrap();
    let second = Transaction::begin(&mut other);
    second.batch_execute("SET LOCAL lock_timeout = '50ms'").await.unwrap();
    let refused = store::lock(&second, &[&sku("apple")], &[]).await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("55P03"));
}
