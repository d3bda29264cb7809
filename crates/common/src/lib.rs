//! The runtime of an event-sourced service on Kafka and Postgres.
//!
//! Mechanism only: no business noun lives here.

pub mod claims;
pub mod codec;
pub mod config;
pub mod envelope;
pub mod event;
pub mod inbox;
pub mod kafka;
pub mod migrate;
pub mod model;
pub mod parking;
pub mod pg;
pub mod record;
pub mod store;
pub mod telemetry;
pub mod waiters;
