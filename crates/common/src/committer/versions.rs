//! The last version seen of each stream that others write, so that an event that never came is noticed.
//!
//! A stream's versions follow each other without gaps, and its events keep their order on their way here. A version that
//! jumps therefore means that something between the writer and this consumer lost an event. What is remembered is in
//! memory alone, and holds for one claim of one partition: after a restart, a rebalance or a moved offset nothing is known
//! of a stream until a record of it takes effect that the inbox had not seen. Repetitions do not count: they can be of any
//! age. So a hole is found if the records on both its sides are read under one claim, the first of them for the first
//! time; nothing else is ever taken for one. The holes found so far are rows ([`parking`](crate::parking)), and outlive
//! this memory.
//!
//! Streams are told apart by topic and key, which is all that a foreign record says of its stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::event::Envelope;
use crate::record::Record;

/// Streams in one generation; two are kept. A stream that was quiet for longer than that many others is forgotten.
pub(super) const GENERATION_STREAMS_MAX: usize = 50_000;

/// How a record's version follows on what was seen of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is the next one, or has no version.
    InOrder,
    /// Its version was passed before: a repetition, or one that was missing.
    Late,
    /// Nothing is known of its stream under this claim: it may be the next one, a repetition, or one that was missing.
    Unknown,
    /// These versions should have come before it.
    Gap(Gap),
}

/// Versions that did not arrive, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) first: i64,
    pub(super) last: i64,
}

impl Arrival {
    /// Whether this may be a version that others wait for.
    pub(super) fn may_fill(&self) -> bool {
        matches!(self, Self::Late | Self::Unknown)
    }

    pub(super) fn gap(&self) -> Option<Gap> {
        match self {
            Self::Gap(gap) => Some(*gap),
            Self::InOrder | Self::Late | Self::Unknown => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stream {
    topic: Arc<str>,
    key: Box<str>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    partition: i32,
    epoch: i64,
    version: i64,
}

type Generation = HashMap<Stream, Seen>;

/// What was seen by committed batches.
#[derive(Debug, Default)]
pub(super) struct Versions {
    generations: Mutex<(Generation, Generation)>,
}

/// How one batch's records arrived, and what will have been seen once it is committed.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// One for each record that was asked about, in order.
    pub(super) arrivals: Vec<Arrival>,
    seen: Generation,
}

/// A record that arrived, and whether it can be the first one known of its stream: it takes effect now, for the first time.
pub(super) type Arrived<'a> = (&'a Record, &'a Envelope, bool);

impl Versions {
    /// Compares `records` with what was seen; `None` stands for an item that is not a record with an envelope.
    pub(super) fn review<'a>(&self, records: impl Iterator<Item = Option<Arrived<'a>>>) -> Review {
        let generations = self.generations.lock().expect("no holder of this lock panics");
        let mut review = Review::default();
        for record in records {
            let arrival = record.map_or(Arrival::InOrder, |arrived| review.arrive(&generations, arrived));
            review.arrivals.push(arrival);
        }
        review
    }

    /// Which of `records` may be missing ones of parked keys, as far as can be told before the inbox has been asked.
    pub(super) fn suspects<'a>(&self, records: impl Iterator<Item = Option<(&'a Record, &'a Envelope)>>) -> Vec<bool> {
        let generations = self.generations.lock().expect("no holder of this lock panics");
        let suspect = |(record, envelope): (&Record, &Envelope)| {
            let last = seen(&generations, &Stream::of(record, envelope), record);
            // A stream's first version is never missing: a hole begins after a version that was seen.
            envelope.stream_version > 1 && last.is_none_or(|last| envelope.stream_version <= last)
        };
        records.map(|record| record.is_some_and(suspect)).collect()
    }

    /// Remembers what a batch saw, once it is committed.
    pub(super) fn learn(&self, review: Review) {
        let mut generations = self.generations.lock().expect("no holder of this lock panics");
        if generations.0.len() + review.seen.len() > GENERATION_STREAMS_MAX {
            generations.1 = std::mem::take(&mut generations.0);
        }
        generations.0.extend(review.seen);
    }
}

/// The last version seen of a stream under the claim that `record` was read under.
fn seen(known: &(Generation, Generation), stream: &Stream, record: &Record) -> Option<i64> {
    let seen = known.0.get(stream).or_else(|| known.1.get(stream))?;
    seen.is_of(record).then_some(seen.version)
}

impl Stream {
    fn of(record: &Record, envelope: &Envelope) -> Self {
        Self {
            topic: record.topic.clone(),
            key: envelope.subject.clone(),
        }
    }
}

impl Seen {
    fn is_of(&self, record: &Record) -> bool {
        self.partition == record.partition && self.epoch == record.epoch
    }
}

