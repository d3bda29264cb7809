//! The verbs that talk to a running Rondo: orders, stock, sagas, dead letters, offsets and the audit.
//!
//! ```text
//!   arguments ─► Target (which installation) ─► HTTP for what changes something
//!                                            ─► Postgres and Kafka, read only, for what looks
//! ```
//!
//! A verb prints what it found to stdout and its progress to stderr, and says by its [`Verdict`] whether all was well.
//! Nothing here decides anything about an order: that is the services' alone.

pub mod output;
pub mod target;

mod import;

pub mod inventory;
pub mod orders;

pub mod saga;

pub mod replay;

pub mod dlq;

pub mod offsets;

pub mod audit;

pub mod bench;

pub mod schema;

pub use output::Output;
pub use target::{GlobalArgs, Target};

use std::process::ExitCode;

/// What a verb came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, and nothing is wrong.
    Done,
    /// Done, and something was found wanting; it has been shown.
    Wanting,
}

impl Verdict {
    /// [`Verdict::Done`] if `well`.
    pub fn of(well: bool) -> Self {
        if well { Self::Done } else { Self::Wanting }
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done => Self::SUCCESS,
            Verdict::Wanting => Self::FAILURE,
        }
    }
}
