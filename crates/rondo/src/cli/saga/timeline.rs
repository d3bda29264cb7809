//! One order's events of all services in one order, each with what brought it about. Pure.
//!
//! Clocks of three machines differ, so time alone would show an answer before its question. An event comes after its cause
//! and after its stream's event before; among those that may come next, the earliest does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use common::event::Envelope;
use contracts::choreography::{By, REACTIONS};
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use crate::cli::output;

/// One event of the order.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// Who wrote it.
    pub(super) service: &'static str,
    /// Its identity and cause.
    pub(super) envelope: Envelope,
    /// What it says; a text that explains why where it cannot be decoded.
    pub(super) data: Value,
    /// Whether Kafka has it, as far as its service knows.
    pub(super) published: bool,
    /// The order's deadline after this event: events of orders alone move it.
    pub(super) deadline: Option<Timestamp>,
}

/// What brought an event about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// The event at this place of the timeline.
    Event(usize),
    /// Something outside of it.
    Outside(&'static str),
}

impl Moment {
    /// The event's type.
    pub(super) fn event(&self) -> &str {
        &self.envelope.event_type
    }
}

/// The moments of one order in the order in which they follow from each other.
pub(super) fn arranged(moments: Vec<Moment>) -> Vec<Moment> {
    let places: HashMap<Uuid, usize> = moments
        .iter()
        .enumerate()
        .map(|(at, moment)| (moment.envelope.id, at))
        .collect();
    let versions: HashMap<(&str, i64), usize> = moments
        .iter()
        .enumerate()
        .map(|(at, moment)| ((moment.service, moment.envelope.stream_version), at))
        .collect();
    let mut waits_for = vec![0; moments.len()];
    let mut leads_to: Vec<Vec<usize>> = vec![Vec::new(); moments.len()];
    for (at, moment) in moments.iter().enumerate() {
        let cause = places.get(&moment.envelope.causation_id);
        let before = versions.get(&(moment.service, moment.envelope.stream_version - 1));
        for earlier in [cause, before].into_iter().flatten().filter(|earlier| **earlier != at) {
            waits_for[at] += 1;
            leads_to[*earlier].push(at);
        }
    }
    let key = |at: usize| {
        let moment = &moments[at];
        Reverse((
            moment.envelope.occurred_at,
            moment.service,
            moment.envelope.stream_version,
            at,
        ))
    };
    let mut ready: BinaryHeap<_> = (0..moments.len()).filter(|at| waits_for[*at] == 0).map(key).collect();
    let mut order = Vec::with_capacity(moments.len());
    while let Some(Reverse((.., at))) = ready.pop() {
        order.push(at);
        for next in &leads_to[at] {
            waits_for[*next] -= 1;
            if waits_for[*next] == 0 {
                ready.push(key(*next));
            }
        }
    }
    // Nothing can cause what came before it; were it so in damaged data, it is shown last rather than left out.
    order.extend((0..moments.len()).filter(|at| waits_for[*at] > 0));
    let mut moments: Vec<Option<Moment>> = moments.into_iter().map(Some).collect();
    order
        .into_iter()
        .map(|at| moments[at].take().expect("each place is named once"))
        .collect()
}

/// What brought the event at `place` about.
pub(super) fn because(moments: &[Moment], place: usize) -> Because {
    let moment = &moments[place];
    match moments
        .iter()
        .position(|other| other.envelope.id == moment.envelope.causation_id)
    {
        Some(cause) if cause != place => Because::Event(cause),
        _ => Because::Outside(outside(moment)),
    }
}

/// What outside of the order's own events leads to an event like this.
fn outside(moment: &Moment) -> &'static str {
    let worked = |event: &str| {
        REACTIONS
            .iter()
            .any(|reaction| reaction.by == By::Worker && reaction.produces.contains(&event))
    };
    match moment.event() {
        "OrderPlaced" => "POST /orders",
        "OrderCancelling" if moment.data["cause"] == "DEADLINE" => "the decide deadline",
        "OrderCancelling" => "POST /orders/{id}/cancel",
        "OrderStuck" => "the settle deadline",
        "OrderResumed" => "saga resume",
        event if worked(event) => "the payment worker",
        _ => "unknown",
    }
}

/// What an event says, in few words: no ids, hashes or nulls.
pub(super) fn in_short(data: &Value) -> String {
    let Value::Object(fields) = data else {
        return data.as_str().unwrap_or_default().to_owned();
    };
    let currency = fields.get("currency").and_then(Value::as_str);
    let fields: BTreeMap<&String, &Value> = fields.iter().collect();
    let parts: Vec<String> = fields
        .into_iter()
        .filter(|(name, value)| !is_beside_the_point(name, value))
        .map(|(name, value)| match (name.as_str(), value) {
            ("lines" | "shortages", Value::Array(lines)) => goods(lines),
            (name, Value::Number(number)) if name.ends_with("_unix_ms") => {
                let at = number.as_i64().and_then(|ms| Timestamp::from_millisecond(ms).ok());
                let by = name.trim_end_matches("_unix_ms").replace('_', " ");
                format!("{by} {}", at.map_or_else(|| number.to_string(), clock))
            }
            (name, Value::Number(number)) if name.ends_with("_minor") => match (number.as_i64(), currency) {
                (Some(minor), Some(currency)) => output::money(minor, currency),
                _ => format!("{name} {number}"),
            },
            ("cause" | "outcome" | "reason" | "toward", Value::String(symbol)) => {
                symbol.to_lowercase().replace('_', " ")
            }
            (_, Value::String(text)) => text.clone(),
            (name, Value::Bool(_)) => name.replace('_', " "),
            (name, other) => format!("{} {other}", name.replace('_', " ")),
        })
        .collect();
    parts.join(" · ")
}

