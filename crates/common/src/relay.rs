//! The relay: brings committed events to Kafka, in order of position, each at least once.
//!
//! One copy of a service leads, by a lease with a fencing epoch in the service's own database; the others stand by.
//!
//! ```text
//!  committer ──offer──► leader here?  ──yes──► publishes at once
//!                            │ no
//!                            └─ NOTIFY ──────► the leader reads the table
//!  standby ◄── NOTIFY "vacant" or the lease's end ── leader
//! ```
//!
//! What it holds to, whatever fails:
//! - An event is published after every event of a lower position that is or will be committed: see `outbox`.
//! - The cursor in the database never passes an event that Kafka has not acknowledged: see `window`.
//! - What is in memory is bounded, however long Kafka or Postgres is away; the table is the queue.
//! - Publishing again repeats a row's very bytes, id and position: consumers take it for the repetition it is.
//!
//! It never deletes or changes an event, and a caller of [`Handle`] never waits for it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::event::Recorded;
use crate::kafka;
use crate::telemetry::names;

pub use crate::envelope::headers;
pub use dead_letters::names as dead_letter_headers;

mod dead_letters;
mod leader;
mod lease;
mod log_check;
mod outage;
mod outbox;
mod publisher;
mod rounds;
mod signals;
mod window;

pub use lease::publish_behind;

use leader::{Ended, Leader};
use outage::{Backoff, Outage};
use publisher::InFlight;
use signals::{Signal, Signals};

/// How long a leader that vanished holds up the others.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often the table is read without being told to.
pub const POLL: Duration = Duration::from_millis(500);
/// Batches that wait for the leader's task. More are read from the table.
const OFFERS_MAX: usize = 256;
/// How often a standby tries to claim a lease that nobody gave back.
const CLAIM_EVERY: Duration = Duration::from_secs(1);
/// How often the backlog is measured.
const MEASURE_EVERY: Duration = Duration::from_millis(500);
/// A measurement older than this says nothing any more.
const MEASURE_AGE_MAX: Duration = Duration::from_secs(5);

/// What is published, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `ce_source`, and the label of metrics and logs.
    pub service: &'static str,
    /// With namespace.
    pub topic: String,
    /// Where Kafka is.
    pub kafka: kafka::Settings,
    /// See [`LEASE`].
    pub lease: Duration,
    /// See [`POLL`].
    pub poll: Duration,
}

/// Why the relay cannot work at all. What passes by itself is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The producer cannot be made.
    #[error("the relay cannot publish")]
    Kafka(#[from] kafka::Error),
    /// Positions would not be drawn in order.
    #[error(
        "the sequence of events.position hands out {cached} positions at a time, so a lower position can be drawn after \
         a higher one is published; run ALTER TABLE events ALTER COLUMN position SET CACHE 1"
    )]
    PositionsCached {
        /// How many.
        cached: i64,
    },
}

/// How far publishing has come, as this process knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether this copy publishes.
    pub leading: bool,
    /// Every event up to this position is acknowledged by Kafka.
    pub cursor: i64,
    /// At most so many committed events are not.
    pub unpublished: i64,
    /// Age of the oldest of them; zero if there is none, [`Duration::MAX`] if it is not known.
    pub unpublished_age: Duration,
}

/// The relay of one process.
#[derive(Debug)]
pub struct Relay;

/// Ends the lease that a crashed leader left behind, so that publishing need not wait until it runs out. For whoever knows
/// that no other copy lives, as the holder of a data directory does; one that lived after all would be fenced by the next.
///
/// # Errors
/// The database's words.
pub async fn end_lease(client: &tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
    lease::end(client).await
}

impl Relay {
    /// Starts relaying in the background. Of all processes that do so on one database, one publishes.
    ///
    /// `database_url` is for a connection of its own, for LISTEN: a pool's connections come and go. The task ends after
    /// `shutdown`, when what was in flight is acknowledged (within a bound) and the lease is given back.
    ///
    /// # Errors
    /// The task ends early with [`Error`].
    pub fn start(
        pool: Pool,
        database_url: String,
        settings: Settings,
        shutdown: CancellationToken,
    ) -> (Handle, JoinHandle<Result<(), Error>>) {
        let (sender, offers) = mpsc::channel(OFFERS_MAX);
        let inner = Arc::new(Inner {
            pool,
            owner: format!("{}-{}", std::process::id(), Uuid::new_v4()),
            settings,
            signals: Arc::default(),
            leading: AtomicBool::new(false),
            in_flight: Mutex::new(None),
            measured: Mutex::new(None),
        });
        let task = tokio::spawn(inner.clone().run(database_url, offers, shutdown));
        (Handle { inner, offers: sender }, task)
    }
}

/// What the rest of the process tells the relay and asks it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
    offers: mpsc::Sender<Vec<Recorded>>,
}

impl Handle {
    /// Hands over what a commit of this process appended.
    ///
    /// Never blocks and never fails: what the leader cannot take, or takes in another order, it reads from the table.
    pub fn offer(&self, mut batch: Vec<Recorded>) {
        if batch.is_empty() {
            return;
        }
        if !self.inner.leading.load(Ordering::Acquire) {
            self.inner.signals.tell_others(Signal::Appended);
            return;
        }
        if !batch.is_sorted_by_key(|recorded| recorded.envelope.position) {
            batch.sort_unstable_by_key(|recorded| recorded.envelope.position);
        }
        if self.offers.try_send(batch).is_err() {
            self.inner.signals.raise(Signal::Appended);
        }
    }

