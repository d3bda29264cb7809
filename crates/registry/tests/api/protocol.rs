//! What holds for every path: media types, unknown paths, bodies, names of subjects, and a database that is away.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use crate::{A, Registry, V1, ok, record, refusal};

#[tokio::test]
async fn an_answer_has_the_media_type_that_was_asked_for() {
    let registry = Registry::start().await;
    for (accept, expected) in [
        (None, V1),
        (Some("*/*"), V1),
        (Some("application/*"), V1),
        (Some("application/json"), "application/json"),
        (
            Some("application/vnd.schemaregistry+json"),
            "application/vnd.schemaregistry+json",
        ),
        (
            Some("application/vnd.schemaregistry.v1+json, application/vnd.schemaregistry+json, application/json"),
            V1,
        ),
        (
            Some("application/json;q=0.9, application/vnd.schemaregistry.v1+json;q=0.5"),
            "application/json",
        ),
        (Some("text/html, */*;q=0.8"), V1),
    ] {
        let mut request = Request::get("/subjects");
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let (answer, headers) = registry.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status, headers["content-type"].to_str().unwrap()),
            (200, expected),
            "{accept:?}"
        );
    }
    let request = Request::get("/subjects")
        .header("accept", "text/html")
        .body(Body::empty())
        .unwrap();
    assert_eq!(
        registry.send(request).await.0,
        refusal(406, 406, "HTTP 406 Not Acceptable")
    );
}

#[tokio::test]
async fn a_body_is_json_by_its_media_type_and_in_fact() {
    let registry = Registry::start().await;
    let body = json!({"schema": "\"int\""}).to_string();
    let send = async |content_type: Option<&str>, body: &str| {
        let mut request = Request::post("/subjects/s/versions");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        registry
            .send(request.body(Body::from(body.to_owned())).unwrap())
            .await
            .0
    };
    for content_type in [
        None,
        Some(V1),
        Some("application/vnd.schemaregistry+json"),
        Some("application/json; charset=utf-8"),
        Some("application/octet-stream"),
    ] {
        assert_eq!(
            send(content_type, &body).await,
            ok(json!({"id": 1})),
            "{content_type:?}"
        );
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
        assert_eq!(
            send(Some(content_type), &body).await,
            refusal(415, 415, "HTTP 415 Unsupported Media Type")
        );
    }
    for broken in [
        "{",
        "[]",
        "\"x\"",
        r#"{"schema":{}}"#,
        r#"{"schema":"\"int\"","id":"x"}"#,
    ] {
        assert_eq!(send(Some(V1), broken).await.code(), (400, 400), "{broken}");
    }
    for empty in ["", " ", "null"] {
        assert_eq!(send(Some(V1), empty).await.code(), (422, 422), "{empty:?}");
    }
    let huge = json!({ "schema": " ".repeat(5_000_000) }).to_string();
    assert_eq!(send(Some(V1), &huge).await.code(), (413, 413));
    let large = json!({ "schema": format!("\"{}\"", "a".repeat(1_000_000)) }).to_string();
    assert_eq!(send(Some(V1), &large).await.code(), (422, 42209));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_json() {
    let registry = Registry::start().await;
    for path in [
        "/nope",
        "/subjects/s/nope",
        "/schemas/ids/x",
        "/schemas/ids/99999999999",
        "/subjects?limit=x",
    ] {
        assert_eq!(
            registry.get(path).await,
            refusal(404, 404, "HTTP 404 Not Found"),
            "{path}"
        );
    }
    for (method, path) in [
        ("PUT", "/subjects"),
        ("GET", "/subjects/s"),
        ("POST", "/config"),
        ("DELETE", "/schemas/ids/1"),
    ] {
        assert_eq!(
            registry.call(method, path, None).await,
            refusal(405, 405, "HTTP 405 Method Not Allowed")
        );
    }
}

#[tokio::test]
async fn the_registry_says_what_it_is() {
    let registry = Registry::start().await;
    assert_eq!(registry.get("/").await, ok(json!({})));
    assert_eq!(registry.get("/schemas/types").await, ok(json!(["AVRO"])));
    assert_eq!(registry.get("/contexts").await, ok(json!(["."])));
    assert_eq!(
        registry.get("/v1/metadata/id").await.body["scope"]["clusters"]["schema-registry-cluster"],
        "schema-registry"
    );
    assert_eq!(
        registry.get("/v1/metadata/version").await.body["version"],
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(registry.get("/healthz").await, ok(json!("ok")));
    assert_eq!(registry.get("/readyz").await, ok(json!("ready")));
}

#[tokio::test]
async fn a_slash_at_the_end_makes_no_difference() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    for path in [
        "/subjects",
        "/subjects/s/versions",
        "/config",
        "/mode",
        "/schemas/types",
        "/schemas/ids/1",
    ] {
        assert_eq!(registry.get(&format!("{path}/")).await, registry.get(path).await);
    }
}

#[tokio::test]
async fn any_text_without_control_characters_names_a_subject() {
    let registry = Registry::start().await;
    for (path, name) in [
        ("a%2Fb", "a/b"),
        ("a%20b", "a b"),
        ("%C3%A9-value", "é-value"),
        ("a+b", "a+b"),
        ("x%25y", "x%y"),
        (":.:plain", "plain"),
    ] {
        registry.register(path, &record(&[A])).await;
        assert_eq!(
            registry.get(&format!("/subjects/{path}/versions/1")).await.body["subject"],
            name
        );
        registry
            .put(&format!("/config/{path}"), json!({"compatibility": "FULL"}))
            .await;
        assert_eq!(registry.get(&format!("/config/{path}")).await.status, 200);
    }
    let words = "The specified subject 'a\nb' is not a valid.";
    for answer in [
        registry.try_register("a%0Ab", &record(&[A])).await,
        registry.put("/config/a%0Ab", json!({"compatibility": "FULL"})).await,
        registry.put("/mode/a%0Ab", json!({"mode": "READWRITE"})).await,
    ] {
        assert_eq!(answer, refusal(422, 42208, words));
    }
    assert_eq!(
        registry.try_register("__GLOBAL", &record(&[A])).await.code(),
        (422, 42208)
    );
    assert_eq!(registry.get("/subjects/a%00b/versions").await.code(), (422, 42208));
}

#[tokio::test]
async fn a_database_that_is_away_is_a_store_error() {
    let config: tokio_postgres::Config = "postgres://nobody@127.0.0.1:1/none?connect_timeout=1".parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let router = registry::router(deadpool_postgres::Pool::builder(manager).build().unwrap());
    for (path, status) in [("/subjects", 500), ("/readyz", 503), ("/healthz", 200)] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        if status == 500 {
            let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(body["error_code"], 50001);
        }
    }
}
