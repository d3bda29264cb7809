//! Deleting softly, deleting for good, and what comes after.

use serde_json::json;

use crate::{A, B, B_DEFAULT, C_DEFAULT, Registry, ok, record, refusal};

#[tokio::test]
async fn a_deleted_subject_goes_on_counting_and_keeps_its_ids() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    registry.register("s", &record(&[A, B_DEFAULT])).await;
    assert_eq!(registry.delete("/subjects/s").await, ok(json!([1, 2])));
    let words = "Subject 's' was soft deleted.Set permanent=true to delete permanently";
    assert_eq!(registry.delete("/subjects/s").await, refusal(404, 40404, words));
    assert_eq!(registry.get("/subjects").await, ok(json!([])));
    assert_eq!(registry.get("/subjects/s/versions/1").await.code(), (404, 40401));
    assert_eq!(registry.get("/subjects/s/versions/1?deleted=true").await.body["id"], 1);
    assert_eq!(
        registry.get("/subjects/s/versions/latest?deleted=true").await.code(),
        (404, 40402)
    );
    assert_eq!(registry.get("/schemas/ids/1").await.status, 200);
    assert_eq!(registry.get("/schemas/ids/1/subjects").await, ok(json!([])));
    assert_eq!(
        registry.get("/schemas/ids/1/subjects?deleted=true").await,
        ok(json!(["s"]))
    );
    let lookup = json!({ "schema": record(&[A]) });
    assert_eq!(registry.post("/subjects/s", lookup.clone()).await.code(), (404, 40401));
    assert_eq!(
        registry.post("/subjects/s?deleted=true", lookup).await.body["version"],
        1
    );

    // Nothing live is left to be compatible with, and the same schema takes the place of its deleted version.
    assert_eq!(registry.register("s", &record(&[B])).await, 3);
    assert_eq!(registry.get("/subjects/s/versions").await, ok(json!([3])));
    registry.put("/config/s", json!({"compatibility": "NONE"})).await;
    assert_eq!(registry.register("s", &record(&[A])).await, 1);
    assert_eq!(
        registry.get("/subjects/s/versions?deleted=true").await,
        ok(json!([2, 3, 4]))
    );
}

#[tokio::test]
async fn what_is_live_is_not_deleted_for_good() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    registry.register("s", &record(&[A, B_DEFAULT])).await;
    let words = "Subject 's' was not deleted first before being permanently deleted";
    assert_eq!(
        registry.delete("/subjects/s?permanent=true").await,
        refusal(404, 40405, words)
    );
    let words = "Subject 's' Version 1 was not deleted first before being permanently deleted";
    assert_eq!(
        registry.delete("/subjects/s/versions/1?permanent=true").await,
        refusal(404, 40407, words)
    );
    assert_eq!(
        registry
            .delete("/subjects/s/versions/latest?permanent=true")
            .await
            .code(),
        (404, 40407)
    );
    registry.delete("/subjects/s/versions/1").await;
    assert_eq!(registry.delete("/subjects/s?permanent=true").await.code(), (404, 40405));
}

#[tokio::test]
async fn a_subject_that_is_deleted_for_good_begins_anew_but_no_id_comes_back() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    registry.delete("/subjects/s").await;
    assert_eq!(registry.delete("/subjects/s?permanent=true").await, ok(json!([1])));
    assert_eq!(
        registry.delete("/subjects/s?permanent=true").await,
        refusal(404, 40401, "Subject 's' not found.")
    );
    assert_eq!(registry.get("/subjects?deleted=true").await, ok(json!([])));
    assert_eq!(
        registry.get("/schemas/ids/1").await,
        refusal(404, 40403, "Schema 1 not found")
    );
    assert_eq!(registry.register("s", &record(&[A])).await, 2);
    assert_eq!(registry.get("/subjects/s/versions").await, ok(json!([1])));
}

#[tokio::test]
async fn versions_are_deleted_one_by_one() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    registry.register("s", &record(&[A, B_DEFAULT])).await;
    registry.register("s", &record(&[A, B_DEFAULT, C_DEFAULT])).await;
    assert_eq!(registry.delete("/subjects/s/versions/latest").await, ok(json!(3)));
    assert_eq!(registry.delete("/subjects/s/versions/1").await, ok(json!(1)));
    let words = "Subject 's' Version 1 was soft deleted.Set permanent=true to delete permanently";
    assert_eq!(
        registry.delete("/subjects/s/versions/1").await,
        refusal(404, 40406, words)
    );
    assert_eq!(
        registry.get("/subjects/s/versions/1").await,
        refusal(404, 40402, "Version 1 not found.")
    );
    assert_eq!(
        registry.delete("/subjects/s/versions/9").await,
        refusal(404, 40402, "Version 9 not found.")
    );
    assert_eq!(
        registry.delete("/subjects/x/versions/1").await,
        refusal(404, 40401, "Subject 'x' not found.")
    );
    assert_eq!(
        registry.delete("/subjects/x").await,
        refusal(404, 40401, "Subject 'x' not found.")
    );
    assert_eq!(registry.delete("/subjects/s/versions/0").await.code(), (422, 42202));
    assert_eq!(
        registry.delete("/subjects/s/versions/1?permanent=true").await,
        ok(json!(1))
    );
    assert_eq!(
        registry.get("/subjects/s/versions?deleted=true").await,
        ok(json!([2, 3]))
    );
    assert_eq!(
        registry.delete("/subjects/s/versions/1?permanent=true").await.code(),
        (404, 40402)
    );
    // The highest number that is left, deleted or not, is counted on from.
    assert_eq!(
        registry.delete("/subjects/s/versions/3?permanent=true").await,
        ok(json!(3))
    );
    registry.register("s", &record(&[A, C_DEFAULT])).await;
    assert_eq!(registry.get("/subjects/s/versions").await, ok(json!([2, 3])));
}

#[tokio::test]
async fn the_settings_of_a_subject_go_with_its_last_version() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    registry.put("/config/s", json!({"compatibility": "FULL"})).await;
    registry.put("/mode/s", json!({"mode": "READWRITE"})).await;
    registry.delete("/subjects/s/versions/1").await;
    assert_eq!(registry.get("/config/s").await.code(), (404, 40408));
    assert_eq!(registry.get("/mode/s").await.code(), (404, 40409));
}
