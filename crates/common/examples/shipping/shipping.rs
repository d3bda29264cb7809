//! A service on the runtime, whole: it hears that an order is completed, and plans its shipment.
//!
//! Read it beside `docs/runtime.md`. There is one stream for each order, named by its id, with at most one event.

use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use common::codec::{self, DatumError, Registry, WriterSchema};
use common::event::{Envelope, EventSet as _, StreamId};
use common::http::{Path, Problem};
use common::kafka::{self, TopicSpec};
use common::migrate::{self, Migration};
use common::model::{Change, Model};
use common::pg::{Transaction, Write};
use common::{pg, service};
use deadpool_postgres::Pool;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};

/// The topic that is listened to, without a namespace.
const ORDERS: &str = "orders.events";
/// Partitions of the topics that `init` creates: as many as the topic that is listened to has.
const PARTITIONS: i32 = 12;
/// How many days a shipment may take to leave.
const DAYS_TO_LEAVE: i32 = 2;

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "0001_shipments.sql",
    sql: include_str!("0001_shipments.sql"),
}];

/// An order will be shipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShipmentPlanned {
    /// The order's id.
    pub(crate) order_id: String,
    /// The day by which it leaves.
    pub(crate) ship_by: String,
}

common::events! {
    /// Everything that shipping says.
    pub enum Event on "shipping.events" in "acme.shipping" {
        ShipmentPlanned { 1 => "ShipmentPlanned.v1.avsc" },
    }
}

/// What shipping needs of somebody else's event; the fields that it does not name are passed over.
#[derive(Debug, Deserialize)]
pub(crate) struct OrderCompleted {
    order_id: String,
}

/// What can be asked of an order's shipment.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Plan it.
    Plan,
}

/// What is known of an order's shipment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shipment {
    /// Nothing.
    #[default]
    Unplanned,
    /// It leaves.
    Planned,
}

/// Shipping refuses nothing, so there is no such value.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Rejection {}

/// The service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shipping;

/// Pure: a shipment that is planned is not planned again, whoever asks.
fn decide(order_id: &str, shipment: Shipment, Command::Plan: &Command, now: Timestamp) -> Vec<Event> {
    match shipment {
        Shipment::Planned => Vec::new(),
        Shipment::Unplanned => {
            let today = now.to_zoned(TimeZone::UTC).date();
            vec![Event::from(ShipmentPlanned {
                order_id: order_id.to_owned(),
                ship_by: today.saturating_add(DAYS_TO_LEAVE.days()).to_string(),
            })]
        }
    }
}

#[async_trait]
impl Model for Shipping {
    const NAME: &'static str = "shipping";
    const LISTENS_TO: &'static [&'static str] = &[ORDERS];
    const DEADLINES_WAIT_FOR_INPUT: bool = false;

    type Event = Event;
    type Input = OrderCompleted;
    type Command = Command;
    type State = Shipment;
    type Rows = ();
    type Rejection = Rejection;

    fn read(&self, _topic: &str, writer: &WriterSchema, datum: &[u8]) -> Option<Result<OrderCompleted, DatumError>> {
        (&*writer.name == "OrderCompleted").then(|| codec::read_datum(datum, &writer.schema))
    }

    fn react(&self, input: &OrderCompleted, _envelope: &Envelope) -> Result<Vec<(StreamId, Command)>, String> {
        if input.order_id.is_empty() {
            return Err("the order has no id".to_owned());
        }
        Ok(vec![(StreamId::new(input.order_id.as_str()), Command::Plan)])
    }

    fn decide(
        &self,
        stream: &StreamId,
        shipment: &Shipment,
        _rows: &mut (),
        command: &Command,
        now: Timestamp,
    ) -> Result<Vec<Event>, Rejection> {
        Ok(decide(stream.key(), *shipment, command, now))
    }

    fn evolve(&self, shipment: &mut Shipment, Event::ShipmentPlanned(_): &Event, _envelope: &Envelope) {
        *shipment = Shipment::Planned;
    }

    async fn lock_rows(
        &self,
        _tx: &Transaction<'_>,
        _commands: &[(&StreamId, &Command, &Shipment)],
    ) -> Result<(), tokio_postgres::Error> {
        Ok(())
    }

    fn project<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        let events = || changes.iter().flat_map(|change| change.events);
        let orders: Vec<&str> = changes.iter().map(|change| change.stream_id.key()).collect();
        let days: Vec<&str> = events()
            .map(|(Event::ShipmentPlanned(planned), _)| &*planned.ship_by)
            .collect();
        let times: Vec<Timestamp> = events().map(|(_, recorded)| recorded.envelope.occurred_at).collect();
        let insert = "INSERT INTO shipments (order_id, ship_by, planned_at)
                      SELECT o, d::date, t FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS s (o, d, t)";
        vec![Write::new(insert).with(orders).with(days).with(times)]
    }
}

/// Brings the database, the topics and the schemas to what this build needs. Safe to run again at any time.
///
/// # Errors
/// One of the three cannot be reached, or refuses.
pub(crate) async fn init(settings: &service::Settings) -> anyhow::Result<()> {
    let mut client = pg::single(&settings.database_url).await?;
    migrate::apply(&mut client, "common", service::MIGRATIONS).await?;
    migrate::apply(&mut client, Shipping::NAME, MIGRATIONS).await?;
    let topic = settings.kafka.named(Event::TOPIC);
    let letters = format!("{}.{}.dlq", settings.kafka.named(ORDERS), Shipping::NAME);
    let specs = [&topic, &letters].map(|name| TopicSpec {
        name: name.clone(),
        partitions: PARTITIONS,
        // Replay reads a log from its beginning.
        config: [("retention.ms".to_owned(), "-1".to_owned())].into(),
    });
    kafka::ensure_topics(&settings.kafka, &specs).await?;
    let registry = Registry::new(&settings.registry)?;
    for event_type in Event::TYPES {
        registry.register(&topic, event_type, "BACKWARD_TRANSITIVE").await?;
    }
    Ok(())
}

/// A shipment, for people.
#[derive(Debug, Serialize)]
pub(crate) struct Planned {
    order_id: String,
    ship_by: String,
    planned_at: Timestamp,
}

/// `GET /shipments/{order_id}`.
pub(crate) fn router(pool: Pool) -> Router {
    Router::new()
        .route("/shipments/{order_id}", get(shipment_of_order))
        .with_state(Arc::new(pool))
}

async fn shipment_of_order(
    State(pool): State<Arc<Pool>>,
    Path(order_id): Path<String>,
) -> Result<Json<Planned>, Problem> {
    let client = pool
        .get()
        .await
        .map_err(|error| Problem::unavailable(error.to_string()))?;
    let row = client
        .query_opt(
            "SELECT ship_by, planned_at FROM shipments WHERE order_id = $1",
            &[&order_id],
        )
        .await
        .map_err(|error| Problem::unavailable(error.to_string()))?
        .ok_or_else(|| Problem::not_found(format_args!("a shipment of order {order_id}")))?;
    Ok(Json(Planned {
        ship_by: row.get::<_, Date>("ship_by").to_string(),
        planned_at: row.get("planned_at"),
        order_id,
    }))
}
