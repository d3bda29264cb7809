//! The clockwork of a service: deadlines that have passed, parked heads that are due, and figures for people.
//!
//! A deadline that decides over what others did must not fire because *we* were late: after an outage every order would
//! be cancelled at once. Such deadlines wait until the relay has nothing old to publish and the consumer has read, on
//! every partition of its input, past a moment ago; and then for a grace in which the others can answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::committer::{Commands, Committer, Expect, SubmitError};
use crate::event::{Cause, StreamId, named_id};
use crate::inbox;
use crate::kafka::{self, LogEnd};
use crate::model::Model;
use crate::parking;
use crate::relay;
use crate::store;
use crate::telemetry::names;
use crate::timers;

/// Deadlines taken up in one turn.
pub const DEADLINES_CLAIMED_MAX: i64 = 256;
/// Parked heads taken up in one turn.
pub const HEADS_CLAIMED_MAX: i64 = 64;
/// How long a claimed deadline or head belongs to this copy.
pub const CLAIM_LEASE: Duration = Duration::from_secs(30);
/// How old the oldest unpublished event may be for this service to count as up to date.
const RELAY_AGE_MAX: Duration = Duration::from_secs(2);
/// How far behind now the consumer may be to count as up to date: under steady traffic the very end of the log is never
/// reached, so what counts is what was there a moment ago.
const INPUT_AGE_MAX: Duration = Duration::from_secs(2);
/// How often figures are taken that cost a query.
const FIGURES_INTERVAL: Duration = Duration::from_secs(5);
/// How late a deadline may be before it is told what it waits for, and how often that is told.
const WAIT_TOLD_AFTER: Duration = Duration::from_secs(10);
const WAIT_TOLD_INTERVAL: Duration = Duration::from_secs(60);
/// How often to look whether an offset was moved on purpose; a batch notices by itself.
const RESETS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the inbox gets its partitions for the months to come.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// What the clockwork needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Topics whose partitions must have been read, with namespace.
    pub topics: Vec<String>,
    /// Tells where their logs end.
    pub log: kafka::Client,
    /// How often it looks.
    pub interval: Duration,
    /// How long the service must have been up to date before a deadline of others fires.
    pub grace: Duration,
}

/// Runs until `shutdown`.
pub async fn run<M: Model>(
    settings: Settings,
    committer: Arc<Committer<M>>,
    commands: Commands<M>,
    pool: Pool,
    relay: relay::Handle,
    shutdown: CancellationToken,
) {
    let mut clockwork = Clockwork {
        settings,
        committer,
        commands,
        pool,
        relay,
        looks: VecDeque::new(),
        up_to_date_since: None,
        waits_for: None,
        wait_told_at: None,
    };
    let mut ticks = tokio::time::interval(clockwork.settings.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut figures_at = Instant::now();
    let mut resets_at = Instant::now();
    let mut partitions_at = Instant::now() + PARTITIONS_INTERVAL;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
            () = clockwork.committer.due_at_once() => {}
        }
        if let Err(error) = clockwork.turn(&shutdown).await {
            tracing::debug!(service = M::NAME, error, "the clockwork could not turn");
        }
        if resets_at <= Instant::now() {
            resets_at = Instant::now() + RESETS_INTERVAL;
            if let Err(error) = clockwork.resets().await {
                tracing::debug!(service = M::NAME, error, "it is not known whether offsets were moved");
            }
        }
        if figures_at <= Instant::now() {
            figures_at = Instant::now() + FIGURES_INTERVAL;
            if let Err(error) = clockwork.figures().await {
                tracing::debug!(service = M::NAME, error, "figures are not to be had now");
            }
        }
        if partitions_at <= Instant::now() {
            partitions_at = Instant::now() + PARTITIONS_INTERVAL;
            if let Err(error) = clockwork.partitions().await {
                tracing::warn!(
                    service = M::NAME,
                    error,
                    "the inbox has no partitions for the months to come"
                );
            }
        }
    }
}

struct Clockwork<M: Model> {
    settings: Settings,
    committer: Arc<Committer<M>>,
    commands: Commands<M>,
    pool: Pool,
    relay: relay::Handle,
    /// Where the logs ended, and when: the newest look that is [`INPUT_AGE_MAX`] old, and those since.
    looks: VecDeque<(Instant, Vec<LogEnd>)>,
    up_to_date_since: Option<Instant>,
    /// Why no deadline may fire now.
    waits_for: Option<String>,
    wait_told_at: Option<Instant>,
}

