//! The inventory service: it sets goods aside, lets them leave, and takes them back.
//!
//! It hears orders, answers with its own events, and takes counts and receipts over HTTP. The modules are in the order in
//! which data flows.

pub mod http;
pub mod reactions;

pub mod domain;
pub mod goods;
pub mod stock;

pub mod snapshot;
pub mod wire;

pub mod service;
pub mod store;

use common::migrate::Migration;

pub use service::Inventory;

/// The service's name, which is also its consumer's.
pub const NAME: &str = "inventory";

/// The tables of this service, beside the runtime's.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "0001_stock.sql",
    sql: include_str!("../../../migrations/inventory/0001_stock.sql"),
}];
