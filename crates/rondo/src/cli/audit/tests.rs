//! Each rule of the audit, held against a case that keeps it and one that breaks it.

use std::collections::BTreeMap;

use contracts::inventory::{
    Event as StockEvent, StockAdjusted, StockCommitted, StockLine, StockReceived, StockRejected, StockReleased,
    StockReserved, StockReturned,
};
use contracts::orders::{
    CancelCause, CancelReason, Event as OrderEvent, Line, OrderCancelled, OrderCancelling, OrderCompleted,
    OrderConfirmed, OrderPlaced, OrderStuck, PaymentNoted, PaymentOutcome,
};
use contracts::payments::{Event as PaymentEvent, PaymentAuthorized, PaymentCaptured, PaymentRefunded, PaymentVoided};
use jiff::{SignedDuration, Timestamp};

use super::facts::{Order, Payment, Problems, Stock};
use super::judge::{Case, Clock, judge};
use super::ledger::{Ledger, Row};
use super::report::{Check, Report};

const ORDER: &str = "00000000-0000-0000-0000-000000000001";

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn placed() -> OrderEvent {
    let line = |quantity| Line {
        sku: "NW-001".to_owned(),
        quantity,
        unit_price_minor: 100,
    };
    OrderPlaced {
        order_id: ORDER.to_owned(),
        customer_id: "ALFKI".to_owned(),
        currency: "USD".to_owned(),
        lines: vec![line(2), line(3)],
        total_minor: 500,
        payment_method: "tok_visa".to_owned(),
        reference: None,
        idempotency_key: None,
        request_hash: String::new(),
        decide_by_unix_ms: 60_000,
        settle_by_unix_ms: 600_000,
        ..OrderPlaced::default()
    }
    .into()
}

fn confirmed() -> OrderEvent {
    OrderConfirmed {
        order_id: ORDER.to_owned(),
        total_minor: 500,
        currency: "USD".to_owned(),
    }
    .into()
}

fn completed() -> OrderEvent {
    OrderCompleted {
        order_id: ORDER.to_owned(),
    }
    .into()
}

fn cancelling() -> OrderEvent {
    let order_id = ORDER.to_owned();
    OrderCancelling {
        order_id,
        cause: CancelCause::CustomerRequest,
        settle_by_unix_ms: 600_000,
    }
    .into()
}

fn cancelled() -> OrderEvent {
    OrderCancelled {
        order_id: ORDER.to_owned(),
        reason: CancelReason::CustomerRequest,
    }
    .into()
}

fn authorized() -> PaymentEvent {
    PaymentAuthorized {
        order_id: ORDER.to_owned(),
        payment_id: "pay_1".to_owned(),
        amount_minor: 500,
        currency: "USD".to_owned(),
    }
    .into()
}

fn captured(payment_id: &str, amount_minor: i64) -> PaymentEvent {
    PaymentCaptured {
        order_id: ORDER.to_owned(),
        payment_id: payment_id.to_owned(),
        amount_minor,
        currency: "USD".to_owned(),
    }
    .into()
}

fn refunded(amount_minor: i64) -> PaymentEvent {
    PaymentRefunded {
        order_id: ORDER.to_owned(),
        payment_id: "pay_1".to_owned(),
        amount_minor,
        currency: "USD".to_owned(),
    }
    .into()
}

fn voided() -> PaymentEvent {
    PaymentVoided {
        order_id: ORDER.to_owned(),
        payment_id: None,
        nothing_held: true,
    }
    .into()
}

fn lines(quantity: i64) -> Vec<StockLine> {
    vec![StockLine {
        sku: "NW-001".to_owned(),
        quantity,
    }]
}

fn reserved() -> StockEvent {
    StockReserved {
        order_id: ORDER.to_owned(),
        lines: lines(5),
    }
    .into()
}

fn committed() -> StockEvent {
    StockCommitted {
        order_id: ORDER.to_owned(),
        lines: lines(5),
    }
    .into()
}

