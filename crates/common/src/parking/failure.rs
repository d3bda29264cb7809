//! Why a record failed, and what becomes of it. No SQL.

/// Longest error text that is kept.
pub const ERROR_LENGTH_MAX: usize = 2_000;
/// The [`Failure::class`] of a record before which versions of its stream are missing.
pub const GAP: &str = "gap";

/// What becomes of a record that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It may succeed later: its key is parked and it is tried again.
    Retry,
    /// It cannot be understood, now or ever.
    Poison,
    /// It is understood and refused by the domain.
    Business,
    /// It was tried as often as it may be.
    Exhausted,
}

impl Disposition {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Poison => "poison",
            Self::Business => "business",
            Self::Exhausted => "exhausted",
        }
    }
}

/// Why a record failed and what becomes of it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// A short stable name of the kind of error, for filters.
    pub class: &'static str,
    /// The chain of causes, for people.
    pub message: String,
    /// What becomes of the record.
    pub disposition: Disposition,
}

impl Failure {
    /// A failure from an error and all its sources.
    pub fn new(class: &'static str, disposition: Disposition, error: &dyn std::error::Error) -> Self {
        Self::told(class, disposition, chain(error))
    }

    /// A failure from words.
    pub fn told(class: &'static str, disposition: Disposition, message: String) -> Self {
        Self {
            class,
            message: storable(message),
            disposition,
        }
    }

    /// The failure of a record before which `missing` versions of its stream have not arrived. It may heal: they may
    /// only be late.
    pub fn missing(missing: &[(i64, i64)]) -> Self {
        let ranges: Vec<String> = missing
            .iter()
            .map(|(first, last)| match first == last {
                true => first.to_string(),
                false => format!("{first} to {last}"),
            })
            .collect();
        let message = format!(
            "the stream's versions before this one are not complete: {} did not arrive. If they are not in the topic, \
             they are lost",
            ranges.join(", ")
        );
        Self::told(GAP, Disposition::Retry, message)
    }
}

/// An error and all its sources, as one text.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A text that the database takes: it has no NUL, and an end.
fn storable(mut text: String) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    if text.len() > ERROR_LENGTH_MAX {
        let end = text.floor_char_boundary(ERROR_LENGTH_MAX);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let text = storable("ä".repeat(ERROR_LENGTH_MAX));
        assert!(text.ends_with('…') && text.len() <= ERROR_LENGTH_MAX + '…'.len_utf8());
    }

    #[test]
    fn an_error_is_told_in_a_text_that_postgres_takes() {
        assert_eq!(storable("a\0b".into()), "a\u{fffd}b");
    }

    #[test]
    fn the_missing_versions_are_named() {
        let failure = Failure::missing(&[(3, 3), (7, 9)]);
        assert!(
            failure.message.contains("3, 7 to 9 did not arrive"),
            "{}",
            failure.message
        );
    }
}
