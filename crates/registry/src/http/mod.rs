//! The registry's API over HTTP: routes, media types and errors in the forms that Confluent's clients know.

mod compatibility;
mod extract;
mod media;
mod schemas;
mod settings;
mod subjects;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use deadpool_postgres::Pool;
use serde::Serialize;
use serde_json::json;

use crate::error::Error;

/// The longest request body: a schema of the longest kind, with every character escaped.
const BODY_BYTES_MAX: usize = 4 * avro::SCHEMA_BYTES_MAX;

/// The registry's API on `pool`, whose database has been [migrated](crate::migrate).
///
/// Beside Confluent's paths it answers `/healthz` while the process lives and `/readyz` while the database answers.
pub fn router(pool: Pool) -> Router {
    let api = [
        ("/", get(root).post(root)),
        ("/contexts", get(contexts)),
        ("/v1/metadata/id", get(cluster)),
        ("/v1/metadata/version", get(version)),
        ("/schemas", get(schemas::list)),
        ("/schemas/types", get(schemas::types)),
        ("/schemas/ids/{id}", get(schemas::by_id)),
        ("/schemas/ids/{id}/schema", get(schemas::text_by_id)),
        ("/schemas/ids/{id}/subjects", get(schemas::subjects)),
        ("/schemas/ids/{id}/versions", get(schemas::versions)),
        ("/subjects", get(subjects::list)),
        ("/subjects/{subject}", post(subjects::look_up).delete(subjects::delete)),
        (
            "/subjects/{subject}/versions",
            get(subjects::versions).post(subjects::register),
        ),
        (
            "/subjects/{subject}/versions/{version}",
            get(subjects::version).delete(subjects::delete_version),
        ),
        ("/subjects/{subject}/versions/{version}/schema", get(subjects::text)),
        (
            "/subjects/{subject}/versions/{version}/referencedby",
            get(subjects::referenced_by),
        ),
        (
            "/compatibility/subjects/{subject}/versions",
            post(compatibility::with_all),
        ),
        (
            "/compatibility/subjects/{subject}/versions/{version}",
            post(compatibility::with_version),
        ),
        (
            "/config",
            get(settings::config)
                .put(settings::put_config)
                .delete(settings::delete_config),
        ),
        (
            "/config/{subject}",
            get(settings::config)
                .put(settings::put_config)
                .delete(settings::delete_config),
        ),
        (
            "/mode",
            get(settings::mode)
                .put(settings::put_mode)
                .delete(settings::delete_mode),
        ),
        (
            "/mode/{subject}",
            get(settings::mode)
                .put(settings::put_mode)
                .delete(settings::delete_mode),
        ),
    ];
    api.into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            with_and_without_slash(router, path, methods)
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .route_layer(middleware::from_fn(media::negotiate))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .fallback(|| async { Error::Http(StatusCode::NOT_FOUND) })
        .method_not_allowed_fallback(|| async { Error::Http(StatusCode::METHOD_NOT_ALLOWED) })
        .layer(middleware::from_fn(media::log))
        .with_state(pool)
}

/// A slash at the end of a path makes no difference to Confluent's registry.
fn with_and_without_slash(router: Router<Pool>, path: &str, methods: MethodRouter<Pool>) -> Router<Pool> {
    let router = router.route(path, methods.clone());
    if path == "/" {
        router
    } else {
        router.route(&format!("{path}/"), methods)
    }
}

async fn root() -> Response {
    answer(&json!({}))
}

async fn contexts() -> Response {
    answer(&["."])
}

async fn cluster() -> Response {
    let clusters = json!({ "kafka-cluster": "", "schema-registry-cluster": "schema-registry" });
    answer(&json!({ "scope": { "path": [], "clusters": clusters }, "id": "" }))
}

async fn version() -> Response {
    answer(&json!({ "version": env!("CARGO_PKG_VERSION"), "commitId": "" }))
}

async fn ready(State(pool): State<Pool>) -> Response {
    let answered = async { crate::store::ping(&pool.get().await?).await };
    match answered.await {
        Ok(()) => "ready".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

/// A JSON answer; `media::negotiate` gives it the media type that the client asked for.
fn answer(body: &impl Serialize) -> Response {
    media::json(StatusCode::OK, body)
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if self.status().is_server_error() {
            tracing::error!(error = &self as &dyn std::error::Error, "a request failed");
        }
        media::json(
            self.status(),
            &json!({ "error_code": self.code(), "message": self.to_string() }),
        )
    }
}
