//! A Confluent-compatible schema registry on Postgres: Avro only, no references between schemas.
//!
//! ```text
//! http       routes, media types, answers         (axum)
//!  └ schemas, subjects, settings   the rules      (one transaction each, under one lock)
//!     └ store                      all SQL        (Postgres)
//! avro, level                      the pure part: schemas, texts, compatibility
//! ```
//!
//! Everything lives in the database, so any number of processes may serve one registry. `docs/registry.md` says what is
//! answered and where it differs from others.

mod error;
mod http;
mod level;
mod mode;
mod schemas;
mod settings;
mod store;
mod subjects;

use common::migrate::{self, Migration};
use tokio_postgres::Client;

pub use ::avro;
pub use http::router;
pub use level::{Earlier, Level};

const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "0001_schemas_and_subjects.sql",
    sql: include_str!("../../../migrations/registry/0001_schemas_and_subjects.sql"),
}];

/// Brings the database behind `client` to what this build needs, and returns how many migrations it applied.
///
/// # Errors
/// [`migrate::Error`] says which migration failed and why.
pub async fn migrate(client: &mut Client) -> Result<usize, migrate::Error> {
    migrate::apply(client, "registry", &MIGRATIONS).await
}
