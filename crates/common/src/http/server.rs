//! A router, made fit for the network, and served until told to stop.
//!
//! Everything a client could make grow is bounded: connections, requests in flight, bodies, the time for a request's
//! head, the time for the whole request, and the time that a stop waits for what is still running.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::load::{self, LoadLimit};
use super::observe::observe;
use super::problem::{self, Problem};
use crate::config::HttpConfig;

/// How long a client may take to send a request's head; so long an idle connection is kept, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait when the process has no file descriptor left for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Adds to a service's `routes` what each of them needs: refusals as problems, a bound on bodies and on requests in
/// flight, a time limit, metrics, a span. Health and metrics are added after it ([`Router::merge`]), so that they answer
/// under load too.
pub fn harden(routes: Router, config: &HttpConfig) -> Router {
    routes
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(DefaultBodyLimit::max(config.body_bytes_max))
        .layer(from_fn_with_state(config.request_timeout, time_limit))
        .layer(from_fn_with_state(LoadLimit::new(config.in_flight_max), load::shed))
        .layer(from_fn(observe))
}

/// The route `/metrics`, for Prometheus.
pub fn metrics_route<S: Clone + Send + Sync + 'static>(handle: PrometheusHandle) -> Router<S> {
    let render = || async move {
        (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            handle.render(),
        )
    };
    Router::new().route("/metrics", get(render))
}

/// Answers requests on `listener` until `stop` is cancelled; then accepts no more, lets what is running finish, and cuts
/// short what has not finished within `drain`.
///
/// # Errors
/// The listener's address cannot be told: it is no longer open.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    config: &HttpConfig,
    stop: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(http.address = %address, "listening");
    let room = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    loop {
        let room = Arc::clone(&room);
        let accepted = async {
            // Room first: a client that finds none stays in the kernel's bounded queue.
            let permit = room.acquire_owned().await.expect("nobody closes this semaphore");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = converse(stream, app.clone(), stop.clone());
                let cut = cut.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    // The connection's future is dropped when cut, and its handlers with it.
                    cut.run_until_cancelled(connection).await;
                });
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a connection could not be accepted"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            drain_ms = drain.as_secs_f64() * 1e3,
            "connections that did not finish in time are cut"
        );
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

async fn converse(stream: TcpStream, app: Router, stop: CancellationToken) {
    // Answers are small and waited for: gathering them into fuller packets would only delay them. Best effort.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            // Finishes the request that is running and closes; an idle connection closes at once.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
    }
}

