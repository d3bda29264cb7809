//! The consumer and the committer against a real Postgres and a real broker: parking, dead letters, gaps, batches, claims, snapshots.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batches;
mod breaker;
mod campaigns;
mod claims;
mod gaps;
mod model;
mod parking;
mod snapshots;
mod together;
mod traps;
mod world;
