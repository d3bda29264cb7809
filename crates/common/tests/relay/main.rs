//! The relay against a real Postgres and a real broker: order, gaps, leadership, outages, lost logs, dead letters.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dead_letters;
mod gaps;
mod leadership;
mod losses;
mod outages;
mod world;
