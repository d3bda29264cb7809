//! `rondo audit`: proves from the outside that no money, no goods and no event was made or lost.
//!
//! It reads the three event stores and the log itself, folds the events with rules of its own, and holds the results
//! against each other and against the tables that the services keep. It writes nothing and may run at any time, under
//! load too. For that the order in which things are read matters:
//!
//! ```text
//!   1 the log           what is in it was committed before, so each store read later knows it
//!   2 orders, ended     which orders have ended; their answers were committed before
//!   3 payments          each a snapshot of one moment
//!   4 inventory
//!   5 orders, all       every cause of what 3 and 4 show was committed before
//!   6 the log again     until what 3 to 5 show and 1 did not is there, or the patience ends
//! ```
//!
//! An effect is committed after its cause, and an answer before what rests on it. So an effect in 3 or 4 whose cause is
//! not in 5 has none, and an order of 2 whose money is not at rest in 3 never will be: neither can be a matter of timing.
//! What is at rest is claimed of the orders of 2 alone; amounts and causes of all.
//!
//! Memory: 24 bytes an event for the log, 200 bytes a SKU for the ledger, and one order of each service at a time: all
//! histories are sorted by stream and merged. The snapshots are held for as long as the stores are read.

mod facts;
mod judge;
mod ledger;

mod history;
mod log;
mod queries;

mod report;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use common::codec::Codec;
use common::parking;
use contracts::service::SERVICES;
use contracts::topics::Topics;
use contracts::{inventory as stock_wire, orders as order_wire, payments as payment_wire};
use deadpool_postgres::{Client, Transaction};
use futures_util::stream::Fuse;
use futures_util::{StreamExt as _, TryStreamExt as _};
use indicatif::ProgressBar;
use jiff::{SignedDuration, Timestamp};

use super::output;
use super::target::remember_schemas;
use super::{Output, Target, Verdict};
use facts::{Order, Payment, Place, Stock};
use history::{History, Read, Trail};
use judge::{Case, Clock, judge};
use ledger::{Ledger, Row};
use log::{Found, Log};
use report::Check;

pub(super) use report::Report;

/// How often to look whether every order has ended.
const IDLE_POLL: Duration = Duration::from_millis(500);
/// Statuses of orders that are under way.
const UNDER_WAY: [&str; 3] = ["placed", "confirmed", "cancelling"];
/// How many parked keys are shown of each service.
const PARKED_SHOWN_MAX: i64 = 20;

/// What `audit` takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How late something may be before it is found wanting: an event in the log, a deadline.
    #[arg(long, default_value_t = 30, value_name = "SECS")]
    settle: u32,
    /// Wait up to so long until every order has ended, before anything is read.
    #[arg(long, value_name = "SECS")]
    wait_idle: Option<u64>,
    /// Stuck orders, parked keys and dead letters fail the audit too.
    #[arg(long)]
    strict: bool,
}

impl Args {
    /// After a run of load: everything must have ended, and nothing may be set aside.
    pub(super) fn after_a_run() -> Self {
        Self {
            settle: 30,
            wait_idle: Some(60),
            strict: true,
        }
    }
}

/// Audits the installation.
///
/// # Errors
/// Something cannot be read; that is no verdict.
pub async fn run(args: Args, target: &Target) -> Result<Verdict> {
    let started = Instant::now();
    let report = examine(args, target).await?;
    match target.output() {
        Output::Json => output::json(&report.as_json()),
        Output::Table => {
            report.print();
            let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            output::line(output::dim(format_args!("in {}", output::span(elapsed.cast_signed()))));
        }
    }
    Ok(Verdict::of(report.is_clean()))
}

/// What the audit finds.
///
/// # Errors
/// Something cannot be read; that is no verdict.
pub(super) async fn examine(args: Args, target: &Target) -> Result<Report> {
    let mut report = Report::default();
    if !args.strict {
        report.only_warn(Check::Stuck);
        report.only_warn(Check::SetAside);
    }
    report.only_warn(Check::LogKnown);

    let mut databases = Databases::connect(target).await?;
    let codec = target.codec()?;
    for client in [&databases.orders, &databases.payments, &databases.inventory] {
        remember_schemas(&codec, client).await?;
    }
    if let Some(seconds) = args.wait_idle {
        wait_idle(&databases.orders, Duration::from_secs(seconds), &mut report).await?;
    }
    let (logs, found) = read_logs(target, &mut report).await?;
    let trails = read_stores(&mut databases, &codec, found, args.settle, &mut report).await?;
    settle(
        &databases,
        logs,
        trails,
        Duration::from_secs(args.settle.into()),
        &mut report,
    )
    .await?;
    set_aside(&databases, &mut report).await?;
    Ok(report)
}

