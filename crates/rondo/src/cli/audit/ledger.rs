//! The stock ledger: what moved of each SKU, added up from the events and held against the levels. Pure.
//!
//! One entry a SKU is kept in memory, about 200 bytes, however many orders there are.

use std::collections::BTreeMap;

use contracts::inventory;
use inventory::Event;

use super::facts::{Goods, Move};
use super::report::{Check, Report};

/// What moved of one SKU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Ever set aside for orders.
    pub(super) reserved: i64,
    /// Of that, gone.
    pub(super) committed: i64,
    /// Of that, set aside no more.
    pub(super) released: i64,
    /// Gone and come back.
    pub(super) returned: i64,
    /// Added or taken away by counts.
    pub(super) adjusted: i64,
    /// Arrived.
    pub(super) received: i64,
    /// What orders in the state of having goods set aside have set aside.
    pub(super) outstanding: i64,
    /// The last counted level says this much, and the change to it.
    counted_wrong: bool,
}

/// What the service's own tables say of one SKU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) on_hand: i64,
    pub(super) reserved: i64,
    /// The sums of its movements, by kind, in the order of [`Entry`].
    pub(super) movements: [i64; 6],
}

/// All SKUs.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<String, Entry>,
}

impl Ledger {
    /// The goods of an order moved.
    pub(super) fn moved(&mut self, goods: &Goods, how: Move) {
        for (sku, quantity) in goods {
            let entry = self.entries.entry(sku.clone()).or_default();
            match how {
                Move::Reserve => entry.reserved += quantity,
                Move::Commit => entry.committed += quantity,
                Move::Release => entry.released += quantity,
                Move::Return => entry.returned += quantity,
            }
        }
    }

    /// An order has these goods set aside.
    pub(super) fn outstanding(&mut self, goods: &Goods) {
        for (sku, quantity) in goods {
            self.entries.entry(sku.clone()).or_default().outstanding += quantity;
        }
    }

    /// A level was counted, or goods arrived.
    pub(super) fn level(&mut self, event: &inventory::Event) {
        match event {
            Event::StockAdjusted(adjusted) => {
                let entry = self.entries.entry(adjusted.sku.clone()).or_default();
                entry.adjusted += adjusted.delta;
                entry.counted_wrong |= adjusted.on_hand < 0;
            }
            Event::StockReceived(received) => {
                self.entries.entry(received.sku.clone()).or_default().received += received.quantity;
            }
            Event::StockReserved(_)
            | Event::StockRejected(_)
            | Event::StockCommitted(_)
            | Event::StockReleased(_)
            | Event::StockReturned(_) => {}
        }
    }

    /// How many SKUs moved.
    pub(super) fn skus(&self) -> usize {
        self.entries.len()
    }

    /// Units sold: gone and not come back.
    pub(super) fn sold(&self) -> i64 {
        self.entries.values().map(Entry::sold).sum()
    }

    /// Units set aside.
    pub(super) fn set_aside(&self) -> i64 {
        self.entries.values().map(|entry| entry.outstanding).sum()
    }

    /// Whether what was set aside is accounted for, and the tables say the same.
    pub(super) fn judge(&self, rows: &BTreeMap<String, Row>, report: &mut Report) {
        for (sku, entry) in &self.entries {
            if entry.reserved != entry.committed + entry.released + entry.outstanding {
                report.find(
                    Check::Ledger,
                    sku,
                    format!(
                        "reserved {} ≠ committed {} + released {} + outstanding {}",
                        entry.reserved, entry.committed, entry.released, entry.outstanding
                    ),
                );
            }
            if entry.sold() < 0 || entry.counted_wrong {
                report.find(Check::Ledger, sku, "more came back than left, or a count below zero");
            }
            match rows.get(sku) {
                Some(row) => entry.compare(sku, row, report),
                None => report.find(Check::Levels, sku, "has events and no level"),
            }
        }
        for (sku, row) in rows.iter().filter(|(sku, _)| !self.entries.contains_key(*sku)) {
            Entry::default().compare(sku, row, report);
        }
    }
}

impl Entry {
    fn sold(&self) -> i64 {
        self.committed - self.returned
    }

    fn on_hand(&self) -> i64 {
        self.adjusted + self.received - self.sold()
    }

    fn movements(&self) -> [i64; 6] {
        [
            self.reserved,
            self.committed,
            self.released,
            self.returned,
            self.adjusted,
            self.received,
        ]
    }

    fn compare(&self, sku: &str, row: &Row, report: &mut Report) {
        for (what, level, events) in [
            ("on hand", row.on_hand, self.on_hand()),
            ("reserved", row.reserved, self.outstanding),
        ] {
            if level != events {
                report.find(
                    Check::Levels,
                    sku,
                    format!("{what} is {level}, its events say {events}"),
                );
            }
        }
        if row.on_hand < row.reserved || row.reserved < 0 {
            report.find(
                Check::Levels,
                sku,
                format!("{} on hand, {} of them reserved", row.on_hand, row.reserved),
            );
        }
        let kinds = ["reserved", "committed", "released", "returned", "adjusted", "received"];
        for ((kind, moved), events) in kinds.into_iter().zip(row.movements).zip(self.movements()) {
            if moved != events {
                report.find(
                    Check::Levels,
                    sku,
                    format!("movements say {moved} {kind}, its events say {events}"),
                );
            }
        }
    }
}
