//! JSON back into a message, for people who mend what a message says. Strict: a field that the schema lacks, or that is
//! missing and has no default, is named with its place.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use super::{HEADER_LENGTH, MAGIC, SerError, WriterSchema, read_datum, write_datum};

/// Deepest nesting that is followed.
const DEPTH_MAX: usize = super::DEPTH_MAX;

/// Why a JSON value does not fit a schema.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FitError {
    /// The schema has such a field, the value does not, and there is no default.
    #[error("{0} is missing, and the schema has no default for it")]
    Missing(String),
    /// The value has such a field, and the schema does not.
    #[error("{0} is not a field of the schema")]
    Unknown(String),
    /// Another kind of value.
    #[error("{place} is {found}, where the schema wants {wanted}")]
    Mismatch {
        /// Where.
        place: String,
        /// What is there.
        found: String,
        /// What belongs there.
        wanted: String,
    },
    /// A type that JSON cannot say, or too deep a nesting.
    #[error("{place} is of the schema's type {wanted}, which cannot be given as JSON here")]
    Unsupported {
        /// Where.
        place: String,
        /// The type.
        wanted: String,
    },
}

/// Why JSON could not be made a message.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It does not fit the schema.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The encoder refuses it.
    #[error("it cannot be encoded")]
    Encode(#[source] SerError),
    /// It would be read as something else.
    #[error("what was encoded does not read back as the same")]
    Unlike,
}

/// A message that says `value`, with schema `id`. What `value` lacks gets the schema's defaults.
///
/// # Errors
/// It does not fit, with its place.
pub fn from_json(id: u32, schema: &WriterSchema, value: &Value) -> Result<Vec<u8>, EncodeError> {
    let text: Value = serde_json::from_str(&schema.text).unwrap_or_default();
    let value = fit(&text, value)?;
    let mut message = vec![MAGIC];
    message.extend_from_slice(&id.to_be_bytes());
    let message = write_datum(&value, &schema.schema, message).map_err(EncodeError::Encode)?;
    let read = read_datum::<Value>(&message[HEADER_LENGTH..], &schema.schema);
    if read.ok().as_ref() == Some(&value) {
        Ok(message)
    } else {
        Err(EncodeError::Unlike)
    }
}

/// `value` as the schema whose text is `schema` takes it: with defaults for what is missing.
///
/// # Errors
/// See [`FitError`].
fn fit(schema: &Value, value: &Value) -> Result<Value, FitError> {
    let mut names = HashMap::new();
    collect(schema, "", &mut names);
    Fitting { names }.value(schema, value, "the value", 0)
}

struct Fitting<'a> {
    /// Named types, by full name and by simple name.
    names: HashMap<String, &'a Value>,
}

fn collect<'a>(schema: &'a Value, namespace: &str, names: &mut HashMap<String, &'a Value>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| collect(branch, namespace, names)),
        Value::Object(fields) => {
            let own = fields.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
            if let Some(name) = fields.get("name").and_then(Value::as_str)
                && matches!(kind(schema), "record" | "enum" | "fixed")
            {
                let simple = name.rsplit('.').next().unwrap_or(name);
                names.insert(format!("{own}.{simple}"), schema);
                names.insert(name.to_owned(), schema);
            }
            for inner in ["type", "items", "values"] {
                if let Some(inner @ (Value::Object(_) | Value::Array(_))) = fields.get(inner) {
                    collect(inner, own, names);
                }
            }
            for field in fields.get("fields").and_then(Value::as_array).into_iter().flatten() {
                if let Some(inner) = field.get("type") {
                    collect(inner, own, names);
                }
            }
        }
        _ => {}
    }
}

/// The type's own word: `record`, `string`, …, or the name of a type defined elsewhere.
fn kind(schema: &Value) -> &str {
    match schema {
        Value::String(name) => name,
        Value::Object(fields) => match fields.get("type") {
            Some(Value::String(name)) => name,
            _ => "",
        },
        _ => "union",
    }
}

