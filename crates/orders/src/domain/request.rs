//! What a customer asks for, and the small values it is made of.
//!
//! What comes from outside goes through `new`, which says what is wrong with it. What an order's own stream recorded was
//! checked when it was accepted and goes through `recorded`: rules may have changed since, history has not.

use std::fmt;

use uuid::Uuid;

/// The id of one order; as text, the name of its stream in all three services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrderId(pub Uuid);

/// The id of the event that brought an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub Uuid);

/// Who orders.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CustomerId(Box<str>);

/// What goods are called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sku(Box<str>);

/// An ISO 4217 currency.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Currency(Box<str>);

/// One line: as sent. Lines of one SKU are not joined here; inventory sums them (edge 15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which goods.
    pub sku: Sku,
    /// How many.
    pub quantity: i64,
    /// What one costs in this order, which need not be the list price.
    pub unit_price_minor: i64,
}

/// What a customer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who orders.
    pub customer_id: CustomerId,
    /// The currency of all amounts.
    pub currency: Currency,
    /// What is ordered.
    pub lines: Vec<Line>,
    /// The sum of the lines.
    pub total_minor: i64,
    /// The payment company's token.
    pub payment_method: Box<str>,
    /// The customer's own name for the order.
    pub reference: Option<Box<str>>,
    /// Where it was placed.
    pub channel: Box<str>,
    /// What the customer asks whoever packs or delivers.
    pub note: Option<Box<str>>,
    /// The caller's own words to sort orders by.
    pub tags: Vec<Box<str>>,
    /// The idempotency key it came under.
    pub idempotency_key: Option<Box<str>>,
    /// SHA-256 over the request in its canonical form, in hex: whether two requests under one key are the same.
    pub request_hash: Box<str>,
}

/// The sum of `lines`, or `None` when it does not fit.
pub fn total_minor(lines: &[Line]) -> Option<i64> {
    lines.iter().try_fold(0_i64, |total, line| {
        total.checked_add(line.quantity.checked_mul(line.unit_price_minor)?)
    })
}

impl CustomerId {
    /// Most characters.
    pub const LENGTH_MAX: usize = 64;

    /// A customer's id.
    ///
    /// # Errors
    /// What is wrong with `text`.
    pub fn new(text: &str) -> Result<Self, String> {
        printable(text, Self::LENGTH_MAX).map(|()| Self(text.into()))
    }

    /// The id as the order's stream has it.
    pub(crate) fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Sku {
    /// Most characters.
    pub const LENGTH_MAX: usize = 64;

    /// The name of goods. It is part of keys and URLs, so only characters that are safe in both.
    ///
    /// # Errors
    /// What is wrong with `text`.
    pub fn new(text: &str) -> Result<Self, String> {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > Self::LENGTH_MAX {
            Err(format!("must have 1 to {} characters", Self::LENGTH_MAX))
        } else if !text.chars().all(safe) {
            Err("may contain only letters, digits, '-', '_' and '.'".to_owned())
        } else {
            Ok(Self(text.into()))
        }
    }

    /// The name as the order's stream has it.
    pub(crate) fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Currency {
    /// The currency with this code.
    ///
    /// # Errors
    /// What is wrong with `code`.
    pub fn new(code: &str) -> Result<Self, String> {
        CURRENCIES
            .binary_search(&code)
            .map(|index| Self(CURRENCIES[index].into()))
            .map_err(|_| "must be an ISO 4217 currency code such as USD".to_owned())
    }

    /// The code as the order's stream has it.
    pub(crate) fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// The code.
    pub fn code(&self) -> &str {
        &self.0
    }
}

/// Checks a text that is kept and shown as it came: 1 to `length_max` characters, none of them a control character.
pub(crate) fn printable(text: &str, length_max: usize) -> Result<(), String> {
    if text.trim().is_empty() || text.chars().count() > length_max {
        Err(format!("must have 1 to {length_max} characters"))
    } else if text.chars().any(char::is_control) {
        Err("must not contain control characters".to_owned())
    } else {
        Ok(())
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The active codes of ISO 4217 that name money, sorted. Metals, funds and test codes are left out.
const CURRENCIES: &[&str] = &[
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BHD", "BIF", "BMD", "BND",
    "BOB", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CLP", "CNY", "COP", "CRC", "CUP", "CVE",
    "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD",
    "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF", "IDR", "ILS", "INR", "IQD", "IRR", "ISK", "JMD", "JOD", "JPY",
    "KES", "KGS", "KHR", "KMF", "KPW", "KRW", "KWD", "KYD", "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "LYD", "MAD",
    "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MRU", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN", "NAD", "NGN", "NIO",
    "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF",
    "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB",
    "TJS", "TMT", "TND", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD", "UYU", "UZS", "VED", "VES", "VND",
    "VUV", "WST", "XAF", "XCD", "XCG", "XOF", "XPF", "YER", "ZAR", "ZMW", "ZWG",
];

#[cfg(test)]
mod value_tests {
    use super::*;

    #[test]
    fn the_currencies_are_sorted_and_three_letters_long() {
        assert!(CURRENCIES.is_sorted());
        assert!(CURRENCIES.iter().all(|code| code.len() == 3));
        assert_eq!(Currency::new("USD").unwrap().code(), "USD");
        assert!(Currency::new("usd").is_err());
        assert!(Currency::new("XXX").is_err());
    }

    #[test]
    fn a_total_that_does_not_fit_is_no_total() {
        let line = |quantity, unit_price_minor| Line {
            sku: Sku::new("NW-001").unwrap(),
            quantity,
            unit_price_minor,
        };
        assert_eq!(total_minor(&[line(2, 150), line(1, 1)]), Some(301));
        assert_eq!(total_minor(&[line(i64::MAX, 2)]), None);
        assert_eq!(total_minor(&[line(1, i64::MAX), line(1, 1)]), None);
    }

    #[test]
    fn a_sku_is_safe_in_keys_and_urls() {
        assert!(Sku::new("NW-001_b.2").is_ok());
        for bad in ["", "a b", "a/b", "a:b", "ä", &"x".repeat(65)] {
            assert!(Sku::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_customer_is_printable() {
        assert!(CustomerId::new("Ángel & Søn").is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(65)] {
            assert!(CustomerId::new(bad).is_err(), "{bad:?}");
        }
    }
}
