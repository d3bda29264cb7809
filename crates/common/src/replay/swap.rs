//! Putting the rebuilt tables in the place of the service's own, in one transaction.
//!
//! The old ones move to the schema [`OLD_SCHEMA`](super::OLD_SCHEMA) and stay there until somebody drops them. A running
//! service notices nothing but a moment's wait: its statements are prepared anew by the server, for the tables that have
//! the names now.

use deadpool_postgres::{Client, Pool, Transaction};

use super::plan::Report;
use super::rebuild::Error;
use super::shadow::{OLD_SCHEMA, REBUILD_SCHEMA, Shadow, lock};

/// What hangs on the service's own tables and would stay with the old ones: views, triggers, foreign keys.
pub(super) async fn in_the_way(shadow: &Shadow) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for table in &shadow.tables {
        let rows = shadow
            .client
            .query(
                "SELECT 'view ' || ev_class::regclass::text FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid
                 WHERE classid = 'pg_rewrite'::regclass AND refobjid = $1::text::regclass AND ev_class <> refobjid
                 UNION SELECT 'trigger ' || quote_ident(tgname) FROM pg_trigger
                 WHERE tgrelid = $1::text::regclass AND NOT tgisinternal
                 UNION SELECT 'foreign key ' || quote_ident(conname) FROM pg_constraint
                 WHERE contype = 'f' AND $1::text::regclass IN (conrelid, confrelid)",
                &[&format!("{}.{}", shadow.home, table.name)],
            )
            .await?;
        found.extend(
            rows.iter()
                .map(|row| format!("{} on {}", row.get::<_, String>(0), table.name)),
        );
    }
    Ok(found)
}

/// Whether the tables of an earlier swap are still there, and what it found if nobody has been told.
pub(super) async fn earlier(client: &Client) -> Result<Option<Option<(String, serde_json::Value)>>, Error> {
    let there = client
        .query_one(
            "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($1 || '.swapped') IS NOT NULL",
            &[&OLD_SCHEMA],
        )
        .await?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    if !there.get::<_, bool>(1) {
        return Ok(Some(None));
    }
    let sql = format!("SELECT plan, report FROM {OLD_SCHEMA}.swapped WHERE NOT told");
    let row = client.query_opt(&sql, &[]).await?;
    Ok(Some(row.map(|row| (row.get(0), row.get(1)))))
}

/// Whoever asked for the swap has been told of it.
pub(super) async fn told(client: &Client) -> Result<(), Error> {
    let sql = format!("UPDATE {OLD_SCHEMA}.swapped SET told = true");
    client.execute(&sql, &[]).await?;
    Ok(())
}

/// Swaps within `tx`, which holds the locks of all tables.
pub(super) async fn swap(
    tx: &Transaction<'_>,
    (schema, home): (&str, &str),
    tables: &[crate::model::Table],
    plan: &str,
    report: &Report,
) -> Result<(), Error> {
    tx.batch_execute(&format!(
        "CREATE SCHEMA {OLD_SCHEMA};
         CREATE TABLE {OLD_SCHEMA}.swapped (
             at timestamptz NOT NULL DEFAULT now(), plan text NOT NULL, report jsonb NOT NULL,
             told boolean NOT NULL DEFAULT false);"
    ))
    .await?;
    let report = serde_json::to_value(report).expect("a report is plain data");
    tx.execute(
        &format!("INSERT INTO {OLD_SCHEMA}.swapped (plan, report) VALUES ($1, $2)"),
        &[&plan, &report],
    )
    .await?;
    for table in tables {
        let name = table.name;
        tx.batch_execute(&format!(
            "DROP TRIGGER note_change ON {schema}.{name};
             ALTER TABLE {home}.{name} SET SCHEMA {OLD_SCHEMA};
             ALTER TABLE {schema}.{name} SET SCHEMA {home};"
        ))
        .await?;
    }
    tx.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await?;
    Ok(())
}

/// Drops the tables that a swap has replaced, where nobody can want them: they were empty.
pub(super) async fn drop_empty(tx: &Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute(&format!("DROP SCHEMA IF EXISTS {OLD_SCHEMA} CASCADE"))
        .await?;
    Ok(())
}

/// Drops the tables that the last swap has replaced; whether there were any.
///
/// # Errors
/// A rebuild is running, or the database's.
pub async fn drop_old(pool: &Pool) -> Result<bool, Error> {
    let client = pool.get().await?;
    if !lock(&client, REBUILD_SCHEMA).await? {
        return Err(Error::Busy { schema: REBUILD_SCHEMA });
    }
    let there = earlier(&client).await?.is_some();
    client
        .batch_execute(&format!("DROP SCHEMA IF EXISTS {OLD_SCHEMA} CASCADE"))
        .await?;
    Ok(there)
}
