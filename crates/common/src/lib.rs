//! The runtime of an event-sourced service on Kafka and Postgres.
//!
//! Mechanism only: no business noun lives here.

pub mod codec;
pub mod event;
pub mod migrate;
pub mod model;
