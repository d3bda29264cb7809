//! The event store filled from elsewhere, with rows as they once were: positions, ids, versions and times included.
//!
//! While rows come in the table has no constraints, for building an index once is many times faster than keeping it; what
//! comes twice must be sorted out by whoever imports. The constraints come back before anything else may use the table.

use std::pin::pin;

use deadpool_postgres::{GenericClient, Transaction};
use futures_util::{Stream, TryStreamExt as _};
use tokio_postgres::Error;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::event::{Recorded, StreamId};

const COLUMNS: &str = "position, id, stream_id, version, type, schema_id, payload, correlation_id, causation_id, \
                       traceparent, occurred_at";
/// Of [`COLUMNS`].
const TYPES: [Type; 11] = [
    Type::INT8,
    Type::UUID,
    Type::TEXT,
    Type::INT8,
    Type::TEXT,
    Type::INT4,
    Type::BYTEA,
    Type::UUID,
    Type::UUID,
    Type::TEXT,
    Type::TIMESTAMPTZ,
];
/// The table's constraints, by the names that the first migration gave them.
const CONSTRAINTS: [(&str, &str); 3] = [
    ("events_pkey", "PRIMARY KEY (position)"),
    ("events_id_key", "UNIQUE (id)"),
    ("events_stream_id_version_key", "UNIQUE (stream_id, version)"),
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

/// Takes the constraints away.
///
/// # Errors
/// The database's.
pub async fn drop_constraints(tx: &Transaction<'_>) -> Result<(), Error> {
    for (name, _) in CONSTRAINTS {
        tx.batch_execute(&format!("ALTER TABLE events DROP CONSTRAINT IF EXISTS {name}"))
            .await?;
    }
    Ok(())
}

/// Puts back the constraints that are missing.
///
/// # Errors
/// The database's; a unique violation means that rows came in which exclude each other.
pub async fn add_constraints(tx: &Transaction<'_>) -> Result<(), Error> {
    for (name, constraint) in CONSTRAINTS {
        let statement =
            "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'events'::regclass AND conname = $1)";
        if !tx.query_one(statement, &[&name]).await?.get::<_, bool>(0) {
            tx.batch_execute(&format!("ALTER TABLE events ADD CONSTRAINT {name} {constraint}"))
                .await?;
        }
    }
    Ok(())
}

/// Adds `events` with the positions that they have.
///
/// # Errors
/// The database's.
pub async fn copy(tx: &Transaction<'_>, events: &[Recorded]) -> Result<(), Error> {
    let sink = tx
        .copy_in(&format!("COPY events ({COLUMNS}) FROM STDIN BINARY"))
        .await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &TYPES));
    for event in events {
        let envelope = &event.envelope;
        let row: [&(dyn ToSql + Sync); 11] = [
            &envelope.position,
            &envelope.id,
            &event.stream_id.as_str(),
            &envelope.stream_version,
            &&*envelope.event_type,
            &event.schema_id.cast_signed(),
            &&*event.payload,
            &envelope.correlation_id,
            &envelope.causation_id,
            &envelope.traceparent.as_deref(),
            &envelope.occurred_at,
        ];
        writer.as_mut().write(&row).await?;
    }
    writer.finish().await?;
    Ok(())
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

/// Streams whose versions do not run from 1 without a gap: how many, and the first `limit` of them.
///
/// # Errors
/// The database's.
pub async fn holes(client: &impl GenericClient, limit: i64) -> Result<(i64, Vec<Hole>), Error> {
    let rows = client
        .query(
            "SELECT stream_id, count(*), max(version), count(*) OVER () FROM events
             GROUP BY stream_id HAVING count(*) <> max(version) ORDER BY stream_id LIMIT $1",
            &[&limit],
        )
        .await?;
    let count = rows.first().map_or(0, |row| row.get(3));
    let hole = |row: &tokio_postgres::Row| Hole {
        stream_id: StreamId::new(row.get::<_, String>(0)),
        events: row.get(1),
        last_version: row.get(2),
    };
    Ok((count, rows.iter().map(hole).collect()))
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
