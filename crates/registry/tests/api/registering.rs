//! Registering schemas, finding them again, and listing what there is.

use std::collections::HashSet;

use futures_util::future::join_all;
use serde_json::json;

use crate::{A, B, B_DEFAULT, C_DEFAULT, Registry, ok, record, refusal};

#[tokio::test]
async fn one_schema_has_one_id_under_every_subject() {
    let registry = Registry::start().await;
    assert_eq!(registry.register("s1", &record(&[A])).await, 1);
    assert_eq!(registry.register("s1", &record(&[A])).await, 1);
    assert_eq!(registry.register("s2", &record(&[A])).await, 1);
    assert_eq!(registry.register("s2", &record(&[A, B_DEFAULT])).await, 2);
    assert_eq!(registry.get("/subjects").await, ok(json!(["s1", "s2"])));
    assert_eq!(registry.get("/subjects/s2/versions").await, ok(json!([1, 2])));
    assert_eq!(registry.get("/schemas/ids/1/subjects").await, ok(json!(["s1", "s2"])));
    let versions = json!([{"subject": "s1", "version": 1}, {"subject": "s2", "version": 1}]);
    assert_eq!(registry.get("/schemas/ids/1/versions").await, ok(versions));
}

#[tokio::test]
async fn a_schema_is_stored_and_found_in_its_canonical_text() {
    let registry = Registry::start().await;
    let written = r#" { "fields" : [ {"type":{"type":"int"}, "name":"a"} ], "name":"R", "type":"record" } "#;
    assert_eq!(registry.register("s", written).await, 1);
    assert_eq!(registry.register("s", &record(&[A])).await, 1);
    assert_eq!(
        registry.get("/schemas/ids/1").await,
        ok(json!({ "schema": record(&[A]) }))
    );
    let found = json!({"subject": "s", "version": 1, "id": 1, "schema": record(&[A])});
    assert_eq!(
        registry.post("/subjects/s", json!({ "schema": written })).await,
        ok(found.clone())
    );
    assert_eq!(registry.get("/subjects/s/versions/1").await, ok(found.clone()));
    assert_eq!(registry.get("/subjects/s/versions/latest").await, ok(found.clone()));
    assert_eq!(registry.get("/subjects/s/versions/-1").await, ok(found.clone()));
    assert_eq!(registry.get("/subjects/s/versions/LATEST").await, ok(found.clone()));
    assert_eq!(registry.get("/subjects/s/versions/0001").await, ok(found));
    let text: serde_json::Value = serde_json::from_str(&record(&[A])).unwrap();
    assert_eq!(registry.get("/subjects/s/versions/1/schema").await, ok(text.clone()));
    assert_eq!(registry.get("/schemas/ids/1/schema").await, ok(text));
    assert_eq!(
        registry.get("/schemas/ids/1?fetchMaxId=true").await,
        ok(json!({ "schema": record(&[A]), "maxId": 1 }))
    );
    assert_eq!(registry.get("/subjects/s/versions/1/referencedby").await, ok(json!([])));
}

