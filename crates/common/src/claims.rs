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
    committing: bool,
    changes: u64,
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
    fn waiting_for_an_open_batch_is_bounded() {
        let claims = Claims::default();
        claims.begin();
        assert!(!claims.wait_idle(Duration::from_millis(20)));
        claims.end();
        assert!(claims.wait_idle(Duration::ZERO));
    }
}
