//! Modes: what may be written to the registry, or to a subject.

/// One of Confluent's modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Schemas are registered, and get the next id.
    #[default]
    ReadWrite,
    /// Nothing is registered or deleted.
    ReadOnly,
    /// As read-only, and no subject's own mode counts.
    ReadOnlyOverride,
    /// Schemas are registered with the ids and versions that they bring, unchecked.
    Import,
}

impl Mode {
    const ALL: [Mode; 4] = [Mode::ReadWrite, Mode::ReadOnly, Mode::ReadOnlyOverride, Mode::Import];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Mode::ReadWrite => "READWRITE",
            Mode::ReadOnly => "READONLY",
            Mode::ReadOnlyOverride => "READONLY_OVERRIDE",
            Mode::Import => "IMPORT",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Mode> {
        Mode::ALL
            .into_iter()
            .find(|mode| mode.word().eq_ignore_ascii_case(word))
    }

    pub(crate) fn is_read_only(self) -> bool {
        matches!(self, Mode::ReadOnly | Mode::ReadOnlyOverride)
    }
}