fn is_beside_the_point(name: &str, value: &Value) -> bool {
    matches!(
        name,
        "order_id" | "payment_id" | "request_hash" | "idempotency_key" | "source_event_id" | "currency"
    ) || matches!(value, Value::Null | Value::Bool(false))
        || value.as_array().is_some_and(Vec::is_empty)
}

fn goods(lines: &[Value]) -> String {
    const SHOWN_MAX: usize = 3;
    let text = |line: &Value| {
        let sku = line["sku"].as_str().unwrap_or("?").to_owned();
        match (&line["quantity"], &line["requested"], &line["available"]) {
            (Value::Null, requested, available) => format!("{sku} {available} of {requested}"),
            (quantity, ..) => format!("{quantity}×{sku}"),
        }
    };
    let mut shown: Vec<String> = lines.iter().take(SHOWN_MAX).map(text).collect();
    if lines.len() > SHOWN_MAX {
        shown.push(format!("{} more", lines.len() - SHOWN_MAX));
    }
    shown.join(", ")
}

/// The time of day, to the millisecond.
pub(super) fn clock(at: Timestamp) -> String {
    let text = output::time(at);
    text.split_once(' ').map_or(text.clone(), |(_, clock)| clock.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// An event `id` of `service` at `ms`, caused by `cause`; numbered 0 when it came from outside.
    pub(in crate::cli::saga) fn moment(
        service: &'static str,
        version: i64,
        event: &str,
        (id, cause): (u128, u128),
        ms: i64,
    ) -> Moment {
        Moment {
            service,
            envelope: Envelope {
                id: Uuid::from_u128(id),
                event_type: event.into(),
                source: service.into(),
                subject: "o".into(),
                occurred_at: Timestamp::from_millisecond(ms).unwrap(),
                correlation_id: Uuid::from_u128(99),
                causation_id: Uuid::from_u128(cause),
                traceparent: None,
                stream_version: version,
                position: version,
            },
            data: json!({}),
            published: true,
            deadline: None,
        }
    }

    #[test]
    fn an_answer_follows_its_question_whatever_the_clocks_say() {
        let moments = vec![
            moment("payments", 1, "PaymentAuthorized", (2, 1), 5),
            moment("orders", 2, "PaymentNoted", (4, 2), 30),
            moment("inventory", 1, "StockReserved", (3, 1), 20),
            moment("orders", 1, "OrderPlaced", (1, 77), 10),
        ];
        let moments = arranged(moments);
        let events: Vec<&str> = moments.iter().map(Moment::event).collect();
        assert_eq!(
            events,
            ["OrderPlaced", "PaymentAuthorized", "StockReserved", "PaymentNoted"]
        );
        assert_eq!(because(&moments, 0), Because::Outside("POST /orders"));
        assert_eq!(because(&moments, 3), Because::Event(1));
    }

    #[test]
    fn events_of_one_transaction_keep_the_order_of_their_stream() {
        let moments = arranged(vec![
            moment("orders", 3, "OrderConfirmed", (3, 9), 10),
            moment("orders", 2, "StockNoted", (2, 9), 10),
            moment("orders", 1, "OrderPlaced", (1, 8), 10),
        ]);
        let versions: Vec<i64> = moments.iter().map(|moment| moment.envelope.stream_version).collect();
        assert_eq!(versions, [1, 2, 3]);
    }

    #[test]
    fn causes_that_run_in_a_circle_lose_no_event() {
        let moments = arranged(vec![
            moment("orders", 1, "OrderPlaced", (1, 2), 10),
            moment("payments", 1, "PaymentAuthorized", (2, 1), 10),
        ]);
        assert_eq!(moments.len(), 2);
    }

    #[test]
    fn what_the_worker_or_a_deadline_did_is_told_apart() {
        let mut cancelling = moment("orders", 1, "OrderCancelling", (1, 9), 10);
        assert_eq!(outside(&cancelling), "POST /orders/{id}/cancel");
        cancelling.data = json!({"cause": "DEADLINE"});
        assert_eq!(outside(&cancelling), "the decide deadline");
        assert_eq!(
            outside(&moment("payments", 1, "PaymentAttempted", (1, 9), 10)),
            "the payment worker"
        );
    }

    #[test]
    fn an_event_is_told_in_few_words() {
        let placed = json!({
            "order_id": "o", "customer_id": "ALFKI", "currency": "USD", "total_minor": 1234, "reference": null,
            "lines": [{"sku": "NW-001", "quantity": 2, "unit_price_minor": 617}], "request_hash": "abc",
        });
        assert_eq!(in_short(&placed), "ALFKI · 2×NW-001 · 12.34 USD");
        let rejected = json!({"shortages": [{"sku": "NW-001", "requested": 5, "available": 2}], "cancelled": false});
        assert_eq!(in_short(&rejected), "NW-001 2 of 5");
        assert_eq!(
            in_short(&json!({"outcome": "CAPTURE_FAILED", "detail": "card expired"})),
            "card expired · capture failed"
        );
    }
}
