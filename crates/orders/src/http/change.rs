//! `POST /orders/{id}/cancel` and `/resume`: what people do to an order that is under way.

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use common::committer::Expect;
use common::http::json::parse;
use common::http::{FieldError, Operator, Path, PreferWait, Problem};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::{OrderView, Shared, parse_order_id};
use crate::domain::{Canceller, Command, CustomerId, printable};

/// Most characters of an operator's name.
const OPERATOR_LENGTH_MAX: usize = 64;
/// Who resumed, where nobody says.
const OPERATOR_DEFAULT: &str = "operator";

/// Who calls an order off.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(super) struct CancelBody {
    /// The order's own customer; without it the request needs the operator's token, where one is configured.
    #[schema(example = "VINET")]
    customer_id: Option<String>,
}

/// Who sends an order on.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(super) struct ResumeBody {
    /// A name for the record.
    #[schema(example = "ops@example.com", max_length = 64)]
    operator: Option<String>,
}

/// Cancel an order.
///
/// Accepted until the order is completed, also after it was confirmed: what was captured is refunded, what was committed
/// is returned. Cancelling again changes nothing. A customer names themselves in the body and may cancel their own
/// orders; without a body only an operator may.
#[utoipa::path(
    post,
    path = "/orders/{id}/cancel",
    tag = "orders",
    params(
        ("id" = String, Path, description = "The order's id"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: hold the answer until the order has ended, at most N seconds"),
    ),
    request_body = Option<CancelBody>,
    responses(
        (status = 202, description = "The order is being cancelled, or already was", body = OrderView),
        (status = 200, description = "The order was waited for and has ended", body = OrderView),
        (status = 401, description = "Neither a customer nor an operator", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The order belongs to another customer", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such order", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The order is completed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    State(context): State<Shared>,
    Path(id): Path<String>,
    operator: Result<Operator, Problem>,
    wait: PreferWait,
    body: Bytes,
) -> Result<Response, Problem> {
    let order_id = parse_order_id(&id)?;
    let by = match optional::<CancelBody>(&body)?.customer_id {
        Some(customer) => Canceller::Customer(
            CustomerId::new(&customer).map_err(|wrong| Problem::invalid([FieldError::new("customer_id", wrong)]))?,
        ),
        None => operator.map(|Operator| Canceller::Operator)?,
    };
    context
        .submit(order_id, Command::Cancel { by }, Expect::Any, wait)
        .await
}

/// Resume a stuck order.
///
/// It goes on the way it was going, with a new deadline: both participants answer again or try again what failed.
#[utoipa::path(
    post,
    path = "/orders/{id}/resume",
    tag = "orders",
    security(("operator" = [])),
    params(("id" = String, Path, description = "The order's id")),
    request_body = Option<ResumeBody>,
    responses(
        (status = 202, description = "The order goes on", body = OrderView),
        (status = 401, description = "Only an operator may do this", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such order", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The order is not stuck", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn resume(
    State(context): State<Shared>,
    Path(id): Path<String>,
    _: Operator,
    wait: PreferWait,
    body: Bytes,
) -> Result<Response, Problem> {
    let order_id = parse_order_id(&id)?;
    let operator = optional::<ResumeBody>(&body)?.operator;
    let operator = operator.as_deref().unwrap_or(OPERATOR_DEFAULT);
    printable(operator, OPERATOR_LENGTH_MAX).map_err(|wrong| Problem::invalid([FieldError::new("operator", wrong)]))?;
    let operator = operator.into();
    context
        .submit(order_id, Command::Resume { operator }, Expect::Any, wait)
        .await
}

/// A body that may be left out.
fn optional<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii().is_empty() {
        Ok(T::default())
    } else {
        parse(body)
    }
}
