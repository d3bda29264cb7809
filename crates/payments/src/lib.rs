//! The payments service: it holds, takes and gives back the money of an order.
//!
//! It hears orders, answers with its own events, and keeps asking a gateway that does not answer. The modules are in the
//! order in which data flows.

pub mod http;
pub mod reactions;

pub mod domain;
pub mod gateway;
pub mod money;

pub mod wire;

pub mod service;
pub mod store;

use common::migrate::Migration;

pub use service::Payments;

/// The service's name, which is also its consumer's.
pub const NAME: &str = "payments";

/// The tables of this service, beside the runtime's.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "0001_payments.sql",
    sql: include_str!("../../../migrations/payments/0001_payments.sql"),
}];
