//! What a client may see of it: nothing but records at their offsets.

use std::path::Path;
use std::time::Duration;

use tansu_sans_io::ListOffset;
use tansu_sans_io::create_topics_request::CreatableTopic;
use tansu_sans_io::record::header::Header;

use super::*;
use crate::broker::{LOG_FILE, log, storage_url};

/// Milliseconds of the first record; each later one is a millisecond younger.
const BEGAN: i64 = 1_000_000;

async fn rows(dir: &Path) -> StorageContainer {
    let (url, _) = storage_url(dir).unwrap();
    log::prepare(&url, &dir.join(LOG_FILE)).await.unwrap();
    let rows = log::open(url, 1).await.unwrap();
    let topic = CreatableTopic::default()
        .name("things".into())
        .num_partitions(1)
        .replication_factor(1)
        .assignments(Some(Vec::new()))
        .configs(Some(Vec::new()));
    rows.create_topic(topic, false).await.unwrap();
    rows
}

fn partition() -> Topition {
    Topition::new("things", 0)
}

/// Records of which each says its offset, in its value and in a header.
fn batch(offset: i64, count: i32, padding: usize) -> Batch {
    let mut batch = inflated::Batch::builder()
        .base_timestamp(BEGAN + offset)
        .max_timestamp(BEGAN + offset + i64::from(count) - 1)
        .last_offset_delta(count - 1);
    for delta in 0..count {
        let mut value = (offset + i64::from(delta)).to_be_bytes().to_vec();
        value.resize(8 + padding, 0);
        let header = Header::builder()
            .key(Bytes::from_static(b"at"))
            .value(Bytes::from(value[..8].to_vec()));
        batch = batch.record(
            Record::builder()
                .offset_delta(delta)
                .timestamp_delta(i64::from(delta))
                .key(Some(Bytes::from_static(b"key")))
                .value(Some(Bytes::from(value)))
                .header(header),
        );
    }
    batch.build().unwrap().try_into().unwrap()
}

async fn produce(log: &impl Storage, offset: i64, count: i32, padding: usize) {
    let base = log
        .produce(None, &partition(), batch(offset, count, padding))
        .await
        .unwrap();
    assert_eq!(base, offset);
}

/// Reads to the end as Tansu's fetch does, which takes the number of records for the way; how many there were.
async fn read(log: &BatchLog, from: i64, bytes_max: u32) -> i64 {
    let mut offset = from;
    loop {
        let batches = log
            .fetch(&partition(), offset, 0, bytes_max, IsolationLevel::ReadUncommitted)
            .await
            .unwrap();
        if batches.is_empty() {
            return offset - from;
        }
        for batch in batches {
            assert_eq!(batch.base_offset, offset, "read from {from}");
            for record in Vec::<Record>::try_from(batch).unwrap() {
                let value = record.value.unwrap();
                assert_eq!(value[..8], offset.to_be_bytes());
                assert_eq!(record.headers.len(), 1, "of {offset}, read from {from}");
                assert_eq!(record.headers[0].value.as_deref(), Some(&value[..8]));
                offset += 1;
            }
        }
    }
}

#[tokio::test]
async fn batches_are_read_from_any_offset_in_memory_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(dir.path()).await;
    // As a log was written before, record by record.
    produce(&rows, 0, 4, 0).await;
    let log = BatchLog::new(rows.clone());
    assert_eq!(read(&log, 0, 1).await, 4);
    let mut end = 4;
    for count in [1, 7, 250, 2, 1] {
        produce(&log, end, count, 0).await;
        end += i64::from(count);
    }
    produce(&rows, end, 3, 0).await;
    let log = BatchLog::new(rows.clone());
    assert_eq!(read(&log, 0, 1).await, end + 3);
    end += 3;
    for count in [5, 1] {
        produce(&log, end, count, 0).await;
        end += i64::from(count);
    }
    assert!(!log.end(&partition()).lock().await.recent.is_empty());
    let afresh = BatchLog::new(rows);
    for from in 0..=end {
        for bytes_max in [1, 5_000_000] {
            assert_eq!(read(&log, from, bytes_max).await, end - from);
            assert_eq!(read(&afresh, from, bytes_max).await, end - from);
        }
    }
    assert_eq!(read(&log, end + 10, 1).await, 0);
    let nowhere = Topition::new("things", 7);
    let refused = log.fetch(&nowhere, 0, 0, 1, IsolationLevel::ReadUncommitted).await;
    assert!(matches!(refused, Err(Error::Api(ErrorCode::UnknownTopicOrPartition))));
    assert_eq!(read(&log, end, 1).await, 0, "the log still answers");
}

