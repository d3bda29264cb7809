//! All SQL of the registry. It knows no rule: what may be written, and when, is decided by its callers.

use deadpool_postgres::GenericClient;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::Error;
use crate::level::Level;
use crate::mode::Mode;

/// A version of a subject.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) subject: String,
    pub(crate) version: i32,
    pub(crate) schema_id: i32,
    pub(crate) text: String,
    pub(crate) deleted: bool,
}

impl Version {
    fn from_row(row: &Row) -> Version {
        Version {
            subject: row.get("subject"),
            version: row.get("version"),
            schema_id: row.get("schema_id"),
            text: row.get("text"),
            deleted: row.get("deleted"),
        }
    }
}

/// Which subjects or versions a listing shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    Live,
    LiveAndDeleted,
    Deleted,
}

impl Show {
    pub(crate) fn from_flags(deleted: bool, deleted_only: bool) -> Show {
        match (deleted, deleted_only) {
            (_, true) => Show::Deleted,
            (true, false) => Show::LiveAndDeleted,
            (false, false) => Show::Live,
        }
    }

    /// The value of `deleted` that is shown, if not both are.
    fn deleted(self) -> Option<bool> {
        match self {
            Show::Live => Some(false),
            Show::LiveAndDeleted => None,
            Show::Deleted => Some(true),
        }
    }
}

/// A part of a listing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub(crate) offset: i64,
    pub(crate) limit: i64,
}

/// What a subject, or the registry as a whole, has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) level: Option<Level>,
    pub(crate) normalize: Option<bool>,
    pub(crate) mode: Option<Mode>,
}

const VERSION_COLUMNS: &str = "SELECT subject, version, schema_id, text, deleted
     FROM registry_versions JOIN registry_schemas ON registry_schemas.id = schema_id";

async fn query<C: GenericClient>(db: &C, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
    let statement = db.prepare_cached(sql).await?;
    Ok(db.query(&statement, params).await?)
}

/// Takes the lock under which everything is written, until the end of the transaction, and returns the highest id.
pub(crate) async fn lock<C: GenericClient>(db: &C) -> Result<i32, Error> {
    let row = db.query_one("SELECT highest FROM registry_ids FOR UPDATE", &[]).await?;
    Ok(row.get(0))
}

/// The highest id ever given.
pub(crate) async fn highest_id<C: GenericClient>(db: &C) -> Result<i32, Error> {
    Ok(db.query_one("SELECT highest FROM registry_ids", &[]).await?.get(0))
}

/// Adds a schema, unless its id is there already, and remembers the id as given.
pub(crate) async fn add_schema<C: GenericClient>(db: &C, id: i32, text: &str) -> Result<(), Error> {
    let hash = hash(text);
    db.execute(
        "INSERT INTO registry_schemas (id, hash, text) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
        &[&id, &hash, &text],
    )
    .await?;
    db.execute("UPDATE registry_ids SET highest = greatest(highest, $1)", &[&id])
        .await?;
    Ok(())
}

