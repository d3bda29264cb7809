//! Changes that resolve by the letter of the rules and still give readers wrong values.
//!
//! Logical types play no part in [`check`](crate::check), as in Java's: a `timestamp-millis` that becomes a
//! `timestamp-micros` resolves, and every instant is off by a thousand. (Of decimals the specification itself asks that
//! scale and precision match.) A union of records with the same fields is told apart by their names alone, which readers
//! that go by shape do not see. And a field that was renamed with an alias is read by those who heed aliases; others, of
//! which there are some in every language, find its default or nothing.

use std::collections::HashSet;

use super::compatibility::named_alike;
use super::json::Json;
use super::schema::{Kind, Node, NodeId, Schema};

/// One such change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// `LOGICAL_TYPE_CHANGED`, `UNION_OF_LIKE_RECORDS` or `RENAMED_BY_ALIAS`.
    pub word: &'static str,
    /// Where in the reader's schema, as a JSON pointer.
    pub path: String,
    /// What was and what is.
    pub detail: String,
}

impl Trap {
    /// The trap in the form of a registry's message.
    pub fn describe(&self) -> String {
        let Self { word, path, detail } = self;
        format!(
            "{{errorType:'{word}', description:'The schemas resolve, but readers would get wrong values (path '{path}')', additionalInfo:'{detail}'}}"
        )
    }
}

/// The traps on the way from `writer`'s data to `reader`.
pub fn traps(reader: &Schema, writer: &Schema) -> Vec<Trap> {
    let mut walk = Walk {
        reader,
        writer,
        seen: HashSet::new(),
        found: Vec::new(),
    };
    walk.pair(reader.root, writer.root, "");
    walk.found
}

struct Walk<'a> {
    reader: &'a Schema,
    writer: &'a Schema,
    seen: HashSet<(NodeId, NodeId)>,
    found: Vec<Trap>,
}

impl Walk<'_> {
    fn pair(&mut self, reader_id: NodeId, writer_id: NodeId, path: &str) {
        if !self.seen.insert((reader_id, writer_id)) {
            return;
        }
        let (reader, writer) = (self.reader, self.writer);
        let (ours, theirs) = (reader.node(reader_id), writer.node(writer_id));
        if let (Some(now), Some(was)) = (logical_type(ours), logical_type(theirs))
            && now != was
        {
            self.found.push(Trap {
                word: "LOGICAL_TYPE_CHANGED",
                path: path.to_owned(),
                detail: format!("written as {was}, read as {now}"),
            });
        }
        match (&ours.kind, &theirs.kind) {
            (Kind::Array(ours), Kind::Array(theirs)) => self.pair(*ours, *theirs, &format!("{path}/items")),
            (Kind::Map(ours), Kind::Map(theirs)) => self.pair(*ours, *theirs, &format!("{path}/values")),
            (Kind::Record(ours), Kind::Record(theirs)) => {
                for (index, field) in ours.fields().iter().enumerate() {
                    let mut names = std::iter::once(&field.name).chain(&field.aliases);
                    if let Some(other) = names.find_map(|name| theirs.field(name)) {
                        if other.name != field.name {
                            self.found.push(Trap {
                                word: "RENAMED_BY_ALIAS",
                                path: format!("{path}/fields/{index}"),
                                detail: format!("written as {}, read as {}", other.name, field.name),
                            });
                        }
                        self.pair(field.schema, other.schema, &format!("{path}/fields/{index}/type"));
                    }
                }
            }
            (Kind::Union(ours), theirs) => {
                let branches = match theirs {
                    Kind::Union(branches) => branches.clone(),
                    _ => vec![writer_id],
                };
                if let Some((one, other)) = like_records(reader, ours)
                    && like_records(writer, &branches).is_none()
                {
                    self.found.push(Trap {
                        word: "UNION_OF_LIKE_RECORDS",
                        path: path.to_owned(),
                        detail: format!("{one} and {other} have the same fields"),
                    });
                }
                for (index, branch) in ours.iter().enumerate() {
                    for other in &branches {
                        if alike(&reader.node(*branch).kind, &writer.node(*other).kind) {
                            self.pair(*branch, *other, &format!("{path}/{index}"));
                        }
                    }
                }
            }
            (_, Kind::Union(branches)) => {
                for other in branches {
                    if alike(&ours.kind, &writer.node(*other).kind) {
                        self.pair(reader_id, *other, path);
                    }
                }
            }
            _ => {}
        }
    }
}

