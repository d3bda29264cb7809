//! The texts of a schema: as it is stored, normalised, and in the specification's Parsing Canonical Form.
//!
//! The stored text decides whether two schemas are the same one. It is what Java Avro's `Schema.toString` writes:
//! white space, member order and redundant namespaces are gone; docs, defaults, aliases and properties stay.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::json::{Json, render_string};
use super::schema::{Field, Kind, Name, Node, NodeId, Order, Primitive, Schema};

impl Schema {
    /// The text by which a registry stores and compares this schema.
    pub fn canonical(&self) -> String {
        let mut writer = Writer::new(self);
        writer.schema(self.root, None);
        writer.out
    }

    /// A schema of the same meaning in a form that does not depend on how it was written: properties and aliases in
    /// the order of their names, defaults as their type has them, properties that only repeat a default left out.
    #[must_use]
    pub fn normalized(&self) -> Schema {
        let mut schema = self.clone();
        for index in 0..schema.nodes.len() {
            let mut node = schema.nodes[index].clone();
            normalize_props(&mut node);
            match &mut node.kind {
                Kind::Record(record) => {
                    record.doc = record.doc.take().filter(|doc| !doc.is_empty());
                    record.aliases.sort_by(|left, right| left.full.cmp(&right.full));
                    for field in record.fields.iter_mut().flatten() {
                        field.aliases.sort();
                        field.default = field
                            .default
                            .take()
                            .map(|default| self.as_typed(Some(field.schema), &default).sorted());
                        field.props = sorted(&field.props);
                    }
                }
                Kind::Enum(r#enum) => {
                    r#enum.doc = r#enum.doc.take().filter(|doc| !doc.is_empty());
                    r#enum.aliases.sort_by(|left, right| left.full.cmp(&right.full));
                }
                Kind::Fixed(fixed) => {
                    fixed.doc = fixed.doc.take().filter(|doc| !doc.is_empty());
                    fixed.aliases.sort_by(|left, right| left.full.cmp(&right.full));
                }
                Kind::Primitive(_) | Kind::Array(_) | Kind::Map(_) | Kind::Union(_) => {}
            }
            schema.nodes[index] = node;
        }
        schema
    }

    /// The Parsing Canonical Form of the Avro specification: only what matters to a reader of data.
    pub fn parsing_canonical_form(&self) -> String {
        let mut writer = Writer::new(self);
        writer.parsing_form(self.root);
        writer.out
    }

    /// The 64-bit Rabin fingerprint (CRC-64-AVRO) of the Parsing Canonical Form.
    pub fn fingerprint_crc64(&self) -> u64 {
        const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
        self.parsing_canonical_form().bytes().fold(EMPTY, |crc, byte| {
            let mut entry = (crc ^ u64::from(byte)) & 0xff;
            for _ in 0..8 {
                entry = (entry >> 1) ^ (EMPTY & (entry & 1).wrapping_neg());
            }
            (crc >> 8) ^ entry
        })
    }

    /// The SHA-256 fingerprint of the Parsing Canonical Form.
    pub fn fingerprint_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.parsing_canonical_form().as_bytes()).into()
    }

    /// `value` with each number as its type has it: 1 for a double is 1.0. Only the first branch of a union counts.
    fn as_typed(&self, id: Option<NodeId>, value: &Json) -> Json {
        let kind = id.map(|id| &self.node(id).kind);
        if let Some(Kind::Union(branches)) = kind {
            return self.as_typed(branches.first().copied(), value);
        }
        match (kind, value) {
            (Some(Kind::Primitive(Primitive::Double)), Json::Integer(number)) => Json::Double(*number as f64),
            (Some(Kind::Primitive(Primitive::Float)), Json::Integer(number)) => Json::Float(*number as f64 as f32),
            (Some(Kind::Primitive(Primitive::Float)), Json::Double(number)) => Json::Float(*number as f32),
            (Some(Kind::Array(items)), Json::Array(values)) => {
                Json::Array(values.iter().map(|value| self.as_typed(Some(*items), value)).collect())
            }
            (Some(Kind::Map(values)), Json::Object(members)) => Json::Object(
                members
                    .iter()
                    .map(|(key, value)| (key.clone(), self.as_typed(Some(*values), value)))
                    .collect(),
            ),
            (Some(Kind::Record(record)), Json::Object(members)) => {
                let typed = |key: &str, value| self.as_typed(record.field(key).map(|field| field.schema), value);
                Json::Object(
                    members
                        .iter()
                        .map(|(key, value)| (key.clone(), typed(key, value)))
                        .collect(),
                )
            }
            _ => value.clone(),
        }
    }
}

