//! What a reset would do, decided from what is known and nothing else; and plans as CSV, in the columns of
//! `kafka-consumer-groups`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::Serialize;

/// Where the offsets shall go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The first record that the log has.
    Earliest,
    /// The end of the log: what is there is not read.
    Latest,
    /// This very offset.
    Offset(i64),
    /// So many records on, or back.
    ShiftBy(i64),
    /// The first record of this time or later; the end if there is none.
    Since(Timestamp),
    /// Where the row stands: nothing moves, and the group is told to follow it.
    Current,
    /// What a file says; partitions that it does not name stay as they are.
    Listed(BTreeMap<Named, i64>),
}

/// A partition as a file names it: group if it says one, topic with namespace, partition.
pub(super) type Named = (Option<String>, String, i32);

/// What is known of one partition that a service reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) service: &'static str,
    pub(super) group: String,
    /// With namespace.
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Where the service goes on; `None` if it has never read the partition.
    pub(super) next_offset: Option<i64>,
    /// The oldest record of the log.
    pub(super) first: i64,
    /// Where the next record of the log will go.
    pub(super) end: i64,
    /// The first offset of the time that was asked for, if one was and there is one.
    pub(super) since: Option<i64>,
}

/// One partition's part of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    pub(super) service: &'static str,
    pub(super) group: String,
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Where the service goes on now; `None` if it has never read the partition, which is the same as at its beginning.
    pub(super) current: Option<i64>,
    pub(super) new: i64,
    /// What was asked for, if the log does not have it.
    pub(super) clamped_from: Option<i64>,
    /// Records that would never be handled.
    pub(super) skipped: i64,
    /// Records that would be read again.
    pub(super) repeated: i64,
}

impl Known {
    /// Where the service reads on, in numbers of this log.
    fn current(&self) -> i64 {
        self.next_offset.unwrap_or(self.first)
    }

    /// What `aim` means here; `None` if it does not mean this partition.
    pub(super) fn step(&self, aim: &Aim) -> Option<Step> {
        let wanted = match aim {
            Aim::Earliest => self.first,
            Aim::Latest => self.end,
            Aim::Offset(offset) => *offset,
            Aim::ShiftBy(records) => self.current().saturating_add(*records),
            Aim::Since(_) => self.since.unwrap_or(self.end),
            Aim::Current => self.current(),
            Aim::Listed(listed) => {
                let named = |group: Option<&String>| (group.cloned(), self.topic.clone(), self.partition);
                *listed
                    .get(&named(Some(&self.group)))
                    .or_else(|| listed.get(&named(None)))?
            }
        };
        let new = wanted.clamp(self.first, self.end);
        let read_from = self.current().clamp(self.first, self.end);
        Some(Step {
            service: self.service,
            group: self.group.clone(),
            topic: self.topic.clone(),
            partition: self.partition,
            current: self.next_offset,
            new,
            clamped_from: (wanted != new).then_some(wanted),
            skipped: (new - read_from).max(0),
            repeated: (read_from - new).max(0),
        })
    }
}

/// Offsets as CSV: `topic,partition,offset`, with the group in front where there are several.
pub(super) fn to_csv<'a>(offsets: impl Iterator<Item = (&'a str, &'a str, i32, i64)> + Clone) -> String {
    let mut groups = offsets.clone().map(|(group, ..)| group);
    let first = groups.next();
    let several = groups.any(|group| Some(group) != first);
    offsets
        .map(|(group, topic, partition, offset)| match several {
            true => format!("{group},{topic},{partition},{offset}\n"),
            false => format!("{topic},{partition},{offset}\n"),
        })
        .collect()
}

