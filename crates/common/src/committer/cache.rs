//! Folded states of streams that are busy now, so that a batch need not read their events again.
//!
//! An entry is only ever a guess: the unique constraint on (stream, version) refuses an append that was decided on a
//! stale one, and the committer looks again before it believes a stale "nothing to do". Two generations bound the memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::event::StreamId;

/// Streams in one generation; two are kept.
pub(crate) const GENERATION_STREAMS_MAX: usize = 20_000;

/// A state as of a version.
#[derive(Debug)]
pub(crate) struct Versioned<S> {
    pub(crate) version: i64,
    pub(crate) state: Arc<S>,
}

impl<S> Clone for Versioned<S> {
    fn clone(&self) -> Self {
        Self {
            version: self.version,
            state: self.state.clone(),
        }
    }
}

type Generation<S> = HashMap<StreamId, Versioned<S>>;

#[derive(Debug)]
pub(crate) struct StateCache<S> {
    generations: Mutex<(Generation<S>, Generation<S>)>,
}

impl<S> Default for StateCache<S> {
    fn default() -> Self {
        Self {
            generations: Mutex::new((HashMap::new(), HashMap::new())),
        }
    }
}

impl<S> StateCache<S> {
    pub(crate) fn get(&self, stream: &StreamId) -> Option<Versioned<S>> {
        let generations = self.generations.lock().expect("no holder of this lock panics");
        generations.0.get(stream).or_else(|| generations.1.get(stream)).cloned()
    }

    pub(crate) fn put(&self, stream: &StreamId, entry: Versioned<S>) {
        let mut generations = self.generations.lock().expect("no holder of this lock panics");
        if generations.0.len() >= GENERATION_STREAMS_MAX {
            let young = std::mem::take(&mut generations.0);
            generations.1 = young;
        }
        // A slower task may bring an older version than is known: the newer one stays.
        let known = generations
            .0
            .get(stream)
            .is_some_and(|known| known.version > entry.version);
        if !known {
            generations.0.insert(stream.clone(), entry);
        }
    }

    pub(crate) fn evict(&self, stream: &StreamId) {
        let mut generations = self.generations.lock().expect("no holder of this lock panics");
        generations.0.remove(stream);
        generations.1.remove(stream);
    }

    pub(crate) fn clear(&self) {
        *self.generations.lock().expect("no holder of this lock panics") = (HashMap::new(), HashMap::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: i64) -> Versioned<()> {
        Versioned {
            version,
            state: Arc::new(()),
        }
    }

    #[test]
    fn the_cache_holds_at_most_two_generations() {
        let cache = StateCache::default();
        for n in 0..GENERATION_STREAMS_MAX * 3 {
            cache.put(&StreamId::new(n.to_string()), entry(1));
        }
        let generations = cache.generations.lock().unwrap();
        assert!(generations.0.len() + generations.1.len() <= 2 * GENERATION_STREAMS_MAX);
    }

    #[test]
    fn an_older_version_does_not_replace_a_newer_one() {
        let (cache, stream) = (StateCache::default(), StreamId::new("s"));
        cache.put(&stream, entry(2));
        cache.put(&stream, entry(1));
        assert_eq!(cache.get(&stream).unwrap().version, 2);
    }
}
