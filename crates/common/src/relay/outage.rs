//! Something is away: say so once, say once that it is back, and try in growing, jittered intervals in between.

use std::error::Error;
use std::time::{Duration, Instant};

/// First pause after a failure.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: how much later than the rest of the world we notice that it is back.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Logs changes of state, not attempts.
#[derive(Debug)]
pub(super) struct Outage {
    service: &'static str,
    what: &'static str,
    since: Option<Instant>,
}

impl Outage {
    pub(super) fn new(service: &'static str, what: &'static str) -> Self {
        Self {
            service,
            what,
            since: None,
        }
    }

    /// It failed. Only the first failure after a success is a warning.
    pub(super) fn begins(&mut self, error: &(dyn Error + 'static)) {
        if self.since.is_some() {
            tracing::debug!(service = self.service, error, "{} still fails", self.what);
            return;
        }
        self.since = Some(Instant::now());
        tracing::warn!(
            service = self.service,
            error,
            "{} fails; it is tried again until it works",
            self.what
        );
    }

    /// It worked.
    pub(super) fn is_over(&mut self) {
        if let Some(since) = self.since.take() {
            let duration_secs = since.elapsed().as_secs();
            tracing::info!(service = self.service, duration_secs, "{} works again", self.what);
        }
    }
}

/// Pauses that double up to a limit, each drawn from the upper half so that copies do not march in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = PAUSE_FIRST.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        rand::random_range(ceiling / 2..=ceiling)
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_again_after_a_success() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= PAUSE_FIRST);
        let last = (0..40).map(|_| backoff.next()).last().unwrap();
        assert!(last >= PAUSE_MAX / 2 && last <= PAUSE_MAX);
        backoff.reset();
        assert!(backoff.next() <= PAUSE_FIRST);
    }
}
