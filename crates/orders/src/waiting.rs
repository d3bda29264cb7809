//! How whoever waits for an order's end learns of it, whichever copy of the service ends it.
//!
//! ```text
//!   committed here ──► Endings::announce ──► waiters here, with the order itself
//!                            │
//!                            ▼ at most one every few ms
//!                       announce task ── NOTIFY rondo_orders_ended, this copy's id
//!                                                   │
//!   committed elsewhere ────────────────────────────┴──► watch task ── which of those waited for have ended?
//!                                     a poll each second behind it        └──► waiters here, who read the order
//! ```
//!
//! The notification is a hint: one that is lost costs a waiter a second, never an answer. Both tasks rest while nobody
//! waits or nothing ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::pg;
use common::waiters::{Waiter, Waiters};
use deadpool_postgres::Pool;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::domain::{Order, OrderId};
use crate::store;

/// The channel on which copies tell each other that orders have ended.
const CHANNEL: &str = "rondo_orders_ended";
/// Shortest time between two notifications of one copy: what ends in between shares the next.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(10);
/// How long a lost notification can delay a waiter.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How long to wait before a lost listening connection is made anew; the poll goes on meanwhile.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// What a waiter is given: the order as it ended, or nothing when another copy ended it and it is to be read.
pub type Woken = Option<Ending>;

/// An order that has ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// As it ended.
    pub order: Arc<Order>,
    /// The version of its stream.
    pub version: i64,
}

/// Those who wait for orders to end; clones share them.
#[derive(Clone, Debug)]
pub struct Endings {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// This copy, so that it can ignore its own notifications.
    copy: Uuid,
    waiters: Waiters<OrderId, Woken>,
    /// Nobody waits here any more: this copy stops.
    closed: AtomicBool,
    /// Something ended here that other copies have not been told of.
    unannounced: Notify,
    /// Somebody began to wait here.
    waited: Notify,
    /// Another copy says that something ended.
    told: Notify,
}

impl Endings {
    /// Room for `waiters_max` who wait at once.
    pub fn new(waiters_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                copy: Uuid::new_v4(),
                waiters: Waiters::new(waiters_max),
                closed: AtomicBool::new(false),
                unannounced: Notify::new(),
                waited: Notify::new(),
                told: Notify::new(),
            }),
        }
    }

    /// Waits for `order_id` from now on; `None` when too many wait already, or when this copy stops. Look whether it has
    /// ended *after* this.
    pub fn waiter(&self, order_id: OrderId) -> Option<Waiter<OrderId, Woken>> {
        let waiter = self.shared.waiters.register(order_id);
        self.shared.waited.notify_one();
        // After registering: whoever registers too late for `close` sees that it is closed.
        waiter.filter(|_| !self.shared.closed.load(Ordering::SeqCst))
    }

    /// Lets everybody go who waits, to be answered with what is known: a copy that stops ends no more orders.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        for order_id in self.shared.waiters.pending_keys() {
            self.shared.waiters.wake(&order_id, None);
        }
    }

    /// Wakes those who wait here, and has the other copies told. Never blocks.
    pub(crate) fn announce(&self, endings: Vec<(OrderId, Ending)>) {
        if endings.is_empty() {
            return;
        }
        for (order_id, ending) in endings {
            self.shared.waiters.wake(&order_id, Some(ending));
        }
        self.shared.unannounced.notify_one();
    }

    /// Tells the other copies and listens to them, until dropped. Never fails: without the database it tries again.
    pub async fn run(&self, pool: &Pool, database_url: &str) {
        tokio::join!(self.tell(pool), self.listen(database_url), self.watch(pool));
    }

    async fn tell(&self, pool: &Pool) {
        loop {
            self.shared.unannounced.notified().await;
            if let Err(error) = self.notify(pool).await {
                tracing::debug!(error = &*error, "the other copies could not be told which orders ended");
            }
            sleep(ANNOUNCE_EVERY).await;
        }
    }

    async fn notify(&self, pool: &Pool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let client = pool.get().await?;
        // The hint need not survive a crash, so its commit need not wait for the disk.
        let statement = client
            .prepare_cached("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)")
            .await?;
        client
            .execute(&statement, &[&CHANNEL, &self.shared.copy.to_string()])
            .await?;
        Ok(())
    }

    async fn listen(&self, database_url: &str) {
        let own = self.shared.copy.to_string();
        loop {
            let shared = Arc::clone(&self.shared);
            let own = own.clone();
            let notified = move |_: &str, copy: &str| {
                if copy != own {
                    shared.told.notify_one();
                }
            };
            match pg::listening(database_url, notified).await {
                Ok((client, lost)) => match client.batch_execute(&format!("LISTEN {CHANNEL}")).await {
                    Ok(()) => {
                        // The client is held: dropping it would end the connection.
                        let _ = lost.await;
                    }
                    Err(error) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "cannot listen for endings")
                    }
                },
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "cannot listen for endings"),
            }
            sleep(RECONNECT_AFTER).await;
        }
    }

    async fn watch(&self, pool: &Pool) {
        loop {
            if self.shared.waiters.is_empty() {
                self.shared.waited.notified().await;
            }
            // Whether told or not, after a second it asks: that is the poll.
            let _ = timeout(POLL_EVERY, self.shared.told.notified()).await;
            if let Err(error) = self.ask(pool).await {
                tracing::debug!(error = &*error, "cannot ask which of the orders waited for have ended");
            }
        }
    }

    /// Asks once for all orders that somebody waits for here.
    async fn ask(&self, pool: &Pool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let awaited: Vec<Uuid> = self
            .shared
            .waiters
            .pending_keys()
            .iter()
            .map(|order_id| order_id.0)
            .collect();
        if awaited.is_empty() {
            return Ok(());
        }
        let client = pool.get().await?;
        for order_id in store::ended(&client, &awaited).await? {
            self.shared.waiters.wake(&order_id, None);
        }
        Ok(())
    }
}
