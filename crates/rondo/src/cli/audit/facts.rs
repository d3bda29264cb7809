//! What each service's events say of one order, folded anew and apart from the services' own code. Pure.
//!
//! A mistake in a domain would be repeated by whoever reuses it, so the audit has its own idea, smaller and blunter, of
//! what events mean: money held, taken, given back; goods set aside, gone, returned. An answer that is given again says
//! the same again and moves nothing.

use std::collections::{BTreeMap, HashSet};

use contracts::inventory::{self, StockLine};
use contracts::orders::{self, Line};
use contracts::payments;
use jiff::{SignedDuration, Timestamp};

use super::report::Check;

/// What an event brought to light, and which check it fails.
pub(super) type Problems = Vec<(Check, String)>;

/// Quantities by SKU.
pub(super) type Goods = BTreeMap<String, i64>;

/// Where an order stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Unknown,
    Placed,
    Confirmed,
    Completed,
    Cancelling,
    Cancelled,
    Stuck,
}

impl Phase {
    /// As the read model calls it.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Placed => "placed",
            Self::Confirmed => "confirmed",
            Self::Completed => "completed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Stuck => "stuck",
        }
    }

    /// Whether nothing more should happen.
    pub(super) fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }
}

/// What orders says.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    pub(super) phase: Phase,
    /// Whether it was ever confirmed.
    pub(super) confirmed: bool,
    pub(super) total_minor: i64,
    pub(super) currency: String,
    pub(super) goods: Goods,
    /// When it must have moved on; none while nothing runs.
    pub(super) deadline: Option<Timestamp>,
    pub(super) stuck_reason: Option<String>,
    settle_within: SignedDuration,
    noted: HashSet<String>,
}

impl Order {
    /// Takes the next event of the stream, which occurred `at`.
    pub(super) fn see(&mut self, event: &orders::Event, at: Timestamp, problems: &mut Problems) {
        use orders::Event;
        let moves_on = !matches!(event, Event::PaymentNoted(_) | Event::StockNoted(_));
        if moves_on && self.phase.has_ended() {
            problems.push((
                Check::Ends,
                format!("{} and then {}", self.phase.status(), orders_name(event)),
            ));
        }
        match event {
            Event::OrderPlaced(placed) => {
                if self.phase != Phase::Unknown {
                    problems.push((Check::Ends, "placed twice".to_owned()));
                }
                self.total_minor = placed.total_minor;
                self.currency.clone_from(&placed.currency);
                self.goods = ordered(&placed.lines);
                self.settle_within = SignedDuration::from_millis(placed.settle_by_unix_ms - at.as_millisecond());
                self.enter(Phase::Placed, unix_ms(placed.decide_by_unix_ms));
                if total(&placed.lines) != Some(placed.total_minor) {
                    problems.push((Check::Amounts, "the total is not the sum of the lines".to_owned()));
                }
            }
            Event::PaymentNoted(noted) => self.note(&noted.source_event_id, problems),
            Event::StockNoted(noted) => self.note(&noted.source_event_id, problems),
            Event::OrderConfirmed(confirmed) => {
                self.confirmed = true;
                self.enter(Phase::Confirmed, at.checked_add(self.settle_within).ok());
                if confirmed.total_minor != self.total_minor || confirmed.currency != self.currency {
                    problems.push((Check::Amounts, "confirmed with another total".to_owned()));
                }
            }
            Event::OrderCancelling(cancelling) => self.enter(Phase::Cancelling, unix_ms(cancelling.settle_by_unix_ms)),
            Event::OrderCompleted(_) => self.enter(Phase::Completed, None),
            Event::OrderCancelled(_) => self.enter(Phase::Cancelled, None),
            Event::OrderStuck(stuck) => {
                self.enter(Phase::Stuck, None);
                self.stuck_reason = Some(stuck.reason.clone());
            }
            Event::OrderResumed(resumed) => {
                let phase = match resumed.toward {
                    orders::ResumeToward::Completion => Phase::Confirmed,
                    orders::ResumeToward::Cancellation | orders::ResumeToward::Unknown => Phase::Cancelling,
                };
                self.enter(phase, unix_ms(resumed.settle_by_unix_ms));
            }
        }
    }