impl<M: Model> Clockwork<M> {
    async fn turn(&mut self, shutdown: &CancellationToken) -> Result<(), String> {
        let client = self.pool.get().await.map_err(text)?;
        let heads = if self.committer.breaker().is_open() {
            Vec::new()
        } else {
            parking::claim_due(&client, M::NAME, HEADS_CLAIMED_MAX, CLAIM_LEASE)
                .await
                .map_err(text)?
        };
        // Ahead of time, so that a deadline that is met in good order fires when it passes.
        let ahead = if M::DEADLINES_WAIT_FOR_INPUT {
            self.settings.grace + INPUT_AGE_MAX
        } else {
            Duration::ZERO
        };
        let due = timers::any_due(&client, ahead).await.map_err(text)?;
        drop(client);
        if !heads.is_empty() {
            metrics::counter!(names::PARKED_RETRIES_TOTAL, "consumer" => M::NAME).increment(heads.len() as u64);
            self.committer.retry_parked(heads, shutdown).await;
        }
        if !due {
            self.looks.clear();
            self.up_to_date_since = None;
            self.waits_for = None;
            metrics::gauge!(names::TIMERS_DUE, "service" => M::NAME).set(0.0);
        } else if self.may_fire().await {
            self.fire().await?;
        }
        Ok(())
    }

    /// Whether this service has been up to date for the whole grace.
    async fn may_fire(&mut self) -> bool {
        if !M::DEADLINES_WAIT_FOR_INPUT {
            return true;
        }
        self.waits_for = match self.missing().await {
            Ok(None) => {
                let grace = self.settings.grace;
                let since = self.up_to_date_since.get_or_insert_with(Instant::now);
                (since.elapsed() < grace).then(|| format!("all is read, and others have {grace:?} to answer it"))
            }
            Ok(Some(reason)) | Err(reason) => {
                self.up_to_date_since = None;
                Some(reason)
            }
        };
        self.waits_for.is_none()
    }

    /// What this service has yet to publish or to read before it is up to date.
    async fn missing(&mut self) -> Result<Option<String>, String> {
        if self.relay.status().unpublished_age > RELAY_AGE_MAX {
            return Ok(Some("its own events are not published yet".to_owned()));
        }
        let looked_at = Instant::now();
        let ends = self.settings.log.log_ends(&self.settings.topics).await;
        let ends = ends.map_err(|error| format!("it is not known where the logs end: {error}"))?;
        self.looks.push_back((looked_at, ends));
        while self.looks.get(1).is_some_and(|(at, _)| at.elapsed() >= INPUT_AGE_MAX) {
            self.looks.pop_front();
        }
        let Some((_, must_have_read)) = self.looks.front().filter(|(at, _)| at.elapsed() >= INPUT_AGE_MAX) else {
            return Ok(Some("it has just begun to look where the logs end".to_owned()));
        };
        let client = self.pool.get().await.map_err(text)?;
        let ours = inbox::offsets(&client, M::NAME).await.map_err(text)?;
        Ok(unread(must_have_read, &ours))
    }

    async fn fire(&self) -> Result<(), String> {
        let client = self.pool.get().await.map_err(text)?;
        let claimed = timers::claim(&client, DEADLINES_CLAIMED_MAX, CLAIM_LEASE)
            .await
            .map_err(text)?;
        drop(client);
        metrics::gauge!(names::TIMERS_DUE, "service" => M::NAME).set(claimed.len() as f64);
        let turns = claimed.iter().map(|(stream, due)| self.fire_one(stream, *due));
        for result in futures_util::future::join_all(turns).await {
            if let Err(error) = result {
                // The claim runs out and the deadline comes up again.
                tracing::warn!(service = M::NAME, error, "a deadline could not be dealt with yet");
            }
        }
        Ok(())
    }

    async fn fire_one(&self, stream: &StreamId, due: Timestamp) -> Result<(), String> {
        let (state, _) = self.committer.state(stream).await?;
        let mut next = self.committer.model().deadline(&state);
        if next.is_some_and(|next| next <= Timestamp::now())
            && let Some(command) = self.committer.model().on_deadline(stream, &state, due).await
        {
            let due_text = due.as_millisecond().to_string();
            let cause = Cause {
                id: named_id("deadline", &[M::NAME, stream.as_str(), &due_text]),
                correlation_id: Uuid::parse_str(stream.key())
                    .unwrap_or_else(|_| named_id("stream", &[stream.as_str()])),
                traceparent: None,
            };
            next = match self.commands.submit(stream.clone(), command, cause, Expect::Any).await {
                Ok(outcome) => self.committer.model().deadline(&outcome.state),
                Err(SubmitError::Rejected(rejection)) => {
                    tracing::info!(stream = %stream, error = %rejection, "a deadline no longer matters");
                    next
                }
                Err(error) => return Err(text(error)),
            };
        }
        let client = self.pool.get().await.map_err(text)?;
        timers::settle(&client, stream, next).await.map_err(text)
    }

