//! The HTTP side of orders: takes orders and shows them. It checks what comes in, asks the domain, and decides nothing.
//!
//! | | |
//! |---|---|
//! | `POST /orders` | takes an order, once per `Idempotency-Key`; `Prefer: wait=N` holds the answer until it ends |
//! | `GET /orders` | lists, newest first |
//! | `GET /orders/{id}` | one order, also as of a moment in the past |
//! | `GET /orders/{id}/events` | what has happened to it |
//! | `POST /orders/{id}/cancel` | calls it off |
//! | `POST /orders/{id}/resume` | sends a stuck one on |
//!
//! One order is folded from its stream, which is the truth; listings come from the read model.

mod change;
mod place;
mod read;
mod view;

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::codec::{Codec, DecodeError};
use common::committer::{Commands, Expect, Outcome, SubmitError};
use common::event::{Cause, StreamId};
use common::http::{Json, OperatorToken, PreferWait, Problem};
use common::waiters::Waiter;
use common::{store as events, telemetry};
use deadpool_postgres::Pool;
use jiff::{SignedDuration, Timestamp};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::domain::{Command, OrderId, Rejection, State};
use crate::service::{Orders, fold};
use crate::waiting::{Endings, Woken};

pub use view::{EventView, LineView, OrderSummary, OrderView, ParticipantView};

/// How long an order may wait for its participants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// For both to say whether they could; past it the order is cancelled.
    pub decide_within: SignedDuration,
    /// For each later step; past it the order is stuck.
    pub settle_within: SignedDuration,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            decide_within: SignedDuration::from_secs(60),
            settle_within: SignedDuration::from_secs(600),
        }
    }
}

/// Says that a request changed nothing because it had been done before.
const REPLAYED: &str = "idempotent-replayed";

/// What the handlers work with.
pub struct Context {
    /// The way to the domain.
    pub commands: Commands<Orders>,
    /// The service's database.
    pub pool: Pool,
    /// Decodes stored events.
    pub codec: Arc<Codec>,
    /// Who waits for an end.
    pub endings: Endings,
    /// What an operator shows.
    pub operator: OperatorToken,
    /// The windows that new orders are given.
    pub windows: Windows,
}

/// The routes of orders.
pub fn router(context: Arc<Context>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(place::place, read::list))
        .routes(routes!(read::show))
        .routes(routes!(read::events))
        .routes(routes!(change::cancel))
        .routes(routes!(change::resume))
        .with_state(Shared(context))
}

/// The context as the router's state, from which the operator's check takes its token.
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

impl Context {
    /// Has `command` decided, and answers with the order as it then is: 202, or, for a client that waits, 200 as soon as
    /// the order has ended.
    async fn submit(
        &self,
        order_id: OrderId,
        command: Command,
        expect: Expect,
        wait: PreferWait,
    ) -> Result<Response, Problem> {
        telemetry::correlate(order_id);
        // Before the command, or the end could slip in between.
        let waiter = wait.0.and_then(|_| self.endings.waiter(order_id));
        let cause = Cause {
            id: Uuid::now_v7(),
            correlation_id: order_id.0,
            traceparent: telemetry::current_traceparent().map(Into::into),
        };
        let stream = StreamId::new(order_id.to_string());
        let Outcome { state, version, events } = self
            .commands
            .submit(stream, command, cause, expect)
            .await
            .map_err(|error| refused(order_id, error))?;
        let order = State::as_ref(&state).ok_or_else(|| not_found(order_id))?;
        let replayed = events.is_empty();
        if order.phase.has_ended() || wait.0.is_none() {
            return Ok(answer(OrderView::new(order_id, order, version), wait, replayed));
        }
        let view = match self.wait(order_id, waiter, wait).await? {
            Some(view) => view,
            None => OrderView::new(order_id, order, version),
        };
        Ok(answer(view, wait, replayed))
    }

    /// The order as it is when it ends or when the time is up; `None` when nobody more can wait.
    async fn wait(
        &self,
        order_id: OrderId,
        waiter: Option<Waiter<OrderId, Woken>>,
        wait: PreferWait,
    ) -> Result<Option<OrderView>, Problem> {
        let (Some(waiter), Some(time)) = (waiter, wait.0) else {
            return Ok(None);
        };
        if let Some(Some(ending)) = waiter.wait(time).await {
            return Ok(Some(OrderView::new(order_id, &ending.order, ending.version)));
        }
        self.load(order_id, None).await.map(Some)
    }

    /// The order as its stream tells it, as of `until`.
    async fn load(&self, order_id: OrderId, until: Option<Timestamp>) -> Result<OrderView, Problem> {
        let mut state: State = None;
        let mut version = 0;
        for recorded in self.recorded(order_id, until).await? {
            let event = self.codec.decode(&recorded.payload).await.map_err(undecodable)?;
            fold(&mut state, &event, recorded.envelope.occurred_at);
            version = recorded.envelope.stream_version;
        }
        let order = state.as_ref().ok_or_else(|| not_found(order_id))?;
        Ok(OrderView::new(order_id, order, version))
    }

    async fn recorded(
        &self,
        order_id: OrderId,
        until: Option<Timestamp>,
    ) -> Result<Vec<common::event::Recorded>, Problem> {
        let client = self.pool.get().await.map_err(|error| away(&error))?;
        let stream = StreamId::new(order_id.to_string());
        events::load_until(&client, <Orders as common::model::Model>::NAME, &stream, until)
            .await
            .map_err(|error| away(&error))
    }
}

/// 202 and where to look; 200 for a client that waited for an end and got it.
fn answer(view: OrderView, wait: PreferWait, replayed: bool) -> Response {
    let location = [(header::LOCATION, format!("/orders/{}", view.order_id))];
    let mut response = match wait.applied().filter(|_| view.has_ended()) {
        Some(applied) => (StatusCode::OK, location, [applied], Json(view)).into_response(),
        None => (StatusCode::ACCEPTED, location, Json(view)).into_response(),
    };
    if replayed {
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// An id that is no UUID names no order.
fn parse_order_id(text: &str) -> Result<OrderId, Problem> {
    text.parse::<Uuid>().map(OrderId).map_err(|_| not_found(text))
}

fn not_found(order_id: impl std::fmt::Display) -> Problem {
    Problem::not_found(format_args!("order {order_id}"))
}

fn refused(order_id: OrderId, error: SubmitError<Rejection>) -> Problem {
    let rejection = match error {
        SubmitError::Rejected(rejection) => rejection,
        busy @ (SubmitError::Overloaded | SubmitError::Unavailable(_)) => {
            return Problem::unavailable(busy.to_string());
        }
    };
    let detail = rejection.to_string();
    match rejection {
        Rejection::NotFound => not_found(order_id),
        Rejection::KeyReused => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The idempotency key belongs to another request",
        )
        .detail(detail),
        Rejection::NotTheCustomer => Problem::new(
            StatusCode::FORBIDDEN,
            "not-your-order",
            "The order belongs to another customer",
        )
        .detail(detail),
        Rejection::AlreadyCompleted => Problem::conflict("order-completed", "The order is completed").detail(detail),
        Rejection::NotStuck { status } => Problem::conflict("order-not-stuck", "The order is not stuck")
            .detail(detail)
            .with("order_status", status),
        Rejection::NeverAsked { .. } => Problem::internal(&rejection),
    }
}

fn away(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::warn!(error, "the database cannot be read");
    Problem::unavailable("the database cannot be read now")
}

fn undecodable(error: DecodeError) -> Problem {
    if error.is_transient() {
        Problem::unavailable("the schema registry does not answer")
    } else {
        Problem::internal(&error)
    }
}
