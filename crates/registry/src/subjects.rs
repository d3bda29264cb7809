//! Deleting subjects and versions, softly first and then for good.

use deadpool_postgres::Pool;

use crate::error::Error;
use crate::schemas::{self, VersionId};
use crate::settings;
use crate::store::{self, Settings};

/// Deletes `subject` and returns the versions that this deleted.
pub(crate) async fn delete(pool: &Pool, subject: &str, permanent: bool) -> Result<Vec<i32>, Error> {
    let mut db = pool.get().await?;
    let tx = db.transaction().await?;
    store::lock(&tx).await?;
    let versions = store::versions(&tx, subject).await?;
    let live: Vec<i32> = versions
        .iter()
        .filter(|version| !version.deleted)
        .map(|version| version.version)
        .collect();
    if versions.is_empty() {
        return Err(Error::SubjectNotFound(subject.to_owned()));
    }
    if !permanent && live.is_empty() {
        return Err(Error::SubjectSoftDeleted(subject.to_owned()));
    }
    settings::check_writable(&tx, Some(subject)).await?;
    let deleted = if permanent {
        if !live.is_empty() {
            return Err(Error::SubjectNotSoftDeleted(subject.to_owned()));
        }
        store::hard_delete(&tx, subject, None).await?;
        versions.iter().map(|version| version.version).collect()
    } else {
        store::soft_delete(&tx, subject, None).await?;
        store::put_settings(&tx, Some(subject), Settings::default()).await?;
        live
    };
    tx.commit().await?;
    tracing::info!(subject, permanent, "a subject was deleted");
    Ok(deleted)
}

/// Deletes one version of `subject` and returns its number. `named` is the version as the request has it.
pub(crate) async fn delete_version(pool: &Pool, subject: &str, named: &str, permanent: bool) -> Result<i32, Error> {
    let id = VersionId::parse(named)?;
    let mut db = pool.get().await?;
    let tx = db.transaction().await?;
    store::lock(&tx).await?;
    let version = schemas::version(&tx, subject, id, true).await?;
    if version.deleted && !permanent {
        return Err(Error::VersionSoftDeleted(subject.to_owned(), named.to_owned()));
    }
    settings::check_writable(&tx, Some(subject)).await?;
    if permanent {
        if !version.deleted {
            return Err(Error::VersionNotSoftDeleted(subject.to_owned(), version.version));
        }
        store::hard_delete(&tx, subject, Some(version.version)).await?;
    } else {
        store::soft_delete(&tx, subject, Some(version.version)).await?;
        if !store::has_versions(&tx, Some(subject), false).await? {
            store::put_settings(&tx, Some(subject), Settings::default()).await?;
        }
    }
    tx.commit().await?;
    tracing::info!(subject, version = version.version, permanent, "a version was deleted");
    Ok(version.version)
}
