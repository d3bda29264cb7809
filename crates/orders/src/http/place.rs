//! `POST /orders`: what may be ordered, and how often the same order counts.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use common::committer::Expect;
use common::event::named_id;
use common::http::{FieldError, IdempotencyKey, Json, PreferWait, Problem};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{OrderView, Shared};
use crate::domain::{Command, Currency, CustomerId, Line, OrderId, Request, Sku, printable, total_minor};

/// Most lines of one order.
const LINES_MAX: usize = 100;
/// Most pieces in one line.
const QUANTITY_MAX: i64 = 1_000_000;
/// Highest price of one piece, in minor units: no sum of lines comes near what fits.
const UNIT_PRICE_MINOR_MAX: i64 = 1_000_000_000_000;
/// Most characters of a customer's own reference.
const REFERENCE_LENGTH_MAX: usize = 128;
/// Most characters of a channel's name.
const CHANNEL_LENGTH_MAX: usize = 32;
/// Where an order comes from that does not say.
const CHANNEL: &str = "web";
/// Most characters of a note.
const NOTE_LENGTH_MAX: usize = 500;
/// Most tags of one order.
const TAGS_MAX: usize = 10;
/// Most characters of a tag.
const TAG_LENGTH_MAX: usize = 32;
/// What can be paid with: the tokens that payment companies give for testing.
const PAYMENT_METHODS: [&str; 8] = [
    "tok_visa",
    "tok_declined",
    "tok_insufficient_funds",
    "tok_expired_card",
    "tok_timeout",
    "tok_unavailable",
    "tok_capture_fails",
    "tok_refund_fails",
];

/// What a customer orders. Fields that are not named here are ignored.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct OrderBody {
    /// Who orders: 1 to 64 characters.
    #[schema(example = "VINET", min_length = 1, max_length = 64)]
    customer_id: String,
    /// ISO 4217 code of all amounts.
    #[schema(example = "USD", min_length = 3, max_length = 3)]
    currency: String,
    /// 1 to 100 lines. Lines of one SKU are summed.
    #[schema(min_items = 1, max_items = 100)]
    lines: Vec<LineBody>,
    /// A test token: `tok_visa`, `tok_declined`, `tok_insufficient_funds`, `tok_expired_card`, `tok_timeout`,
    /// `tok_unavailable`, `tok_capture_fails` or `tok_refund_fails`.
    #[schema(example = "tok_visa")]
    payment_method: String,
    /// The customer's own name for the order: up to 128 characters.
    #[schema(max_length = 128)]
    reference: Option<String>,
    // Fields that came later are left out of the canonical form where they are absent: a request that was placed before
    // they existed has the hash that it had then, and can be sent again under its key.
    /// Where it is placed: 1 to 32 characters; `web` if absent.
    #[schema(example = "app", min_length = 1, max_length = 32)]
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    /// What the customer asks whoever packs or delivers: up to 500 characters.
    #[schema(max_length = 500)]
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// The caller's own words to sort orders by: up to 10, of 1 to 32 characters each.
    #[schema(max_items = 10)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

/// One line of what a customer orders.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct LineBody {
    /// Which goods: 1 to 64 of letters, digits, `-`, `_` and `.`.
    #[schema(example = "NW-001", min_length = 1, max_length = 64)]
    sku: String,
    /// How many.
    #[schema(example = 2, minimum = 1, maximum = 1_000_000)]
    quantity: i64,
    /// What one costs, in minor units; it need not be the list price.
    #[schema(example = 1800, minimum = 0, maximum = 1_000_000_000_000_i64)]
    unit_price_minor: i64,
}

