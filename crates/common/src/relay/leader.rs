//! What the leader does: hands on rows in order, keeps the lease, begins again after a failure.
//!
//! ```text
//!  offers ──────────┐ follow without a gap, or soon? in rounds
//!                   ├─────────────────────────────► publisher ─► Kafka
//!  table, by pages ─┘ else, up to a gap                 │ reports
//!                                                       ▼
//!  relay row ◄── every 100 ms or so ── keep ◄── window: cursor, log ends
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::PoolError;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::{self, Claim};
use super::log_check;
use super::outage::{Backoff, Outage};
use super::outbox::{Next, Reader};
use super::publisher::{Failure, InFlight, Publisher};
use super::rounds::Rounds;
use super::{Error, Inner, dead_letters};
use crate::event::Recorded;
use crate::telemetry::names;

/// How often the cursor is kept. After a crash what was acknowledged since is published again.
const KEEP_EVERY: Duration = Duration::from_millis(100);
/// Part of the lease after which publishing stops if it could not be renewed; the rest is for clocks and slow threads.
const LEASE_USABLE: f64 = 0.8;
/// Part of the lease after which it is renewed even if nothing was acknowledged.
const LEASE_RENEWED: f64 = 0.3;
/// First and longest pause between looks at an open gap.
const GAP_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// Longest wait for a commit to offer the rows before those that are held, and most rows that are held: then the table is
/// read.
const HELD_WAIT: Duration = Duration::from_millis(5);
const HELD_ROWS_MAX: usize = 10_000;
/// Longest wait at shutdown for what is in flight.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for one answer of the database.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a leadership ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The process stops. The lease was given back.
    Shutdown,
    /// The lease ran out, or another copy holds it.
    LeaseLost,
}

/// How one producer's work ended.
enum Work {
    Shutdown,
    Failed(Failure),
}

/// One leadership.
pub(super) struct Leader<'a> {
    inner: &'a Inner,
    epoch: i64,
    in_flight: Arc<InFlight>,
    usable_until: Mutex<Instant>,
    shutdown: &'a CancellationToken,
}

impl<'a> Leader<'a> {
    /// A leadership that was claimed at `asked_at`.
    pub(super) fn new(inner: &'a Inner, claim: Claim, asked_at: Instant, shutdown: &'a CancellationToken) -> Self {
        let leader = Self {
            inner,
            epoch: claim.epoch,
            in_flight: InFlight::new(inner.settings.service, claim.progress),
            usable_until: Mutex::new(asked_at),
            shutdown,
        };
        leader.lease_renewed(asked_at);
        leader
    }

    /// Publishes until the process stops or the lease is lost.
    pub(super) async fn lead(&self, offers: &mut mpsc::Receiver<Vec<Recorded>>) -> Result<Ended, Error> {
        let ended = tokio::select! {
            () = self.keep() => Ok(Ended::LeaseLost),
            result = self.publish(offers) => result.map(|()| Ended::Shutdown),
            never = dead_letters::keep_publishing(self.inner) => match never {},
        };
        if ended.as_ref().is_ok_and(|ended| *ended == Ended::LeaseLost) {
            return ended;
        }
        let progress = self.in_flight.window().progress().clone();
        let topic = &self.inner.settings.topic;
        let released = lease::release(&self.inner.pool, self.epoch, topic, &progress);
        if !matches!(tokio::time::timeout(ASK_TIMEOUT, released).await, Ok(Ok(_))) {
            tracing::info!(
                service = self.inner.settings.service,
                "the lease could not be given back; the next copy takes over when it runs out"
            );
        }
        ended
    }

