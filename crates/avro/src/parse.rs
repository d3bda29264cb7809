//! From text to [`Schema`]: every rule of the specification that Java Avro 1.11, and so Confluent, holds a schema to.
//!
//! A type must be defined before it is referred to, depth first and left to right. What has no meaning to Avro is kept
//! as a property. An invalid logical type is no error: the specification says to fall back to the underlying type.

use std::collections::HashMap;

use super::json::Json;
use super::schema::{Enum, Field, Fixed, Kind, Name, Node, NodeId, Order, Primitive, Record, Schema, check_name};

/// The longest schema text that is read, in bytes; Kafka's own default bound on a Confluent registry's record.
pub const SCHEMA_BYTES_MAX: usize = 1_000_000;

/// Java's largest array, and so the largest fixed.
const FIXED_BYTES_MAX: i64 = i32::MAX as i64 - 8;

/// Why a text is no Avro schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is longer than [`SCHEMA_BYTES_MAX`].
    #[error("the schema has {0} bytes, more than the {SCHEMA_BYTES_MAX} allowed")]
    TooLarge(usize),
    /// Not JSON, or nested too deeply.
    #[error("not JSON: {0}")]
    Json(String),
    /// JSON, but against a rule of the specification.
    #[error("{0}")]
    Invalid(String),
}

/// Whether a field's default must be a value of the field's type.
///
/// It must when a schema is new. A schema that is only looked up, or imported with its id, may be from before that rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// A default of another type is an error. That of a union is a value of its first branch.
    Checked,
    /// Any default is taken.
    Unchecked,
}

/// Reads a schema.
///
/// # Errors
/// [`Error`] says which rule the text breaks.
pub fn parse(text: &str, defaults: Defaults) -> Result<Schema, Error> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(Error::TooLarge(text.len()));
    }
    let json = Json::parse(text).map_err(Error::Json)?;
    let mut parser = Parser {
        nodes: Vec::new(),
        named: HashMap::new(),
        defaults,
    };
    let root = parser.schema(&json, None).map_err(Error::Invalid)?;
    Ok(Schema {
        nodes: parser.nodes,
        root,
    })
}

const SCHEMA_RESERVED: [&str; 10] = [
    "doc",
    "fields",
    "items",
    "name",
    "namespace",
    "size",
    "symbols",
    "values",
    "type",
    "aliases",
];
const FIELD_RESERVED: [&str; 6] = ["default", "doc", "name", "order", "type", "aliases"];

struct Parser {
    nodes: Vec<Node>,
    /// Named types by full name.
    named: HashMap<String, NodeId>,
    defaults: Defaults,
}

impl Parser {
    fn schema(&mut self, json: &Json, namespace: Option<&str>) -> Result<NodeId, String> {
        match json {
            Json::String(name) => self
                .reference(name, namespace)?
                .ok_or_else(|| format!("undefined name: {json}")),
            Json::Array(branches) => self.union(branches, namespace),
            Json::Object(_) => self.object(json, namespace),
            _ => Err(format!("a schema is a string, an array or an object, not {json}")),
        }
    }

    /// The type that `text` names here, if one is defined: a primitive, or a name in this namespace, or in none.
    fn reference(&mut self, text: &str, namespace: Option<&str>) -> Result<Option<NodeId>, String> {
        if let Some(primitive) = Primitive::from_word(text) {
            return Ok(Some(self.add(Kind::Primitive(primitive), Vec::new())));
        }
        let here = Name::resolve(text, namespace)?;
        if let Some(id) = self.named.get(&here.full) {
            return Ok(Some(*id));
        }
        let outside = Name::resolve(text, None)?;
        Ok(self.named.get(&outside.full).copied())
    }

    fn object(&mut self, json: &Json, namespace: Option<&str>) -> Result<NodeId, String> {
        let word = required_text(json, "type", "no type")?;
        match word {
            "record" | "error" => self.record(json, namespace, word == "error"),
            "enum" => self.r#enum(json, namespace),
            "fixed" => self.fixed(json, namespace),
            "array" => {
                let items = json
                    .get("items")
                    .ok_or_else(|| format!("an array has no items: {json}"))?;
                let items = self.schema(items, namespace)?;
                Ok(self.add(Kind::Array(items), props(json, &SCHEMA_RESERVED)))
            }
            "map" => {
                let values = json
                    .get("values")
                    .ok_or_else(|| format!("a map has no values: {json}"))?;
                let values = self.schema(values, namespace)?;
                Ok(self.add(Kind::Map(values), props(json, &SCHEMA_RESERVED)))
            }
            _ => match Primitive::from_word(word) {
                Some(primitive) => Ok(self.add(Kind::Primitive(primitive), props(json, &SCHEMA_RESERVED))),
                None => {
                    let name = Name::resolve(word, namespace)?;
                    self.named
                        .get(&name.full)
                        .copied()
                        .ok_or_else(|| format!("type not supported: {word}"))
                }
            },
        }
    }

