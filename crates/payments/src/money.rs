//! Amounts of money: integer minor units and an ISO 4217 code, never a fraction.

use std::fmt;

/// The three letters of a currency, as ISO 4217 writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// `None` unless `code` is three capital letters. Whether such a currency exists is not this service's business.
    pub fn parse(code: &str) -> Option<Self> {
        let letters: [u8; 3] = code.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }

    /// The code's text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a currency is made of ASCII letters only")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An amount that is not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

impl Money {
    /// `None` for less than nothing.
    pub fn new(minor: i64, currency: Currency) -> Option<Self> {
        (minor >= 0).then_some(Self { minor, currency })
    }

    /// How much, in minor units.
    pub fn minor(&self) -> i64 {
        self.minor
    }

    /// Of which currency.
    pub fn currency(&self) -> Currency {
        self.currency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_currency_is_three_capital_letters() {
        assert_eq!(Currency::parse("EUR").unwrap().as_str(), "EUR");
        for code in ["", "EU", "EURO", "eur", "E1R", "€"] {
            assert_eq!(Currency::parse(code), None, "{code:?}");
        }
    }

    #[test]
    fn an_amount_may_be_nothing_but_not_less() {
        let euro = Currency::parse("EUR").unwrap();
        assert!(Money::new(0, euro).is_some());
        assert!(Money::new(-1, euro).is_none());
    }
}
