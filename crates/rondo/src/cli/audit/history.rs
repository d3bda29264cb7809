//! One service's events as a stream, and what holds for every event of every stream.

use std::collections::HashMap;
use std::pin::Pin;

use anyhow::Result;
use bytes::Bytes;
use common::codec::Codec;
use common::event::EventSet;
use futures_util::stream::Fuse;
use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio_postgres::RowStream;
use uuid::Uuid;

use super::log::Index;
use super::queries::ROW_VERSION;
use super::report::{Check, Report};

/// How many events that the log lacks are looked for again; more than that are lost or far behind anyway.
const MISSING_MAX: usize = 1_000_000;

/// One row of a history.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// An event.
    Event { payload: Bytes, occurred_at: Timestamp },
    /// What a read model says of the stream.
    Row {
        status: String,
        first: Option<i64>,
        second: Option<i64>,
    },
}

/// An event that the log did not hold when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) stream: String,
    pub(super) version: i64,
    pub(super) position: i64,
}

/// A service's streams in order, each stream's events in order.
pub(super) struct History {
    service: &'static str,
    /// Fused: Postgres' own stream fails when it is asked again after its end.
    rows: Pin<Box<Fuse<RowStream>>>,
    ahead: Option<(String, Entry)>,
    trail: Trail,
}

/// What has been seen so far.
pub(super) struct Trail {
    service: &'static str,
    index: Index,
    stream: String,
    version: i64,
    place: Option<u64>,
    /// How many streams there were.
    pub(super) streams: u64,
    /// How many events there were.
    pub(super) events: u64,
    /// Events that the log lacks, by id.
    pub(super) missing: HashMap<Uuid, Missing>,
    /// How many more it lacks.
    pub(super) missing_more: u64,
}

impl History {
    /// The history in `rows`, whose events are looked for in `index`.
    pub(super) fn new(service: &'static str, rows: RowStream, index: Index) -> Self {
        Self {
            service,
            rows: Box::pin(rows.fuse()),
            ahead: None,
            trail: Trail::of(service, index),
        }
    }

    /// The stream that comes next; `None` at the end.
    pub(super) async fn stream(&mut self, report: &mut Report) -> Result<Option<&str>> {
        self.look_ahead(report).await?;
        Ok(self.ahead.as_ref().map(|(stream, _)| stream.as_str()))
    }

    /// The next entry of `stream`; `None` when another stream follows.
    pub(super) async fn next_of(&mut self, stream: &str, report: &mut Report) -> Result<Option<Entry>> {
        self.look_ahead(report).await?;
        Ok(self.ahead.take_if(|(ahead, _)| ahead == stream).map(|(_, entry)| entry))
    }

    /// The next event of `stream`, decoded, or the row behind its events. What cannot be decoded is a finding.
    pub(super) async fn read<E: EventSet>(
        &mut self,
        stream: &str,
        codec: &Codec,
        report: &mut Report,
    ) -> Result<Option<Read<E>>> {
        loop {
            match self.next_of(stream, report).await? {
                None => return Ok(None),
                Some(Entry::Row { status, first, second }) => return Ok(Some(Read::Row { status, first, second })),
                Some(Entry::Event { payload, occurred_at }) => match codec.decode::<E>(&payload).await {
                    Ok(event) => return Ok(Some(Read::Event(event, occurred_at))),
                    Err(error) if error.is_transient() => return Err(error.into()),
                    Err(error) => report.find(Check::Readable, format!("{} {stream}", self.service), error.to_string()),
                },
            }
        }
    }

    /// What was seen, when all has been read.
    pub(super) fn into_trail(self) -> Trail {
        self.trail
    }

    async fn look_ahead(&mut self, report: &mut Report) -> Result<()> {
        if self.ahead.is_some() {
            return Ok(());
        }
        let Some(row) = self.rows.try_next().await? else {
            return Ok(());
        };
        let stream: String = row.get("stream_id");
        let version: i64 = row.get("version");
        let entry = if version == ROW_VERSION {
            Entry::Row {
                status: row.get("status"),
                first: row.get("first"),
                second: row.get("second"),
            }
        } else {
            self.trail
                .follow(&stream, version, row.get("position"), row.get("id"), report);
            Entry::Event {
                payload: Bytes::from(row.get::<_, Vec<u8>>("payload")),
                occurred_at: row.get("occurred_at"),
            }
        };
        self.ahead = Some((stream, entry));
        Ok(())
    }
}

