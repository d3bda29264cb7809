//! A bound on requests in flight. One more is refused at once: a queue would only turn overload into time-outs.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::problem::Problem;
use crate::telemetry::names;

/// When a refused client should come back, in seconds.
const RETRY_AFTER_SECS: u64 = 1;

/// Room for so many requests; clones share it.
#[derive(Clone, Debug)]
pub struct LoadLimit {
    room: Arc<Semaphore>,
}

impl LoadLimit {
    /// Room for `in_flight_max` requests at once.
    pub fn new(in_flight_max: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS))),
        }
    }
}

/// The middleware: answers 503 and `Retry-After` when there is no room.
pub(super) async fn shed(State(limit): State<LoadLimit>, request: Request, next: Next) -> Response {
    match limit.room.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => {
            metrics::counter!(names::HTTP_SERVER_SHED_TOTAL).increment(1);
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "There are too many requests at once",
            )
            .detail("nothing was done; send the same request again")
            .retry_after_secs(RETRY_AFTER_SECS)
            .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::header;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tokio::sync::Notify;

    use super::*;
    use crate::http::server::tests::call;

    #[tokio::test]
    async fn one_request_too_many_is_refused_at_once_and_the_next_has_room_again() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
            move || async move {
                entered.notify_one();
                release.notified().await;
            }
        };
        let app = Router::new()
            .route("/", get(handler))
            .layer(from_fn_with_state(LoadLimit::new(1), shed));
        let request = || Request::get("/").body(Body::empty()).unwrap();
        let first = tokio::spawn({
            let app = app.clone();
            async move { call(&app, request()).await.status() }
        });
        entered.notified().await;
        let refused = call(&app, request()).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
        release.notify_one();
        assert_eq!(first.await.unwrap(), StatusCode::OK);
        release.notify_one();
        assert_eq!(call(&app, request()).await.status(), StatusCode::OK);
    }
}
