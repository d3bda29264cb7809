//! Folding a log of any length in bounded memory.
//!
//! The states of the streams that were met last are kept, [`STREAMS_OPEN_MAX`] of them. A stream that goes on after it
//! was let go, or that was open when an earlier run was killed, is set aside: from the first version that was not folded it
//! is told again later, from the event store. Positions rise in each partition but for repetitions, so a record that does
//! not rise is one.

use std::collections::HashMap;
use std::sync::Arc;

use super::intake::{Intake, Taken};
use super::rebuild::Error;
use super::seen::Arrival;
use super::source::Found;
use crate::codec::Codec;
use crate::event::{Recorded, StreamId};
use crate::model::{Change, Model};
use crate::pg::copy::Load;

/// Streams whose state is kept. Those of one service have one to two kilobytes each.
pub const STREAMS_OPEN_MAX: usize = 20_000;
/// Events of one batch, which is one transaction.
pub const BATCH_EVENTS_MAX: usize = 8_000;
/// Bytes of rows for the event store after which a batch ends in any case.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The states that are kept: in two halves, of which the one that was not touched for longest is dropped whole.
pub(super) struct Fold<M: Model> {
    model: Arc<M>,
    codec: Arc<Codec>,
    young: HashMap<StreamId, Entry<M>>,
    old: HashMap<StreamId, Entry<M>>,
    streams_max: usize,
}

struct Entry<M: Model> {
    state: Arc<M::State>,
    version: i64,
}

/// What one batch of events did.
pub(super) struct Batch<M: Model> {
    streams: HashMap<StreamId, Working<M>>,
    /// Streams that must be told again.
    pub(super) aside: HashMap<StreamId, Aside>,
    /// Where each partition goes on: offset, and the highest position so far.
    pub(super) next: HashMap<i32, (i64, i64)>,
    /// Events that were folded or set aside.
    pub(super) events: u64,
    /// Records that repeat an event.
    pub(super) repeated: u64,
    /// Records that are no events of ours.
    pub(super) foreign: u64,
    /// What goes into the event store, where that is restored.
    pub(super) taken: Taken,
    /// What goes into read models and meets no other row.
    pub(super) fresh: Vec<Load>,
}

/// From where a stream must be told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aside {
    /// The first version that was not folded.
    pub(super) first: i64,
    /// The last one that was met.
    pub(super) last: i64,
    /// Whether a version between was not in the log.
    pub(super) gap: bool,
}

struct Working<M: Model> {
    before: Arc<M::State>,
    after: Arc<M::State>,
    version: i64,
    events: Vec<(M::Event, Recorded)>,
}

impl<M: Model> Batch<M> {
    pub(super) fn new() -> Self {
        Self {
            streams: HashMap::new(),
            aside: HashMap::new(),
            next: HashMap::new(),
            events: 0,
            repeated: 0,
            foreign: 0,
            taken: Taken::default(),
            fresh: Vec::new(),
        }
    }

    /// What happened, stream by stream.
    pub(super) fn changes(&self) -> Vec<Change<'_, M>> {
        let changed = self.streams.iter().filter(|(_, stream)| !stream.events.is_empty());
        changed
            .map(|(stream_id, stream)| Change {
                stream_id,
                before: &*stream.before,
                after: &*stream.after,
                version: stream.version,
                events: &stream.events,
            })
            .collect()
    }

    /// Makes the rows that need no look at what is there.
    pub(super) fn make_rows(&mut self, model: &M) {
        let fresh = model.fresh_rows(&self.changes());
        self.fresh = fresh;
    }

    /// Whether it should be written now: it holds as many events, or streams, as memory has room for.
    pub(super) fn is_full(&self, streams_max: usize) -> bool {
        self.events + self.repeated + self.foreign >= BATCH_EVENTS_MAX as u64
            || self.streams.len() + self.aside.len() >= streams_max / 2
            || self.taken.bytes() >= BATCH_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty() && self.streams.is_empty()
    }
}

impl<M: Model> Fold<M> {
    pub(super) fn new(model: Arc<M>, codec: Arc<Codec>, streams_max: usize) -> Self {
        Self {
            model,
            codec,
            young: HashMap::new(),
            old: HashMap::new(),
            streams_max: streams_max.max(2),
        }
    }

    /// Forgets all states.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// Whether the state of `stream` is at hand.
    pub(super) fn knows(&self, batch: &Batch<M>, stream: &StreamId) -> bool {
        batch.streams.contains_key(stream) || self.young.contains_key(stream) || self.old.contains_key(stream)
    }

