//! The event store: all SQL of the tables `events` and `schemas`.
//!
//! Each function is one statement over any number of rows. Nothing here begins or commits a transaction.

pub mod import;
pub mod snapshots;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::{Client, GenericClient};
use futures_util::{Stream, TryStreamExt as _};
use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::event::{Envelope, Recorded, StreamId};
use crate::pg::Write;

/// Longest payload that is appended, in bytes: what a topic accepts, less room for headers.
pub const PAYLOAD_LENGTH_MAX: usize = 1024 * 1024;

/// How often to look whether a transaction that writes has ended.
const WRITERS_POLL: Duration = Duration::from_millis(5);

const COLUMNS: &str = "position, id, stream_id, version, type, schema_id, payload, correlation_id, causation_id, \
                       traceparent, occurred_at";

/// What appends `events`, of which there are some; [`place`] takes what it returns.
///
/// A unique violation means that somebody else appended to one of the streams first: reload and decide again.
pub fn appending<'a>(events: &[&'a Recorded]) -> Write<'a> {
    Write::new(
        "INSERT INTO events (id, stream_id, version, type, schema_id, payload, correlation_id, causation_id,
                             traceparent, occurred_at)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::bytea[], $7::uuid[],
                              $8::uuid[], $9::text[], $10::timestamptz[])
         RETURNING id, position",
    )
    .column(events.iter().map(|event| event.envelope.id))
    .column(events.iter().map(|event| event.stream_id.as_str()))
    .column(events.iter().map(|event| event.envelope.stream_version))
    .column(events.iter().map(|event| &*event.envelope.event_type))
    .column(events.iter().map(|event| event.schema_id.cast_signed()))
    .column(events.iter().map(|event| &*event.payload))
    .column(events.iter().map(|event| event.envelope.correlation_id))
    .column(events.iter().map(|event| event.envelope.causation_id))
    .column(events.iter().map(|event| event.envelope.traceparent.as_deref()))
    .column(events.iter().map(|event| event.envelope.occurred_at))
}

/// Fills in the positions that `events` were given.
pub fn place<'a>(returned: &[Row], events: impl Iterator<Item = &'a mut Recorded>) {
    let positions: HashMap<Uuid, i64> = returned.iter().map(|row| (row.get(0), row.get(1))).collect();
    for event in events {
        event.envelope.position = positions[&event.envelope.id];
    }
}

/// All events of `streams`, each stream's in order of version.
///
/// # Errors
/// The database's.
pub async fn load(client: &impl GenericClient, source: &str, streams: &[&StreamId]) -> Result<Vec<Recorded>, Error> {
    if streams.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = streams.iter().map(|stream| stream.as_str()).collect();
    let statement = client
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM events WHERE stream_id = ANY($1) ORDER BY stream_id, version"
        ))
        .await?;
    let rows = client.query(&statement, &[&ids]).await?;
    Ok(rows.iter().map(|row| recorded(row, source)).collect())
}

/// The events of one stream that occurred at `until` or before, in order; all of them for `None`.
///
/// # Errors
/// The database's.
pub async fn load_until(
    client: &impl GenericClient,
    source: &str,
    stream: &StreamId,
    until: Option<Timestamp>,
) -> Result<Vec<Recorded>, Error> {
    let statement = client
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM events
             WHERE stream_id = $1 AND ($2::timestamptz IS NULL OR occurred_at <= $2) ORDER BY version"
        ))
        .await?;
    let rows = client.query(&statement, &[&stream.as_str(), &until]).await?;
    Ok(rows.iter().map(|row| recorded(row, source)).collect())
}

/// Up to `limit` events after `position`, in order of position: for audits and proofs, not for publishing (a
/// transaction that is still open may yet fill a gap before the last row).
///
/// # Errors
/// The database's.
pub async fn page(
    client: &impl GenericClient,
    source: &str,
    position: i64,
    limit: i64,
) -> Result<Vec<Recorded>, Error> {
    let statement = client
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT $2"
        ))
        .await?;
    let rows = client.query(&statement, &[&position, &limit]).await?;
    Ok(rows.iter().map(|row| recorded(row, source)).collect())
}

