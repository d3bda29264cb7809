//! Asks two registries the same questions and prints each difference:
//! `cargo run -p registry --example compare -- http://127.0.0.1:8081 http://127.0.0.1:8082/apis/ccompat/v7`.
//!
//! Both should be empty. What is compared is the status, the error code and the body without ids and messages, whose
//! values and words are each registry's own.

use anyhow::{Context, Result};
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// One in so many cases of the Java Avro corpus is asked.
const SAMPLE: usize = 12;

/// A step of a scenario: method, path and body. `{s}` stands for the scenario's own subject.
type Step = (&'static str, &'static str, Value);

#[tokio::main]
#[expect(clippy::print_stdout, reason = "its output is its purpose")]
async fn main() -> Result<()> {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    let [ours, theirs] = urls.as_slice() else {
        anyhow::bail!("the URLs of two registries are needed");
    };
    let client = Client::builder().no_proxy().build()?;
    let mut count = 0;
    let mut differences = 0;
    for (name, steps) in scenarios().into_iter().chain(schemas()?).chain(changes()?) {
        let subject = format!("compare-{}-{count}", std::process::id());
        for (index, (method, path, body)) in steps.iter().enumerate() {
            count += 1;
            let path = path.replace("{s}", &subject);
            let ours = ask(&client, ours, method, &path, body).await?;
            let theirs = ask(&client, theirs, method, &path, body).await?;
            let without_subject = |answer: &str| answer.replace(&subject, "{s}");
            if without_subject(&ours) != without_subject(&theirs) {
                differences += 1;
                println!("{name}, step {}: {method} {}", index + 1, without_subject(&path));
                println!("    {}\n    {}", without_subject(&ours), without_subject(&theirs));
            }
        }
    }
    println!("{differences} of {count} answers differ");
    Ok(())
}

async fn ask(client: &Client, url: &str, method: &str, path: &str, body: &Value) -> Result<String> {
    let mut request = client.request(Method::from_bytes(method.as_bytes())?, format!("{url}{path}"));
    if !body.is_null() {
        request = request
            .header("content-type", "application/vnd.schemaregistry.v1+json")
            .body(body.to_string());
    }
    let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
    let status = response.status().as_u16();
    let mut body: Value = serde_json::from_str(&response.text().await?).unwrap_or_default();
    if status != 200 {
        return Ok(format!("{status} {}", body["error_code"]));
    }
    if let Some(members) = body.as_object_mut() {
        for own in ["id", "maxId", "messages", "schemaType", "references"] {
            members.remove(own);
        }
        if let Some(schema) = members.get("schema").and_then(Value::as_str) {
            members["schema"] = serde_json::from_str(schema).unwrap_or_default();
        }
    }
    Ok(format!("{status} {body}"))
}

fn schema(text: &str) -> Value {
    json!({ "schema": text })
}

