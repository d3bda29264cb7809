//! What long streams folded to, so that loading one need not begin at its beginning: all SQL of the table `snapshots`.
//!
//! A snapshot is only ever a shortcut. It names the code that folded it, by a hash of that code's source text, and what
//! another code folded is ignored, so that a change of a fold needs no migration. It is written in the transaction of the
//! events that led to it, and read in the statement that reads the events after it.

use deadpool_postgres::GenericClient;
use tokio_postgres::Error;

use super::{COLUMNS, recorded};
use crate::event::{Recorded, StreamId};
use crate::pg::Write;

/// A stream gets a snapshot each time it passes so many versions. Fewer events than that load in a millisecond or two.
pub const SNAPSHOT_EVERY: i64 = 500;

/// What was loaded of a stream, in this order: a snapshot if there is one, and the events after it.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// What the events up to `version` folded to.
    Snapshot {
        /// Whose.
        stream_id: StreamId,
        /// The last version that is in it.
        version: i64,
        /// As [`Model::snapshot`](crate::model::Model::snapshot) wrote it.
        state: Vec<u8>,
    },
    /// An event.
    Event(Recorded),
}

/// A hash of the source text of the files that fold a stream, for [`Model::FOLD`](crate::model::Model::FOLD): evaluated when
/// the code is compiled, so that it changes with them and nobody need remember to.
pub const fn fold_of(sources: &[&[u8]]) -> u64 {
    // FNV-1a; the length after each file tells where one ends.
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut file = 0;
    while file < sources.len() {
        let text = sources[file];
        let mut at = 0;
        while at < text.len() {
            hash = (hash ^ text[at] as u64).wrapping_mul(PRIME);
            at += 1;
        }
        hash = (hash ^ text.len() as u64).wrapping_mul(PRIME);
        file += 1;
    }
    hash
}

/// Of each of `streams` the snapshot that `fold` wrote, if there is one, and the events after it in order of version. One
/// statement: between two, another transaction could put a newer snapshot in the place of the first one's.
///
/// # Errors
/// The database's.
pub async fn load(
    client: &impl GenericClient,
    source: &str,
    fold: u64,
    streams: &[&StreamId],
) -> Result<Vec<Loaded>, Error> {
    if streams.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = streams.iter().map(|stream| stream.as_str()).collect();
    let statement = client
        .prepare_cached(&format!(
            "WITH kept AS MATERIALIZED (
                 SELECT stream_id, version, state FROM snapshots WHERE stream_id = ANY($1) AND fold = $2
             )
             SELECT 0::bigint AS position, NULL::uuid AS id, stream_id, version, NULL AS type, 0 AS schema_id,
                    state AS payload, NULL::uuid AS correlation_id, NULL::uuid AS causation_id, NULL AS traceparent,
                    NULL::timestamptz AS occurred_at
             FROM kept
             UNION ALL
             SELECT {} FROM unnest($1::text[]) AS asked (stream) LEFT JOIN kept ON kept.stream_id = stream
             JOIN events ON events.stream_id = stream AND events.version > coalesce(kept.version, 0)
             ORDER BY stream_id, version",
            COLUMNS
                .replace("stream_id", "events.stream_id")
                .replace("version", "events.version"),
        ))
        .await?;
    let rows = client.query(&statement, &[&ids, &fold.cast_signed()]).await?;
    let loaded = |row: &tokio_postgres::Row| match row.get::<_, Option<uuid::Uuid>>("id") {
        Some(_) => Loaded::Event(recorded(row, source)),
        None => Loaded::Snapshot {
            stream_id: StreamId::new(row.get::<_, String>("stream_id")),
            version: row.get("version"),
            state: row.get("payload"),
        },
    };
    Ok(rows.iter().map(loaded).collect())
}

/// What keeps `snapshots` of streams in order of their ids, each with its version, over older ones and those of other code.
pub fn save(fold: u64, snapshots: Vec<(&StreamId, i64, Vec<u8>)>) -> Option<Write<'_>> {
    if snapshots.is_empty() {
        return None;
    }
    let streams: Vec<&str> = snapshots.iter().map(|(stream, ..)| stream.as_str()).collect();
    let versions: Vec<i64> = snapshots.iter().map(|(_, version, _)| *version).collect();
    let states: Vec<Vec<u8>> = snapshots.into_iter().map(|(.., state)| state).collect();
    let write = Write::new(
        "INSERT INTO snapshots (stream_id, version, fold, state)
         SELECT stream_id, version, $1, state FROM unnest($2::text[], $3::bigint[], $4::bytea[]) AS s (stream_id, version, state)
         ON CONFLICT (stream_id) DO UPDATE
         SET version = excluded.version, fold = excluded.fold, state = excluded.state
         WHERE snapshots.version < excluded.version OR snapshots.fold <> excluded.fold",
    );
    Some(write.with(fold.cast_signed()).with(streams).with(versions).with(states))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_text_or_another_division_is_another_fold() {
        const THIS: u64 = fold_of(&[include_bytes!("snapshots.rs")]);
        assert_eq!(THIS, fold_of(&[include_bytes!("snapshots.rs")]));
        let folds = [
            fold_of(&[b"ab", b"c"]),
            fold_of(&[b"a", b"bc"]),
            fold_of(&[b"abc"]),
            fold_of(&[b"abd"]),
            fold_of(&[]),
        ];
        for (index, fold) in folds.iter().enumerate() {
            assert!(!folds[..index].contains(fold), "{index}");
        }
    }
}
