//! What the audit checked, how much of it, and what it found wanting.

use serde_json::{Value, json};

use crate::cli::output;

/// How many findings of one check are kept; all are counted.
const EXAMPLES_MAX: usize = 20;

/// One thing that is proved, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    /// Every order has ended or is stuck.
    Idle,
    /// Versions of each stream are 1, 2, 3 and so on.
    Versions,
    /// Every event can be read.
    Readable,
    /// No order ends twice, or notes an answer twice.
    Ends,
    /// Nothing was captured or committed for an order that was not confirmed.
    Causes,
    /// What was held, captured, reserved and committed is what was ordered.
    Amounts,
    /// Captured once, refunded once, never more than captured.
    Captures,
    /// Of orders that have ended: captured and kept if, and only if, completed.
    MoneyAtRest,
    /// Of orders that have ended: gone if, and only if, completed.
    GoodsAtRest,
    /// For each SKU, what came in, went out and is set aside adds up.
    Ledger,
    /// Levels are what their events say, and were never negative.
    Levels,
    /// Rows that listings are read from say what the events say.
    ReadModels,
    /// Every event of every store is in the log.
    LogComplete,
    /// The log holds each stream's events in their order, in one partition.
    LogOrder,
    /// No deadline has passed unnoticed.
    Overdue,
    /// No order waits for a person.
    Stuck,
    /// No message waits for a person, or for another try.
    SetAside,
    /// The log holds nothing of ours that no store knows.
    LogKnown,
}

impl Check {
    /// All, in the order in which they are shown.
    const ALL: [Self; 18] = [
        Self::Idle,
        Self::Versions,
        Self::Readable,
        Self::Ends,
        Self::Causes,
        Self::Amounts,
        Self::Captures,
        Self::MoneyAtRest,
        Self::GoodsAtRest,
        Self::Ledger,
        Self::Levels,
        Self::ReadModels,
        Self::LogComplete,
        Self::LogOrder,
        Self::Overdue,
        Self::Stuck,
        Self::SetAside,
        Self::LogKnown,
    ];

    /// Its name for programs.
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Versions => "versions",
            Self::Readable => "readable",
            Self::Ends => "ends",
            Self::Causes => "causes",
            Self::Amounts => "amounts",
            Self::Captures => "captures",
            Self::MoneyAtRest => "money_at_rest",
            Self::GoodsAtRest => "goods_at_rest",
            Self::Ledger => "ledger",
            Self::Levels => "levels",
            Self::ReadModels => "read_models",
            Self::LogComplete => "log_complete",
            Self::LogOrder => "log_order",
            Self::Overdue => "overdue",
            Self::Stuck => "stuck",
            Self::SetAside => "set_aside",
            Self::LogKnown => "log_known",
        }
    }

    /// What it proves.
    fn title(self) -> &'static str {
        match self {
            Self::Idle => "every order has ended",
            Self::Versions => "stream versions run from 1 without a gap",
            Self::Readable => "every event can be read",
            Self::Ends => "no order ended twice, no answer counted twice",
            Self::Causes => "captured and committed for confirmed orders only",
            Self::Amounts => "money and goods moved are those of the order",
            Self::Captures => "no payment captured twice or refunded too much",
            Self::MoneyAtRest => "at rest, money was kept for completed orders and no others",
            Self::GoodsAtRest => "at rest, goods are gone for completed orders and no others",
            Self::Ledger => "reserved = committed + released + outstanding, sold = committed - returned",
            Self::Levels => "stock levels are what their events add up to, never below zero",
            Self::ReadModels => "read models say what the events say",
            Self::LogComplete => "every event is in the log itself",
            Self::LogOrder => "the log keeps each stream in order, in one partition",
            Self::Overdue => "nothing is overdue",
            Self::Stuck => "no order is stuck",
            Self::SetAside => "no message is parked or dead",
            Self::LogKnown => "the log holds no event that its store does not know",
        }
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    subject: String,
    what: String,
}

/// What one check came to.
#[derive(Clone, Debug, Default)]
struct Section {
    examined: Option<String>,
    findings: u64,
    examples: Vec<Finding>,
    only_a_warning: bool,
}

/// What the audit came to.
#[derive(Debug, Default)]
pub(in crate::cli) struct Report {
    sections: std::collections::BTreeMap<Check, Section>,
    notes: Vec<String>,
}

impl Report {
    /// Says what `check` looked at: it is shown only if it did.
    pub(super) fn examined(&mut self, check: Check, what: impl Into<String>) {
        self.sections.entry(check).or_default().examined = Some(what.into());
    }

