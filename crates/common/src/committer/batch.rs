//! One attempt at one batch: a single transaction from the inbox to the read models.
//!
//! Locks are taken in one order, each kind sorted and in one statement: inbox ids, parked keys, the model's rows, then
//! streams as they are appended to. Nothing here waits for the network but for Postgres, and for that as seldom as can be:
//! once for all that is read, once for all that is written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Client;
use futures_util::try_join;
use jiff::Timestamp;
use uuid::Uuid;

use super::cache::Versioned;
use super::versions::{Arrival, Gap, Review};
use super::{Committer, Expect, Item, Origin};
use crate::event::{Cause, Envelope, EventSet as _, Recorded, StreamId, derived_id};
use crate::inbox::{self, Outcome as InboxOutcome, Progress};
use crate::model::{Change, Model};
use crate::parking::{self, Disposition, Failure, SetAside, Standing};
use crate::pg::{Transaction, Write};
use crate::record::Record;
use crate::{store, timers};

/// Why an attempt changed nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// A pooled connection could not be had.
    Pool(deadpool_postgres::PoolError),
    /// A statement or the commit failed.
    Database(tokio_postgres::Error),
    /// A decision rested on a state that may be stale: look again.
    Stale,
    /// A schema of our own store is not known, and the registry does not answer.
    Registry(String),
    /// Somebody else claimed these partitions.
    Fenced(Vec<(String, i32)>),
    /// One item failed and others depend on it: take the items in smaller batches.
    Entangled,
    /// An event does not fit its own schema, or is too long: a defect, told as it is.
    Encoding(String),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<deadpool_postgres::PoolError> for Failed {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Pool(error)
    }
}

/// What one item came to.
#[derive(Debug)]
pub(super) enum Settled<M: Model> {
    /// Its commands took effect (or were recognised as done).
    Done {
        stream: Option<StreamId>,
        /// How many events it led to.
        count: usize,
        /// They, for whoever asked.
        events: Vec<Recorded>,
    },
    /// Its command was refused.
    Rejected(M::Rejection),
    /// It had taken effect before.
    Duplicate,
    /// Its record waits or is a dead letter.
    SetAside(Option<Failure>),
    /// Nothing to do.
    Skipped,
    /// A parked head that somebody else has dealt with.
    Stale,
}

/// A committed batch.
pub(super) struct Committed<M: Model> {
    pub(super) results: Vec<Settled<M>>,
    pub(super) streams: BTreeMap<StreamId, Working<M>>,
    pub(super) progress: Vec<Progress>,
    /// How its records arrived, one for each item.
    pub(super) review: Review,
}

/// A stream while its batch is decided.
pub(super) struct Working<M: Model> {
    /// `true` if `before` is from the cache, or what a new stream begins with, and not from this transaction.
    guessed: bool,
    /// How many events it took to load it.
    pub(super) folded: i64,
    pub(super) before: Arc<M::State>,
    pub(super) after: Arc<M::State>,
    pub(super) version: i64,
    pub(super) events: Vec<(M::Event, Recorded)>,
}

impl<M: Model> Working<M> {
    /// A stream of which nothing has been read yet.
    pub(super) fn unknown() -> Self {
        Self::known(Versioned {
            version: 0,
            state: Arc::default(),
        })
    }

    fn known(known: Versioned<M::State>) -> Self {
        Self {
            guessed: false,
            folded: 0,
            before: known.state.clone(),
            after: known.state,
            version: known.version,
            events: Vec::new(),
        }
    }
}

impl<M: Model> Committed<M> {
    /// What happened, stream by stream.
    pub(super) fn changes(&self) -> Vec<Change<'_, M>> {
        changes(&self.streams)
    }

    /// All appended events in order of position.
    pub(super) fn recorded(&self) -> Vec<Recorded> {
        let events = self.streams.values().flat_map(|stream| &stream.events);
        let mut all: Vec<Recorded> = events.map(|(_, recorded)| recorded.clone()).collect();
        all.sort_unstable_by_key(|recorded| recorded.envelope.position);
        all
    }
}

fn changes<M: Model>(streams: &BTreeMap<StreamId, Working<M>>) -> Vec<Change<'_, M>> {
    let changed = streams.iter().filter(|(_, stream)| !stream.events.is_empty());
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