/// Puts the properties of a valid logical type first and sorts the rest.
fn normalize_props(node: &mut Node) {
    let mut props = sorted(&node.props);
    if let (Kind::Primitive(_) | Kind::Fixed(_), Some(logical)) = (&node.kind, logical_type(node)) {
        let mut first = vec![("logicalType".to_owned(), Json::String(logical.name))];
        if let Some((precision, scale)) = logical.decimal {
            first.push(("precision".to_owned(), Json::Integer(precision)));
            if scale != 0 {
                first.push(("scale".to_owned(), Json::Integer(scale)));
            }
        }
        props.retain(|(key, _)| !first.iter().any(|(taken, _)| taken == key));
        first.append(&mut props);
        props = first;
    }
    node.props = props;
}

fn sorted(props: &[(String, Json)]) -> Vec<(String, Json)> {
    let mut props: Vec<_> = props.iter().map(|(key, value)| (key.clone(), value.sorted())).collect();
    props.sort_by(|(left, _), (right, _)| left.cmp(right));
    props
}

/// A logical type that is valid for the type it decorates.
struct Logical {
    name: String,
    /// Precision and scale, of a decimal.
    decimal: Option<(i64, i64)>,
}

/// The logical type of `node`, or none where it is unknown or invalid, which the specification says to ignore.
fn logical_type(node: &Node) -> Option<Logical> {
    let prop = |key: &str| node.props.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    let name = prop("logicalType")?.as_str()?;
    let on = |primitive| matches!(node.kind, Kind::Primitive(own) if own == primitive);
    let valid = match name {
        "decimal" => return decimal(node, prop("precision"), prop("scale")),
        "uuid" => true,
        "big-decimal" => on(Primitive::Bytes),
        "date" | "time-millis" => on(Primitive::Int),
        "time-micros"
        | "timestamp-millis"
        | "timestamp-micros"
        | "local-timestamp-millis"
        | "local-timestamp-micros" => on(Primitive::Long),
        _ => false,
    };
    valid.then(|| Logical {
        name: name.to_owned(),
        decimal: None,
    })
}

fn decimal(node: &Node, precision: Option<&Json>, scale: Option<&Json>) -> Option<Logical> {
    let int = |value: &Json| match value {
        Json::Integer(value) => i32::try_from(*value).ok().map(i64::from),
        _ => None,
    };
    let precision = int(precision?)?;
    let scale = scale.map_or(Some(0), int)?;
    let precision_max = match &node.kind {
        Kind::Primitive(Primitive::Bytes) => i64::from(i32::MAX),
        // The digits that a two's complement number of that many bytes always holds.
        Kind::Fixed(fixed) => (2f64.log10() * (8.0 * f64::from(fixed.size) - 1.0)).floor() as i64,
        _ => return None,
    };
    let valid = precision > 0 && precision <= precision_max && (0..=precision).contains(&scale);
    valid.then(|| Logical {
        name: "decimal".to_owned(),
        decimal: Some((precision, scale)),
    })
}

struct Writer<'a> {
    schema: &'a Schema,
    /// Named types that were written in full already.
    written: HashSet<NodeId>,
    out: String,
}

impl<'a> Writer<'a> {
    fn new(schema: &'a Schema) -> Self {
        Self {
            schema,
            written: HashSet::new(),
            out: String::new(),
        }
    }

    fn key(&mut self, key: &str) {
        if !self.out.ends_with('{') {
            self.out.push(',');
        }
        render_string(key, &mut self.out);
        self.out.push(':');
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        render_string(text, &mut self.out);
    }

