//! Holding a shadow table against the service's own: all SQL of the comparison.
//!
//! ```text
//!  survey    both tables hashed in buckets, in one statement: counts, content hashes, buckets that differ
//!  suspects  the rows of those buckets that differ, by key                         traffic goes on
//!  ── from here on the shadow notes the keys that it changes ──────────────────────────────────────
//!  verdict   suspects and changed keys, looked at again                            writers are held up
//! ```
//!
//! A row that was equal when it was surveyed, and is neither a suspect nor changed since, is equal at the verdict: so
//! little needs to be read while writers wait, however large the tables are. Rows that somebody changes by hand after the
//! survey are not seen.

use deadpool_postgres::{Client, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rebuild::Error;
use crate::deadlines::CLAIM_LEASE;
use crate::model::{Follows, Table};

/// Buckets that rows are hashed into: so many that those which traffic changes hold few others.
const BUCKETS: i64 = 65_536;
/// Rows of a table that may be suspects; of more differences than that only so many are counted.
pub(super) const SUSPECTS_MAX: i64 = 100_000;

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Its key, columns separated by a blank.
    pub key: String,
    /// How it differs.
    pub kind: Kind,
    /// Which columns differ, where both have the row.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub columns: Vec<Column>,
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The service has it, and no event says so.
    OnlyLive,
    /// Events say so, and the service does not have it.
    OnlyRebuilt,
    /// Both have it, with other content.
    Differs,
}

/// A column that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What the service has.
    pub live: Value,
    /// What follows from the events.
    pub rebuilt: Value,
}

/// What came of comparing one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    /// Its name.
    pub table: String,
    /// Rows that the service has.
    pub live_rows: u64,
    /// Rows that follow from the events.
    pub rebuilt_rows: u64,
    /// Content hash of the service's rows. Traffic may lie between the two hashes of equal tables; `different` tells.
    pub live_hash: String,
    /// Content hash of the rows that follow from the events.
    pub rebuilt_hash: String,
    /// How many rows differ.
    pub different: u64,
    /// Whether there may be more.
    pub more: bool,
    /// The first of them.
    pub first: Vec<Difference>,
    /// Columns that only one of the two has, with which.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub other_columns: Vec<String>,
    /// Why it was not compared, if it was not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub left_out: Option<String>,
}

impl TableReport {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.different == 0 && self.other_columns.is_empty()
    }
}

/// How much of the tables is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything.
    Whole,
    /// Rows that follow from what was read, unless their streams have gone on after this position.
    Read { until: Option<i64> },
}

/// One table's comparison under way.
pub(super) struct Comparison {
    live: String,
    rebuilt: String,
    table: Table,
    /// Quoted, in both.
    columns: Vec<String>,
    scope: Scope,
    report: TableReport,
}

impl Comparison {
    pub(super) async fn of(
        client: &Client,
        (home, schema): (&str, &str),
        table: Table,
        scope: Scope,
    ) -> Result<Self, Error> {
        let (live, rebuilt) = (format!("{home}.{}", table.name), format!("{schema}.{}", table.name));
        let (ours, theirs) = (columns(client, &live).await?, columns(client, &rebuilt).await?);
        let only = |some: &[String], others: &[String], whose: &str| -> Vec<String> {
            let missing = some.iter().filter(|column| !others.contains(column));
            missing.map(|column| format!("{column} ({whose})")).collect()
        };
        let mut other_columns = only(&ours, &theirs, "only in the service");
        other_columns.extend(only(&theirs, &ours, "only in the rebuilt table"));
        let left_out = ours.is_empty().then(|| "the service has no such table".to_owned());
        let common = ours.into_iter().filter(|column| theirs.contains(column));
        let determined = |column: &String| table.determined.is_empty() || table.determined.contains(&column.as_str());
        Ok(Self {
            live,
            rebuilt,
            columns: common.filter(determined).collect(),
            scope,
            report: TableReport {
                table: table.name.to_owned(),
                live_rows: 0,
                rebuilt_rows: 0,
                live_hash: String::new(),
                rebuilt_hash: String::new(),
                different: 0,
                more: false,
                first: Vec::new(),
                other_columns,
                left_out,
            },
            table,
        })
    }

