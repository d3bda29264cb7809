//! What a replay is asked to do, what came of it, and how far it is.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::Client;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::compare::TableReport;
use super::log::{self, Span, Start};
use super::rebuild::Error;
use crate::event::EventSet as _;
use crate::migrate::Migration;
use crate::model::Model;
use crate::{kafka, store};

/// How long transactions that write events may stay open before the run gives up on them.
pub(super) const WRITERS_WAIT_MAX: Duration = Duration::from_secs(60);

/// Where events are read from.
#[derive(Clone, Debug)]
pub enum Input {
    /// The service's topic; with namespace.
    Topic {
        /// The brokers.
        kafka: kafka::Settings,
        /// With namespace.
        topic: String,
    },
    /// The event store.
    Store,
    /// The service's topic, out of which the event store is filled as well; with namespace.
    Restore {
        /// The brokers.
        kafka: kafka::Settings,
        /// With namespace.
        topic: String,
        /// The whole of it.
        spans: Vec<Span>,
    },
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the oldest event.
    Earliest,
    /// With this offset of each partition, or this position of the event store.
    Offset(i64),
    /// With the first event of this time or later.
    Time(Timestamp),
}

/// What is to become of the rebuilt tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// They are compared and dropped. They never disturb a rebuild.
    Candidate,
    /// They are compared and dropped.
    Compare,
    /// They take the place of the service's own if nothing differs.
    SwapIfEqual,
    /// They take the place of the service's own, whatever differs.
    SwapAnyway,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of the service.
    pub database_url: String,
    /// Where events are read from.
    pub input: Input,
    /// Where reading begins.
    pub from: From,
    /// Where it ends: the last event that occurred then or before. `None`: now, and what comes until the verdict.
    pub until: Option<Timestamp>,
    /// Up to which position the topic is told before the event store is asked for the rest: `None` for what the service has
    /// published, as is right for its own topic.
    pub cutoff: Option<i64>,
    /// What becomes of the tables.
    pub intent: Intent,
    /// The tables have the shape that these give them, not the one of the service's own.
    pub migrations: Option<&'static [Migration]>,
    /// Streams whose state is kept in memory; [`STREAMS_OPEN_MAX`](super::STREAMS_OPEN_MAX).
    pub streams_max: usize,
    /// Tells this build from others: a run is resumed by the build that began it.
    pub fingerprint: String,
    /// Begin anew, whatever an earlier run has left.
    pub fresh: bool,
    /// Differences of each table that are shown.
    pub shown_max: usize,
}

/// What came of a rebuild.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The service.
    pub service: String,
    /// `topic` or `store`.
    pub source: String,
    /// Events that were told.
    pub events: u64,
    /// Records of the log that repeat an event.
    pub repeated: u64,
    /// Records of the log that are no events of this service.
    pub foreign: u64,
    /// Streams that were told in two parts, the second from the event store.
    pub told_again: u64,
    /// The common position: both sides hold everything up to it and nothing more.
    pub position: i64,
    /// Streams of which the log lacks a version.
    pub gaps: u64,
    /// The first of these.
    pub gaps_first: Vec<String>,
    /// Whether only a part of the log was read.
    pub partial: bool,
    /// Each table.
    pub tables: Vec<TableReport>,
    /// Whether the rebuilt tables are the service's own now.
    pub swapped: bool,
    /// Whether an earlier run had begun this.
    pub resumed: bool,
}

impl Report {
    /// Whether nothing differs and nothing is missing.
    pub fn is_equal(&self) -> bool {
        self.gaps == 0 && self.tables.iter().all(TableReport::is_equal)
    }
}

/// How far a run is, for whoever watches.
#[derive(Debug, Default)]
pub struct Watch {
    phase: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
}

impl Watch {
    /// What is being done, how much of it is done, and how much there is: 0 if that is not known.
    pub fn look(&self) -> (&'static str, u64, u64) {
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 => "starting",
            1 => "reading the log",
            2 => "streams told again",
            3 => "building indexes",
            4 => "catching up",
            5 => "comparing",
            7 => "setting offsets and cursor",
            _ => "waiting for a moment without writers",
        };
        (
            phase,
            self.done.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        )
    }

    pub(super) fn enter(&self, phase: u8, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
    }

    pub(super) fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }
}

impl Input {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Topic { .. } | Self::Restore { .. } => "topic",
            Self::Store => "store",
        }
    }
}

impl Plan {
    /// Tells this plan from others: what is left of one must not be taken for the other.
    pub(super) fn name(&self) -> String {
        let from = match self.from {
            From::Earliest => "earliest".to_owned(),
            From::Offset(offset) => format!("offset {offset}"),
            From::Time(at) => at.to_string(),
        };
        let until = self.until.map_or_else(|| "now".to_owned(), |until| until.to_string());
        let topic = match &self.input {
            Input::Topic { topic, .. } => topic,
            Input::Store => "events",
            Input::Restore { topic, .. } => &format!("{topic} into events"),
        };
        format!("{topic} from {from} until {until} by {}", self.fingerprint)
    }

    /// Up to which position, and from where to where, is to be read.
    pub(super) async fn extent(&self, reader: &Client) -> Result<(i64, Vec<Span>), Error> {
        let until = match self.until {
            Some(until) => store::position_at(reader, until).await?,
            None => i64::MAX,
        };
        match &self.input {
            Input::Topic { kafka, topic } => {
                // Before the ends are asked for: everything up to here is in the log below them.
                let published = match self.cutoff {
                    Some(cutoff) => cutoff,
                    None => store::published_position(reader).await?,
                };
                let cutoff = published.min(until);
                let start = match self.from {
                    From::Earliest => Start::Earliest,
                    From::Offset(offset) => Start::Offset(offset),
                    From::Time(at) => Start::Time(at),
                };
                Ok((cutoff, log::spans(kafka, topic, start).await?))
            }
            Input::Restore { spans, .. } => Ok((i64::MAX, spans.clone())),
            Input::Store => {
                let settled = settled(reader).await?;
                let cutoff = settled.min(until);
                let next = match self.from {
                    From::Earliest => 0,
                    From::Offset(position) => position,
                    From::Time(at) => {
                        let before = at.checked_sub(jiff::SignedDuration::from_micros(1)).unwrap_or(at);
                        store::position_at(reader, before).await? + 1
                    }
                };
                let span = Span {
                    partition: 0,
                    first: 0,
                    next: next.min(cutoff + 1),
                    end: cutoff + 1,
                };
                Ok((cutoff, vec![span]))
            }
        }
    }

    /// The topic of `M`, with namespace.
    pub fn topic_of<M: Model>(kafka: &kafka::Settings) -> String {
        kafka.named(M::Event::TOPIC)
    }
}

/// Up to which position everything is there to read.
pub(super) async fn settled(reader: &Client) -> Result<i64, Error> {
    let settled = tokio::time::timeout(WRITERS_WAIT_MAX, store::settled_position(reader));
    Ok(settled.await.map_err(|_| Error::Writers)??)
}
