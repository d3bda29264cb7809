//! The table `payments` on a real Postgres.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use common::pg::Transaction;
use jiff::Timestamp;
use payments::domain::{Payment, State};
use payments::gateway::PaymentId;
use payments::money::{Currency, Money};
use payments::store::{self, Entry, Ledger};

const ORDER: &str = "0199c0de-0000-7000-8000-000000000001";

async fn database() -> testkit::Database {
    testkit::database(async |client| {
        common::migrate::apply(client, payments::NAME, payments::MIGRATIONS)
            .await
            .unwrap();
    })
    .await
}

fn payment() -> Payment {
    Payment {
        id: PaymentId::recorded("pay_1"),
        amount: Money::new(4_200, Currency::parse("EUR").unwrap()).unwrap(),
    }
}

fn entry(order_id: &str, state: &State, version: i64) -> Entry {
    Entry {
        order_id: order_id.to_owned(),
        ledger: Ledger::of(state),
        version,
        updated_at: Timestamp::from_second(1_700_000_000 + version).unwrap(),
    }
}

#[tokio::test]
async fn what_is_known_of_a_payment_replaces_what_was_known() {
    let database = database().await;
    let mut client = database.pool(1).get().await.unwrap();
    let states = [
        State::Tombstone,
        State::Authorized(payment()),
        State::CaptureFailed {
            payment: payment(),
            failures: 1,
            reason: "no".into(),
        },
        State::Captured(payment()),
        State::Captured(payment()),
        State::Refunded(payment()),
    ];
    for (version, state) in (1..).zip(&states) {
        let saved = [
            entry(ORDER, state, version),
            entry("another", &State::Tombstone, version),
        ];
        let write = store::save(saved.to_vec()).unwrap();
        Transaction::begin(&mut client).commit(&[write]).await.unwrap();
        let found = store::find(&client, ORDER).await.unwrap();
        assert_eq!(found.as_ref(), Some(&saved[0]));
    }
    let last = store::find(&client, ORDER).await.unwrap().unwrap().ledger;
    assert_eq!((last.captured_minor, last.refunded_minor), (4_200, 4_200));
    assert_eq!(store::find(&client, "unheard of").await.unwrap(), None);
}

#[tokio::test]
async fn more_than_was_asked_for_cannot_be_written_down() {
    let database = database().await;
    let client = database.pool(1).get().await.unwrap();
    let spoilt: [fn(&mut Ledger); 3] = [
        |ledger| ledger.captured_minor = 4_201,
        |ledger| ledger.refunded_minor = 4_201,
        |ledger| ledger.amount_minor = None,
    ];
    for spoil in spoilt {
        let mut entry = entry(ORDER, &State::Captured(payment()), 1);
        spoil(&mut entry.ledger);
        let write = store::save(vec![entry]).unwrap();
        assert!(write.run(&client).await.is_err());
    }
}
