//! Reading data that one schema wrote as another schema has it: the specification's schema resolution, on bytes.
//!
//! [`Resolution::new`] compares the two schemas once and keeps a plan; [`Resolution::read`] follows it over any number of
//! data. It never panics on hostile bytes, and what it allocates is bounded by them. Names, aliases, promotions and
//! defaults count as in [`check`](crate::check): where that finds nothing, every datum of the writer reads.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::compatibility::{named_alike, promotes, reads};
use super::json::Json;
use super::schema::{Field, Kind, NodeId, Primitive, Record, Schema};

/// Most items of one array or map: a handful of bytes may claim any number of items that take none.
pub const ITEMS_MAX: usize = 100_000;
/// Deepest nesting of a datum; recursive schemas allow any.
pub const DEPTH_MAX: usize = 64;

/// Why bytes are not one datum of the writer's schema that the reader's can take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}, at {}", self.path())]
pub struct ReadError {
    what: String,
    /// Innermost first.
    steps: Vec<String>,
}

impl ReadError {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            steps: Vec::new(),
        }
    }

    fn within(mut self, step: impl Into<String>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Where in the datum: `lines/0/quantity`, or `the datum` for the whole of it.
    pub fn path(&self) -> String {
        if self.steps.is_empty() {
            return "the datum".to_owned();
        }
        let steps: Vec<&str> = self.steps.iter().rev().map(String::as_str).collect();
        steps.join("/")
    }
}

/// How data of one writer's schema are read under one reader's.
#[derive(Debug)]
pub struct Resolution {
    plans: Vec<Plan>,
    root: usize,
}

#[derive(Debug)]
enum Plan {
    /// Reserved while a recursive type is planned.
    Open,
    Primitive(Primitive, Primitive),
    Array(usize),
    Map(usize),
    /// The writer's branches.
    Union(Vec<usize>),
    Enum(Vec<Symbol>),
    Fixed(usize),
    Record {
        /// In the writer's order: what to read, and as which of the reader's fields it counts, if any.
        fields: Vec<(usize, Option<String>)>,
        /// The reader's fields that the writer has not.
        defaults: Vec<(String, Value)>,
    },
    /// No datum that comes here can be read.
    Never(String),
}

#[derive(Debug)]
enum Symbol {
    As(String),
    Unknown(String),
}

impl Resolution {
    /// Plans how `reader` reads what `writer` wrote. Where it cannot, reading says so.
    pub fn new(reader: &Schema, writer: &Schema) -> Self {
        let mut planner = Planner {
            reader,
            writer,
            plans: Vec::new(),
            known: HashMap::new(),
        };
        let root = planner.plan(Some(reader.root), writer.root);
        Self {
            plans: planner.plans,
            root,
        }
    }