fn alike(reader: &Kind, writer: &Kind) -> bool {
    match (reader, writer) {
        (Kind::Record(ours), Kind::Record(theirs)) => named_alike(&ours.name, &ours.aliases, &theirs.name),
        (Kind::Union(_), _) | (_, Kind::Union(_)) => false,
        (ours, theirs) => ours.word() == theirs.word(),
    }
}

/// The first two records of a union that have the same fields.
fn like_records(schema: &Schema, branches: &[NodeId]) -> Option<(String, String)> {
    let mut shapes: Vec<(Vec<&str>, &str)> = Vec::new();
    for branch in branches {
        let Kind::Record(record) = &schema.node(*branch).kind else {
            continue;
        };
        let fields: Vec<&str> = record.fields().iter().map(|field| field.name.as_str()).collect();
        if let Some((_, first)) = shapes.iter().find(|(shape, _)| *shape == fields) {
            return Some(((*first).to_owned(), record.name.full.clone()));
        }
        shapes.push((fields, &record.name.full));
    }
    None
}

/// The logical type with what belongs to it: `decimal(9, 2)`.
fn logical_type(node: &Node) -> Option<String> {
    let prop = |key: &str| node.props.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    let name = prop("logicalType").and_then(Json::as_str)?;
    if name != "decimal" {
        return Some(name.to_owned());
    }
    let number = |key| prop(key).map_or_else(|| "0".to_owned(), ToString::to_string);
    Some(format!("decimal({}, {})", number("precision"), number("scale")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Defaults, check, parse};

    fn between(reader: &str, writer: &str) -> Vec<Trap> {
        let [reader, writer] = [reader, writer].map(|text| parse(text, Defaults::Checked).unwrap());
        assert_eq!(check(&reader, &writer), [], "the rules alone see nothing");
        traps(&reader, &writer)
    }

    fn of_field(of_type: &str) -> String {
        format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{of_type}}}]}}"#)
    }

    #[test]
    fn an_instant_in_another_unit_is_a_trap() {
        let found = between(
            &of_field(r#"["null",{"type":"long","logicalType":"timestamp-micros"}]"#),
            &of_field(r#"{"type":"long","logicalType":"timestamp-millis"}"#),
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "/fields/0/type/1");
        assert_eq!(found[0].detail, "written as timestamp-millis, read as timestamp-micros");
    }

    #[test]
    fn a_decimal_of_another_scale_is_a_trap_and_its_order_of_members_is_none() {
        let two = of_field(r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#);
        let two_again = of_field(r#"{"type":"bytes","scale":2,"precision":9,"logicalType":"decimal"}"#);
        let three = of_field(r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":3}"#);
        assert_eq!(between(&two, &two_again), []);
        assert_eq!(between(&three, &two)[0].word, "LOGICAL_TYPE_CHANGED");
    }

    #[test]
    fn a_logical_type_that_was_added_says_what_the_number_meant() {
        let plain = of_field(r#""long""#);
        assert_eq!(
            between(&of_field(r#"{"type":"long","logicalType":"timestamp-millis"}"#), &plain),
            []
        );
    }

    #[test]
    fn a_union_that_becomes_one_of_like_records_is_a_trap() {
        let card = r#"{"type":"record","name":"Card","fields":[{"name":"id","type":"string"}]}"#;
        let bank = card.replace("Card", "Bank");
        let (one, both) = (
            of_field(&format!("[\"null\",{card}]")),
            of_field(&format!("[\"null\",{card},{bank}]")),
        );
        assert_eq!(between(&both, &one)[0].word, "UNION_OF_LIKE_RECORDS");
        assert_eq!(between(&both, &both), []);
    }

    #[test]
    fn a_field_renamed_by_an_alias_is_a_trap_and_an_alias_that_nothing_needs_is_none() {
        let field = |name: &str, alias: &str| {
            format!(
                r#"{{"type":"record","name":"R","fields":[{{"name":"{name}","aliases":["{alias}"],"type":"int","default":0}}]}}"#
            )
        };
        let found = between(&field("new", "old"), &field("old", "older"));
        assert_eq!((found.len(), found[0].word), (1, "RENAMED_BY_ALIAS"));
        assert_eq!(
            (found[0].path.as_str(), found[0].detail.as_str()),
            ("/fields/0", "written as old, read as new")
        );
        assert_eq!(between(&field("new", "old"), &field("new", "other")), []);
    }

    #[test]
    fn a_recursive_type_comes_to_an_end() {
        let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
        assert_eq!(between(list, list), []);
    }
}