    fn row(&self, of: &str) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| format!("{of}.{column}")).collect();
        format!("ROW({})", columns.join(", "))
    }

    fn keys(&self, of: &str) -> String {
        let columns: Vec<String> = self.table.key.iter().map(|column| format!("{of}.{column}")).collect();
        columns.join(", ")
    }

    fn suspects(&self) -> String {
        format!("suspects_{}", self.table.name)
    }

    /// Hashes both tables, and remembers by key the rows that differ. Takes as long as reading them does.
    pub(super) async fn survey(&mut self, client: &Client) -> Result<(), Error> {
        if self.report.left_out.is_some() {
            return Ok(());
        }
        client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS pg_temp.{suspects};
                 CREATE TEMP TABLE {suspects} AS SELECT {keys} FROM {live} WITH NO DATA",
                suspects = self.suspects(),
                keys = self.table.key.join(", "),
                live = self.live,
            ))
            .await?;
        let differing = self.hash(client).await?;
        let found = match self.scope {
            Scope::Whole if differing.is_empty() => 0,
            Scope::Whole => self.suspect_buckets(client, &differing).await?,
            Scope::Read { .. } if self.table.follows == Follows::Many => {
                self.report.left_out = Some("it adds up the whole log, of which only a part was read".to_owned());
                0
            }
            Scope::Read { until } => self.suspect_read(client, until).await?,
        };
        self.report.more = found >= SUSPECTS_MAX.cast_unsigned();
        client
            .batch_execute(&format!("ANALYZE pg_temp.{}", self.suspects()))
            .await?;
        Ok(())
    }

    /// Counts and hashes both tables as of one moment; the buckets that differ.
    async fn hash(&mut self, client: &Client) -> Result<Vec<i64>, Error> {
        let buckets = |from: &str| {
            format!(
                "SELECT hash_record_extended(ROW({keys}), 0) & {mask} AS bucket, count(*) AS rows,
                        bit_xor(hash_record_extended({row}, 1)) AS hash
                 FROM {from} AS t GROUP BY 1",
                keys = self.keys("t"),
                mask = BUCKETS - 1,
                row = self.row("t"),
            )
        };
        let sql = format!(
            "WITH live AS ({live}), rebuilt AS ({rebuilt})
             SELECT coalesce(sum(live.rows), 0)::bigint, coalesce(sum(rebuilt.rows), 0)::bigint,
                    coalesce(bit_xor(live.hash), 0), coalesce(bit_xor(rebuilt.hash), 0),
                    coalesce(array_agg(bucket) FILTER (
                        WHERE (live.rows, live.hash) IS DISTINCT FROM (rebuilt.rows, rebuilt.hash)), '{{}}')
             FROM live FULL JOIN rebuilt USING (bucket)",
            live = buckets(&self.live),
            rebuilt = buckets(&self.rebuilt),
        );
        let row = client.query_one(&sql, &[]).await?;
        self.report.live_rows = row.get::<_, i64>(0).cast_unsigned();
        self.report.rebuilt_rows = row.get::<_, i64>(1).cast_unsigned();
        self.report.live_hash = format!("{:016x}", row.get::<_, i64>(2));
        self.report.rebuilt_hash = format!("{:016x}", row.get::<_, i64>(3));
        Ok(row.get(4))
    }

    async fn suspect_buckets(&self, client: &Client, buckets: &[i64]) -> Result<u64, Error> {
        let rows = |from: &str| {
            format!(
                "SELECT * FROM {from} AS t WHERE hash_record_extended(ROW({keys}), 0) & {mask} = ANY($1)",
                keys = self.keys("t"),
                mask = BUCKETS - 1,
            )
        };
        let sql = format!(
            "INSERT INTO {suspects} SELECT {key} FROM ({live}) AS l FULL JOIN ({rebuilt}) AS r USING ({key})
             WHERE {ours} IS DISTINCT FROM {theirs} LIMIT {SUSPECTS_MAX}",
            suspects = self.suspects(),
            key = self.table.key.join(", "),
            live = rows(&self.live),
            rebuilt = rows(&self.rebuilt),
            ours = self.row("l"),
            theirs = self.row("r"),
        );
        Ok(client.execute(&sql, &[&buckets]).await?)
    }

    /// Rows that were rebuilt from a part of the log are compared; what else the service has is older, or younger.
    async fn suspect_read(&self, client: &Client, until: Option<i64>) -> Result<u64, Error> {
        let unless = match (until, self.table.follows) {
            (Some(until), Follows::Stream(stream)) => format!(
                "AND NOT EXISTS (SELECT FROM events WHERE position > {until} AND stream_id = (
                     SELECT {stream} FROM {rebuilt} AS s WHERE ({keys}) = ({shadow})))",
                rebuilt = self.rebuilt,
                keys = self.keys("s"),
                shadow = self.keys("r"),
            ),
            _ => String::new(),
        };
        let sql = format!(
            "INSERT INTO {suspects} SELECT {keys} FROM {rebuilt} AS r LEFT JOIN {live} AS l USING ({key})
             WHERE {ours} IS DISTINCT FROM {theirs} {unless} LIMIT {SUSPECTS_MAX}",
            suspects = self.suspects(),
            keys = self.keys("r"),
            key = self.table.key.join(", "),
            rebuilt = self.rebuilt,
            live = self.live,
            ours = self.row("l"),
            theirs = self.row("r"),
        );
        Ok(client.execute(&sql, &[]).await?)
    }

    /// Looks again at the suspects and at what has changed since, within a transaction that sees both tables at rest.
    pub(super) async fn verdict(
        &mut self,
        tx: &Transaction<'_>,
        schema: &str,
        shown_max: usize,
    ) -> Result<TableReport, Error> {
        let mut report = self.report.clone();
        if report.left_out.is_some() {
            return Ok(report);
        }
        let key = self.table.key.join(", ");
        let missing = match self.scope {
            Scope::Whole => String::new(),
            // A key that changed since may be of a stream that was not read.
            Scope::Read { .. } => format!("AND r.{} IS NOT NULL", self.table.key[0]),
        };
        let late = if self.table.name == "timers" {
            format!(
                "OR l.due_at > greatest(r.due_at, now() + interval '{} seconds')",
                CLAIM_LEASE.as_secs()
            )
        } else {
            String::new()
        };
        let sql = format!(
            "SELECT concat_ws(' ', {key}), to_jsonb(l), to_jsonb(r), count(*) OVER ()
             FROM (SELECT {key} FROM {suspects} UNION SELECT {key} FROM {schema}.touched_{name}) AS k
             LEFT JOIN {live} AS l USING ({key}) LEFT JOIN {rebuilt} AS r USING ({key})
             WHERE ({ours} IS DISTINCT FROM {theirs} {late}) {missing}
             ORDER BY 1 LIMIT {shown_max}",
            suspects = self.suspects(),
            name = self.table.name,
            live = self.live,
            rebuilt = self.rebuilt,
            ours = self.row("l"),
            theirs = self.row("r"),
        );
        let rows = tx.query(&sql, &[]).await?;
        report.different = rows.first().map_or(0, |row| row.get::<_, i64>(3).cast_unsigned());
        report.first = rows
            .iter()
            .map(|row| difference(row.get(0), row.get(1), row.get(2)))
            .collect();
        // Suspects that came to nothing were traffic; there is no more to be suspected.
        report.more &= report.different > 0;
        Ok(report)
    }

    /// Whether so many rows were suspects that not all could be looked at again, though none of those differs.
    pub(super) fn is_cut_short(&self, verdict: &TableReport) -> bool {
        self.report.more && verdict.different == 0
    }
}

