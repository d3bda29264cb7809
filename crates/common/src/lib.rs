//! The runtime of an event-sourced service on Kafka and Postgres.
//!
//! Mechanism only: no business noun lives here.

pub mod breaker;
pub mod campaigns;
pub mod claims;
pub mod codec;
pub mod committer;
pub mod config;
pub mod consumer;
pub mod deadlines;
pub mod envelope;
pub mod event;
pub mod http;
pub mod inbox;
pub mod kafka;
pub mod migrate;
pub mod model;
pub mod parking;
pub mod pg;
pub mod readable;
pub mod record;
pub mod relay;
pub mod replay;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod timers;
pub mod waiters;
