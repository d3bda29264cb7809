//! Refusals as RFC 9457 problem details.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";
/// What precedes the slug in a problem's `type`: stable, and not meant to be fetched.
pub const TYPE_PREFIX: &str = "/problems/";

/// One refusal: what kind, and what is wrong this time. Answers a request as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem: programs branch on this.
    #[serde(rename = "type")]
    #[schema(example = "/problems/invalid-request")]
    kind: Box<str>,
    /// The kind in words; the same each time.
    #[schema(example = "The request is not valid")]
    title: Box<str>,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What is wrong this time, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Box<str>>,
    /// Each field that is at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(flatten)]
    #[schema(ignore)]
    extensions: Map<String, Value>,
    #[serde(skip)]
    #[schema(ignore)]
    headers: Option<Box<HeaderMap>>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where it stands in the request.
    #[schema(example = "lines[0].quantity")]
    pub field: String,
    /// What is wrong with it.
    #[schema(example = "must be at least 1")]
    pub detail: String,
}

impl FieldError {
    /// `detail` about `field`.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl Problem {
    /// A problem of the kind `slug`, such as `out-of-paper`, with its unchanging title.
    pub fn new(status: StatusCode, slug: &str, title: impl Into<Box<str>>) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{slug}").into(),
            title: title.into(),
            status: status.as_u16(),
            detail: None,
            errors: Vec::new(),
            extensions: Map::new(),
            headers: None,
        }
    }

    /// Says what is wrong this time.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a member of the problem's own. Members that RFC 9457 defines are not replaced.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if !matches!(name, "type" | "title" | "status" | "detail" | "errors") {
            self.extensions.insert(name.to_owned(), value.into());
        }
        self
    }

    /// Names one field that is at fault.
    #[must_use]
    pub fn field(self, field: impl Into<String>, detail: impl Into<String>) -> Self {
        self.fields([FieldError::new(field, detail)])
    }

    /// Names fields that are at fault.
    #[must_use]
    pub fn fields(mut self, errors: impl IntoIterator<Item = FieldError>) -> Self {
        self.errors.extend(errors);
        self
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
    }

    /// Tells the client when to try again.
    #[must_use]
    pub fn retry_after_secs(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// 422: well-formed, but not what is asked for; `errors` say which fields and why.
    pub fn invalid(errors: impl IntoIterator<Item = FieldError>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-request",
            "The request is not valid",
        )
        .fields(errors)
    }

    /// 400: not even well-formed.
    pub fn malformed(detail: impl Into<Box<str>>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed-request",
            "The request cannot be read",
        )
        .detail(detail)
    }

    /// 404: `what`, such as `shipment 42`, does not exist.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing").detail(format!("{what} does not exist"))
    }

    /// 409: it exists, but not in a state that allows this.
    pub fn conflict(slug: &str, title: impl Into<Box<str>>) -> Self {
        Self::new(StatusCode::CONFLICT, slug, title)
    }

    /// 503: cannot be done now, can be done later.
    pub fn unavailable(detail: impl Into<Box<str>>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "The service cannot do this now",
        )
        .detail(detail)
        .retry_after_secs(1)
    }

    /// 500: our fault. The cause is logged here, once, and not told to the client.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = cause, "a request failed");
        Self::internal_unexplained()
    }

    pub(super) fn internal_unexplained() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong on our side",
        )
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("texts, numbers and JSON values serialise");
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        headers.extend(self.headers.into_iter().flat_map(|extra| *extra));
        response
    }
}

/// The answer where no route matches.
pub(super) async fn no_route(uri: axum::http::Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-such-route", "There is nothing at this path")
        .detail(format!("no route matches {}", uri.path()))
}

/// The answer where the path exists but not for this method. The router adds `Allow`.
pub(super) async fn no_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "This path does not take this method",
    )
    .detail(format!("{} does not take {method}", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::tests::body_json;

    #[tokio::test]
    async fn a_problem_is_problem_json_with_its_fields_and_members() {
        let response = Problem::invalid([FieldError::new("lines[0].quantity", "must be at least 1")])
            .detail("one field is wrong")
            .with("limit", 100)
            .with("status", 200)
            .into_response();
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        assert_eq!(
            body_json(response).await,
            serde_json::json!({
                "type": "/problems/invalid-request", "title": "The request is not valid", "status": 422,
                "detail": "one field is wrong", "limit": 100,
                "errors": [{ "field": "lines[0].quantity", "detail": "must be at least 1" }],
            })
        );
    }

    #[test]
    fn a_problem_says_when_to_come_back() {
        let response = Problem::unavailable("the database restarts").into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn the_openapi_schema_shows_what_is_sent() {
        use utoipa::PartialSchema as _;
        let schema = serde_json::to_value(Problem::schema()).unwrap();
        let names: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["detail", "errors", "status", "title", "type"]);
    }
}
