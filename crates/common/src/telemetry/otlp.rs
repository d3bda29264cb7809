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

/// An exporter to `collector`'s URL for traces, or to the one that the standard's variables name.
pub(super) fn exporter(collector: Option<&str>) -> Result<SpanExporter, Box<dyn Error + Send + Sync>> {
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
    let mut builder = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_http_client(client);
    if let Some(url) = collector {
        builder = builder.with_endpoint(url);
    }
    Ok(builder.build()?)
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    /// Answers one request with 200; returns what it said.
    fn collect_one(listener: &TcpListener) -> Vec<u8> {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4_096];
        loop {
            let read = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let Some((head, _)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            let head_length = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            if request.len() >= head_length + length {
                break;
            }
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        request
    }

    // On a current-thread runtime that the flush blocks: the hardest place to send the last spans from.
    #[tokio::test]
    async fn the_last_spans_reach_the_collector_when_the_process_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let collector = std::thread::spawn(move || collect_one(&listener));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter(Some(&url)).unwrap())
            .build();
        drop(provider.tracer("test").start("the-last-one"));
        provider.shutdown_with_timeout(Duration::from_secs(5)).unwrap();
        let request = String::from_utf8_lossy(&collector.join().unwrap()).into_owned();
        assert!(request.starts_with("POST /v1/traces"), "{request}");
        assert!(request.contains("application/x-protobuf"), "{request}");
        assert!(request.contains("the-last-one"), "{request}");
    }
}
