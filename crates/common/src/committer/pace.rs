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

use tokio::sync::mpsc;
use tokio::time::Instant;

/// Shortest pause: in less than that too little comes to make up for the waiting.
const PAUSE_MIN: Duration = Duration::from_millis(8);
/// Longest pause: a slow disk or a conflict makes commits long, and more company would make them longer.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How long records that nobody waits for wait for others.
pub(super) const COMPANY_WAIT: Duration = Duration::from_millis(3);

/// Adds what comes to `queue` next to `batch`, up to `room` of it; `false` if nothing has come by `until`.
pub(super) async fn company<T>(batch: &mut Vec<T>, queue: &mut mpsc::Receiver<T>, room: usize, until: Instant) -> bool {
    tokio::time::timeout_at(until, queue.recv_many(batch, room))
        .await
        .is_ok_and(|received| received > 0)
}

/// When the next commit of a loop may begin.
pub(super) struct Pace {
    next: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { next: Instant::now() }
    }

    /// Waits until the next commit may begin, and adds to `batch` what `queue` has by then, up to `room` in all. A batch that
    /// is full needs no company and does not wait.
    pub(super) async fn fill<T>(&self, batch: &mut Vec<T>, queue: &mut mpsc::Receiver<T>, room: usize) {
        if batch.len() >= room || self.next <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(self.next).await;
        while batch.len() < room
            && let Ok(more) = queue.try_recv()
        {
            batch.push(more);
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

    /// How long a commit that took so long makes the next batch of two wait, and what that batch then is.
    async fn after(several_sagas: bool, took: Duration, room: usize) -> (Duration, Vec<u8>) {
        let (sender, mut queue) = mpsc::channel(8);
        let mut pace = Pace::new();
        let began = Instant::now();
        tokio::time::advance(took).await;
        pace.committed(several_sagas, began);
        let began = Instant::now();
        let mut batch = vec![1, 2];
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            for more in [3, 4, 5] {
                sender.send(more).await.unwrap();
            }
        });
        pace.fill(&mut batch, &mut queue, room).await;
        (began.elapsed(), batch)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_a_commit_is_paused_joins_it_up_to_the_room() {
        let took = (PAUSE_MIN + PAUSE_MAX) / 2;
        assert_eq!(after(true, took, 100).await, (took, vec![1, 2, 3, 4, 5]));
        assert_eq!(after(true, took, 4).await, (took, vec![1, 2, 3, 4]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_for_one_saga_and_a_full_batch_are_followed_at_once() {
        assert_eq!(after(false, PAUSE_MAX, 100).await, (Duration::ZERO, vec![1, 2]));
        assert_eq!(after(true, PAUSE_MAX, 2).await, (Duration::ZERO, vec![1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_is_company_and_nobody_is_waited_for_longer() {
        let (sender, mut queue) = mpsc::channel(8);
        let (began, mut batch) = (Instant::now(), Vec::new());
        let (soon, until) = (Duration::from_millis(1), began + COMPANY_WAIT);
        tokio::spawn(async move {
            tokio::time::sleep(soon).await;
            for more in [1, 2, 3] {
                sender.send(more).await.unwrap();
            }
            tokio::time::sleep(COMPANY_WAIT).await;
        });
        assert!(company(&mut batch, &mut queue, 2, until).await);
        assert_eq!((batch.clone(), began.elapsed()), (vec![1, 2], soon));
        assert!(company(&mut batch, &mut queue, 2, until).await);
        assert!(!company(&mut batch, &mut queue, 2, until).await);
        assert_eq!((batch, began.elapsed()), (vec![1, 2, 3], COMPANY_WAIT));
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_is_bounded_both_ways() {
        for (took, pause) in [(Duration::ZERO, PAUSE_MIN), (PAUSE_MAX * 50, PAUSE_MAX)] {
            let (waited, batch) = after(true, took, 100).await;
            assert_eq!((waited, batch.len()), (pause, 5));
        }
    }
}