/// One connection for each snapshot: orders is read twice.
struct Databases {
    orders_ended: Client,
    orders: Client,
    payments: Client,
    inventory: Client,
}

impl Databases {
    async fn connect(target: &Target) -> Result<Self> {
        Ok(Self {
            orders_ended: target.database("orders").await?,
            orders: target.database("orders").await?,
            payments: target.database("payments").await?,
            inventory: target.database("inventory").await?,
        })
    }

    /// The service called `name`.
    fn named(&self, name: &str) -> &Client {
        match name {
            "orders" => &self.orders,
            "payments" => &self.payments,
            _ => &self.inventory,
        }
    }
}

async fn wait_idle(orders: &Client, patience: Duration, report: &mut Report) -> Result<()> {
    let until = Instant::now() + patience;
    let bar = output::progress(None, "{spinner} {msg}  {elapsed}");
    loop {
        let counts = orders::store::count_by_status(orders).await?;
        let under_way = counts.iter().filter(|(status, _)| UNDER_WAY.contains(&status.as_str()));
        let under_way: i64 = under_way.map(|(_, count)| count).sum();
        let number = output::counted(under_way.unsigned_abs(), "order");
        if under_way == 0 || Instant::now() >= until {
            bar.finish_and_clear();
            report.examined(Check::Idle, "");
            if under_way > 0 {
                let what = format!("still under way after {} s", patience.as_secs());
                report.find(Check::Idle, number, what);
            }
            return Ok(());
        }
        bar.set_message(format!("{number} under way"));
        bar.tick();
        tokio::time::sleep(IDLE_POLL).await;
    }
}

/// Reads the topics one after another, so that what is fetched ahead is bounded.
async fn read_logs(target: &Target, report: &mut Report) -> Result<(Vec<Log>, Vec<Found>)> {
    let settings = target.kafka_settings()?;
    let topics = Topics::new(settings.namespace.as_deref());
    let mut logs = Vec::new();
    for service in &SERVICES {
        logs.push(Log::open(&settings, topics.named(service.topic)).await?);
    }
    let bar = output::progress(
        Some(logs.iter().map(Log::length).sum()),
        "{spinner} {bar:30.cyan} {pos} of {len} records of the log  {elapsed}",
    );
    let mut found = Vec::new();
    let mut read = Vec::new();
    for (log, service) in logs.into_iter().zip(&SERVICES) {
        let (log, of_topic) = log.read(bar.clone()).await?;
        if !of_topic.cut_off.is_empty() {
            let partitions = &of_topic.cut_off;
            report.note(format!(
                "{} does not begin at its beginning in partitions {partitions:?}",
                service.topic
            ));
        }
        read.push(log);
        found.push(of_topic);
    }
    bar.finish_and_clear();
    let records: u64 = found.iter().map(|found| found.records).sum();
    let duplicates: u64 = found.iter().map(|found| found.index.duplicates()).sum();
    let foreign: u64 = found.iter().map(|found| found.foreign).sum();
    report.note(format!(
        "the log has {} records: {} repeat an event, {} have no event's id",
        output::count(records),
        output::count(duplicates),
        output::count(foreign)
    ));
    Ok((read, found))
}

