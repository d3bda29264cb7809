//! What requests and answers look like in JSON.

use common::http::{FieldError, Problem};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::{Command, LEVEL_MAX};
use crate::goods::Sku;
use crate::store::Item;

/// Longest name of goods, in characters.
const NAME_LENGTH_MAX: usize = 200;

/// Goods and how much there is of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StockItem {
    /// Which goods.
    #[schema(example = "NW-001")]
    pub sku: String,
    /// What people call them.
    #[schema(example = "Kettle")]
    pub name: String,
    /// How many are in the house.
    #[schema(example = 10)]
    pub on_hand: i64,
    /// How many of these are set aside for orders.
    #[schema(example = 2)]
    pub reserved: i64,
    /// How many can still be ordered: `on_hand` less `reserved`.
    #[schema(example = 8)]
    pub available: i64,
    /// List price of one, in minor units.
    #[schema(example = 1999)]
    pub unit_price_minor: i64,
}

impl From<Item> for StockItem {
    fn from(item: Item) -> Self {
        Self {
            sku: item.sku.to_string(),
            available: item.level.available(),
            name: item.level.name.into(),
            on_hand: item.level.on_hand,
            reserved: item.level.reserved,
            unit_price_minor: item.level.unit_price_minor,
        }
    }
}

/// Which moment is asked about.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AsOf {
    /// A moment of the past (RFC 3339): levels as they were then, under today's name and price.
    #[param(example = "2026-01-31T12:00:00Z")]
    at: Option<String>,
}

impl AsOf {
    /// The moment; `None` for now.
    ///
    /// # Errors
    /// A 422 [`Problem`] for what is no moment.
    pub fn moment(&self) -> Result<Option<Timestamp>, Problem> {
        let parse = |text: &String| {
            // A plus sign that was not escaped arrives as a space.
            text.parse()
                .or_else(|_| text.replace(' ', "+").parse())
                .map_err(|_| Problem::invalid([FieldError::new("at", "must be a moment such as 2026-01-31T12:00:00Z")]))
        };
        self.at.as_ref().map(parse).transpose()
    }
}

/// What a count found.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adjustment {
    /// What people call the goods.
    #[schema(example = "Kettle", min_length = 1, max_length = 200)]
    name: String,
    /// How many are in the house.
    #[schema(example = 10, minimum = 0)]
    on_hand: i64,
    /// List price of one, in minor units.
    #[schema(example = 1999, minimum = 0)]
    unit_price_minor: i64,
}

impl Adjustment {
    /// The command that this asks for.
    ///
    /// # Errors
    /// A 422 [`Problem`] that names each field at fault.
    pub fn into_command(self, sku: Sku) -> Result<Command, Problem> {
        let name = self.name.trim();
        let mut errors = Vec::new();
        if name.is_empty() || name.chars().count() > NAME_LENGTH_MAX || name.chars().any(char::is_control) {
            let detail = format!("must have 1 to {NAME_LENGTH_MAX} printable characters");
            errors.push(FieldError::new("name", detail));
        }
        if !(0..=LEVEL_MAX).contains(&self.on_hand) {
            errors.push(FieldError::new("on_hand", format!("must be from 0 to {LEVEL_MAX}")));
        }
        if self.unit_price_minor < 0 {
            errors.push(FieldError::new("unit_price_minor", "must be at least 0"));
        }
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        Ok(Command::Adjust {
            sku,
            name: name.into(),
            unit_price_minor: self.unit_price_minor,
            on_hand: self.on_hand,
        })
    }
}

/// Goods that arrived.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    /// How many.
    #[schema(example = 5, minimum = 1)]
    pub quantity: i64,
}

/// A receipt that was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counted {
    /// Its id: the `Idempotency-Key`, if there was one.
    pub receipt_id: String,
    /// How many arrived.
    #[schema(example = 5)]
    pub quantity: i64,
    /// How much there is now.
    pub stock: StockItem,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjustment(body: &str) -> Result<Command, Problem> {
        let adjustment: Adjustment = serde_json::from_str(body).unwrap();
        adjustment.into_command(Sku::parse("NW-001").unwrap())
    }

    #[test]
    fn a_count_that_cannot_be_meant_names_every_field_at_fault() {
        let body = r#"{"name":" ","on_hand":-1,"unit_price_minor":-1}"#;
        let problem = serde_json::to_value(adjustment(body).unwrap_err()).unwrap();
        let fields: Vec<_> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| &error["field"])
            .collect();
        assert_eq!(fields, ["name", "on_hand", "unit_price_minor"]);
        assert!(adjustment(r#"{"name":"Kettle","on_hand":0,"unit_price_minor":0}"#).is_ok());
    }

    #[test]
    fn a_moment_is_rfc_3339() {
        let moment = |text: Option<&str>| {
            AsOf {
                at: text.map(str::to_owned),
            }
            .moment()
        };
        assert_eq!(moment(None), Ok(None));
        assert!(moment(Some("2026-01-31T12:00:00Z")).unwrap().is_some());
        assert!(moment(Some("2026-01-31T12:00:00.5+02:00")).unwrap().is_some());
        for text in ["", "yesterday", "2026-01-31", "2026-01-31T12:00:00"] {
            assert!(moment(Some(text)).is_err(), "{text:?}");
        }
    }
}
