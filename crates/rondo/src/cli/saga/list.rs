//! Listings of orders, from the read model of orders.

use anyhow::Result;
use jiff::Timestamp;
use orders::store::{self, Row, STATUSES};
use serde_json::{Value, json};

use crate::cli::output::{self, Table};
use crate::cli::{Output, Target, Verdict};

/// Orders of one status, or all.
pub(super) async fn all(target: &Target, status: Option<&str>, limit: i64) -> Result<Verdict> {
    let client = target.database("orders").await?;
    let rows = match status {
        Some(status) => store::page(&client, &[status], None, limit).await?,
        None => store::page(&client, &STATUSES, None, limit).await?,
    };
    match target.output() {
        Output::Json => output::json(&rows.iter().map(as_json).collect::<Vec<_>>()),
        Output::Table => print(&rows, limit),
    }
    Ok(Verdict::Done)
}

/// Orders that wait for a person.
pub(super) async fn stuck(target: &Target, limit: i64) -> Result<Verdict> {
    let client = target.database("orders").await?;
    let rows = store::page(&client, &["stuck"], None, limit).await?;
    match target.output() {
        Output::Json => output::json(&rows.iter().map(as_json).collect::<Vec<_>>()),
        Output::Table if rows.is_empty() => output::line(output::good("no order is stuck")),
        Output::Table => {
            print_stuck(&rows);
            output::line("\nLook with `rondo saga show ID`; send on with `rondo saga resume ID`.");
        }
    }
    Ok(Verdict::of(rows.is_empty()))
}

fn print(rows: &[Row], limit: i64) {
    if rows.is_empty() {
        output::line("no orders");
        return;
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["order", "status", "since", "customer", ">total", "reference", "reason"]);
    for row in rows {
        let reason = row
            .stuck_reason
            .as_deref()
            .or(row.reason.as_deref())
            .unwrap_or_default();
        let overdue = row.due_at.filter(|due| *due < now);
        table.row([
            row.order_id.to_string(),
            output::status(&row.status).to_string(),
            output::ago(row.since, now),
            row.customer_id.clone(),
            output::money(row.total_minor, &row.currency),
            row.reference.clone().unwrap_or_default(),
            match overdue {
                Some(due) => output::bad(format_args!("OVERDUE since {}", output::time(due))).to_string(),
                None => reason.to_owned(),
            },
        ]);
    }
    table.print();
    if rows.len() as i64 == limit {
        output::line(output::dim(format_args!("the newest {limit}; --limit shows more")));
    }
}

fn print_stuck(rows: &[Row]) {
    let now = Timestamp::now();
    let mut table = Table::new(&["order", "stuck", "customer", ">total", "reference", "why"]);
    for row in rows {
        table.row([
            row.order_id.to_string(),
            output::ago(row.since, now),
            row.customer_id.clone(),
            output::money(row.total_minor, &row.currency),
            row.reference.clone().unwrap_or_default(),
            output::bad(row.stuck_reason.as_deref().unwrap_or_default()).to_string(),
        ]);
    }
    table.print();
}

fn as_json(row: &Row) -> Value {
    json!({
        "order_id": row.order_id,
        "status": row.status,
        "since": row.since,
        "reason": row.reason,
        "stuck_reason": row.stuck_reason,
        "customer_id": row.customer_id,
        "total_minor": row.total_minor,
        "currency": row.currency,
        "reference": row.reference,
        "placed_at": row.placed_at,
        "due_at": row.due_at,
        "overdue": row.due_at.is_some_and(|due| due < Timestamp::now()),
    })
}