    fn enter(&mut self, phase: Phase, deadline: Option<Timestamp>) {
        self.phase = phase;
        self.deadline = deadline;
        self.stuck_reason = None;
    }

    fn note(&mut self, source: &str, problems: &mut Problems) {
        if !self.noted.insert(source.to_owned()) {
            problems.push((Check::Ends, format!("answer {source} is noted twice")));
        }
    }
}

/// Where an order's money is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Money {
    /// Not asked for.
    #[default]
    None,
    /// Asked for, the answer not known.
    Pending,
    /// Held for the order.
    Held,
    /// Taken.
    Captured,
    /// Will not be held, or is not any more.
    Free,
    /// Taken and given back.
    Refunded,
}

/// What payments says.
#[derive(Clone, Debug, Default)]
pub(super) struct Payment {
    pub(super) money: Money,
    /// What was ever held or taken: amount and currency.
    pub(super) amounts: Vec<(i64, String)>,
    /// Taken in all, each payment once.
    pub(super) captured_minor: i64,
    /// Given back in all, each payment once.
    pub(super) refunded_minor: i64,
    captured: BTreeMap<String, i64>,
    refunded: BTreeMap<String, i64>,
}

impl Payment {
    /// Takes the next event of the stream.
    pub(super) fn see(&mut self, event: &payments::Event, problems: &mut Problems) {
        use payments::Event;
        match event {
            Event::PaymentIntentOpened(opened) => {
                self.money = Money::Pending;
                self.about(opened.amount_minor, &opened.currency);
            }
            Event::PaymentAttempted(_)
            | Event::PaymentCancelRequested(_)
            | Event::PaymentCaptureFailed(_)
            | Event::PaymentRefundFailed(_) => {}
            Event::PaymentAuthorized(authorized) => {
                self.money = Money::Held;
                self.about(authorized.amount_minor, &authorized.currency);
            }
            Event::PaymentDeclined(_) => self.money = Money::Free,
            Event::PaymentCaptured(captured) => {
                self.about(captured.amount_minor, &captured.currency);
                self.capture(&captured.payment_id, captured.amount_minor, problems);
            }
            Event::PaymentVoided(_) => {
                if self.money == Money::Captured {
                    problems.push((Check::Captures, "voided although it was captured".to_owned()));
                }
                self.money = Money::Free;
            }
            Event::PaymentRefunded(refunded) => self.refund(&refunded.payment_id, refunded.amount_minor, problems),
        }
    }

    fn about(&mut self, minor: i64, currency: &str) {
        if !self.amounts.iter().any(|(known, of)| *known == minor && of == currency) {
            self.amounts.push((minor, currency.to_owned()));
        }
    }

    fn capture(&mut self, payment_id: &str, minor: i64, problems: &mut Problems) {
        match self.captured.get(payment_id) {
            // Said again, of the same payment.
            Some(before) if *before == minor && self.money == Money::Captured => return,
            Some(_) if self.money == Money::Refunded => {
                problems.push((Check::Captures, "captured again after it was refunded".to_owned()));
            }
            Some(before) => {
                problems.push((Check::Captures, format!("captured as {before} and as {minor}")));
            }
            None if !self.captured.is_empty() => {
                problems.push((
                    Check::Captures,
                    format!("captured twice, the second time as {payment_id}"),
                ));
            }
            None => {}
        }
        self.captured.insert(payment_id.to_owned(), minor);
        self.captured_minor += minor;
        self.money = Money::Captured;
    }

