//! Wake-ups between the tasks of one process, and between the copies of one service over NOTIFY.
//!
//! Every wake-up is a hint. It makes things quick; the polls behind it make them right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{Pool, PoolError};
use tokio::sync::Notify;

use super::outage::{Backoff, Outage};
use crate::pg;

/// The NOTIFY channel of the relay, in each service's own database.
pub(super) const CHANNEL: &str = "rondo_relay";
/// NOTIFY takes a lock on the whole server at commit: one is sent for all that happens in this time.
const TELL_SPACING: Duration = Duration::from_millis(10);
/// A listening connection that fell silent unnoticed is found by asking it so often.
const LISTEN_CHECK: Duration = Duration::from_secs(30);

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Rows were appended by a process that is not the leader.
    Appended,
    /// Dead letters wait to be published.
    DeadLetters,
    /// The lease was given back.
    Vacant,
}

impl Signal {
    const ALL: [Signal; 3] = [Signal::Appended, Signal::DeadLetters, Signal::Vacant];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Appended => "appended",
            Self::DeadLetters => "dead-letters",
            Self::Vacant => "vacant",
        }
    }
}

/// The wake-ups of one process.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The leader should read the table.
    pub(super) appended: Notify,
    /// The leader should publish dead letters.
    pub(super) dead_letters: Notify,
    /// A standby should try to claim.
    pub(super) vacant: Notify,
    untold_appended: AtomicBool,
    untold_dead_letters: AtomicBool,
    untold: Notify,
}

impl Signals {
    /// Wakes whoever waits for `signal` in this process.
    pub(super) fn raise(&self, signal: Signal) {
        match signal {
            Signal::Appended => self.appended.notify_one(),
            Signal::DeadLetters => self.dead_letters.notify_one(),
            Signal::Vacant => self.vacant.notify_one(),
        }
    }

    /// Has the other copies of this service told of `signal`, soon.
    pub(super) fn tell_others(&self, signal: Signal) {
        match signal {
            Signal::Appended => self.untold_appended.store(true, Ordering::Release),
            Signal::DeadLetters => self.untold_dead_letters.store(true, Ordering::Release),
            Signal::Vacant => {}
        }
        self.untold.notify_one();
    }

    fn take_untold(&self) -> impl Iterator<Item = Signal> {
        let appended = self
            .untold_appended
            .swap(false, Ordering::AcqRel)
            .then_some(Signal::Appended);
        let dead_letters = self
            .untold_dead_letters
            .swap(false, Ordering::AcqRel)
            .then_some(Signal::DeadLetters);
        appended.into_iter().chain(dead_letters)
    }

    /// Sends NOTIFY for what this process wants told. A failure is not repeated: the polls find out.
    pub(super) async fn keep_telling(&self, pool: &Pool) -> std::convert::Infallible {
        loop {
            self.untold.notified().await;
            for signal in self.take_untold() {
                if let Err(error) = notify(pool, signal).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a wake-up was not sent");
                }
            }
            tokio::time::sleep(TELL_SPACING).await;
        }
    }

    /// Listens for what other copies tell, on a connection of its own, and connects again when it is lost.
    pub(super) async fn keep_listening(
        self: &std::sync::Arc<Self>,
        service: &'static str,
        database_url: &str,
    ) -> std::convert::Infallible {
        let mut outage = Outage::new(service, "wake-ups over LISTEN");
        let mut backoff = Backoff::default();
        loop {
            let signals = self.clone();
            let heard = move |_: &str, payload: &str| {
                if let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.as_str() == payload) {
                    signals.raise(signal);
                }
            };
            match pg::listening(database_url, heard).await {
                Ok((client, mut lost)) => match client.batch_execute(&format!("LISTEN {CHANNEL}")).await {
                    Ok(()) => {
                        outage.is_over();
                        backoff.reset();
                        // What was told while nobody listened was not heard.
                        Signal::ALL.into_iter().for_each(|signal| self.raise(signal));
                        loop {
                            tokio::select! {
                                _ = &mut lost => break,
                                () = tokio::time::sleep(LISTEN_CHECK) => {
                                    let answer = tokio::time::timeout(LISTEN_CHECK, client.batch_execute("")).await;
                                    if !matches!(answer, Ok(Ok(()))) {
                                        break;
                                    }
                                }
                            }
                        }
                    }
                    Err(error) => outage.begins(&error),
                },
                Err(error) => outage.begins(&error),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

async fn notify(pool: &Pool, signal: Signal) -> Result<(), PoolError> {
    let client = pool.get().await?;
    let statement = client.prepare_cached("SELECT pg_notify($1, $2)").await?;
    client.execute(&statement, &[&CHANNEL, &signal.as_str()]).await?;
    Ok(())
}
