//! The log as Tansu's services ask it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
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
use tansu_sans_io::txn_offset_commit_response::TxnOffsetCommitResponseTopic;
use tansu_sans_io::{ConfigResource, ErrorCode, IsolationLevel, ListOffset, ScramMechanism};
use tansu_storage::{
    BrokerRegistrationRequest, Error, GroupDetail, ListOffsetResponse, MetadataResponse, NamedGroupDetail,
    OffsetCommitRequest, OffsetStage, ProducerIdResponse, Result, ScramCredential, Storage, TopicId, Topition,
    TxnAddPartitionsRequest, TxnAddPartitionsResponse, TxnOffsetCommitRequest, UpdateError, Version,
};

use super::{BatchLog, cut, fits_a_row, row_of};

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
