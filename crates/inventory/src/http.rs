//! The HTTP API of inventory: what there is, what there was, and goods that arrive or are counted.

mod view;

use std::error::Error;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use common::committer::{Commands, Expect, Outcome, SubmitError};
use common::event::{Cause, StreamId};
use common::http::{FieldError, IdempotencyKey, Json, Listing, Operator, OperatorToken, Page, Path, Problem, Query};
use common::telemetry;
use contracts::inventory::SKU_STREAM;
use deadpool_postgres::{Object, Pool};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::domain::{Command, Rejection};
use crate::goods::{ReceiptId, Sku};
use crate::service::Inventory;
use crate::store;

pub use view::{Adjustment, Arrival, AsOf, Counted, StockItem};

/// What the API works with.
#[derive(Clone)]
pub struct Context {
    /// The way in for counts and receipts.
    pub commands: Commands<Inventory>,
    /// The service's database.
    pub pool: Pool,
    /// Who may count.
    pub operator: OperatorToken,
}

/// The routes of this service.
pub fn router(ctx: Arc<Context>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_stock))
        .routes(routes!(stock_of_sku, adjust_stock))
        .routes(routes!(receive_stock))
        .with_state(Shared(ctx))
}

/// The context as a router's state.
#[derive(Clone)]
struct Shared(Arc<Context>);

