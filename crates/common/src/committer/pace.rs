//! How soon a loop commits: after a commit for several sagas not before a while has passed, and what nobody waits for not at
//! once.
//!
//! A transaction costs a few milliseconds of all processors together, in the services, Postgres and Kafka, whatever is in it.
//! Where several sagas are under way, a loop that begins at once finds little more than what came during its last commit; after
//! the pause it finds more, and fewer transactions, records and fetches do the same work. The pause is as long as the commit
//! took and longer the more sagas were in it, within bounds: it follows the load by itself. Where there are few the processors
//! have time to spare, and a long pause would only be waited for.
//!
//! Two services that are asked the same thing at the same time answer at about the same time, and only both answers lead on.
//! The first waits a moment for the second: one transaction then takes both, and the second does not wait for the commit of
//! the first.

use std::time::Duration;

use tokio::time::Instant;

/// What each saga of a commit adds to the pause behind it, if the commit did not take longer.
const PAUSE_EACH: Duration = Duration::from_micros(500);
/// The sagas that count so: behind more of them it is the pause that pays, not its length.
pub(super) const PAUSE_SAGAS_MAX: usize = 16;
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

    /// A commit for so many `sagas` ends now. One for a single saga says that there is little to do: the next one begins at
    /// once, so that a lone saga waits for nothing.
    pub(super) fn committed(&mut self, sagas: usize, began: Instant) {
        let now = Instant::now();
        let share = PAUSE_EACH * u32::try_from(sagas.min(PAUSE_SAGAS_MAX)).expect("a small number");
        self.next = if sagas > 1 {
            now + (now - began).max(share).min(PAUSE_MAX)
        } else {
            now
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the next commit waits behind one for so many sagas that took so long.
    async fn after(sagas: usize, took: Duration, full: bool) -> Duration {
        let mut pace = Pace::new();
        let began = Instant::now();
        tokio::time::advance(took).await;
        pace.committed(sagas, began);
        let began = Instant::now();
        pace.wait(full).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_commit_for_several_sagas_the_next_waits_as_long_as_that_took_within_bounds() {
        const SHARE_MAX: Duration = Duration::from_millis(8);
        for (sagas, took, pause) in [
            (2, Duration::ZERO, Duration::from_millis(1)),
            (10, Duration::ZERO, Duration::from_millis(5)),
            (10, Duration::from_millis(6), Duration::from_millis(6)),
            (PAUSE_SAGAS_MAX, Duration::from_millis(2), SHARE_MAX),
            (usize::MAX, Duration::ZERO, SHARE_MAX),
            (usize::MAX, SHARE_MAX * 2, SHARE_MAX * 2),
            (2, PAUSE_MAX * 50, PAUSE_MAX),
        ] {
            assert_eq!(after(sagas, took, false).await, pause, "{sagas} in {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_for_one_saga_and_a_full_batch_wait_for_nothing() {
        assert_eq!(after(1, PAUSE_MAX, false).await, Duration::ZERO);
        assert_eq!(after(2, PAUSE_MAX, true).await, Duration::ZERO);
    }
}