/// What appends the events of `streams`, if there are any.
fn append<M: Model>(streams: &BTreeMap<StreamId, Working<M>>) -> Option<Write<'_>> {
    let events = streams.values().flat_map(|stream| &stream.events);
    let mut appended: Vec<&Recorded> = events.map(|(_, recorded)| recorded).collect();
    // In the order of decision, for what was decided from rows that streams share can be retold in no other.
    appended.sort_unstable_by_key(|recorded| recorded.envelope.position);
    (!appended.is_empty()).then(|| store::appending(&appended))
}

/// The events of `streams`.
fn recorded_in<M: Model>(streams: &mut BTreeMap<StreamId, Working<M>>) -> impl Iterator<Item = &mut Recorded> {
    let events = streams.values_mut().flat_map(|stream| &mut stream.events);
    events.map(|(_, recorded)| recorded)
}

impl<M: Model> Committer<M> {
    /// Decides and commits `items` in one transaction, or changes nothing.
    pub(super) async fn attempt(&self, items: &[Item<M>]) -> Result<Committed<M>, Failed> {
        let mut client = self.pool.get().await?;
        let tx = Transaction::begin(&mut client);
        let progress = progress_of(items);
        let (mut fresh, mut results) = distinct_ids(items);
        let ids: Vec<Uuid> = fresh.iter().copied().collect();
        let keys = keys_of(items, &self.versions.suspects(items.iter().map(Item::arrived)));
        let (mut streams, unknown) = self.known_streams(items);
        let unknown_refs: Vec<&StreamId> = unknown.iter().collect();
        // Where all states are known their rows are locked along with it, also those of items that will not be decided.
        let commands = commands_of(items.iter().filter(|_| unknown.is_empty()), &streams);
        let (fenced, known, parked, history, rows) = try_join!(
            inbox::advance(&*tx, M::NAME, &progress),
            inbox::known(&*tx, M::NAME, &ids),
            parking::parked_among(&*tx, M::NAME, &keys),
            self.history(&*tx, &unknown_refs),
            self.model.lock_rows(&tx, &commands),
        )?;
        if !fenced.is_empty() {
            return Err(Failed::Fenced(fenced));
        }
        fresh.retain(|id| !known.contains(id));
        self.fold(&*tx, &mut streams, history).await?;
        let review = self.versions.review(items.iter().map(|item| {
            let (record, envelope) = item.arrived()?;
            Some((
                record,
                envelope,
                fresh.contains(&envelope.id) && !is_parked(&parked, record, envelope),
            ))
        }));
        self.sort_out(items, &review.arrivals, &fresh, &parked, &mut results);
        self.confirm_heads(&tx, items, &mut results).await?;

        let open: Vec<usize> = (0..items.len()).filter(|index| results[*index].is_none()).collect();
        let now = now();
        let mut rows = if unknown.is_empty() {
            rows
        } else {
            let commands = commands_of(open.iter().map(|index| &items[*index]), &streams);
            self.model.lock_rows(&tx, &commands).await?
        };
        for index in open {
            results[index] = Some(self.decide_item(items, index, &mut streams, &mut rows, now)?);
        }
        let results: Vec<Settled<M>> = items
            .iter()
            .zip(results)
            .map(|(item, result)| self.judged(item, result.expect("each item was sorted out or decided")))
            .collect();

        self.set_aside(&tx, items, &results, now).await?;
        let gaps = gaps_of(items, &review.arrivals, &results);
        parking::note_missing(&*tx, M::NAME, &gaps).await?;
        parking::note_arrived(&*tx, M::NAME, &fillers_of(items, &review.arrivals, &parked, &gaps)).await?;
        if M::PROJECTS_POSITIONS {
            let returned = match append(&streams) {
                Some(append) => append.run(&*tx).await?,
                None => Vec::new(),
            };
            store::place(&returned, recorded_in(&mut streams));
        }
        let returned = tx.commit(&self.writes(&streams)).await?;
        if let Some(appended) = returned.first().filter(|_| !M::PROJECTS_POSITIONS) {
            store::place(appended, recorded_in(&mut streams));
        }
        let mut committed = Committed {
            results,
            streams,
            progress,
            review,
        };
        fill_events(&mut committed, items);
        Ok(committed)
    }

