//! What must hold between the three services about one order. Pure.
//!
//! | what                                          | about which orders                                |
//! |-----------------------------------------------|---------------------------------------------------|
//! | nothing captured or committed without confirm | all: the cause was read after its effects         |
//! | amounts and goods are the order's             | all                                               |
//! | kept ⇔ completed, gone ⇔ completed            | those that had ended before the others were read  |
//! | nothing overdue, nothing stuck                | those that have not ended                         |

use jiff::{SignedDuration, Timestamp};

use super::facts::{Money, Order, Payment, Phase, Place, Stock};
use super::report::{Check, Report};

/// Everything known about one order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    /// Its id.
    pub(super) order_id: &'a str,
    /// What orders says, read last.
    pub(super) order: Option<&'a Order>,
    /// What payments says.
    pub(super) payment: Option<&'a Payment>,
    /// What inventory says.
    pub(super) stock: Option<&'a Stock>,
    /// Whether it had ended before payments and inventory were read.
    pub(super) at_rest: bool,
}

/// By which clock, and with how much patience.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When orders was read.
    pub(super) now: Timestamp,
    /// How long after a deadline something must have happened.
    pub(super) slack: SignedDuration,
}

/// Holds the case against the rules.
pub(super) fn judge(case: Case<'_>, clock: Clock, report: &mut Report) {
    let Some(order) = case.order.filter(|order| order.phase != Phase::Unknown) else {
        report.find(
            Check::Causes,
            case.order_id,
            "payments or inventory know it, orders does not",
        );
        return;
    };
    causes(case, order, report);
    amounts(case, order, report);
    if case.at_rest {
        money_at_rest(case, order, report);
        goods_at_rest(case, order, report);
    }
    if let Some(late) = order
        .deadline
        .map(|due| clock.now.duration_since(due))
        .filter(|late| *late > clock.slack)
    {
        let seconds = late.as_secs();
        report.find(
            Check::Overdue,
            case.order_id,
            format!("{} and {seconds} s past its deadline", order.phase.status()),
        );
    }
    if order.phase == Phase::Stuck {
        let reason = order.stuck_reason.as_deref().unwrap_or("no reason recorded");
        report.find(Check::Stuck, case.order_id, reason);
    }
}

fn causes(case: Case<'_>, order: &Order, report: &mut Report) {
    if order.confirmed {
        return;
    }
    let status = order.phase.status();
    if case.payment.is_some_and(|payment| payment.captured_minor != 0) {
        report.find(
            Check::Causes,
            case.order_id,
            format!("captured, but {status} and never confirmed"),
        );
    }
    if case
        .stock
        .is_some_and(|stock| matches!(stock.place, Place::Committed | Place::Returned))
    {
        report.find(
            Check::Causes,
            case.order_id,
            format!("committed, but {status} and never confirmed"),
        );
    }
}

fn amounts(case: Case<'_>, order: &Order, report: &mut Report) {
    for (minor, currency) in case.payment.iter().flat_map(|payment| &payment.amounts) {
        if (*minor, currency) != (order.total_minor, &order.currency) {
            let (total, of) = (order.total_minor, &order.currency);
            report.find(
                Check::Amounts,
                case.order_id,
                format!("{minor} {currency} in payments, {total} {of} in orders"),
            );
        }
    }
    let reserved = case.stock.filter(|stock| !stock.goods.is_empty());
    if reserved.is_some_and(|stock| stock.goods != order.goods) {
        report.find(
            Check::Amounts,
            case.order_id,
            "inventory reserved other goods than were ordered",
        );
    }
}

fn money_at_rest(case: Case<'_>, order: &Order, report: &mut Report) {
    let none = Payment::default();
    let payment = case.payment.unwrap_or(&none);
    let kept = payment.captured_minor - payment.refunded_minor;
    let due = if order.phase == Phase::Completed {
        order.total_minor
    } else {
        0
    };
    let status = order.phase.status();
    if kept != due {
        report.find(
            Check::MoneyAtRest,
            case.order_id,
            format!("{status}, and {kept} kept instead of {due}"),
        );
    }
    match (order.phase, &payment.money) {
        (Phase::Completed, Money::Captured) | (Phase::Cancelled, Money::None | Money::Free | Money::Refunded) => {}
        // Shown above already.
        (Phase::Cancelled, Money::Captured) => {}
        (_, money) => {
            report.find(
                Check::MoneyAtRest,
                case.order_id,
                format!("{status}, and its payment is {}", of_money(money)),
            );
        }
    }
}

fn goods_at_rest(case: Case<'_>, order: &Order, report: &mut Report) {
    let none = Stock::default();
    let stock = case.stock.unwrap_or(&none);
    match (order.phase, &stock.place) {
        (Phase::Completed, Place::Committed) | (Phase::Cancelled, Place::None | Place::Free | Place::Returned) => {}
        (phase, place) => {
            let status = phase.status();
            report.find(
                Check::GoodsAtRest,
                case.order_id,
                format!("{status}, and its goods are {}", of_place(place)),
            );
        }
    }
}

fn of_money(money: &Money) -> &'static str {
    match money {
        Money::None => "not asked for",
        Money::Pending => "still open",
        Money::Held => "still held",
        Money::Captured => "captured",
        Money::Free => "declined or voided",
        Money::Refunded => "refunded",
    }
}

fn of_place(place: &Place) -> &'static str {
    match place {
        Place::None => "not asked for",
        Place::Reserved => "still reserved",
        Place::Committed => "gone",
        Place::Free => "not reserved",
        Place::Returned => "back in stock",
    }
}
