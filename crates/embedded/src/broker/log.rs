//! What is done to the log before it is served: what Tansu leaves undone.

use std::error;
use std::path::Path;
use std::time::Duration;

use tansu_sans_io::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use tansu_sans_io::{ConfigResource, OpType};
use tansu_storage::{Storage, StorageContainer};
use url::Url;

use super::{CLUSTER_ID, Error, NODE_ID};

/// Patience with whoever has the log locked, such as a process that is just ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Tansu asks for the headers of each record it delivers and keeps them without an index: each delivery would read all
/// headers of all topics.
const INDEX: &str = "CREATE INDEX IF NOT EXISTS header_of_record ON header (topition, offset_id)";

/// Tansu keeps the members of consumer groups beside their offsets, and would wait for those of an earlier life: for the
/// rest of their session at best. None of them is connected to a broker that is only starting; whoever lives joins again.
const FORGET_MEMBERS: &str = "DELETE FROM consumer_group_detail";

/// Tansu lets a member that leaves a group which is still forming go on leading it: whoever joins later waits for its plan
/// for ever. Nobody leads such a group once it is written down; the other tag makes Tansu read it again before it goes on.
const FREE_ABANDONED_GROUPS: &str = "
    CREATE TRIGGER IF NOT EXISTS free_abandoned_group AFTER UPDATE OF detail ON consumer_group_detail
    WHEN json_extract(NEW.detail, '$.state.Forming.leader') NOT IN (SELECT key FROM json_each(NEW.detail, '$.members'))
    BEGIN
        UPDATE consumer_group_detail
        SET detail = json_set(NEW.detail, '$.state.Forming.leader', NULL),
            e_tag = '00000000-0000-0000-0000-000000000001'
        WHERE id = NEW.id;
    END";

/// Prepares the log at `file`, which Tansu knows as `storage`.
pub(super) async fn prepare(storage: &Url, file: &Path) -> Result<(), Error> {
    keep_endless_topics(storage).await?;
    let log = libsql::Builder::new_local(file).build().await.map_err(unusable)?;
    let connection = log.connect().map_err(unusable)?;
    connection.busy_timeout(LOCK_PATIENCE).map_err(unusable)?;
    for statement in [INDEX, FORGET_MEMBERS, FREE_ABANDONED_GROUPS] {
        connection.execute(statement, ()).await.map_err(unusable)?;
    }
    Ok(())
}

/// Takes `cleanup.policy` from each topic whose `retention.ms` is negative.
///
/// To Kafka the two together mean "keep for ever"; Tansu compares a record's age with -1 and deletes all of it at the next
/// start. Without a policy it deletes nothing.
async fn keep_endless_topics(storage: &Url) -> Result<(), Error> {
    let log = StorageContainer::builder()
        .cluster_id(CLUSTER_ID)
        .node_id(NODE_ID)
        .advertised_listener(Url::parse("tcp://127.0.0.1:0").expect("a loopback address makes a URL"))
        .storage(storage.clone())
        .build()
        .await
        .map_err(unusable)?;
    let topics = log.metadata(None).await.map_err(unusable)?;
    for topic in topics.topics().iter().filter_map(|topic| topic.name.as_deref()) {
        let described = log
            .describe_config(topic, ConfigResource::Topic, None)
            .await
            .map_err(unusable)?;
        let configs = described.configs.unwrap_or_default();
        let is = |name: &str, holds: fn(&str) -> bool| {
            configs
                .iter()
                .any(|config| config.name == name && config.value.as_deref().is_some_and(holds))
        };
        if is("retention.ms", |value| value.starts_with('-')) && is("cleanup.policy", |_| true) {
            let policy = AlterableConfig::default()
                .name("cleanup.policy".into())
                .config_operation(OpType::Delete.into());
            let change = AlterConfigsResource::default()
                .resource_type(ConfigResource::Topic.into())
                .resource_name(topic.into())
                .configs(Some(vec![policy]));
            log.incremental_alter_resource(change).await.map_err(unusable)?;
        }
    }
    Ok(())
}

fn unusable(error: impl error::Error + Send + Sync + 'static) -> Error {
    Error::Log(Box::new(error))
}
