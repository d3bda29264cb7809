//! The service: how the pure parts meet the runtime. Each method hands on to the part that knows.

use std::sync::Arc;

use async_trait::async_trait;
use common::codec::{DatumError, WriterSchema};
use common::event::{Envelope, EventSet as _, EventType, StreamId};
use common::model::{Change, Follows, Model, Table};
use common::pg::copy::Load;
use common::pg::{Transaction, Write};
use contracts::orders as wire;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::domain::{self, Command, Order, OrderId, Phase, Rejection, State};
use crate::reactions::{self, Input};
use crate::waiting::{Ending, Endings};
use crate::{store, wire as translate};

/// Orders as the runtime drives it.
pub struct Orders {
    endings: Endings,
}

impl Orders {
    /// The service; `endings` is told of each order that ends.
    pub fn new(endings: Endings) -> Self {
        Self { endings }
    }
}

#[async_trait]
impl Model for Orders {
    const NAME: &'static str = "orders";
    const LISTENS_TO: &'static [&'static str] = reactions::LISTENS_TO;
    /// After an outage the answers are there, only unread: an order must not be cancelled for want of one.
    const DEADLINES_WAIT_FOR_INPUT: bool = true;

    const TABLES: &'static [Table] = &[Table {
        name: "orders",
        key: &["order_id"],
        follows: Follows::Stream("order_id::text"),
        determined: &[],
    }];

    type Event = wire::Event;
    type Input = Input;
    type Command = Command;
    type State = State;
    type Rows = ();
    type Rejection = Rejection;

    fn read(&self, topic: &str, writer: &WriterSchema, datum: &[u8]) -> Option<Result<Input, DatumError>> {
        reactions::read(topic, writer, datum)
    }

    fn hears(&self) -> &'static [&'static [EventType]] {
        &[contracts::payments::Event::TYPES, contracts::inventory::Event::TYPES]
    }

    fn react(&self, input: &Input, envelope: &Envelope) -> Result<Vec<(StreamId, Command)>, String> {
        reactions::react(input, envelope)
    }

    fn decide(
        &self,
        stream: &StreamId,
        state: &State,
        _rows: &mut (),
        command: &Command,
        now: Timestamp,
    ) -> Result<Vec<wire::Event>, Rejection> {
        let events = domain::decide(state, command, now)?;
        Ok(events
            .iter()
            .map(|event| translate::write(stream.key(), event))
            .collect())
    }

    fn can_wait(&self, state: &State, command: &Command) -> bool {
        domain::leads_nowhere(state, command)
    }

    fn evolve(&self, state: &mut State, event: &wire::Event, envelope: &Envelope) {
        fold(state, event, envelope.occurred_at);
    }

    fn deadline(&self, state: &State) -> Option<Timestamp> {
        state.as_ref().and_then(domain::deadline)
    }

    async fn on_deadline(&self, _stream: &StreamId, _state: &State, due: Timestamp) -> Option<Command> {
        Some(Command::Deadline { due })
    }

    async fn lock_rows(
        &self,
        _tx: &Transaction<'_>,
        _commands: &[(&StreamId, &Command, &State)],
    ) -> Result<(), tokio_postgres::Error> {
        Ok(())
    }

    fn project<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        store::upsert(changes.iter().filter_map(row).collect())
            .into_iter()
            .collect()
    }

    /// Most orders begin and end among the events that are told at once: a row of theirs meets no other.
    fn fresh_rows(&self, changes: &[Change<'_, Self>]) -> Vec<Load> {
        let opened = changes.iter().filter(|change| change.opens_stream());
        vec![store::load(&mut opened.filter_map(row).collect::<Vec<_>>())]
    }

    fn retell<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        let gone_on = changes.iter().filter(|change| !change.opens_stream());
        store::upsert(gone_on.filter_map(row).collect()).into_iter().collect()
    }

    async fn figures(&self, client: &deadpool_postgres::Client) -> Result<(), tokio_postgres::Error> {
        let (stuck, overdue) = store::wanting(client).await?;
        metrics::gauge!("rondo_sagas_stuck").set(stuck as f64);
        metrics::gauge!("rondo_sagas_overdue").set(overdue as f64);
        Ok(())
    }

    fn committed(&self, changes: &[Change<'_, Self>]) {
        let mut endings = Vec::new();
        for change in changes {
            let Some(order) = moved(change) else { continue };
            report(change, order);
            if order.phase.has_ended() {
                let ending = Ending {
                    order: Arc::new(order.clone()),
                    version: change.version,
                };
                endings.push((order_id(change.stream_id), ending));
            }
        }
        self.endings.announce(endings);
    }
}

/// Folds one recorded event. One that this build has no word for leaves the order as it was.
pub fn fold(state: &mut State, event: &wire::Event, at: Timestamp) {
    if let Some(event) = translate::read(event) {
        *state = domain::evolve(state.take(), &event, at);
    }
}

/// The order after `change`, if it has entered a phase; the same one again counts, for a change may span several.
fn moved<'a>(change: &Change<'a, Orders>) -> Option<&'a Order> {
    let after = change.after.as_ref()?;
    let stayed = change
        .before
        .as_ref()
        .is_some_and(|before| before.phase == after.phase && before.since == after.since);
    (!stayed).then_some(after)
}

/// What is to be written of `change`, if anything is.
fn row<'a>(change: &Change<'a, Orders>) -> Option<(OrderId, &'a Order)> {
    moved(change).map(|order| (order_id(change.stream_id), order))
}

fn order_id(stream: &StreamId) -> OrderId {
    OrderId(Uuid::parse_str(stream.key()).expect("streams of orders are named by UUIDs: react and HTTP see to it"))
}

/// Counts and logs what became of an order.
fn report(change: &Change<'_, Orders>, order: &Order) {
    let correlation_id = change
        .events
        .first()
        .map(|(_, recorded)| recorded.envelope.correlation_id);
    let correlation_id = correlation_id.unwrap_or_default();
    let order_id = change.stream_id.key();
    let status = order.phase.name();
    match &order.phase {
        Phase::StuckConfirmed { reason } | Phase::StuckCancelling { reason, .. } => {
            measure(order, "stuck", "");
            tracing::warn!(order.id = order_id, correlation.id = %correlation_id, reason = &**reason, "an order is stuck");
        }
        Phase::Completed => measure(order, "completed", ""),
        Phase::Cancelled { reason } => measure(order, "cancelled", reason.name()),
        Phase::Placed { .. } | Phase::Confirmed { .. } | Phase::Cancelling { .. } => {}
    }
    tracing::debug!(order.id = order_id, correlation.id = %correlation_id, order.status = status, "an order moved on");
}

fn measure(order: &Order, outcome: &'static str, reason: &'static str) {
    let duration: SignedDuration = order.since.duration_since(order.placed_at);
    metrics::counter!("rondo_sagas_total", "outcome" => outcome, "reason" => reason).increment(1);
    metrics::histogram!("rondo_saga_duration_seconds", "outcome" => outcome).record(duration.as_secs_f64());
}