/// Reads the three stores, each in one snapshot, and judges every order.
async fn read_stores(
    databases: &mut Databases,
    codec: &Codec,
    found: Vec<Found>,
    settle_secs: u32,
    report: &mut Report,
) -> Result<[Trail; 3]> {
    // The order of these four is the proof's; see the top of this file.
    let (ended, _) = queries::snapshot(&mut databases.orders_ended, "orders").await?;
    let (payments, _) = queries::snapshot(&mut databases.payments, "payments").await?;
    let (inventory, _) = queries::snapshot(&mut databases.inventory, "inventory").await?;
    let (orders, now) = queries::snapshot(&mut databases.orders, "orders").await?;

    let mut indexes = found.into_iter().map(|found| found.index);
    let mut index = || indexes.next().expect("there is a log for each service");
    let mut merge = Merge {
        codec,
        ended: Ended {
            rows: Box::pin(queries::ended(&ended).await?.fuse()),
            ahead: None,
        },
        orders: History::new("orders", queries::orders(&orders).await?, index()),
        payments: History::new("payments", queries::payments(&payments).await?, index()),
        inventory: History::new("inventory", queries::inventory(&inventory).await?, index()),
        ledger: Ledger::default(),
        clock: Clock {
            now,
            slack: SignedDuration::from_secs(settle_secs.into()),
        },
        seen: Seen::default(),
    };
    let bar = output::progress(None, "{spinner} {pos} streams of the stores  {elapsed}");
    merge.run(&bar, report).await?;
    bar.finish_and_clear();
    merge.seen.report(report);
    let (ledger, trails) = (
        merge.ledger,
        [merge.orders, merge.payments, merge.inventory].map(History::into_trail),
    );

    levels(&inventory, &ledger, report).await?;
    for (order_id, due) in queries::overdue_tries(&payments, settle_secs.into()).await? {
        report.find(
            Check::Overdue,
            order_id,
            format!("its payment should have been tried again at {}", output::time(due)),
        );
    }
    Ok(trails)
}

async fn levels(inventory: &Transaction<'_>, ledger: &Ledger, report: &mut Report) -> Result<()> {
    let totals = inventory::store::totals(inventory).await?;
    let mut rows = BTreeMap::new();
    for total in totals {
        let (on_hand, on_hand_moved) = total.on_hand;
        let (reserved, reserved_moved) = total.reserved;
        if (on_hand, reserved) != (on_hand_moved, reserved_moved) {
            let what =
                format!("{on_hand} and {reserved} reserved, its movements say {on_hand_moved} and {reserved_moved}");
            report.find(Check::Levels, total.sku.as_str(), what);
        }
        let movements = [
            total.set_aside,
            total.committed,
            total.released,
            total.returned,
            total.adjusted,
            total.received,
        ];
        let row = Row {
            on_hand,
            reserved,
            movements,
        };
        rows.insert(total.sku.as_str().to_owned(), row);
    }
    ledger.judge(&rows, report);
    for (sku, what) in queries::negative_levels(inventory).await? {
        report.find(Check::Levels, sku, what);
    }
    let skus = output::counted(ledger.skus() as u64, "SKU");
    let (sold, set_aside) = (ledger.sold().unsigned_abs(), ledger.set_aside().unsigned_abs());
    report.examined(Check::Levels, &*skus);
    report.examined(
        Check::Ledger,
        format!(
            "{skus}: {} units sold, {} set aside",
            output::count(sold),
            output::count(set_aside)
        ),
    );
    Ok(())
}

/// How much has been judged.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    orders: u64,
    at_rest: u64,
    completed: u64,
    captured_minor: i128,
    refunded_minor: i128,
}

impl Seen {
    fn report(self, report: &mut Report) {
        let orders = output::counted(self.orders, "order");
        let at_rest = output::counted(self.at_rest, "ended order");
        let completed = output::count(self.completed);
        report.examined(Check::Ends, &*orders);
        report.examined(Check::Causes, &*orders);
        report.examined(Check::Amounts, &*orders);
        report.examined(
            Check::Captures,
            format!(
                "{} minor units captured, {} refunded",
                self.captured_minor, self.refunded_minor
            ),
        );
        report.examined(Check::MoneyAtRest, format!("{at_rest}, {completed} completed"));
        report.examined(Check::GoodsAtRest, format!("{at_rest}, {completed} completed"));
        report.examined(Check::ReadModels, &*orders);
        report.examined(Check::Overdue, &*orders);
        report.examined(Check::Stuck, &*orders);
    }
}

/// The orders that had ended when the audit began to read, in order.
struct Ended {
    rows: std::pin::Pin<Box<Fuse<tokio_postgres::RowStream>>>,
    ahead: Option<String>,
}

impl Ended {
    /// Whether `order_id`, which is asked for in order, is one of them.
    async fn contains(&mut self, order_id: &str) -> Result<bool> {
        while self.ahead.as_deref().is_none_or(|ahead| ahead < order_id) {
            match self.rows.try_next().await? {
                Some(row) => self.ahead = Some(row.get(0)),
                None => return Ok(false),
            }
        }
        Ok(self.ahead.as_deref() == Some(order_id))
    }
}

