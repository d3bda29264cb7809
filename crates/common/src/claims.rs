//! Which partitions this process reads, under which epochs, and how far their records are committed.
//!
//! ```text
//!  consumer thread ── assign, revoke ──► Claims ◄── is it still mine? how far? ── committer
//! ```

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Held {
    epoch: i64,
    next_offset: Option<i64>,
}

#[derive(Debug, Default)]
struct Inner {
    held: HashMap<(String, i32), Held>,
    fenced: Vec<(String, i32)>,
    reset: Vec<Reset>,
    committing: bool,
    changes: u64,
}

/// An offset that was moved on purpose and taken up here; the group's committed offset is to follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// With namespace.
    pub topic: String,
    /// Of the topic.
    pub partition: i32,
    /// The claim that took it up.
    pub epoch: i64,
    /// Where to.
    pub next_offset: i64,
}

/// Shared by the consumer thread and the committer of one consumer.
#[derive(Debug, Default)]
pub struct Claims {
    inner: Mutex<Inner>,
    idle: Condvar,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// A partition was assigned to this process and claimed in the database.
    pub fn hold(&self, topic: &str, partition: i32, epoch: i64) {
        let mut inner = self.lock();
        inner.held.insert(
            (topic.to_owned(), partition),
            Held {
                epoch,
                next_offset: None,
            },
        );
        inner.changes += 1;
    }

    /// A partition is no longer this process's: its records still in memory are to be dropped.
    pub fn give_up(&self, topic: &str, partition: i32) {
        let mut inner = self.lock();
        inner.held.remove(&(topic.to_owned(), partition));
        inner.changes += 1;
    }

    /// Whether a record read under `epoch` may still take effect here.
    pub fn holds(&self, topic: &str, partition: i32, epoch: i64) -> bool {
        self.lock()
            .held
            .get(&(topic.to_owned(), partition))
            .is_some_and(|held| held.epoch == epoch)
    }

    /// The epoch of a partition, if held.
    pub fn epoch(&self, topic: &str, partition: i32) -> Option<i64> {
        self.lock()
            .held
            .get(&(topic.to_owned(), partition))
            .map(|held| held.epoch)
    }

    /// Rises with each assignment and revocation: what was remembered before one may be stale after it.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// The database holds this next offset now.
    pub fn committed(&self, topic: &str, partition: i32, epoch: i64, next_offset: i64) {
        if let Some(held) = self.lock().held.get_mut(&(topic.to_owned(), partition))
            && held.epoch == epoch
        {
            held.next_offset = Some(next_offset);
        }
    }

    /// Every held partition's committed next offset.
    pub fn progress(&self) -> Vec<(String, i32, i64)> {
        let inner = self.lock();
        let known = inner.held.iter();
        known
            .filter_map(|((topic, partition), held)| Some((topic.clone(), *partition, held.next_offset?)))
            .collect()
    }

    /// The database refused a batch of this partition because somebody claimed it since.
    pub fn fenced(&self, topic: &str, partition: i32) {
        self.lock().fenced.push((topic.to_owned(), partition));
    }

    /// Somebody moved the offset on purpose, under a newer epoch: what was read before is dropped, and the consumer thread
    /// goes on from there. Nothing if this process knows already, or does not hold the partition.
    pub fn moved(&self, topic: &str, partition: i32, epoch: i64) {
        let mut inner = self.lock();
        let place = (topic.to_owned(), partition);
        if inner.held.get(&place).is_some_and(|held| held.epoch < epoch) {
            inner.held.remove(&place);
            inner.changes += 1;
            inner.fenced.push(place);
        }
    }

    /// A moved offset was taken up.
    pub fn took_up(&self, reset: Reset) {
        self.lock().reset.push(reset);
    }

    /// Moved offsets that were taken up since the last call and are still held, for the group's offset to follow.
    pub fn take_resets(&self) -> Vec<Reset> {
        let mut inner = self.lock();
        let mut resets = std::mem::take(&mut inner.reset);
        resets.retain(|reset| {
            let held = inner.held.get(&(reset.topic.clone(), reset.partition));
            held.is_some_and(|held| held.epoch == reset.epoch)
        });
        resets
    }

    /// Partitions refused since the last call, for the consumer thread to claim again if they are still its own.
    pub fn take_fenced(&self) -> Vec<(String, i32)> {
        std::mem::take(&mut self.lock().fenced)
    }

    /// A batch begins; [`Self::wait_idle`] waits for it.
    pub fn begin(&self) {
        self.lock().committing = true;
    }

    /// The batch has ended, one way or the other.
    pub fn end(&self) {
        self.lock().committing = false;
        self.idle.notify_all();
    }

    /// Waits until no batch is open, at most `bound`; whether that was reached.
    pub fn wait_idle(&self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        let mut inner = self.lock();
        while inner.committing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self
                .idle
                .wait_timeout(inner, left)
                .expect("no holder of this lock panics")
                .0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_older_claim_is_not_held() {
        let claims = Claims::default();
        claims.hold("t", 0, 1);
        assert!(claims.holds("t", 0, 1));
        claims.hold("t", 0, 2);
        assert!(!claims.holds("t", 0, 1));
        claims.give_up("t", 0);
        assert!(!claims.holds("t", 0, 2));
    }

    #[test]
    fn a_moved_offset_is_noticed_once_and_only_by_who_holds_the_partition() {
        let claims = Claims::default();
        claims.moved("t", 0, 2);
        assert!(claims.take_fenced().is_empty());
        claims.hold("t", 0, 1);
        claims.moved("t", 0, 2);
        claims.moved("t", 0, 2);
        assert_eq!(claims.take_fenced(), [("t".to_owned(), 0)]);
        assert!(!claims.holds("t", 0, 1));
        // Taken up; a look at the database that is a moment old changes nothing.
        claims.hold("t", 0, 3);
        claims.moved("t", 0, 2);
        assert!(claims.holds("t", 0, 3) && claims.take_fenced().is_empty());
    }

    #[test]
    fn waiting_for_an_open_batch_is_bounded() {
        let claims = Claims::default();
        claims.begin();
        assert!(!claims.wait_idle(Duration::from_millis(20)));
        claims.end();
        assert!(claims.wait_idle(Duration::ZERO));
    }
}
