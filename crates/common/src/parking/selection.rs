//! Dead letters as people see and choose them: one filter for looking at them and for deciding about them.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::record_of;
use crate::record::Record;

/// Which dead letters. Each field narrows; none set is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Filter {
    /// Only these rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<i64>>,
    /// Only of this topic, with its namespace or without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Only those that this consumer could not handle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Only of this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Only of this event type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Only with this disposition or error class, or with this text in their error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Only those that died at this moment or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only those that died before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Only with all of these headers, name and value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Only those about which nobody has decided.
    pub undecided: bool,
}

impl Filter {
    /// Whether it chooses nothing in particular.
    pub fn is_everything(&self) -> bool {
        let narrowed = Self {
            undecided: false,
            ..self.clone()
        };
        narrowed == Self::default()
    }
}

/// A dead letter as people see it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its row.
    pub id: i64,
    /// Who could not handle it.
    pub consumer: String,
    /// The record, byte for byte.
    pub record: Record,
    /// The key that it parks, if any.
    pub key: Option<String>,
    /// From its envelope, if it has one.
    pub event_id: Option<Uuid>,
    /// From its envelope, if it has one.
    pub event_type: Option<String>,
    /// See [`Disposition`](super::Disposition).
    pub disposition: String,
    /// Short name of the error's kind.
    pub error_class: String,
    /// The error for people.
    pub error: String,
    /// How often it was tried, before its newest death.
    pub attempts: i32,
    /// When it failed first.
    pub first_failed_at: Timestamp,
    /// When it was given up, the last time.
    pub dead_at: Timestamp,
    /// `dead`; `redriving` while it is on its way back; else what was decided: `redriven`, `skipped`, `discarded`.
    pub status: String,
    /// How often it was redriven.
    pub redrives: i32,
    /// How often it came back from that.
    pub returns: i32,
    /// When its copy was acknowledged on the dead-letter topic.
    pub published_at: Option<Timestamp>,
    /// How many records wait behind its key.
    pub waiting: i64,
    /// The open campaign that it is in.
    pub campaign: Option<i64>,
}

/// Dead letters of `filter` with an id below `before`, newest first.
///
/// # Errors
/// The database's.
pub async fn dead_letters(
    client: &impl GenericClient,
    filter: &Filter,
    before: i64,
    limit: i64,
) -> Result<Vec<DeadLetter>, Error> {
    let (names, values): (Vec<&str>, Vec<&[u8]>) = filter
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .unzip();
    let parameters: [&(dyn ToSql + Sync); 13] = [
        &before,
        &limit,
        &filter.ids,
        &filter.topic,
        &filter.consumer,
        &filter.key,
        &filter.event_type,
        &filter.failure,
        &filter.since,
        &filter.until,
        &names,
        &values,
        &filter.undecided,
    ];
    let rows = client.query(SELECT, &parameters).await?;
    Ok(rows.iter().map(dead_letter_of).collect())
}

const SELECT: &str = "
    SELECT d.*,
           (SELECT count(*) FROM parked p WHERE p.consumer = d.consumer AND p.topic = d.topic AND p.key = d.key
              AND p.event_id <> d.event_id) AS waiting,
           (SELECT campaign FROM campaign_records r
            WHERE r.dead_letter = d.id AND r.outcome IN ('pending', 'sent')) AS campaign
    FROM dead_letters d
    WHERE d.id < $1
      AND ($3::bigint[] IS NULL OR d.id = ANY($3))
      AND ($4::text IS NULL OR d.topic = $4 OR right(d.topic, length($4) + 1) = '.' || $4)
      AND ($5::text IS NULL OR d.consumer = $5)
      AND ($6::text IS NULL OR d.key = $6)
      AND ($7::text IS NULL OR d.event_type = $7)
      AND ($8::text IS NULL OR d.disposition = $8 OR d.error_class = $8 OR d.disposition || ':' || d.error_class = $8
           OR position(lower($8) IN lower(d.error)) > 0)
      AND ($9::timestamptz IS NULL OR d.dead_at >= $9)
      AND ($10::timestamptz IS NULL OR d.dead_at < $10)
      AND NOT EXISTS (
          SELECT FROM unnest($11::text[], $12::bytea[]) AS wanted (name, value)
          WHERE NOT EXISTS (SELECT FROM unnest(d.header_names, d.header_values) AS h (name, value)
                            WHERE h.name = wanted.name AND h.value = wanted.value))
      AND (NOT $13::boolean OR d.status = 'dead')
    ORDER BY d.id DESC LIMIT $2";

fn dead_letter_of(row: &Row) -> DeadLetter {
    DeadLetter {
        id: row.get("id"),
        consumer: row.get("consumer"),
        record: record_of(row),
        key: row.get("key"),
        event_id: row.get("event_id"),
        event_type: row.get("event_type"),
        disposition: row.get("disposition"),
        error_class: row.get("error_class"),
        error: row.get("error"),
        attempts: row.get("attempts"),
        first_failed_at: row.get("first_failed_at"),
        dead_at: row.get("dead_at"),
        status: row.get("status"),
        redrives: row.get("redrives"),
        returns: row.get("returns"),
        published_at: row.get("published_at"),
        waiting: row.get("waiting"),
        campaign: row.get("campaign"),
    }
}
