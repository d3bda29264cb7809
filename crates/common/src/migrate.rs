//! Schema migrations: numbered SQL files, applied once each, in order, in one transaction a file.
//!
//! A file that was applied and then edited is an error, not a surprise: its SHA-256 is kept beside its number. Two
//! processes that start at once wait for each other on an advisory transaction lock. It never rolls back or goes down.

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

/// Key of the advisory lock that lets one process migrate a database at a time ("rondomig" in ASCII).
const MIGRATION_LOCK: i64 = 0x726f_6e64_6f6d_6967;

/// One SQL file of `migrations/<set>/NNNN_name.sql`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Ascending from 1 within its set.
    pub version: i32,
    /// The file's name, for messages.
    pub name: &'static str,
    /// The file's text: any number of statements.
    pub sql: &'static str,
}

/// Why a database could not be brought to this build's schema.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused a statement, or the connection broke.
    #[error("migration {set}/{name} failed")]
    Statement {
        /// Whose migrations these are, for example `orders`.
        set: String,
        /// The file.
        name: String,
        /// The server's words.
        #[source]
        source: tokio_postgres::Error,
    },
    /// An applied file has other text than it had.
    #[error(
        "migration {set}/{name} was applied to this database with other content; applied files must not be edited, add a new one"
    )]
    Edited {
        /// Whose migrations these are.
        set: String,
        /// The file.
        name: String,
    },
    /// The database is newer than this build.
    #[error("this database has {set} migration {found}, this build knows only up to {known}; start the newer build")]
    Newer {
        /// Whose migrations these are.
        set: String,
        /// The highest version in the database.
        found: i32,
        /// The highest version of this build.
        known: i32,
    },
    /// Another service lives here.
    #[error(
        "this database belongs to {owner}: services do not share one, for each publishes all events of its own; create a \
         database for {wanted} and name it in {}_DATABASE_URL", wanted.to_uppercase()
    )]
    Taken {
        /// Whose it is.
        owner: String,
        /// Who wanted it.
        wanted: String,
    },
}

/// Makes the database behind `client` that of `service`, for good.
///
/// # Errors
/// [`Error::Taken`] when it is another's.
pub async fn claim(client: &Client, service: &str) -> Result<(), Error> {
    // One message, so one transaction: two processes that start at once take turns.
    client
        .batch_execute(&format!(
            "SELECT pg_advisory_xact_lock({MIGRATION_LOCK});
             CREATE TABLE IF NOT EXISTS owner
                 (service text NOT NULL, one boolean PRIMARY KEY DEFAULT true CHECK (one))"
        ))
        .await
        .map_err(owner_unknown)?;
    client
        .execute(
            "INSERT INTO owner (service) VALUES ($1) ON CONFLICT DO NOTHING",
            &[&service],
        )
        .await
        .map_err(owner_unknown)?;
    refuse_another(client, service).await
}

/// Passes a database that is that of `service`, or nobody's yet.
///
/// # Errors
/// [`Error::Taken`] when it is another's.
pub async fn refuse_another(client: &Client, service: &str) -> Result<(), Error> {
    let known = client
        .query_one("SELECT to_regclass('owner') IS NOT NULL", &[])
        .await
        .map_err(owner_unknown)?;
    if !known.get::<_, bool>(0) {
        return Ok(());
    }
    let owner = client
        .query_opt("SELECT service FROM owner", &[])
        .await
        .map_err(owner_unknown)?;
    match owner.map(|row| row.get(0)) {
        Some(owner) if owner != service => Err(Error::Taken {
            owner,
            wanted: service.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn owner_unknown(source: tokio_postgres::Error) -> Error {
    Error::Statement {
        set: "common".to_owned(),
        name: "owner".to_owned(),
        source,
    }
}

/// Brings the database behind `client` to the newest version of `set`, and returns how many files it applied.
///
/// # Errors
/// [`Error`] says which file and why; files before it stay applied.
pub async fn apply(client: &mut Client, set: &str, migrations: &[Migration]) -> Result<usize, Error> {
    let failed = |name: &str| {
        let (set, name) = (set.to_owned(), name.to_owned());
        move |source| Error::Statement { set, name, source }
    };
    let mut applied = 0;
    for migration in migrations {
        let hash = Sha256::digest(migration.sql.as_bytes()).to_vec();
        let tx = client.transaction().await.map_err(failed(migration.name))?;
        tx.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
            .await
            .map_err(failed(migration.name))?;
        tx.batch_execute(
            "CREATE TABLE IF NOT EXISTS migrations (
                 set text NOT NULL, version int NOT NULL, name text NOT NULL, sha256 bytea NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (set, version))",
        )
        .await
        .map_err(failed(migration.name))?;
        let newest: Option<i32> = tx
            .query_one("SELECT max(version) FROM migrations WHERE set = $1", &[&set])
            .await
            .map_err(failed(migration.name))?
            .get(0);
        let known = migrations.last().map_or(0, |last| last.version);
        if let Some(found) = newest.filter(|found| *found > known) {
            return Err(Error::Newer {
                set: set.to_owned(),
                found,
                known,
            });
        }
        let stored = tx
            .query_opt(
                "SELECT sha256 FROM migrations WHERE set = $1 AND version = $2",
                &[&set, &migration.version],
            )
            .await
            .map_err(failed(migration.name))?;
        if let Some(row) = stored {
            if row.get::<_, Vec<u8>>(0) != hash {
                return Err(Error::Edited {
                    set: set.to_owned(),
                    name: migration.name.to_owned(),
                });
            }
            continue;
        }
        tx.batch_execute(migration.sql).await.map_err(failed(migration.name))?;
        tx.execute(
            "INSERT INTO migrations (set, version, name, sha256) VALUES ($1, $2, $3, $4)",
            &[&set, &migration.version, &migration.name, &hash],
        )
        .await
        .map_err(failed(migration.name))?;
        tx.commit().await.map_err(failed(migration.name))?;
        applied += 1;
    }
    Ok(applied)
}
