//! What is wrong between two schemas, for people: where, in the fields' own names, and what to do about it.

use super::compatibility::{Incompatibility, Reason, check};
use super::schema::{Kind, NodeId, Schema};
use super::traps::{Trap, traps};

/// One thing that keeps a reader from what a writer wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Confluent's word for the reason, or a [`Trap`]'s.
    pub reason: &'static str,
    /// Where in the reader's schema, as a JSON pointer.
    pub path: String,
    /// The same by the names of fields: `lines.sku`; empty for the whole of it.
    pub field: String,
    /// The names, types or symbols concerned.
    pub detail: String,
    /// What to do about it.
    pub hint: String,
}

/// Everything that keeps data of `writer` from being read rightly with `reader`; nothing if they are compatible.
pub fn advise(reader: &Schema, writer: &Schema) -> Vec<Finding> {
    let rules = check(reader, writer).into_iter().map(|found| {
        let hint = hint(&found, reader, writer);
        let Incompatibility { reason, path, detail } = found;
        (reason.word(), path, detail, hint)
    });
    let traps = traps(reader, writer).into_iter().map(|Trap { word, path, detail }| {
        let hint = match word {
            "LOGICAL_TYPE_CHANGED" => {
                "the bytes are the same and mean something else: keep this field, and add another one with a default"
            }
            "RENAMED_BY_ALIAS" => {
                "readers that pass over aliases find the default or nothing: keep the name, or add another field with a default"
            }
            _ => "give the records different fields, or make the choice two nullable fields",
        };
        (word, path, detail, hint.to_owned())
    });
    rules
        .chain(traps)
        .map(|(reason, path, detail, hint)| Finding {
            field: named(reader, &path),
            reason,
            path,
            detail,
            hint,
        })
        .collect()
}

fn hint(found: &Incompatibility, reader: &Schema, writer: &Schema) -> String {
    let detail = &found.detail;
    match found.reason {
        Reason::ReaderFieldMissingDefaultValue => match lost_twin(reader, writer, detail) {
            Some(old) => format!(
                "if {detail} is {old} by another name, keep the name {old}; if it is new, give it a default"
            ),
            None => format!("give {detail} a default: data without it exist"),
        },
        Reason::TypeMismatch if check(writer, reader).is_empty() => {
            "the other way round it reads: deploy the readers of the wider type first, then the writers".to_owned()
        }
        Reason::TypeMismatch => "only widening is possible (int to long, float or double; long to float or double; float to \
                                 double; string and bytes): keep the type, and add another field with a default, or make it a \
                                 new event"
            .to_owned(),
        Reason::MissingEnumSymbols => {
            format!("keep the symbols {detail}, or give the reading enum a \"default\" that stands in for them")
        }
        Reason::NameMismatch => format!("keep the name ({detail}), or give it to \"aliases\"; a new meaning is a new event"),
        Reason::MissingUnionBranch => "keep every branch that data may have; adding one is possible".to_owned(),
        Reason::FixedSizeMismatch => "a fixed cannot change its size: add another field with a default".to_owned(),
        Reason::AmbiguousField => "an alias that is another field's name says nothing: take it away".to_owned(),
    }
}

/// The one field that the reader's record lost, if the new one could be it under another name.
fn lost_twin(reader: &Schema, writer: &Schema, new: &str) -> Option<String> {
    let (Kind::Record(ours), Kind::Record(theirs)) = (&reader.node(reader.root).kind, &writer.node(writer.root).kind)
    else {
        return None;
    };
    let new = ours.field(new)?;
    let word = |schema: &Schema, id: NodeId| schema.node(id).kind.word();
    let mut lost = theirs.fields().iter().filter(|field| ours.field(&field.name).is_none());
    let one = lost.next().filter(|_| lost.next().is_none())?;
    (word(reader, new.schema) == word(writer, one.schema)).then(|| one.name.clone())
}

/// The fields' names along a JSON pointer into `schema`.
fn named(schema: &Schema, pointer: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut at = Some(schema.root);
    let mut steps = pointer.split('/').filter(|step| !step.is_empty());
    while let (Some(id), Some(step)) = (at, steps.next()) {
        at = match (&schema.node(id).kind, step) {
            (Kind::Record(record), "fields") => {
                let field = steps
                    .next()
                    .and_then(|index| record.fields().get(index.parse::<usize>().ok()?));
                names.extend(field.map(|field| field.name.as_str()));
                field.map(|field| field.schema)
            }
            (Kind::Array(items), "items") => Some(*items),
            (Kind::Map(values), "values") => Some(*values),
            // The place of the field itself, which the type follows.
            (_, "type") => Some(id),
            (Kind::Union(branches), index) => index
                .parse::<usize>()
                .ok()
                .and_then(|index| branches.get(index))
                .copied(),
            _ => None,
        };
    }
    names.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Defaults, parse};

    fn of(reader: &str, writer: &str) -> Finding {
        let [reader, writer] = [reader, writer].map(|text| parse(text, Defaults::Checked).unwrap());
        advise(&reader, &writer).remove(0)
    }

    #[test]
    fn a_place_is_told_by_the_names_of_fields() {
        let order = |sku: &str| {
            format!(
                r#"{{"type":"record","name":"O","fields":[{{"name":"id","type":"int"}},{{"name":"lines","type":{{"type":"array","items":
                {{"type":"record","name":"L","fields":[{{"name":"sku","type":"{sku}"}}]}}}}}}]}}"#
            )
        };
        let found = of(&order("int"), &order("string"));
        assert_eq!((found.reason, found.field.as_str()), ("TYPE_MISMATCH", "lines.sku"));
        assert_eq!(found.path, "/fields/1/type/items/fields/0/type");
    }

    #[test]
    fn a_rename_is_suspected_where_one_field_went_and_one_came() {
        let with =
            |name: &str| format!(r#"{{"type":"record","name":"R","fields":[{{"name":"{name}","type":"int"}}]}}"#);
        let found = of(&with("count"), &with("number"));
        assert!(found.hint.contains("count is number by another name"), "{}", found.hint);
    }
}
