//! A private Postgres cluster and a Kafka-protocol broker inside this process tree.
//!
//! Both keep their data in a directory the caller names, listen on loopback only, and are reached over their ordinary
//! wire protocols: a service cannot tell them from real servers, and nothing here is a mock. They are the default of a
//! laptop and of tests; production brings its own.

pub mod broker;
mod lock;
pub mod port;
pub mod postgres;
