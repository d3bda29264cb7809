//! Whether data written with one schema can be read with another: the specification's schema resolution.
//!
//! It is the check that Confluent's registry makes (Java Avro's `SchemaCompatibility`), verdict and words. In
//! particular, names are compared without their namespaces, a reader's aliases count, string and bytes are read as
//! each other, and an enum's default stands in for unknown symbols. Logical types play no part.

use std::collections::{BTreeSet, HashMap};

use super::schema::{Enum, Field, Kind, Name, NodeId, Primitive, Record, Schema};

/// What stands in the way of reading, in Confluent's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A record, enum or fixed has another name, and no alias for the writer's.
    NameMismatch,
    /// A fixed has another size.
    FixedSizeMismatch,
    /// The writer's enum has symbols that the reader's has not, and the reader's has no default.
    MissingEnumSymbols,
    /// The reader's record has a field without a default that the writer's has not.
    ReaderFieldMissingDefaultValue,
    /// The types differ, and there is no promotion from the writer's to the reader's.
    TypeMismatch,
    /// No branch of the reader's union takes one of the writer's types.
    MissingUnionBranch,
    /// A field of the reader's record matches several of the writer's, by its name and its aliases.
    AmbiguousField,
}

impl Reason {
    /// Confluent's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Reason::NameMismatch => "NAME_MISMATCH",
            Reason::FixedSizeMismatch => "FIXED_SIZE_MISMATCH",
            Reason::MissingEnumSymbols => "MISSING_ENUM_SYMBOLS",
            Reason::ReaderFieldMissingDefaultValue => "READER_FIELD_MISSING_DEFAULT_VALUE",
            Reason::TypeMismatch => "TYPE_MISMATCH",
            Reason::MissingUnionBranch => "MISSING_UNION_BRANCH",
            Reason::AmbiguousField => "AMBIGUOUS_FIELD",
        }
    }
}

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incompatibility {
    /// What it is.
    pub reason: Reason,
    /// Where in the reader's schema, as a JSON pointer: `/fields/0/type`.
    pub path: String,
    /// The names, sizes or symbols concerned.
    pub detail: String,
}

impl Incompatibility {
    /// Confluent's message, where `reader` and `writer` say which schema is which: `new` or `old`.
    pub fn describe(&self, reader: &str, writer: &str) -> String {
        let Incompatibility { reason, path, detail } = self;
        let description = match reason {
            Reason::FixedSizeMismatch => format!(
                "The size of FIXED type field at path '{path}' in the {reader} schema does not match with the {writer} schema"
            ),
            Reason::TypeMismatch => {
                format!(
                    "The type (path '{path}') of a field in the {reader} schema does not match with the {writer} schema"
                )
            }
            Reason::NameMismatch => format!("The name of the schema has changed (path '{path}')"),
            Reason::MissingEnumSymbols => {
                format!(
                    "The {reader} schema is missing enum symbols '{detail}' at path '{path}' in the {writer} schema"
                )
            }
            Reason::MissingUnionBranch => format!(
                "The {reader} schema is missing a type inside a union field at path '{path}' in the {writer} schema"
            ),
            Reason::ReaderFieldMissingDefaultValue => format!(
                "The field '{detail}' at path '{path}' in the {reader} schema has no default value and is missing in the {writer} schema"
            ),
            Reason::AmbiguousField => return format!("Unexpected exception during compatibility check: {detail}"),
        };
        format!(
            "{{errorType:'{}', description:'{description}', additionalInfo:'{detail}'}}",
            reason.word()
        )
    }
}

/// Whether everything of the writer's type `writer_id` can be read as the reader's type `reader_id`.
pub(super) fn reads(reader: &Schema, reader_id: NodeId, writer: &Schema, writer_id: NodeId) -> bool {
    let mut checker = Checker::new(reader, writer);
    checker.pair(None, reader_id, writer_id).is_empty() && checker.ambiguous.is_none()
}

/// Whether a reader's named type is meant where a writer's is written: by its last name, or by an alias.
pub(super) fn named_alike(reader: &Name, aliases: &[Name], writer: &Name) -> bool {
    reader.simple == writer.simple || aliases.iter().any(|alias| alias.full == writer.full)
}

