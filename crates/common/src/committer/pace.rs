//! How soon a loop commits: after a commit for several sagas not before a while has passed, and what nobody waits for not at
//! once.
//!
//! A transaction costs a few milliseconds of all processors together, in the services, Postgres and Kafka, whatever is in it.
//! Where several sagas are under way, a loop that begins at once finds little more than what came during its last commit; after
//! the pause it finds more, and fewer transactions, records and fetches do the same work. The pause is as long as the commit
//! took, within bounds: it follows the load by itself.
//!
//! Two services that are asked the same thing at the same time answer at about the same time, and only both answers lead on.
//! The first waits a moment for the second: one transaction then takes both, and the second does not wait for the commit of
//! the first.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest pause: in less than that too little comes to make up for the waiting.
const PAUSE_MIN: Duration = Duration::from_millis(8);
/// Longest pause: a slow disk or a conflict makes commits long, and more company would make them longer.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How long records that nobody waits for wait for others.
pub(super) const COMPANY_WAIT: Duration = Duration::from_millis(3);

/// When the next commit of a loop may begin.
pub(super) struct Pace {
    next: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { next: Instant::now() }
    }

    /// Waits until the next commit may begin; one that is `full` needs no company.
    pub(super) async fn wait(&self, full: bool) {
        // A sleep that is over already can still last until the timer's next millisecond.
        if !full && self.next > Instant::now() {
            tokio::time::sleep_until(self.next).await;
        }
    }

    /// A commit ends now. One for a single saga says that there is little to do: the next one begins at once, so that a lone
    /// saga waits for nothing.
    pub(super) fn committed(&mut self, several_sagas: bool, began: Instant) {
        let now = Instant::now();
        self.next = if several_sagas {
            now + (now - began).clamp(PAUSE_MIN, PAUSE_MAX)
        } else {
            now
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the next commit waits behind one that took so long.
    async fn after(several_sagas: bool, took: Duration, full: bool) -> Duration {
        let mut pace = Pace::new();
        let began = Instant::now();
        tokio::time::advance(took).await;
        pace.committed(several_sagas, began);
        let began = Instant::now();
        pace.wait(full).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_commit_for_several_sagas_the_next_waits_as_long_as_that_took_within_bounds() {
        let between = (PAUSE_MIN + PAUSE_MAX) / 2;
        for (took, pause) in [
            (Duration::ZERO, PAUSE_MIN),
            (between, between),
            (PAUSE_MAX * 50, PAUSE_MAX),
        ] {
            assert_eq!(after(true, took, false).await, pause);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_for_one_saga_and_a_full_batch_wait_for_nothing() {
        assert_eq!(after(false, PAUSE_MAX, false).await, Duration::ZERO);
        assert_eq!(after(true, PAUSE_MAX, true).await, Duration::ZERO);
    }
}
