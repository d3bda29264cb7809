//! A circuit breaker around a consumer: when too large a share of its records dead-letters, it stops taking records, instead
//! of pouring a whole topic into the dead letters.
//!
//! ```text
//!  closed ── share passed within the window ──► open ── pause ──► probing ── a few go through ──► closed
//!                                                ▲                   │
//!                                                └──── one dies ─────┘  (and the next pause is twice as long)
//! ```
//!
//! Nothing is lost while it is open: records stay in Kafka, behind paused partitions. One look a batch is all it costs.
//! Each copy of a service has its own.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::names;

/// Parts of the window that are forgotten at once.
const BUCKETS: u32 = 12;
/// How often a pause is doubled at most.
const DOUBLINGS_MAX: u32 = 4;

/// When it opens, and how it closes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// It opens when more than this share of the records of the window died, from 0 to 1; 1 never is.
    pub share: f64,
    /// How far back it looks.
    pub window: Duration,
    /// It does not judge by fewer records than this.
    pub records_min: u64,
    /// How long it stays open before the first probe.
    pub pause: Duration,
    /// How many records must go through, one by one, before it closes.
    pub probes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            share: 0.5,
            window: Duration::from_secs(60),
            records_min: 100,
            pause: Duration::from_secs(30),
            probes: 5,
        }
    }
}

/// Whether records may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As many as there are.
    Closed,
    /// None for this long.
    Open(Duration),
    /// One at a time.
    Probing,
}

/// The breaker of one consumer.
#[derive(Debug)]
pub struct Breaker {
    consumer: &'static str,
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Records, and those of them that died, by the time at which a part of the window began.
    buckets: VecDeque<(Instant, u64, u64)>,
    /// Times in a row that a probe died.
    failed_probes: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open { until: Instant },
    Probing { through: u64 },
}

impl Breaker {
    /// A closed one.
    pub fn new(consumer: &'static str, settings: Settings) -> Self {
        metrics::gauge!(names::CONSUMER_BREAKER_OPEN, "consumer" => consumer).set(0.0);
        let state = Mutex::new(State {
            phase: Phase::Closed,
            buckets: VecDeque::new(),
            failed_probes: 0,
        });
        Self {
            consumer,
            settings,
            state,
        }
    }

