//! How much there is: the levels that decisions look at, and how events move them. Pure.
//!
//! While a batch is decided, [`Stock`] stands for rows that its transaction has locked. [`movements`] is the only place
//! that says what an event does to a level, for these rows and for the tables alike.

use std::collections::HashMap;

use crate::domain::{Event, State};
use crate::goods::{Line, Lines, ReceiptId, Sku};

/// How much there is of one kind of goods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// What people call it.
    pub name: Box<str>,
    /// List price of one, in minor units.
    pub unit_price_minor: i64,
    /// How many are in the house.
    pub on_hand: i64,
    /// How many of these are set aside for orders.
    pub reserved: i64,
}

impl Level {
    /// How many can still be set aside.
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved
    }
}

/// The levels and receipts that a batch may look at and change.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    levels: HashMap<Sku, Level>,
    receipts: HashMap<(Sku, ReceiptId), i64>,
}

/// One change of one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movement {
    /// Of which goods.
    pub sku: Sku,
    /// Why.
    pub kind: Kind,
    /// What is added to `on_hand`.
    pub on_hand: i64,
    /// What is added to `reserved`.
    pub reserved: i64,
}

/// Why a level changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Set aside for an order.
    Reserved,
    /// Left with an order.
    Committed,
    /// No longer set aside.
    Released,
    /// Back from an order.
    Returned,
    /// Set to what a count or an import found.
    Adjusted,
    /// Goods arrived.
    Received,
}

impl Stock {
    /// Stock of these levels, with these receipts already counted.
    pub fn new(
        levels: impl IntoIterator<Item = (Sku, Level)>,
        receipts: impl IntoIterator<Item = ((Sku, ReceiptId), i64)>,
    ) -> Self {
        Self {
            levels: levels.into_iter().collect(),
            receipts: receipts.into_iter().collect(),
        }
    }

    /// How much there is of `sku`; `None` for goods that nobody has ever stocked.
    pub fn level(&self, sku: &Sku) -> Option<&Level> {
        self.levels.get(sku)
    }

    /// How many can be set aside of `sku`; of unknown goods, none.
    pub fn available(&self, sku: &Sku) -> i64 {
        self.level(sku).map_or(0, Level::available)
    }

    /// How many arrived with this receipt, if it has been counted.
    pub fn counted(&self, sku: &Sku, receipt: &ReceiptId) -> Option<i64> {
        self.receipts.get(&(sku.clone(), receipt.clone())).copied()
    }

    /// Lets `event`, which was decided in `state`, take its effect.
    pub fn apply(&mut self, state: &State, event: &Event) {
        match event {
            Event::Adjusted {
                sku,
                name,
                unit_price_minor,
                ..
            } => {
                let level = self.levels.entry(sku.clone()).or_default();
                level.name.clone_from(name);
                level.unit_price_minor = *unit_price_minor;
            }
            Event::Received { sku, quantity, receipt } => {
                self.receipts.insert((sku.clone(), receipt.clone()), *quantity);
            }
            Event::Reserved(_) | Event::Rejected(_) | Event::Committed(_) | Event::Released(_) | Event::Returned(_) => {
            }
        }
        for movement in movements(state, event) {
            let level = self.levels.entry(movement.sku).or_default();
            level.on_hand += movement.on_hand;
            level.reserved += movement.reserved;
        }
    }
}

/// How `event` moves the levels, when it happens in `state`. An answer that is given again moves nothing.
pub fn movements(state: &State, event: &Event) -> Vec<Movement> {
    match (state, event) {
        (State::Unseen, Event::Reserved(lines)) => moved(lines, Kind::Reserved, 0, 1),
        (State::Reserved(_), Event::Committed(lines)) => moved(lines, Kind::Committed, -1, -1),
        (State::Reserved(_), Event::Released(lines)) => moved(lines, Kind::Released, 0, -1),
        (State::Committed(_), Event::Returned(lines)) => moved(lines, Kind::Returned, 1, 0),
        (_, Event::Adjusted { sku, delta, .. }) => vec![Movement {
            sku: sku.clone(),
            kind: Kind::Adjusted,
            on_hand: *delta,
            reserved: 0,
        }],
        (_, Event::Received { sku, quantity, .. }) => vec![Movement {
            sku: sku.clone(),
            kind: Kind::Received,
            on_hand: *quantity,
            reserved: 0,
        }],
        (
            _,
            Event::Reserved(_) | Event::Rejected(_) | Event::Committed(_) | Event::Released(_) | Event::Returned(_),
        ) => Vec::new(),
    }
}

fn moved(lines: &Lines, kind: Kind, on_hand: i64, reserved: i64) -> Vec<Movement> {
    let movement = |line: &Line| Movement {
        sku: line.sku.clone(),
        kind,
        on_hand: on_hand * line.quantity,
        reserved: reserved * line.quantity,
    };
    lines.iter().map(movement).collect()
}
