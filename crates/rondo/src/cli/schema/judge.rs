//! Verdicts between versions: who reads whom, and which level that amounts to. Pure.

use avro::{Finding, advise};
use registry::Level;

use super::catalogue::{Event, Version};

/// Two versions of one event, held against each other both ways.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) new: u32,
    pub(super) old: u32,
    /// What keeps the new version from reading what the old one wrote.
    pub(super) new_reads_old: Vec<Finding>,
    /// What keeps the old version from reading what the new one writes.
    pub(super) old_reads_new: Vec<Finding>,
}

impl Pair {
    fn of(new: &Version, old: &Version) -> Self {
        Self {
            new: new.number,
            old: old.number,
            new_reads_old: advise(&new.schema, &old.schema),
            old_reads_new: advise(&old.schema, &new.schema),
        }
    }

    /// Whether `level` asks that the new version reads the old one's data, and the other way round.
    pub(super) fn wanted(&self, level: Level) -> (bool, bool) {
        let counts = level.is_transitive() || self.old + 1 == self.new;
        (counts && level.new_reads_old(), counts && level.old_reads_new())
    }

    /// Whether it satisfies `level`.
    pub(super) fn holds(&self, level: Level) -> bool {
        let (backward, forward) = self.wanted(level);
        let lacking_backward = backward && !self.new_reads_old.is_empty();
        let lacking_forward = forward && !self.old_reads_new.is_empty();
        !lacking_backward && !lacking_forward
    }
}

/// Every version of `event` against all earlier ones.
pub(super) fn pairs(event: &Event) -> Vec<Pair> {
    let versions = &event.versions;
    let new = versions.iter().enumerate();
    new.flat_map(|(index, new)| versions[..index].iter().rev().map(move |old| Pair::of(new, old)))
        .collect()
}

/// The strongest level that `pairs`, those of one version, satisfy. Of two that neither implies the other, the one that
/// replay needs.
pub(super) fn strongest(pairs: &[&Pair]) -> Level {
    let order = [
        Level::FullTransitive,
        Level::BackwardTransitive,
        Level::Full,
        Level::ForwardTransitive,
        Level::Backward,
        Level::Forward,
    ];
    let holds = |level: &Level| pairs.iter().all(|pair| pair.holds(*level));
    order.into_iter().find(holds).unwrap_or(Level::None)
}