impl<'a> Fitting<'a> {
    fn value(&self, schema: &'a Value, value: &Value, place: &str, depth: usize) -> Result<Value, FitError> {
        let kind = kind(schema);
        let unsupported = || FitError::Unsupported {
            place: place.to_owned(),
            wanted: kind.to_owned(),
        };
        if depth > DEPTH_MAX {
            return Err(unsupported());
        }
        let mismatch = |wanted: &str| FitError::Mismatch {
            place: place.to_owned(),
            found: told(value),
            wanted: wanted.to_owned(),
        };
        match (kind, value) {
            ("null", Value::Null) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => Ok(value.clone()),
            ("int", Value::Number(number)) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(value.clone())
            }
            ("long", Value::Number(number)) if number.as_i64().is_some() => Ok(value.clone()),
            ("float" | "double", Value::Number(number)) => {
                let number = number.as_f64().and_then(Number::from_f64);
                number.map(Value::Number).ok_or_else(|| mismatch(kind))
            }
            ("enum", Value::String(symbol)) => {
                let symbols = schema.get("symbols").and_then(Value::as_array);
                let symbols: Vec<&str> = symbols.into_iter().flatten().filter_map(Value::as_str).collect();
                match symbols.contains(&symbol.as_str()) {
                    true => Ok(value.clone()),
                    false => Err(mismatch(&format!("one of {}", symbols.join(", ")))),
                }
            }
            ("record", Value::Object(given)) => self.record(schema, given, place, depth),
            ("array", Value::Array(given)) => {
                let items = schema.get("items").unwrap_or(&Value::Null);
                let each = given.iter().enumerate();
                let fitted = each.map(|(n, one)| self.value(items, one, &format!("{place}[{n}]"), depth + 1));
                Ok(Value::Array(fitted.collect::<Result<_, _>>()?))
            }
            ("map", Value::Object(given)) => {
                let values = schema.get("values").unwrap_or(&Value::Null);
                let each = given.iter().map(|(key, one)| {
                    let fitted = self.value(values, one, &inside(place, key), depth + 1)?;
                    Ok((key.clone(), fitted))
                });
                Ok(Value::Object(each.collect::<Result<_, FitError>>()?))
            }
            ("union", _) => self.union(schema, value, place, depth),
            // {"type": {"type": …}}
            ("", _) => match schema.get("type") {
                Some(inner) => self.value(inner, value, place, depth + 1),
                None => Err(unsupported()),
            },
            ("bytes" | "fixed", _) => Err(unsupported()),
            (
                "null" | "boolean" | "string" | "int" | "long" | "float" | "double" | "enum" | "record" | "array"
                | "map",
                _,
            ) => Err(mismatch(kind)),
            (name, _) => match self.names.get(name) {
                Some(defined) => self.value(defined, value, place, depth + 1),
                None => Err(unsupported()),
            },
        }
    }

    fn record(
        &self,
        schema: &'a Value,
        given: &Map<String, Value>,
        place: &str,
        depth: usize,
    ) -> Result<Value, FitError> {
        let fields: Vec<(&str, &Value)> = schema
            .get("fields")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|field| Some((field.get("name")?.as_str()?, field)))
            .collect();
        if let Some(unknown) = given.keys().find(|key| !fields.iter().any(|(name, _)| name == key)) {
            return Err(FitError::Unknown(inside(place, unknown)));
        }
        let mut fitted = Map::new();
        for (name, field) in fields {
            let place = inside(place, name);
            let given = given.get(name).or_else(|| field.get("default"));
            let given = given.ok_or_else(|| FitError::Missing(place.clone()))?;
            let schema = field.get("type").unwrap_or(&Value::Null);
            fitted.insert(name.to_owned(), self.value(schema, given, &place, depth + 1)?);
        }
        Ok(Value::Object(fitted))
    }

    /// The first branch that takes the value; where only one could, its own complaint.
    fn union(&self, schema: &'a Value, value: &Value, place: &str, depth: usize) -> Result<Value, FitError> {
        let branches = schema.as_array().into_iter().flatten();
        let mut complaints = Vec::new();
        for branch in branches.filter(|branch| (kind(branch) == "null") == value.is_null()) {
            match self.value(branch, value, place, depth + 1) {
                Ok(fitted) => return Ok(fitted),
                Err(complaint) => complaints.push(complaint),
            }
        }
        match complaints.pop() {
            Some(only) if complaints.is_empty() => Err(only),
            _ => Err(FitError::Mismatch {
                place: place.to_owned(),
                found: told(value),
                wanted: schema.to_string(),
            }),
        }
    }
}

fn inside(place: &str, name: &str) -> String {
    match place {
        "the value" => name.to_owned(),
        place => format!("{place}.{name}"),
    }
}

/// A value as an error shows it.
fn told(value: &Value) -> String {
    const LENGTH_MAX: usize = 60;
    let mut text = value.to_string();
    if text.len() > LENGTH_MAX {
        text.truncate(text.floor_char_boundary(LENGTH_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "record", "name": "Parcel", "namespace": "acme.shipping", "fields": [
                { "name": "id", "type": "string" },
                { "name": "grams", "type": "long" },
                { "name": "size", "type": { "type": "enum", "name": "Size", "symbols": ["SMALL", "LARGE"] } },
                { "name": "other_size", "type": ["null", "Size"], "default": null },
                { "name": "lines", "type": { "type": "array", "items": {
                    "type": "record", "name": "Line", "fields": [{ "name": "sku", "type": "string" }] } } },
                { "name": "weights", "type": { "type": "map", "values": "double" }, "default": {} },
            ]
        })
    }

    fn parcel() -> Value {
        json!({ "id": "a", "grams": 5, "size": "SMALL", "lines": [{ "sku": "cup" }] })
    }

    #[test]
    fn what_is_missing_gets_its_default() {
        let fitted = fit(&schema(), &parcel()).unwrap();
        assert_eq!(fitted["other_size"], Value::Null);
        assert_eq!(fitted["weights"], json!({}));
        assert_eq!(fitted["lines"], json!([{ "sku": "cup" }]));
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place() {
        let complaint = |field: &str, value: Value| {
            let mut parcel = parcel();
            parcel[field] = value;
            fit(&schema(), &parcel).expect_err("it does not fit").to_string()
        };
        assert_eq!(complaint("colour", json!(1)), "colour is not a field of the schema");
        assert_eq!(
            complaint("grams", json!("5")),
            "grams is \"5\", where the schema wants long"
        );
        assert_eq!(
            complaint("lines", json!([{ "sku": "cup" }, { "sku": 7 }])),
            "lines[1].sku is 7, where the schema wants string"
        );
        assert_eq!(
            complaint("other_size", json!("HUGE")),
            "other_size is \"HUGE\", where the schema wants one of SMALL, LARGE"
        );
        let mut lacking = parcel();
        lacking.as_object_mut().unwrap().remove("id");
        assert_eq!(
            fit(&schema(), &lacking).expect_err("there is no id").to_string(),
            "id is missing, and the schema has no default for it"
        );
    }
}
