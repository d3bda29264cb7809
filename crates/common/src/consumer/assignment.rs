//! Partitions come and go: claimed in the database when they come, let go of when the open batch has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Error, REQUEST_TIMEOUT, REVOKE_WAIT, Settings};
use crate::claims::{Claims, Reset};
use crate::inbox;
use crate::telemetry::names;

/// How often the group's offsets are asked for before the check that rests on them is left out.
const COMMITTED_ATTEMPTS_MAX: u32 = 3;
/// How long to wait before a claim is tried again.
const CLAIM_WAIT: Duration = Duration::from_millis(500);

/// What librdkafka calls back into, on the polling thread.
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) pool: Pool,
    pub(super) claims: Arc<Claims>,
    pub(super) runtime: Handle,
    pub(super) stop: CancellationToken,
    pub(super) fatal: mpsc::UnboundedSender<Error>,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            reason,
            "the Kafka client reports"
        );
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let result = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, partitions),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoke(consumer, partitions),
            _ => Ok(()),
        };
        if let Err(error) = result {
            let group = self.settings.group.clone();
            tracing::error!(group, error = &error as &dyn std::error::Error, "a rebalance failed");
            let _ = self.fatal.send(Error::Kafka { group, source: error });
        }
    }
}

impl Context {
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
        let committed = committed(consumer, partitions);
        let mut starts = TopicPartitionList::with_capacity(partitions.count());
        for element in partitions.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let Some(claim) = self.claim(topic, partition) else {
                return Ok(());
            };
            let ours = claim.next_offset.unwrap_or(0);
            let group = committed
                .find_partition(topic, partition)
                .map(|element| element.offset());
            if let Some(Offset::Offset(theirs)) = group
                && theirs > ours
                && !claim.reset
            {
                let _ = self.fatal.send(Error::GroupAhead {
                    group: self.settings.group.clone(),
                    topic: topic.to_owned(),
                    partition,
                    committed: theirs,
                    ours,
                });
                return Ok(());
            }
            self.hold(topic, partition, claim);
            starts.add_partition_offset(
                topic,
                partition,
                claim.next_offset.map_or(Offset::Beginning, Offset::Offset),
            )?;
        }
        self.count(starts.count());
        tracing::debug!(
            group = self.settings.group,
            partitions = starts.count(),
            "partitions assigned"
        );
        consumer.incremental_assign(&starts)
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
        let idle = self.claims.wait_idle(REVOKE_WAIT);
        if !idle {
            tracing::warn!("the open batch did not end in time; its epoch fences it");
        }
        // Whoever stops has just committed; and a commit while the client closes waits for ever where the broker went away.
        if !self.stop.is_cancelled() {
            commit_group(consumer, &self.claims, CommitMode::Sync, &mut HashMap::new());
        }
        for element in partitions.elements() {
            self.claims.give_up(element.topic(), element.partition());
        }
        self.count(partitions.count());
        tracing::debug!(
            group = self.settings.group,
            partitions = partitions.count(),
            "partitions revoked"
        );
        consumer.incremental_unassign(partitions)
    }

    /// Records of this partition take effect from now on, and the group's offset follows one that was moved.
    pub(super) fn hold(&self, topic: &str, partition: i32, claim: inbox::Claim) {
        self.claims.hold(topic, partition, claim.epoch);
        if let (true, Some(next_offset)) = (claim.reset, claim.next_offset) {
            self.claims.took_up(Reset {
                topic: topic.to_owned(),
                partition,
                epoch: claim.epoch,
                next_offset,
            });
        }
    }

    fn count(&self, partitions: usize) {
        metrics::counter!(names::CONSUMER_REBALANCES_TOTAL, "consumer" => self.settings.consumer)
            .increment(partitions as u64);
    }

    /// Claims a partition, as often as it takes; `None` when stopping.
    pub(super) fn claim(&self, topic: &str, partition: i32) -> Option<inbox::Claim> {
        self.runtime.block_on(async {
            loop {
                let claimed = async {
                    let client = self.pool.get().await.map_err(|error| error.to_string())?;
                    let consumer = self.settings.consumer;
                    inbox::claim(&client, consumer, topic, partition)
                        .await
                        .map_err(|error| error.to_string())
                };
                match claimed.await {
                    Ok(claim) => return Some(claim),
                    Err(error) => tracing::warn!(error, topic, partition, "a partition cannot be claimed yet"),
                }
                tokio::select! {
                    () = self.stop.cancelled() => return None,
                    () = tokio::time::sleep(CLAIM_WAIT) => {}
                }
            }
        })
    }
}

impl Context {
    /// Claims a partition that was lost: one whose offset was moved on purpose, or any `by_force`. `None` if it is another
    /// copy's, or the database does not answer.
    pub(super) fn claim_again(&self, topic: &str, partition: i32, by_force: bool) -> Option<inbox::Claim> {
        let consumer = self.settings.consumer;
        let claimed = self.ask(async |client| {
            let moved = inbox::claim_reset(client, consumer, topic, partition).await?;
            match moved {
                None if by_force => inbox::claim(client, consumer, topic, partition).await.map(Some),
                moved => Ok(moved),
            }
        });
        claimed.flatten()
    }

    /// Takes the mark of a reset away; whether that was done.
    pub(super) fn settle(&self, reset: &Reset) -> bool {
        let consumer = self.settings.consumer;
        self.ask(async |client| inbox::settle_reset(client, consumer, &reset.topic, reset.partition, reset.epoch).await)
            .is_some()
    }

    /// What the database answers, or `None` with a warning: whoever asks does so again.
    fn ask<T>(&self, ask: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>) -> Option<T> {
        let answer = self.runtime.block_on(async {
            let client = self.pool.get().await.map_err(|error| error.to_string())?;
            ask(&client).await.map_err(|error| error.to_string())
        });
        answer
            .inspect_err(|error| tracing::warn!(error, "an offset that was moved cannot be taken up yet"))
            .ok()
    }
}

/// The group's own offsets. Only a check rests on them, so that a broker which does not tell them delays and no more.
fn committed(consumer: &BaseConsumer<Context>, partitions: &TopicPartitionList) -> TopicPartitionList {
    for attempt in 1..=COMMITTED_ATTEMPTS_MAX {
        match consumer.committed_offsets(partitions.clone(), REQUEST_TIMEOUT) {
            Ok(committed) => return committed,
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                attempt,
                "the group's offsets cannot be read"
            ),
        }
    }
    TopicPartitionList::new()
}

/// Lets the group's offsets follow the database's.
pub(super) fn commit_group(
    consumer: &BaseConsumer<Context>,
    claims: &Claims,
    mode: CommitMode,
    known: &mut HashMap<(String, i32), i64>,
) {
    let mut moved = TopicPartitionList::new();
    for (topic, partition, next_offset) in claims.progress() {
        if known.insert((topic.clone(), partition), next_offset) != Some(next_offset)
            && let Err(error) = moved.add_partition_offset(&topic, partition, Offset::Offset(next_offset))
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "an offset cannot be listed");
        }
    }
    if moved.count() > 0
        && let Err(error) = consumer.commit(&moved, mode)
    {
        // The database's offsets are what counts; the group's will follow with the next commit.
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "the group's offsets cannot be committed now"
        );
        known.clear();
    }
}
