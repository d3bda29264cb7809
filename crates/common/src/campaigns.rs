//! Campaigns: what people decide about a selection of dead letters, and what becomes of each.
//!
//! ```text
//!  a tool ─► create: one transaction ─► campaigns, campaign_records
//!                                             │
//!  the running service ─► worker ─► step: a few letters, at the campaign's rate ─► parked keys ─► committer
//! ```
//!
//! Who decides only writes down what shall be done; the service does it. So nothing depends on the tool that was used
//! living on, two copies of a service share the work by the campaign's row lock, and each record's outcome is written in
//! the transaction that settles it.

mod store;
mod worker;

use jiff::Timestamp;
use serde_json::Value;

pub use store::{Created, Entry, Step, applied, control, create, died_again, entries, history, list, recorded};
pub use worker::run;

/// Dead letters of one campaign.
pub const RECORDS_MAX: usize = 100_000;
/// Dead letters that one step deals with.
pub const STEP_RECORDS_MAX: usize = 64;

/// What shall become of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They are tried again, at the head of their keys.
    Redrive,
    /// They count as taken effect, for somebody has done by hand what they ask for.
    Skip,
    /// They shall never take effect.
    Discard,
}

impl Kind {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Skip => "skip",
            Self::Discard => "discard",
        }
    }
}

/// A decision, before it is written down.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What shall be done.
    pub kind: Kind,
    /// Who decided.
    pub operator: String,
    /// Why; needed unless it is a redrive.
    pub reason: Option<String>,
    /// How the letters were chosen, for people.
    pub filter: Value,
    /// What was done to their values, for people.
    pub transform: Option<Value>,
    /// Letters a second.
    pub rate: f64,
    /// A letter that has come back so often stops the campaign.
    pub returns_max: i32,
}

/// A campaign as it stands.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Its row.
    pub id: i64,
    /// Whose dead letters.
    pub consumer: String,
    /// `redrive`, `skip` or `discard`.
    pub kind: String,
    /// When it was decided.
    pub created_at: Timestamp,
    /// Who decided.
    pub operator: String,
    /// Why.
    pub reason: Option<String>,
    /// How the letters were chosen.
    pub filter: Value,
    /// What was done to their values.
    pub transform: Option<Value>,
    /// Letters a second.
    pub rate: f64,
    /// A letter that has come back so often stops it.
    pub returns_max: i32,
    /// `running`, `paused`, `done`, `cancelled` or `stopped`.
    pub state: String,
    /// Why it stopped.
    pub why: Option<String>,
    /// Since when it is in this state.
    pub changed_at: Timestamp,
    /// How many of its letters have which outcome.
    pub outcomes: Vec<(String, i64)>,
}

impl Campaign {
    /// How many of its letters have this outcome.
    pub fn count(&self, outcome: &str) -> i64 {
        let found = self.outcomes.iter().find(|(name, _)| name == outcome);
        found.map_or(0, |(_, count)| *count)
    }

    /// All of its letters.
    pub fn records(&self) -> i64 {
        self.outcomes.iter().map(|(_, count)| count).sum()
    }

    /// Those that are not dealt with.
    pub fn open(&self) -> i64 {
        self.count("pending") + self.count("sent")
    }

    /// Whether nothing more happens in it by itself.
    pub fn rests(&self) -> bool {
        match self.state.as_str() {
            "running" => false,
            // What is on its way ends even so.
            _ => self.count("sent") == 0,
        }
    }
}

/// What an operator may do to a campaign under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Sends nothing more for now.
    Pause,
    /// Goes on, also after the loop guard stopped it.
    Resume,
    /// Ends it; what was not sent stays dead.
    Cancel,
}
