//! What holds schemas, wire types, recorded bytes and the picture of the choreography together.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod catalogue;
mod evolution;
mod golden;
mod picture;
mod schemas;
mod shape;
mod values;