    /// Something is wanting.
    pub(super) fn find(&mut self, check: Check, subject: impl Into<String>, what: impl Into<String>) {
        let section = self.sections.entry(check).or_default();
        section.findings += 1;
        if section.examples.len() < EXAMPLES_MAX {
            section.examples.push(Finding {
                subject: subject.into(),
                what: what.into(),
            });
        }
    }

    /// What `check` finds is shown and does not fail the audit.
    pub(super) fn only_warn(&mut self, check: Check) {
        self.sections.entry(check).or_default().only_a_warning = true;
    }

    /// Something worth knowing that is no finding.
    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// Whether nothing is wanting.
    pub(in crate::cli) fn is_clean(&self) -> bool {
        self.sections
            .values()
            .all(|section| section.findings == 0 || section.only_a_warning)
    }

    /// How many findings `check` has.
    #[cfg(test)]
    pub(super) fn findings(&self, check: Check) -> u64 {
        self.sections.get(&check).map_or(0, |section| section.findings)
    }

    fn shown(&self) -> impl Iterator<Item = (Check, &Section)> {
        Check::ALL
            .iter()
            .filter_map(|check| Some((*check, self.sections.get(check)?)))
            .filter(|(_, section)| section.examined.is_some() || section.findings > 0)
    }

    /// Prints it for people.
    pub(in crate::cli) fn print(&self) {
        for (check, section) in self.shown() {
            let title = check.title();
            let mark = match (section.findings, section.only_a_warning) {
                (0, _) => output::good("✓".to_owned()),
                (_, true) => output::warn("!".to_owned()),
                (_, false) => output::bad("✗".to_owned()),
            };
            let examined = section.examined.as_deref().unwrap_or_default();
            output::line(format_args!("{mark} {title:<75} {}", output::dim(examined)));
            for Finding { subject, what } in &section.examples {
                output::line(format_args!("    {}  {what}", output::bold(subject)));
            }
            let more = section.findings - section.examples.len() as u64;
            if more > 0 {
                output::line(format_args!("    … and {} more", output::count(more)));
            }
        }
        for note in &self.notes {
            output::line(format_args!("{} {note}", output::dim("·")));
        }
        let checks = self.shown().count();
        let failed = self
            .shown()
            .filter(|(_, section)| section.findings > 0 && !section.only_a_warning)
            .count();
        output::line(match failed {
            0 => format!(
                "\n{}",
                output::good(format_args!("clean: {checks} checks, none wanting"))
            ),
            _ => format!(
                "\n{}",
                output::bad(format_args!("found wanting: {failed} of {checks} checks"))
            ),
        });
    }

    /// The same for programs.
    pub(super) fn as_json(&self) -> Value {
        let checks: Vec<Value> = self
            .shown()
            .map(|(check, section)| {
                let outcome = match (section.findings, section.only_a_warning) {
                    (0, _) => "ok",
                    (_, true) => "warning",
                    (_, false) => "wanting",
                };
                let examples: Vec<Value> = section
                    .examples
                    .iter()
                    .map(|finding| json!({ "subject": finding.subject, "what": finding.what }))
                    .collect();
                json!({
                    "check": check.name(), "title": check.title(), "outcome": outcome, "examined": section.examined,
                    "findings": section.findings, "examples": examples,
                })
            })
            .collect();
        let verdict = if self.is_clean() { "clean" } else { "wanting" };
        json!({ "verdict": verdict, "checks": checks, "notes": self.notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_counts_and_the_first_are_kept() {
        let mut report = Report::default();
        for order in 0..30 {
            report.find(Check::Ends, format!("o-{order}"), "ended 2 times");
        }
        assert!(!report.is_clean());
        let shown = report.as_json();
        assert_eq!(shown["checks"][0]["findings"], 30);
        assert_eq!(shown["checks"][0]["examples"].as_array().unwrap().len(), EXAMPLES_MAX);
    }

    #[test]
    fn a_warning_does_not_fail_the_audit() {
        let mut report = Report::default();
        report.only_warn(Check::Stuck);
        report.find(Check::Stuck, "o-1", "capture failed");
        assert!(report.is_clean());
        assert_eq!(report.as_json()["checks"][0]["outcome"], "warning");
    }

    #[test]
    fn what_was_not_examined_is_not_claimed() {
        let mut report = Report::default();
        report.examined(Check::Versions, "3 streams");
        assert_eq!(report.as_json()["checks"].as_array().unwrap().len(), 1);
    }
}