/// Checks that all data written with `writer` can be read with `reader`, and returns what stands in the way.
pub fn check(reader: &Schema, writer: &Schema) -> Vec<Incompatibility> {
    let mut checker = Checker::new(reader, writer);
    let found = checker.pair(None, reader.root, writer.root);
    // An ambiguity makes the whole check fail, wherever it was met.
    checker.ambiguous.map_or(found, |ambiguous| vec![ambiguous])
}

struct Checker<'a> {
    reader: &'a Schema,
    writer: &'a Schema,
    /// What is known of each pair; `None` while it is being checked, so that recursive types come to an end.
    verdicts: HashMap<(NodeId, NodeId), Option<Vec<Incompatibility>>>,
    location: Vec<String>,
    ambiguous: Option<Incompatibility>,
}

impl<'a> Checker<'a> {
    fn new(reader: &'a Schema, writer: &'a Schema) -> Self {
        Self {
            reader,
            writer,
            verdicts: HashMap::new(),
            location: Vec::new(),
            ambiguous: None,
        }
    }

    /// Checks one pair at `step` below the present location; a pair is compatible until proven otherwise.
    fn pair(&mut self, step: Option<&str>, reader: NodeId, writer: NodeId) -> Vec<Incompatibility> {
        if let Some(verdict) = self.verdicts.get(&(reader, writer)) {
            return verdict.clone().unwrap_or_default();
        }
        self.verdicts.insert((reader, writer), None);
        self.location.extend(step.map(str::to_owned));
        let found = self.compare(reader, writer);
        if step.is_some() {
            self.location.pop();
        }
        self.verdicts.insert((reader, writer), Some(found.clone()));
        found
    }

    /// Checks one branch of a union. Its findings, if any, speak of a location that begins at the branch.
    fn branch(&mut self, reader: NodeId, writer: NodeId) -> bool {
        let location = std::mem::take(&mut self.location);
        let found = self.pair(None, reader, writer);
        self.location = location;
        found.is_empty()
    }

    fn compare(&mut self, reader_id: NodeId, writer_id: NodeId) -> Vec<Incompatibility> {
        let (reader, writer) = (self.reader, self.writer);
        let (reader_kind, writer_kind) = (&reader.node(reader_id).kind, &writer.node(writer_id).kind);
        match (reader_kind, writer_kind) {
            (Kind::Union(_), Kind::Union(branches)) => {
                let mut found = Vec::new();
                for (index, branch) in branches.iter().enumerate() {
                    if !self.branch(reader_id, *branch) {
                        found.push(self.found_at(
                            &index.to_string(),
                            Reason::MissingUnionBranch,
                            lacking(writer, *branch),
                        ));
                    }
                }
                found
            }
            // A reader that takes each branch of the writer's union takes the union.
            (_, Kind::Union(branches)) => {
                let mut found = Vec::new();
                for (index, branch) in branches.iter().enumerate() {
                    found.extend(self.pair(Some(&index.to_string()), reader_id, *branch));
                }
                found
            }
            (Kind::Union(branches), _) => {
                if branches.iter().any(|branch| self.branch(*branch, writer_id)) {
                    return Vec::new();
                }
                vec![self.found(Reason::MissingUnionBranch, lacking(writer, writer_id))]
            }
            (Kind::Primitive(to), Kind::Primitive(from)) if promotes(*from, *to) => Vec::new(),
            (Kind::Array(reader), Kind::Array(writer)) => self.pair(Some("items"), *reader, *writer),
            (Kind::Map(reader), Kind::Map(writer)) => self.pair(Some("values"), *reader, *writer),
            (Kind::Fixed(reader), Kind::Fixed(writer)) => {
                let mut found = self.names(&reader.name, &reader.aliases, &writer.name);
                if reader.size != writer.size {
                    let detail = format!("expected: {}, found: {}", writer.size, reader.size);
                    found.push(self.found_at("size", Reason::FixedSizeMismatch, detail));
                }
                found
            }
            (Kind::Enum(reader), Kind::Enum(writer)) => {
                let mut found = self.names(&reader.name, &reader.aliases, &writer.name);
                found.extend(self.symbols(reader, writer));
                found
            }
            (Kind::Record(reader), Kind::Record(writer)) => {
                let mut found = self.names(&reader.name, &reader.aliases, &writer.name);
                found.extend(self.fields(reader, writer, writer_id));
                found
            }
            _ => {
                let (reader, writer) = (upper(reader, reader_id), upper(writer, writer_id));
                let detail = format!("reader type: {reader} not compatible with writer type: {writer}");
                vec![self.found(Reason::TypeMismatch, detail)]
            }
        }
    }

