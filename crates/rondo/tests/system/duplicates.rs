//! A record that comes again does nothing again.

use std::collections::BTreeMap;

use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};
use testkit::kafka::{Raw, produce, read_all};

use crate::shop::{PATIENCE, SERVICES, Shop, counted, order_of};

const TOPICS: [&str; 3] = ["orders.events", "payments.events", "inventory.events"];

/// All that an effect could show in, by service.
pub(crate) async fn books(shop: &Shop) -> BTreeMap<&'static str, Vec<String>> {
    let mut books = BTreeMap::new();
    for service in SERVICES {
        let client = shop.database(service).client().await;
        let own = match service {
            "inventory" => "SELECT s::text FROM stock s UNION ALL SELECT m::text FROM stock_movements m",
            "payments" => "SELECT p::text FROM payments p",
            _ => "SELECT o::text FROM orders o",
        };
        let query = format!(
            "SELECT e::text FROM events e UNION ALL SELECT i::text FROM inbox i UNION ALL SELECT p::text FROM parked p
             UNION ALL SELECT d::text FROM dead_letters d UNION ALL {own} ORDER BY 1"
        );
        let rows = client.query(&query, &[]).await.unwrap();
        books.insert(service, rows.iter().map(|row| row.get(0)).collect());
    }
    books
}

/// Waits until every consumer has read all that its topics hold now.
pub(crate) async fn until_all_is_read(shop: &Shop) {
    for topic in TOPICS {
        let topic = shop.topic(topic);
        let mut ends = BTreeMap::new();
        for record in read_all(&topic).await {
            ends.insert(record.partition(), record.offset() + 1);
        }
        for service in SERVICES {
            let client = shop.database(service).client().await;
            testkit::eventually(
                &format!("{service} has read {topic} to {ends:?}"),
                PATIENCE,
                async || {
                    let query =
                        "SELECT partition, next_offset FROM offsets WHERE topic = $1 AND next_offset IS NOT NULL";
                    let rows = client.query(query, &[&topic]).await.unwrap();
                    let read: BTreeMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
                    let reads_it = client
                        .query_one("SELECT count(*) FROM offsets WHERE topic = $1", &[&topic])
                        .await
                        .unwrap()
                        .get::<_, i64>(0)
                        > 0;
                    if !reads_it || ends.iter().all(|(partition, end)| read.get(partition) >= Some(end)) {
                        Ok(())
                    } else {
                        Err(read)
                    }
                },
            )
            .await;
        }
    }
}

pub(crate) async fn produce_again(topic: &str, records: &[&OwnedMessage]) {
    let headers: Vec<Vec<(&str, &[u8])>> = records
        .iter()
        .map(|record| {
            let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
            headers
                .map(|header| (header.key, header.value.unwrap_or_default()))
                .collect()
        })
        .collect();
    let again: Vec<Raw<'_>> = records
        .iter()
        .zip(&headers)
        .map(|(record, headers)| Raw {
            partition: None,
            key: record.key(),
            value: record.payload(),
            headers,
        })
        .collect();
    produce(topic, &again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_produced_a_second_time_changes_nothing_and_is_counted() {
    let shop = Shop::open().await;
    shop.stock("cup", 20).await;
    for method in ["tok_visa", "tok_declined", "tok_insufficient_funds"] {
        for quantity in [1, 2, 3, 100] {
            shop.place(&order_of(&[("cup", quantity)], method)).await;
        }
    }
    shop.until_all_ended(12).await;
    until_all_is_read(&shop).await;
    let before = books(&shop).await;
    let duplicates = |service| counted("inbox_duplicates_total", &format!("\"{service}\""));
    let counted_before = SERVICES.map(duplicates);

    for topic in TOPICS {
        let topic = shop.topic(topic);
        let records = read_all(&topic).await;
        // Each key in its order, the keys in another: every saga at once, from its first step to its last.
        let mut shuffled: Vec<(usize, &OwnedMessage)> = Vec::new();
        let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
        for record in &records {
            let nth = seen.entry(record.key().unwrap()).or_default();
            shuffled.push((*nth, record));
            *nth += 1;
        }
        shuffled.sort_by_key(|(nth, record)| (*nth, std::cmp::Reverse(record.key().unwrap().to_vec())));
        let shuffled: Vec<&OwnedMessage> = shuffled.into_iter().map(|(_, record)| record).collect();
        produce_again(&topic, &shuffled).await;
        // And once more, each key backwards too.
        let backwards: Vec<&OwnedMessage> = records.iter().rev().collect();
        produce_again(&topic, &backwards).await;
    }
    until_all_is_read(&shop).await;

    assert_eq!(books(&shop).await, before);
    for (service, before) in SERVICES.into_iter().zip(counted_before) {
        let taken = shop.taken(service).await;
        assert!(taken > 0);
        testkit::eventually(&format!("{service} counts its duplicates"), PATIENCE, async || {
            let counted = duplicates(service) - before;
            if counted >= 2 * taken.unsigned_abs() {
                Ok(())
            } else {
                Err(format!("{counted} of 2 × {taken}"))
            }
        })
        .await;
    }
    shop.audit().await;
}