/// The three histories, read side by side: one stream of each at a time.
struct Merge<'a> {
    codec: &'a Codec,
    ended: Ended,
    orders: History,
    payments: History,
    inventory: History,
    ledger: Ledger,
    clock: Clock,
    seen: Seen,
}

impl Merge<'_> {
    async fn run(&mut self, bar: &ProgressBar, report: &mut Report) -> Result<()> {
        while let Some(stream) = self.next_stream(report).await? {
            bar.inc(1);
            if stream
                .split_once(':')
                .is_some_and(|(kind, _)| kind == stock_wire::SKU_STREAM)
            {
                self.level(&stream, report).await?;
            } else {
                self.order(&stream, report).await?;
            }
        }
        Ok(())
    }

    /// The first stream that any history has not passed.
    async fn next_stream(&mut self, report: &mut Report) -> Result<Option<String>> {
        let mut next: Option<String> = None;
        for history in [&mut self.orders, &mut self.payments, &mut self.inventory] {
            let candidate = history.stream(report).await?;
            if let Some(candidate) = candidate.filter(|candidate| next.as_deref().is_none_or(|next| *candidate < next))
            {
                next = Some(candidate.to_owned());
            }
        }
        Ok(next)
    }

    async fn level(&mut self, stream: &str, report: &mut Report) -> Result<()> {
        while let Some(read) = self
            .inventory
            .read::<stock_wire::Event>(stream, self.codec, report)
            .await?
        {
            if let Read::Event(event, _) = read {
                self.ledger.level(&event);
            }
        }
        Ok(())
    }

    async fn order(&mut self, order_id: &str, report: &mut Report) -> Result<()> {
        let at_rest = self.ended.contains(order_id).await?;
        let order = self.read_order(order_id, report).await?;
        let payment = self.read_payment(order_id, report).await?;
        let stock = self.read_stock(order_id, report).await?;
        self.seen.orders += 1;
        self.seen.at_rest += u64::from(at_rest);
        if let Some(order) = order.as_ref().filter(|_| at_rest) {
            self.seen.completed += u64::from(order.phase == facts::Phase::Completed);
        }
        if let Some(payment) = &payment {
            self.seen.captured_minor += i128::from(payment.captured_minor);
            self.seen.refunded_minor += i128::from(payment.refunded_minor);
        }
        let case = Case {
            order_id,
            order: order.as_ref(),
            payment: payment.as_ref(),
            stock: stock.as_ref(),
            at_rest,
        };
        judge(case, self.clock, report);
        Ok(())
    }

    async fn read_order(&mut self, order_id: &str, report: &mut Report) -> Result<Option<Order>> {
        let mut order: Option<Order> = None;
        let mut problems = Vec::new();
        let mut row = None;
        while let Some(read) = self
            .orders
            .read::<order_wire::Event>(order_id, self.codec, report)
            .await?
        {
            match read {
                Read::Event(event, at) => order.get_or_insert_default().see(&event, at, &mut problems),
                Read::Row { status, first, .. } => row = Some((status, first)),
            }
        }
        tell(order_id, problems, report);
        let expected = order
            .as_ref()
            .map(|order| (order.phase.status().to_owned(), Some(order.total_minor)));
        if row != expected {
            let what = format!("orders lists {}, its events say {}", row_text(row), row_text(expected));
            report.find(Check::ReadModels, order_id, what);
        }
        Ok(order)
    }

    async fn read_payment(&mut self, order_id: &str, report: &mut Report) -> Result<Option<Payment>> {
        let mut payment: Option<Payment> = None;
        let mut problems = Vec::new();
        let mut row = None;
        while let Some(read) = self
            .payments
            .read::<payment_wire::Event>(order_id, self.codec, report)
            .await?
        {
            match read {
                Read::Event(event, _) => payment.get_or_insert_default().see(&event, &mut problems),
                Read::Row { first, second, .. } => row = Some((first.unwrap_or(0), second.unwrap_or(0))),
            }
        }
        tell(order_id, problems, report);
        let expected = payment
            .as_ref()
            .map(|payment| (payment.captured_minor, payment.refunded_minor));
        if row != expected {
            let what = format!("payments lists {row:?} as captured and refunded, its events say {expected:?}");
            report.find(Check::ReadModels, order_id, what);
        }
        Ok(payment)
    }

    async fn read_stock(&mut self, order_id: &str, report: &mut Report) -> Result<Option<Stock>> {
        let mut stock: Option<Stock> = None;
        let mut problems = Vec::new();
        while let Some(read) = self
            .inventory
            .read::<stock_wire::Event>(order_id, self.codec, report)
            .await?
        {
            if let Read::Event(event, _) = read {
                let stock = stock.get_or_insert_default();
                if let Some(how) = stock.see(&event, &mut problems) {
                    self.ledger.moved(&stock.goods, how);
                }
            }
        }
        tell(order_id, problems, report);
        if let Some(reserved) = stock.as_ref().filter(|stock| stock.place == Place::Reserved) {
            self.ledger.outstanding(&reserved.goods);
        }
        Ok(stock)
    }
}

