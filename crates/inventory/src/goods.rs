//! Goods and quantities of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The name of one kind of goods: a stock-keeping unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sku(Arc<str>);

impl Sku {
    /// Longest SKU, in bytes.
    pub const LENGTH_MAX: usize = 64;

    /// `None` unless `text` has 1 to [`Self::LENGTH_MAX`] letters, digits, dots, dashes or underscores of ASCII: it is
    /// part of keys and of URLs.
    pub fn parse(text: &str) -> Option<Self> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits = (1..=Self::LENGTH_MAX).contains(&text.len()) && text.bytes().all(safe);
        fits.then(|| Self(text.into()))
    }

    /// A SKU that an event or a table recorded.
    pub fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// The SKU's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A quantity of one kind of goods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which goods.
    pub sku: Sku,
    /// How many.
    pub quantity: i64,
}

/// Lines that are sorted by SKU and name each once. Copies share their memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(Arc<[Line]>);

impl Lines {
    /// Sums `lines` by SKU. A sum that no number holds stays at the largest one, of which there is never enough.
    pub fn sum(lines: impl IntoIterator<Item = Line>) -> Self {
        let mut sums = BTreeMap::<Sku, i64>::new();
        for line in lines {
            let sum = sums.entry(line.sku).or_default();
            *sum = sum.saturating_add(line.quantity);
        }
        Self(sums.into_iter().map(|(sku, quantity)| Line { sku, quantity }).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each line, in order of its SKU.
    pub fn iter(&self) -> std::slice::Iter<'_, Line> {
        self.0.iter()
    }
}

/// Goods of which there was not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Which goods.
    pub sku: Sku,
    /// How many were asked for.
    pub requested: i64,
    /// How many there were.
    pub available: i64,
}

/// Id of a receipt of goods: the same receipt counts once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReceiptId(Box<str>);

impl ReceiptId {
    /// Longest id, in bytes.
    pub const LENGTH_MAX: usize = 255;

    /// `None` for an empty id or one longer than [`Self::LENGTH_MAX`].
    pub fn parse(text: &str) -> Option<Self> {
        (1..=Self::LENGTH_MAX).contains(&text.len()).then(|| Self(text.into()))
    }

    /// An id that an event or a table recorded.
    pub fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sku_is_short_and_safe_in_keys_and_urls() {
        for text in ["A", "NW-001", "a.b_c-9", &"x".repeat(64)] {
            assert!(Sku::parse(text).is_some(), "{text:?}");
        }
        for text in ["", "a b", "a/b", "sku:a", "ä", &"x".repeat(65)] {
            assert!(Sku::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn lines_of_one_sku_are_summed_and_all_are_sorted() {
        let line = |sku: &str, quantity| Line {
            sku: Sku::recorded(sku),
            quantity,
        };
        let lines = Lines::sum([line("b", 1), line("a", 2), line("b", 3)]);
        assert_eq!(lines.iter().cloned().collect::<Vec<_>>(), [line("a", 2), line("b", 4)]);
        let endless = Lines::sum([line("a", i64::MAX), line("a", i64::MAX)]);
        assert_eq!(endless.iter().next().unwrap().quantity, i64::MAX);
    }
}