    fn union(&mut self, branches: &[Json], namespace: Option<&str>) -> Result<NodeId, String> {
        let mut ids = Vec::with_capacity(branches.len());
        for branch in branches {
            ids.push(self.schema(branch, namespace)?);
        }
        let mut seen = Vec::with_capacity(ids.len());
        for id in &ids {
            let kind = &self.nodes[id.0].kind;
            if matches!(kind, Kind::Union(_)) {
                return Err("a union may not immediately contain another union".to_owned());
            }
            let name = kind.name().map_or(kind.word(), |name| name.full.as_str());
            if seen.contains(&name) {
                return Err(format!("duplicate in union: {name}"));
            }
            seen.push(name);
        }
        Ok(self.add(Kind::Union(ids), Vec::new()))
    }

    fn record(&mut self, json: &Json, namespace: Option<&str>, is_error: bool) -> Result<NodeId, String> {
        let name = declared_name(json, namespace)?;
        let inner = name.namespace.clone();
        let inner = inner.as_deref();
        let aliases = named_aliases(json, &name)?;
        let doc = text(json, "doc");
        let record = Record {
            name,
            aliases,
            doc,
            is_error,
            fields: None,
        };
        let id = self.define(Kind::Record(record), props(json, &SCHEMA_RESERVED))?;
        let Some(Json::Array(declared)) = json.get("fields") else {
            return Err(format!("a record has no fields: {json}"));
        };
        let mut fields: Vec<Field> = Vec::with_capacity(declared.len());
        for field in declared {
            let field = self.field(field, inner)?;
            if fields.iter().any(|other| other.name == field.name) {
                return Err(format!(
                    "duplicate field {} in record {}",
                    field.name,
                    self.full_name(id)
                ));
            }
            fields.push(field);
        }
        if let Kind::Record(record) = &mut self.nodes[id.0].kind {
            record.fields = Some(fields);
        }
        Ok(id)
    }

    fn field(&mut self, json: &Json, namespace: Option<&str>) -> Result<Field, String> {
        let name = required_text(json, "name", "no field name")?;
        let declared = json.get("type").ok_or_else(|| format!("no field type: {json}"))?;
        let schema = match declared {
            Json::String(word) => self.reference(word, namespace)?.ok_or_else(|| {
                format!("{declared} is not a defined name: the type of the field {name:?} must be one, or an object with a type")
            })?,
            _ => self.schema(declared, namespace)?,
        };
        let order = match json.get("order") {
            None => Order::Ascending,
            Some(Json::String(word)) => match word.to_lowercase().as_str() {
                "ascending" => Order::Ascending,
                "descending" => Order::Descending,
                "ignore" => Order::Ignore,
                _ => {
                    return Err(format!(
                        "the order of the field {name:?} is {word:?}: only ascending, descending and ignore are known"
                    ));
                }
            },
            Some(other) => return Err(format!("the order of the field {name:?} is no string: {other}")),
        };
        let default = match json.get("default") {
            // Text is taken for a floating-point number, which is how not-a-number and the infinities are given.
            Some(Json::String(number)) if self.is_floating(schema) => {
                Some(Json::Double(java_double(number).ok_or_else(|| {
                    format!("the default of the field {name:?} is no number: {number:?}")
                })?))
            }
            other => other.cloned(),
        };
        check_name(name)?;
        if let Some(default) = default.as_ref().filter(|_| self.defaults == Defaults::Checked)
            && !self.fits(schema, default)?
        {
            return Err(format!(
                "invalid default for field {name}: {default} is not a value of its type"
            ));
        }
        let aliases = aliases(json)?.unwrap_or_default();
        Ok(Field {
            name: name.to_owned(),
            aliases,
            doc: text(json, "doc"),
            schema,
            default,
            order,
            props: props(json, &FIELD_RESERVED),
        })
    }

    fn is_floating(&self, id: NodeId) -> bool {
        matches!(
            self.nodes[id.0].kind,
            Kind::Primitive(Primitive::Float | Primitive::Double)
        )
    }