/// The events of `streams`, each with a version below the one beside it and a position up to `position_max`: each stream's
/// in order of version, one stream after the other. Read as they are asked for, so histories may be of any length.
///
/// # Errors
/// The database's.
pub async fn histories<'a>(
    client: &Client,
    source: &'a str,
    streams: &[(&StreamId, i64)],
    position_max: i64,
) -> Result<impl Stream<Item = Result<Recorded, Error>> + use<'a>, Error> {
    let ids: Vec<&str> = streams.iter().map(|(stream, _)| stream.as_str()).collect();
    let below: Vec<i64> = streams.iter().map(|(_, below)| *below).collect();
    let statement = client
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM unnest($1::text[], $2::bigint[]) AS wanted (stream, below)
             JOIN events ON stream_id = stream AND version < below AND position <= $3 ORDER BY stream_id, version"
        ))
        .await?;
    let parameters: [&(dyn ToSql + Sync); 3] = [&ids, &below, &position_max];
    let rows = client.query_raw(&statement, parameters).await?;
    Ok(rows.map_ok(move |row| recorded(&row, source)))
}

/// The highest position of all, 0 for none.
///
/// # Errors
/// The database's.
pub async fn last_position(client: &impl GenericClient) -> Result<i64, Error> {
    let row = client
        .query_one("SELECT coalesce(max(position), 0) FROM events", &[])
        .await?;
    Ok(row.get(0))
}

/// The highest position of an event that occurred at `at` or before, 0 for none. Positions are taken to follow time, as they
/// do but for the moments between a decision and its row.
///
/// # Errors
/// The database's.
pub async fn position_at(client: &impl GenericClient, at: Timestamp) -> Result<i64, Error> {
    let (mut low, mut high) = (0, last_position(client).await?);
    while low < high {
        let middle = low + (high - low + 1) / 2;
        let row = client
            .query_opt(
                "SELECT position, occurred_at FROM events WHERE position <= $1 ORDER BY position DESC LIMIT 1",
                &[&middle],
            )
            .await?;
        match row.map(|row| (row.get::<_, i64>(0), row.get::<_, Timestamp>(1))) {
            Some((position, occurred_at)) if occurred_at <= at => {
                // Nothing lies between this row and the middle.
                debug_assert!(position <= middle);
                low = middle;
            }
            Some((position, _)) => high = position - 1,
            None => high = low,
        }
        high = high.max(low);
    }
    Ok(low)
}

/// A position up to which nothing more can appear: every event at or below it is committed by now, or never will be. Waits
/// for the transactions that are writing, and holds up nobody.
///
/// # Errors
/// The database's.
pub async fn settled_position(client: &impl GenericClient) -> Result<i64, Error> {
    let position = last_position(client).await?;
    // A position is drawn under the lock that `writers` looks for: whoever may still fill a gap below holds it now.
    let mut open = writers(client).await?;
    while !open.is_empty() {
        tokio::time::sleep(WRITERS_POLL).await;
        let still = writers(client).await?;
        open.retain(|writer, _| still.contains_key(writer));
    }
    Ok(position)
}

