//! The model of an Avro schema: an arena of nodes, so that recursive types are plain indices.
//!
//! A named type is one node however often it is referred to; every other occurrence is a node of its own. A `Schema`
//! is always the outcome of [`parse`](super::parse): there is no way to build an invalid one.

use super::json::Json;

/// A parsed and validated Avro schema.
#[derive(Clone, Debug)]
pub struct Schema {
    pub(super) nodes: Vec<Node>,
    pub(super) root: NodeId,
}

impl Schema {
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The full name, if the schema is a record, enum or fixed.
    pub fn full_name(&self) -> Option<&str> {
        self.node(self.root).kind.name().map(|name| name.full.as_str())
    }
}

/// Where a node lies in its schema's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeId(pub(super) usize);

/// One type, with the properties that the specification gives no meaning to (`logicalType` and its like among them).
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) props: Vec<(String, Json)>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Primitive(Primitive),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Record),
    Enum(Enum),
    Fixed(Fixed),
}

impl Kind {
    pub(super) fn name(&self) -> Option<&Name> {
        match self {
            Kind::Record(record) => Some(&record.name),
            Kind::Enum(r#enum) => Some(&r#enum.name),
            Kind::Fixed(fixed) => Some(&fixed.name),
            _ => None,
        }
    }

    /// The type's word in a schema. An error is a record.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Kind::Primitive(primitive) => primitive.word(),
            Kind::Array(_) => "array",
            Kind::Map(_) => "map",
            Kind::Union(_) => "union",
            Kind::Record(_) => "record",
            Kind::Enum(_) => "enum",
            Kind::Fixed(_) => "fixed",
        }
    }
}

/// A type without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Primitive {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
}

impl Primitive {
    pub(super) fn word(self) -> &'static str {
        match self {
            Primitive::Null => "null",
            Primitive::Boolean => "boolean",
            Primitive::Int => "int",
            Primitive::Long => "long",
            Primitive::Float => "float",
            Primitive::Double => "double",
            Primitive::Bytes => "bytes",
            Primitive::String => "string",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Primitive> {
        use Primitive::{Boolean, Bytes, Double, Float, Int, Long, Null, String};
        [Null, Boolean, Int, Long, Float, Double, Bytes, String]
            .into_iter()
            .find(|primitive| primitive.word() == word)
    }
}

/// The name of a record, enum or fixed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    /// The last part.
    pub(super) simple: String,
    /// What precedes it; `None` is the null namespace.
    pub(super) namespace: Option<String>,
    /// Both, with a dot between.
    pub(super) full: String,
}

impl Name {
    /// Resolves `text` where `namespace` is the one in force: a dotted name brings its own.
    ///
    /// Only the last part is checked, and letters are Unicode's: that is what Java Avro does, and so what is in
    /// registries. The specification would have ASCII, and names between the dots.
    pub(super) fn resolve(text: &str, namespace: Option<&str>) -> Result<Name, String> {
        let (namespace, simple) = match text.rsplit_once('.') {
            Some((own, simple)) => (Some(own), simple),
            None => (namespace, text),
        };
        check_name(simple)?;
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).map(str::to_owned);
        let full = match &namespace {
            Some(namespace) => format!("{namespace}.{simple}"),
            None => simple.to_owned(),
        };
        Ok(Name {
            simple: simple.to_owned(),
            namespace,
            full,
        })
    }

    /// How this name is written where `namespace` is in force: in full, unless the last part alone means the same.
    pub(super) fn qualified(&self, namespace: Option<&str>) -> &str {
        let words = ["record", "enum", "array", "map", "union", "fixed"];
        let reserved = words.contains(&self.simple.as_str()) || Primitive::from_word(&self.simple).is_some();
        if self.namespace.is_some() && self.namespace.as_deref() == namespace && !reserved {
            &self.simple
        } else {
            &self.full
        }
    }
}

/// Refuses what is no name: a letter or underscore, then letters, digits and underscores.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let mut chars = name.chars();
    match chars.next() {
        None => return Err("a name is empty".to_owned()),
        Some(first) if !(first.is_alphabetic() || first == '_') => {
            return Err(format!("illegal initial character in the name {name:?}"));
        }
        Some(_) => {}
    }
    match chars.find(|c| !(c.is_alphabetic() || c.is_ascii_digit() || *c == '_')) {
        Some(c) => Err(format!("illegal character {c:?} in the name {name:?}")),
        None => Ok(()),
    }
}

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) aliases: Vec<Name>,
    pub(super) doc: Option<String>,
    /// Declared as `"type": "error"`, which is kept in the text and means nothing else.
    pub(super) is_error: bool,
    /// `None` only while the parser is inside the record.
    pub(super) fields: Option<Vec<Field>>,
}

impl Record {
    pub(super) fn fields(&self) -> &[Field] {
        self.fields.as_deref().unwrap_or_default()
    }

    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields().iter().find(|field| field.name == name)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) doc: Option<String>,
    pub(super) schema: NodeId,
    pub(super) default: Option<Json>,
    pub(super) order: Order,
    pub(super) props: Vec<(String, Json)>,
}

/// How a field counts when records are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
    Ignore,
}

impl Order {
    pub(super) fn word(self) -> &'static str {
        match self {
            Order::Ascending => "ascending",
            Order::Descending => "descending",
            Order::Ignore => "ignore",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Enum {
    pub(super) name: Name,
    pub(super) aliases: Vec<Name>,
    pub(super) doc: Option<String>,
    pub(super) symbols: Vec<String>,
    pub(super) default: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Fixed {
    pub(super) name: Name,
    pub(super) aliases: Vec<Name>,
    pub(super) doc: Option<String>,
    pub(super) size: i32,
}