    fn names(&self, reader: &Name, aliases: &[Name], writer: &Name) -> Vec<Incompatibility> {
        if named_alike(reader, aliases, writer) {
            return Vec::new();
        }
        vec![self.found_at("name", Reason::NameMismatch, format!("expected: {}", writer.full))]
    }

    fn symbols(&self, reader: &Enum, writer: &Enum) -> Option<Incompatibility> {
        let missing: BTreeSet<&str> = writer
            .symbols
            .iter()
            .filter(|symbol| !reader.symbols.contains(symbol))
            .map(String::as_str)
            .collect();
        if missing.is_empty() || reader.default.is_some() {
            return None;
        }
        let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
        Some(self.found_at("symbols", Reason::MissingEnumSymbols, format!("[{missing}]")))
    }

    fn fields(&mut self, reader: &Record, writer: &Record, writer_id: NodeId) -> Vec<Incompatibility> {
        let mut found = Vec::new();
        self.location.push("fields".to_owned());
        for (index, field) in reader.fields().iter().enumerate() {
            self.location.push(index.to_string());
            match self.writer_field(field, writer) {
                Some(other) => found.extend(self.pair(Some("type"), field.schema, other)),
                None if field.default.is_some() => {}
                // Java Avro compares an enum that has a default with the writer's record, in vain.
                None if self.enum_with_default(field.schema) => {
                    found.extend(self.pair(Some("type"), field.schema, writer_id));
                }
                None => found.push(self.found(Reason::ReaderFieldMissingDefaultValue, field.name.clone())),
            }
            self.location.pop();
        }
        self.location.pop();
        found
    }

    /// The type of the writer's field that `field` reads, by its name or one of its aliases.
    fn writer_field(&mut self, field: &Field, writer: &Record) -> Option<NodeId> {
        let names = std::iter::once(&field.name).chain(&field.aliases);
        let matches: Vec<NodeId> = names
            .filter_map(|name| writer.field(name))
            .map(|field| field.schema)
            .collect();
        if matches.len() > 1 && self.ambiguous.is_none() {
            let detail = format!(
                "Reader record field {} matches multiple fields in writer record schema {}",
                field.name, writer.name.full
            );
            self.ambiguous = Some(self.found(Reason::AmbiguousField, detail));
        }
        matches.first().copied()
    }

    fn enum_with_default(&self, id: NodeId) -> bool {
        matches!(&self.reader.node(id).kind, Kind::Enum(r#enum) if r#enum.default.is_some())
    }

    fn found(&self, reason: Reason, detail: String) -> Incompatibility {
        Incompatibility {
            reason,
            path: format!("/{}", self.location.join("/")),
            detail,
        }
    }

    fn found_at(&self, step: &str, reason: Reason, detail: String) -> Incompatibility {
        let separator = if self.location.is_empty() { "" } else { "/" };
        Incompatibility {
            reason,
            path: format!("/{}{separator}{step}", self.location.join("/")),
            detail,
        }
    }
}

pub(super) fn promotes(from: Primitive, to: Primitive) -> bool {
    use Primitive::{Bytes, Double, Float, Int, Long, String};
    from == to
        || matches!(
            (from, to),
            (Int, Long | Float | Double) | (Long, Float | Double) | (Float, Double) | (String, Bytes) | (Bytes, String)
        )
}

fn upper(schema: &Schema, id: NodeId) -> String {
    schema.node(id).kind.word().to_uppercase()
}

fn lacking(writer: &Schema, id: NodeId) -> String {
    format!("reader union lacking writer type: {}", upper(writer, id))
}