    async fn resets(&self) -> Result<(), String> {
        let client = self.pool.get().await.map_err(text)?;
        self.committer.notice_resets(&client).await.map_err(text)
    }

    async fn partitions(&self) -> Result<(), String> {
        let client = self.pool.get().await.map_err(text)?;
        inbox::ensure_partitions(&client, Timestamp::now()).await.map_err(text)
    }

    /// Says what deadlines wait for that have passed a while ago.
    fn tell_wait(&mut self, overdue: Duration) {
        let told = self.wait_told_at.is_some_and(|at| at.elapsed() < WAIT_TOLD_INTERVAL);
        if let Some(reason) = &self.waits_for
            && overdue >= WAIT_TOLD_AFTER
            && !told
        {
            self.wait_told_at = Some(Instant::now());
            let overdue_secs = overdue.as_secs();
            tracing::warn!(service = M::NAME, overdue_secs, reason, "deadlines wait");
        }
    }

    async fn figures(&mut self) -> Result<(), String> {
        let client = self.pool.get().await.map_err(text)?;
        let waiting = parking::figures(&client, M::NAME).await.map_err(text)?;
        let overdue = timers::overdue(&client).await.map_err(text)?;
        self.committer.model().figures(&client).await.map_err(text)?;
        let ours = inbox::offsets(&client, M::NAME).await.map_err(text)?;
        for (id, schema) in self.committer.codec().take_fetched() {
            store::remember_schema(&client, id, &schema.name, &schema.text)
                .await
                .map_err(text)?;
        }
        drop(client);
        self.tell_wait(overdue);
        metrics::gauge!(names::PARKED_KEYS, "consumer" => M::NAME).set(waiting.keys as f64);
        metrics::gauge!(names::PARKED_RECORDS, "consumer" => M::NAME).set(waiting.records as f64);
        metrics::gauge!(names::PARKED_OLDEST_AGE_SECONDS, "consumer" => M::NAME).set(waiting.oldest_key_secs);
        metrics::gauge!(names::DEAD_LETTERS, "consumer" => M::NAME).set(waiting.undecided as f64);
        metrics::gauge!(names::DEAD_LETTERS_OLDEST_AGE_SECONDS, "consumer" => M::NAME)
            .set(waiting.oldest_undecided_secs);
        metrics::gauge!(names::TIMERS_OVERDUE_SECONDS, "service" => M::NAME).set(overdue.as_secs_f64());
        for end in self.settings.log.log_ends(&self.settings.topics).await.map_err(text)? {
            let next = ours
                .get(&(end.topic.clone(), end.partition))
                .copied()
                .unwrap_or(end.first);
            metrics::gauge!(
                names::CONSUMER_LAG_RECORDS,
                "group" => M::NAME,
                "topic" => end.topic,
                "partition" => end.partition.to_string()
            )
            .set((end.end - next).max(0) as f64);
        }
        Ok(())
    }
}

/// The first log that has not been read to its end, in words.
fn unread(logs: &[LogEnd], ours: &HashMap<(String, i32), i64>) -> Option<String> {
    logs.iter().find_map(|log| {
        let next = ours.get(&(log.topic.clone(), log.partition)).copied();
        let next = next.unwrap_or(log.first).max(log.first);
        (next < log.end).then(|| {
            format!(
                "partition {} of {} is read up to {next} of {}",
                log.partition, log.topic, log.end
            )
        })
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_when_all_that_it_keeps_was_dealt_with() {
        let log = |first, end| LogEnd {
            topic: "orders.events".to_owned(),
            partition: 3,
            first,
            end,
        };
        let at = |next| HashMap::from([(("orders.events".to_owned(), 3), next)]);
        for (log, ours) in [
            (log(0, 0), HashMap::new()),
            (log(7, 7), HashMap::new()),
            (log(7, 7), at(3)),
            (log(0, 9), at(9)),
            (log(0, 9), at(12)),
        ] {
            assert_eq!(unread(&[log], &ours), None);
        }
        for (log, ours, told) in [
            (log(0, 9), at(8), "partition 3 of orders.events is read up to 8 of 9"),
            (
                log(4, 9),
                HashMap::new(),
                "partition 3 of orders.events is read up to 4 of 9",
            ),
        ] {
            assert_eq!(unread(&[log], &ours).as_deref(), Some(told));
        }
    }
}