/// The text of the schema `id`.
pub(crate) async fn schema_text<C: GenericClient>(db: &C, id: i32) -> Result<Option<String>, Error> {
    let row = db
        .query_opt("SELECT text FROM registry_schemas WHERE id = $1", &[&id])
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// The ids of a text, latest first.
pub(crate) async fn ids_of<C: GenericClient>(db: &C, text: &str) -> Result<Vec<i32>, Error> {
    let hash = hash(text);
    let sql = "SELECT id FROM registry_schemas WHERE hash = $1 AND text = $2 ORDER BY id DESC";
    Ok(query(db, sql, &[&hash, &text])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// The version of `subject` that has this text: a live one if there is, and the latest.
pub(crate) async fn version_of<C: GenericClient>(
    db: &C,
    subject: &str,
    text: &str,
    deleted: bool,
) -> Result<Option<Version>, Error> {
    let hash = hash(text);
    let sql = format!(
        "{VERSION_COLUMNS} WHERE subject = $1 AND hash = $2 AND text = $3 AND (NOT deleted OR $4)
         ORDER BY deleted, version DESC LIMIT 1"
    );
    Ok(query(db, &sql, &[&subject, &hash, &text, &deleted])
        .await?
        .first()
        .map(Version::from_row))
}

/// All versions of `subject`, the deleted too, in their order.
pub(crate) async fn versions<C: GenericClient>(db: &C, subject: &str) -> Result<Vec<Version>, Error> {
    let sql = format!("{VERSION_COLUMNS} WHERE subject = $1 ORDER BY version");
    Ok(query(db, &sql, &[&subject])
        .await?
        .iter()
        .map(Version::from_row)
        .collect())
}

/// One version of `subject`, the deleted too.
pub(crate) async fn version<C: GenericClient>(db: &C, subject: &str, version: i32) -> Result<Option<Version>, Error> {
    let sql = format!("{VERSION_COLUMNS} WHERE subject = $1 AND version = $2");
    Ok(query(db, &sql, &[&subject, &version])
        .await?
        .first()
        .map(Version::from_row))
}

/// The latest live version of `subject`.
pub(crate) async fn latest<C: GenericClient>(db: &C, subject: &str) -> Result<Option<Version>, Error> {
    let sql = format!("{VERSION_COLUMNS} WHERE subject = $1 AND NOT deleted ORDER BY version DESC LIMIT 1");
    Ok(query(db, &sql, &[&subject]).await?.first().map(Version::from_row))
}

/// The numbers of the versions of `subject`.
pub(crate) async fn version_numbers<C: GenericClient>(
    db: &C,
    subject: &str,
    show: Show,
    page: Page,
) -> Result<Vec<i32>, Error> {
    let sql = "SELECT version FROM registry_versions WHERE subject = $1 AND ($2::boolean IS NULL OR deleted = $2)
               ORDER BY version OFFSET $3 LIMIT $4";
    let rows = query(db, sql, &[&subject, &show.deleted(), &page.offset, &page.limit]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether `subject`, or any if none is given, has a version: a live one, or, if `deleted`, any.
pub(crate) async fn has_versions<C: GenericClient>(
    db: &C,
    subject: Option<&str>,
    deleted: bool,
) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT FROM registry_versions WHERE ($1::text IS NULL OR subject = $1) AND (NOT deleted OR $2))";
    Ok(db.query_one(sql, &[&subject, &deleted]).await?.get(0))
}

/// Subjects by prefix. A subject is deleted when all its versions are.
pub(crate) async fn subjects<C: GenericClient>(
    db: &C,
    prefix: &str,
    show: Show,
    page: Page,
) -> Result<Vec<String>, Error> {
    let sql = "SELECT subject FROM registry_versions WHERE starts_with(subject, $1) GROUP BY subject
               HAVING $2::boolean IS NULL OR bool_and(deleted) = $2 ORDER BY subject OFFSET $3 LIMIT $4";
    let rows = query(db, sql, &[&prefix, &show.deleted(), &page.offset, &page.limit]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Versions of all subjects with a prefix, or only the latest of each.
pub(crate) async fn all_versions<C: GenericClient>(
    db: &C,
    prefix: &str,
    show: Show,
    latest_only: bool,
    page: Page,
) -> Result<Vec<Version>, Error> {
    let sql = format!(
        "SELECT * FROM (
             SELECT versions.*, row_number() OVER (PARTITION BY subject ORDER BY version DESC) AS rank
             FROM ({VERSION_COLUMNS}) versions
             WHERE starts_with(subject, $1) AND ($2::boolean IS NULL OR deleted = $2)) ranked
         WHERE rank = 1 OR NOT $3 ORDER BY subject, version OFFSET $4 LIMIT $5"
    );
    let rows = query(
        db,
        &sql,
        &[&prefix, &show.deleted(), &latest_only, &page.offset, &page.limit],
    )
    .await?;
    Ok(rows.iter().map(Version::from_row).collect())
}

/// The subjects and versions that have the schema `id`.
pub(crate) async fn uses_of<C: GenericClient>(db: &C, id: i32, show: Show) -> Result<Vec<(String, i32)>, Error> {
    let sql = "SELECT subject, version FROM registry_versions
               WHERE schema_id = $1 AND ($2::boolean IS NULL OR deleted = $2) ORDER BY subject, version";
    let rows = query(db, sql, &[&id, &show.deleted()]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Writes a live version. Deleted earlier versions of the same schema give way to it.
pub(crate) async fn put_version<C: GenericClient>(db: &C, subject: &str, version: i32, id: i32) -> Result<(), Error> {
    let sql = "DELETE FROM registry_versions
               WHERE subject = $1 AND (version = $2 OR version < $2 AND schema_id = $3 AND deleted) RETURNING schema_id";
    let replaced = query(db, sql, &[&subject, &version, &id]).await?;
    db.execute(
        "INSERT INTO registry_versions (subject, version, schema_id) VALUES ($1, $2, $3)",
        &[&subject, &version, &id],
    )
    .await?;
    drop_unused_schemas(db, &replaced).await
}

/// Marks a version, or all of a subject, as deleted.
pub(crate) async fn soft_delete<C: GenericClient>(db: &C, subject: &str, version: Option<i32>) -> Result<(), Error> {
    let sql = "UPDATE registry_versions SET deleted = true WHERE subject = $1 AND ($2::int IS NULL OR version = $2)";
    db.execute(sql, &[&subject, &version]).await?;
    Ok(())
}

/// Removes a version, or all of a subject, and the schemas that nothing uses any more.
pub(crate) async fn hard_delete<C: GenericClient>(db: &C, subject: &str, version: Option<i32>) -> Result<(), Error> {
    let sql =
        "DELETE FROM registry_versions WHERE subject = $1 AND ($2::int IS NULL OR version = $2) RETURNING schema_id";
    let deleted = query(db, sql, &[&subject, &version]).await?;
    drop_unused_schemas(db, &deleted).await
}

/// Removes what is marked as deleted, of a subject or of all.
pub(crate) async fn purge_deleted<C: GenericClient>(db: &C, subject: Option<&str>) -> Result<(), Error> {
    let sql = "DELETE FROM registry_versions WHERE deleted AND ($1::text IS NULL OR subject = $1) RETURNING schema_id";
    let deleted = query(db, sql, &[&subject]).await?;
    drop_unused_schemas(db, &deleted).await
}

/// Removes those schemas of `versions`, whose first column is the schema's id, that no other version has.
async fn drop_unused_schemas<C: GenericClient>(db: &C, versions: &[Row]) -> Result<(), Error> {
    let ids: Vec<i32> = versions.iter().map(|row| row.get(0)).collect();
    let sql = "DELETE FROM registry_schemas
               WHERE id = ANY($1) AND NOT EXISTS (SELECT FROM registry_versions WHERE schema_id = registry_schemas.id)";
    db.execute(sql, &[&ids]).await?;
    Ok(())
}

/// What `subject`, or the registry as a whole, has set.
pub(crate) async fn settings<C: GenericClient>(db: &C, subject: Option<&str>) -> Result<Settings, Error> {
    let sql = "SELECT compatibility, normalize, mode FROM registry_settings WHERE subject IS NOT DISTINCT FROM $1";
    let row = query(db, sql, &[&subject]).await?;
    Ok(row.first().map_or_else(Settings::default, |row| Settings {
        level: row.get::<_, Option<&str>>(0).and_then(Level::from_word),
        normalize: row.get(1),
        mode: row.get::<_, Option<&str>>(2).and_then(Mode::from_word),
    }))
}

/// Replaces what `subject`, or the registry as a whole, has set.
pub(crate) async fn put_settings<C: GenericClient>(
    db: &C,
    subject: Option<&str>,
    settings: Settings,
) -> Result<(), Error> {
    db.execute(
        "INSERT INTO registry_settings (subject, compatibility, normalize, mode) VALUES ($1, $2, $3, $4)
         ON CONFLICT (subject) DO UPDATE
         SET compatibility = excluded.compatibility, normalize = excluded.normalize, mode = excluded.mode",
        &[
            &subject,
            &settings.level.map(Level::word),
            &settings.normalize,
            &settings.mode.map(Mode::word),
        ],
    )
    .await?;
    Ok(())
}

/// Answers when the database does.
pub(crate) async fn ping<C: GenericClient>(db: &C) -> Result<(), Error> {
    db.query_one("SELECT highest FROM registry_ids", &[]).await?;
    Ok(())
}

fn hash(text: &str) -> Vec<u8> {
    Sha256::digest(text.as_bytes()).to_vec()
}