    fn refund(&mut self, payment_id: &str, minor: i64, problems: &mut Problems) {
        if self.refunded.get(payment_id) == Some(&minor) && self.money == Money::Refunded {
            return;
        }
        self.refunded.insert(payment_id.to_owned(), minor);
        self.refunded_minor += minor;
        self.money = Money::Refunded;
        if self.refunded_minor > self.captured_minor {
            let (refunded, captured) = (self.refunded_minor, self.captured_minor);
            problems.push((Check::Captures, format!("refunded {refunded} of {captured} captured")));
        }
    }
}

/// Where an order's goods are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Not asked for.
    #[default]
    None,
    /// Set aside for the order.
    Reserved,
    /// Gone with the order.
    Committed,
    /// Were not, or are no longer, set aside.
    Free,
    /// Gone and come back.
    Returned,
}

/// What inventory says of one order.
#[derive(Clone, Debug, Default)]
pub(super) struct Stock {
    pub(super) place: Place,
    /// What was set aside, if anything ever was.
    pub(super) goods: Goods,
}

/// How an event moves the goods of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Set aside.
    Reserve,
    /// Gone.
    Commit,
    /// Set aside no more.
    Release,
    /// Back.
    Return,
}

impl Stock {
    /// Takes the next event of an order's stream; how it moves the order's goods, if it does.
    pub(super) fn see(&mut self, event: &inventory::Event, problems: &mut Problems) -> Option<Move> {
        use inventory::Event;
        match event {
            Event::StockReserved(reserved) => {
                if self.place != Place::None {
                    problems.push((Check::Ledger, "reserved twice, or after it was refused".to_owned()));
                }
                self.goods = goods(&reserved.lines);
                self.place = Place::Reserved;
                Some(Move::Reserve)
            }
            Event::StockRejected(_) => {
                self.place = Place::Free;
                None
            }
            Event::StockCommitted(committed) => {
                self.same(&committed.lines, "committed", problems);
                self.step(Place::Reserved, Place::Committed, Move::Commit, problems)
            }
            Event::StockReleased(released) if released.lines.is_empty() => {
                if matches!(self.place, Place::Reserved | Place::Committed) {
                    problems.push((Check::Ledger, "nothing released of what is held".to_owned()));
                }
                // A cancellation that came first leaves its mark; the order is refused when it turns up.
                None
            }
            Event::StockReleased(released) => {
                self.same(&released.lines, "released", problems);
                self.step(Place::Reserved, Place::Free, Move::Release, problems)
            }
            Event::StockReturned(returned) => {
                self.same(&returned.lines, "returned", problems);
                self.step(Place::Committed, Place::Returned, Move::Return, problems)
            }
            Event::StockAdjusted(_) | Event::StockReceived(_) => {
                problems.push((Check::Ledger, "a level's event in the stream of an order".to_owned()));
                None
            }
        }
    }

    fn step(&mut self, from: Place, to: Place, how: Move, problems: &mut Problems) -> Option<Move> {
        if self.place == to {
            // Said again.
            return None;
        }
        if self.place != from {
            problems.push((Check::Ledger, format!("{to:?} after {:?}", self.place)));
        }
        self.place = to;
        Some(how)
    }

    fn same(&self, lines: &[StockLine], what: &str, problems: &mut Problems) {
        if goods(lines) != self.goods {
            problems.push((Check::Ledger, format!("other goods {what} than were reserved")));
        }
    }
}

fn orders_name(event: &orders::Event) -> &'static str {
    common::event::EventSet::event_type(event).name
}

fn ordered(lines: &[Line]) -> Goods {
    let mut goods = Goods::new();
    for line in lines {
        *goods.entry(line.sku.clone()).or_default() += line.quantity;
    }
    goods
}

fn goods(lines: &[StockLine]) -> Goods {
    lines.iter().map(|line| (line.sku.clone(), line.quantity)).collect()
}

fn total(lines: &[Line]) -> Option<i64> {
    lines.iter().try_fold(0_i64, |total, line| {
        total.checked_add(line.quantity.checked_mul(line.unit_price_minor)?)
    })
}

fn unix_ms(milliseconds: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(milliseconds).ok()
}
