//! The wire types of every event, the topics, and the choreography map.
//!
//! Services share this crate and the runtime, and nothing else. The schemas in `schemas/` are the contract; the types
//! here are their twins, and the tests hold the two together, byte for byte. No decision is taken here.

pub mod choreography;

pub mod inventory;
pub mod orders;
pub mod payments;

pub mod service;
pub mod topics;

mod upcast;
