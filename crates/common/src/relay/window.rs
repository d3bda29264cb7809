//! What is in flight: rows handed to the producer that Kafka has not acknowledged, in the order they were handed on.
//!
//! Acknowledgements come in any order across partitions. The cursor is the highest position below which none is
//! missing. Pure bookkeeping: no clock, no lock, no I/O.

use std::collections::{BTreeMap, VecDeque};

/// Most rows in flight: about 100 ms of what two cores can publish, so that an acknowledgement never holds up the next
/// batch, and few enough that a restart repeats little.
pub(super) const IN_FLIGHT_MAX: usize = 20_000;
/// Most bytes in flight. librdkafka keeps a copy of each record until it is acknowledged.
pub(super) const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a record costs in memory besides its payload, about: headers, key, librdkafka's own structures.
const RECORD_OVERHEAD_BYTES: usize = 1024;

/// The last record of a partition that Kafka acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastAcknowledged {
    /// Its offset in the partition.
    pub(super) offset: i64,
    /// Its position in the event store.
    pub(super) position: i64,
}

/// How far everything is acknowledged, for the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Every row up to this position is acknowledged.
    pub(super) cursor: i64,
    /// By partition.
    pub(super) log_ends: BTreeMap<i32, LastAcknowledged>,
}

/// What an acknowledgement says besides "done".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acknowledged {
    /// Recorded.
    Recorded,
    /// Of a row that is no longer in flight: a report of a producer that was given up.
    Stale,
    /// At or below an offset that was acknowledged before: the log has lost its tail since.
    Regressed,
}

#[derive(Debug)]
struct Slot {
    position: i64,
    bytes: usize,
    acknowledged: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    progress: Progress,
    /// Ticket of the front slot. Tickets are never used twice, so reports of an earlier producer are recognised.
    first_ticket: usize,
    slots: VecDeque<Slot>,
    bytes: usize,
    /// Partitions whose log was seen to have lost its tail.
    regressed: BTreeMap<i32, i64>,
}

impl Window {
    /// Nothing in flight, everything up to `progress` acknowledged.
    pub(super) fn new(progress: Progress) -> Self {
        Self {
            progress,
            first_ticket: 1,
            slots: VecDeque::new(),
            bytes: 0,
            regressed: BTreeMap::new(),
        }
    }

    /// Puts a row in flight. Its ticket is what [`acknowledge`](Self::acknowledge) wants.
    pub(super) fn push(&mut self, position: i64, payload_bytes: usize) -> usize {
        let bytes = payload_bytes + RECORD_OVERHEAD_BYTES;
        self.slots.push_back(Slot {
            position,
            bytes,
            acknowledged: false,
        });
        self.bytes += bytes;
        self.first_ticket + self.slots.len() - 1
    }

    /// Takes back the last [`push`](Self::push), for a row that the producer did not accept.
    pub(super) fn take_back(&mut self) {
        if let Some(slot) = self.slots.pop_back() {
            self.bytes -= slot.bytes;
        }
    }

    /// Notes that Kafka keeps the row of `ticket` at `offset` of `partition`. A negative offset is unknown: the broker
    /// recognised a repetition.
    pub(super) fn acknowledge(&mut self, ticket: usize, partition: i32, offset: i64) -> Acknowledged {
        let Some(index) = ticket
            .checked_sub(self.first_ticket)
            .filter(|index| *index < self.slots.len())
        else {
            return Acknowledged::Stale;
        };
        let position = self.slots[index].position;
        if offset >= 0 {
            let last = self.progress.log_ends.get(&partition);
            if last.is_some_and(|last| offset <= last.offset) {
                self.regressed.entry(partition).or_insert(offset);
                return Acknowledged::Regressed;
            }
            self.progress
                .log_ends
                .insert(partition, LastAcknowledged { offset, position });
        }
        self.slots[index].acknowledged = true;
        while let Some(front) = self.slots.front().filter(|slot| slot.acknowledged) {
            self.progress.cursor = front.position;
            self.bytes -= front.bytes;
            self.slots.pop_front();
            self.first_ticket += 1;
        }
        Acknowledged::Recorded
    }

