//! `/healthz`: the process lives. `/readyz`: it can do its work, with each check by name.
//!
//! Liveness asks nobody: a database that is away is no reason to restart the service. Readiness asks everyone it was told
//! to, all at once and each within a bound.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, extract::State};
use futures_util::future::join_all;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::json::Json;

type Checking = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Named checks of what a service needs.
#[derive(Clone, Default)]
pub struct Health {
    checks: Vec<Arc<Check>>,
    advice: Vec<Arc<Advice>>,
    stopping: Option<CancellationToken>,
}

struct Check {
    name: String,
    timeout: Duration,
    run: Box<dyn Fn() -> Checking + Send + Sync>,
}

/// What should be known of a part that is not well, and does not keep the service from its work.
struct Advice {
    name: String,
    look: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// What `/readyz` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`, `not_ready` or `stopping`.
    pub status: String,
    /// Each check by its name.
    pub checks: BTreeMap<String, CheckResult>,
}

/// How one check went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CheckResult {
    /// Whether it passed.
    pub ok: bool,
    /// Why not, or what is not well even so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
}

impl Health {
    /// No checks: always ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check. Its error is shown to whoever asks, so it must not hold a secret.
    #[must_use]
    pub fn check<F, R>(mut self, name: impl Into<String>, timeout: Duration, run: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.checks.push(Arc::new(Check {
            name: name.into(),
            timeout,
            run: Box::new(move || Box::pin(run())),
        }));
        self
    }

    /// Adds what is told beside the checks: `look` says what is not well, if anything is. It costs no readiness.
    #[must_use]
    pub fn advice(
        mut self,
        name: impl Into<String>,
        look: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.advice.push(Arc::new(Advice {
            name: name.into(),
            look: Box::new(look),
        }));
        self
    }

    /// Not ready any more once `token` is cancelled, so that balancers look elsewhere while requests drain.
    #[must_use]
    pub fn until(mut self, token: CancellationToken) -> Self {
        self.stopping = Some(token);
        self
    }

    /// Adds the other's checks: several services in one process have one readiness.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.checks.extend(other.checks);
        self.advice.extend(other.advice);
        self.stopping = self.stopping.or(other.stopping);
        self
    }

    /// Runs all checks at once.
    pub async fn readiness(&self) -> Readiness {
        let mut checks: BTreeMap<_, _> = join_all(self.checks.iter().map(|check| check.result()))
            .await
            .into_iter()
            .collect();
        checks.extend(self.advice.iter().map(|advice| {
            let result = CheckResult {
                ok: true,
                reason: (advice.look)(),
                duration_ms: 0,
            };
            (advice.name.clone(), result)
        }));
        let status = match self.stopping.as_ref() {
            Some(token) if token.is_cancelled() => "stopping",
            _ if checks.values().all(|check| check.ok) => "ready",
            _ => "not_ready",
        };
        Readiness {
            status: status.to_owned(),
            checks,
        }
    }

    /// The routes `/healthz` and `/readyz`.
    pub fn routes<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        Router::new()
            .route("/healthz", get(alive))
            .route("/readyz", get(ready))
            .with_state(self)
    }
}

impl Check {
    async fn result(&self) -> (String, CheckResult) {
        let started = Instant::now();
        let outcome = match tokio::time::timeout(self.timeout, (self.run)()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} ms", self.timeout.as_millis())),
        };
        let result = CheckResult {
            ok: outcome.is_ok(),
            reason: outcome.err(),
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        (self.name.clone(), result)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.checks.iter().map(|check| &check.name))
            .finish()
    }
}

async fn alive() -> &'static str {
    "ok"
}

async fn ready(State(health): State<Health>) -> Response {
    let readiness = health.readiness().await;
    let status = match readiness.status.as_str() {
        "ready" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(readiness)).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;

    use super::*;
    use crate::http::server::tests::{body_json, call};

    const BOUND: Duration = Duration::from_millis(20);

    async fn get(health: Health, path: &str) -> Response {
        call(&health.routes(), Request::get(path).body(Body::empty()).unwrap()).await
    }

    #[tokio::test]
    async fn readiness_names_each_check_and_why_it_failed() {
        let health = Health::new()
            .check("postgres", BOUND, || async { Ok(()) })
            .check("kafka", BOUND, || async { Err("no broker answers".to_owned()) })
            .check("registry", BOUND, std::future::pending);
        let response = get(health.clone(), "/readyz").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = body_json(response).await;
        assert_eq!(body["status"], "not_ready");
        assert_eq!(body["checks"]["postgres"]["ok"], true);
        assert_eq!(body["checks"]["kafka"]["reason"], "no broker answers");
        assert_eq!(body["checks"]["registry"]["reason"], "no answer within 20 ms");
        assert_eq!(
            get(health, "/healthz").await.status(),
            StatusCode::OK,
            "liveness asks nobody"
        );
    }

    #[tokio::test]
    async fn what_is_not_well_is_told_and_costs_no_readiness() {
        let health = Health::new().advice("consumer", || Some("paused".to_owned()));
        let response = get(health, "/readyz").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(body_json(response).await["checks"]["consumer"]["reason"], "paused");
    }

    #[tokio::test]
    async fn ready_until_the_stop_begins() {
        let token = CancellationToken::new();
        let health = Health::new()
            .check("postgres", BOUND, || async { Ok(()) })
            .until(token.clone());
        assert_eq!(get(health.clone(), "/readyz").await.status(), StatusCode::OK);
        token.cancel();
        let response = get(health, "/readyz").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body_json(response).await["status"], "stopping");
    }
}