/// The columns of `table`, quoted, in order.
async fn columns(client: &Client, table: &str) -> Result<Vec<String>, Error> {
    let rows = client
        .query(
            "SELECT quote_ident(attname) FROM pg_attribute
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            &[&table],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What differs between a row of the service and the rebuilt one.
fn difference(key: String, live: Option<Value>, rebuilt: Option<Value>) -> Difference {
    let (live, rebuilt) = match (live, rebuilt) {
        (Some(Value::Object(live)), Some(Value::Object(rebuilt))) => (live, rebuilt),
        (Some(_), _) => {
            return Difference {
                key,
                kind: Kind::OnlyLive,
                columns: Vec::new(),
            };
        }
        (None, _) => {
            return Difference {
                key,
                kind: Kind::OnlyRebuilt,
                columns: Vec::new(),
            };
        }
    };
    let value = |row: &Map<String, Value>, name: &str| row.get(name).cloned().unwrap_or_default();
    let columns = live.iter().filter(|(name, _)| rebuilt.contains_key(*name));
    let differing = columns.filter(|(name, before)| value(&rebuilt, name) != **before);
    Difference {
        key,
        kind: Kind::Differs,
        columns: differing
            .map(|(name, before)| Column {
                name: name.clone(),
                live: before.clone(),
                rebuilt: value(&rebuilt, name),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_names_the_columns_that_differ_and_both_values() {
        let live = json!({ "order_id": "a", "status": "placed", "reason": null, "old": 1 });
        let rebuilt = json!({ "order_id": "a", "status": "completed", "reason": null, "new": 2 });
        let found = difference("a".to_owned(), Some(live), Some(rebuilt));
        assert_eq!(found.kind, Kind::Differs);
        assert_eq!(
            found.columns,
            [Column {
                name: "status".to_owned(),
                live: json!("placed"),
                rebuilt: json!("completed")
            }]
        );
    }

    #[test]
    fn a_row_that_only_one_has_says_which() {
        let row = || Some(json!({ "sku": "a" }));
        assert_eq!(difference("a".to_owned(), row(), None).kind, Kind::OnlyLive);
        assert_eq!(difference("a".to_owned(), None, row()).kind, Kind::OnlyRebuilt);
    }
}
