//! The way of spans out of the process: OTLP over HTTP, as protobuf.
//!
//! The SDK exports from a plain thread, where an async HTTP client finds no runtime; and at the end of the process the
//! program's own runtime may be gone while the last spans still leave. So the client brings a small runtime of its own.

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{Request, Response};
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use tokio::runtime::{Builder, Runtime};

/// How long one export may take; the SDK retries nothing, so a slow collector costs spans, never the service.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether one of the standard's variables names a collector.
pub(super) fn endpoint_is_set() -> bool {
    ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|value| !value.is_empty()))
}

/// An exporter to the collector that the standard's variables name.
pub(super) fn exporter() -> Result<SpanExporter, Box<dyn Error + Send + Sync>> {
    let client = Client {
        http: reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build()?,
        runtime: Some(
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("otlp")
                .enable_all()
                .build()?,
        ),
    };
    Ok(SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_http_client(client)
        .build()?)
}

#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    /// Always there until dropped.
    runtime: Option<Runtime>,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let runtime = self.runtime.as_ref().ok_or("the exporter has been shut down")?;
        let sent = runtime.spawn(async move {
            let mut received = http.execute(request.try_into()?).await?.error_for_status()?;
            let headers = std::mem::take(received.headers_mut());
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = received.status();
            *response.headers_mut() = headers;
            *response.body_mut() = received.bytes().await?;
            Ok::<_, HttpError>(response)
        });
        sent.await?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // An ordinary drop waits, which panics inside another runtime.
            runtime.shutdown_background();
        }
    }
}
