//! What handlers take from a request, refused in Confluent's words where it is wrong.

use std::collections::HashMap;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::store::Page;

/// The default context's own name, which may precede a subject and changes nothing.
const DEFAULT_CONTEXT: &str = ":.:";

/// The variable parts of the path, decoded.
pub(super) struct Named(HashMap<String, String>);

impl Named {
    /// The subject, if the path has one.
    pub(super) fn optional_subject(&self) -> Option<&str> {
        let subject = self.0.get("subject")?;
        Some(subject.strip_prefix(DEFAULT_CONTEXT).unwrap_or(subject))
    }

    /// The subject of a path that has one.
    pub(super) fn subject(&self) -> &str {
        self.optional_subject().unwrap_or_default()
    }

    /// The subject, if one may be made by this name.
    pub(super) fn valid_subject(&self) -> Result<&str, Error> {
        let subject = self.subject();
        check_subject(subject)?;
        Ok(subject)
    }

    /// The version as it was written.
    pub(super) fn version(&self) -> &str {
        self.0.get("version").map_or("", String::as_str)
    }

    /// The schema's id. What is no number is a path that does not exist.
    pub(super) fn id(&self) -> Result<i32, Error> {
        let id = self.0.get("id").and_then(|id| id.trim().parse().ok());
        id.ok_or(Error::Http(StatusCode::NOT_FOUND))
    }
}

/// Refuses what can't be the name of a subject.
pub(super) fn check_subject(subject: &str) -> Result<(), Error> {
    if subject.chars().any(char::is_control) || subject == "__GLOBAL" || subject == "__EMPTY" {
        return Err(Error::InvalidSubject(subject.to_owned()));
    }
    Ok(())
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Path(named) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Error::Http(StatusCode::BAD_REQUEST))?;
        // Postgres has no NUL in text, so no subject can have one.
        if named.values().any(|value| value.contains('\0')) {
            return Err(Error::InvalidSubject(named.get("subject").cloned().unwrap_or_default()));
        }
        Ok(Named(named))
    }
}

/// The query's parameters.
pub(super) struct Params(HashMap<String, String>);

impl Params {
    /// A parameter that is `true`, in any case; all else is false.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// A parameter's text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A prefix of subjects. `:*:`, all contexts, may precede it.
    pub(super) fn subject_prefix(&self) -> &str {
        let prefix = self.text("subjectPrefix").unwrap_or_default();
        prefix
            .strip_prefix(":*:")
            .or_else(|| prefix.strip_prefix(DEFAULT_CONTEXT))
            .unwrap_or(prefix)
    }

    /// `offset` and `limit`. A limit that is not between 1 and `limit_max` counts as `limit_max`.
    pub(super) fn page(&self, limit_max: i32) -> Result<Page, Error> {
        let limit = self.number("limit", -1)?;
        let limit = if (1..=limit_max).contains(&limit) {
            limit
        } else {
            limit_max
        };
        Ok(Page {
            offset: self.number("offset", 0)?.max(0).into(),
            limit: limit.into(),
        })
    }

    /// A number; what is none is, to Jersey, a resource that does not exist.
    fn number(&self, name: &str, missing: i32) -> Result<i32, Error> {
        match self.text(name) {
            None | Some("") => Ok(missing),
            Some(text) => text.parse().map_err(|_| Error::Http(StatusCode::NOT_FOUND)),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let query = Query::try_from_uri(&parts.uri).map_err(|_| Error::Http(StatusCode::BAD_REQUEST))?;
        Ok(Params(query.0))
    }
}

/// The body, read as JSON.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Error::Http(rejection.status()))?;
        match bytes.trim_ascii() {
            b"" | b"null" => Err(Error::MissingBody),
            // serde would also read an object's members from an array.
            [b'[', ..] => Err(Error::BadRequest(
                "Cannot deserialize value from Array value".to_owned(),
            )),
            text => serde_json::from_slice(text)
                .map(Body)
                .map_err(|error| Error::BadRequest(error.to_string())),
        }
    }
}
