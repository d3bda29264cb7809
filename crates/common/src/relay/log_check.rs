//! Whether the topic still holds what was acknowledged.
//!
//! Kafka acknowledges from memory and does not fsync: a broker that lost power, or a topic that was made anew, ends
//! below what was acknowledged. The database has it all, so the cursor goes back to the last record that is left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::window::{LastAcknowledged, Progress};
use crate::envelope::names;
use crate::kafka::{self, LogEnd, asked, blocking};

/// Records that are read at a time, going back from the end of a log.
const SCAN_RECORDS: i64 = 500;
/// Longest time without a record during a scan.
const SCAN_TIMEOUT: Duration = Duration::from_secs(10);

/// What the topic was found to lack.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// Where publishing must go on, and the log ends as they are.
    pub(super) progress: Progress,
    /// The partitions that lost records.
    pub(super) partitions: Vec<i32>,
    /// Those of them that hold no event at all any more.
    pub(super) emptied: Vec<i32>,
}

/// Compares the topic's log with what was acknowledged. `regressed` are partitions that gave out an offset twice: their
/// log has lost its tail even if it has grown past the old end again.
pub(super) async fn check(
    settings: &kafka::Settings,
    topic: &str,
    acknowledged: &Progress,
    regressed: &BTreeMap<i32, i64>,
) -> Result<Option<Loss>, kafka::Error> {
    if acknowledged.log_ends.is_empty() {
        return Ok(None);
    }
    let ends = kafka::log_ends(settings, &[topic.to_owned()]).await?;
    let lost = lost(acknowledged, regressed, &ends);
    if lost.is_empty() {
        return Ok(None);
    }
    let partitions = lost.iter().map(|(end, _)| end.partition).collect();
    let left = last_left(settings, topic, lost).await?;
    Ok(Some(loss(acknowledged, partitions, &left)))
}

/// The partitions whose log lacks its last acknowledged record. One that the topic does not have any more is empty.
fn lost(acknowledged: &Progress, regressed: &BTreeMap<i32, i64>, ends: &[LogEnd]) -> Vec<(LogEnd, LastAcknowledged)> {
    let empty = |partition| LogEnd {
        topic: String::new(),
        partition,
        first: 0,
        end: 0,
    };
    acknowledged
        .log_ends
        .iter()
        .map(|(partition, last)| {
            let end = ends.iter().find(|end| end.partition == *partition).cloned();
            (end.unwrap_or_else(|| empty(*partition)), *last)
        })
        .filter(|(end, last)| end.end <= last.offset || regressed.contains_key(&end.partition))
        .collect()
}

fn loss(acknowledged: &Progress, partitions: Vec<i32>, left: &BTreeMap<i32, LastAcknowledged>) -> Loss {
    let mut progress = acknowledged.clone();
    let mut emptied = Vec::new();
    for partition in &partitions {
        let position = match left.get(partition) {
            Some(last) => {
                progress.log_ends.insert(*partition, *last);
                last.position
            }
            None => {
                progress.log_ends.remove(partition);
                emptied.push(*partition);
                0
            }
        };
        progress.cursor = progress.cursor.min(position);
    }
    Loss {
        progress,
        partitions,
        emptied,
    }
}

/// The last event in each log that was there when the old tail was: with a position up to the last acknowledged one. What
/// lies behind it was written after the loss.
async fn last_left(
    settings: &kafka::Settings,
    topic: &str,
    lost: Vec<(LogEnd, LastAcknowledged)>,
) -> Result<BTreeMap<i32, LastAcknowledged>, kafka::Error> {
    let topic = topic.to_owned();
    blocking(settings, move |consumer| {
        let mut left = BTreeMap::new();
        for (log, acknowledged) in lost {
            let mut until = log.end;
            while until > log.first {
                let from = (until - SCAN_RECORDS).max(log.first);
                let what = || format!("reading {topic}/{} from offset {from}", log.partition);
                let mut start = TopicPartitionList::new();
                start
                    .add_partition_offset(&topic, log.partition, Offset::Offset(from))
                    .map_err(asked(what))?;
                consumer.assign(&start).map_err(asked(what))?;
                let found = scan(consumer, until, acknowledged.position).map_err(asked(what))?;
                if let Some(found) = found {
                    left.insert(log.partition, found);
                    break;
                }
                until = from;
            }
        }
        Ok(left)
    })
    .await
}

/// Reads up to offset `until`, and returns the last record with a position up to `position_max`.
fn scan(
    consumer: &rdkafka::consumer::BaseConsumer<kafka::QuietContext>,
    until: i64,
    position_max: i64,
) -> Result<Option<LastAcknowledged>, KafkaError> {
    let mut found = None;
    let mut deadline = Instant::now() + SCAN_TIMEOUT;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                deadline = Instant::now() + SCAN_TIMEOUT;
                if message.offset() >= until {
                    return Ok(found);
                }
                if let Some(position) = position(&message).filter(|position| *position <= position_max) {
                    found = Some(LastAcknowledged {
                        offset: message.offset(),
                        position,
                    });
                }
                if message.offset() + 1 == until {
                    return Ok(found);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
            Some(Err(error)) => return Err(error),
            None if Instant::now() >= deadline => {
                return Err(KafkaError::MessageConsumption(
                    rdkafka::error::RDKafkaErrorCode::OperationTimedOut,
                ));
            }
            None => {}
        }
    }
}

fn position(message: &BorrowedMessage<'_>) -> Option<i64> {
    let headers = message.headers()?;
    let value = headers.iter().find(|header| header.key == names::POSITION)?.value?;
    str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged() -> Progress {
        let last = |offset, position| LastAcknowledged { offset, position };
        Progress {
            cursor: 90,
            log_ends: BTreeMap::from([(0, last(40, 88)), (1, last(50, 90))]),
        }
    }

    fn end(partition: i32, end: i64) -> LogEnd {
        LogEnd {
            topic: "t".to_owned(),
            partition,
            first: 0,
            end,
        }
    }

    fn lost_partitions(regressed: &[(i32, i64)], ends: &[LogEnd]) -> Vec<i32> {
        let regressed = regressed.iter().copied().collect();
        lost(&acknowledged(), &regressed, ends)
            .iter()
            .map(|(end, _)| end.partition)
            .collect()
    }

    #[test]
    fn a_log_that_ends_below_its_last_acknowledged_record_has_lost_it() {
        assert_eq!(lost_partitions(&[], &[end(0, 41), end(1, 51)]), Vec::<i32>::new());
        assert_eq!(lost_partitions(&[], &[end(0, 41), end(1, 50)]), vec![1]);
        assert_eq!(lost_partitions(&[(0, 30)], &[end(0, 99), end(1, 51)]), vec![0]);
        assert_eq!(lost_partitions(&[], &[end(0, 41)]), vec![1]);
    }

    #[test]
    fn the_cursor_goes_back_to_the_oldest_record_that_is_the_last_one_left() {
        let left = BTreeMap::from([(
            1,
            LastAcknowledged {
                offset: 44,
                position: 70,
            },
        )]);
        let found = loss(&acknowledged(), vec![1], &left);
        assert_eq!((found.progress.cursor, found.progress.log_ends[&1].offset), (70, 44));
        assert_eq!(found.emptied, Vec::<i32>::new());

        let found = loss(&acknowledged(), vec![0, 1], &left);
        assert_eq!((found.progress.cursor, found.emptied), (0, vec![0]));
        assert!(!found.progress.log_ends.contains_key(&0));
    }
}