impl Review {
    fn arrive(&mut self, known: &(Generation, Generation), (record, envelope, first): Arrived<'_>) -> Arrival {
        let version = envelope.stream_version;
        if version == 0 {
            return Arrival::InOrder;
        }
        let stream = Stream::of(record, envelope);
        let before = match self.seen.get(&stream) {
            Some(seen) => seen.is_of(record).then_some(seen.version),
            None => seen(known, &stream, record),
        };
        let arrival = match before {
            None if !first => return Arrival::Unknown,
            None => Arrival::Unknown,
            Some(last) if version <= last => Arrival::Late,
            Some(last) if version == last + 1 => Arrival::InOrder,
            Some(last) => Arrival::Gap(Gap {
                first: last + 1,
                last: version - 1,
            }),
        };
        let seen = Seen {
            partition: record.partition,
            epoch: record.epoch,
            version: before.unwrap_or_default().max(version),
        };
        self.seen.insert(stream, seen);
        arrival
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    /// A record of the stream `key`, at `version`, read under the claim `epoch` of `partition`.
    fn arrived(key: &str, version: i64, partition: i32, epoch: i64) -> (Record, Envelope) {
        let record = Record {
            topic: "counter.events".into(),
            partition,
            offset: 0,
            timestamp: None,
            key: None,
            value: None,
            headers: None,
            epoch,
            permit: None,
        };
        let envelope = Envelope {
            id: Uuid::from_u128(1),
            event_type: "Counted".into(),
            source: "counter".into(),
            subject: key.into(),
            occurred_at: Timestamp::UNIX_EPOCH,
            correlation_id: Uuid::from_u128(1),
            causation_id: Uuid::from_u128(1),
            traceparent: None,
            stream_version: version,
            position: 0,
        };
        (record, envelope)
    }

    fn see(versions: &Versions, key: &str, batch: &[i64], epoch: i64) -> Vec<Arrival> {
        see_again(versions, key, batch, epoch, true)
    }

    fn see_again(versions: &Versions, key: &str, batch: &[i64], epoch: i64, first: bool) -> Vec<Arrival> {
        let records: Vec<_> = batch.iter().map(|version| arrived(key, *version, 0, epoch)).collect();
        let review = versions.review(records.iter().map(|(record, envelope)| Some((record, envelope, first))));
        let arrivals = review.arrivals.clone();
        versions.learn(review);
        arrivals
    }

    const GAP: Arrival = Arrival::Gap(Gap { first: 3, last: 4 });

    #[test]
    fn a_jump_is_a_gap_within_a_batch_and_between_two() {
        let versions = Versions::default();
        let arrivals = see(&versions, "a", &[1, 2, 5, 6], 1);
        assert_eq!(arrivals, [Arrival::Unknown, Arrival::InOrder, GAP, Arrival::InOrder]);
        see(&versions, "b", &[1, 2], 1);
        assert_eq!(see(&versions, "b", &[5], 1), [GAP]);
    }

    #[test]
    fn a_repetition_is_late_and_the_next_one_in_order() {
        let versions = Versions::default();
        see(&versions, "a", &[1, 2, 3], 1);
        let arrivals = see(&versions, "a", &[3, 1, 2, 4], 1);
        assert_eq!(
            arrivals,
            [Arrival::Late, Arrival::Late, Arrival::Late, Arrival::InOrder]
        );
    }

    #[test]
    fn nothing_is_known_before_the_first_record_of_a_claim() {
        let versions = Versions::default();
        assert_eq!(see(&versions, "a", &[7], 1), [Arrival::Unknown]);
        assert_eq!(see(&versions, "a", &[12], 2), [Arrival::Unknown], "another claim");
        assert_eq!(see(&versions, "a", &[13], 2), [Arrival::InOrder]);
    }

    #[test]
    fn a_repetition_is_no_beginning() {
        let versions = Versions::default();
        assert_eq!(see_again(&versions, "a", &[1], 2, false), [Arrival::Unknown]);
        assert_eq!(see(&versions, "a", &[7], 2), [Arrival::Unknown]);
        assert_eq!(see_again(&versions, "a", &[2], 2, false), [Arrival::Late]);
        assert_eq!(see(&versions, "a", &[8], 2), [Arrival::InOrder]);
    }

    #[test]
    fn what_may_have_been_missing_is_suspected() {
        let versions = Versions::default();
        see(&versions, "a", &[1, 2, 3], 1);
        let records = [("a", 3), ("a", 4), ("a", 9), ("b", 1), ("b", 2)];
        let records = records.map(|(key, version)| arrived(key, version, 0, 1));
        let suspects = versions.suspects(records.iter().map(|(record, envelope)| Some((record, envelope))));
        assert_eq!(suspects, [true, false, false, false, true]);
    }

    #[test]
    fn a_batch_that_was_not_committed_was_not_seen() {
        let versions = Versions::default();
        see(&versions, "a", &[1, 2], 1);
        let (record, envelope) = arrived("a", 5, 0, 1);
        let forgotten = versions.review(std::iter::once(Some((&record, &envelope, true))));
        assert_eq!(forgotten.arrivals, [GAP]);
        assert_eq!(see(&versions, "a", &[3], 1), [Arrival::InOrder]);
    }

    #[test]
    fn a_record_without_a_version_says_nothing() {
        let versions = Versions::default();
        assert_eq!(
            see(&versions, "a", &[0, 4, 0], 1),
            [Arrival::InOrder, Arrival::Unknown, Arrival::InOrder]
        );
    }

    #[test]
    fn the_memory_is_bounded() {
        let versions = Versions::default();
        for stream in 0..GENERATION_STREAMS_MAX * 3 {
            see(&versions, &stream.to_string(), &[1], 1);
        }
        let generations = versions.generations.lock().unwrap();
        assert!(generations.0.len() + generations.1.len() <= 2 * GENERATION_STREAMS_MAX);
    }
}
