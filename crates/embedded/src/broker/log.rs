//! Opening the log, and what is done to it before it is served: what Tansu leaves undone.

use std::error;
use std::path::Path;
use std::time::Duration;

use tansu_storage::{BrokerRegistrationRequest, Storage, StorageContainer};
use url::Url;
use uuid::Uuid;

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

/// The log at `storage`, as the broker that listens on `port` of loopback has it.
pub(super) async fn open(storage: Url, port: u16) -> tansu_storage::Result<StorageContainer> {
    let listener = Url::parse(&format!("tcp://127.0.0.1:{port}")).expect("a loopback address makes a URL");
    let rows = StorageContainer::builder()
        .cluster_id(CLUSTER_ID)
        .node_id(NODE_ID)
        .advertised_listener(listener)
        .storage(storage)
        .silent(true)
        .build()
        .await?;
    let registration = BrokerRegistrationRequest {
        broker_id: NODE_ID,
        cluster_id: CLUSTER_ID.to_owned(),
        incarnation_id: Uuid::now_v7(),
        rack: None,
    };
    rows.register_broker(registration).await?;
    Ok(rows)
}

/// Prepares the log at `file`, which Tansu knows as `storage`.
pub(super) async fn prepare(storage: &Url, file: &Path) -> Result<(), Error> {
    // That makes its tables.
    open(storage.clone(), 0).await.map_err(unusable)?;
    let log = libsql::Builder::new_local(file).build().await.map_err(unusable)?;
    let connection = log.connect().map_err(unusable)?;
    connection.busy_timeout(LOCK_PATIENCE).map_err(unusable)?;
    for statement in [INDEX, FORGET_MEMBERS, FREE_ABANDONED_GROUPS] {
        connection.execute(statement, ()).await.map_err(unusable)?;
    }
    Ok(())
}

fn unusable(error: impl error::Error + Send + Sync + 'static) -> Error {
    Error::Log(Box::new(error))
}
