//! Writing an older version than this build's newest, while copies of older builds still read: readers first, writers
//! later.
//!
//! What the older version has no room for is not written: fields that came later are left out, a symbol that it does not
//! know becomes its enum's default. Only a type that is held back pays for this.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Which version of which event is written, where it is not the newest: `OrderPlaced` → 2.
pub type WriteVersions = BTreeMap<String, u32>;

/// `value`, which is of a newer version of the record, in the shape of `schema`.
pub(super) fn fit(value: &Value, schema: &Value) -> Value {
    match schema {
        // Nullable types only: the null branch comes first.
        Value::Array(branches) if value.is_null() => branches.first().map_or(Value::Null, |_| Value::Null),
        Value::Array(branches) => fit(value, branches.last().unwrap_or(&Value::Null)),
        Value::Object(_) => match schema["type"].as_str() {
            Some("record") => record(value, schema),
            Some("array") => {
                let items = value.as_array().into_iter().flatten();
                items.map(|item| fit(item, &schema["items"])).collect()
            }
            Some("enum") => {
                let known = schema["symbols"]
                    .as_array()
                    .is_some_and(|symbols| symbols.contains(value));
                if known {
                    value.clone()
                } else {
                    schema["default"].clone()
                }
            }
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

fn record(value: &Value, schema: &Value) -> Value {
    let fields = schema["fields"].as_array().into_iter().flatten();
    let fitted = fields.filter_map(|field| {
        let name = field["name"].as_str()?;
        let value = value.get(name).map(|value| fit(value, &field["type"]));
        Some((name.to_owned(), value.unwrap_or_else(|| field["default"].clone())))
    });
    Value::Object(fitted.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_older_version_has_no_room_for_is_left_out() {
        let line = json!({"type": "record", "name": "L", "fields": [{"name": "sku", "type": "string"}]});
        let older = json!({"type": "record", "name": "R", "fields": [
            {"name": "lines", "type": {"type": "array", "items": line}},
            {"name": "why", "type": {"type": "enum", "name": "E", "symbols": ["UNKNOWN", "A"], "default": "UNKNOWN"}},
            {"name": "note", "type": ["null", "string"], "default": null},
            {"name": "gone", "type": "string", "default": "since removed"},
        ]});
        let newer = json!({"lines": [{"sku": "x", "gift": true}], "why": "B", "note": "n", "later": 1});
        assert_eq!(
            fit(&newer, &older),
            json!({"lines": [{"sku": "x"}], "why": "UNKNOWN", "note": "n", "gone": "since removed"})
        );
        assert_eq!(
            fit(&json!({"lines": [], "why": "A", "note": null}), &older)["note"],
            Value::Null
        );
    }
}
