//! What the bench orders: two lines an order over the bench's own goods, and how many of which kind.
//!
//! The n-th order of a seed is always the same, so that two runs ask for the same.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use crate::cli::Target;

/// So much of each SKU that no run sells out.
const ON_HAND: i64 = 1_000_000_000_000;
/// Customers that orders are of.
const CUSTOMERS: u64 = 5_000;
/// SKUs that are stocked at once.
const STOCKING: usize = 32;
/// A SKU that nobody ever stocked.
const UNKNOWN_SKU: &str = "bench-none";

/// How many orders in a hundred are of each kind; the rest complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mix {
    declined: u8,
    out_of_stock: u8,
    cancelled: u8,
    hot: u8,
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Self::default();
        for piece in text.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
            let (kind, share) = piece
                .split_once('=')
                .ok_or_else(|| format!("`{piece}` is not KIND=N"))?;
            let share: u8 = share
                .parse()
                .ok()
                .filter(|share| *share <= 100)
                .ok_or_else(|| format!("`{share}` is not a share of a hundred"))?;
            *match kind {
                "declined" => &mut mix.declined,
                "out_of_stock" => &mut mix.out_of_stock,
                "cancelled" => &mut mix.cancelled,
                "hot" => &mut mix.hot,
                _ => return Err(format!("`{kind}` is none of declined, out_of_stock, cancelled, hot")),
            } = share;
        }
        let endings = u32::from(mix.declined) + u32::from(mix.out_of_stock) + u32::from(mix.cancelled);
        if endings > 100 {
            return Err("declined, out_of_stock and cancelled are more than a hundred together".to_owned());
        }
        Ok(mix)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("declined", self.declined),
            ("out_of_stock", self.out_of_stock),
            ("cancelled", self.cancelled),
            ("hot", self.hot),
        ];
        let named = kinds.iter().filter(|(_, share)| *share > 0);
        let text: Vec<String> = named.map(|(kind, share)| format!("{kind}={share}")).collect();
        f.write_str(&text.join(","))
    }
}

/// One order to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The body of the request.
    pub(super) body: String,
    /// The body of a cancellation, if the customer cancels as soon as the order is accepted.
    pub(super) cancel: Option<String>,
}

/// The orders of a run.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    mix: Mix,
    skus: u32,
    seed: u64,
}

impl Orders {
    /// Orders of `mix` over so many stocked SKUs.
    pub(super) fn new(mix: Mix, skus: u32, seed: u64) -> Self {
        Self { mix, skus, seed }
    }

    /// The n-th order.
    pub(super) fn order(&self, n: u64) -> Order {
        let draw = |what: u64| scramble(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(8) ^ what);
        let kind = u8::try_from(draw(0) % 100).expect("a remainder of a hundred");
        let until_declined = self.mix.declined;
        let until_out_of_stock = until_declined + self.mix.out_of_stock;
        let until_cancelled = until_out_of_stock + self.mix.cancelled;
        let skus = u64::from(self.skus);
        let first = if draw(1) % 100 < u64::from(self.mix.hot) {
            0
        } else {
            draw(2) % skus
        };
        let second = (first + 1 + draw(3) % (skus - 1)) % skus;
        let second = if (until_declined..until_out_of_stock).contains(&kind) {
            UNKNOWN_SKU.to_owned()
        } else {
            sku(second)
        };
        let method = if kind < until_declined {
            "tok_declined"
        } else {
            "tok_visa"
        };
        let customer = draw(4) % CUSTOMERS;
        let body = format!(
            r#"{{"customer_id":"bench-{customer}","currency":"EUR","lines":[{{"sku":"{}","quantity":1,"unit_price_minor":4990}},{{"sku":"{second}","quantity":2,"unit_price_minor":4000}}],"payment_method":"{method}"}}"#,
            sku(first),
        );
        let cancels = (until_out_of_stock..until_cancelled).contains(&kind);
        Order {
            body,
            cancel: cancels.then(|| format!(r#"{{"customer_id":"bench-{customer}"}}"#)),
        }
    }
}

fn sku(number: u64) -> String {
    format!("bench-{number:05}")
}

/// One step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): well-spread bits from any number.
fn scramble(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sees to it that the bench's SKUs are in stock; how many there are.
pub(super) async fn stock(target: &Target, skus: u32) -> Result<u32> {
    let base = target.http("inventory")?.join("inventory/")?;
    let token = target.token()?;
    let set = async |number: u64| -> Result<()> {
        let name = sku(number);
        let mut request = target
            .client()
            .put(base.join(&name)?)
            .json(&json!({"name": name, "on_hand": ON_HAND, "unit_price_minor": 4990}));
        if let Some(token) = &token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await?;
        if !response.status().is_success() {
            let status = response.status();
            bail!("{name}: {status} {}", response.text().await.unwrap_or_default());
        }
        Ok(())
    };
    let last = sku(u64::from(skus) - 1);
    let present = target.client().get(base.join(&last)?).send().await;
    let present = present.context("inventory does not answer")?.status().is_success();
    if !present {
        stream::iter(0..u64::from(skus))
            .map(Ok)
            .try_for_each_concurrent(STOCKING, set)
            .await?;
    }
    Ok(skus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read_and_told_alike() {
        let mix: Mix = "declined=10,cancelled=5, hot=50".parse().unwrap();
        assert_eq!(mix.to_string(), "declined=10,cancelled=5,hot=50");
        assert_eq!(Mix::from_str(""), Ok(Mix::default()));
        for wrong in [
            "declined",
            "declined=x",
            "declined=101",
            "late=1",
            "declined=60,out_of_stock=50",
        ] {
            assert!(Mix::from_str(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn orders_come_in_the_shares_of_the_mix_and_alike_each_time() {
        let mix: Mix = "declined=10,out_of_stock=20,cancelled=5,hot=50".parse().unwrap();
        let orders = Orders::new(mix, 1_000, 7);
        assert_eq!(orders.order(42), orders.order(42));
        let all: Vec<Order> = (0..10_000).map(|n| orders.order(n)).collect();
        let share = |is: &dyn Fn(&Order) -> bool| all.iter().filter(|order| is(order)).count() / 100;
        assert!((8..=12).contains(&share(&|order| order.body.contains("tok_declined"))));
        assert!((17..=23).contains(&share(&|order| order.body.contains(UNKNOWN_SKU))));
        assert!((3..=7).contains(&share(&|order| order.cancel.is_some())));
        assert!((46..=54).contains(&share(&|order| order.body.contains("bench-00000"))));
        assert!(
            all.iter()
                .all(|order| serde_json::from_str::<serde_json::Value>(&order.body).is_ok())
        );
    }
}
