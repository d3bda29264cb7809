//! The broker's log: a batch of records is one row, and what was written last is in memory.
//!
//! Tansu stores each record, and each header of each record, by a statement of its own, and compiles that statement anew
//! each time; to deliver a record it does the same again. Here a batch is stored as it came from its producer, as the value of a
//! single record of Tansu's. Offsets, sequence numbers and watermarks are those of the batch's own records, so that
//! nobody who speaks Kafka's protocol can tell.
//!
//! Consumers that keep up are served from memory, and those that have read everything are told so without a look at the file.
//!
//! Rows of logs written record by record are delivered as they are. So is what does not fit into a row that Tansu delivers.

mod storage;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use serde::Deserialize as _;
use serde::de::value::{self, MapDeserializer};
use tansu_sans_io::record::deflated::Batch;
use tansu_sans_io::record::{Record, inflated};
use tansu_sans_io::{ErrorCode, IsolationLevel, to_system_time, to_timestamp};
use tansu_storage::{Error, MetadataResponse, OffsetStage, Result, Storage, StorageContainer, TopicId, Topition};

/// Marks a row whose value is a batch. Kafka gives this bit of a batch's attributes no meaning.
const WHOLE: i16 = 1 << 8;

/// The bits of a batch's attributes that say how its records are compressed.
const COMPRESSION: i16 = 0b111;

/// The most records in one row: librdkafka's `batch.num.messages`. It bounds how far before an offset its row can begin.
const ROW_RECORDS_MAX: i32 = 10_000;

/// The most bytes of a batch in one row; librdkafka's `batch.size` is a little less.
const ROW_BYTES_MAX: usize = 1024 * 1024;

/// What the file is asked for at least: more than any row, since Tansu delivers nothing of a row that does not fit.
const READ_BYTES_MIN: u32 = 2 * 1024 * 1024;

/// How far before an offset its row is looked for, in turn: nearly always it is near.
const STEPS_BACK: [i64; 5] = [0, 10, 100, 1_000, ROW_RECORDS_MAX as i64];

/// The most bytes of batches that are kept in memory for each partition.
const RECENT_BYTES_MAX: usize = 256 * 1024;

/// Tansu's log in SQLite, with whole batches in its rows.
#[derive(Clone, Debug)]
pub(super) struct BatchLog {
    rows: StorageContainer,
    ends: Arc<Mutex<HashMap<Topition, Arc<tokio::sync::Mutex<End>>>>>,
    /// What each topic that there is was last told to be. Tansu asks before each delivery.
    topics: Arc<tokio::sync::Mutex<HashMap<TopicId, MetadataResponse>>>,
}

/// The end of a partition.
#[derive(Debug, Default)]
struct End {
    /// `None` while it is not known.
    stage: Option<OffsetStage>,
    /// What was written last, without a gap and up to the high watermark.
    recent: VecDeque<Batch>,
    recent_bytes: usize,
}

impl End {
    /// The end after `batch` was given its offset; unknown if something else came between.
    fn followed_by(mut self, mut batch: Batch) -> Self {
        let Some(stage) = self.stage.filter(|stage| stage.high_watermark() == batch.base_offset) else {
            return Self::default();
        };
        self.stage = stage_of(stage.log_start(), end_of(&batch));
        // A part of its request, all of which would be kept with it.
        batch.record_data = Bytes::copy_from_slice(&batch.record_data);
        self.recent_bytes += batch.record_data.len();
        self.recent.push_back(batch);
        while self.recent_bytes > RECENT_BYTES_MAX {
            let oldest = self.recent.pop_front().expect("what has bytes is there");
            self.recent_bytes -= oldest.record_data.len();
        }
        self
    }

    /// What there is from `offset` on, up to about `bytes_max`, if it is in memory.
    fn recent_from(&self, offset: i64, bytes_max: u32) -> Option<Vec<Batch>> {
        let first = self.recent.partition_point(|batch| end_of(batch) <= offset);
        if first == 0 && self.recent.front()?.base_offset > offset {
            return None;
        }
        let mut room = bytes_max as usize;
        let fitting = self.recent.range(first..).take_while(|batch| {
            let fits = room > 0;
            room = room.saturating_sub(batch.record_data.len());
            fits
        });
        Some(fitting.cloned().collect())
    }
}

impl BatchLog {
    pub(super) fn new(rows: StorageContainer) -> Self {
        Self {
            rows,
            ends: Arc::default(),
            topics: Arc::default(),
        }
    }

    fn end(&self, topition: &Topition) -> Arc<tokio::sync::Mutex<End>> {
        let mut ends = self.ends.lock().expect("nothing panics while it holds this lock");
        ends.entry(topition.clone()).or_default().clone()
    }

    /// Has all asked for again, after something that changes it in other ways than by a batch.
    async fn forget(&self) {
        self.topics.lock().await.clear();
        let ends: Vec<_> = {
            let ends = self.ends.lock().expect("nothing panics while it holds this lock");
            ends.values().cloned().collect()
        };
        for end in ends {
            *end.lock().await = End::default();
        }
    }

    async fn stage(&self, topition: &Topition, end: &mut End) -> Result<OffsetStage> {
        if let Some(stage) = end.stage {
            return Ok(stage);
        }
        // Of a partition that there is not, Tansu's look-up would panic and take the log's task with it.
        if !self.has(topition).await? {
            return Err(Error::Api(ErrorCode::UnknownTopicOrPartition));
        }
        let stage = self.rows.offset_stage(topition).await?;
        *end = End {
            stage: Some(stage),
            ..End::default()
        };
        Ok(stage)
    }