    /// Reads exactly one datum. Unions are transparent; bytes are text, a byte a character; no number is lost but
    /// floating-point ones that are none.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self, datum: &[u8]) -> Result<Value, ReadError> {
        self.whole::<true>(datum)
    }

    /// Whether `datum` reads, without making values of it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn verify(&self, datum: &[u8]) -> Result<(), ReadError> {
        self.whole::<false>(datum).map(drop)
    }

    fn whole<const KEEP: bool>(&self, datum: &[u8]) -> Result<Value, ReadError> {
        let mut bytes = Bytes { rest: datum };
        let value = self.value::<KEEP>(self.root, &mut bytes, 0)?;
        if bytes.rest.is_empty() {
            Ok(value)
        } else {
            Err(ReadError::new(format!("{} bytes follow the datum", bytes.rest.len())))
        }
    }

    fn value<const KEEP: bool>(&self, plan: usize, bytes: &mut Bytes<'_>, depth: usize) -> Result<Value, ReadError> {
        if depth > DEPTH_MAX {
            return Err(ReadError::new(format!("nested more than {DEPTH_MAX} deep")));
        }
        match &self.plans[plan] {
            Plan::Open => unreachable!("every plan is filled in before the first datum"),
            Plan::Never(why) => Err(ReadError::new(why.clone())),
            Plan::Primitive(from, to) => bytes.primitive::<KEEP>(*from, *to),
            Plan::Fixed(size) => {
                let raw = bytes.take(*size)?;
                Ok(if KEEP { latin1(raw) } else { Value::Null })
            }
            Plan::Enum(symbols) => match symbols.get(bytes.index("the enum's symbol")?) {
                Some(Symbol::As(symbol)) if KEEP => Ok(Value::from(symbol.as_str())),
                Some(Symbol::As(_)) => Ok(Value::Null),
                Some(Symbol::Unknown(symbol)) => Err(ReadError::new(format!(
                    "the reader's enum has no symbol {symbol} and no default"
                ))),
                None => Err(ReadError::new("the enum has no symbol of that number")),
            },
            Plan::Union(branches) => {
                let index = bytes.index("the union's branch")?;
                let branch = branches
                    .get(index)
                    .ok_or_else(|| ReadError::new("the union has no branch of that number"))?;
                self.value::<KEEP>(*branch, bytes, depth + 1)
            }
            Plan::Array(items) => {
                let mut list = Vec::new();
                bytes.blocks(|bytes, index| {
                    let item = self
                        .value::<KEEP>(*items, bytes, depth + 1)
                        .map_err(|error| error.within(index.to_string()))?;
                    if KEEP {
                        list.push(item);
                    }
                    Ok(())
                })?;
                Ok(Value::Array(list))
            }
            Plan::Map(values) => {
                let mut map = Map::new();
                bytes.blocks(|bytes, _| {
                    let key = bytes.text()?;
                    let value = self
                        .value::<KEEP>(*values, bytes, depth + 1)
                        .map_err(|error| error.within(key))?;
                    if KEEP {
                        map.insert(key.to_owned(), value);
                    }
                    Ok(())
                })?;
                Ok(Value::Object(map))
            }
            Plan::Record { fields, defaults } => {
                let mut record = Map::new();
                for (plan, name) in fields {
                    let within =
                        |error: ReadError| error.within(name.as_deref().unwrap_or("a field that is passed over"));
                    match name {
                        Some(name) if KEEP => {
                            let value = self.value::<true>(*plan, bytes, depth + 1).map_err(within)?;
                            record.insert(name.clone(), value);
                        }
                        _ => drop(self.value::<false>(*plan, bytes, depth + 1).map_err(within)?),
                    }
                }
                if KEEP {
                    record.extend(defaults.iter().cloned());
                }
                Ok(Value::Object(record))
            }
        }
    }
}

struct Planner<'a> {
    reader: &'a Schema,
    writer: &'a Schema,
    plans: Vec<Plan>,
    known: HashMap<(Option<NodeId>, NodeId), usize>,
}