    /// Folds a record of the log into `batch`; one with a position above `position_max` is left for later.
    pub(super) async fn take(
        &mut self,
        batch: &mut Batch<M>,
        found: Found,
        (top, position_max): (i64, i64),
    ) -> Result<(), Error> {
        let next = batch.next.entry(found.partition).or_insert((0, top));
        next.0 = found.offset + 1;
        let Some(recorded) = found.recorded else {
            batch.foreign += 1;
            return Ok(());
        };
        let position = recorded.envelope.position;
        if position > position_max {
            return Ok(());
        }
        if position > 0 {
            if position <= next.1 {
                batch.repeated += 1;
                return Ok(());
            }
            next.1 = position;
        }
        self.add(batch, recorded).await
    }

    /// Folds a record of the log into `batch`, and takes its row along for the event store.
    pub(super) async fn import(
        &mut self,
        batch: &mut Batch<M>,
        found: Found,
        intake: &mut Intake,
    ) -> Result<(), Error> {
        batch.next.insert(found.partition, (found.offset + 1, 0));
        match intake.take::<M>(&mut batch.taken, found)? {
            Some((Arrival::New, recorded)) => self.add(batch, recorded).await?,
            Some(_) => batch.repeated += 1,
            None => batch.foreign += 1,
        }
        Ok(())
    }

    /// Folds an event into `batch`, or sets its stream aside.
    pub(super) async fn add(&mut self, batch: &mut Batch<M>, mut recorded: Recorded) -> Result<(), Error> {
        batch.events += 1;
        let version = recorded.envelope.stream_version;
        let Some(stream) = self.working(batch, &recorded.stream_id, version) else {
            let aside = batch.aside.entry(recorded.stream_id).or_insert(Aside {
                first: version,
                last: version,
                gap: false,
            });
            aside.gap |= version > aside.last + 1;
            // A log whose broker has lost its end may hold a version before an earlier one.
            aside.first = aside.first.min(version);
            aside.last = aside.last.max(version);
            return Ok(());
        };
        if version <= stream.version {
            batch.repeated += 1;
            return Ok(());
        }
        if version > stream.version + 1 {
            let first = stream.version + 1;
            // What was folded of it is written with this batch; what follows is told again.
            let aside = Aside {
                first,
                last: version,
                gap: true,
            };
            batch.aside.insert(recorded.stream_id, aside);
            return Ok(());
        }
        let event = decode(&self.codec, &recorded).await?;
        self.model
            .evolve(Arc::make_mut(&mut stream.after), &event, &recorded.envelope);
        stream.version = version;
        // The event says it all; its bytes are not needed any more.
        recorded.payload = bytes::Bytes::new();
        stream.events.push((event, recorded));
        Ok(())
    }

    /// The stream within this batch; `None` if its events up to `version` are not at hand.
    fn working<'b>(
        &mut self,
        batch: &'b mut Batch<M>,
        stream_id: &StreamId,
        version: i64,
    ) -> Option<&'b mut Working<M>> {
        if batch.aside.contains_key(stream_id) {
            return None;
        }
        if !batch.streams.contains_key(stream_id) {
            let kept = self.young.remove(stream_id).or_else(|| self.old.remove(stream_id));
            let entry = match kept {
                Some(entry) => entry,
                None if version <= 1 => Entry {
                    state: Arc::default(),
                    version: 0,
                },
                None => return None,
            };
            let working = Working {
                before: entry.state.clone(),
                after: entry.state,
                version: entry.version,
                events: Vec::new(),
            };
            batch.streams.insert(stream_id.clone(), working);
        }
        batch.streams.get_mut(stream_id)
    }

    /// Folds an event that is written already: the state that later ones build on.
    pub(super) async fn remember(&mut self, batch: &mut Batch<M>, recorded: &Recorded) -> Result<(), Error> {
        let event = decode(&self.codec, recorded).await?;
        let stream = batch
            .streams
            .entry(recorded.stream_id.clone())
            .or_insert_with(|| Working {
                before: Arc::default(),
                after: Arc::default(),
                version: 0,
                events: Vec::new(),
            });
        self.model
            .evolve(Arc::make_mut(&mut stream.before), &event, &recorded.envelope);
        stream.after = stream.before.clone();
        stream.version = recorded.envelope.stream_version;
        Ok(())
    }

    /// Keeps the states that `batch` came to, before it is written; of streams that were set aside none.
    pub(super) fn keep(&mut self, batch: &Batch<M>) {
        for (stream_id, stream) in &batch.streams {
            if batch.aside.contains_key(stream_id) {
                continue;
            }
            if self.young.len() >= self.streams_max / 2 {
                self.old = std::mem::take(&mut self.young);
            }
            let entry = Entry {
                state: stream.after.clone(),
                version: stream.version,
            };
            self.young.insert(stream_id.clone(), entry);
        }
    }

    /// How many states are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

async fn decode<E: crate::event::EventSet>(codec: &Codec, recorded: &Recorded) -> Result<E, Error> {
    codec.decode(&recorded.payload).await.map_err(|source| Error::Decode {
        stream: recorded.stream_id.clone(),
        version: recorded.envelope.stream_version,
        source,
    })
}

#[cfg(test)]
mod tests;