fn corpus(file: &'static str) -> Result<Vec<Value>> {
    file.lines()
        .step_by(SAMPLE)
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// Schemas to register, good and bad.
fn schemas() -> Result<Vec<(String, Vec<Step>)>> {
    let cases = corpus(include_str!("../../avro/tests/java_avro/schemas.ndjson"))?;
    let steps = |case: &Value| vec![("POST", "/subjects/{s}/versions", json!({ "schema": case["schema"] }))];
    Ok(cases
        .iter()
        .map(|case| (format!("schema {}", case["schema"]), steps(case)))
        .collect())
}

/// Changes of schemas.
fn changes() -> Result<Vec<(String, Vec<Step>)>> {
    let cases = corpus(include_str!("../../avro/tests/java_avro/pairs.ndjson"))?;
    let steps = |case: &Value| {
        vec![
            ("POST", "/subjects/{s}/versions", json!({ "schema": case["writer"] })),
            (
                "POST",
                "/compatibility/subjects/{s}/versions/latest",
                json!({ "schema": case["reader"] }),
            ),
        ]
    };
    Ok(cases
        .iter()
        .map(|case| (format!("change {} to {}", case["writer"], case["reader"]), steps(case)))
        .collect())
}

/// Requests that a client makes, and some that none should.
fn scenarios() -> Vec<(String, Vec<Step>)> {
    const VERSIONS: &str = "/subjects/{s}/versions";
    let a = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
    let spaced = r#" {"name":"R", "type":"record", "fields":[ {"type":"int", "name":"a"} ]}"#;
    let with_doc = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","doc":"d"}]}"#;
    let b = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int"}]}"#;
    let b_default =
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int","default":0}]}"#;
    let none = Value::Null;
    let register = |text| ("POST", VERSIONS, schema(text));
    let get = |path| ("GET", path, none.clone());
    let delete = |path| ("DELETE", path, none.clone());
    let level = |word: &str| ("PUT", "/config/{s}", json!({ "compatibility": word }));
    let named = |name: &str, steps: Vec<Step>| (name.to_owned(), steps);
    vec![
        named(
            "nothing there",
            vec![
                get("/subjects/{s}/versions"),
                get("/subjects/{s}/versions/1"),
                get("/subjects/{s}/versions/latest"),
                get("/subjects/{s}/versions/0"),
                get("/subjects/{s}/versions/x"),
                get("/schemas/ids/99999"),
                get("/schemas/ids/x"),
                get("/schemas/ids/99999/subjects"),
                get("/schemas/ids/99999/versions"),
                get("/schemas/ids/99999/schema"),
                ("POST", "/subjects/{s}", schema(a)),
                delete("/subjects/{s}"),
                delete("/subjects/{s}/versions/1"),
                ("POST", "/compatibility/subjects/{s}/versions/latest", schema(a)),
                ("POST", "/compatibility/subjects/{s}/versions/1", schema(a)),
                ("POST", "/compatibility/subjects/{s}/versions", schema(a)),
                get("/config/{s}"),
                get("/config/{s}?defaultToGlobal=true"),
                delete("/config/{s}"),
                get("/mode/{s}"),
                get("/mode/{s}?defaultToGlobal=true"),
                delete("/mode/{s}"),
                get("/nope"),
            ],
        ),
        named(
            "the registry",
            vec![
                get("/"),
                get("/schemas/types"),
                get("/contexts"),
                get("/config"),
                get("/mode"),
                get("/subjects?subjectPrefix={s}"),
                get("/schemas?subjectPrefix={s}"),
            ],
        ),
        named(
            "registering",
            vec![
                register(a),
                register(spaced),
                register(with_doc),
                register(b_default),
                register(b),
                get(VERSIONS),
                get("/subjects/{s}/versions/1"),
                get("/subjects/{s}/versions/latest"),
                get("/subjects/{s}/versions/-1"),
                get("/subjects/{s}/versions/001"),
                get("/subjects/{s}/versions/9"),
                get("/subjects/{s}/versions/2147483648"),
                get("/subjects/{s}/versions/1/schema"),
                get("/subjects/{s}/versions/1/referencedby"),
                ("POST", "/subjects/{s}", schema(spaced)),
                ("POST", "/subjects/{s}", schema("\"int\"")),
                ("POST", "/subjects/{s}", schema("nonsense")),
            ],
        ),
        named(
            "bad bodies",
            vec![
                register(""),
                register("nonsense"),
                ("POST", VERSIONS, json!({})),
                ("POST", VERSIONS, json!({"schema": null})),
                ("POST", VERSIONS, json!([])),
                ("POST", VERSIONS, json!({"schema": {}})),
                ("POST", VERSIONS, json!({"schema": "\"int\"", "schemaType": "NONSENSE"})),
                ("POST", VERSIONS, json!({"schema": "\"int\"", "unknown": 1})),
                ("POST", VERSIONS, json!({"schema": "\"int\"", "id": 5, "version": 1})),
            ],
        ),
        named(
            "deleting",
            vec![
                register(a),
                register(b_default),
                delete("/subjects/{s}/versions/1?permanent=true"),
                delete("/subjects/{s}?permanent=true"),
                delete("/subjects/{s}/versions/1"),
                delete("/subjects/{s}/versions/1"),
                get(VERSIONS),
                get("/subjects/{s}/versions?deleted=true"),
                get("/subjects/{s}/versions?deletedOnly=true"),
                get("/subjects/{s}/versions/1"),
                get("/subjects/{s}/versions/1?deleted=true"),
                delete("/subjects/{s}"),
                delete("/subjects/{s}"),
                get("/subjects?subjectPrefix={s}"),
                get("/subjects?subjectPrefix={s}&deleted=true"),
                register(b_default),
                get(VERSIONS),
                delete("/subjects/{s}"),
                delete("/subjects/{s}?permanent=true"),
                delete("/subjects/{s}?permanent=true"),
                register(a),
                get(VERSIONS),
                delete("/subjects/{s}/versions/latest"),
                delete("/subjects/{s}/versions/0"),
                delete("/subjects/{s}/versions/7"),
            ],
        ),
        named(
            "levels",
            vec![
                register(a),
                level("FULL"),
                get("/config/{s}"),
                ("POST", "/compatibility/subjects/{s}/versions/latest", schema(b)),
                level("FORWARD"),
                ("POST", "/compatibility/subjects/{s}/versions/latest", schema(b)),
                level("NONE"),
                register(b),
                level("backward_transitive"),
                get("/config/{s}"),
                level("SIDEWAYS"),
                ("PUT", "/config/{s}", json!({})),
                ("POST", "/compatibility/subjects/{s}/versions", schema(a)),
                ("POST", "/compatibility/subjects/{s}/versions/x", schema(a)),
                ("POST", "/compatibility/subjects/{s}/versions/9", schema(a)),
                ("POST", "/compatibility/subjects/{s}/versions/1", schema("nonsense")),
                (
                    "POST",
                    "/compatibility/subjects/{s}/versions/1?verbose=true",
                    schema("nonsense"),
                ),
                delete("/config/{s}"),
                get("/config/{s}"),
            ],
        ),
        named(
            "modes",
            vec![
                register(a),
                ("PUT", "/mode/{s}", json!({"mode": "READONLY"})),
                get("/mode/{s}"),
                register(b_default),
                register(a),
                delete("/subjects/{s}"),
                ("PUT", "/mode/{s}", json!({"mode": "NONSENSE"})),
                ("PUT", "/mode/{s}", json!({})),
                ("PUT", "/mode/{s}", json!({"mode": "IMPORT"})),
                ("PUT", "/mode/{s}", json!({"mode": "READWRITE"})),
                register(b_default),
                delete("/mode/{s}"),
                get("/mode/{s}"),
            ],
        ),
    ]
}