    fn r#enum(&mut self, json: &Json, namespace: Option<&str>) -> Result<NodeId, String> {
        let name = declared_name(json, namespace)?;
        let Some(Json::Array(declared)) = json.get("symbols") else {
            return Err(format!("an enum has no symbols: {json}"));
        };
        let mut symbols: Vec<String> = Vec::with_capacity(declared.len());
        for symbol in declared {
            let symbol = symbol
                .as_str()
                .ok_or_else(|| format!("an enum symbol is no string: {symbol}"))?;
            check_name(symbol)?;
            if symbols.iter().any(|other| other == symbol) {
                return Err(format!("duplicate enum symbol: {symbol}"));
            }
            symbols.push(symbol.to_owned());
        }
        let default = text(json, "default");
        if let Some(default) = default.as_ref().filter(|default| !symbols.contains(default)) {
            return Err(format!(
                "the enum default {default} is not in the enum symbol set: [{}]",
                symbols.join(", ")
            ));
        }
        let aliases = named_aliases(json, &name)?;
        let doc = text(json, "doc");
        let mut props = props(json, &SCHEMA_RESERVED);
        props.retain(|(key, _)| key != "default");
        self.define(
            Kind::Enum(Enum {
                name,
                aliases,
                doc,
                symbols,
                default,
            }),
            props,
        )
    }

    fn fixed(&mut self, json: &Json, namespace: Option<&str>) -> Result<NodeId, String> {
        let name = declared_name(json, namespace)?;
        let size = match json.get("size") {
            Some(Json::Integer(size)) if (0..=FIXED_BYTES_MAX).contains(size) => {
                i32::try_from(*size).expect("the bound is below i32's")
            }
            Some(other) => return Err(format!("invalid size of fixed {}: {other}", name.full)),
            None => return Err(format!("fixed {} has no size", name.full)),
        };
        let aliases = named_aliases(json, &name)?;
        let doc = text(json, "doc");
        self.define(
            Kind::Fixed(Fixed {
                name,
                aliases,
                doc,
                size,
            }),
            props(json, &SCHEMA_RESERVED),
        )
    }

    fn add(&mut self, kind: Kind, props: Vec<(String, Json)>) -> NodeId {
        self.nodes.push(Node { kind, props });
        NodeId(self.nodes.len() - 1)
    }

    /// Adds a named type, which must be the first of its name.
    fn define(&mut self, kind: Kind, props: Vec<(String, Json)>) -> Result<NodeId, String> {
        let full = kind.name().expect("only named types are defined").full.clone();
        if Primitive::from_word(&full).is_some() {
            return Err(format!("a type may not be named after a primitive: {full}"));
        }
        if self.named.contains_key(&full) {
            return Err(format!("can't redefine: {full}"));
        }
        let id = self.add(kind, props);
        self.named.insert(full, id);
        Ok(id)
    }

    fn full_name(&self, id: NodeId) -> &str {
        self.nodes[id.0].kind.name().map_or("", |name| &name.full)
    }

    /// Whether `value` is, by its JSON type, a value of the schema.
    fn fits(&self, id: NodeId, value: &Json) -> Result<bool, String> {
        Ok(match &self.nodes[id.0].kind {
            Kind::Primitive(primitive) => match (primitive, value) {
                (Primitive::Null, Json::Null)
                | (Primitive::Boolean, Json::Boolean(_))
                | (Primitive::Long, Json::Integer(_))
                | (Primitive::Float | Primitive::Double, Json::Integer(_) | Json::BigInteger(_) | Json::Double(_))
                | (Primitive::Bytes | Primitive::String, Json::String(_)) => true,
                (Primitive::Int, Json::Integer(value)) => i32::try_from(*value).is_ok(),
                _ => false,
            },
            Kind::Enum(_) | Kind::Fixed(_) => matches!(value, Json::String(_)),
            Kind::Array(items) => match value {
                Json::Array(values) => self.all_fit(*items, values.iter())?,
                _ => false,
            },
            Kind::Map(values) => match value {
                Json::Object(members) => self.all_fit(*values, members.iter().map(|(_, value)| value))?,
                _ => false,
            },
            Kind::Union(branches) => match branches.first() {
                Some(first) => self.fits(*first, value)?,
                None => return Err("an empty union has no default".to_owned()),
            },
            Kind::Record(record) => {
                if !matches!(value, Json::Object(_)) {
                    return Ok(false);
                }
                let Some(fields) = &record.fields else {
                    return Err(format!("a default of the record {} inside itself", record.name.full));
                };
                for field in fields {
                    match value.get(&field.name).or(field.default.as_ref()) {
                        Some(value) if self.fits(field.schema, value)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
        })
    }

    fn all_fit<'a>(&self, id: NodeId, values: impl Iterator<Item = &'a Json>) -> Result<bool, String> {
        for value in values {
            if !self.fits(id, value)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The name that an object declares for itself, in the namespace it gives or else the one in force.
fn declared_name(json: &Json, namespace: Option<&str>) -> Result<Name, String> {
    let name = required_text(json, "name", "no name in schema")?;
    let own = json.get("namespace").and_then(Json::as_str);
    Name::resolve(name, own.or(namespace))
}

fn named_aliases(json: &Json, name: &Name) -> Result<Vec<Name>, String> {
    let mut resolved: Vec<Name> = Vec::new();
    for alias in aliases(json)?.unwrap_or_default() {
        let alias = Name::resolve(&alias, name.namespace.as_deref())?;
        if !resolved.contains(&alias) {
            resolved.push(alias);
        }
    }
    Ok(resolved)
}

/// The aliases, each once, if there are any.
fn aliases(json: &Json) -> Result<Option<Vec<String>>, String> {
    let declared = match json.get("aliases") {
        None => return Ok(None),
        Some(Json::Array(declared)) => declared,
        Some(_) => return Err(format!("aliases are not an array: {json}")),
    };
    let mut aliases: Vec<String> = Vec::with_capacity(declared.len());
    for alias in declared {
        let alias = alias
            .as_str()
            .ok_or_else(|| format!("an alias is no string: {alias}"))?;
        if !aliases.iter().any(|other| other == alias) {
            aliases.push(alias.to_owned());
        }
    }
    Ok(Some(aliases))
}

/// The member `key` if it is text; other values mean nothing.
fn text(json: &Json, key: &str) -> Option<String> {
    json.get(key).and_then(Json::as_str).map(str::to_owned)
}

fn required_text<'a>(json: &'a Json, key: &str, missing: &str) -> Result<&'a str, String> {
    json.get(key)
        .and_then(Json::as_str)
        .ok_or_else(|| format!("{missing}: {json}"))
}

fn props(json: &Json, reserved: &[&str]) -> Vec<(String, Json)> {
    match json {
        Json::Object(members) => members
            .iter()
            .filter(|(key, _)| !reserved.contains(&key.as_str()))
            .cloned()
            .collect(),
        _ => Vec::new(),
    }
}

/// A number as Java's `Double.valueOf` reads it, leaving out its hexadecimal form.
fn java_double(text: &str) -> Option<f64> {
    let text = text.trim();
    match text.trim_start_matches(['+', '-']) {
        "NaN" => return Some(f64::NAN),
        "Infinity" => {
            return Some(if text.starts_with('-') {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            });
        }
        _ => {}
    }
    let digits = text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text);
    // Rust also reads words such as "inf", which Java does not.
    if digits
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'))
    {
        digits.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NESTING_MAX, check};

    #[test]
    fn an_old_schema_may_have_a_default_of_another_type() {
        let text = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}"#;
        assert!(matches!(parse(text, Defaults::Checked), Err(Error::Invalid(_))));
        assert!(parse(text, Defaults::Unchecked).is_ok());
    }

    #[test]
    fn a_schema_is_bounded_in_size() {
        let text = format!("\"{}\"", "a".repeat(SCHEMA_BYTES_MAX));
        assert_eq!(
            parse(&text, Defaults::Checked).unwrap_err(),
            Error::TooLarge(text.len())
        );
    }

    #[test]
    fn the_deepest_schema_fits_the_stack_of_a_thread() {
        let deep = |inner: &str| {
            let open = r#"{"type":"array","items":"#.repeat(NESTING_MAX);
            format!("{open}{inner}{}", "}".repeat(NESTING_MAX))
        };
        let schema = parse(&deep("\"int\""), Defaults::Checked).unwrap();
        let wider = parse(&deep("\"long\""), Defaults::Checked).unwrap();
        assert_eq!(check(&wider, &schema), []);
        assert_eq!(check(&schema, &wider).len(), 1);
        assert_eq!(schema.normalized().canonical(), schema.canonical());
        assert!(schema.parsing_canonical_form().len() > NESTING_MAX);
        assert!(parse(&deep("{\"type\":\"int\"}"), Defaults::Checked).is_err());
    }
}
