//! From a record to an item, and from items to committed offsets.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::batch::Settled;
use super::commands::Expect;
use super::pace::{self, COMPANY_WAIT, Pace};
use super::versions::{Arrival, Gap};
use super::{BATCH_ITEMS_MAX, Committer, GaveUp, IDLE_OFFSETS_WAIT, Item, Origin, ParkedHead, RECONNECT_WAIT};
use crate::breaker::Standing;
use crate::deadlines::CLAIM_LEASE;
use crate::envelope;
use crate::event::{Cause, Envelope};
use crate::model::Model;
use crate::parking::{self, Disposition, Failure, Head};
use crate::record::Record;
use crate::telemetry::{self, names};

/// Records of one key that are handled in one turn of the clock, so that a long queue does not hold up other keys for long.
const HEADS_DRAINED_MAX: usize = 1_000;

impl<M: Model> Committer<M> {
    /// Commits records as they come until their sender is gone or `shutdown`.
    pub async fn serve_records(self: Arc<Self>, mut records: mpsc::Receiver<Record>, shutdown: CancellationToken) {
        let mut batch = Vec::new();
        let mut claims_seen = 0;
        // Records without work only move an offset; that can wait for the next batch with work, or a moment.
        let mut idle: Vec<Item<M>> = Vec::new();
        let mut idle_since = Instant::now();
        // Taken when the breaker opened, and to be handled before all that comes after them.
        let mut held: VecDeque<Item<M>> = VecDeque::new();
        let mut pace = Pace::new();
        loop {
            let room = match self.breaker.standing() {
                Standing::Closed => BATCH_ITEMS_MAX,
                Standing::Probing => 1,
                Standing::Open(pause) => {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(pause) => continue,
                    }
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = std::future::ready(()), if !held.is_empty() => {}
                received = records.recv_many(&mut batch, room) => if received == 0 { return },
                () = tokio::time::sleep_until(idle_since + IDLE_OFFSETS_WAIT), if !idle.is_empty() => {}
            }
            if held.is_empty() {
                pace.fill(&mut batch, &mut records, room).await;
            }
            if self.claims.changes() != claims_seen {
                // What another copy did meanwhile is not in the cache.
                claims_seen = self.claims.changes();
                self.cache.clear();
            }
            if idle.is_empty() {
                idle_since = Instant::now();
            }
            let mut items = std::mem::take(&mut idle);
            items.extend(held.drain(..room.min(held.len())));
            let wait_until = Instant::now() + COMPANY_WAIT;
            loop {
                for record in batch.drain(..) {
                    let Some(item) = self.parse(record, &shutdown).await else {
                        return;
                    };
                    items.push(item);
                }
                let may_wait = items.len() < room && held.is_empty() && self.can_wait(&items);
                if !may_wait || !pace::company(&mut batch, &mut records, room - items.len(), wait_until).await {
                    break;
                }
            }
            let due = idle_since.elapsed() >= IDLE_OFFSETS_WAIT || items.len() >= BATCH_ITEMS_MAX;
            if !due && items.iter().all(Item::is_idle) {
                idle = items;
                continue;
            }
            if items.iter().any(|item| item.failure.is_some()) {
                let dies = |item: &Item<M>| (!item.is_idle()).then_some(item.failure.is_some());
                let room = self.breaker.room(items.iter().map(dies));
                held = items.drain(room..).chain(held).collect();
            }
            let began = Instant::now();
            let mut sagas = items
                .iter()
                .filter(|item| !item.is_idle())
                .map(|item| item.cause.correlation_id);
            let first = sagas.next();
            let several = sagas.any(|saga| Some(saga) != first);
            self.claims.begin();
            let left = self.commit_records(items, &shutdown).await;
            self.claims.end();
            pace.committed(several, began);
            let Some(left) = left else { return };
            held = left.into_iter().chain(held).collect();
        }
    }

    /// Whether there is work among `items`, and nobody waits for it. Two commands for one stream may lead on together.
    fn can_wait(&self, items: &[Item<M>]) -> bool {
        let mut streams = HashSet::new();
        let mut work = items.iter().filter(|item| !item.is_idle());
        let alone = work.all(|item| {
            item.failure.is_none()
                && item.commands.iter().all(|(stream, command)| {
                    let known = self.cache.get(stream);
                    known.is_some_and(|known| self.model.can_wait(&known.state, command)) && streams.insert(stream)
                })
        });
        alone && !streams.is_empty()
    }

    /// Tries parked heads again, and what queues behind each while it succeeds, each in a transaction of its own.
    pub async fn retry_parked(&self, heads: Vec<Head>, shutdown: &CancellationToken) {
        for head in heads {
            let mut next = Some(head);
            for _ in 0..HEADS_DRAINED_MAX {
                let Some(head) = next else { break };
                let (topic, key) = (head.record.topic.clone(), head.key.clone());
                if !self.retry_head(head, shutdown).await {
                    return;
                }
                next = match self.pool.get().await {
                    Ok(client) => parking::claim_next(&client, M::NAME, (&topic, &key), CLAIM_LEASE)
                        .await
                        .unwrap_or_default(),
                    // The clock will find it when the database is back.
                    Err(_) => None,
                };
            }
        }
    }

