//! What can go wrong, with Confluent's status, error code and words for it.

use axum::http::StatusCode;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("Subject '{0}' not found.")]
    SubjectNotFound(String),
    #[error("Version {0} not found.")]
    VersionNotFound(i32),
    #[error("Schema not found")]
    SchemaNotFound,
    #[error("Schema {0} not found")]
    SchemaIdNotFound(i32),
    #[error("Subject '{0}' was soft deleted.Set permanent=true to delete permanently")]
    SubjectSoftDeleted(String),
    #[error("Subject '{0}' was not deleted first before being permanently deleted")]
    SubjectNotSoftDeleted(String),
    #[error("Subject '{0}' Version {1} was soft deleted.Set permanent=true to delete permanently")]
    VersionSoftDeleted(String, String),
    #[error("Subject '{0}' Version {1} was not deleted first before being permanently deleted")]
    VersionNotSoftDeleted(String, i32),
    #[error("Subject '{0}' does not have subject-level compatibility configured")]
    CompatibilityNotConfigured(String),
    #[error("Subject '{0}' does not have subject-level mode configured")]
    ModeNotConfigured(String),
    #[error("Schema being registered is incompatible with an earlier schema for subject \"{subject}\", details: [{}]", details.join(", "))]
    Incompatible { subject: String, details: Vec<String> },
    #[error("{0}")]
    InvalidSchema(String),
    #[error(
        "The specified version '{0}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""
    )]
    InvalidVersion(String),
    #[error(
        "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive"
    )]
    InvalidLevel,
    #[error("Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, and IMPORT.")]
    InvalidMode,
    #[error("{0}")]
    NotPermitted(String),
    #[error("The specified subject '{0}' is not a valid.")]
    InvalidSubject(String),
    #[error("Register operation failed because schema is too large")]
    SchemaTooLarge,
    #[error("{0}")]
    BadRequest(String),
    #[error("The request body must not be null")]
    MissingBody,
    /// An answer of the HTTP layer itself, in Jersey's words: `HTTP 404 Not Found`.
    #[error("HTTP {} {}", .0.as_u16(), .0.canonical_reason().unwrap_or_default())]
    Http(StatusCode),
    #[error("Error in the backend data store: no connection to Postgres")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("Error in the backend data store: a statement failed in Postgres")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("Error in the backend data store: schema {id} is stored but can't be read: {reason}")]
    Corrupt { id: i32, reason: String },
}

impl Error {
    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Error::Http(status) => *status,
            // A code is a status, or a status with two more digits.
            _ => match self.code() {
                404 | 40400..=40499 => StatusCode::NOT_FOUND,
                409 => StatusCode::CONFLICT,
                422 | 42200..=42299 => StatusCode::UNPROCESSABLE_ENTITY,
                400 => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// The `error_code`.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Error::SubjectNotFound(_) => 40401,
            Error::VersionNotFound(_) => 40402,
            Error::SchemaNotFound | Error::SchemaIdNotFound(_) => 40403,
            Error::SubjectSoftDeleted(_) => 40404,
            Error::SubjectNotSoftDeleted(_) => 40405,
            Error::VersionSoftDeleted(..) => 40406,
            Error::VersionNotSoftDeleted(..) => 40407,
            Error::CompatibilityNotConfigured(_) => 40408,
            Error::ModeNotConfigured(_) => 40409,
            Error::Incompatible { .. } => 409,
            Error::InvalidSchema(_) => 42201,
            Error::InvalidVersion(_) => 42202,
            Error::InvalidLevel => 42203,
            Error::InvalidMode => 42204,
            Error::NotPermitted(_) => 42205,
            Error::InvalidSubject(_) => 42208,
            Error::SchemaTooLarge => 42209,
            Error::BadRequest(_) => 400,
            Error::MissingBody => 422,
            Error::Http(status) => u32::from(status.as_u16()),
            Error::Pool(_) | Error::Postgres(_) | Error::Corrupt { .. } => 50001,
        }
    }
}
