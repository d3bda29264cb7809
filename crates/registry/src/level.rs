//! Compatibility levels: which earlier versions a new schema is held against, and who must read whom.

use avro::{Schema, check, traps};

/// The longest old schema that a message repeats in full, in bytes.
const QUOTED_BYTES_MAX: usize = 10 * 1024;

/// One of Confluent's seven compatibility levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Anything goes.
    None,
    /// The new schema reads what the latest version wrote.
    #[default]
    Backward,
    /// The new schema reads what any version wrote.
    BackwardTransitive,
    /// The latest version reads what the new schema writes.
    Forward,
    /// Every version reads what the new schema writes.
    ForwardTransitive,
    /// Backward and forward.
    Full,
    /// Backward and forward, with every version.
    FullTransitive,
}

impl Level {
    /// All levels.
    pub const ALL: [Level; 7] = [
        Level::None,
        Level::Backward,
        Level::BackwardTransitive,
        Level::Forward,
        Level::ForwardTransitive,
        Level::Full,
        Level::FullTransitive,
    ];

    /// The level's name, as the API has it.
    pub fn word(self) -> &'static str {
        match self {
            Level::None => "NONE",
            Level::Backward => "BACKWARD",
            Level::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Level::Forward => "FORWARD",
            Level::ForwardTransitive => "FORWARD_TRANSITIVE",
            Level::Full => "FULL",
            Level::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// The level of that name, in capitals or not.
    pub fn from_word(word: &str) -> Option<Level> {
        Level::ALL
            .into_iter()
            .find(|level| level.word().eq_ignore_ascii_case(word))
    }

    /// Whether all earlier versions count, not the latest alone.
    pub fn is_transitive(self) -> bool {
        matches!(
            self,
            Level::BackwardTransitive | Level::ForwardTransitive | Level::FullTransitive
        )
    }

    /// Whether the new version must read what earlier ones wrote.
    pub fn new_reads_old(self) -> bool {
        matches!(
            self,
            Level::Backward | Level::BackwardTransitive | Level::Full | Level::FullTransitive
        )
    }

    /// Whether earlier versions must read what the new one writes.
    pub fn old_reads_new(self) -> bool {
        matches!(
            self,
            Level::Forward | Level::ForwardTransitive | Level::Full | Level::FullTransitive
        )
    }

    /// Holds `new` against `earlier`, latest first, and returns Confluent's messages: none if it is compatible, else
    /// those of the first version that it is not compatible with.
    pub fn judge<'a>(self, new: &Schema, earlier: impl IntoIterator<Item = Earlier<'a>>) -> Vec<String> {
        let count = if self.is_transitive() { usize::MAX } else { 1 };
        for old in earlier.into_iter().take(if self == Level::None { 0 } else { count }) {
            let forward = if self.old_reads_new() {
                check(old.schema, new)
            } else {
                Vec::new()
            };
            let backward = if self.new_reads_old() {
                check(new, old.schema)
            } else {
                Vec::new()
            };
            let trapped: Vec<_> = if self.new_reads_old() {
                traps(new, old.schema)
            } else {
                Vec::new()
            };
            if forward.is_empty() && backward.is_empty() && trapped.is_empty() {
                continue;
            }
            let mut messages: Vec<_> = forward.iter().map(|found| found.describe("old", "new")).collect();
            messages.extend(backward.iter().map(|found| found.describe("new", "old")));
            messages.extend(trapped.iter().map(avro::Trap::describe));
            // Confluent names the old schema after the last direction that it looks in, if that one found anything.
            if !backward.is_empty() || !trapped.is_empty() || !self.new_reads_old() {
                messages.push(format!("{{oldSchemaVersion: {}}}", old.version));
                messages.push(quote(&old.schema.canonical()));
            }
            messages.push(format!("{{validateFields: 'false', compatibility: '{}'}}", self.word()));
            return messages;
        }
        Vec::new()
    }
}

/// An earlier version of a subject.
#[derive(Clone, Copy, Debug)]
pub struct Earlier<'a> {
    /// Its number.
    pub version: i32,
    /// Its schema.
    pub schema: &'a Schema,
}

fn quote(text: &str) -> String {
    if text.len() <= QUOTED_BYTES_MAX {
        return format!("{{oldSchema: '{text}'}}");
    }
    let cut = text.floor_char_boundary(QUOTED_BYTES_MAX);
    format!(
        "{{oldSchema: <truncated to {QUOTED_BYTES_MAX} characters> '{}'}}",
        &text[..cut]
    )
}