/// Place an order.
///
/// The same `Idempotency-Key` and body give the same order with its current status, however often they are sent; the key
/// is the customer's own and is kept as long as the order. With `Prefer: wait=N` the answer is held until the order has
/// ended, or N seconds.
#[utoipa::path(
    post,
    path = "/orders",
    tag = "orders",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Names this order for this customer; 1 to 255 visible ASCII characters"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: hold the answer until the order has ended, at most N seconds"),
    ),
    request_body = OrderBody,
    responses(
        (status = 202, description = "The order is taken; look at `Location`. `Idempotent-Replayed: true` says that the key had placed it before", body = OrderView),
        (status = 200, description = "The order was waited for and has ended", body = OrderView),
        (status = 422, description = "A field is not valid, or the key belongs to another request", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too busy; come back after `Retry-After`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn place(
    State(context): State<Shared>,
    key: Option<IdempotencyKey>,
    wait: PreferWait,
    Json(body): Json<OrderBody>,
) -> Result<Response, Problem> {
    let request = checked(body, key).map_err(Problem::invalid)?;
    // An order with a key has the id that its key gives it: seldom one that there is already.
    let order_id = match &request.idempotency_key {
        Some(key) => named_id("order", &[request.customer_id.as_str(), key]),
        None => Uuid::now_v7(),
    };
    let command = Command::Place {
        request: Arc::new(request),
        decide_within: context.windows.decide_within,
        settle_within: context.windows.settle_within,
    };
    context.submit(OrderId(order_id), command, Expect::New, wait).await
}

/// The body as a request, or everything that is wrong with it.
fn checked(body: OrderBody, key: Option<IdempotencyKey>) -> Result<Request, Vec<FieldError>> {
    let mut errors = Vec::new();
    let request_hash = hash(&body);
    let customer_id = CustomerId::new(&body.customer_id).map_err(|wrong| FieldError::new("customer_id", wrong));
    let currency = Currency::new(&body.currency).map_err(|wrong| FieldError::new("currency", wrong));
    if !(1..=LINES_MAX).contains(&body.lines.len()) {
        errors.push(FieldError::new("lines", format!("must have 1 to {LINES_MAX} lines")));
    }
    let lines: Vec<Line> = body
        .lines
        .iter()
        .take(LINES_MAX)
        .enumerate()
        .filter_map(|(index, line)| checked_line(index, line, &mut errors))
        .collect();
    let total = total_minor(&lines).ok_or_else(|| FieldError::new("lines", "the total is too large"));
    if !PAYMENT_METHODS.contains(&body.payment_method.as_str()) {
        let known = PAYMENT_METHODS.join(", ");
        errors.push(FieldError::new("payment_method", format!("must be one of {known}")));
    }
    for (field, text, length_max) in [
        ("reference", &body.reference, REFERENCE_LENGTH_MAX),
        ("channel", &body.channel, CHANNEL_LENGTH_MAX),
        ("note", &body.note, NOTE_LENGTH_MAX),
    ] {
        if let Some(Err(wrong)) = text.as_deref().map(|text| printable(text, length_max)) {
            errors.push(FieldError::new(field, wrong));
        }
    }
    if body.tags.len() > TAGS_MAX {
        errors.push(FieldError::new("tags", format!("must have at most {TAGS_MAX} tags")));
    }
    for (index, tag) in body.tags.iter().take(TAGS_MAX).enumerate() {
        if let Err(wrong) = printable(tag, TAG_LENGTH_MAX) {
            errors.push(FieldError::new(format!("tags[{index}]"), wrong));
        }
    }
    match (customer_id, currency, total) {
        (Ok(customer_id), Ok(currency), Ok(total_minor)) if errors.is_empty() => Ok(Request {
            customer_id,
            currency,
            lines,
            total_minor,
            payment_method: body.payment_method.into(),
            reference: body.reference.map(Into::into),
            channel: body.channel.map_or_else(|| CHANNEL.into(), Into::into),
            note: body.note.map(Into::into),
            tags: body.tags.into_iter().map(Into::into).collect(),
            idempotency_key: key.map(|key| key.as_str().into()),
            request_hash: request_hash.into(),
        }),
        (customer_id, currency, total) => {
            let first = [customer_id.err(), currency.err(), total.err()];
            Err(first.into_iter().flatten().chain(errors).collect())
        }
    }
}

fn checked_line(index: usize, line: &LineBody, errors: &mut Vec<FieldError>) -> Option<Line> {
    let before = errors.len();
    let mut wrong =
        |field: &str, detail: String| errors.push(FieldError::new(format!("lines[{index}].{field}"), detail));
    let sku = Sku::new(&line.sku).map_err(|detail| wrong("sku", detail)).ok();
    if !(1..=QUANTITY_MAX).contains(&line.quantity) {
        wrong("quantity", format!("must be from 1 to {QUANTITY_MAX}"));
    }
    if !(0..=UNIT_PRICE_MINOR_MAX).contains(&line.unit_price_minor) {
        wrong("unit_price_minor", format!("must be from 0 to {UNIT_PRICE_MINOR_MAX}"));
    }
    let sku = sku.filter(|_| errors.len() == before)?;
    Some(Line {
        sku,
        quantity: line.quantity,
        unit_price_minor: line.unit_price_minor,
    })
}

/// SHA-256 over the body in one form: fields in one order, no white space, nothing that is ignored.
fn hash(body: &OrderBody) -> String {
    let canonical = serde_json::to_vec(body).expect("texts and integers serialise");
    hex::encode(Sha256::digest(canonical))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body() -> Value {
        json!({
            "customer_id": "VINET", "currency": "USD", "payment_method": "tok_visa",
            "lines": [{ "sku": "NW-011", "quantity": 12, "unit_price_minor": 1400 }],
        })
    }

    fn check(body: Value) -> Result<Request, Vec<FieldError>> {
        checked(serde_json::from_value(body).expect("the shape is right"), None)
    }

    fn wrong_fields(body: Value) -> Vec<String> {
        check(body)
            .expect_err("a field is wrong")
            .into_iter()
            .map(|error| error.field)
            .collect()
    }

    #[test]
    fn a_body_becomes_a_request_with_its_total() {
        let request = check(body()).unwrap();
        assert_eq!(request.total_minor, 16_800);
        assert_eq!(request.request_hash.len(), 64);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let body = json!({
            "customer_id": "", "currency": "usd", "payment_method": "cash", "reference": "x".repeat(129),
            "lines": [
                { "sku": "a b", "quantity": 0, "unit_price_minor": -1 },
                { "sku": "NW-001", "quantity": 1_000_001, "unit_price_minor": 1_000_000_000_001_i64 },
            ],
        });
        assert_eq!(
            wrong_fields(body),
            [
                "customer_id",
                "currency",
                "lines[0].sku",
                "lines[0].quantity",
                "lines[0].unit_price_minor",
                "lines[1].quantity",
                "lines[1].unit_price_minor",
                "payment_method",
                "reference",
            ]
        );
    }

    #[test]
    fn the_number_of_lines_and_their_sum_are_bounded() {
        let line = json!({ "sku": "NW-001", "quantity": 1_000_000, "unit_price_minor": 1_000_000_000_000_i64 });
        let with_lines = |lines: Vec<Value>| {
            let mut body = body();
            body["lines"] = json!(lines);
            body
        };
        assert_eq!(wrong_fields(with_lines(vec![])), ["lines"]);
        assert_eq!(
            wrong_fields(with_lines(vec![body()["lines"][0].clone(); 101])),
            ["lines"]
        );
        assert_eq!(
            wrong_fields(with_lines(vec![line; 10])),
            ["lines"],
            "the total is too large"
        );
    }

    #[test]
    fn an_order_may_say_where_it_comes_from_and_what_it_wants() {
        let plain = check(body()).unwrap();
        assert_eq!((&*plain.channel, plain.note, plain.tags.len()), ("web", None, 0));
        let mut full = body();
        full["channel"] = json!("app");
        full["note"] = json!("ring twice");
        full["tags"] = json!(["gift", "b2b"]);
        let full = check(full).unwrap();
        assert_eq!(
            (&*full.channel, full.note.as_deref(), full.tags.len()),
            ("app", Some("ring twice"), 2)
        );
        let mut wrong = body();
        wrong["channel"] = json!("");
        wrong["note"] = json!("x".repeat(501));
        wrong["tags"] = json!(vec![""; 11]);
        let fields = wrong_fields(wrong);
        assert_eq!(fields[..4], ["channel", "note", "tags", "tags[0]"]);
    }

    #[test]
    fn a_request_from_before_a_field_existed_keeps_its_hash() {
        // What the build before channel, note and tags recorded for this body.
        let body: OrderBody = serde_json::from_value(body()).unwrap();
        let then = r#"{"customer_id":"VINET","currency":"USD","lines":[{"sku":"NW-011","quantity":12,"unit_price_minor":1400}],"payment_method":"tok_visa","reference":null}"#;
        assert_eq!(hash(&body), hex::encode(Sha256::digest(then)));
    }

    #[test]
    fn the_same_order_has_the_same_hash_however_it_is_written() {
        let first: OrderBody = serde_json::from_str(
            r#"{"customer_id":"A","currency":"USD","lines":[],"payment_method":"tok_visa","reference":null}"#,
        )
        .unwrap();
        let second: OrderBody = serde_json::from_str(
            r#"{ "payment_method": "tok_visa", "lines": [], "currency": "USD", "customer_id": "\u0041", "gift": true }"#,
        )
        .unwrap();
        assert_eq!(hash(&first), hash(&second));
        let mut other = second;
        other.reference = Some("r".to_owned());
        assert_ne!(hash(&first), hash(&other));
    }
}
