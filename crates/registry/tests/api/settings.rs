//! `/config` and `/mode`.

use serde_json::json;

use crate::{A, B, Registry, ok, record, refusal};

#[tokio::test]
async fn a_subject_has_its_own_level_or_the_global_one() {
    let registry = Registry::start().await;
    assert_eq!(
        registry.get("/config").await,
        ok(json!({"compatibilityLevel": "BACKWARD"}))
    );
    let words = "Subject 's' does not have subject-level compatibility configured";
    assert_eq!(registry.get("/config/s").await, refusal(404, 40408, words));
    assert_eq!(
        registry.get("/config/s?defaultToGlobal=true").await,
        ok(json!({"compatibilityLevel": "BACKWARD"}))
    );
    assert_eq!(
        registry.put("/config", json!({"compatibility": "FULL"})).await,
        ok(json!({"compatibility": "FULL"}))
    );
    assert_eq!(
        registry.get("/config/s?defaultToGlobal=true").await,
        ok(json!({"compatibilityLevel": "FULL"}))
    );
    assert_eq!(
        registry.put("/config/s", json!({"compatibility": "none"})).await,
        ok(json!({"compatibility": "none"}))
    );
    assert_eq!(
        registry.get("/config/s").await,
        ok(json!({"compatibilityLevel": "NONE"}))
    );
    assert_eq!(registry.get("/config").await, ok(json!({"compatibilityLevel": "FULL"})));
    assert_eq!(
        registry.delete("/config/s").await,
        ok(json!({"compatibilityLevel": "NONE"}))
    );
    assert_eq!(
        registry.delete("/config/s").await,
        refusal(404, 40401, "Subject 's' not found.")
    );
    assert_eq!(registry.get("/config/s").await.code(), (404, 40408));
    assert_eq!(
        registry.delete("/config").await,
        ok(json!({"compatibilityLevel": "FULL"}))
    );
    assert_eq!(
        registry.get("/config").await,
        ok(json!({"compatibilityLevel": "BACKWARD"}))
    );
}

#[tokio::test]
async fn every_level_is_taken_and_no_other_word() {
    let registry = Registry::start().await;
    for level in registry::Level::ALL {
        let body = json!({"compatibility": level.word()});
        assert_eq!(registry.put("/config", body.clone()).await, ok(body.clone()));
        assert_eq!(registry.put("/config/s", body.clone()).await, ok(body));
        assert_eq!(
            registry.get("/config/s").await,
            ok(json!({"compatibilityLevel": level.word()}))
        );
    }
    let words = "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive";
    for body in [json!({"compatibility": "SIDEWAYS"}), json!({"compatibility": ""})] {
        assert_eq!(registry.put("/config", body.clone()).await, refusal(422, 42203, words));
        assert_eq!(registry.put("/config/s", body).await, refusal(422, 42203, words));
    }
}

#[tokio::test]
async fn a_read_only_registry_answers_and_changes_nothing() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    assert_eq!(registry.get("/mode").await, ok(json!({"mode": "READWRITE"})));
    assert_eq!(
        registry.put("/mode", json!({"mode": "READONLY"})).await,
        ok(json!({"mode": "READONLY"}))
    );
    let refused = refusal(422, 42205, "Subject s is in read-only mode");
    assert_eq!(registry.try_register("s", &record(&[B])).await, refused);
    assert_eq!(registry.delete("/subjects/s").await, refused);
    assert_eq!(registry.delete("/subjects/s/versions/1").await, refused);
    assert_eq!(
        registry.put("/config/s", json!({"compatibility": "NONE"})).await,
        refused
    );
    // What is registered already is found.
    assert_eq!(registry.register("s", &record(&[A])).await, 1);
    assert_eq!(registry.get("/subjects/s/versions/1").await.status, 200);
    // A subject's own mode comes first, unless it is overridden.
    registry.put("/mode/s", json!({"mode": "READWRITE"})).await;
    assert_eq!(
        registry.put("/config/s", json!({"compatibility": "NONE"})).await.status,
        200
    );
    registry.put("/mode", json!({"mode": "READONLY_OVERRIDE"})).await;
    assert_eq!(registry.try_register("s", &record(&[B])).await, refused);
    assert_eq!(registry.get("/mode/s").await, ok(json!({"mode": "READONLY_OVERRIDE"})));
    assert_eq!(registry.delete("/mode").await, ok(json!({"mode": "READONLY_OVERRIDE"})));
    assert_eq!(registry.register("s", &record(&[B])).await, 2);
}

#[tokio::test]
async fn a_subject_has_its_own_mode_or_the_global_one() {
    let registry = Registry::start().await;
    let words = "Subject 's' does not have subject-level mode configured";
    assert_eq!(registry.get("/mode/s").await, refusal(404, 40409, words));
    assert_eq!(
        registry.get("/mode/s?defaultToGlobal=true").await,
        ok(json!({"mode": "READWRITE"}))
    );
    assert_eq!(
        registry.put("/mode/s", json!({"mode": "READONLY"})).await,
        ok(json!({"mode": "READONLY"}))
    );
    assert_eq!(registry.get("/mode/s").await, ok(json!({"mode": "READONLY"})));
    assert_eq!(registry.get("/mode").await, ok(json!({"mode": "READWRITE"})));
    assert_eq!(registry.delete("/mode/s").await, ok(json!({"mode": "READONLY"})));
    assert_eq!(
        registry.delete("/mode/s").await,
        refusal(404, 40401, "Subject 's' not found.")
    );
    let words = "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, and IMPORT.";
    for body in [json!({"mode": "SLEEPING"}), json!({}), json!({"mode": null})] {
        assert_eq!(registry.put("/mode", body.clone()).await, refusal(422, 42204, words));
        assert_eq!(registry.put("/mode/s", body).await, refusal(422, 42204, words));
    }
}
