//! A way to stop a saga at an exact place: no event of one type can be committed until the gate opens.

use testkit::Database;
use tokio_postgres::Client;

use crate::shop::PATIENCE;

/// The key of the advisory lock that stands for the gate; each database has locks of its own.
const LOCK: i64 = 1;

/// A shut gate.
pub(crate) struct Gate {
    holder: Client,
}

impl Gate {
    /// Holds back every transaction that appends an event of `event_type` to `database` from now on.
    pub(crate) async fn shut(database: &Database, event_type: &str) -> Self {
        let holder = database.client().await;
        holder
            .batch_execute(&format!(
                "SELECT pg_advisory_lock({LOCK});
                 CREATE OR REPLACE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NEW; END';
                 CREATE OR REPLACE TRIGGER gate BEFORE INSERT ON events
                 FOR EACH ROW WHEN (NEW.type = '{event_type}') EXECUTE FUNCTION gate();"
            ))
            .await
            .unwrap();
        Self { holder }
    }

    /// Waits until a transaction stands at the gate.
    pub(crate) async fn reached(&self) {
        testkit::eventually("a transaction stands at the gate", PATIENCE, async || {
            let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            self.holder.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0
        })
        .await;
    }

    /// Lets everything pass, also what comes later.
    pub(crate) async fn open(self) {
        self.holder
            .batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})"))
            .await
            .unwrap();
    }
}