/// An entry, decoded.
pub(super) enum Read<E> {
    /// An event, and when it occurred.
    Event(E, Timestamp),
    /// What a read model says of the stream.
    Row {
        status: String,
        first: Option<i64>,
        second: Option<i64>,
    },
}

impl Trail {
    fn of(service: &'static str, index: Index) -> Self {
        Self {
            service,
            index,
            stream: String::new(),
            version: 0,
            place: None,
            streams: 0,
            events: 0,
            missing: HashMap::new(),
            missing_more: 0,
        }
    }

    /// How many records the log holds that no event of the store accounts for.
    pub(super) fn unknown(&self) -> u64 {
        self.index.unseen()
    }

    fn follow(&mut self, stream: &str, version: i64, position: i64, id: Uuid, report: &mut Report) {
        if self.stream != stream {
            stream.clone_into(&mut self.stream);
            self.version = 0;
            self.place = None;
            self.streams += 1;
        }
        self.events += 1;
        if version != self.version + 1 {
            let (subject, before) = (format!("{} {stream}", self.service), self.version);
            report.find(Check::Versions, subject, format!("version {version} follows {before}"));
        }
        self.version = version;
        match self.index.see(id) {
            Some(place) => self.place_of(stream, version, place, report),
            None if self.missing.len() < MISSING_MAX => {
                let stream = stream.to_owned();
                self.missing.insert(
                    id,
                    Missing {
                        stream,
                        version,
                        position,
                    },
                );
            }
            None => self.missing_more += 1,
        }
    }

    fn place_of(&mut self, stream: &str, version: i64, place: u64, report: &mut Report) {
        let subject = || format!("{} {stream}", self.service);
        if let Some(before) = self.place {
            let (partition, partition_before) = (Index::partition(place), Index::partition(before));
            if partition != partition_before {
                let what = format!("version {version} is in partition {partition}, those before in {partition_before}");
                report.find(Check::LogOrder, subject(), what);
            } else if place <= before {
                report.find(
                    Check::LogOrder,
                    subject(),
                    format!("version {version} comes before an earlier one"),
                );
            }
        }
        self.place = Some(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(records: &[(u128, i32, i64)]) -> Trail {
        let mut index = Index::with_room_for(records.len());
        for (id, partition, offset) in records {
            index.add(Uuid::from_u128(*id), *partition, *offset);
        }
        Trail::of("orders", index.sorted())
    }

    fn follow(trail: &mut Trail, events: &[(&str, i64, u128)]) -> Report {
        let mut report = Report::default();
        for (stream, version, id) in events {
            trail.follow(stream, *version, 7, Uuid::from_u128(*id), &mut report);
        }
        report
    }

    #[test]
    fn streams_without_gaps_in_log_order_are_clean() {
        let mut trail = trail(&[(1, 0, 10), (3, 1, 5), (2, 0, 12), (1, 0, 99)]);
        let report = follow(&mut trail, &[("a", 1, 1), ("a", 2, 2), ("b", 1, 3)]);
        assert!(report.is_clean());
        assert_eq!(
            (trail.streams, trail.events, trail.missing.len(), trail.unknown()),
            (2, 3, 0, 0)
        );
    }

    #[test]
    fn a_gap_in_a_stream_is_found() {
        let mut trail = trail(&[(1, 0, 1), (2, 0, 2), (3, 1, 1)]);
        let report = follow(&mut trail, &[("a", 1, 1), ("a", 3, 2), ("b", 2, 3)]);
        assert_eq!(report.findings(Check::Versions), 2);
    }

    #[test]
    fn what_the_log_lacks_is_remembered_and_what_it_has_too_much_is_counted() {
        let mut trail = trail(&[(1, 0, 1), (9, 0, 2)]);
        follow(&mut trail, &[("a", 1, 1), ("a", 2, 2)]);
        let missing = trail.missing.values().next().unwrap();
        assert_eq!((missing.stream.as_str(), missing.version), ("a", 2));
        assert_eq!(trail.unknown(), 1);
    }

    #[test]
    fn events_out_of_order_or_in_two_partitions_are_found() {
        let mut trail = trail(&[(1, 0, 5), (2, 0, 4), (3, 2, 9)]);
        let report = follow(&mut trail, &[("a", 1, 1), ("a", 2, 2), ("a", 3, 3)]);
        assert_eq!(report.findings(Check::LogOrder), 2);
    }
}
