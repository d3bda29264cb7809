//! How soon a loop commits again: after a commit of some size, not before as much time has passed as that commit took.
//!
//! A transaction costs a few milliseconds of all processors together, in the services, Postgres and Kafka, whatever is in it.
//! Where there is much to do, a loop that begins at once finds little more than what came during its last commit; after the
//! pause it finds more, and fewer transactions do the same work. Their length follows the load, and so does the pause.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// A smaller commit says that there is little to do: the next one begins at once, so that a lone order waits for nothing.
const ITEMS_MIN: usize = 8;
/// Longest pause: a slow disk or a conflict makes commits long, and more company would make them longer.
const PAUSE_MAX: Duration = Duration::from_millis(10);

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

    /// A commit of so many items ends now.
    pub(super) fn committed(&mut self, items: usize, began: Instant) {
        let now = Instant::now();
        self.next = if items < ITEMS_MIN {
            now
        } else {
            now + (now - began).min(PAUSE_MAX)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a commit of so many items that took so long makes the next batch of two wait, and what it then is.
    async fn after(items: usize, took: Duration, room: usize) -> (Duration, Vec<u8>) {
        let (sender, mut queue) = mpsc::channel(8);
        let mut pace = Pace::new();
        let began = Instant::now();
        tokio::time::advance(took).await;
        pace.committed(items, began);
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
        let took = Duration::from_millis(6);
        assert_eq!(after(ITEMS_MIN, took, 100).await, (took, vec![1, 2, 3, 4, 5]));
        assert_eq!(after(ITEMS_MIN, took, 4).await, (took, vec![1, 2, 3, 4]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_commit_and_a_full_batch_are_followed_at_once() {
        let took = Duration::from_millis(6);
        assert_eq!(after(ITEMS_MIN - 1, took, 100).await, (Duration::ZERO, vec![1, 2]));
        assert_eq!(after(ITEMS_MIN, took, 2).await, (Duration::ZERO, vec![1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_commit_is_followed_after_the_longest_pause() {
        let (waited, batch) = after(ITEMS_MIN, PAUSE_MAX * 50, 100).await;
        assert_eq!((waited, batch.len()), (PAUSE_MAX, 5));
    }
}