#[tokio::test]
async fn a_search_by_time_finds_the_record_and_not_its_batch() {
    let dir = tempfile::tempdir().unwrap();
    let log = BatchLog::new(rows(dir.path()).await);
    for (offset, count) in [(0, 5), (5, 1), (6, 20)] {
        produce(&log, offset, count, 0).await;
    }
    for offset in 0..26 {
        let at = to_system_time(BEGAN + offset).unwrap();
        let asked = [(partition(), ListOffset::Timestamp(at))];
        let found = log.list_offsets(IsolationLevel::ReadUncommitted, &asked).await.unwrap();
        assert_eq!(found[0].1.offset, Some(offset));
        assert_eq!(found[0].1.timestamp, Some(at));
    }
    for (asked, offset) in [(ListOffset::Earliest, 0), (ListOffset::Latest, 26)] {
        let asked = [(partition(), asked)];
        let found = log.list_offsets(IsolationLevel::ReadUncommitted, &asked).await.unwrap();
        assert_eq!(found[0].1.offset, Some(offset));
    }
}

#[tokio::test]
async fn what_is_kept_in_memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let log = BatchLog::new(rows(dir.path()).await);
    assert_eq!(read(&log, 0, 1).await, 0, "now the end is known");
    let mut kept_most = 0;
    for offset in 0..40 {
        produce(&log, offset, 1, 20_000).await;
        let end = log.end(&partition());
        let end = end.lock().await;
        assert!(end.recent_bytes <= RECENT_BYTES_MAX);
        assert_eq!(
            end.recent_bytes,
            end.recent.iter().map(|batch| batch.record_data.len()).sum::<usize>()
        );
        kept_most = kept_most.max(end.recent.len());
    }
    assert_eq!(kept_most, RECENT_BYTES_MAX / 20_050);
    // One that alone is more than that.
    produce(&log, 40, 1, RECENT_BYTES_MAX).await;
    produce(&log, 41, 1, 0).await;
    assert_eq!(read(&log, 0, 5_000_000).await, 42);
}

#[tokio::test]
async fn a_producer_that_goes_away_in_mid_request_hides_nothing_from_readers() {
    let dir = tempfile::tempdir().unwrap();
    let log = BatchLog::new(rows(dir.path()).await);
    let mut written = 0;
    for patience_us in (0..40).map(|n| n * 50) {
        assert_eq!(read(&log, 0, 5_000_000).await, written);
        let partition = partition();
        let produced = log.produce(None, &partition, batch(written, 2, 0));
        let _ = tokio::time::timeout(Duration::from_micros(patience_us), produced).await;
        written = log.rows.offset_stage(&partition).await.unwrap().high_watermark();
    }
    assert!(written > 0);
    assert_eq!(read(&log, 0, 5_000_000).await, written);
}

#[test]
fn what_does_not_fit_is_no_row() {
    assert!(fits_a_row(None, &batch(0, 1, 0)));
    assert!(!fits_a_row(Some("transaction"), &batch(0, 1, 0)));
    assert!(!fits_a_row(None, &batch(0, 1, ROW_BYTES_MAX)));
    assert!(fits_a_row(None, &batch(0, ROW_RECORDS_MAX, 0)));
    assert!(!fits_a_row(None, &batch(0, ROW_RECORDS_MAX + 1, 0)));
    let compacted = Batch {
        last_offset_delta: 5,
        ..batch(0, 3, 0)
    };
    assert!(!fits_a_row(None, &compacted));
}
