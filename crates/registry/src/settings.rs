//! Compatibility levels and modes: what a subject sets for itself, and what is in force for it.

use deadpool_postgres::{GenericClient, Pool};

use crate::error::Error;
use crate::level::Level;
use crate::mode::Mode;
use crate::store::{self, Settings};

/// What is in force for a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) level: Level,
    pub(crate) normalize: bool,
    pub(crate) mode: Mode,
}

/// What is in force for `subject`: its own settings, else the global ones, else the defaults.
pub(crate) async fn in_scope<C: GenericClient>(db: &C, subject: &str) -> Result<Scope, Error> {
    let own = store::settings(db, Some(subject)).await?;
    let global = store::settings(db, None).await?;
    Ok(Scope {
        level: own.level.or(global.level).unwrap_or_default(),
        normalize: own.normalize.or(global.normalize).unwrap_or_default(),
        mode: effective_mode(own.mode, global.mode).unwrap_or_default(),
    })
}

fn effective_mode(own: Option<Mode>, global: Option<Mode>) -> Option<Mode> {
    match global {
        Some(Mode::ReadOnlyOverride) => global,
        _ => own.or(global),
    }
}

/// Refuses to write to `subject`, or to what is global, in a read-only mode.
pub(crate) async fn check_writable<C: GenericClient>(db: &C, subject: Option<&str>) -> Result<(), Error> {
    let mode = match subject {
        Some(subject) => in_scope(db, subject).await?.mode,
        None => store::settings(db, None).await?.mode.unwrap_or_default(),
    };
    if mode.is_read_only() {
        let name = subject.unwrap_or("null");
        return Err(Error::NotPermitted(format!("Subject {name} is in read-only mode")));
    }
    Ok(())
}

/// The level and normalisation of `subject`, or the global ones.
pub(crate) async fn config(pool: &Pool, subject: Option<&str>, default_to_global: bool) -> Result<Settings, Error> {
    let db = pool.get().await?;
    let own = store::settings(&db, subject).await?;
    match subject {
        None => Ok(Settings {
            level: Some(own.level.unwrap_or_default()),
            ..own
        }),
        Some(_) if own.level.is_some() || (own.normalize.is_some() && !default_to_global) => Ok(own),
        Some(subject) if default_to_global => {
            let global = store::settings(&db, None).await?;
            let level = Some(in_scope(&db, subject).await?.level);
            Ok(Settings {
                level,
                normalize: own.normalize.or(global.normalize),
                mode: None,
            })
        }
        Some(subject) => Err(Error::CompatibilityNotConfigured(subject.to_owned())),
    }
}

/// Sets the level or the normalisation of `subject`, or the global ones; what is not given stays.
pub(crate) async fn put_config(
    pool: &Pool,
    subject: Option<&str>,
    level: Option<Level>,
    normalize: Option<bool>,
) -> Result<(), Error> {
    let mut db = pool.get().await?;
    let tx = db.transaction().await?;
    store::lock(&tx).await?;
    check_writable(&tx, subject).await?;
    let own = store::settings(&tx, subject).await?;
    let changed = Settings {
        level: level.or(own.level),
        normalize: normalize.or(own.normalize),
        ..own
    };
    store::put_settings(&tx, subject, changed).await?;
    tx.commit().await?;
    tracing::info!(
        subject,
        level = level.map(Level::word),
        "the compatibility level was set"
    );
    Ok(())
}

/// Takes back the level and normalisation of `subject`, or the global ones, and returns what they were.
pub(crate) async fn delete_config(pool: &Pool, subject: Option<&str>) -> Result<Settings, Error> {
    let mut db = pool.get().await?;
    let tx = db.transaction().await?;
    store::lock(&tx).await?;
    let own = store::settings(&tx, subject).await?;
    if let (Some(subject), None, None) = (subject, own.level, own.normalize) {
        return Err(Error::SubjectNotFound(subject.to_owned()));
    }
    check_writable(&tx, subject).await?;
    store::put_settings(
        &tx,
        subject,
        Settings {
            mode: own.mode,
            ..Settings::default()
        },
    )
    .await?;
    tx.commit().await?;
    let level = if subject.is_none() {
        Some(own.level.unwrap_or_default())
    } else {
        own.level
    };
    Ok(Settings { level, ..own })
}

/// The mode of `subject`, or the global one.
pub(crate) async fn mode(pool: &Pool, subject: Option<&str>, default_to_global: bool) -> Result<Mode, Error> {
    let db = pool.get().await?;
    let global = store::settings(&db, None).await?.mode;
    let Some(subject) = subject else {
        return Ok(global.unwrap_or_default());
    };
    let own = store::settings(&db, Some(subject)).await?.mode;
    match effective_mode(own, global) {
        Some(mode) if default_to_global || own.is_some() || mode == Mode::ReadOnlyOverride => Ok(mode),
        None if default_to_global => Ok(Mode::default()),
        _ => Err(Error::ModeNotConfigured(subject.to_owned())),
    }
}

/// Sets the mode of `subject`, or the global one.
///
/// Importing begins from nothing: unless forced, no live version may exist, and the deleted ones are removed for good.
pub(crate) async fn put_mode(pool: &Pool, subject: Option<&str>, mode: Mode, force: bool) -> Result<(), Error> {
    let mut db = pool.get().await?;
    let tx = db.transaction().await?;
    store::lock(&tx).await?;
    let own = store::settings(&tx, subject).await?;
    let before = match subject {
        Some(subject) => in_scope(&tx, subject).await?.mode,
        None => own.mode.unwrap_or_default(),
    };
    if mode == Mode::Import && before != Mode::Import && !force {
        if store::has_versions(&tx, subject, false).await? {
            return Err(Error::NotPermitted(
                "Cannot import since found existing subjects".to_owned(),
            ));
        }
        store::purge_deleted(&tx, subject).await?;
    }
    store::put_settings(
        &tx,
        subject,
        Settings {
            mode: Some(mode),
            ..own
        },
    )
    .await?;
    tx.commit().await?;
    tracing::info!(subject, mode = mode.word(), "the mode was set");
    Ok(())
}

/// Takes back the mode of `subject`, or the global one, and returns what it was.
pub(crate) async fn delete_mode(pool: &Pool, subject: Option<&str>) -> Result<Mode, Error> {
    let mut db = pool.get().await?;
    let tx = db.transaction().await?;
    store::lock(&tx).await?;
    let own = store::settings(&tx, subject).await?;
    if let (Some(subject), None) = (subject, own.mode) {
        return Err(Error::SubjectNotFound(subject.to_owned()));
    }
    store::put_settings(&tx, subject, Settings { mode: None, ..own }).await?;
    tx.commit().await?;
    Ok(own.mode.unwrap_or_default())
}