    fn texts<'t>(&mut self, key: &str, texts: impl IntoIterator<Item = &'t str>) {
        self.key(key);
        self.out.push('[');
        for (index, text) in texts.into_iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            render_string(text, &mut self.out);
        }
        self.out.push(']');
    }

    fn props(&mut self, props: &[(String, Json)]) {
        for (key, value) in props {
            self.key(key);
            value.render(&mut self.out);
        }
    }

    fn schema(&mut self, id: NodeId, namespace: Option<&str>) {
        let schema = self.schema;
        let node = schema.node(id);
        if let Some(name) = node.kind.name()
            && !self.written.insert(id)
        {
            render_string(name.qualified(namespace), &mut self.out);
            return;
        }
        match &node.kind {
            Kind::Primitive(primitive) => {
                if node.props.is_empty() {
                    render_string(primitive.word(), &mut self.out);
                    return;
                }
                self.out.push('{');
                self.text("type", primitive.word());
                self.props(&node.props);
                self.out.push('}');
            }
            Kind::Union(branches) => {
                self.out.push('[');
                for (index, branch) in branches.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.schema(*branch, namespace);
                }
                self.out.push(']');
            }
            Kind::Array(inner) | Kind::Map(inner) => {
                self.out.push('{');
                self.text("type", node.kind.word());
                self.key(if matches!(node.kind, Kind::Array(_)) {
                    "items"
                } else {
                    "values"
                });
                self.schema(*inner, namespace);
                self.props(&node.props);
                self.out.push('}');
            }
            Kind::Record(record) => {
                self.open(
                    if record.is_error { "error" } else { "record" },
                    &record.name,
                    record.doc.as_deref(),
                    namespace,
                );
                self.key("fields");
                self.out.push('[');
                for (index, field) in record.fields().iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.field(field, record.name.namespace.as_deref());
                }
                self.out.push(']');
                self.close(&node.props, &record.name, &record.aliases);
            }
            Kind::Enum(r#enum) => {
                self.open("enum", &r#enum.name, r#enum.doc.as_deref(), namespace);
                self.texts("symbols", r#enum.symbols.iter().map(String::as_str));
                if let Some(default) = &r#enum.default {
                    self.text("default", default);
                }
                self.close(&node.props, &r#enum.name, &r#enum.aliases);
            }
            Kind::Fixed(fixed) => {
                self.open("fixed", &fixed.name, fixed.doc.as_deref(), namespace);
                self.key("size");
                self.out.push_str(&fixed.size.to_string());
                self.close(&node.props, &fixed.name, &fixed.aliases);
            }
        }
    }

    fn open(&mut self, word: &str, name: &Name, doc: Option<&str>, namespace: Option<&str>) {
        self.out.push('{');
        self.text("type", word);
        self.text("name", &name.simple);
        if name.namespace.as_deref() != namespace {
            self.text("namespace", name.namespace.as_deref().unwrap_or_default());
        }
        if let Some(doc) = doc {
            self.text("doc", doc);
        }
    }

    fn close(&mut self, props: &[(String, Json)], name: &Name, aliases: &[Name]) {
        self.props(props);
        if !aliases.is_empty() {
            self.texts(
                "aliases",
                aliases.iter().map(|alias| alias.qualified(name.namespace.as_deref())),
            );
        }
        self.out.push('}');
    }

    fn field(&mut self, field: &Field, namespace: Option<&str>) {
        self.out.push('{');
        self.text("name", &field.name);
        self.key("type");
        self.schema(field.schema, namespace);
        if let Some(doc) = &field.doc {
            self.text("doc", doc);
        }
        if let Some(default) = &field.default {
            self.key("default");
            default.render(&mut self.out);
        }
        if field.order != Order::Ascending {
            self.text("order", field.order.word());
        }
        if !field.aliases.is_empty() {
            self.texts("aliases", field.aliases.iter().map(String::as_str));
        }
        self.props(&field.props);
        self.out.push('}');
    }

    fn parsing_form(&mut self, id: NodeId) {
        let schema = self.schema;
        let kind = &schema.node(id).kind;
        if let Some(name) = kind.name() {
            if !self.written.insert(id) {
                render_string(&name.full, &mut self.out);
                return;
            }
            self.out.push('{');
            self.text("name", &name.full);
            self.text("type", kind.word());
        }
        match kind {
            Kind::Primitive(primitive) => render_string(primitive.word(), &mut self.out),
            Kind::Union(branches) => {
                self.out.push('[');
                for (index, branch) in branches.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.parsing_form(*branch);
                }
                self.out.push(']');
            }
            Kind::Array(inner) | Kind::Map(inner) => {
                self.out.push('{');
                self.text("type", kind.word());
                self.key(if matches!(kind, Kind::Array(_)) {
                    "items"
                } else {
                    "values"
                });
                self.parsing_form(*inner);
                self.out.push('}');
            }
            Kind::Record(record) => {
                self.key("fields");
                self.out.push('[');
                for (index, field) in record.fields().iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.out.push('{');
                    self.text("name", &field.name);
                    self.key("type");
                    self.parsing_form(field.schema);
                    self.out.push('}');
                }
                self.out.push_str("]}");
            }
            Kind::Enum(r#enum) => {
                self.texts("symbols", r#enum.symbols.iter().map(String::as_str));
                self.out.push('}');
            }
            Kind::Fixed(fixed) => {
                self.key("size");
                self.out.push_str(&fixed.size.to_string());
                self.out.push('}');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Defaults, parse};

    fn canonical(text: &str) -> String {
        parse(text, Defaults::Checked).unwrap().canonical()
    }

    fn normalized(text: &str) -> String {
        parse(text, Defaults::Checked).unwrap().normalized().canonical()
    }

    /// Vectors of the Avro project's `schema-tests.txt`.
    #[test]
    fn fingerprints_are_those_of_the_specification() {
        for (schema, form, crc64) in [
            ("\"null\"", "\"null\"", 7_195_948_357_588_979_594_i64),
            ("{\"type\":\"null\"}", "\"null\"", 7_195_948_357_588_979_594),
            ("\"boolean\"", "\"boolean\"", -6_970_731_678_124_411_036),
            ("\"int\"", "\"int\"", 8_247_732_601_305_521_295),
            ("\"long\"", "\"long\"", -3_434_872_931_120_570_953),
            ("\"float\"", "\"float\"", 5_583_340_709_985_441_680),
            ("\"double\"", "\"double\"", -8_181_574_048_448_539_266),
            ("\"bytes\"", "\"bytes\"", 5_746_618_253_357_095_269),
            ("\"string\"", "\"string\"", -8_142_146_995_180_207_161),
            ("[ ]", "[]", -1_241_056_759_729_112_623),
            ("[ \"int\"  ]", "[\"int\"]", -5_232_228_896_498_058_493),
            (
                "[ \"int\" , {\"type\":\"boolean\"} ]",
                "[\"int\",\"boolean\"]",
                5_392_556_393_470_105_090,
            ),
        ] {
            let schema = parse(schema, Defaults::Checked).unwrap();
            assert_eq!(schema.parsing_canonical_form(), form);
            assert_eq!(schema.fingerprint_crc64().cast_signed(), crc64, "{form}");
        }
        let null = parse("\"null\"", Defaults::Checked).unwrap();
        assert_eq!(
            hex::encode(null.fingerprint_sha256()),
            "f072cbec3bf8841871d4284230c5e983dc211a56837aed862487148f947d1a1f"
        );
    }

    #[test]
    fn white_space_and_member_order_make_no_other_schema() {
        let one = r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"a","type":"int","doc":"d"}]}"#;
        let other = r#" {"fields":[{"doc":"d","type":{"type":"int"},"name":"a"}],"name":"n.R","type":"record"} "#;
        assert_eq!(canonical(one), one);
        assert_eq!(canonical(other), one);
    }

    #[test]
    fn docs_defaults_aliases_order_and_properties_make_another_schema() {
        let plain = canonical(r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#);
        for (member, value) in [
            ("doc", "\"d\""),
            ("default", "1"),
            ("aliases", "[\"b\"]"),
            ("order", "\"ignore\""),
            ("x", "1"),
        ] {
            let text =
                format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":"int","{member}":{value}}}]}}"#);
            assert_ne!(canonical(&text), plain, "{member}");
        }
    }

    #[test]
    fn normalising_sorts_what_has_no_order_and_types_defaults() {
        let decimal = |props: &str| format!(r#"{{"type":"bytes",{props}}}"#);
        let first = decimal(r#""scale":2,"precision":4,"logicalType":"decimal""#);
        let second = decimal(r#""logicalType":"decimal","precision":4,"scale":2"#);
        assert_ne!(canonical(&first), canonical(&second));
        assert_eq!(normalized(&first), normalized(&second));
        assert_eq!(normalized(&first), second);

        let field = |default: &str| {
            format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":"double","default":{default}}}]}}"#)
        };
        assert_ne!(canonical(&field("1")), canonical(&field("1.0")));
        assert_eq!(normalized(&field("1")), normalized(&field("1.0")));

        let aliases = |aliases: &str| format!(r#"{{"type":"enum","name":"E","symbols":["A"],"aliases":{aliases}}}"#);
        assert_eq!(
            normalized(&aliases(r#"["b","a"]"#)),
            normalized(&aliases(r#"["a","b"]"#))
        );
        // Symbols and fields have an order, and keep it.
        assert_eq!(
            normalized(r#"{"type":"enum","name":"E","symbols":["B","A"]}"#),
            canonical(r#"{"type":"enum","name":"E","symbols":["B","A"]}"#)
        );
    }

    #[test]
    fn an_invalid_decimal_is_no_logical_type_and_no_error() {
        for props in [
            r#""precision":0"#,
            r#""precision":4,"scale":5"#,
            r#""precision":"4""#,
            r#""scale":2"#,
        ] {
            let text = format!(r#"{{"type":"bytes","logicalType":"decimal",{props}}}"#);
            assert_eq!(canonical(&text), text);
        }
    }
}