    /// What a batch writes last, the events first where nothing else needs their positions.
    fn writes<'a>(&self, streams: &'a BTreeMap<StreamId, Working<M>>) -> Vec<Write<'a>> {
        let changed = changes(streams);
        if changed.is_empty() {
            return Vec::new();
        }
        let mut writes = Vec::new();
        if !M::PROJECTS_POSITIONS {
            writes.extend(append(streams));
        }
        writes.extend(timers::rearm(&*self.model, &changed));
        writes.extend(self.model.project(&changed));
        writes.extend(self.keep_snapshots(streams));
        writes
    }

    /// States from the cache, and the streams that must be read.
    fn known_streams(&self, items: &[Item<M>]) -> (BTreeMap<StreamId, Working<M>>, Vec<StreamId>) {
        let mut streams = BTreeMap::new();
        let mut unknown = Vec::new();
        for item in items {
            for (stream, _) in &item.commands {
                if streams.contains_key(stream) {
                    continue;
                }
                let cached = self.cache.get(stream);
                let guessed = cached.is_some() || item.expect == Expect::New;
                if !guessed {
                    unknown.push(stream.clone());
                }
                let working = cached.map_or_else(Working::unknown, Working::known);
                streams.insert(stream.clone(), Working { guessed, ..working });
            }
        }
        (streams, unknown)
    }

    /// Settles the items that need no decision: skipped, duplicate, queueing behind a parked key, coming too early for
    /// their stream, undecodable.
    fn sort_out(
        &self,
        items: &[Item<M>],
        arrivals: &[Arrival],
        fresh: &HashSet<Uuid>,
        parked: &HashSet<(String, String)>,
        results: &mut [Option<Settled<M>>],
    ) {
        // A key that this very batch parks holds back what follows it in the batch.
        let mut newly_parked: HashSet<(&str, &str)> = HashSet::new();
        for ((item, arrival), result) in items.iter().zip(arrivals).zip(results) {
            if result.is_some() {
                continue;
            }
            let Some((record, envelope)) = item.arrived() else {
                *result = match (&item.origin, &item.failure) {
                    (_, Some(failure)) => Some(Settled::SetAside(Some(failure.clone()))),
                    (Origin::Record { .. }, None) => Some(Settled::Skipped),
                    (Origin::Head(_) | Origin::Asked, None) => None,
                };
                continue;
            };
            let key = (&*record.topic, &*envelope.subject);
            let gap = arrival.gap();
            *result = if item.is_idle() && gap.is_none() {
                Some(Settled::Skipped)
            } else if !item.is_idle() && !fresh.contains(&envelope.id) {
                Some(Settled::Duplicate)
            } else if newly_parked.contains(&key) || is_parked(parked, record, envelope) {
                Some(Settled::SetAside(None))
            } else if let Some(gap) = gap {
                newly_parked.insert(key);
                Some(Settled::SetAside(Some(Failure::missing(&[(gap.first, gap.last)]))))
            } else if let Some(failure) = &item.failure {
                newly_parked.insert(key);
                Some(Settled::SetAside(Some(failure.clone())))
            } else {
                None
            };
        }
    }

    /// Skips heads that somebody else has dealt with since they were read, and sends back those for which it is too early.
    async fn confirm_heads(
        &self,
        tx: &Client,
        items: &[Item<M>],
        results: &mut [Option<Settled<M>>],
    ) -> Result<(), Failed> {
        for (item, result) in items.iter().zip(results) {
            if let Origin::Head(head) = &item.origin {
                match parking::confirm_head(tx, M::NAME, &head.head).await? {
                    Standing::Ready => {}
                    Standing::Stale => *result = Some(Settled::Stale),
                    Standing::Waits(missing) => *result = Some(Settled::SetAside(Some(Failure::missing(&missing)))),
                }
            }
        }
        Ok(())
    }

    /// Decides one item's commands in order against the states so far.
    fn decide_item(
        &self,
        items: &[Item<M>],
        index: usize,
        streams: &mut BTreeMap<StreamId, Working<M>>,
        rows: &mut M::Rows,
        now: Timestamp,
    ) -> Result<Settled<M>, Failed> {
        let (item, alone) = (&items[index], items.len() == 1);
        let mut ordinal = 0;
        let mut touched: Vec<(StreamId, Arc<M::State>, i64, usize)> = Vec::new();
        for (stream_id, command) in &item.commands {
            let stream = streams.get_mut(stream_id).expect("every command's stream was loaded");
            let decided = self.model.decide(stream_id, &stream.after, rows, command, now);
            let untouched_guess = stream.guessed && stream.events.is_empty();
            match decided {
                // A stale state may hide what there is to do, or refuse what is allowed by now.
                Ok(events) if events.is_empty() && untouched_guess => {
                    self.cache.evict(stream_id);
                    return Err(Failed::Stale);
                }
                Err(_) if untouched_guess => {
                    self.cache.evict(stream_id);
                    return Err(Failed::Stale);
                }
                Ok(events) => {
                    touched.push((
                        stream_id.clone(),
                        stream.after.clone(),
                        stream.version,
                        stream.events.len(),
                    ));
                    for event in events {
                        self.record(stream_id, stream, event, &item.cause, (index, ordinal), now)?;
                        ordinal += 1;
                    }
                }
                Err(rejection) => {
                    if ordinal > 0 && !alone {
                        return Err(Failed::Entangled);
                    }
                    for (stream_id, state, version, events) in touched.into_iter().rev() {
                        let stream = streams.get_mut(&stream_id).expect("it was there a moment ago");
                        stream.after = state;
                        stream.version = version;
                        stream.events.truncate(events);
                    }
                    return Ok(match &item.origin {
                        Origin::Asked => Settled::Rejected(rejection),
                        Origin::Record { envelope, .. } if !alone && envelope.is_some() => {
                            // Later records of the key must queue behind this one: sort them out alone.
                            return Err(Failed::Entangled);
                        }
                        Origin::Record { .. } | Origin::Head(_) => {
                            Settled::SetAside(Some(Failure::new("rejected", Disposition::Business, &rejection)))
                        }
                    });
                }
            }
        }
        let stream = item.commands.first().map(|(stream, _)| stream.clone());
        Ok(Settled::Done {
            stream,
            count: ordinal,
            events: Vec::new(),
        })
    }

    fn record(
        &self,
        stream_id: &StreamId,
        stream: &mut Working<M>,
        event: M::Event,
        cause: &Cause,
        (item, ordinal): (usize, usize),
        now: Timestamp,
    ) -> Result<(), Failed> {
        let event_type = event.event_type();
        let unfit = |error: &dyn std::error::Error| {
            Failed::Encoding(format!("{} does not fit its schema: {error}", event_type.name))
        };
        let (schema_id, payload) = self.codec.encode(&event).map_err(|error| unfit(&error))?;
        let event = self.codec.as_written(event, &payload).map_err(|error| unfit(&error))?;
        if payload.len() > store::PAYLOAD_LENGTH_MAX {
            return Err(Failed::Encoding(format!(
                "{} of {} bytes is longer than the {} that a topic takes",
                event_type.name,
                payload.len(),
                store::PAYLOAD_LENGTH_MAX
            )));
        }
        stream.version += 1;
        let envelope = Envelope {
            id: derived_id(M::NAME, cause.id, ordinal),
            event_type: event_type.name.into(),
            source: M::NAME.into(),
            subject: stream_id.key().into(),
            occurred_at: now,
            correlation_id: cause.correlation_id,
            causation_id: cause.id,
            traceparent: cause.traceparent.clone(),
            stream_version: stream.version,
            // Its turn in the batch, until Postgres gives it its place behind all before.
            position: (item << 32 | ordinal).cast_signed() as i64,
        };
        self.model.evolve(Arc::make_mut(&mut stream.after), &event, &envelope);
        stream.events.push((
            event,
            Recorded {
                stream_id: stream_id.clone(),
                envelope,
                schema_id,
                payload,
            },
        ));
        Ok(())
    }

    /// What becomes of a record that failed: whether it was tried as often as it may be.
    fn judged(&self, item: &Item<M>, mut settled: Settled<M>) -> Settled<M> {
        if let Settled::SetAside(Some(failure)) = &mut settled {
            let (attempts, parks) = match &item.origin {
                Origin::Record { envelope, .. } => (1, envelope.is_some()),
                Origin::Head(head) => (head.head.attempts + 1, true),
                Origin::Asked => return settled,
            };
            failure.disposition = self.retry.judge(failure, attempts, parks);
        }
        settled
    }

    /// Writes down what waits, what is dead, and what became of parked heads.
    async fn set_aside(
        &self,
        tx: &Client,
        items: &[Item<M>],
        results: &[Settled<M>],
        now: Timestamp,
    ) -> Result<(), Failed> {
        let mut aside = Vec::new();
        let mut outcomes: HashMap<i16, Vec<Uuid>> = HashMap::new();
        for (item, result) in items.iter().zip(results) {
            match (&item.origin, result) {
                // What led to an event is known by that event; what led to none is known by its row alone.
                (
                    Origin::Record {
                        envelope: Some(envelope),
                        ..
                    },
                    Settled::Done { count: 0, .. },
                ) => outcomes
                    .entry(InboxOutcome::Applied as i16)
                    .or_default()
                    .push(envelope.id),
                (Origin::Record { record, envelope }, Settled::SetAside(failure)) => {
                    let dead = failure
                        .as_ref()
                        .is_some_and(|failure| failure.disposition != Disposition::Retry);
                    if let Some(envelope) = envelope {
                        let outcome = if dead { InboxOutcome::Dead } else { InboxOutcome::Parked };
                        outcomes.entry(outcome as i16).or_default().push(envelope.id);
                    }
                    let wait = failure
                        .as_ref()
                        .map_or(Duration::ZERO, |failure| self.retry.of(failure.class).wait(1));
                    aside.push(SetAside {
                        record,
                        envelope: envelope.as_ref(),
                        failure: failure.as_ref(),
                        attempts: i32::from(failure.is_some()),
                        first_failed_at: now,
                        next_attempt_at: later(now, wait),
                    });
                }
                (Origin::Head(head), Settled::SetAside(Some(failure))) => {
                    let attempts = head.head.attempts + 1;
                    if failure.disposition != Disposition::Retry {
                        parking::forget_missing(tx, M::NAME, &head.head).await?;
                        outcomes
                            .entry(InboxOutcome::Dead as i16)
                            .or_default()
                            .push(head.envelope.id);
                    }
                    let entry = SetAside {
                        record: &head.head.record,
                        envelope: Some(&head.envelope),
                        failure: Some(failure),
                        attempts,
                        first_failed_at: head.head.first_failed_at,
                        next_attempt_at: later(now, self.retry.of(failure.class).wait(attempts)),
                    };
                    parking::set_aside(tx, M::NAME, &[entry]).await?;
                    if let Some(redriven) = head.head.redriven
                        && failure.disposition != Disposition::Retry
                    {
                        parking::died_again(tx, redriven).await?;
                    }
                }
                (Origin::Head(_), Settled::Stale) => {}
                (Origin::Head(head), _) => {
                    outcomes
                        .entry(InboxOutcome::Applied as i16)
                        .or_default()
                        .push(head.envelope.id);
                    parking::release_head(tx, M::NAME, &head.head).await?;
                    if let Some(redriven) = head.head.redriven {
                        parking::settled(tx, redriven).await?;
                    }
                }
                _ => {}
            }
        }
        parking::set_aside(tx, M::NAME, &aside).await?;
        for outcome in [InboxOutcome::Applied, InboxOutcome::Parked, InboxOutcome::Dead] {
            let mut ids = outcomes.remove(&(outcome as i16)).unwrap_or_default();
            inbox::settle(tx, M::NAME, &mut ids, outcome).await?;
        }
        Ok(())
    }
}

