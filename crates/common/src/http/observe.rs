//! What one request leaves behind: a span, metrics, one log line, and an answer even when its handler panics.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::headers::{self, TRACEPARENT};
use super::problem::Problem;
use crate::telemetry::{self, TraceContext, names};

/// The middleware. Handlers find the request's trace by [`telemetry::current_trace`], and add `correlation.id` to its
/// span by [`telemetry::correlate`].
pub(super) async fn observe(request: Request, next: Next) -> Response {
    // The template, not the path: metrics must not have a series for each id, nor for each path that a scanner tries.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = method_label(request.method());
    let caller = headers::trace_context(request.headers());
    let span = tracing::info_span!(
        "http",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        correlation.id = Empty,
    );
    let caller_text = caller.as_ref().map(ToString::to_string);
    telemetry::continue_from(&span, caller_text.as_deref());
    let carried = caller.unwrap_or_else(TraceContext::generate);

    let active = Active::new(method);
    let started = Instant::now();
    let work = async {
        let trace = telemetry::current_trace();
        let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            // The panic hook has told where and why.
            Err(_) => Problem::internal_unexplained().into_response(),
        };
        let value = HeaderValue::from_str(&trace.to_string()).expect("hex digits are a header value");
        response.headers_mut().insert(TRACEPARENT, value);
        let status = response.status().as_u16();
        tracing::Span::current().record("http.response.status_code", status);
        tracing::debug!(duration_ms = started.elapsed().as_secs_f64() * 1e3, "answered");
        response
    };
    let response = telemetry::carrying(carried, work).instrument(span).await;
    drop(active);

    metrics::histogram!(
        names::HTTP_SERVER_REQUEST_DURATION_SECONDS,
        "method" => method,
        "route" => route,
        "status" => response.status().as_str().to_owned(),
    )
    .record(started.elapsed());
    response
}

/// Counts one request as active until it is answered, or its client goes away and the future is dropped.
struct Active(&'static str);

impl Active {
    fn new(method: &'static str) -> Self {
        metrics::gauge!(names::HTTP_SERVER_ACTIVE_REQUESTS, "method" => method).increment(1.0);
        Self(method)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        metrics::gauge!(names::HTTP_SERVER_ACTIVE_REQUESTS, "method" => self.0).decrement(1.0);
    }
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        // A client may invent methods without end.
        _ => "OTHER",
    }
}