impl Planner<'_> {
    /// The plan for data of `writer_id` under `reader_id`; `None` reads and forgets them.
    fn plan(&mut self, reader_id: Option<NodeId>, writer_id: NodeId) -> usize {
        if let Some(known) = self.known.get(&(reader_id, writer_id)) {
            return *known;
        }
        let index = self.plans.len();
        self.plans.push(Plan::Open);
        self.known.insert((reader_id, writer_id), index);
        let plan = match reader_id {
            Some(reader_id) => self.resolve(reader_id, writer_id),
            None => self.skip(writer_id),
        };
        self.plans[index] = plan;
        index
    }

    fn skip(&mut self, writer_id: NodeId) -> Plan {
        let writer = self.writer;
        match &writer.node(writer_id).kind {
            Kind::Primitive(primitive) => Plan::Primitive(*primitive, *primitive),
            Kind::Array(items) => Plan::Array(self.plan(None, *items)),
            Kind::Map(values) => Plan::Map(self.plan(None, *values)),
            Kind::Union(branches) => Plan::Union(branches.iter().map(|branch| self.plan(None, *branch)).collect()),
            Kind::Fixed(fixed) => Plan::Fixed(fixed.size.unsigned_abs() as usize),
            Kind::Enum(r#enum) => Plan::Enum(r#enum.symbols.iter().cloned().map(Symbol::As).collect()),
            Kind::Record(record) => Plan::Record {
                fields: record
                    .fields()
                    .iter()
                    .map(|field| (self.plan(None, field.schema), None))
                    .collect(),
                defaults: Vec::new(),
            },
        }
    }

    fn resolve(&mut self, reader_id: NodeId, writer_id: NodeId) -> Plan {
        let (reader, writer) = (self.reader, self.writer);
        match (&reader.node(reader_id).kind, &writer.node(writer_id).kind) {
            (_, Kind::Union(branches)) => Plan::Union(
                branches
                    .iter()
                    .map(|branch| self.plan(Some(reader_id), *branch))
                    .collect(),
            ),
            (Kind::Union(branches), _) => match self.branch(branches, writer_id) {
                Some(branch) => self.resolve(branch, writer_id),
                None => Plan::Never(format!(
                    "the reader's union has no branch for {}",
                    writer.node(writer_id).kind.word()
                )),
            },
            (Kind::Primitive(to), Kind::Primitive(from)) if promotes(*from, *to) => Plan::Primitive(*from, *to),
            (Kind::Array(reader), Kind::Array(writer)) => Plan::Array(self.plan(Some(*reader), *writer)),
            (Kind::Map(reader), Kind::Map(writer)) => Plan::Map(self.plan(Some(*reader), *writer)),
            (Kind::Fixed(to), Kind::Fixed(from))
                if to.size == from.size && named_alike(&to.name, &to.aliases, &from.name) =>
            {
                Plan::Fixed(from.size.unsigned_abs() as usize)
            }
            (Kind::Enum(to), Kind::Enum(from)) if named_alike(&to.name, &to.aliases, &from.name) => {
                let symbol = |symbol: &String| match (&to.default, to.symbols.contains(symbol)) {
                    (_, true) => Symbol::As(symbol.clone()),
                    (Some(default), false) => Symbol::As(default.clone()),
                    (None, false) => Symbol::Unknown(symbol.clone()),
                };
                Plan::Enum(from.symbols.iter().map(symbol).collect())
            }
            (Kind::Record(to), Kind::Record(from)) if named_alike(&to.name, &to.aliases, &from.name) => {
                self.record(to, from)
            }
            (to, from) => Plan::Never(format!(
                "written as {}, which the reader's {} cannot take",
                described(from),
                described(to)
            )),
        }
    }

    /// The branch of the reader's union that takes the writer's type: the same type first, else the first that can.
    fn branch(&self, branches: &[NodeId], writer_id: NodeId) -> Option<NodeId> {
        let takes = |branch: &&NodeId| reads(self.reader, **branch, self.writer, writer_id);
        let theirs = &self.writer.node(writer_id).kind;
        let same = |branch: &&NodeId| {
            let ours = &self.reader.node(**branch).kind;
            ours.word() == theirs.word() && ours.name().map(|name| &name.full) == theirs.name().map(|name| &name.full)
        };
        let mut exact = branches.iter().filter(same);
        exact.find(takes).or_else(|| branches.iter().find(takes)).copied()
    }

    fn record(&mut self, to: &Record, from: &Record) -> Plan {
        let source = |field: &Field| {
            let mut names = std::iter::once(&field.name).chain(&field.aliases);
            names.find_map(|name| from.fields().iter().position(|other| other.name == *name))
        };
        let mut targets: Vec<Option<usize>> = vec![None; from.fields().len()];
        let mut defaults = Vec::new();
        for (index, field) in to.fields().iter().enumerate() {
            match source(field) {
                Some(position) => targets[position] = Some(index),
                None => match &field.default {
                    Some(default) => {
                        defaults.push((field.name.clone(), default_value(self.reader, field.schema, default, 0)));
                    }
                    None => {
                        return Plan::Never(format!(
                            "the writer has no field {:?}, and the reader's has no default",
                            field.name
                        ));
                    }
                },
            }
        }
        let fields = from.fields().iter().zip(targets).map(|(field, target)| match target {
            Some(target) => {
                let target = &to.fields()[target];
                (self.plan(Some(target.schema), field.schema), Some(target.name.clone()))
            }
            None => (self.plan(None, field.schema), None),
        });
        Plan::Record {
            fields: fields.collect(),
            defaults,
        }
    }
}

fn described(kind: &Kind) -> String {
    match kind.name() {
        Some(name) => format!("{} {}", kind.word(), name.full),
        None => kind.word().to_owned(),
    }
}