/// Transactions that hold the lock under which events are written, by virtual id, with their backends.
///
/// # Errors
/// The database's.
pub async fn writers(client: &impl GenericClient) -> Result<BTreeMap<String, Option<i32>>, Error> {
    let statement = client
        .prepare_cached(
            "SELECT virtualtransaction, pid FROM pg_locks
             WHERE locktype = 'relation' AND relation = 'events'::regclass AND mode = 'RowExclusiveLock' AND granted
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .await?;
    let rows = client.query(&statement, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Up to which position everything is published and acknowledged.
///
/// # Errors
/// The database's.
pub async fn published_position(client: &impl GenericClient) -> Result<i64, Error> {
    Ok(client.query_one("SELECT cursor FROM relay", &[]).await?.get(0))
}

/// Of each stream and each of `types` the first event, if it occurred at `until` or before: an answer that was given again
/// is not there again.
///
/// # Errors
/// The database's.
pub async fn firsts(
    client: &impl GenericClient,
    source: &str,
    types: &[&str],
    until: Timestamp,
) -> Result<impl Stream<Item = Result<Recorded, Error>>, Error> {
    let parameters: [&(dyn ToSql + Sync); 2] = [&types, &until];
    let rows = client
        .query_raw(
            &format!(
                "SELECT DISTINCT ON (stream_id, type) {COLUMNS} FROM events
                 WHERE type = ANY($1) AND occurred_at <= $2 ORDER BY stream_id, type, version"
            ),
            parameters,
        )
        .await?;
    Ok(rows.map_ok(move |row| recorded(&row, source)))
}

/// A row with the columns of `events`, written by the service `source`.
fn recorded(row: &Row, source: &str) -> Recorded {
    let stream_id = StreamId::new(row.get::<_, String>("stream_id"));
    Recorded {
        envelope: Envelope {
            id: row.get("id"),
            event_type: row.get::<_, String>("type").into(),
            source: source.into(),
            subject: stream_id.key().into(),
            occurred_at: row.get("occurred_at"),
            correlation_id: row.get("correlation_id"),
            causation_id: row.get("causation_id"),
            traceparent: row.get::<_, Option<String>>("traceparent").map(Into::into),
            stream_version: row.get("version"),
            position: row.get("position"),
        },
        stream_id,
        schema_id: row.get::<_, i32>("schema_id").cast_unsigned(),
        payload: Bytes::from(row.get::<_, Vec<u8>>("payload")),
    }
}

/// The first and the last position; 1 and 0 for an empty store.
///
/// # Errors
/// The database's.
pub async fn positions(client: &impl GenericClient) -> Result<(i64, i64), Error> {
    let row = client
        .query_one(
            "SELECT coalesce(min(position), 1), coalesce(max(position), 0) FROM events",
            &[],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

/// Up to `limit` payloads after position `after` and before position `end`, in order: bytes alone, for those who judge
/// bytes.
///
/// # Errors
/// The database's.
pub async fn payloads(
    client: &impl GenericClient,
    after: i64,
    end: i64,
    limit: i64,
) -> Result<Vec<(i64, Bytes)>, Error> {
    let statement = client
        .prepare_cached(
            "SELECT position, payload FROM events WHERE position > $1 AND position < $2 ORDER BY position LIMIT $3",
        )
        .await?;
    let rows = client.query(&statement, &[&after, &end, &limit]).await?;
    let payload = |row: &Row| (row.get(0), Bytes::copy_from_slice(row.get(1)));
    Ok(rows.iter().map(payload).collect())
}

/// What this database remembers of schema ids: id, record name, text.
///
/// # Errors
/// The database's.
pub async fn schemas(client: &impl GenericClient) -> Result<Vec<(u32, String, String)>, Error> {
    let rows = client.query("SELECT schema_id, name, text FROM schemas", &[]).await?;
    Ok(rows
        .iter()
        .map(|row| (row.get::<_, i32>(0).cast_unsigned(), row.get(1), row.get(2)))
        .collect())
}

/// Remembers what a schema id means; one already remembered stays as it was.
///
/// # Errors
/// The database's.
pub async fn remember_schema(client: &impl GenericClient, id: u32, name: &str, text: &str) -> Result<(), Error> {
    client
        .execute(
            "INSERT INTO schemas (schema_id, name, text) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[&id.cast_signed(), &name, &text],
        )
        .await?;
    Ok(())
}