    /// Whether it is dealt with; `false` only when stopping.
    async fn retry_head(&self, head: Head, shutdown: &CancellationToken) -> bool {
        let Some(item) = self.parse(head.record.clone(), shutdown).await else {
            return false;
        };
        let Origin::Record {
            envelope: Some(envelope),
            ..
        } = item.origin
        else {
            tracing::error!(
                seq = head.seq,
                key = head.key,
                "a parked record has no envelope any more"
            );
            return true;
        };
        let item = Item {
            origin: Origin::Head(ParkedHead { head, envelope }),
            ..item
        };
        self.commit_records(vec![item], shutdown).await.is_some()
    }

    /// Finds out what a record asks for. Waits while the registry is away; `None` on shutdown.
    async fn parse(&self, mut record: Record, shutdown: &CancellationToken) -> Option<Item<M>> {
        let poison = |envelope: Option<Envelope>, record: Record, failure: Failure| {
            let cause = envelope.as_ref().map_or_else(anonymous_cause, Cause::from);
            Item {
                origin: Origin::Record { record, envelope },
                cause,
                commands: Vec::new(),
                failure: Some(failure),
                expect: Expect::Any,
                _span: None,
            }
        };
        let envelope = match read_envelope(&mut record) {
            Ok(envelope) => envelope,
            Err(failure) => return Some(poison(None, record, failure)),
        };
        let value = record.value.clone().unwrap_or_default();
        let mut wait = RECONNECT_WAIT.0;
        let opened = loop {
            match self.codec.open(&value).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "waiting for the schema registry"
                    );
                    tokio::select! {
                        () = shutdown.cancelled() => return None,
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(RECONNECT_WAIT.1),
                    }
                }
                opened => break opened,
            }
        };
        let (writer, datum) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let failure = Failure::new("decode", Disposition::Poison, &error);
                return Some(poison(Some(envelope), record, failure));
            }
        };
        let topic = record
            .topic
            .strip_prefix(&*self.namespace_prefix)
            .unwrap_or(&record.topic);
        let reaction = match self.model.read(topic, &writer, datum) {
            None => Ok(Vec::new()),
            Some(Ok(input)) => {
                let reaction = self.model.react(&input, &envelope);
                reaction.map_err(|reason| Failure::told("meaning", Disposition::Poison, reason))
            }
            Some(Err(error)) => Err(Failure::new("decode", Disposition::Poison, &error)),
        };
        Some(match reaction {
            Ok(commands) => {
                let mut cause = Cause::from(&envelope);
                let followed = envelope.traceparent.as_deref().filter(|_| !commands.is_empty());
                let span = telemetry::handling(M::NAME, &envelope.event_type, followed);
                if let Some(span) = &span {
                    cause.traceparent = span.in_scope(telemetry::current_traceparent).map(Into::into);
                }
                let begins = commands.iter().all(|(_, command)| self.model.begins(command));
                Item {
                    cause,
                    origin: Origin::Record {
                        record,
                        envelope: Some(envelope),
                    },
                    commands,
                    failure: None,
                    expect: if begins { Expect::New } else { Expect::Any },
                    _span: span,
                }
            }
            Err(failure) => poison(Some(envelope), record, failure),
        })
    }

    /// Commits `items`; a batch with a culprit is halved until the culprit is alone.
    ///
    /// What was left for later because the breaker opened: nothing, nearly always. `None` only when stopping, and then
    /// nothing later may be committed: its offset would pass what was left undone.
    async fn commit_records(&self, items: Vec<Item<M>>, shutdown: &CancellationToken) -> Option<Vec<Item<M>>> {
        let mut open = vec![items];
        while let Some(mut items) = open.pop() {
            items.retain(|item| self.is_held(item));
            if items.is_empty() {
                continue;
            }
            metrics::histogram!(names::COMMIT_BATCH_SIZE, "service" => M::NAME, "source" => "records")
                .record(items.len() as f64);
            match self.commit(&mut items, None, shutdown).await {
                Ok(committed) => {
                    for entry in &committed.progress {
                        self.claims
                            .committed(&entry.topic, entry.partition, entry.epoch, entry.next_offset);
                    }
                    self.count(&items, &committed.results, &committed.review.arrivals);
                    self.versions.learn(committed.review);
                }
                Err(GaveUp::Items { .. }) if items.len() > 1 => {
                    let rest = items.split_off(items.len() / 2);
                    open.extend([rest, items]);
                }
                Err(GaveUp::Items { class, reason }) => {
                    let culprit = &mut items[0];
                    if culprit.failure.is_some() {
                        tracing::error!(error = reason, "a failed record cannot even be set aside; trying again");
                        tokio::select! {
                            () = shutdown.cancelled() => return None,
                            () = tokio::time::sleep(RECONNECT_WAIT.1) => {}
                        }
                    } else {
                        culprit.failure = Some(Failure::told(class, Disposition::Retry, reason));
                        culprit.commands.clear();
                    }
                    open.push(items);
                }
                Err(GaveUp::Fenced) => {}
                Err(GaveUp::Time(_)) => return None,
            }
            if !open.is_empty() && self.breaker.is_open() {
                return Some(open.into_iter().rev().flatten().collect());
            }
        }
        Some(Vec::new())
    }

    fn count(&self, items: &[Item<M>], results: &[Settled<M>], arrivals: &[Arrival]) {
        let duplicates = results
            .iter()
            .filter(|settled| matches!(settled, Settled::Duplicate))
            .count();
        if duplicates > 0 {
            metrics::counter!(names::INBOX_DUPLICATES_TOTAL, "consumer" => M::NAME).increment(duplicates as u64);
        }
        let mut topics: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let (mut judged, mut dead) = (0, 0);
        for ((item, settled), arrival) in items.iter().zip(results).zip(arrivals) {
            if let Origin::Record { record, .. } = &item.origin {
                let (records, repeats) = topics.entry(&record.topic).or_default();
                *records += 1;
                *repeats += u64::from(*arrival == Arrival::Late);
            }
            // What is redriven is an operator's doing, and has a guard of its own.
            let redriven = matches!(&item.origin, Origin::Head(parked) if parked.head.redriven.is_some());
            if !redriven && matches!(settled, Settled::Done { .. } | Settled::SetAside(Some(_))) {
                judged += 1;
            }
            if let Settled::SetAside(failure) = settled {
                if let (Some(gap), Some((record, envelope))) = (arrival.gap(), item.arrived()) {
                    alert::<M>(gap, record, envelope);
                }
                if let Some(failure) = failure {
                    dead += u64::from(!redriven && failure.disposition != Disposition::Retry);
                    self.tell(item, failure);
                }
            }
        }
        self.breaker.note(judged, dead);
        for (topic, (records, repeats)) in topics {
            let label = topic.to_owned();
            metrics::counter!(names::CONSUMER_RECORDS_TOTAL, "consumer" => M::NAME, "topic" => label.clone())
                .increment(records);
            if repeats > 0 {
                metrics::counter!(names::STREAM_REPEATS_TOTAL, "consumer" => M::NAME, "topic" => label)
                    .increment(repeats);
            }
        }
    }

    /// Says that a record failed, and wakes whoever publishes dead letters.
    fn tell(&self, item: &Item<M>, failure: &Failure) {
        let (record, envelope) = match &item.origin {
            Origin::Record { record, envelope } => (record, envelope.as_ref()),
            Origin::Head(parked) => (&parked.head.record, Some(&parked.envelope)),
            Origin::Asked => return,
        };
        tracing::warn!(
            topic = &*record.topic,
            partition = record.partition,
            offset = record.offset,
            event.id = envelope.map(|envelope| envelope.id.to_string()),
            event.type = envelope.map(|envelope| &*envelope.event_type),
            correlation.id = envelope.map(|envelope| envelope.correlation_id.to_string()),
            disposition = failure.disposition.as_str(),
            error = failure.message,
            "a record could not be handled"
        );
        if failure.disposition != Disposition::Retry {
            metrics::counter!(
                names::DEAD_LETTERS_TOTAL,
                "consumer" => M::NAME,
                "reason" => failure.disposition.as_str()
            )
            .increment(1);
            self.relay.dead_letters_waiting();
        } else if self.retry.of(failure.class).first_wait.is_zero() {
            self.due_at_once.notify_one();
        }
    }
}