/// Reads what [`to_csv`] writes, or `kafka-consumer-groups --export` did.
pub(super) fn from_csv(text: &str) -> Result<BTreeMap<Named, i64>> {
    let mut listed = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let cells: Vec<&str> = line.split(',').map(|cell| cell.trim().trim_matches('"')).collect();
        let (group, topic, partition, offset) = match cells[..] {
            [topic, partition, offset] => (None, topic, partition, offset),
            [group, topic, partition, offset] => (Some(group.to_owned()), topic, partition, offset),
            _ => bail!(
                "line {} is not TOPIC,PARTITION,OFFSET or GROUP,TOPIC,PARTITION,OFFSET: {line}",
                number + 1
            ),
        };
        let number_of = |cell: &str, what: &str| {
            let parsed = cell.parse::<i64>().ok().filter(|value| *value >= 0);
            parsed.with_context(|| format!("line {}: {cell} is no {what}", number + 1))
        };
        let partition = i32::try_from(number_of(partition, "partition")?)
            .with_context(|| format!("line {}: there is no such partition", number + 1))?;
        let key = (group, topic.to_owned(), partition);
        if listed.insert(key, number_of(offset, "offset")?).is_some() {
            bail!("line {}: {topic}/{partition} is there twice", number + 1);
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(next_offset: Option<i64>, first: i64, end: i64) -> Known {
        Known {
            service: "payments",
            group: "payments".to_owned(),
            topic: "orders.events".to_owned(),
            partition: 0,
            next_offset,
            first,
            end,
            since: None,
        }
    }

    #[track_caller]
    fn check(known: &Known, aim: &Aim, new: i64, clamped_from: Option<i64>, skipped: i64, repeated: i64) {
        let step = known.step(aim).unwrap();
        assert_eq!(
            (step.new, step.clamped_from, step.skipped, step.repeated),
            (new, clamped_from, skipped, repeated),
            "{step:?}"
        );
    }

    #[test]
    fn each_target_has_its_place() {
        let at = known(Some(40), 10, 100);
        check(&at, &Aim::Earliest, 10, None, 0, 30);
        check(&at, &Aim::Latest, 100, None, 60, 0);
        check(&at, &Aim::Offset(50), 50, None, 10, 0);
        check(&at, &Aim::ShiftBy(-5), 35, None, 0, 5);
        check(&at, &Aim::ShiftBy(5), 45, None, 5, 0);
        check(&at, &Aim::Current, 40, None, 0, 0);
        let then = Known { since: Some(20), ..at };
        check(&then, &Aim::Since(Timestamp::UNIX_EPOCH), 20, None, 0, 20);
        let never = Known { since: None, ..then };
        check(&never, &Aim::Since(Timestamp::UNIX_EPOCH), 100, None, 60, 0);
    }

    #[test]
    fn what_the_log_does_not_have_is_clamped_and_said() {
        let at = known(Some(40), 10, 100);
        check(&at, &Aim::Offset(5), 10, Some(5), 0, 30);
        check(&at, &Aim::Offset(500), 100, Some(500), 60, 0);
        check(&at, &Aim::ShiftBy(i64::MIN), 10, Some(i64::MIN + 40), 0, 30);
        check(&at, &Aim::ShiftBy(i64::MAX), 100, Some(i64::MAX), 60, 0);
        // A row behind a log that was cut: what is gone is not counted as skipped by the reset.
        check(&known(Some(3), 10, 100), &Aim::Current, 10, Some(3), 0, 0);
        check(&known(Some(300), 0, 100), &Aim::Earliest, 0, None, 0, 100);
    }

    #[test]
    fn a_partition_that_was_never_read_stands_at_its_beginning() {
        let never = known(None, 10, 100);
        check(&never, &Aim::Current, 10, None, 0, 0);
        check(&never, &Aim::ShiftBy(1), 11, None, 1, 0);
        check(&never, &Aim::Latest, 100, None, 90, 0);
    }

    #[test]
    fn a_file_means_the_partitions_that_it_names() {
        let listed = Aim::Listed(from_csv("payments,orders.events,0,12\nother,orders.events,0,13\n").unwrap());
        check(&known(Some(40), 10, 100), &listed, 12, None, 0, 28);
        let of_another = Known {
            partition: 1,
            ..known(Some(40), 10, 100)
        };
        assert_eq!(of_another.step(&listed), None);
    }

    #[test]
    fn what_is_exported_is_read_back() {
        let one = [("g", "t", 0, 7), ("g", "t", 1, 9)];
        let text = to_csv(one.into_iter());
        assert_eq!(text, "t,0,7\nt,1,9\n");
        assert_eq!(from_csv(&text).unwrap()[&(None, "t".to_owned(), 1)], 9);
        let two = [("g", "t", 0, 7), ("h", "t", 0, 9)];
        let text = to_csv(two.into_iter());
        assert_eq!(text, "g,t,0,7\nh,t,0,9\n");
        assert_eq!(from_csv(&text).unwrap()[&(Some("h".to_owned()), "t".to_owned(), 0)], 9);
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_with_its_line() {
        for bad in ["t,0", "t,0,x", "t,-1,5", "t,0,-5", "t,99999999999,5", "t,0,1\nt,0,2"] {
            let refused = from_csv(&format!("# topic,partition,offset\n{bad}\n"))
                .unwrap_err()
                .to_string();
            assert!(refused.starts_with("line "), "{bad}: {refused}");
        }
    }
}
