//! Avro schemas: reading and validating them, their canonical texts and fingerprints, whether one reads the other, and
//! reading data of one as the other.
//!
//! Pure: no I/O, no clock. Verdicts and texts equal those of Java Avro 1.11, on which Confluent's registry is built;
//! `docs/registry.md` says how that was measured.

mod advice;
mod canonical;
pub mod compatibility;
mod json;
mod parse;
mod resolve;
mod sample;
mod schema;
mod traps;

pub use advice::{Finding, advise};
pub use compatibility::{Incompatibility, Reason, check};
pub use json::NESTING_MAX;
pub use parse::{Defaults, Error, SCHEMA_BYTES_MAX, parse};
pub use resolve::{DEPTH_MAX, ITEMS_MAX, ReadError, Resolution};
pub use schema::Schema;
pub use traps::{Trap, traps};
