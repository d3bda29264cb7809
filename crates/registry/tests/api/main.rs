//! The API, over its router and a real Postgres, as Confluent's clients use it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod compatibility;
mod deleting;
mod importing;
mod protocol;
mod registering;
mod settings;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use serde_json::{Value, json};
use testkit::Database;
use tower::ServiceExt;

const V1: &str = "application/vnd.schemaregistry.v1+json";

/// A registry in a database of its own.
struct Registry {
    router: Router,
    _database: Database,
}

/// An answer, with its body as JSON where it is.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    body: Value,
}

impl Registry {
    async fn start() -> Registry {
        let database = testkit::database(async |client| {
            registry::migrate(client).await.unwrap();
        })
        .await;
        Registry {
            router: registry::router(database.pool(8)),
            _database: database,
        }
    }

    async fn send(&self, request: Request<Body>) -> (Answer, HeaderMap) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8(bytes.to_vec()).unwrap().into());
        (Answer { status, body }, headers)
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", V1);
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await.0
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(body)).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, Some(body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, None).await
    }

    /// Registers a schema that must be taken, and returns its id.
    async fn register(&self, subject: &str, schema: &str) -> i64 {
        let answer = self
            .post(&format!("/subjects/{subject}/versions"), json!({ "schema": schema }))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["id"].as_i64().unwrap()
    }

    /// Registers what may be refused.
    async fn try_register(&self, subject: &str, schema: &str) -> Answer {
        self.post(&format!("/subjects/{subject}/versions"), json!({ "schema": schema }))
            .await
    }
}

/// What a successful answer looks like.
fn ok(body: Value) -> Answer {
    Answer { status: 200, body }
}

/// The body of a refusal.
fn refusal(status: u16, code: u32, message: &str) -> Answer {
    Answer {
        status,
        body: json!({ "error_code": code, "message": message }),
    }
}

impl Answer {
    /// Status and error code, for refusals whose words are the subject of other tests.
    fn code(&self) -> (u16, i64) {
        (self.status, self.body["error_code"].as_i64().unwrap_or_default())
    }
}

/// A record with the given fields, in its canonical form.
fn record(fields: &[&str]) -> String {
    format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, fields.join(","))
}

const A: &str = r#"{"name":"a","type":"int"}"#;
const B: &str = r#"{"name":"b","type":"int"}"#;
const B_DEFAULT: &str = r#"{"name":"b","type":"int","default":0}"#;
const C_DEFAULT: &str = r#"{"name":"c","type":"string","default":""}"#;