    async fn has(&self, topition: &Topition) -> Result<bool> {
        let metadata = self.metadata(Some(&[topition.into()])).await?;
        let mut partitions = metadata
            .topics()
            .iter()
            .flat_map(|topic| topic.partitions.iter().flatten());
        Ok(partitions.any(|partition| partition.partition_index == topition.partition()))
    }

    /// What the file holds from `offset` on. The row of `offset` may begin before it.
    async fn stored(
        &self,
        topition: &Topition,
        offset: i64,
        (bytes_min, bytes_max): (u32, u32),
        isolation: IsolationLevel,
    ) -> Result<Vec<Batch>> {
        let bytes_max = bytes_max.max(READ_BYTES_MIN);
        let read = async |from: i64| {
            let rows = self.rows.fetch(topition, from, bytes_min, bytes_max, isolation).await?;
            batches_of(rows)
        };
        let mut next = None;
        for step in STEPS_BACK {
            let mut from = (offset - step).max(0);
            loop {
                let mut batches = read(from).await?;
                let Some(end) = batches.last().map(end_of) else { break };
                batches.retain(|batch| end_of(batch) > offset);
                match batches.first().map(|batch| batch.base_offset) {
                    Some(base) if base <= offset => return Ok(batches),
                    Some(base) => {
                        next = Some(base);
                        break;
                    }
                    None => from = end,
                }
            }
            if from == 0 {
                break;
            }
        }
        // Nothing holds this offset: what was there is deleted. Tansu has the first record's headers only of the offset that
        // it is asked for.
        match next {
            Some(base) => read(base).await,
            None => Ok(Vec::new()),
        }
    }

    /// The first record at or after `base`, which is where a row begins, that is not older than `at`.
    async fn first_since(&self, topition: &Topition, base: i64, at: SystemTime) -> Result<Option<(i64, SystemTime)>> {
        let (bytes, isolation) = ((0, 1), IsolationLevel::ReadUncommitted);
        let batches = self.stored(topition, base, bytes, isolation).await?;
        let Some(batch) = batches.into_iter().next() else {
            return Ok(None);
        };
        let (base, began, at) = (batch.base_offset, batch.base_timestamp, to_timestamp(&at)?);
        let records = Vec::<Record>::try_from(batch)?;
        let found = records.iter().find(|record| began + record.timestamp_delta >= at);
        found
            .map(|record| {
                let time = to_system_time(began + record.timestamp_delta)?;
                Ok((base + i64::from(record.offset_delta), time))
            })
            .transpose()
    }
}

/// The offset after the last of a batch.
fn end_of(batch: &Batch) -> i64 {
    batch.max_offset() + 1
}

/// Tansu's type has no constructor but the one for those who read it from somewhere.
fn stage_of(log_start: i64, end: i64) -> Option<OffsetStage> {
    let fields = [("last_stable", end), ("high_watermark", end), ("log_start", log_start)];
    OffsetStage::deserialize(MapDeserializer::<_, value::Error>::new(fields.into_iter())).ok()
}

/// Whether a batch may be one row.
fn fits_a_row(transaction_id: Option<&str>, batch: &Batch) -> bool {
    transaction_id.is_none()
        && !batch.is_transactional()
        && !batch.is_control()
        && batch.last_offset_delta < ROW_RECORDS_MAX
        && batch.record_data.len() <= ROW_BYTES_MAX
        && i64::from(batch.record_count) == i64::from(batch.last_offset_delta) + 1
}

/// The row of a batch. Its time is the latest of the batch's, so that a search by time never passes what it looks for.
fn row_of(batch: &Batch) -> Result<Batch> {
    let row = inflated::Batch::builder()
        .attributes(WHOLE)
        .last_offset_delta(batch.last_offset_delta)
        .base_timestamp(batch.max_timestamp)
        .max_timestamp(batch.max_timestamp)
        .producer_id(batch.producer_id)
        .producer_epoch(batch.producer_epoch)
        .base_sequence(batch.base_sequence)
        .record(Record::builder().value(Some(Bytes::from(batch.clone()))))
        .build()?;
    Ok(row.try_into()?)
}

/// The batches in rows as Tansu gathers them.
fn batches_of(gathered: Vec<Batch>) -> Result<Vec<Batch>> {
    let mut batches = Vec::with_capacity(gathered.len());
    for rows in gathered {
        if rows.attributes & WHOLE == 0 {
            // Tansu's word for nothing is a batch of none.
            batches.extend((rows.record_count > 0).then_some(rows));
            continue;
        }
        let base = rows.base_offset;
        for row in Vec::<Record>::try_from(rows)? {
            let mut batch = Batch::try_from(row.value.unwrap_or_default())?;
            batch.base_offset = base + i64::from(row.offset_delta);
            batches.push(batch);
        }
    }
    Ok(batches)
}

/// `batches` without what is before `offset`: Tansu takes the number of records for the way to the next one.
fn cut(mut batches: Vec<Batch>, offset: i64) -> Result<Vec<Batch>> {
    if let Some(first) = batches.first_mut()
        && first.base_offset < offset
    {
        let skipped = i32::try_from(offset - first.base_offset)?;
        let mut rest = inflated::Batch::try_from(&*first)?;
        rest.records.retain(|record| record.offset_delta >= skipped);
        for record in &mut rest.records {
            record.offset_delta -= skipped;
        }
        rest.base_offset = offset;
        rest.last_offset_delta -= skipped;
        rest.attributes &= !COMPRESSION;
        *first = rest.into_builder().build()?.try_into()?;
    }
    Ok(batches)
}

#[cfg(test)]
mod tests;