    /// Says that dead letters were committed.
    pub fn dead_letters_waiting(&self) {
        if self.inner.leading.load(Ordering::Acquire) {
            self.inner.signals.raise(Signal::DeadLetters);
        } else {
            self.inner.signals.tell_others(Signal::DeadLetters);
        }
    }

    /// How far publishing has come.
    pub fn status(&self) -> Status {
        let measured = self.inner.measured();
        let known = measured
            .as_ref()
            .filter(|measured| measured.at.elapsed() <= MEASURE_AGE_MAX);
        Status {
            leading: self.inner.leading.load(Ordering::Acquire),
            cursor: measured
                .as_ref()
                .map_or(0, |measured| measured.cursor)
                .max(self.inner.acknowledged()),
            unpublished: measured.as_ref().map_or(0, |measured| measured.rows),
            unpublished_age: known.map_or(Duration::MAX, Measured::age),
        }
    }
}

/// What one look at the database found.
#[derive(Clone, Debug)]
struct Measured {
    at: Instant,
    cursor: i64,
    rows: i64,
    oldest: Option<Timestamp>,
}

impl Measured {
    fn age(&self) -> Duration {
        self.oldest.map_or(Duration::ZERO, |oldest| {
            Duration::try_from(Timestamp::now().duration_since(oldest)).unwrap_or(Duration::ZERO)
        })
    }
}

/// What the tasks of one relay share.
#[derive(Debug)]
struct Inner {
    pool: Pool,
    owner: String,
    settings: Settings,
    signals: Arc<Signals>,
    leading: AtomicBool,
    in_flight: Mutex<Option<Arc<InFlight>>>,
    measured: Mutex<Option<Measured>>,
}

impl Inner {
    async fn run(
        self: Arc<Self>,
        database_url: String,
        mut offers: mpsc::Receiver<Vec<Recorded>>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        self.settings.kafka.check()?;
        tokio::select! {
            result = self.claim_and_lead(&mut offers, &shutdown) => result,
            never = self.signals.keep_listening(self.settings.service, &database_url) => match never {},
            never = self.signals.keep_telling(&self.pool) => match never {},
            never = self.keep_measuring() => match never {},
        }
    }

    async fn claim_and_lead(
        &self,
        offers: &mut mpsc::Receiver<Vec<Recorded>>,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let Settings {
            service, topic, lease, ..
        } = &self.settings;
        let mut outage = Outage::new(service, "claiming the relay's lease");
        let mut backoff = Backoff::default();
        while !shutdown.is_cancelled() {
            let asked_at = Instant::now();
            let pause = match self.claim().await {
                Ok(Some(claim)) => {
                    outage.is_over();
                    backoff.reset();
                    tracing::info!(
                        service,
                        topic,
                        relay.epoch = claim.epoch,
                        relay.cursor = claim.progress.cursor,
                        "this copy publishes now"
                    );
                    let leader = Leader::new(self, claim, asked_at, shutdown);
                    *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = Some(leader.in_flight().clone());
                    self.leading.store(true, Ordering::Release);
                    let ended = leader.lead(offers).await;
                    self.leading.store(false, Ordering::Release);
                    *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    if ended? == Ended::Shutdown {
                        return Ok(());
                    }
                    lease.mul_f64(0.5)
                }
                Ok(None) => {
                    outage.is_over();
                    backoff.reset();
                    CLAIM_EVERY.min(*lease / 2)
                }
                Err(ClaimError::Fatal(error)) => return Err(error),
                Err(ClaimError::Database(error)) => {
                    outage.begins(&error);
                    backoff.next()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.signals.vacant.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    async fn claim(&self) -> Result<Option<lease::Claim>, ClaimError> {
        let Settings { topic, lease, .. } = &self.settings;
        let cached = lease::positions_cached(&self.pool).await?;
        if cached > 1 {
            return Err(ClaimError::Fatal(Error::PositionsCached { cached }));
        }
        Ok(lease::claim(&self.pool, &self.owner, *lease, topic).await?)
    }

    async fn keep_measuring(&self) -> Infallible {
        let service = self.settings.service;
        let lag_events = metrics::gauge!(names::RELAY_LAG_EVENTS, "service" => service);
        let lag_seconds = metrics::gauge!(names::RELAY_LAG_SECONDS, "service" => service);
        loop {
            match lease::backlog(&self.pool, self.acknowledged()).await {
                Ok(lease::Backlog { cursor, rows, oldest }) => {
                    let measured = Measured {
                        at: Instant::now(),
                        cursor,
                        rows,
                        oldest,
                    };
                    lag_events.set(rows as f64);
                    lag_seconds.set(measured.age().as_secs_f64());
                    *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
                }
                Err(error) => {
                    tracing::debug!(
                        service,
                        error = &error as &dyn std::error::Error,
                        "the backlog is not known"
                    );
                }
            }
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    }

    fn measured(&self) -> Option<Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this copy, as the leader, knows to be acknowledged; 0 otherwise.
    fn acknowledged(&self) -> i64 {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight
            .as_ref()
            .map_or(0, |in_flight| in_flight.window().progress().cursor)
    }
}

/// Why the lease could not be claimed.
#[derive(Debug)]
enum ClaimError {
    Fatal(Error),
    Database(deadpool_postgres::PoolError),
}

impl<E: Into<deadpool_postgres::PoolError>> From<E> for ClaimError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}
