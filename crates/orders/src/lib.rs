//! The orders service: takes orders, hears what payments and inventory answer, and decides alone, from its own stream,
//! what becomes of each.
//!
//! The modules are in the order in which data flows. Look into [`domain`] first: it is the saga.

use common::migrate::Migration;

pub mod http;

pub mod reactions;

pub mod domain;

pub mod wire;

pub mod store;

pub mod waiting;

pub mod service;

/// The tables of this service, beside those of the runtime.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "0001_orders.sql",
    sql: include_str!("../../../migrations/orders/0001_orders.sql"),
}];
