//! Who waits for what: one-shot waiters, woken by key.
//!
//! ```text
//!  request ── register(key) ─► Waiter ── wait ─────────────────────────► value
//!                                ▲
//!  the commit here ── wake(&key, value)            the commit elsewhere: NOTIFY or a poll asks the database for
//!                                                  pending_keys() and wakes those that have ended
//! ```
//!
//! Register *before* looking whether the thing has already happened, or its wake-up can fall between. The number of
//! waiters is bounded: beyond it nobody waits, which a caller answers as if the time had passed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// A bounded set of waiters; clones share it.
#[derive(Debug)]
pub struct Waiters<K, V> {
    shared: Arc<Shared<K, V>>,
}

#[derive(Debug)]
struct Shared<K, V> {
    count_max: usize,
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    next_ticket: u64,
    count: usize,
    by_key: HashMap<K, Vec<(u64, oneshot::Sender<V>)>>,
}

impl<K, V> Clone for Waiters<K, V> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Waiters<K, V> {
    /// Room for `count_max` waiters over all keys.
    pub fn new(count_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                count_max,
                state: Mutex::new(State {
                    next_ticket: 0,
                    count: 0,
                    by_key: HashMap::new(),
                }),
            }),
        }
    }

    /// A new waiter for `key`, or `None` when there is no room. Dropping it takes it away.
    pub fn register(&self, key: K) -> Option<Waiter<K, V>> {
        let mut state = self.shared.lock();
        if state.count >= self.shared.count_max {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.count += 1;
        state.by_key.entry(key.clone()).or_default().push((ticket, sender));
        Some(Waiter {
            shared: Arc::clone(&self.shared),
            key,
            ticket,
            receiver,
        })
    }

    /// Gives `value` to everyone who waits for `key`; returns how many there were.
    pub fn wake(&self, key: &K, value: V) -> usize {
        let woken = {
            let mut state = self.shared.lock();
            let woken = state.by_key.remove(key).unwrap_or_default();
            state.count -= woken.len();
            woken
        };
        woken
            .into_iter()
            .map(|(_, sender)| sender.send(value.clone()))
            .filter(Result::is_ok)
            .count()
    }

    /// The keys that somebody waits for now.
    pub fn pending_keys(&self) -> Vec<K> {
        self.shared.lock().by_key.keys().cloned().collect()
    }

    /// Whether nobody waits, so that a commit need not even look.
    pub fn is_empty(&self) -> bool {
        self.shared.lock().count == 0
    }

    /// How many wait now.
    pub fn len(&self) -> usize {
        self.shared.lock().count
    }
}

impl<K, V> Shared<K, V> {
    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        // No code that can panic runs under the lock but `K`'s own hash and equality, which leave the map whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits for one key.
#[derive(Debug)]
pub struct Waiter<K: Eq + Hash, V> {
    shared: Arc<Shared<K, V>>,
    key: K,
    ticket: u64,
    receiver: oneshot::Receiver<V>,
}

impl<K: Eq + Hash, V> Waiter<K, V> {
    /// The value, or `None` when it has not come within `timeout`.
    pub async fn wait(mut self, timeout: Duration) -> Option<V> {
        match tokio::time::timeout(timeout, &mut self.receiver).await {
            Ok(received) => received.ok(),
            Err(_) => self.receiver.try_recv().ok(),
        }
    }
}

impl<K: Eq + Hash, V> Drop for Waiter<K, V> {
    fn drop(&mut self) {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        // Cloning the key would need `K: Clone` here for nothing: look it up, and remove it when it was the last.
        let Some(waiting) = state.by_key.get_mut(&self.key) else {
            return;
        };
        let before = waiting.len();
        waiting.retain(|(ticket, _)| *ticket != self.ticket);
        state.count -= before - waiting.len();
        if waiting.is_empty() {
            state.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn everyone_who_waits_for_a_key_is_woken_and_nobody_else() {
        let waiters = Waiters::new(10);
        let first = waiters.register("a").unwrap();
        let second = waiters.register("a").unwrap();
        let other = waiters.register("b").unwrap();
        assert_eq!(waiters.wake(&"a", 7), 2);
        assert_eq!(first.wait(LONG).await, Some(7));
        assert_eq!(second.wait(LONG).await, Some(7));
        assert_eq!(waiters.pending_keys(), vec!["b"]);
        assert_eq!(other.wait(Duration::ZERO).await, None);
    }

    #[tokio::test]
    async fn a_wake_up_before_the_wait_is_not_lost() {
        let waiters = Waiters::new(1);
        let waiter = waiters.register("a").unwrap();
        waiters.wake(&"a", 1);
        assert_eq!(waiter.wait(Duration::ZERO).await, Some(1));
    }

    #[tokio::test]
    async fn beyond_the_bound_nobody_waits_and_a_drop_makes_room() {
        let waiters: Waiters<&str, ()> = Waiters::new(2);
        let first = waiters.register("a").unwrap();
        let second = waiters.register("a").unwrap();
        assert!(waiters.register("b").is_none());
        drop(first);
        assert_eq!(waiters.len(), 1);
        assert_eq!(waiters.pending_keys(), vec!["a"]);
        let third = waiters.register("b").unwrap();
        drop((second, third));
        assert!(waiters.is_empty());
        assert!(waiters.pending_keys().is_empty());
    }

    #[tokio::test]
    async fn a_woken_waiter_that_is_dropped_frees_its_place_once() {
        let waiters = Waiters::new(1);
        let waiter = waiters.register("a").unwrap();
        waiters.wake(&"a", ());
        let again = waiters.register("a").unwrap();
        drop(waiter);
        assert_eq!(
            waiters.len(),
            1,
            "the older waiter's drop must not take the newer one's place away"
        );
        drop(again);
        assert_eq!(waiters.len(), 0);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_time() {
        let waiters: Waiters<u8, u8> = Waiters::new(1);
        assert_eq!(waiters.register(1).unwrap().wait(Duration::from_millis(5)).await, None);
        assert!(waiters.is_empty());
    }
}