impl Deref for Shared {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

impl FromRef<Shared> for OperatorToken {
    fn from_ref(shared: &Shared) -> Self {
        shared.operator.clone()
    }
}

/// All goods, in order of their SKUs
#[utoipa::path(
    get,
    path = "/inventory",
    tag = "inventory",
    params(common::http::page::PageParams),
    responses(
        (status = 200, body = Listing<StockItem>),
        (status = 422, description = "The page cannot be meant", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list_stock(State(ctx): State<Shared>, page: Page) -> Result<Json<Listing<StockItem>>, Problem> {
    let after: Option<String> = page.after()?;
    let client = client(&ctx).await?;
    let items = store::page(&client, after.as_deref(), page.rows())
        .await
        .map_err(|error| unavailable(&error))?;
    let items = items.into_iter().map(StockItem::from).collect();
    Ok(Json(Listing::new(&page, items, |item: &StockItem| item.sku.clone())))
}

/// How much there is of one SKU, or was
#[utoipa::path(
    get,
    path = "/inventory/{sku}",
    tag = "inventory",
    params(("sku" = String, Path, description = "Which goods"), AsOf),
    responses(
        (status = 200, body = StockItem),
        (status = 404, description = "Not stocked, or not yet at that moment", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`at` is not a moment", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn stock_of_sku(
    State(ctx): State<Shared>,
    Path(text): Path<String>,
    Query(as_of): Query<AsOf>,
) -> Result<Json<StockItem>, Problem> {
    let at = as_of.moment()?;
    let sku = Sku::parse(&text).ok_or_else(|| not_stocked(&text))?;
    let client = client(&ctx).await?;
    let found = match at {
        None => store::find(&client, &sku).await,
        Some(at) => store::find_at(&client, &sku, at).await,
    };
    let item = found
        .map_err(|error| unavailable(&error))?
        .ok_or_else(|| not_stocked(&text))?;
    Ok(Json(item.into()))
}

/// Take over what a count found
///
/// Sets the level; the same count again changes nothing. Goods that are new are stocked from now on.
#[utoipa::path(
    put,
    path = "/inventory/{sku}",
    tag = "inventory",
    params(("sku" = String, Path, description = "Which goods")),
    request_body = Adjustment,
    security(("operator" = [])),
    responses(
        (status = 200, body = StockItem),
        (status = 401, description = "Not an operator", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "More are set aside for orders", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The count cannot be meant", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Cannot be committed now", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn adjust_stock(
    _: Operator,
    State(ctx): State<Shared>,
    Path(text): Path<String>,
    Json(adjustment): Json<Adjustment>,
) -> Result<Json<StockItem>, Problem> {
    let sku = parsed_sku(&text)?;
    submit(&ctx, &sku, adjustment.into_command(sku.clone())?).await?;
    Ok(Json(current(&ctx, &sku).await?))
}

/// Count goods that arrived
///
/// With an `Idempotency-Key`, which becomes the receipt's id, the same receipt counts once however often it is sent.
#[utoipa::path(
    post,
    path = "/inventory/{sku}/receipts",
    tag = "inventory",
    params(
        ("sku" = String, Path, description = "Which goods"),
        ("Idempotency-Key" = Option<String>, Header, description = "Id of the receipt; a new one if absent"),
    ),
    request_body = Arrival,
    security(("operator" = [])),
    responses(
        (status = 201, description = "Counted", body = Counted),
        (status = 200, description = "Counted before", body = Counted),
        (status = 401, description = "Not an operator", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not stocked", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The receipt cannot be meant, or was counted with another quantity", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Cannot be committed now", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn receive_stock(
    _: Operator,
    State(ctx): State<Shared>,
    Path(text): Path<String>,
    key: Option<IdempotencyKey>,
    Json(arrival): Json<Arrival>,
) -> Result<(StatusCode, Json<Counted>), Problem> {
    let sku = Sku::parse(&text).ok_or_else(|| not_stocked(&text))?;
    let receipt_id = key.map_or_else(|| Uuid::now_v7().to_string(), |key| key.as_str().to_owned());
    let command = Command::Receive {
        sku: sku.clone(),
        quantity: arrival.quantity,
        receipt: ReceiptId::parse(&receipt_id)
            .expect("an idempotency key is neither empty nor longer than a receipt's id"),
    };
    let outcome = submit(&ctx, &sku, command).await?;
    let status = if outcome.events.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let counted = Counted {
        receipt_id,
        quantity: arrival.quantity,
        stock: current(&ctx, &sku).await?,
    };
    Ok((status, Json(counted)))
}

async fn submit(ctx: &Context, sku: &Sku, command: Command) -> Result<Outcome<Inventory>, Problem> {
    let id = Uuid::now_v7();
    let cause = Cause {
        id,
        correlation_id: id,
        traceparent: telemetry::current_traceparent().map(Into::into),
    };
    let stream = StreamId::of_kind(SKU_STREAM, sku.as_str());
    let submitted = ctx.commands.submit(stream, command, cause, Expect::Any).await;
    submitted.map_err(|error| match error {
        SubmitError::Rejected(rejection) => refused(&rejection),
        SubmitError::Overloaded | SubmitError::Unavailable(_) => Problem::unavailable(error.to_string()),
    })
}

fn refused(rejection: &Rejection) -> Problem {
    let detail = rejection.to_string();
    match rejection {
        Rejection::UnknownSku(sku) => not_stocked(sku.as_str()),
        Rejection::BelowReserved { reserved, .. } => {
            Problem::conflict("below-reserved", "More are set aside for orders than that")
                .detail(detail)
                .with("reserved", *reserved)
        }
        Rejection::OtherQuantity { counted, .. } => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The receipt was counted with another quantity",
        )
        .detail(detail)
        .with("counted", *counted),
        Rejection::NoQuantity => Problem::invalid([FieldError::new("quantity", "must be at least 1")]),
        Rejection::LevelTooHigh => Problem::invalid([]).detail(detail),
        Rejection::NothingReserved => Problem::conflict("nothing-reserved", "Nothing is set aside").detail(detail),
    }
}

/// The level as of now, which later commands may have changed already.
async fn current(ctx: &Context, sku: &Sku) -> Result<StockItem, Problem> {
    let client = client(ctx).await?;
    let found = store::find(&client, sku).await.map_err(|error| unavailable(&error))?;
    found.map(StockItem::from).ok_or_else(|| not_stocked(sku.as_str()))
}

fn parsed_sku(text: &str) -> Result<Sku, Problem> {
    Sku::parse(text).ok_or_else(|| {
        let detail = format!("must have 1 to {} of A-Z a-z 0-9 . _ -", Sku::LENGTH_MAX);
        Problem::invalid([FieldError::new("sku", detail)])
    })
}

fn not_stocked(sku: &str) -> Problem {
    Problem::not_found(format_args!("the SKU {sku}"))
}

async fn client(ctx: &Context) -> Result<Object, Problem> {
    ctx.pool.get().await.map_err(|error| unavailable(&error))
}

/// A question that could not be asked: the statements are fixed, so what fails is the database.
fn unavailable(error: &(dyn Error + 'static)) -> Problem {
    tracing::warn!(error, "stock could not be looked up");
    Problem::unavailable("the database did not answer")
}
