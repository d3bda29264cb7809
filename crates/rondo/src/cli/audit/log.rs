//! The log itself: every record of one topic, from the beginning of each partition to its end.
//!
//! Read with a bare consumer that belongs to no group and commits nothing, so nobody's offsets move. Kept are 24 bytes an
//! event: its id, and the first place where it lies. Duplicates are normal, since delivery is at least once.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use common::envelope::names;
use common::kafka::{self, LogEnd, QuietContext, Settings};
use common::replay::log::reader_config;
use indicatif::ProgressBar;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::history::Missing;

/// How long the broker may say nothing while there should be more to read.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(250);
/// The offset's share of a place; the partition is above it.
const OFFSET_BITS: u32 = 48;

/// Where each event lies first.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Id and place, in order of ids once sorted.
    records: Vec<([u8; 16], u64)>,
    seen: Vec<bool>,
    duplicates: u64,
}

impl Index {
    /// An index that `records` fit into without growing.
    pub(super) fn with_room_for(records: usize) -> Self {
        Self {
            records: Vec::with_capacity(records),
            ..Self::default()
        }
    }

    /// A record of the event `id`.
    pub(super) fn add(&mut self, id: Uuid, partition: i32, offset: i64) {
        let place = u64::from(partition.cast_unsigned()) << OFFSET_BITS | offset.cast_unsigned();
        self.records.push((id.into_bytes(), place));
    }

    /// Ready to be looked at: one record an event, the first.
    pub(super) fn sorted(mut self) -> Self {
        let all = self.records.len();
        self.records.sort_unstable();
        self.records.dedup_by_key(|(id, _)| *id);
        self.duplicates = (all - self.records.len()) as u64;
        self.seen = vec![false; self.records.len()];
        self
    }

    /// Where `id` lies, if it does; from now on it is accounted for.
    pub(super) fn see(&mut self, id: Uuid) -> Option<u64> {
        let at = self.records.binary_search_by_key(id.as_bytes(), |(id, _)| *id).ok()?;
        self.seen[at] = true;
        Some(self.records[at].1)
    }

    /// How many events are not accounted for.
    pub(super) fn unseen(&self) -> u64 {
        self.seen.iter().filter(|seen| !**seen).count() as u64
    }

    /// How many records repeat an event.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// The partition of a place.
    pub(super) fn partition(place: u64) -> u64 {
        place >> OFFSET_BITS
    }
}

/// What reading a topic brought.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Where each event lies.
    pub(super) index: Index,
    /// All records.
    pub(super) records: u64,
    /// Those without an id, which nobody of ours wrote.
    pub(super) foreign: u64,
    /// Partitions whose beginning is gone.
    pub(super) cut_off: Vec<i32>,
}

/// A topic being read.
pub(super) struct Log {
    topic: String,
    consumer: BaseConsumer<QuietContext>,
    ends: Vec<LogEnd>,
}

impl Log {
    /// The log of `topic`, with namespace, as it ends now.
    pub(super) async fn open(settings: &Settings, topic: String) -> Result<Self> {
        let ends = kafka::log_ends(settings, std::slice::from_ref(&topic)).await?;
        let consumer: BaseConsumer<QuietContext> = reader_config(settings, "rondo-audit")
            .create_with_context(QuietContext)
            .context("a Kafka client could not be made")?;
        let mut partitions = TopicPartitionList::new();
        for end in &ends {
            partitions.add_partition_offset(&topic, end.partition, Offset::Beginning)?;
        }
        consumer
            .assign(&partitions)
            .with_context(|| format!("{topic} cannot be read"))?;
        Ok(Self { topic, consumer, ends })
    }

    /// How many records there are to read, about.
    pub(super) fn length(&self) -> u64 {
        self.ends
            .iter()
            .map(|end| (end.end - end.first).max(0).cast_unsigned())
            .sum()
    }

    /// Reads to the end, on a thread of its own.
    pub(super) async fn read(self, bar: ProgressBar) -> Result<(Self, Found)> {
        tokio::task::spawn_blocking(move || {
            let found = self.read_blocking(&bar)?;
            Ok((self, found))
        })
        .await
        .expect("reading the log does not panic")
    }

    /// Reads on from where it ended, for as long as `patience` lasts or something is missing; what stays missing.
    pub(super) async fn await_missing(
        self,
        mut missing: HashMap<Uuid, Missing>,
        patience: Duration,
    ) -> HashMap<Uuid, Missing> {
        tokio::task::spawn_blocking(move || {
            let until = Instant::now() + patience;
            while !missing.is_empty() && Instant::now() < until {
                if let Some(Ok(message)) = self.consumer.poll(POLL)
                    && let Some(id) = id(&message)
                {
                    missing.remove(&id);
                }
            }
            missing
        })
        .await
        .expect("reading the log does not panic")
    }

    fn read_blocking(&self, bar: &ProgressBar) -> Result<Found> {
        let room = usize::try_from(self.length()).context("the log is larger than memory can count")?;
        let mut found = Found {
            index: Index::with_room_for(room),
            cut_off: self
                .ends
                .iter()
                .filter(|end| end.first > 0)
                .map(|end| end.partition)
                .collect(),
            ..Found::default()
        };
        let ends: HashMap<i32, i64> = self.ends.iter().map(|end| (end.partition, end.end)).collect();
        let mut open: HashSet<i32> = self
            .ends
            .iter()
            .filter(|end| end.first < end.end)
            .map(|end| end.partition)
            .collect();
        let mut heard = Instant::now();
        let mut trouble = None;
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    found.take(&message);
                    bar.inc(1);
                    if ends
                        .get(&message.partition())
                        .is_some_and(|end| message.offset() + 1 >= *end)
                    {
                        open.remove(&message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    open.remove(&partition);
                }
                // librdkafka tries again by itself; only a silence that lasts is an error.
                Some(Err(error)) => trouble = Some(error),
                None => {}
            }
            if heard.elapsed() > SILENCE_MAX {
                let why = trouble.map_or_else(|| "no reason given".to_owned(), |error| error.to_string());
                bail!("the broker says nothing more about {} ({why})", self.topic);
            }
        }
        found.index = std::mem::take(&mut found.index).sorted();
        Ok(found)
    }
}

impl Found {
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        self.records += 1;
        match id(message) {
            Some(id) => self.index.add(id, message.partition(), message.offset()),
            None => self.foreign += 1,
        }
    }
}

/// The id of the event in `message`. As everywhere, the last of a repeated header counts.
fn id(message: &BorrowedMessage<'_>) -> Option<Uuid> {
    let header = message
        .headers()?
        .iter()
        .filter(|header| header.key == names::ID)
        .last()?;
    Uuid::try_parse_ascii(header.value?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_of_an_event_counts_and_its_repetitions_are_counted() {
        let mut index = Index::with_room_for(3);
        index.add(Uuid::from_u128(7), 3, 20);
        index.add(Uuid::from_u128(5), 0, 1);
        index.add(Uuid::from_u128(7), 3, 10);
        let mut index = index.sorted();
        assert_eq!(index.duplicates(), 1);
        let place = index.see(Uuid::from_u128(7)).unwrap();
        assert_eq!((Index::partition(place), place & ((1 << OFFSET_BITS) - 1)), (3, 10));
        assert_eq!(index.see(Uuid::from_u128(8)), None);
        assert_eq!(index.unseen(), 1);
    }

    #[test]
    fn a_record_takes_24_bytes() {
        assert_eq!(size_of::<([u8; 16], u64)>(), 24);
    }
}
