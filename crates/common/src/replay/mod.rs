//! Replaying a service's own log: its read models are told again from their events, beside the ones that it has, and held
//! against them.
//!
//! ```text
//!  log.rs ────┐
//!  (a topic)  ├─► source.rs ─► fold.rs ─────────► shadow.rs            compare.rs ─► rebuild.rs
//!  events ────┘   chunks       states, bounded    rows and progress,   shadow = live? verdict
//!                              batches of changes one transaction      swap.rs: one becomes the other
//! ```
//!
//! Nothing here decides anything, publishes or has an effect outside the tables that it fills: what a service does besides
//! writing rows is in parts of the runtime that a replay does not start.

mod compare;
mod fold;
mod intake;
pub mod log;
mod plan;
mod rebuild;
pub mod restore;
mod seen;
mod shadow;
mod source;
mod swap;

pub use compare::{Column, Difference, Kind, TableReport};
pub use fold::{BATCH_EVENTS_MAX, STREAMS_OPEN_MAX};
pub use plan::{From, Input, Intent, Plan, Report, Watch};
pub use rebuild::{Error, Rebuild};
pub use shadow::{CANDIDATE_SCHEMA, OLD_SCHEMA, REBUILD_SCHEMA};
pub use swap::drop_old;
