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

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize as _;
use serde::de::value::{self, MapDeserializer};
use tansu_sans_io::create_topics_request::CreatableTopic;
use tansu_sans_io::delete_groups_response::DeletableGroupResult;
use tansu_sans_io::delete_records_request::DeleteRecordsTopic;
use tansu_sans_io::delete_records_response::DeleteRecordsTopicResult;
use tansu_sans_io::describe_cluster_response::DescribeClusterBroker;
use tansu_sans_io::describe_configs_response::DescribeConfigsResult;
use tansu_sans_io::describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic;
use tansu_sans_io::incremental_alter_configs_request::AlterConfigsResource;
use tansu_sans_io::incremental_alter_configs_response::AlterConfigsResourceResponse;
use tansu_sans_io::list_groups_response::ListedGroup;
use tansu_sans_io::record::deflated::Batch;
use tansu_sans_io::record::{Record, inflated};
use tansu_sans_io::txn_offset_commit_response::TxnOffsetCommitResponseTopic;
use tansu_sans_io::{
    ConfigResource, ErrorCode, IsolationLevel, ListOffset, ScramMechanism, to_system_time, to_timestamp,
};
use tansu_storage::{
    BrokerRegistrationRequest, Error, GroupDetail, ListOffsetResponse, MetadataResponse, NamedGroupDetail,
    OffsetCommitRequest, OffsetStage, ProducerIdResponse, Result, ScramCredential, Storage, StorageContainer, TopicId,
    Topition, TxnAddPartitionsRequest, TxnAddPartitionsResponse, TxnOffsetCommitRequest, UpdateError, Version,
};

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
    fn followed_by(mut self, batch: Batch) -> Self {
        let Some(stage) = self.stage.filter(|stage| stage.high_watermark() == batch.base_offset) else {
            return Self::default();
        };
        self.stage = stage_of(stage.log_start(), end_of(&batch));
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
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.entry(topition.clone()).or_default().clone()
    }

    /// Has all asked for again, after something that changes it in other ways than by a batch.
    async fn forget(&self) {
        self.topics.lock().await.clear();
        let ends: Vec<_> = {
            let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
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

#[async_trait]
impl Storage for BatchLog {
    async fn produce(&self, transaction_id: Option<&str>, topition: &Topition, mut batch: Batch) -> Result<i64> {
        let end = self.end(topition);
        let mut end = end.lock().await;
        // However this ends, and even if the producer goes away meanwhile: until it has ended well, the end is not known.
        let known = std::mem::take(&mut *end);
        if !fits_a_row(transaction_id, &batch) {
            return self.rows.produce(transaction_id, topition, batch).await;
        }
        let base = self.rows.produce(None, topition, row_of(&batch)?).await?;
        batch.base_offset = base;
        *end = known.followed_by(batch);
        Ok(base)
    }

    async fn fetch(
        &self,
        topition: &Topition,
        offset: i64,
        min_bytes: u32,
        max_bytes: u32,
        isolation: IsolationLevel,
    ) -> Result<Vec<Batch>> {
        let recent = {
            let end = self.end(topition);
            let mut end = end.lock().await;
            if self.stage(topition, &mut end).await?.high_watermark() <= offset {
                return Ok(Vec::new());
            }
            end.recent_from(offset, max_bytes)
        };
        let batches = match recent {
            Some(batches) => batches,
            None => self.stored(topition, offset, (min_bytes, max_bytes), isolation).await?,
        };
        cut(batches, offset)
    }

    async fn offset_stage(&self, topition: &Topition) -> Result<OffsetStage> {
        let end = self.end(topition);
        let mut end = end.lock().await;
        self.stage(topition, &mut end).await
    }

    async fn list_offsets(
        &self,
        isolation_level: IsolationLevel,
        offsets: &[(Topition, ListOffset)],
    ) -> Result<Vec<(Topition, ListOffsetResponse)>> {
        let mut answers = self.rows.list_offsets(isolation_level, offsets).await?;
        for ((topition, asked), (_, answer)) in offsets.iter().zip(&mut answers) {
            match (asked, answer.offset) {
                // Tansu looks for the row of the last record, which may begin before it.
                (ListOffset::Latest, _) => match self.offset_stage(topition).await {
                    Ok(stage) => {
                        answer.offset = Some(stage.high_watermark());
                        answer.timestamp = None;
                    }
                    Err(Error::Api(code)) => answer.error_code = code,
                    Err(error) => return Err(error),
                },
                (ListOffset::Timestamp(at), Some(base)) if answer.timestamp.is_some() => {
                    if let Some((offset, time)) = self.first_since(topition, base, *at).await? {
                        answer.offset = Some(offset);
                        answer.timestamp = Some(time);
                    }
                }
                _ => {}
            }
        }
        Ok(answers)
    }

    async fn metadata(&self, topics: Option<&[TopicId]>) -> Result<MetadataResponse> {
        let Some([topic]) = topics else {
            return self.rows.metadata(topics).await;
        };
        // Held while it is looked up, so that nothing that is out of date by then is kept.
        let mut known = self.topics.lock().await;
        if let Some(metadata) = known.get(topic) {
            return Ok(metadata.clone());
        }
        let metadata = self.rows.metadata(topics).await?;
        if metadata.topics().iter().all(|topic| topic.error_code == 0) {
            known.insert(topic.clone(), metadata.clone());
        }
        Ok(metadata)
    }

    /// Does nothing: Tansu's deletes by age, and takes a `retention.ms` of -1, by which Kafka keeps for ever, for an age.
    async fn maintain(&self, _now: SystemTime) -> Result<()> {
        Ok(())
    }

    // What follows changes which topics there are, or where they end.

    async fn create_topic(&self, topic: CreatableTopic, validate_only: bool) -> Result<uuid::Uuid> {
        let created = self.rows.create_topic(topic, validate_only).await;
        self.forget().await;
        created
    }

    async fn delete_topic(&self, topic: &TopicId) -> Result<ErrorCode> {
        let deleted = self.rows.delete_topic(topic).await;
        self.forget().await;
        deleted
    }

    async fn delete_records(&self, topics: &[DeleteRecordsTopic]) -> Result<Vec<DeleteRecordsTopicResult>> {
        let deleted = self.rows.delete_records(topics).await;
        self.forget().await;
        deleted
    }

    async fn txn_end(
        &self,
        transaction_id: &str,
        producer_id: i64,
        producer_epoch: i16,
        committed: bool,
    ) -> Result<ErrorCode> {
        let ended = self
            .rows
            .txn_end(transaction_id, producer_id, producer_epoch, committed)
            .await;
        self.forget().await;
        ended
    }

    // The rest is Tansu's alone.

    async fn register_broker(&self, broker_registration: BrokerRegistrationRequest) -> Result<()> {
        self.rows.register_broker(broker_registration).await
    }

    async fn incremental_alter_resource(&self, resource: AlterConfigsResource) -> Result<AlterConfigsResourceResponse> {
        self.rows.incremental_alter_resource(resource).await
    }

    async fn brokers(&self) -> Result<Vec<DescribeClusterBroker>> {
        self.rows.brokers().await
    }

    async fn offset_commit(
        &self,
        group_id: &str,
        retention: Option<Duration>,
        offsets: &[(Topition, OffsetCommitRequest)],
    ) -> Result<Vec<(Topition, ErrorCode)>> {
        self.rows.offset_commit(group_id, retention, offsets).await
    }

    async fn offset_fetch(
        &self,
        group_id: Option<&str>,
        topics: &[Topition],
        require_stable: Option<bool>,
    ) -> Result<BTreeMap<Topition, i64>> {
        self.rows.offset_fetch(group_id, topics, require_stable).await
    }

    async fn committed_offset_topitions(&self, group_id: &str) -> Result<BTreeMap<Topition, i64>> {
        self.rows.committed_offset_topitions(group_id).await
    }

    async fn upsert_user_scram_credential(
        &self,
        user: &str,
        mechanism: ScramMechanism,
        credential: ScramCredential,
    ) -> Result<()> {
        self.rows
            .upsert_user_scram_credential(user, mechanism, credential)
            .await
    }

    async fn delete_user_scram_credential(&self, user: &str, mechanism: ScramMechanism) -> Result<()> {
        self.rows.delete_user_scram_credential(user, mechanism).await
    }

    async fn user_scram_credential(&self, user: &str, mechanism: ScramMechanism) -> Result<Option<ScramCredential>> {
        self.rows.user_scram_credential(user, mechanism).await
    }

    async fn describe_config(
        &self,
        name: &str,
        resource: ConfigResource,
        keys: Option<&[String]>,
    ) -> Result<DescribeConfigsResult> {
        self.rows.describe_config(name, resource, keys).await
    }

    async fn list_groups(&self, states_filter: Option<&[String]>) -> Result<Vec<ListedGroup>> {
        self.rows.list_groups(states_filter).await
    }

    async fn delete_groups(&self, group_ids: Option<&[String]>) -> Result<Vec<DeletableGroupResult>> {
        self.rows.delete_groups(group_ids).await
    }

    async fn describe_groups(
        &self,
        group_ids: Option<&[String]>,
        include_authorized_operations: bool,
    ) -> Result<Vec<NamedGroupDetail>> {
        self.rows
            .describe_groups(group_ids, include_authorized_operations)
            .await
    }

    async fn describe_topic_partitions(
        &self,
        topics: Option<&[TopicId]>,
        partition_limit: i32,
        cursor: Option<Topition>,
    ) -> Result<Vec<DescribeTopicPartitionsResponseTopic>> {
        self.rows
            .describe_topic_partitions(topics, partition_limit, cursor)
            .await
    }

    async fn update_group(
        &self,
        group_id: &str,
        detail: GroupDetail,
        version: Option<Version>,
    ) -> std::result::Result<Version, UpdateError<GroupDetail>> {
        self.rows.update_group(group_id, detail, version).await
    }

    async fn init_producer(
        &self,
        transaction_id: Option<&str>,
        transaction_timeout_ms: i32,
        producer_id: Option<i64>,
        producer_epoch: Option<i16>,
    ) -> Result<ProducerIdResponse> {
        let initialised = self
            .rows
            .init_producer(transaction_id, transaction_timeout_ms, producer_id, producer_epoch);
        initialised.await
    }

    async fn txn_add_offsets(
        &self,
        transaction_id: &str,
        producer_id: i64,
        producer_epoch: i16,
        group_id: &str,
    ) -> Result<ErrorCode> {
        let added = self
            .rows
            .txn_add_offsets(transaction_id, producer_id, producer_epoch, group_id);
        added.await
    }

    async fn txn_add_partitions(&self, partitions: TxnAddPartitionsRequest) -> Result<TxnAddPartitionsResponse> {
        self.rows.txn_add_partitions(partitions).await
    }

    async fn txn_offset_commit(&self, offsets: TxnOffsetCommitRequest) -> Result<Vec<TxnOffsetCommitResponseTopic>> {
        self.rows.txn_offset_commit(offsets).await
    }

    async fn cluster_id(&self) -> Result<String> {
        self.rows.cluster_id().await
    }

    async fn node(&self) -> Result<i32> {
        self.rows.node().await
    }

    async fn advertised_listener(&self) -> Result<url::Url> {
        self.rows.advertised_listener().await
    }

    async fn ping(&self) -> Result<()> {
        self.rows.ping().await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
}
