//! The GETs: one order now or in the past, what happened to it, and listings.

use axum::extract::State;
use common::http::page::PageParams;
use common::http::{FieldError, Json, Listing, Page, Path, Problem, Query};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{EventView, OrderSummary, OrderView, Shared, away, not_found, parse_order_id, undecodable};
use crate::store::{self, Cursor, STATUSES};

/// Which orders are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only those with this status.
    #[param(example = "stuck")]
    status: Option<String>,
}

/// As of when an order is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Moment {
    /// The order as it was then (RFC 3339); now if absent.
    #[param(example = "2026-01-01T12:00:00Z")]
    at: Option<String>,
}

/// List orders, newest first.
#[utoipa::path(
    get,
    path = "/orders",
    tag = "orders",
    params(Filter, PageParams),
    responses(
        (status = 200, description = "A page of orders", body = Listing<OrderSummary>),
        (status = 422, description = "No such status, limit or cursor", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(context): State<Shared>,
    Query(filter): Query<Filter>,
    page: Page,
) -> Result<Json<Listing<OrderSummary>>, Problem> {
    let statuses = match &filter.status {
        None => &STATUSES[..],
        Some(wanted) => {
            let index = STATUSES.iter().position(|status| status == wanted).ok_or_else(|| {
                let detail = format!("must be one of {}", STATUSES.join(", "));
                Problem::invalid([FieldError::new("status", detail)])
            })?;
            &STATUSES[index..=index]
        }
    };
    let after = page.after::<Cursor>()?;
    let client = context.pool.get().await.map_err(|error| away(&error))?;
    let rows = store::page(&client, statuses, after, page.rows())
        .await
        .map_err(|error| away(&error))?;
    let orders = rows.into_iter().map(OrderSummary::from).collect();
    Ok(Json(Listing::new(&page, orders, |order: &OrderSummary| {
        (order.placed_at, order.order_id)
    })))
}

/// Show an order, now or as it was at a moment in the past.
#[utoipa::path(
    get,
    path = "/orders/{id}",
    tag = "orders",
    params(("id" = String, Path, description = "The order's id"), Moment),
    responses(
        (status = 200, description = "The order", body = OrderView),
        (status = 404, description = "No such order, or not yet at that moment", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(context): State<Shared>,
    Path(id): Path<String>,
    Query(moment): Query<Moment>,
) -> Result<Json<OrderView>, Problem> {
    let until = moment.at.as_deref().map(parse_moment).transpose()?;
    context.load(parse_order_id(&id)?, until).await.map(Json)
}

/// Show what has happened to an order, oldest first.
#[utoipa::path(
    get,
    path = "/orders/{id}/events",
    tag = "orders",
    params(("id" = String, Path, description = "The order's id")),
    responses(
        (status = 200, description = "All events of its stream", body = Listing<EventView>),
        (status = 404, description = "No such order", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn events(
    State(context): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Listing<EventView>>, Problem> {
    let order_id = parse_order_id(&id)?;
    let recorded = context.recorded(order_id, None).await?;
    if recorded.is_empty() {
        return Err(not_found(order_id));
    }
    let mut items = Vec::with_capacity(recorded.len());
    for recorded in &recorded {
        let data = context.codec.to_json(&recorded.payload).await.map_err(undecodable)?;
        items.push(EventView::new(recorded, data));
    }
    // A stream is as long as its saga: it needs no pages.
    let next_cursor = None;
    Ok(Json(Listing { items, next_cursor }))
}

fn parse_moment(text: &str) -> Result<Timestamp, Problem> {
    // A plus sign that was not escaped arrives as a space.
    text.parse().or_else(|_| text.replace(' ', "+").parse()).map_err(|_| {
        let detail = "must be a time such as 2026-01-01T12:00:00Z";
        Problem::invalid([FieldError::new("at", detail)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_with_its_offset_escaped_or_not() {
        let noon = parse_moment("2026-01-01T12:00:00Z").unwrap();
        assert_eq!(parse_moment("2026-01-01T14:00:00+02:00").unwrap(), noon);
        assert_eq!(parse_moment("2026-01-01T14:00:00 02:00").unwrap(), noon);
        for bad in ["yesterday", "2026-01-01", "2026-01-01T12:00:00", ""] {
            assert!(parse_moment(bad).is_err(), "{bad}");
        }
    }
}