#[tokio::test]
async fn a_doc_makes_another_schema() {
    let registry = Registry::start().await;
    assert_eq!(registry.register("s", &record(&[A])).await, 1);
    assert_eq!(
        registry
            .register("s", &record(&[r#"{"name":"a","type":"int","doc":"d"}"#]))
            .await,
        2
    );
    assert_eq!(registry.get("/subjects/s/versions").await, ok(json!([1, 2])));
}

#[tokio::test]
async fn normalised_schemas_are_one_whatever_the_order_of_properties() {
    let registry = Registry::start().await;
    let first = json!({"schema": r#"{"type":"bytes","scale":2,"precision":4,"logicalType":"decimal"}"#});
    let second = json!({"schema": r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#});
    assert_eq!(
        registry
            .post("/subjects/s/versions?normalize=true", first.clone())
            .await,
        ok(json!({"id": 1}))
    );
    assert_eq!(
        registry.post("/subjects/s/versions?normalize=true", second).await,
        ok(json!({"id": 1}))
    );
    assert_eq!(
        registry.post("/subjects/s?normalize=true", first.clone()).await.body["version"],
        1
    );
    assert_eq!(registry.post("/subjects/s", first.clone()).await.code(), (404, 40403));
    registry.put("/config/s", json!({"normalize": true})).await;
    assert_eq!(registry.post("/subjects/s", first).await.body["version"], 1);
}

#[tokio::test]
async fn a_hundred_registrations_at_once_give_one_id_and_versions_without_a_gap() {
    let registry = Registry::start().await;
    registry.put("/config", json!({"compatibility": "NONE"})).await;
    let same = record(&[A]);
    let ids: HashSet<i64> = join_all((0..50).map(|_| registry.register("same", &same)))
        .await
        .into_iter()
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(registry.get("/subjects/same/versions").await, ok(json!([1])));
    let schemas: Vec<String> = (0..50)
        .map(|i| record(&[&format!(r#"{{"name":"f{i}","type":"int"}}"#)]))
        .collect();
    let ids: HashSet<i64> = join_all(schemas.iter().map(|schema| registry.register("other", schema)))
        .await
        .into_iter()
        .collect();
    assert_eq!(ids, (2..=51).collect());
    assert_eq!(
        registry.get("/subjects/other/versions").await,
        ok(json!((1..=50).collect::<Vec<_>>()))
    );
}

#[tokio::test]
async fn what_is_no_schema_is_refused() {
    let registry = Registry::start().await;
    for schema in [
        "",
        " ",
        "nonsense",
        "{",
        r#"{"type":"record","name":"R"}"#,
        r#""unknown""#,
        r#"["int","int"]"#,
    ] {
        assert_eq!(
            registry.try_register("s", schema).await.code(),
            (422, 42201),
            "{schema}"
        );
    }
    let wrong_default = record(&[r#"{"name":"a","type":"int","default":"x"}"#]);
    assert_eq!(registry.try_register("s", &wrong_default).await.code(), (422, 42201));
    for body in [
        json!({}),
        json!({"schema": null}),
        json!({"schema": "\"int\"", "schemaType": "PROTOBUF"}),
        json!({"schema": "\"int\"", "schemaType": "avro"}),
    ] {
        assert_eq!(registry.post("/subjects/s/versions", body).await.code(), (422, 42201));
    }
    let references = json!({"schema": "\"int\"", "references": [{"name": "n", "subject": "s", "version": 1}]});
    assert_eq!(
        registry.post("/subjects/s/versions", references).await.code(),
        (422, 42201)
    );
    let plain = json!({"schema": "\"int\"", "schemaType": "AVRO", "references": [], "metadata": null, "other": 1});
    assert_eq!(registry.post("/subjects/s/versions", plain).await, ok(json!({"id": 1})));
    assert_eq!(registry.get("/subjects").await, ok(json!(["s"])));
}

#[tokio::test]
async fn a_version_may_be_insisted_on_if_it_is_the_next() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    let at = |version: i32| json!({"schema": record(&[A, B_DEFAULT]), "version": version});
    let refused = refusal(422, 42201, "Version is not one more than previous version");
    assert_eq!(registry.post("/subjects/s/versions", at(3)).await, refused);
    assert_eq!(registry.post("/subjects/s/versions", at(2)).await, ok(json!({"id": 2})));
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    assert_eq!(
        registry.get("/subjects/x/versions").await,
        refusal(404, 40401, "Subject 'x' not found.")
    );
    assert_eq!(
        registry.get("/subjects/x/versions/1").await,
        refusal(404, 40401, "Subject 'x' not found.")
    );
    assert_eq!(
        registry.get("/subjects/x/versions/latest").await,
        refusal(404, 40401, "Subject 'x' not found.")
    );
    assert_eq!(
        registry.get("/subjects/s/versions/2").await,
        refusal(404, 40402, "Version 2 not found.")
    );
    assert_eq!(
        registry.get("/subjects/s/versions/2/schema").await,
        refusal(404, 40402, "Version 2 not found.")
    );
    assert_eq!(
        registry.get("/subjects/s/versions/2/referencedby").await,
        refusal(404, 40402, "Version 2 not found.")
    );
    assert_eq!(
        registry.get("/schemas/ids/7").await,
        refusal(404, 40403, "Schema 7 not found")
    );
    assert_eq!(
        registry.get("/schemas/ids/7/schema").await,
        refusal(404, 40403, "Schema 7 not found")
    );
    assert_eq!(
        registry.get("/schemas/ids/7/subjects").await,
        refusal(404, 40403, "Schema not found")
    );
    assert_eq!(
        registry.get("/schemas/ids/7/versions").await,
        refusal(404, 40403, "Schema not found")
    );
    let other = json!({ "schema": record(&[B]) });
    assert_eq!(
        registry.post("/subjects/s", other.clone()).await,
        refusal(404, 40403, "Schema not found")
    );
    assert_eq!(
        registry.post("/subjects/x", other).await,
        refusal(404, 40401, "Subject 'x' not found.")
    );
    assert_eq!(
        registry.post("/subjects/x", json!({"schema": "nonsense"})).await.code(),
        (422, 42201)
    );
    for version in ["0", "-2", "2147483648", "1.0", "first", "%20"] {
        assert_eq!(
            registry.get(&format!("/subjects/s/versions/{version}")).await.code(),
            (422, 42202),
            "{version}"
        );
    }
    let words = "The specified version 'first' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"";
    assert_eq!(
        registry.get("/subjects/s/versions/first").await,
        refusal(422, 42202, words)
    );
}

#[tokio::test]
async fn listings_have_prefixes_pages_and_deleted_ones() {
    let registry = Registry::start().await;
    for subject in ["a1", "a2", "b1"] {
        registry.register(subject, &record(&[A])).await;
        registry.register(subject, &record(&[A, C_DEFAULT])).await;
    }
    registry.delete("/subjects/a2").await;
    registry.delete("/subjects/b1/versions/1").await;
    assert_eq!(registry.get("/subjects?subjectPrefix=a").await, ok(json!(["a1"])));
    assert_eq!(
        registry.get("/subjects?subjectPrefix=:*:a&deleted=true").await,
        ok(json!(["a1", "a2"]))
    );
    assert_eq!(registry.get("/subjects?deletedOnly=true").await, ok(json!(["a2"])));
    assert_eq!(
        registry.get("/subjects?deleted=true&offset=1&limit=1").await,
        ok(json!(["a2"]))
    );
    assert_eq!(registry.get("/subjects?limit=0").await, ok(json!(["a1", "b1"])));
    assert_eq!(registry.get("/subjects/b1/versions").await, ok(json!([2])));
    assert_eq!(
        registry.get("/subjects/b1/versions?deleted=true").await,
        ok(json!([1, 2]))
    );
    assert_eq!(
        registry.get("/subjects/b1/versions?deletedOnly=true").await,
        ok(json!([1]))
    );
    assert_eq!(registry.get("/subjects/a2/versions").await.code(), (404, 40401));
    assert_eq!(
        registry.get("/subjects/a2/versions?deleted=true").await,
        ok(json!([1, 2]))
    );
    let listed = async |query: &str| {
        let answer = registry.get(&format!("/schemas{query}")).await;
        let all = answer.body.as_array().unwrap().clone();
        all.iter()
            .map(|one| format!("{}:{}", one["subject"].as_str().unwrap(), one["version"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ["a1:1", "a1:2", "b1:2"]);
    assert_eq!(listed("?latestOnly=true").await, ["a1:2", "b1:2"]);
    assert_eq!(
        listed("?deleted=true&subjectPrefix=a").await,
        ["a1:1", "a1:2", "a2:1", "a2:2"]
    );
    assert_eq!(listed("?offset=1&limit=1").await, ["a1:2"]);
    assert_eq!(listed("?subjectPrefix=zzz").await, Vec::<String>::new());
}