fn released() -> StockEvent {
    StockReleased {
        order_id: ORDER.to_owned(),
        lines: lines(5),
        nothing_held: false,
    }
    .into()
}

fn nothing_released() -> StockEvent {
    StockReleased {
        order_id: ORDER.to_owned(),
        lines: Vec::new(),
        nothing_held: true,
    }
    .into()
}

fn returned() -> StockEvent {
    StockReturned {
        order_id: ORDER.to_owned(),
        lines: lines(5),
    }
    .into()
}

fn rejected() -> StockEvent {
    StockRejected {
        order_id: ORDER.to_owned(),
        shortages: Vec::new(),
        cancelled: true,
    }
    .into()
}

fn counted(on_hand: i64, delta: i64) -> StockEvent {
    StockAdjusted {
        sku: "NW-001".to_owned(),
        name: "Chai".to_owned(),
        unit_price_minor: 100,
        on_hand,
        delta,
    }
    .into()
}

/// What the audit says of one order with these events at `now`, and of the SKU's level.
struct Audited {
    report: Report,
    ledger: Ledger,
}

fn audit(orders: &[OrderEvent], payments: &[PaymentEvent], stock: &[StockEvent], at_rest: bool, now: i64) -> Audited {
    let mut problems = Problems::new();
    let mut ledger = Ledger::default();
    let mut order = Order::default();
    for event in orders {
        order.see(event, at(0), &mut problems);
    }
    let mut payment = Payment::default();
    for event in payments {
        payment.see(event, &mut problems);
    }
    let mut goods = Stock::default();
    for event in stock {
        if let Some(how) = goods.see(event, &mut problems) {
            ledger.moved(&goods.goods, how);
        }
    }
    if goods.place == super::facts::Place::Reserved {
        ledger.outstanding(&goods.goods);
    }
    let mut report = Report::default();
    super::tell(ORDER, problems, &mut report);
    let case = Case {
        order_id: ORDER,
        order: (!orders.is_empty()).then_some(&order),
        payment: (!payments.is_empty()).then_some(&payment),
        stock: (!stock.is_empty()).then_some(&goods),
        at_rest,
    };
    let clock = Clock {
        now: at(now),
        slack: SignedDuration::from_secs(30),
    };
    judge(case, clock, &mut report);
    Audited { report, ledger }
}

fn at_rest(orders: &[OrderEvent], payments: &[PaymentEvent], stock: &[StockEvent]) -> Report {
    audit(orders, payments, stock, true, 1_000).report
}

fn under_way(orders: &[OrderEvent], payments: &[PaymentEvent], stock: &[StockEvent]) -> Report {
    audit(orders, payments, stock, false, 1_000).report
}

#[test]
fn sagas_that_went_as_they_should_are_clean() {
    let payment = [authorized(), captured("pay_1", 500)];
    for (orders, payments, stock) in [
        (
            vec![placed(), confirmed(), completed()],
            payment.to_vec(),
            vec![reserved(), committed()],
        ),
        (
            vec![placed(), cancelling(), cancelled()],
            vec![authorized(), voided()],
            vec![reserved(), released()],
        ),
        (
            vec![placed(), cancelling(), cancelled()],
            vec![voided()],
            vec![nothing_released(), rejected()],
        ),
        (
            vec![placed(), confirmed(), cancelling(), cancelled()],
            vec![authorized(), captured("pay_1", 500), refunded(500)],
            vec![reserved(), committed(), returned()],
        ),
    ] {
        let report = at_rest(&orders, &payments, &stock);
        assert!(report.is_clean(), "{}", report.as_json());
    }
}

#[test]
fn an_answer_that_is_given_again_moves_nothing() {
    let orders = [placed(), confirmed(), completed()];
    let payments = [authorized(), captured("pay_1", 500), captured("pay_1", 500)];
    let stock = [reserved(), committed(), committed()];
    let Audited { report, ledger } = audit(&orders, &payments, &stock, true, 0);
    assert!(report.is_clean(), "{}", report.as_json());
    assert_eq!(ledger.sold(), 5);
}

