//! How often and when what failed is tried again, for each class of error. No SQL.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Disposition, Failure};

/// Attempts in all, and the waits between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// Attempts in all, the first one included.
    pub attempts_max: i32,
    /// Upper bound of the first wait; zero: at once, every time.
    pub first_wait: Duration,
    /// Upper bound of any wait.
    pub wait_max: Duration,
}

impl Strategy {
    /// The wait after `attempts` failed ones: exponential with full jitter.
    pub fn wait(&self, attempts: i32) -> Duration {
        let exponent = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(20);
        let bound = self.first_wait.saturating_mul(1 << exponent).min(self.wait_max);
        bound.mul_f64(rand::random::<f64>())
    }
}

/// How often and when a parked head is tried again.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub attempts_max: i32,
    /// Upper bound of the first wait.
    pub first_wait: Duration,
    /// Upper bound of any wait.
    pub wait_max: Duration,
    /// What holds instead for an error class, by its name. A class that is never tried again by itself, such as
    /// `rejected`, is if it is named here.
    pub classes: BTreeMap<String, Strategy>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 6,
            first_wait: Duration::from_millis(500),
            wait_max: Duration::from_secs(60),
            classes: BTreeMap::new(),
        }
    }
}

impl RetryPolicy {
    /// What holds for failures of this class.
    pub fn of(&self, class: &str) -> Strategy {
        self.classes.get(class).cloned().unwrap_or(Strategy {
            attempts_max: self.attempts_max,
            first_wait: self.first_wait,
            wait_max: self.wait_max,
        })
    }

    /// What becomes of a record that has failed `attempts` times, this failure included. One that has no key to wait by
    /// (`parks` is false) cannot be tried again.
    pub fn judge(&self, failure: &Failure, attempts: i32, parks: bool) -> Disposition {
        let tried_out = attempts >= self.of(failure.class).attempts_max;
        match failure.disposition {
            Disposition::Retry if tried_out => Disposition::Exhausted,
            Disposition::Poison | Disposition::Business
                if parks && !tried_out && self.classes.contains_key(failure.class) =>
            {
                Disposition::Retry
            }
            disposition => disposition,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: &'static str, disposition: Disposition) -> Failure {
        Failure::told(class, disposition, "it failed".to_owned())
    }

    #[test]
    fn a_wait_grows_with_the_attempts_and_never_passes_its_bound() {
        let strategy = RetryPolicy::default().of("data");
        for attempts in 0..100 {
            let bound = strategy
                .first_wait
                .saturating_mul(1u32 << (attempts.clamp(1, 21) - 1))
                .min(strategy.wait_max);
            assert!(strategy.wait(attempts) <= bound, "after {attempts} attempts");
        }
    }

    #[test]
    fn one_attempt_is_one_attempt() {
        let policy = RetryPolicy {
            attempts_max: 1,
            ..RetryPolicy::default()
        };
        let failed = failure("data", Disposition::Retry);
        assert_eq!(policy.judge(&failed, 1, true), Disposition::Exhausted);
        assert_eq!(RetryPolicy::default().judge(&failed, 5, true), Disposition::Retry);
        assert_eq!(RetryPolicy::default().judge(&failed, 6, true), Disposition::Exhausted);
    }

    #[test]
    fn a_refusal_is_tried_again_only_where_its_class_is_named_and_ends_as_a_refusal() {
        let refused = failure("rejected", Disposition::Business);
        let mut policy = RetryPolicy::default();
        assert_eq!(policy.judge(&refused, 1, true), Disposition::Business);
        let strategy = Strategy {
            attempts_max: 3,
            ..policy.of("rejected")
        };
        policy.classes.insert("rejected".to_owned(), strategy);
        let judged = [1, 2, 3].map(|attempts| policy.judge(&refused, attempts, true));
        assert_eq!(judged, [Disposition::Retry, Disposition::Retry, Disposition::Business]);
        assert_eq!(policy.judge(&refused, 1, false), Disposition::Business);
    }
}
