//! The relay against a real Postgres and a real broker: order, gaps, leadership, outages, lost logs, dead letters.

mod dead_letters;
mod gaps;
mod leadership;
mod losses;
mod outages;
mod world;