async fn time_limit(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "request-timeout",
            "The request took too long",
        )
        .detail("it may have taken effect all the same; send it again with the same Idempotency-Key")
        .retry_after_secs(1)
        .into_response(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::body::Body;
    use axum::body::to_bytes;
    use axum::routing::post;
    use hyper::service::Service as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;
    use crate::telemetry;

    /// One request to `app`, without a network.
    pub(crate) async fn call(app: &Router, request: Request) -> Response {
        let service = TowerToHyperService::new(app.clone());
        service.call(request).await.expect("a router is infallible")
    }

    /// A response's body as JSON.
    pub(crate) async fn body_json(response: Response) -> serde_json::Value {
        serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap()
    }

    fn config() -> HttpConfig {
        HttpConfig {
            address: ([127, 0, 0, 1], 0).into(),
            in_flight_max: 16,
            connections_max: 16,
            body_bytes_max: 1_024,
            request_timeout: Duration::from_secs(10),
        }
    }

    fn request(method: &str, path: &str) -> Request {
        Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn what_no_route_takes_is_answered_by_a_problem() {
        let app = harden(Router::new().route("/parcels", post(|| async {})), &config());
        let missing = call(&app, request("GET", "/nowhere")).await;
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
        assert_eq!(body_json(missing).await["type"], "/problems/no-such-route");
        let wrong = call(&app, request("DELETE", "/parcels")).await;
        assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(wrong.headers()[header::ALLOW], "POST");
        assert_eq!(body_json(wrong).await["type"], "/problems/method-not-allowed");
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_ended() {
        let mut config = config();
        config.request_timeout = Duration::from_millis(10);
        let app = harden(Router::new().route("/", get(std::future::pending::<()>)), &config);
        let response = call(&app, request("GET", "/")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body_json(response).await["type"], "/problems/request-timeout");
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_answered_and_its_words_stay_here() {
        async fn handler() {
            panic!("s3cret");
        }
        let app = harden(Router::new().route("/", get(handler)), &config());
        let response = call(&app, request("GET", "/")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!body_json(response).await.to_string().contains("s3cret"));
    }

    #[tokio::test]
    async fn the_callers_trace_goes_through_the_handler_and_back() {
        let app = harden(
            Router::new().route("/", get(|| async { telemetry::current_trace().to_string() })),
            &config(),
        );
        let mut request = request("GET", "/");
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        request.headers_mut().insert("traceparent", sent.parse().unwrap());
        let response = call(&app, request).await;
        let answered = response.headers()["traceparent"].to_str().unwrap().to_owned();
        let body = to_bytes(response.into_body(), 100).await.unwrap();
        assert!(
            answered.starts_with("00-0af7651916cd43dd8448eb211c80319c-"),
            "{answered}"
        );
        assert_eq!(body, answered);
    }

    #[tokio::test]
    async fn requests_are_counted_by_route_not_by_path() {
        let handle = telemetry::metrics();
        let app =
            harden(Router::new().route("/counted/{id}", get(|| async {})), &config()).merge(metrics_route(handle));
        call(&app, request("GET", "/counted/1")).await;
        call(&app, request("GET", "/counted/2")).await;
        call(&app, request("GET", "/never/heard/of")).await;
        let page = call(&app, request("GET", "/metrics")).await;
        let text = String::from_utf8(to_bytes(page.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
        let series = r#"http_server_request_duration_seconds_count{method="GET",route="/counted/{id}",status="200"} 2"#;
        assert!(text.contains(series), "{text}");
        assert!(text.contains(r#"route="unmatched",status="404""#), "{text}");
        assert!(!text.contains("heard"), "{text}");
    }

    struct Running {
        address: std::net::SocketAddr,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn run(app: Router, config: HttpConfig, drain: Duration) -> Running {
        let listener = TcpListener::bind(config.address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move { serve(listener, app, &config, token, drain).await });
        Running { address, stop, task }
    }

    async fn exchange(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
        let mut buffer = vec![0; 4_096];
        let read = stream.read(&mut buffer).await.unwrap();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    }

    #[tokio::test]
    async fn a_stop_lets_the_running_request_finish_and_closes_idle_connections() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
            move || async move {
                entered.notify_one();
                release.notified().await;
                "finished"
            }
        };
        let app = Router::new().route("/", get(handler));
        let running = run(app, config(), Duration::from_secs(30)).await;
        let mut idle = TcpStream::connect(running.address).await.unwrap();
        let mut busy = TcpStream::connect(running.address).await.unwrap();
        let answer = tokio::spawn(async move { exchange(&mut busy).await });
        entered.notified().await;
        running.stop.cancel();
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0, "an idle connection is closed");
        release.notify_one();
        assert!(answer.await.unwrap().ends_with("finished"));
        running.task.await.unwrap().unwrap();
        assert!(
            TcpStream::connect(running.address).await.is_err(),
            "nobody listens any more"
        );
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_ever() {
        let entered = Arc::new(Notify::new());
        let handler = {
            let entered = Arc::clone(&entered);
            move || async move {
                entered.notify_one();
                std::future::pending::<()>().await;
            }
        };
        let app = Router::new().route("/", get(handler));
        let running = run(app, config(), Duration::from_millis(10)).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let answer = tokio::spawn(async move { exchange(&mut stream).await });
        entered.notified().await;
        running.stop.cancel();
        running.task.await.unwrap().unwrap();
        assert_eq!(answer.await.unwrap(), "", "the connection was cut");
    }

    #[tokio::test]
    async fn a_connection_too_many_waits_until_another_ends() {
        let mut config = config();
        config.connections_max = 1;
        let app = Router::new().route("/", get(|| async { "here" }));
        let running = run(app, config, Duration::from_secs(5)).await;
        let mut first = TcpStream::connect(running.address).await.unwrap();
        assert!(exchange(&mut first).await.ends_with("here"));
        let mut second = TcpStream::connect(running.address).await.unwrap();
        let mut waiting = tokio::spawn(async move { exchange(&mut second).await });
        let early = tokio::time::timeout(Duration::from_millis(30), &mut waiting).await;
        assert!(early.is_err(), "answered beside the first connection");
        drop(first);
        assert!(waiting.await.unwrap().ends_with("here"));
        running.stop.cancel();
        running.task.await.unwrap().unwrap();
    }
}