/// The batch's time, as precise as the database keeps it.
fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("a time of now is in range")
}

fn later(now: Timestamp, wait: std::time::Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// The distinct new ids of records with something to do; a second copy in the same batch is settled as a duplicate.
fn distinct_ids<M: Model>(items: &[Item<M>]) -> (HashSet<Uuid>, Vec<Option<Settled<M>>>) {
    let mut distinct = HashSet::new();
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        results.push(match &item.origin {
            Origin::Record {
                envelope: Some(envelope),
                ..
            } if !item.is_idle() => (!distinct.insert(envelope.id)).then_some(Settled::Duplicate),
            _ => None,
        });
    }
    (distinct, results)
}

/// The keys whose parking matters: of records with something to do, and of those that others may wait for.
fn keys_of<'a, M: Model>(items: &'a [Item<M>], suspects: &[bool]) -> Vec<(&'a str, &'a str)> {
    let mut keys: Vec<(&str, &str)> = items
        .iter()
        .zip(suspects)
        .filter(|(item, suspect)| **suspect || !item.is_idle())
        .filter_map(|(item, _)| item.arrived())
        .map(|(record, envelope)| (&*record.topic, &*envelope.subject))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn is_parked(parked: &HashSet<(String, String)>, record: &Record, envelope: &Envelope) -> bool {
    // Nearly always there is none, and then a look-up would only cost two texts.
    !parked.is_empty() && parked.contains(&(record.topic.to_string(), envelope.subject.to_string()))
}

/// The records that may be what their parked key waits for: topic, key, version.
fn fillers_of<'a, M: Model>(
    items: &'a [Item<M>],
    arrivals: &[Arrival],
    parked: &HashSet<(String, String)>,
    gaps: &[(&str, &str, i64, i64)],
) -> Vec<(&'a str, &'a str, i64)> {
    if parked.is_empty() && gaps.is_empty() {
        return Vec::new();
    }
    let late = items.iter().zip(arrivals).filter(|(_, arrival)| arrival.may_fill());
    late.filter_map(|(item, _)| item.arrived())
        .filter(|(record, envelope)| {
            is_parked(parked, record, envelope)
                || gaps
                    .iter()
                    .any(|(topic, key, ..)| (*topic, *key) == (&*record.topic, &*envelope.subject))
        })
        .map(|(record, envelope)| (&*record.topic, &*envelope.subject, envelope.stream_version))
        .collect()
}

