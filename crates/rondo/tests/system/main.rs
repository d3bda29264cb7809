//! The whole system over its real edges: HTTP, the Kafka protocol, the registry's API and Postgres.
//!
//! The servers are those that `DATABASE_URL`, `KAFKA_BROKERS` and `SCHEMA_REGISTRY_URL` name, else embedded ones. Each
//! test runs a shop of its own: three databases, a namespace of topics and groups, and its own copies of the services.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod gate;
mod shop;

mod cancel;
mod copies;
mod deadline;
mod dlq;
mod duplicates;
mod garbage;
mod hot_sku;
mod keys;
mod kills;
mod late_commit;
mod offsets;
mod one_process;
mod outages;
mod replay;
mod replay_versions;
mod restore;
mod saga;
mod schema;
mod schema_changes;
mod stuck;
mod time_travel;
mod trace;
