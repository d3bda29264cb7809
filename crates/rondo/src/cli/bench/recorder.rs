//! What a run measured: how many, how they ended, and how long each part of it took.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::endings::{Ended, Outcome};

/// Longest time that is told apart, in microseconds: ten minutes.
const TIME_MAX_US: u64 = 600_000_000;
/// Digits that are kept of each time.
const DIGITS: u8 = 3;
/// How many kinds of refusal are told apart.
const REFUSALS_MAX: usize = 20;

/// Times, in microseconds.
pub(super) type Times = Histogram<u64>;

/// Collects while the load runs.
pub(super) struct Recorder {
    /// What ends before is warm-up, what ends after does not count.
    counts: (Instant, Instant),
    tally: Mutex<Tally>,
}

/// What was collected.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// From when an order was due to the answer to its request.
    pub(super) accepted: Times,
    /// To its confirmation.
    pub(super) confirmed: Times,
    /// To its end.
    pub(super) ended: Times,
    /// By how they ended.
    pub(super) completed: u64,
    pub(super) cancelled: u64,
    pub(super) stuck: u64,
    /// Requests that were answered otherwise than by an order, and how often.
    pub(super) refused: BTreeMap<String, u64>,
    /// Orders that were due and not placed, because too many were in flight.
    pub(super) shed: u64,
    /// Orders accepted whose end was not seen.
    pub(super) unfinished: u64,
}

impl Recorder {
    /// Counts what ends between the two moments.
    pub(super) fn new(counts: (Instant, Instant)) -> Self {
        let times = || Times::new_with_bounds(1, TIME_MAX_US, DIGITS).expect("these bounds make a histogram");
        Self {
            counts,
            tally: Mutex::new(Tally {
                accepted: times(),
                confirmed: times(),
                ended: times(),
                completed: 0,
                cancelled: 0,
                stuck: 0,
                refused: BTreeMap::new(),
                shed: 0,
                unfinished: 0,
            }),
        }
    }

    fn counts(&self, at: Instant) -> bool {
        (self.counts.0..self.counts.1).contains(&at)
    }

    /// An order that was due at `due`, was accepted, and ended.
    pub(super) fn ended(&self, due: Instant, accepted: Instant, ended: Ended) {
        if !self.counts(ended.at) {
            return;
        }
        let mut tally = self.lock();
        tally.accepted.saturating_record(micros(accepted, due));
        if let Some(confirmed) = ended.confirmed {
            tally.confirmed.saturating_record(micros(confirmed, due));
        }
        tally.ended.saturating_record(micros(ended.at, due));
        match ended.outcome {
            Outcome::Completed => tally.completed += 1,
            Outcome::Cancelled => tally.cancelled += 1,
            Outcome::Stuck => tally.stuck += 1,
        }
    }

    /// A request that was answered by no order.
    pub(super) fn refused(&self, why: String) {
        let mut tally = self.lock();
        if tally.refused.len() < REFUSALS_MAX || tally.refused.contains_key(&why) {
            *tally.refused.entry(why).or_default() += 1;
        } else {
            *tally.refused.entry("other reasons".to_owned()).or_default() += 1;
        }
    }

    /// An order that was not placed when it was due.
    pub(super) fn shed(&self) {
        self.lock().shed += 1;
    }

    /// An order that was accepted and whose end was not seen.
    pub(super) fn unfinished(&self) {
        self.lock().unfinished += 1;
    }

    /// How many have ended, of those that count, and the median of their times.
    pub(super) fn so_far(&self) -> (u64, Duration) {
        let tally = self.lock();
        let median = Duration::from_micros(tally.ended.value_at_quantile(0.5));
        (tally.ended.len(), median)
    }

    /// What was collected so far.
    pub(super) fn tally(&self) -> Tally {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().expect("no holder of this lock panics")
    }
}

fn micros(at: Instant, since: Instant) -> u64 {
    let elapsed = at.saturating_duration_since(since).as_micros();
    u64::try_from(elapsed).unwrap_or(TIME_MAX_US).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_outside_the_window_does_not_count_and_time_runs_from_when_it_was_due() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let recorder = Recorder::new((at(1_000), at(2_000)));
        for end in [999, 1_000, 1_999, 2_000] {
            let ended = Ended {
                confirmed: Some(at(end - 100)),
                at: at(end),
                outcome: Outcome::Completed,
            };
            recorder.ended(at(end - 400), at(end - 300), ended);
        }
        let tally = recorder.tally();
        assert_eq!((tally.completed, tally.ended.len()), (2, 2));
        assert!(tally.ended.equivalent(tally.ended.max(), 400_000));
        assert!(tally.confirmed.equivalent(tally.confirmed.max(), 300_000));
        assert!(tally.accepted.equivalent(tally.accepted.max(), 100_000));
    }

    #[test]
    fn refusals_are_counted_by_reason_and_their_kinds_are_bounded() {
        let start = Instant::now();
        let recorder = Recorder::new((start, start));
        for n in 0..100 {
            recorder.refused(format!("reason {}", n % 50));
        }
        let refused = recorder.tally().refused;
        assert_eq!(refused.values().sum::<u64>(), 100);
        assert!(refused.len() <= REFUSALS_MAX + 1);
    }
}