/// The gaps before records that wait: topic, key, first and last missing version. One that is given up waits for nothing.
fn gaps_of<'a, M: Model>(
    items: &'a [Item<M>],
    arrivals: &[Arrival],
    results: &[Settled<M>],
) -> Vec<(&'a str, &'a str, i64, i64)> {
    let arrived = items.iter().zip(arrivals).zip(results);
    arrived
        .filter(|(_, result)| match result {
            Settled::SetAside(failure) => failure
                .as_ref()
                .is_none_or(|failure| failure.disposition == Disposition::Retry),
            _ => false,
        })
        .filter_map(|((item, arrival), _)| Some((item.arrived()?, arrival.gap()?)))
        .map(|((record, envelope), Gap { first, last })| (&*record.topic, &*envelope.subject, first, last))
        .collect()
}

/// The commands of `items`, each with its stream's state.
fn commands_of<'a, M: Model>(
    items: impl Iterator<Item = &'a Item<M>>,
    streams: &'a BTreeMap<StreamId, Working<M>>,
) -> Vec<(&'a StreamId, &'a M::Command, &'a M::State)> {
    items
        .flat_map(|item| &item.commands)
        .map(|(stream, command)| (stream, command, &*streams[stream].after))
        .collect()
}

/// The last offset of each partition in the batch, plus one.
fn progress_of<M: Model>(items: &[Item<M>]) -> Vec<Progress> {
    let mut last: BTreeMap<(&str, i32), (i64, i64)> = BTreeMap::new();
    for item in items {
        if let Origin::Record { record, .. } = &item.origin {
            last.insert((&record.topic, record.partition), (record.offset + 1, record.epoch));
        }
    }
    last.into_iter()
        .map(|((topic, partition), (next_offset, epoch))| Progress {
            topic: topic.to_owned(),
            partition,
            next_offset,
            epoch,
        })
        .collect()
}

/// Gives each item the events that it caused.
fn fill_events<M: Model>(committed: &mut Committed<M>, items: &[Item<M>]) {
    for (item, result) in items.iter().zip(&mut committed.results) {
        if let (Origin::Asked, Settled::Done { events, .. }) = (&item.origin, result) {
            let streams = item
                .commands
                .iter()
                .filter_map(|(stream, _)| committed.streams.get(stream));
            events.extend(
                streams
                    .flat_map(|stream| &stream.events)
                    .filter(|(_, recorded)| recorded.envelope.causation_id == item.cause.id)
                    .map(|(_, recorded)| recorded.clone()),
            );
        }
    }
}