    /// How far everything is acknowledged.
    pub(super) fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    fn lease_renewed(&self, asked_at: Instant) {
        let until = asked_at + self.inner.settings.lease.mul_f64(LEASE_USABLE);
        *self.usable_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn usable_until(&self) -> Instant {
        *self.usable_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the lease and the cursor in the database; returns when the lease is lost.
    async fn keep(&self) {
        let (service, lease) = (self.inner.settings.service, self.inner.settings.lease);
        let mut outage = Outage::new(service, "renewing the relay's lease");
        let mut kept = self.in_flight.window().progress().clone();
        let mut renewed_at = Instant::now();
        loop {
            tokio::time::sleep(KEEP_EVERY).await;
            let progress = self.in_flight.window().progress().clone();
            if progress == kept && renewed_at.elapsed() < lease.mul_f64(LEASE_RENEWED) {
                continue;
            }
            let asked_at = Instant::now();
            let renewal = lease::renew(
                &self.inner.pool,
                self.epoch,
                lease,
                &self.inner.settings.topic,
                &progress,
            );
            match tokio::time::timeout_at(self.usable_until(), renewal).await {
                Ok(Ok(true)) => {
                    outage.is_over();
                    self.lease_renewed(asked_at);
                    (kept, renewed_at) = (progress, asked_at);
                }
                Ok(Ok(false)) => {
                    tracing::warn!(
                        service,
                        relay.epoch = self.epoch,
                        "another copy has taken the relay's lease"
                    );
                    return;
                }
                Ok(Err(error)) => outage.begins(&error),
                Err(_) => {}
            }
            if Instant::now() >= self.usable_until() {
                tracing::warn!(
                    service,
                    relay.epoch = self.epoch,
                    "the relay's lease ran out; publishing stops"
                );
                return;
            }
        }
    }

    /// One producer after the other, until shutdown.
    async fn publish(&self, offers: &mut mpsc::Receiver<Vec<Recorded>>) -> Result<(), Error> {
        let settings = &self.inner.settings;
        let mut outage = Outage::new(settings.service, "publishing to Kafka");
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                () = self.rewind_if_log_is_lost() => {}
            }
            let before = self.in_flight.window().progress().cursor;
            let publisher = Publisher::new(&settings.kafka, settings.service, &settings.topic, &self.in_flight)?;
            let work = self.hand_on(&publisher, offers).await;
            publisher.close().await;
            let failure = match work {
                Work::Shutdown => return Ok(()),
                Work::Failed(failure) => failure,
            };
            self.in_flight.window().restart();
            // What the closing reported is a consequence of the failure.
            drop(self.in_flight.take_failure());
            metrics::counter!(names::RELAY_RESTARTS_TOTAL, "service" => settings.service).increment(1);
            if self.in_flight.window().progress().cursor > before {
                outage.is_over();
                backoff.reset();
            }
            outage.begins(&failure);
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    /// Looks until Kafka answers: to publish behind a loss without knowing of it would bury it.
    async fn rewind_if_log_is_lost(&self) {
        let settings = &self.inner.settings;
        let mut outage = Outage::new(settings.service, "comparing the topic with what was acknowledged");
        let mut backoff = Backoff::default();
        let (progress, regressed) = {
            let window = self.in_flight.window();
            (window.progress().clone(), window.regressed().clone())
        };
        let loss = loop {
            match log_check::check(&settings.kafka, &settings.topic, &progress, &regressed).await {
                Ok(Some(loss)) => break loss,
                Ok(None) => {
                    outage.is_over();
                    return;
                }
                Err(error) => outage.begins(&error),
            }
            tokio::time::sleep(backoff.next()).await;
        };
        outage.is_over();
        tracing::warn!(
            service = settings.service,
            topic = settings.topic,
            partitions = ?loss.partitions,
            relay.cursor = progress.cursor,
            relay.rewound_to = loss.progress.cursor,
            "the topic has lost records that Kafka had acknowledged; they are published again from the database"
        );
        // First the rows, then the cursor: a crash in between finds the loss again, or nothing to compare with and the
        // cursor already back.
        self.in_flight.window().rewind(loss.progress);
        while let Err(error) =
            lease::forget_log_ends(&self.inner.pool, self.epoch, &settings.topic, &loss.emptied).await
        {
            outage.begins(&error);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Hands rows to one producer, in order of position and each once, until it fails or the process stops.
    async fn hand_on(&self, publisher: &Publisher, offers: &mut mpsc::Receiver<Vec<Recorded>>) -> Work {
        let settings = &self.inner.settings;
        let mut hand = Hand {
            leader: self,
            publisher,
            reached: self.in_flight.window().progress().cursor,
            held: BTreeMap::new(),
            rounds: Rounds::new(),
            reader: Reader::new(settings.service),
            database: Outage::new(settings.service, "reading events to publish"),
            backoff: Backoff::default(),
            gap_pause: GAP_PAUSE.0,
            due: Instant::now(),
            may_hurry: true,
        };
        loop {
            if let Some(failure) = self.in_flight.take_failure() {
                return Work::Failed(failure);
            }
            hand.go_on();
            let room = self.in_flight.has_room();
            if room && hand.due <= Instant::now() && !self.shutdown.is_cancelled() {
                hand.read().await;
                // More is due at once; an offer that waits would only be found to be read already.
                continue;
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {
                    hand.send_held();
                    return self.drain().await;
                }
                () = self.in_flight.changed.notified() => {}
                Some(batch) = offers.recv() => hand.take(batch),
                () = tokio::time::sleep_until(hand.rounds.ends()), if hand.follows() => {}
                () = self.inner.signals.appended.notified() => hand.hurry(),
                () = tokio::time::sleep_until(hand.due), if room => {}
            }
        }
    }

    /// Waits, within a bound, until Kafka has what is in flight.
    async fn drain(&self) -> Work {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while !self.in_flight.window().is_empty() && Instant::now() < deadline {
            if let Some(failure) = self.in_flight.take_failure() {
                return Work::Failed(failure);
            }
            let _ = tokio::time::timeout_at(deadline, self.in_flight.changed.notified()).await;
        }
        Work::Shutdown
    }
}

/// The rows' way to one producer.
struct Hand<'a> {
    leader: &'a Leader<'a>,
    publisher: &'a Publisher,
    /// Every row up to here was handed on.
    reached: i64,
    /// Rows of this process's commits that wait for the end of a round, or for another commit that has drawn the positions
    /// before them.
    held: BTreeMap<i64, Recorded>,
    rounds: Rounds,
    reader: Reader,
    database: Outage,
    backoff: Backoff,
    gap_pause: Duration,
    /// When the table is read next.
    due: Instant,
    /// Whether news makes that sooner: not while a gap or the database is waited for.
    may_hurry: bool,
}

impl Hand<'_> {
    /// Reads one page of the table and hands it on.
    async fn read(&mut self) {
        let reading = self.reader.read(&self.leader.inner.pool, self.reached);
        let result = tokio::time::timeout(ASK_TIMEOUT, reading)
            .await
            .unwrap_or(Err(PoolError::Timeout(deadpool_postgres::TimeoutType::Recycle)));
        let (rows, next) = match result {
            Ok(read) => read,
            Err(error) => {
                self.database.begins(&error);
                (self.due, self.may_hurry) = (Instant::now() + self.backoff.next(), false);
                return;
            }
        };
        self.database.is_over();
        self.backoff.reset();
        if !rows.is_empty() || next != Next::Wait {
            self.gap_pause = GAP_PAUSE.0;
        }
        let all = self.send(&rows);
        self.held = self.held.split_off(&(self.reached + 1));
        let all = all && self.send_held();
        let pause = match next {
            _ if !all => Duration::ZERO,
            Next::More => Duration::ZERO,
            Next::Done => self.leader.inner.settings.poll,
            Next::Wait => {
                let pause = self.gap_pause;
                self.gap_pause = (pause * 2).min(GAP_PAUSE.1);
                pause
            }
        };
        (self.due, self.may_hurry) = (Instant::now() + pause, !self.reader.waits());
    }

    /// Takes what a commit appended.
    fn take(&mut self, batch: Vec<Recorded>) {
        let news = batch.into_iter().filter(|row| row.envelope.position > self.reached);
        self.held.extend(news.map(|row| (row.envelope.position, row)));
    }

    /// Hands on what is held and comes next, once the last round is over. The rest is held for the commit that drew the
    /// positions before it, which is nearly always about to offer them, and otherwise for a read of the table.
    fn go_on(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let in_flight = &self.leader.in_flight;
        let fits = in_flight.has_room() && self.held.len() <= HELD_ROWS_MAX;
        if fits && self.follows() && !self.rounds.is_over(in_flight.window().len()) {
            return;
        }
        if !fits || !self.send_held() {
            self.held.clear();
            self.hurry();
        } else if !self.held.is_empty() && self.may_hurry {
            self.due = self.due.min(Instant::now() + HELD_WAIT);
        }
    }

    /// Whether something is held that comes next.
    fn follows(&self) -> bool {
        let first = self.held.first_key_value();
        first.is_some_and(|(position, _)| *position == self.reached + 1)
    }

    /// Hands on the held rows that follow without a gap.
    fn send_held(&mut self) -> bool {
        while self.follows()
            && let Some((_, row)) = self.held.pop_first()
        {
            if !self.send(std::slice::from_ref(&row)) {
                return false;
            }
        }
        true
    }

    fn send(&mut self, rows: &[Recorded]) -> bool {
        if Instant::now() >= self.leader.usable_until() {
            return rows.is_empty();
        }
        self.rounds.begins();
        for row in rows {
            if !self.publisher.send(row) {
                return false;
            }
            self.reached = row.envelope.position;
        }
        true
    }

    fn hurry(&mut self) {
        if self.may_hurry {
            self.due = Instant::now();
        }
    }
}
