//! The stock of one order, and the level of each kind of goods. Pure; no clock, no database, no network.
//!
//! ```text
//!  Unseen ──reserve──► Reserved ──commit──► Committed ──cancel──► Returned
//!    │ │                  └──cancel──► Released
//!    │ └────reserve──► Rejected ◄───reserve─── Tombstone
//!    └──cancel──► Tombstone
//! ```
//!
//! Each order is a stream, decided by its own state; what its lines may take is decided by [`Stock`], the rows that the
//! batch has locked. Each kind of goods is a stream too, of counts and arrivals; it folds to nothing, since what is
//! decided about it depends on those rows alone.

use crate::goods::{Lines, ReceiptId, Shortage, Sku};
use crate::stock::Stock;

/// Largest level of any goods. Sums of movements stay far from the largest number.
pub const LEVEL_MAX: i64 = 1_000_000_000_000;

/// What can be asked of inventory.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Set all of `lines` aside for the order, or none.
    Reserve(Lines),
    /// Let what is set aside leave, or say again that it left.
    Commit,
    /// Set nothing aside any more, take back what left, and say so; again if it has been said before.
    Cancel,
    /// Take over what a count or an import found.
    Adjust {
        /// Of which goods.
        sku: Sku,
        /// What people call them.
        name: Box<str>,
        /// List price of one, in minor units.
        unit_price_minor: i64,
        /// How many are in the house.
        on_hand: i64,
    },
    /// Count goods that arrived.
    Receive {
        /// Which goods.
        sku: Sku,
        /// How many.
        quantity: i64,
        /// With which receipt.
        receipt: ReceiptId,
    },
}

/// What happened to an order's stock, or to a level.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// All lines of the order are set aside.
    Reserved(Lines),
    /// None is.
    Rejected(Refusal),
    /// What was set aside has left.
    Committed(Lines),
    /// Nothing is set aside any more. No lines: nothing was.
    Released(Lines),
    /// What had left is back.
    Returned(Lines),
    /// A level is what a count found.
    Adjusted {
        /// Of which goods.
        sku: Sku,
        /// What people call them.
        name: Box<str>,
        /// List price of one, in minor units.
        unit_price_minor: i64,
        /// The level from now on.
        on_hand: i64,
        /// The new level less the one before.
        delta: i64,
    },
    /// Goods arrived.
    Received {
        /// Which goods.
        sku: Sku,
        /// How many.
        quantity: i64,
        /// With which receipt.
        receipt: ReceiptId,
    },
}

/// Why nothing is set aside for an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// There is not enough of these.
    Short(Box<[Shortage]>),
    /// The order was cancelled before it was seen here.
    Cancelled,
}

/// How far an order's stock has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum State {
    /// The order has not been seen; also what the stream of a SKU folds to.
    #[default]
    Unseen,
    /// Cancelled before the order was seen; it will be rejected when it turns up.
    Tombstone,
    /// Set aside.
    Reserved(Lines),
    /// Not set aside, and it will not be.
    Rejected,
    /// Gone.
    Committed(Lines),
    /// No longer set aside.
    Released(Lines),
    /// Gone and come back.
    Returned(Lines),
}

/// A command that makes no sense where it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// An order is confirmed only after its stock was reserved, so this one's history is not in order.
    #[error("nothing is set aside for this order that could leave")]
    NothingReserved,
    /// Goods that nobody has ever stocked cannot arrive.
    #[error("{0} is not stocked here")]
    UnknownSku(Sku),
    /// A level cannot fall below what orders have been promised.
    #[error("{reserved} of {sku} are set aside for orders, so the level cannot be {on_hand}")]
    BelowReserved {
        /// Of which goods.
        sku: Sku,
        /// The level that was asked for.
        on_hand: i64,
        /// What is set aside.
        reserved: i64,
    },
    /// One receipt, two quantities.
    #[error("{counted} arrived with this receipt already, not {quantity}")]
    OtherQuantity {
        /// How many were counted with it.
        counted: i64,
        /// How many are said to have arrived now.
        quantity: i64,
    },
    /// Nothing arrives, or less.
    #[error("at least one must arrive")]
    NoQuantity,
    /// More than any store holds.
    #[error("a level is at most {LEVEL_MAX}")]
    LevelTooHigh,
}

/// The events that follow from `command`. Whoever appends them lets [`Stock::apply`] take their effect.
///
/// # Errors
/// See [`Rejection`]; whatever others wait for is an event.
pub fn decide(state: &State, stock: &Stock, command: &Command) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::Reserve(lines) => Ok(reserve(state, stock, lines)),
        Command::Commit => commit(state),
        Command::Cancel => Ok(vec![cancel(state)]),
        Command::Adjust {
            sku,
            name,
            unit_price_minor,
            on_hand,
        } => adjust(stock, sku, name, *unit_price_minor, *on_hand),
        Command::Receive { sku, quantity, receipt } => receive(stock, sku, *quantity, receipt),
    }
}