/// Says that events are missing: something between their writer and here lost them.
fn alert<M: Model>(gap: Gap, record: &Record, envelope: &Envelope) {
    metrics::counter!(names::STREAM_GAPS_TOTAL, "consumer" => M::NAME, "topic" => record.topic.to_string())
        .increment(1);
    tracing::error!(
        consumer = M::NAME,
        topic = &*record.topic,
        partition = record.partition,
        offset = record.offset,
        key = &*envelope.subject,
        event.id = %envelope.id,
        stream.version = envelope.stream_version,
        missing.first = gap.first,
        missing.last = gap.last,
        "events are missing before this one: its key is parked until they arrive"
    );
}

/// The record's envelope. The Kafka client panics at a header whose name is not UTF-8; such headers are dropped here, for
/// nothing could be done with them later either.
fn read_envelope(record: &mut Record) -> Result<Envelope, Failure> {
    let read = || envelope::from_record(record.headers.as_ref(), record.key.as_deref());
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| Failure::new("envelope", Disposition::Poison, &error)),
        Err(_) => {
            record.headers = None;
            let message = "the name of a header is not UTF-8; its headers are not kept".to_owned();
            Err(Failure::told("envelope", Disposition::Poison, message))
        }
    }
}

fn anonymous_cause() -> Cause {
    let id = Uuid::now_v7();
    Cause {
        id,
        correlation_id: id,
        traceparent: None,
    }
}
