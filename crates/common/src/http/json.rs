//! A JSON body, read so that a refusal says which field is wrong and why.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::problem::{FieldError, Problem};

/// A request's or response's body as JSON.
///
/// As an extractor it refuses another content type (415), a body beyond the server's bound (413), text that is no JSON
/// (400, with line and column), and JSON of another shape (422, with the field).
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The body must be JSON",
            )
            .detail("send the header `Content-Type: application/json`"));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large")
            } else {
                Problem::malformed("the body could not be received whole")
            }
        })?;
        parse(&body).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Problem::internal(&error).into_response(),
        }
    }
}

/// Reads `body`, or says what is wrong with it.
///
/// # Errors
/// A 400 or 422 [`Problem`].
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| explain(".", &error))?;
    Ok(value)
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn explain(path: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(&position).unwrap_or(&text);
    if error.classify() != Category::Data {
        return Problem::malformed(format!("the body is not JSON: {reason}{position}"));
    }
    // The path ends at the object that lacks a field; the field itself is what the client looks for.
    let missing = reason
        .strip_prefix("missing field `")
        .and_then(|rest| rest.strip_suffix('`'));
    let (field, detail) = match (path, missing) {
        (".", Some(field)) => (field.to_owned(), "is required".to_owned()),
        (path, Some(field)) => (format!("{path}.{field}"), "is required".to_owned()),
        // The body as a whole, such as an array instead of an object.
        (".", None) => (String::new(), reason.to_owned()),
        (path, None) => (path.to_owned(), reason.to_owned()),
    };
    Problem::invalid([FieldError::new(field, detail)])
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::extract::DefaultBodyLimit;
    use axum::routing::post;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::server::tests::{body_json, call};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Parcel {
        #[expect(dead_code, reason = "only its shape matters here")]
        lines: Vec<Line>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        #[expect(dead_code, reason = "only its shape matters here")]
        quantity: u32,
    }

    fn refusal(body: &str) -> Value {
        serde_json::to_value(parse::<Parcel>(body.as_bytes()).expect_err(body)).unwrap()
    }

    #[test]
    fn the_field_at_fault_is_named_by_its_path() {
        for (body, field, detail) in [
            (
                r#"{"lines":[{"quantity":1},{"quantity":"x"}]}"#,
                "lines[1].quantity",
                "invalid type",
            ),
            (r#"{"lines":[{"quantity":-1}]}"#, "lines[0].quantity", "invalid value"),
            (r#"{"lines":[{}]}"#, "lines[0].quantity", "is required"),
            (r#"{}"#, "lines", "is required"),
            (
                r#"{"lines":[{"quantity":1,"weight":2}]}"#,
                "lines[0].weight",
                "unknown field",
            ),
            (r#"7"#, "", "invalid type"),
        ] {
            let problem = refusal(body);
            assert_eq!(problem["status"], 422, "{body}");
            let error = &problem["errors"][0];
            assert!(error["detail"].as_str().unwrap().starts_with(detail), "{body}: {error}");
            assert!(!error["detail"].as_str().unwrap().contains("at line"), "{error}");
            assert_eq!(error["field"], field, "{body}");
        }
    }

    #[test]
    fn text_that_is_no_json_is_refused_with_its_place() {
        for body in ["{\"lines\":\n  [}", "", "{\"lines\":[]} trailing"] {
            let problem = refusal(body);
            assert_eq!(problem["status"], 400, "{body}");
            assert!(problem["detail"].as_str().unwrap().contains("line "), "{problem}");
        }
    }

    #[tokio::test]
    async fn content_type_and_size_are_checked_before_the_body_is_read() {
        let echo = |Json(value): Json<Value>| async move { Json(value) };
        let app = Router::new().route("/", post(echo)).layer(DefaultBodyLimit::max(32));
        let send = |content_type: &str, body: String| {
            let request = Request::post("/").header("content-type", content_type);
            call(&app, request.body(Body::from(body)).unwrap())
        };
        let response = send("application/json; charset=utf-8", "{\"a\":1}".to_owned()).await;
        assert_eq!(body_json(response).await, json!({ "a": 1 }));
        assert_eq!(
            send("text/plain", "{}".to_owned()).await.status(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        let large = send("application/json", format!("\"{}\"", "x".repeat(64))).await;
        assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(body_json(large).await["type"], "/problems/body-too-large");
    }
}
