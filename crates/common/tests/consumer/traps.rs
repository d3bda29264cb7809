//! A change that resolves by the letter and gives readers wrong values stops a service at its start, whatever the registry
//! has let through.

use std::sync::Arc;

use common::codec::Registry;
use common::event::{EventSet as _, EventType, SchemaVersion};
use common::service::{self, Error};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::model::{Taster, kitchen};
use crate::world::World;

/// `Served` with one field more.
fn with_field(field: &Value) -> &'static str {
    let [served, _] = kitchen::Event::TYPES else {
        panic!("the kitchen serves and clears");
    };
    let mut schema: Value = serde_json::from_str(served.newest().avsc).unwrap();
    schema["fields"].as_array_mut().unwrap().push(field.clone());
    schema.to_string().leak()
}

/// A taster whose build reads `Served` by this schema.
fn taster_of(avsc: &'static str) -> Arc<Taster> {
    let versions = Vec::leak(vec![SchemaVersion { version: 1, avsc }]);
    let served = EventType {
        name: "Served",
        fullname: "test.kitchen.Served",
        versions,
    };
    Arc::new(Taster {
        hears: Vec::leak(vec![&*Vec::leak(vec![served])]),
        ..Taster::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_does_not_start_on_data_that_it_would_misread() {
    let record = |name: &str| json!({"type": "record", "name": name, "fields": [{"name": "id", "type": "string"}]});
    let field = |of_type: Value, default: Value| json!({"name": "more", "type": of_type, "default": default});
    let instant = |unit: &str| field(json!({"type": "long", "logicalType": unit}), json!(0));
    let decimal = |scale: u32| {
        let of_type = json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": scale});
        field(of_type, json!("\u{0}"))
    };
    let cases = [
        (
            instant("timestamp-millis"),
            instant("timestamp-micros"),
            "LOGICAL_TYPE_CHANGED",
        ),
        (decimal(2), decimal(3), "LOGICAL_TYPE_CHANGED"),
        (
            field(json!([record("Card")]), json!({"id": ""})),
            field(json!([record("Card"), record("Bank")]), json!({"id": ""})),
            "UNION_OF_LIKE_RECORDS",
        ),
        (
            json!({"name": "less", "type": "long", "default": 0}),
            json!({"name": "more", "aliases": ["less"], "type": "long", "default": 0}),
            "RENAMED_BY_ALIAS",
        ),
    ];
    for (older, newest, word) in cases {
        let world = World::new().await;
        let registry = Registry::new(&world.settings.registry).unwrap();
        let subject = format!("{}-test.kitchen.Served", world.topic);
        registry.set_level(&subject, "NONE").await.unwrap();
        let (older, newest) = (with_field(&older), with_field(&newest));
        registry.register_text(&subject, older).await.unwrap();
        let start = async |avsc| {
            let shutdown = CancellationToken::new();
            let started = service::start(taster_of(avsc), world.settings.clone(), shutdown.clone()).await;
            shutdown.cancel();
            started.map(drop)
        };
        let refusal = start(newest).await.unwrap_err();
        assert!(matches!(refusal, Error::Unreadable { .. }), "{refusal}");
        let said = refusal.to_string();
        for part in [word, &subject, "version 2", "(more)"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // The build that wrote it has nothing against it.
        start(older).await.unwrap();
    }
}
