//! Media types: what a request may bring, what it may ask for, and the log line of each request.

use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::Error;

/// What answers may be, the preferred first.
const PRODUCED: [&str; 3] = [
    "application/vnd.schemaregistry.v1+json",
    "application/vnd.schemaregistry+json",
    "application/json",
];

/// What requests may also be, besides [`PRODUCED`].
const GENERIC: &str = "application/octet-stream";

/// A JSON answer in the preferred media type.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_string(body).expect("answers have string keys only");
    plain(status, text)
}

/// An answer whose text is JSON already.
pub(super) fn plain(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(PRODUCED[0]));
    response
}

/// Refuses a body of an unknown type and a client that takes no known one; gives the answer the type asked for.
pub(super) async fn negotiate(request: Request, next: Next) -> Response {
    let has_body = matches!(*request.method(), Method::POST | Method::PUT);
    if has_body && !is_consumed(request.headers()) {
        return Error::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE).into_response();
    }
    let Some(produced) = preferred(request.headers()) else {
        return Error::Http(StatusCode::NOT_ACCEPTABLE).into_response();
    };
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(produced));
    response
}

fn is_consumed(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let media_type = value
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    PRODUCED
        .iter()
        .chain(&[GENERIC])
        .any(|consumed| media_type.eq_ignore_ascii_case(consumed))
}

/// The type to answer in: the client's favourite, and among equals ours.
fn preferred(headers: &HeaderMap) -> Option<&'static str> {
    let ranges: Vec<(String, f32)> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(range)
        .collect();
    if ranges.is_empty() {
        return Some(PRODUCED[0]);
    }
    let mut best = None;
    for produced in PRODUCED {
        let quality = quality(&ranges, produced);
        if quality > best.map_or(0.0, |(_, best)| best) {
            best = Some((produced, quality));
        }
    }
    best.map(|(produced, _)| produced)
}

fn range(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|media| !media.is_empty())?.to_ascii_lowercase();
    let quality = parts
        .find_map(|part| part.strip_prefix("q="))
        .and_then(|q| q.parse().ok())
        .unwrap_or(1.0);
    Some((media, quality))
}

/// How much the client wants `produced`, by the most specific range that covers it.
fn quality(ranges: &[(String, f32)], produced: &str) -> f32 {
    for pattern in [produced, "application/*", "*/*", "*"] {
        if let Some((_, quality)) = ranges.iter().find(|(media, _)| media == pattern) {
            return *quality;
        }
    }
    0.0
}

/// Logs a request when it is answered.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let request_bytes = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .map(str::to_owned);
    let response = next.run(request).await;
    tracing::debug!(
        http.method = %method,
        http.path = path,
        http.status = response.status().as_u16(),
        request_bytes,
        duration_ms = started.elapsed().as_millis() as u64,
        "answered"
    );
    response
}
