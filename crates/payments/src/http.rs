//! The HTTP API of payments: one payment, for people and for checks.

use std::error::Error;
use std::sync::Arc;

use axum::extract::State;
use common::http::{Json, Path, Problem};
use deadpool_postgres::Pool;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::store::{self, Entry};

/// What the API works with.
#[derive(Clone)]
pub struct Context {
    /// The service's database.
    pub pool: Pool,
}

/// The routes of this service.
pub fn router(ctx: Arc<Context>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(payment_of_order)).with_state(ctx)
}

/// The money of one order.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Payment {
    /// The order.
    #[schema(example = "0199c0de-0000-7000-8000-000000000001")]
    order_id: String,
    /// The gateway's id of the payment, once it has given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_id: Option<String>,
    /// `pending` (the gateway has not answered), `cancelling` (nor has it about the cancellation), `authorized`,
    /// `declined`, `captured`, `capture_failed`, `voided`, `refunded` or `refund_failed`.
    #[schema(example = "captured")]
    status: String,
    /// How much was asked for; absent where it was declined at once or cancelled before it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 4200)]
    amount_minor: Option<i64>,
    /// ISO 4217 code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "EUR")]
    currency: Option<String>,
    /// How much was taken.
    #[schema(example = 4200)]
    captured_minor: i64,
    /// How much of that was given back.
    #[schema(example = 0)]
    refunded_minor: i64,
    /// Why it was declined, or why the last step failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// When the gateway is asked next, while it has not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    next_try_at: Option<Timestamp>,
    /// When something last happened to it.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<Entry> for Payment {
    fn from(entry: Entry) -> Self {
        let ledger = entry.ledger;
        Self {
            order_id: entry.order_id,
            payment_id: ledger.payment_id,
            status: ledger.status,
            amount_minor: ledger.amount_minor,
            currency: ledger.currency,
            captured_minor: ledger.captured_minor,
            refunded_minor: ledger.refunded_minor,
            reason: ledger.reason,
            next_try_at: ledger.next_try_at,
            updated_at: entry.updated_at,
        }
    }
}

/// The payment of an order
///
/// It appears a moment after the order was placed.
#[utoipa::path(
    get,
    path = "/payments/{order_id}",
    tag = "payments",
    params(("order_id" = String, Path, description = "The order's id")),
    responses(
        (status = 200, body = Payment),
        (status = 404, description = "No such order has been seen", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn payment_of_order(
    State(ctx): State<Arc<Context>>,
    Path(order_id): Path<String>,
) -> Result<Json<Payment>, Problem> {
    let client = ctx.pool.get().await.map_err(|error| unavailable(&error))?;
    let entry = store::find(&client, &order_id)
        .await
        .map_err(|error| unavailable(&error))?;
    match entry {
        Some(entry) => Ok(Json(entry.into())),
        None => Err(Problem::not_found(format_args!("a payment of order {order_id}"))),
    }
}

/// A question that could not be asked: the statement is fixed, so what fails is the database.
fn unavailable(error: &(dyn Error + 'static)) -> Problem {
    tracing::warn!(error, "payments could not be looked up");
    Problem::unavailable("the database did not answer")
}