    /// Forgets what is in flight: publishing begins again after the cursor.
    pub(super) fn restart(&mut self) {
        self.first_ticket += self.slots.len();
        self.slots.clear();
        self.bytes = 0;
    }

    /// Sets what is acknowledged, after the log was found to hold less (or what it was believed to).
    pub(super) fn rewind(&mut self, progress: Progress) {
        self.restart();
        self.regressed.clear();
        self.progress = progress;
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Partitions whose log was seen to have lost its tail, with the first offset that was given out again.
    pub(super) fn regressed(&self) -> &BTreeMap<i32, i64> {
        &self.regressed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many rows are in flight, or behind one that is.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.slots.len() < IN_FLIGHT_MAX && self.bytes < IN_FLIGHT_BYTES_MAX
    }

    /// Whether so much room is free that it pays to wake whoever waits for it.
    pub(super) fn has_much_room(&self) -> bool {
        self.slots.len() < IN_FLIGHT_MAX / 2 && self.bytes < IN_FLIGHT_BYTES_MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new(Progress {
            cursor: 10,
            log_ends: BTreeMap::new(),
        })
    }

    #[test]
    fn the_cursor_never_passes_a_row_that_is_not_acknowledged() {
        let mut window = window();
        let tickets: Vec<_> = [11, 12, 15].map(|position| window.push(position, 1)).to_vec();
        window.acknowledge(tickets[2], 0, 7);
        assert_eq!(window.progress().cursor, 10);
        window.acknowledge(tickets[0], 1, 3);
        assert_eq!(window.progress().cursor, 11);
        window.acknowledge(tickets[1], 1, 4);
        assert_eq!(window.progress().cursor, 15);
        assert!(window.is_empty());
        assert_eq!(window.bytes, 0);
        assert_eq!(
            window.progress().log_ends[&1],
            LastAcknowledged {
                offset: 4,
                position: 12
            }
        );
    }

    #[test]
    fn reports_of_a_producer_that_was_given_up_change_nothing() {
        let mut window = window();
        let old = window.push(11, 1);
        window.restart();
        let new = window.push(11, 1);
        assert_eq!(window.acknowledge(old, 0, 5), Acknowledged::Stale);
        assert_eq!(window.progress().cursor, 10);
        assert_eq!(window.acknowledge(new, 0, 5), Acknowledged::Recorded);
        assert_eq!(window.acknowledge(new, 0, 5), Acknowledged::Stale);
        assert_eq!(window.progress().cursor, 11);
    }

    #[test]
    fn an_offset_given_out_twice_is_a_lost_log_and_moves_no_cursor() {
        let mut window = window();
        let tickets = [window.push(11, 1), window.push(12, 1)];
        window.acknowledge(tickets[0], 0, 100);
        assert_eq!(window.acknowledge(tickets[1], 0, 91), Acknowledged::Regressed);
        assert_eq!(window.progress().cursor, 11);
        assert_eq!(window.regressed().get(&0), Some(&91));
    }

    #[test]
    fn an_unknown_offset_still_counts_as_acknowledged() {
        let mut window = window();
        let ticket = window.push(11, 1);
        assert_eq!(window.acknowledge(ticket, 0, -1), Acknowledged::Recorded);
        assert_eq!(window.progress().cursor, 11);
        assert!(window.progress().log_ends.is_empty());
    }

    #[test]
    fn what_is_in_flight_is_bounded_in_rows_and_bytes() {
        let mut by_count = window();
        (0..IN_FLIGHT_MAX as i64).for_each(|at| {
            by_count.push(11 + at, 0);
        });
        assert!(!by_count.has_room());
        let mut by_bytes = window();
        by_bytes.push(11, IN_FLIGHT_BYTES_MAX);
        assert!(!by_bytes.has_room());
        by_bytes.take_back();
        assert!(by_bytes.has_much_room() && by_bytes.is_empty());
    }
}