    /// Whether records may be taken now.
    pub fn standing(&self) -> Standing {
        let mut state = self.lock();
        match state.phase {
            Phase::Closed => Standing::Closed,
            Phase::Probing { .. } => Standing::Probing,
            Phase::Open { until } => match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => {
                    state.phase = Phase::Probing { through: 0 };
                    tracing::info!(
                        consumer = self.consumer,
                        "taking single records to see whether they go through"
                    );
                    Standing::Probing
                }
                left => Standing::Open(left),
            },
        }
    }

    /// Whether it takes no records at all.
    pub fn is_open(&self) -> bool {
        matches!(self.standing(), Standing::Open(_))
    }

    /// What is the matter, for people, unless it is closed.
    pub fn complaint(&self) -> Option<String> {
        match self.standing() {
            Standing::Closed => None,
            Standing::Open(left) => Some(format!(
                "paused for {} s more: too many of its records became dead letters",
                left.as_secs() + 1
            )),
            Standing::Probing => Some("taking single records after too many became dead letters".to_owned()),
        }
    }

    /// Notes what became of records: how many there were, and how many of them died.
    pub fn note(&self, records: u64, dead: u64) {
        if records == 0 {
            return;
        }
        let mut state = self.lock();
        match state.phase {
            Phase::Closed => {
                self.add(&mut state, records, dead);
                let (records, dead) = totals(&state);
                if self.passes(records, dead) {
                    self.open(&mut state, records, dead);
                }
            }
            Phase::Probing { .. } if dead > 0 => {
                state.failed_probes += 1;
                self.open(&mut state, records, dead);
            }
            Phase::Probing { through } if through + records >= self.settings.probes => {
                *state = State {
                    phase: Phase::Closed,
                    buckets: VecDeque::new(),
                    failed_probes: 0,
                };
                metrics::gauge!(names::CONSUMER_BREAKER_OPEN, "consumer" => self.consumer).set(0.0);
                tracing::info!(
                    consumer = self.consumer,
                    "records go through again; the consumer goes on"
                );
            }
            Phase::Probing { through } => {
                state.phase = Phase::Probing {
                    through: through + records,
                };
            }
            // What was under way when it opened.
            Phase::Open { .. } => {}
        }
    }

    /// How many of these records may be taken before it opens: some are known to die, and others ask for nothing (`None`).
    pub fn room(&self, records: impl Iterator<Item = Option<bool>>) -> usize {
        let state = self.lock();
        let (mut all, mut dead) = totals(&state);
        let mut taken = 0;
        for dies in records {
            taken += 1;
            all += u64::from(dies.is_some());
            dead += u64::from(dies == Some(true));
            if self.passes(all, dead) {
                break;
            }
        }
        taken
    }

    fn passes(&self, records: u64, dead: u64) -> bool {
        records >= self.settings.records_min && dead as f64 > self.settings.share * records as f64
    }

    fn add(&self, state: &mut State, records: u64, dead: u64) {
        let now = Instant::now();
        while state
            .buckets
            .front()
            .is_some_and(|(since, ..)| now.duration_since(*since) > self.settings.window)
        {
            state.buckets.pop_front();
        }
        match state.buckets.back_mut() {
            Some((since, all, died)) if now.duration_since(*since) < self.settings.window / BUCKETS => {
                *all += records;
                *died += dead;
            }
            _ => state.buckets.push_back((now, records, dead)),
        }
    }

    fn open(&self, state: &mut State, records: u64, dead: u64) {
        let pause = self.settings.pause * (1 << state.failed_probes.min(DOUBLINGS_MAX));
        state.phase = Phase::Open {
            until: Instant::now() + pause,
        };
        state.buckets.clear();
        metrics::gauge!(names::CONSUMER_BREAKER_OPEN, "consumer" => self.consumer).set(1.0);
        metrics::counter!(names::CONSUMER_BREAKER_OPENED_TOTAL, "consumer" => self.consumer).increment(1);
        tracing::error!(
            consumer = self.consumer,
            records,
            dead,
            pause_secs = pause.as_secs(),
            "too many records became dead letters: the consumer takes no more for now, and nothing is lost. `rondo dlq \
             list` says why they died; mend that, then redrive them. It tries single records by itself after the pause"
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

fn totals(state: &State) -> (u64, u64) {
    let add = |(records, dead), (_, more, died): &(Instant, u64, u64)| (records + more, dead + died);
    state.buckets.iter().fold((0, 0), add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        let settings = Settings {
            share: 0.2,
            records_min: 10,
            probes: 3,
            ..Settings::default()
        };
        Breaker::new("tested", settings)
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_above_the_share_and_not_before_there_are_enough_records() {
        let breaker = breaker();
        breaker.note(9, 9);
        assert_eq!(breaker.standing(), Standing::Closed);
        breaker.note(36, 0);
        assert_eq!(breaker.standing(), Standing::Closed, "9 of 45 is the share");
        breaker.note(1, 1);
        assert_eq!(breaker.standing(), Standing::Open(Duration::from_secs(30)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_behind_the_window_is_forgotten() {
        let breaker = breaker();
        breaker.note(9, 9);
        tokio::time::advance(Duration::from_secs(61)).await;
        breaker.note(9, 1);
        breaker.note(1, 0);
        assert_eq!(breaker.standing(), Standing::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn it_closes_when_probes_go_through_and_waits_twice_as_long_when_one_dies() {
        let breaker = breaker();
        breaker.note(10, 10);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(breaker.standing(), Standing::Probing);
        breaker.note(1, 0);
        breaker.note(1, 1);
        assert_eq!(breaker.standing(), Standing::Open(Duration::from_secs(60)));
        assert!(breaker.complaint().is_some());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(breaker.standing(), Standing::Probing);
        for _ in 0..3 {
            breaker.note(1, 0);
        }
        assert_eq!(breaker.standing(), Standing::Closed);
        assert_eq!(breaker.complaint(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn of_records_that_are_known_to_die_only_so_many_are_taken() {
        let breaker = breaker();
        breaker.note(5, 0);
        let idle = || std::iter::repeat_n(None, 100);
        let dying = idle().chain(std::iter::repeat_n(Some(true), 1_000));
        assert_eq!(
            breaker.room(dying),
            105,
            "with the tenth record that asks for something it opens"
        );
        assert_eq!(breaker.room(idle().chain([Some(false)])), 101);
    }
}