fn reserve(state: &State, stock: &Stock, lines: &Lines) -> Vec<Event> {
    match state {
        State::Unseen => {
            let shortages = shortages(stock, lines);
            vec![if shortages.is_empty() {
                Event::Reserved(lines.clone())
            } else {
                Event::Rejected(Refusal::Short(shortages))
            }]
        }
        State::Tombstone => vec![Event::Rejected(Refusal::Cancelled)],
        // An order is placed once: this is the same one again, and it has its answer.
        State::Reserved(_) | State::Rejected | State::Committed(_) | State::Released(_) | State::Returned(_) => {
            Vec::new()
        }
    }
}

fn shortages(stock: &Stock, lines: &Lines) -> Box<[Shortage]> {
    lines
        .iter()
        .map(|line| Shortage {
            sku: line.sku.clone(),
            requested: line.quantity,
            available: stock.available(&line.sku),
        })
        .filter(|line| line.requested > line.available)
        .collect()
}

fn commit(state: &State) -> Result<Vec<Event>, Rejection> {
    match state {
        State::Reserved(lines) | State::Committed(lines) => Ok(vec![Event::Committed(lines.clone())]),
        State::Unseen | State::Tombstone | State::Rejected | State::Released(_) | State::Returned(_) => {
            Err(Rejection::NothingReserved)
        }
    }
}

fn cancel(state: &State) -> Event {
    match state {
        State::Unseen | State::Tombstone | State::Rejected => Event::Released(Lines::default()),
        State::Reserved(lines) | State::Released(lines) => Event::Released(lines.clone()),
        State::Committed(lines) | State::Returned(lines) => Event::Returned(lines.clone()),
    }
}

fn adjust(stock: &Stock, sku: &Sku, name: &str, unit_price_minor: i64, on_hand: i64) -> Result<Vec<Event>, Rejection> {
    let level = stock.level(sku);
    let reserved = level.map_or(0, |level| level.reserved);
    if on_hand < reserved {
        return Err(Rejection::BelowReserved {
            sku: sku.clone(),
            on_hand,
            reserved,
        });
    }
    if on_hand > LEVEL_MAX {
        return Err(Rejection::LevelTooHigh);
    }
    let same = level.is_some_and(|level| {
        level.on_hand == on_hand && *level.name == *name && level.unit_price_minor == unit_price_minor
    });
    if same {
        return Ok(Vec::new());
    }
    Ok(vec![Event::Adjusted {
        sku: sku.clone(),
        name: name.into(),
        unit_price_minor,
        on_hand,
        delta: on_hand - level.map_or(0, |level| level.on_hand),
    }])
}

fn receive(stock: &Stock, sku: &Sku, quantity: i64, receipt: &ReceiptId) -> Result<Vec<Event>, Rejection> {
    if let Some(counted) = stock.counted(sku, receipt) {
        return if counted == quantity {
            Ok(Vec::new())
        } else {
            Err(Rejection::OtherQuantity { counted, quantity })
        };
    }
    let level = stock.level(sku).ok_or_else(|| Rejection::UnknownSku(sku.clone()))?;
    if quantity < 1 {
        return Err(Rejection::NoQuantity);
    }
    if quantity > LEVEL_MAX - level.on_hand {
        return Err(Rejection::LevelTooHigh);
    }
    Ok(vec![Event::Received {
        sku: sku.clone(),
        quantity,
        receipt: receipt.clone(),
    }])
}

/// Folds one event into the state.
pub fn evolve(state: State, event: &Event) -> State {
    match event {
        Event::Reserved(lines) => State::Reserved(lines.clone()),
        Event::Rejected(_) => State::Rejected,
        Event::Committed(lines) => State::Committed(lines.clone()),
        Event::Released(lines) => match state {
            State::Unseen | State::Tombstone => State::Tombstone,
            State::Rejected => State::Rejected,
            State::Reserved(_) | State::Committed(_) | State::Released(_) | State::Returned(_) => {
                State::Released(lines.clone())
            }
        },
        Event::Returned(lines) => State::Returned(lines.clone()),
        Event::Adjusted { .. } | Event::Received { .. } => state,
    }
}

impl State {
    /// The lines that the order has, or had, a hold on.
    pub fn lines(&self) -> Option<&Lines> {
        match self {
            Self::Unseen | Self::Tombstone | Self::Rejected => None,
            Self::Reserved(lines) | Self::Committed(lines) | Self::Released(lines) | Self::Returned(lines) => {
                Some(lines)
            }
        }
    }
}

#[cfg(test)]
mod tests;
