//! Levels and the compatibility endpoints.

use serde_json::{Value, json};

use crate::{A, B, B_DEFAULT, C_DEFAULT, Registry, ok, record, refusal};

/// Registers `history` freely, sets `level`, and says whether `new` is then compatible, as a check and as a registration.
async fn taken(registry: &Registry, subject: &str, level: &str, history: &[String], new: &str) -> bool {
    let config = format!("/config/{subject}");
    registry.put(&config, json!({"compatibility": "NONE"})).await;
    for schema in history {
        registry.register(subject, schema).await;
    }
    registry.put(&config, json!({ "compatibility": level })).await;
    let check = format!("/compatibility/subjects/{subject}/versions");
    let checked = registry.post(&check, json!({ "schema": new })).await;
    let answer = registry.try_register(subject, new).await;
    let taken = answer.status == 200;
    assert!(taken || answer.code() == (409, 409), "{answer:?}");
    assert_eq!(
        checked,
        ok(json!({ "is_compatible": taken })),
        "{level}: check and registration differ"
    );
    taken
}

#[tokio::test]
async fn each_level_holds_a_new_schema_against_its_own_part_of_the_history() {
    let (plain, with_b, with_default) = (record(&[A]), record(&[A, B]), record(&[A, B_DEFAULT]));
    let levels = [
        "NONE",
        "BACKWARD",
        "BACKWARD_TRANSITIVE",
        "FORWARD",
        "FORWARD_TRANSITIVE",
        "FULL",
        "FULL_TRANSITIVE",
    ];
    type Case<'a> = (&'a str, Vec<String>, &'a str, [bool; 7]);
    let cases: [Case<'_>; 5] = [
        (
            "a field without a default is added",
            vec![plain.clone()],
            &with_b,
            [true, false, false, true, true, false, false],
        ),
        (
            "a field with a default is added",
            vec![plain.clone()],
            &with_default,
            [true; 7],
        ),
        (
            "a field without a default is removed",
            vec![with_b.clone()],
            &plain,
            [true, true, true, false, false, false, false],
        ),
        (
            // The latest version has b with a default; the first has no b at all.
            "the default of a field that the first version lacks is removed",
            vec![plain.clone(), with_default.clone()],
            &with_b,
            [true, true, false, true, true, true, false],
        ),
        (
            // The first version can't do without b; the latest can.
            "a field that the first version needs is removed",
            vec![with_b.clone(), with_default.clone()],
            &plain,
            [true, true, true, true, false, true, false],
        ),
    ];
    let registry = Registry::start().await;
    for (index, (what, history, new, expected)) in cases.into_iter().enumerate() {
        for (level, expected) in levels.iter().zip(expected) {
            let subject = format!("{level}-{index}");
            assert_eq!(
                taken(&registry, &subject, level, &history, new).await,
                expected,
                "{level}: {what}"
            );
        }
    }
}

#[tokio::test]
async fn deleted_versions_are_not_compared_with() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    registry.register("s", &record(&[A, B_DEFAULT])).await;
    registry
        .put("/config/s", json!({"compatibility": "BACKWARD_TRANSITIVE"}))
        .await;
    assert_eq!(registry.try_register("s", &record(&[A, B])).await.code(), (409, 409));
    registry.delete("/subjects/s/versions/1").await;
    assert_eq!(registry.try_register("s", &record(&[A, B])).await.status, 200);
}

#[tokio::test]
async fn a_check_answers_for_one_version_or_for_all() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    registry.register("s", &record(&[A, B_DEFAULT])).await;
    let new = json!({ "schema": record(&[A, B]) });
    let compatible = |yes: bool| ok(json!({ "is_compatible": yes }));
    assert_eq!(
        registry.post("/compatibility/subjects/s/versions/1", new.clone()).await,
        compatible(false)
    );
    assert_eq!(
        registry.post("/compatibility/subjects/s/versions/2", new.clone()).await,
        compatible(true)
    );
    assert_eq!(
        registry
            .post("/compatibility/subjects/s/versions/latest", new.clone())
            .await,
        compatible(true)
    );
    assert_eq!(
        registry
            .post("/compatibility/subjects/s/versions/-1", new.clone())
            .await,
        compatible(true)
    );
    assert_eq!(
        registry.post("/compatibility/subjects/s/versions", new.clone()).await,
        compatible(true)
    );
    assert_eq!(registry.get("/subjects/s/versions").await, ok(json!([1, 2])));
    assert_eq!(
        registry
            .post("/compatibility/subjects/s/versions/3", new.clone())
            .await
            .code(),
        (404, 40402)
    );
    assert_eq!(
        registry
            .post("/compatibility/subjects/s/versions/x", new.clone())
            .await
            .code(),
        (422, 42202)
    );
    // There is nothing that an unknown subject's schema could be incompatible with.
    assert_eq!(
        registry.post("/compatibility/subjects/x/versions", new.clone()).await,
        compatible(true)
    );
    assert_eq!(
        registry
            .post("/compatibility/subjects/x/versions/latest", new.clone())
            .await,
        compatible(true)
    );
    assert_eq!(
        registry.post("/compatibility/subjects/x/versions/1", new).await.code(),
        (404, 40401)
    );
    let bad = json!({"schema": "nonsense"});
    assert_eq!(
        registry
            .post("/compatibility/subjects/s/versions/1", bad.clone())
            .await
            .code(),
        (422, 42201)
    );
    assert_eq!(
        registry
            .post("/compatibility/subjects/s/versions", json!({}))
            .await
            .code(),
        (422, 42201)
    );
    let verbose = registry
        .post("/compatibility/subjects/s/versions/1?verbose=true", bad)
        .await;
    assert_eq!(
        (verbose.status, &verbose.body["is_compatible"]),
        (200, &Value::Bool(false))
    );
    assert_eq!(verbose.body["messages"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_verbose_check_says_what_is_wrong_in_confluents_words() {
    let registry = Registry::start().await;
    registry.register("s", &record(&[A])).await;
    let new = json!({ "schema": record(&[r#"{"name":"a","type":"string"}"#, B]) });
    let details = [
        "{errorType:'TYPE_MISMATCH', description:'The type (path '/fields/0/type') of a field in the new schema does not match with the old schema', additionalInfo:'reader type: STRING not compatible with writer type: INT'}",
        "{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'b' at path '/fields/1' in the new schema has no default value and is missing in the old schema', additionalInfo:'b'}",
        "{oldSchemaVersion: 1}",
        r#"{oldSchema: '{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}'}"#,
        "{validateFields: 'false', compatibility: 'BACKWARD'}",
    ];
    let verbose = registry
        .post("/compatibility/subjects/s/versions/latest?verbose=true", new.clone())
        .await;
    assert_eq!(verbose, ok(json!({"is_compatible": false, "messages": details})));
    let words = format!(
        "Schema being registered is incompatible with an earlier schema for subject \"s\", details: [{}]",
        details.join(", ")
    );
    assert_eq!(
        registry.post("/subjects/s/versions", new).await,
        refusal(409, 409, &words)
    );
    let fine = json!({ "schema": record(&[A, C_DEFAULT]) });
    let verbose = registry
        .post("/compatibility/subjects/s/versions/latest?verbose=true", fine)
        .await;
    assert_eq!(verbose, ok(json!({"is_compatible": true, "messages": []})));
}