/// A default as data: nested records get the defaults of the fields that it leaves out.
fn default_value(schema: &Schema, id: NodeId, default: &Json, depth: usize) -> Value {
    // A default that contains itself, which a strict parser refuses.
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    let depth = depth + 1;
    match (&schema.node(id).kind, default) {
        (Kind::Union(branches), _) => branches
            .first()
            .map_or(Value::Null, |branch| default_value(schema, *branch, default, depth)),
        (Kind::Array(items), Json::Array(list)) => list
            .iter()
            .map(|item| default_value(schema, *items, item, depth))
            .collect(),
        (Kind::Map(values), Json::Object(members)) => {
            let value = |(key, value): &(String, Json)| (key.clone(), default_value(schema, *values, value, depth));
            Value::Object(members.iter().map(value).collect())
        }
        (Kind::Record(record), Json::Object(_)) => {
            let fields = record.fields().iter().filter_map(|field| {
                let value = default.get(&field.name).or(field.default.as_ref())?;
                Some((field.name.clone(), default_value(schema, field.schema, value, depth)))
            });
            Value::Object(fields.collect())
        }
        (_, plain) => serde_json::from_str(&plain.to_string()).unwrap_or_default(),
    }
}

fn latin1(raw: &[u8]) -> Value {
    Value::String(raw.iter().map(|byte| char::from(*byte)).collect())
}

struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| ReadError::new("the bytes end too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn long(&mut self) -> Result<i64, ReadError> {
        let mut zigzag = 0_u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            zigzag |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if index == 9 && *byte > 1 {
                    break;
                }
                self.rest = &self.rest[index + 1..];
                return Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
            }
        }
        Err(ReadError::new(if self.rest.len() < 10 {
            "the bytes end too early"
        } else {
            "a number has more than 64 bits"
        }))
    }

    fn int(&mut self) -> Result<i32, ReadError> {
        i32::try_from(self.long()?).map_err(|_| ReadError::new("an int has more than 32 bits"))
    }

    fn index(&mut self, of: &str) -> Result<usize, ReadError> {
        usize::try_from(self.int()?).map_err(|_| ReadError::new(format!("the number of {of} is negative")))
    }

    fn sized(&mut self) -> Result<&'a [u8], ReadError> {
        let length = usize::try_from(self.long()?).map_err(|_| ReadError::new("a length is negative"))?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, ReadError> {
        std::str::from_utf8(self.sized()?).map_err(|_| ReadError::new("a string is not UTF-8"))
    }

    /// Calls `item` for each item of all blocks of an array or map.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self, usize) -> Result<(), ReadError>) -> Result<(), ReadError> {
        let mut index = 0;
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                count = count
                    .checked_neg()
                    .ok_or_else(|| ReadError::new("a block has no possible number of items"))?;
                // The block's length in bytes, for readers that skip it whole.
                self.long()?;
            }
            let items = usize::try_from(count).unwrap_or(usize::MAX);
            if items > ITEMS_MAX.saturating_sub(index) {
                return Err(ReadError::new(format!("more than {ITEMS_MAX} items")));
            }
            for _ in 0..items {
                item(self, index)?;
                index += 1;
            }
        }
    }

    fn primitive<const KEEP: bool>(&mut self, from: Primitive, to: Primitive) -> Result<Value, ReadError> {
        let float = matches!(to, Primitive::Float | Primitive::Double);
        Ok(match from {
            Primitive::Null => Value::Null,
            Primitive::Boolean => match self.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return Err(ReadError::new("a boolean is neither 0 nor 1")),
            },
            Primitive::Int | Primitive::Long => {
                let number = if from == Primitive::Int {
                    i64::from(self.int()?)
                } else {
                    self.long()?
                };
                match to {
                    Primitive::Float => Value::from(f64::from(number as f32)),
                    _ if float => Value::from(number as f64),
                    _ => Value::from(number),
                }
            }
            Primitive::Float => Value::from(f64::from(f32::from_le_bytes(self.array()?))),
            Primitive::Double => Value::from(f64::from_le_bytes(self.array()?)),
            Primitive::Bytes | Primitive::String => {
                let raw = self.sized()?;
                if from == Primitive::String || to == Primitive::String {
                    let text = std::str::from_utf8(raw).map_err(|_| ReadError::new("a string is not UTF-8"))?;
                    if !KEEP {
                        return Ok(Value::Null);
                    }
                    if to == Primitive::String {
                        return Ok(Value::from(text));
                    }
                }
                if KEEP { latin1(raw) } else { Value::Null }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Defaults, parse};

    fn read(reader: &str, writer: &str, datum: &[u8]) -> Result<Value, ReadError> {
        let [reader, writer] = [reader, writer].map(|text| parse(text, Defaults::Checked).unwrap());
        let resolution = Resolution::new(&reader, &writer);
        assert_eq!(resolution.verify(datum).err(), resolution.read(datum).err());
        resolution.read(datum)
    }

    #[test]
    fn a_record_is_read_as_its_reader_has_it() {
        let writer =
            r#"{"type":"record","name":"R","fields":[{"name":"gone","type":"string"},{"name":"n","type":"int"}]}"#;
        let reader = r#"{"type":"record","name":"a.R","fields":[
            {"name":"number","aliases":["n"],"type":"long"},
            {"name":"added","type":{"type":"record","name":"D","fields":[{"name":"x","type":"int","default":3}]},"default":{}},
            {"name":"maybe","type":["null","string"],"default":null}]}"#;
        let value = read(reader, writer, &[4, b'h', b'i', 0xff, 0x01]).unwrap();
        assert_eq!(value, json!({"number": -128, "added": {"x": 3}, "maybe": null}));
    }

    #[test]
    fn a_union_takes_the_branch_of_the_same_name() {
        let (one, other) = (
            r#"{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]}"#,
            r#"{"type":"record","name":"B","fields":[{"name":"x","type":"int"},{"name":"y","type":"int","default":9}]}"#,
        );
        let b = r#"{"type":"record","name":"B","fields":[{"name":"x","type":"int"}]}"#;
        let value = read(&format!("[{one},{other}]"), &format!("[\"null\",{b}]"), &[2, 8]);
        assert_eq!(value.unwrap(), json!({"x": 4, "y": 9}));
    }

    #[test]
    fn only_a_datum_of_an_unreadable_branch_is_refused() {
        let (reader, writer) = (r#""string""#, r#"["null","string"]"#);
        assert_eq!(read(reader, writer, &[2, 2, b'x']).unwrap(), json!("x"));
        assert!(read(reader, writer, &[0]).unwrap_err().what().contains("null"));
    }

    #[test]
    fn a_symbol_without_a_place_is_the_default_or_refused() {
        let writer = r#"{"type":"enum","name":"E","symbols":["A","B"]}"#;
        let (lenient, strict) = (
            r#"{"type":"enum","name":"E","symbols":["U","A"],"default":"U"}"#,
            r#"{"type":"enum","name":"E","symbols":["A"]}"#,
        );
        assert_eq!(read(lenient, writer, &[2]).unwrap(), json!("U"));
        assert_eq!(read(lenient, writer, &[0]).unwrap(), json!("A"));
        assert!(read(strict, writer, &[2]).unwrap_err().what().contains("no symbol B"));
    }

    #[test]
    fn numbers_and_texts_are_promoted() {
        for (reader, writer, datum, value) in [
            (r#""double""#, r#""int""#, &[3][..], json!(-2.0)),
            (r#""float""#, r#""long""#, &[4], json!(2.0)),
            (r#""double""#, r#""float""#, &1.5_f32.to_le_bytes(), json!(1.5)),
            (r#""bytes""#, r#""string""#, &[2, b'x'], json!("x")),
            (r#""string""#, r#""bytes""#, &[2, b'x'], json!("x")),
        ] {
            assert_eq!(read(reader, writer, datum).unwrap(), value, "{writer} as {reader}");
        }
        assert!(read(r#""string""#, r#""bytes""#, &[2, 0xff]).is_err());
    }

    #[test]
    fn blocks_may_tell_their_length_and_claim_no_more_than_the_bound() {
        let ints = r#"{"type":"array","items":"int"}"#;
        assert_eq!(read(ints, ints, &[3, 4, 2, 4, 2, 6, 0]).unwrap(), json!([1, 2, 3]));
        let nulls = r#"{"type":"array","items":"null"}"#;
        let error = read(nulls, nulls, &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0]).unwrap_err();
        assert!(error.what().contains("100000"), "{error}");
    }

    #[test]
    fn an_error_says_where() {
        let writer = r#"{"type":"record","name":"R","fields":[{"name":"l","type":{"type":"array","items":"string"}}]}"#;
        let error = read(writer, writer, &[4, 2, b'x', 2, 0xff, 0]).unwrap_err();
        assert_eq!(error.to_string(), "a string is not UTF-8, at l/1");
        assert_eq!(read(writer, writer, &[0, 7]).unwrap_err().path(), "the datum");
    }

    #[test]
    fn a_recursive_datum_is_bounded() {
        let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
        assert_eq!(read(list, list, &[2, 0]).unwrap(), json!({"next": {"next": null}}));
        assert!(read(list, list, &[2; 1000]).unwrap_err().what().contains("deep"));
    }
}
