//! From a record to an item, and from items to committed offsets.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::batch::Settled;
use super::commands::Expect;
use super::versions::{Arrival, Gap, Review};
use super::{Committer, GaveUp, Item, Origin, ParkedHead, RECONNECT_WAIT};
use crate::deadlines::CLAIM_LEASE;
use crate::envelope;
use crate::event::{Cause, Envelope};
use crate::inbox::Progress;
use crate::model::Model;
use crate::parking::{self, Disposition, Failure, Head};
use crate::record::Record;
use crate::telemetry::{self, names};

/// Records of one key that are handled in one turn of the clock, so that a long queue does not hold up other keys for long.
const HEADS_DRAINED_MAX: usize = 1_000;

impl<M: Model> Committer<M> {
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
    pub(super) async fn parse(&self, mut record: Record, shutdown: &CancellationToken) -> Option<Item<M>> {
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
    pub(super) async fn commit_records(
        &self,
        items: Vec<Item<M>>,
        shutdown: &CancellationToken,
    ) -> Option<Vec<Item<M>>> {
        let mut open = vec![items];
        while let Some(mut items) = open.pop() {
            items.retain(|item| self.is_held(item));
            if items.is_empty() {
                continue;
            }
            metrics::histogram!(names::COMMIT_BATCH_SIZE, "service" => M::NAME, "source" => "records")
                .record(items.len() as f64);
            match self.commit(&mut items, None, shutdown).await {
                Ok(committed) => self.came_to(&items, &committed.results, &committed.progress, committed.review),
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

    /// Notes what records came to, once that is committed.
    pub(super) fn came_to(&self, items: &[Item<M>], results: &[Settled<M>], progress: &[Progress], review: Review) {
        for entry in progress {
            self.claims
                .committed(&entry.topic, entry.partition, entry.epoch, entry.next_offset);
        }
        self.count(items, results, &review.arrivals);
        self.versions.learn(review);
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
