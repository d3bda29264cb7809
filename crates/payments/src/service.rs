//! Payments as a [`Model`]: the glue between the domain, the wire and the tables.

use async_trait::async_trait;
use common::codec::{DatumError, WriterSchema};
use common::event::{Envelope, EventSet as _, EventType, StreamId};
use common::model::{Change, Follows, Model, Table};
use common::pg::copy::Load;
use common::pg::{Transaction, Write};
use contracts::payments::Event;
use jiff::Timestamp;

use crate::domain::{self, Command, Rejection, State};
use crate::reactions::{self, Input};
use crate::{NAME, gateway, store, wire};

/// The payments service.
#[derive(Clone, Copy, Debug)]
pub struct Payments;

#[async_trait]
impl Model for Payments {
    const NAME: &'static str = NAME;
    const LISTENS_TO: &'static [&'static str] = &[contracts::topics::ORDERS];
    /// A deadline here is the next try of an intent: it depends on nothing that may still arrive.
    const DEADLINES_WAIT_FOR_INPUT: bool = false;

    const TABLES: &'static [Table] = &[Table {
        name: "payments",
        key: &["order_id"],
        follows: Follows::Stream("order_id"),
        determined: &[],
    }];

    type Event = Event;
    type Input = Input;
    type Command = Command;
    type State = State;
    type Rows = ();
    type Rejection = Rejection;

    fn read(&self, _topic: &str, writer: &WriterSchema, datum: &[u8]) -> Option<Result<Input, DatumError>> {
        Input::read(writer, datum)
    }

    fn hears(&self) -> &'static [&'static [EventType]] {
        &[contracts::orders::Event::TYPES]
    }

    fn react(&self, input: &Input, _envelope: &Envelope) -> Result<Vec<(StreamId, Command)>, String> {
        let (order_id, command) = reactions::react(input)?;
        Ok(vec![(StreamId::new(order_id), command)])
    }

    fn decide(
        &self,
        stream: &StreamId,
        state: &State,
        _rows: &mut (),
        command: &Command,
        now: Timestamp,
    ) -> Result<Vec<Event>, Rejection> {
        let events = domain::decide(state, command, now)?;
        Ok(events
            .iter()
            .map(|event| wire::from_domain(stream.as_str(), event))
            .collect())
    }

    fn begins(&self, command: &Command) -> bool {
        matches!(command, Command::Authorize { .. })
    }

    fn evolve(&self, state: &mut State, event: &Event, envelope: &Envelope) {
        let event = wire::to_domain(event, envelope.occurred_at);
        *state = domain::evolve(std::mem::take(state), &event);
    }

    fn deadline(&self, state: &State) -> Option<Timestamp> {
        state.intent().map(|intent| intent.next_try)
    }

    async fn on_deadline(&self, stream: &StreamId, state: &State, _due: Timestamp) -> Option<Command> {
        next_try(state, stream.as_str())
    }

    async fn lock_rows(
        &self,
        _tx: &Transaction<'_>,
        _commands: &[(&StreamId, &Command, &State)],
    ) -> Result<(), tokio_postgres::Error> {
        Ok(())
    }

    fn project<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        store::save(changes.iter().filter_map(entry).collect())
            .into_iter()
            .collect()
    }

    /// Most streams begin and end among the events that are told at once: a row of theirs meets no other.
    fn fresh_rows(&self, changes: &[Change<'_, Self>]) -> Vec<Load> {
        let opened = changes.iter().filter(|change| change.opens_stream());
        vec![store::load(opened.filter_map(entry).collect())]
    }

    fn retell<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        let gone_on = changes.iter().filter(|change| !change.opens_stream());
        store::save(gone_on.filter_map(entry).collect()).into_iter().collect()
    }

    fn committed(&self, changes: &[Change<'_, Self>]) {
        for (event, _) in changes.iter().flat_map(|change| change.events) {
            metrics::counter!("payments_events_total", "type" => event.event_type().name).increment(1);
        }
    }
}

/// One try of the open intent: what the gateway answered, as a command. `None` if no intent is open.
pub(crate) fn next_try(state: &State, order_id: &str) -> Option<Command> {
    let (intent, answer) = match state {
        State::Pending(intent) => (intent, gateway::ask(&intent.method, order_id)),
        State::Cancelling(intent) => (intent, gateway::close(&intent.method, order_id)),
        State::Unseen
        | State::Tombstone
        | State::Authorized(_)
        | State::Declined(_)
        | State::CaptureFailed { .. }
        | State::Captured(_)
        | State::RefundFailed { .. }
        | State::Voided { .. }
        | State::Refunded(_) => return None,
    };
    Some(Command::RecordAttempt {
        attempt: intent.tries + 1,
        answer,
    })
}

fn entry(change: &Change<'_, Payments>) -> Option<store::Entry> {
    let (_, last) = change.events.last()?;
    Some(store::Entry {
        order_id: change.stream_id.as_str().to_owned(),
        ledger: store::Ledger::of(change.after),
        version: change.version,
        updated_at: last.envelope.occurred_at,
    })
}