#[test]
fn money_taken_without_a_confirm_is_found_even_while_the_order_is_under_way() {
    let report = under_way(&[placed()], &[authorized(), captured("pay_1", 500)], &[reserved()]);
    assert_eq!(report.findings(Check::Causes), 1);
}

#[test]
fn an_effect_of_an_order_that_does_not_exist_is_found() {
    assert_eq!(under_way(&[], &[authorized()], &[]).findings(Check::Causes), 1);
}

#[test]
fn an_order_under_way_may_have_its_money_anywhere() {
    let orders = [placed(), confirmed(), cancelling()];
    assert!(
        under_way(
            &orders,
            &[authorized(), captured("pay_1", 500)],
            &[reserved(), committed()]
        )
        .is_clean()
    );
    assert!(under_way(&orders, &[authorized()], &[reserved()]).is_clean());
}

#[test]
fn a_completed_order_without_its_money_or_goods_is_found() {
    let orders = [placed(), confirmed(), completed()];
    let report = at_rest(&orders, &[authorized()], &[reserved()]);
    assert!(report.findings(Check::MoneyAtRest) > 0);
    assert_eq!(report.findings(Check::GoodsAtRest), 1);
}

#[test]
fn a_cancelled_order_that_keeps_money_or_goods_is_found() {
    let orders = [placed(), confirmed(), cancelling(), cancelled()];
    let report = at_rest(
        &orders,
        &[authorized(), captured("pay_1", 500)],
        &[reserved(), committed()],
    );
    assert_eq!(report.findings(Check::MoneyAtRest), 1);
    assert_eq!(report.findings(Check::GoodsAtRest), 1);
    let held = at_rest(&[placed(), cancelling(), cancelled()], &[authorized()], &[reserved()]);
    assert_eq!(
        (held.findings(Check::MoneyAtRest), held.findings(Check::GoodsAtRest)),
        (1, 1)
    );
}

#[test]
fn a_second_capture_and_a_refund_of_too_much_are_found() {
    let orders = [placed(), confirmed()];
    let twice = under_way(
        &orders,
        &[authorized(), captured("pay_1", 500), captured("pay_2", 500)],
        &[],
    );
    assert_eq!(twice.findings(Check::Captures), 1);
    let after = under_way(
        &orders,
        &[captured("pay_1", 500), refunded(500), captured("pay_1", 500)],
        &[],
    );
    assert_eq!(after.findings(Check::Captures), 1);
    let too_much = under_way(&orders, &[captured("pay_1", 500), refunded(600)], &[]);
    assert_eq!(too_much.findings(Check::Captures), 1);
    let voided = under_way(&orders, &[captured("pay_1", 500), voided()], &[]);
    assert_eq!(voided.findings(Check::Captures), 1);
}

#[test]
fn another_amount_or_other_goods_than_ordered_are_found() {
    let orders = [placed(), confirmed()];
    assert_eq!(
        under_way(&orders, &[authorized(), captured("pay_1", 400)], &[]).findings(Check::Amounts),
        1
    );
    let other = StockReserved {
        order_id: ORDER.to_owned(),
        lines: lines(4),
    }
    .into();
    assert_eq!(under_way(&orders, &[], &[other]).findings(Check::Amounts), 1);
}

#[test]
fn an_order_that_ends_twice_is_found() {
    let report = under_way(&[placed(), cancelling(), cancelled(), completed()], &[], &[]);
    assert_eq!(report.findings(Check::Ends), 1);
}

#[test]
fn an_answer_that_counts_twice_is_found() {
    let noted = || -> OrderEvent {
        PaymentNoted {
            order_id: ORDER.to_owned(),
            outcome: PaymentOutcome::Authorized,
            detail: None,
            source_event_id: "e".to_owned(),
        }
        .into()
    };
    assert_eq!(
        under_way(&[placed(), noted(), noted()], &[], &[]).findings(Check::Ends),
        1
    );
    assert_eq!(under_way(&[placed(), noted()], &[], &[]).findings(Check::Ends), 0);
}

