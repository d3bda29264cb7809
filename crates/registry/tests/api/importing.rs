//! Import mode: schemas come with their ids and versions.

use serde_json::{Value, json};

use crate::{A, B, Registry, ok, record, refusal};

fn import(schema: &str, id: i32, version: i32) -> Value {
    json!({"schema": schema, "id": id, "version": version})
}

#[tokio::test]
async fn an_import_brings_its_ids_and_versions_and_counting_goes_on_above_them() {
    let registry = Registry::start().await;
    let at = "/subjects/s/versions";
    assert_eq!(
        registry.post(at, import(&record(&[A]), 7, 3)).await,
        refusal(422, 42205, "Subject s is not in import mode")
    );
    assert_eq!(
        registry.put("/mode/s", json!({"mode": "IMPORT"})).await,
        ok(json!({"mode": "IMPORT"}))
    );
    assert_eq!(
        registry.post(at, import(&record(&[A]), 7, 3)).await,
        ok(json!({"id": 7}))
    );
    // Neither compatibility nor the order of versions is checked.
    assert_eq!(
        registry.post(at, import(&record(&[B]), 5, 1)).await,
        ok(json!({"id": 5}))
    );
    assert_eq!(registry.get(at).await, ok(json!([1, 3])));
    let refused = refusal(422, 42205, "Overwrite new schema with id 7 is not permitted.");
    assert_eq!(registry.post(at, import("\"int\"", 7, 4)).await, refused);
    let refused = refusal(422, 42205, "Subject s is not in read-write mode");
    assert_eq!(registry.try_register("s", "\"int\"").await, refused);
    // Clients that register at start find what is there.
    assert_eq!(registry.register("s", &record(&[A])).await, 7);
    registry.put("/mode/s", json!({"mode": "READWRITE"})).await;
    assert_eq!(registry.register("t", "\"int\"").await, 8);
}

#[tokio::test]
async fn an_import_may_give_one_text_several_ids() {
    let registry = Registry::start().await;
    registry.put("/mode", json!({"mode": "IMPORT"})).await;
    assert_eq!(
        registry.post("/subjects/s/versions", import(&record(&[A]), 1, 1)).await,
        ok(json!({"id": 1}))
    );
    assert_eq!(
        registry.post("/subjects/t/versions", import(&record(&[A]), 2, 1)).await,
        ok(json!({"id": 2}))
    );
    assert_eq!(registry.get("/schemas/ids/1/subjects").await, ok(json!(["s"])));
    assert_eq!(registry.get("/schemas/ids/2/subjects").await, ok(json!(["t"])));
    assert_eq!(
        registry
            .post("/subjects/s", json!({ "schema": record(&[A]) }))
            .await
            .body["id"],
        1
    );
    assert_eq!(
        registry
            .post("/subjects/t", json!({ "schema": record(&[A]) }))
            .await
            .body["id"],
        2
    );
}

#[tokio::test]
async fn importing_begins_from_nothing_unless_forced() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    let refused = refusal(422, 42205, "Cannot import since found existing subjects");
    assert_eq!(registry.put("/mode", json!({"mode": "IMPORT"})).await, refused);
    assert_eq!(registry.put("/mode/s", json!({"mode": "IMPORT"})).await, refused);
    assert_eq!(registry.put("/mode/other", json!({"mode": "IMPORT"})).await.status, 200);
    assert_eq!(
        registry
            .put("/mode/s?force=true", json!({"mode": "IMPORT"}))
            .await
            .status,
        200
    );
    registry.delete("/mode/s").await;
    registry.delete("/subjects/s").await;
    assert_eq!(registry.put("/mode", json!({"mode": "IMPORT"})).await.status, 200);
    assert_eq!(registry.get("/subjects?deleted=true").await, ok(json!([])));
    assert_eq!(
        registry.post("/subjects/s/versions", import(&record(&[A]), 9, 1)).await,
        ok(json!({"id": 9}))
    );
}
