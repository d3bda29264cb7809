//! The event store filled from elsewhere, with rows as they once were: positions, ids, versions and times included.
//!
//! While rows come in the table has no constraints, for building an index once is many times faster than keeping it; what
//! comes twice must be sorted out by whoever imports. The constraints come back before anything else may use the table.

use deadpool_postgres::{Client, GenericClient, Transaction};
use futures_util::{Stream, TryStreamExt as _, try_join};
use tokio_postgres::Error;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::COLUMNS;
use crate::event::{Recorded, StreamId};
use crate::pg::copy::{Load, Rows};

/// Ten million rows are a few runs of a sort with so much. Postgres divides it among those who sort for one index; up to three
/// indexes are built side by side.
const BUILD: &str = "SET maintenance_work_mem = '128MB'";
/// What a server process builds for a client that was killed would hold up the next run.
const NOTICE_A_KILL: &str = "SET client_connection_check_interval = '1s'";
/// The table's constraints: the names that the first migration gave them, their kinds, their columns.
const CONSTRAINTS: [(&str, &str, &str); 3] = [
    ("events_pkey", "PRIMARY KEY", "position"),
    ("events_id_key", "UNIQUE", "id"),
    ("events_stream_id_version_key", "UNIQUE", "stream_id, version"),
];

/// A stream that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Which.
    pub stream_id: StreamId,
    /// How many of its events are there.
    pub events: i64,
    /// The version of the last of them.
    pub last_version: i64,
}

/// Whether the table holds anything.
///
/// # Errors
/// The database's.
pub async fn is_empty(client: &impl GenericClient) -> Result<bool, Error> {
    let row = client.query_one("SELECT NOT EXISTS (SELECT FROM events)", &[]).await?;
    Ok(row.get(0))
}

/// Takes every row away, and the constraints, so that rows can come in. Until [`complete`] nobody vacuums the table: that would
/// read what nobody changes, and hold up the index builds.
///
/// # Errors
/// The database's.
pub async fn empty(tx: &Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("TRUNCATE events; ALTER TABLE events SET (autovacuum_enabled = false)")
        .await?;
    for (name, ..) in CONSTRAINTS {
        let sql = format!("ALTER TABLE events DROP CONSTRAINT IF EXISTS {name}");
        tx.batch_execute(&sql).await?;
    }
    Ok(())
}

/// Gives the table, which is filled, the constraints that are missing. Two connections build their indexes side by side.
///
/// # Errors
/// The database's; a unique violation means that rows came in which exclude each other.
pub async fn complete(one: &mut Client, other: &Client) -> Result<(), Error> {
    // A run that was killed may have left a server process that still builds one.
    one.batch_execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE; COMMIT")
        .await?;
    let (short, long) = CONSTRAINTS.split_at(2);
    try_join!(index(one, short), index(other, long))?;
    let tx = one.transaction().await?;
    for (name, kind, _) in CONSTRAINTS {
        let statement =
            "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'events'::regclass AND conname = $1)";
        if !tx.query_one(statement, &[&name]).await?.get::<_, bool>(0) {
            let sql = format!("ALTER TABLE events ADD CONSTRAINT {name} {kind} USING INDEX {name}");
            tx.batch_execute(&sql).await?;
        }
    }
    tx.batch_execute("ALTER TABLE events RESET (autovacuum_enabled)")
        .await?;
    tx.commit().await?;
    // The server would look at what the table holds after a while; it is asked for streams at once.
    one.batch_execute("ANALYZE events").await
}

/// Prepares a connection to build indexes.
pub(crate) async fn ready_to_build(client: &Client) -> Result<(), Error> {
    // Not every server can, and it is not needed.
    let _ = client.batch_execute(NOTICE_A_KILL).await;
    client.batch_execute(BUILD).await
}

async fn index(client: &Client, constraints: &[(&str, &str, &str)]) -> Result<(), Error> {
    ready_to_build(client).await?;
    for (name, _, columns) in constraints {
        let sql = format!("CREATE UNIQUE INDEX IF NOT EXISTS {name} ON events ({columns})");
        client.batch_execute(&sql).await?;
    }
    Ok(())
}

/// Adds `event`, with the position that it has and in the order of `COLUMNS`, to `rows` that [`copy`] will send.
pub fn add(rows: &mut Rows, event: &Recorded) {
    let envelope = &event.envelope;
    rows.row(11)
        .bigint(envelope.position)
        .uuid(envelope.id)
        .text(event.stream_id.as_str())
        .bigint(envelope.stream_version)
        .text(&envelope.event_type)
        .int(event.schema_id.cast_signed())
        .bytea(&event.payload)
        .uuid(envelope.correlation_id)
        .uuid(envelope.causation_id)
        .nullable(envelope.traceparent.as_deref(), Rows::text)
        .timestamptz(envelope.occurred_at);
}

/// Adds the rows.
///
/// # Errors
/// The database's.
pub async fn copy(tx: &Transaction<'_>, rows: Rows) -> Result<(), Error> {
    let load = Load {
        table: "events",
        columns: COLUMNS,
        rows,
    };
    load.send(tx).await
}

/// Position and id of every row, in no order.
///
/// # Errors
/// The database's.
pub async fn identities(client: &impl GenericClient) -> Result<impl Stream<Item = Result<(i64, Uuid), Error>>, Error> {
    let none: [&(dyn ToSql + Sync); 0] = [];
    let rows = client.query_raw("SELECT position, id FROM events", none).await?;
    Ok(rows.map_ok(|row| (row.get(0), row.get(1))))
}

/// How many rows there are, and the highest position.
///
/// # Errors
/// The database's.
pub async fn extent(client: &impl GenericClient) -> Result<(i64, i64), Error> {
    let row = client
        .query_one("SELECT count(*), coalesce(max(position), 0) FROM events", &[])
        .await?;
    Ok((row.get(0), row.get(1)))
}

/// How many events each of `streams` has, and the version of the last.
///
/// # Errors
/// The database's.
pub async fn holes(client: &impl GenericClient, streams: &[String]) -> Result<Vec<Hole>, Error> {
    let rows = client
        .query(
            "SELECT stream_id, count(*), max(version) FROM events WHERE stream_id = ANY($1)
             GROUP BY stream_id ORDER BY stream_id",
            &[&streams],
        )
        .await?;
    let hole = |row: &tokio_postgres::Row| Hole {
        stream_id: StreamId::new(row.get::<_, String>(0)),
        events: row.get(1),
        last_version: row.get(2),
    };
    Ok(rows.iter().map(hole).collect())
}

/// The next event gets a position behind `position`.
///
/// # Errors
/// The database's.
pub async fn continue_behind(tx: &Transaction<'_>, position: i64) -> Result<(), Error> {
    if position > 0 {
        tx.execute(
            "SELECT setval(pg_get_serial_sequence('events', 'position'), $1)",
            &[&position],
        )
        .await?;
    }
    Ok(())
}