fn tell(subject: &str, problems: facts::Problems, report: &mut Report) {
    for (check, what) in problems {
        report.find(check, subject, what);
    }
}

fn row_text(row: Option<(String, Option<i64>)>) -> String {
    row.map_or_else(
        || "nothing".to_owned(),
        |(status, total)| format!("{status} ({})", total.unwrap_or(0)),
    )
}

/// Waits for the events that the log did not have, and tells those that it still lacks.
async fn settle(
    databases: &Databases,
    logs: Vec<Log>,
    trails: [Trail; 3],
    patience: Duration,
    report: &mut Report,
) -> Result<()> {
    let until = Instant::now() + patience;
    let missing: usize = trails.iter().map(|trail| trail.missing.len()).sum();
    let bar = output::progress(None, "{spinner} {msg}  {elapsed}");
    if missing > 0 {
        bar.set_message(format!(
            "{} still being published",
            output::counted(missing as u64, "event")
        ));
        bar.enable_steady_tick(Duration::from_millis(125));
    }
    let mut versions = Vec::new();
    let mut unknown = Vec::new();
    let mut events = 0;
    for ((log, trail), service) in logs.into_iter().zip(trails).zip(&SERVICES) {
        versions.push(format!(
            "{} {} in {}",
            service.name,
            output::count(trail.events),
            output::count(trail.streams)
        ));
        events += trail.events;
        unknown.push((service, trail.unknown()));
        let left = until.saturating_duration_since(Instant::now());
        let missing = log.await_missing(trail.missing, left).await;
        if missing.is_empty() && trail.missing_more == 0 {
            continue;
        }
        let published_to = queries::published_to(databases.named(service.name)).await?;
        for (id, event) in &missing {
            let what = match event.position <= published_to {
                true => "is not in the log, though it counts as published",
                false => "is not yet published",
            };
            let subject = format!("{} {} version {}", service.name, event.stream, event.version);
            report.find(Check::LogComplete, subject, format!("{id} {what}"));
        }
        if trail.missing_more > 0 {
            let more = output::counted(trail.missing_more, "more event");
            report.find(Check::LogComplete, service.name, format!("{more} not in the log"));
        }
    }
    bar.finish_and_clear();
    for (service, unknown) in unknown {
        if unknown > 0 {
            let records = output::counted(unknown, "event");
            report.find(
                Check::LogKnown,
                service.topic,
                format!("{records} that its store does not know"),
            );
        }
    }
    let events = output::counted(events, "event");
    report.examined(Check::Versions, format!("events in streams: {}", versions.join(", ")));
    for check in [Check::Readable, Check::LogComplete, Check::LogOrder, Check::LogKnown] {
        report.examined(check, &*events);
    }
    Ok(())
}

/// Tells what waits for a person or for another try.
async fn set_aside(databases: &Databases, report: &mut Report) -> Result<()> {
    report.examined(Check::SetAside, "");
    for service in &SERVICES {
        let client = databases.named(service.name);
        let cannot = || format!("dead letters of {} cannot be read", service.name);
        let dead = parking::undecided(client).await.with_context(cannot)?;
        if dead > 0 {
            let what = output::counted(dead.unsigned_abs(), "dead letter");
            report.find(Check::SetAside, service.name, format!("{what}; see `rondo dlq list`"));
        }
        for key in parking::parked_keys(client, None, PARKED_SHOWN_MAX)
            .await
            .with_context(cannot)?
        {
            if !key.dead {
                let since = output::ago(key.since, Timestamp::now());
                report.find(
                    Check::SetAside,
                    format!("{} {}", service.name, key.key),
                    format!("parked {since}"),
                );
            }
        }
    }
    Ok(())
}