#[test]
fn a_deadline_that_passed_unnoticed_is_found_after_the_slack() {
    assert_eq!(
        audit(&[placed()], &[], &[], false, 89_000)
            .report
            .findings(Check::Overdue),
        0
    );
    assert_eq!(
        audit(&[placed()], &[], &[], false, 91_000)
            .report
            .findings(Check::Overdue),
        1
    );
    let orders = [placed(), confirmed()];
    assert_eq!(
        audit(&orders, &[], &[], false, 91_000).report.findings(Check::Overdue),
        0
    );
    assert_eq!(
        audit(&orders, &[], &[], false, 631_000).report.findings(Check::Overdue),
        1
    );
}

#[test]
fn a_stuck_order_is_told_with_its_reason_and_is_not_overdue() {
    let stuck = OrderStuck {
        order_id: ORDER.to_owned(),
        reason: "card expired".to_owned(),
    }
    .into();
    let report = audit(&[placed(), confirmed(), stuck], &[], &[], false, 10_000_000).report;
    assert_eq!((report.findings(Check::Stuck), report.findings(Check::Overdue)), (1, 0));
    assert!(report.as_json().to_string().contains("card expired"));
}

#[test]
fn goods_that_leave_without_being_reserved_are_found() {
    let orders = [placed(), confirmed()];
    assert!(under_way(&orders, &[], &[committed()]).findings(Check::Ledger) > 0);
    assert!(under_way(&orders, &[], &[reserved(), returned()]).findings(Check::Ledger) > 0);
    assert!(under_way(&orders, &[], &[reserved(), nothing_released()]).findings(Check::Ledger) > 0);
    assert!(under_way(&orders, &[], &[reserved(), reserved()]).findings(Check::Ledger) > 0);
}

fn row(on_hand: i64, reserved: i64, movements: [i64; 6]) -> BTreeMap<String, Row> {
    [(
        "NW-001".to_owned(),
        Row {
            on_hand,
            reserved,
            movements,
        },
    )]
    .into()
}

fn levels(stock: &[StockEvent], rows: &BTreeMap<String, Row>) -> Report {
    let mut ledger = audit(&[placed(), confirmed()], &[], stock, false, 0).ledger;
    ledger.level(&counted(10, 10));
    let receipt = StockReceived {
        sku: "NW-001".to_owned(),
        quantity: 7,
        receipt_id: "r".to_owned(),
    };
    ledger.level(&receipt.into());
    let mut report = Report::default();
    ledger.judge(rows, &mut report);
    report
}

#[test]
fn a_level_is_what_its_events_add_up_to() {
    assert!(levels(&[reserved()], &row(17, 5, [5, 0, 0, 0, 10, 7])).is_clean());
    assert!(levels(&[reserved(), committed()], &row(12, 0, [5, 5, 0, 0, 10, 7])).is_clean());
    assert!(levels(&[reserved(), released()], &row(17, 0, [5, 0, 5, 0, 10, 7])).is_clean());
    assert!(levels(&[reserved(), committed(), returned()], &row(17, 0, [5, 5, 0, 5, 10, 7])).is_clean());
}

#[test]
fn a_level_movement_or_row_that_is_off_is_found() {
    let stock = [reserved(), committed()];
    assert_eq!(
        levels(&stock, &row(13, 0, [5, 5, 0, 0, 10, 7])).findings(Check::Levels),
        1
    );
    assert_eq!(
        levels(&stock, &row(12, 1, [5, 5, 0, 0, 10, 7])).findings(Check::Levels),
        1
    );
    assert_eq!(
        levels(&stock, &row(12, 0, [5, 4, 0, 0, 10, 7])).findings(Check::Levels),
        1
    );
    assert_eq!(levels(&stock, &BTreeMap::new()).findings(Check::Levels), 1);
    let mut more = row(12, 0, [5, 5, 0, 0, 10, 7]);
    more.insert(
        "NW-002".to_owned(),
        Row {
            on_hand: 3,
            reserved: 0,
            movements: [0; 6],
        },
    );
    assert_eq!(levels(&stock, &more).findings(Check::Levels), 1);
}
