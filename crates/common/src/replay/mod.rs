//! Replaying a service's own log: reading it, folding it, and holding what comes of it against what the service has.
//!
//! ```text
//!  log.rs ─► records of a topic, from given offsets to where it ended
//! ```
//!
//! Nothing here decides anything or has an effect outside the tables that it fills.

pub mod log;
