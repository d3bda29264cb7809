//! Inventory as a [`Model`]: the glue between the domain, the wire and the tables.

use std::collections::BTreeSet;

use async_trait::async_trait;
use common::codec::{DatumError, WriterSchema};
use common::event::{Envelope, EventSet as _, EventType, StreamId};
use common::model::{Change, Follows, Model, Table};
use common::pg::copy::Load;
use common::pg::{Transaction, Write};
use contracts::inventory::{Event, SKU_STREAM};
use jiff::Timestamp;

use crate::domain::{self, Command, Rejection, State};
use crate::goods::{ReceiptId, Sku};
use crate::reactions::{self, Input};
use crate::stock::{self, Stock};
use crate::{NAME, snapshot, store, wire};

/// The inventory service.
#[derive(Clone, Copy, Debug)]
pub struct Inventory;

#[async_trait]
impl Model for Inventory {
    const NAME: &'static str = NAME;
    const LISTENS_TO: &'static [&'static str] = &[contracts::topics::ORDERS];
    const DEADLINES_WAIT_FOR_INPUT: bool = false;
    const FOLD: Option<u64> = Some(snapshot::FOLD);

    const PROJECTS_POSITIONS: bool = true;
    const TABLES: &'static [Table] = &[
        Table {
            name: "stock",
            key: &["sku"],
            follows: Follows::Many,
            determined: &[],
        },
        Table {
            name: "stock_movements",
            key: &["sku", "occurred_at", "position"],
            follows: Follows::Event,
            determined: &[],
        },
        Table {
            name: "receipts",
            key: &["sku", "receipt_id"],
            follows: Follows::Event,
            determined: &[],
        },
    ];

    type Event = Event;
    type Input = Input;
    type Command = Command;
    type State = State;
    type Rows = Stock;
    type Rejection = Rejection;

    fn stream_of(&self, event_type: &str, key: &str) -> StreamId {
        match event_type {
            "StockAdjusted" | "StockReceived" => StreamId::of_kind(SKU_STREAM, key),
            _ => StreamId::new(key),
        }
    }

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
        stock: &mut Stock,
        command: &Command,
        _now: Timestamp,
    ) -> Result<Vec<Event>, Rejection> {
        let events = domain::decide(state, stock, command)?;
        for event in &events {
            stock.apply(state, event);
        }
        Ok(events
            .iter()
            .map(|event| wire::from_domain(stream.key(), event))
            .collect())
    }

    fn begins(&self, command: &Command) -> bool {
        matches!(command, Command::Reserve(_))
    }

    fn evolve(&self, state: &mut State, event: &Event, _envelope: &Envelope) {
        *state = domain::evolve(std::mem::take(state), &wire::to_domain(event));
    }

    fn grows_long(&self, stream: &StreamId) -> bool {
        stream.kind() == Some(SKU_STREAM)
    }

    fn snapshot(&self, state: &State) -> Option<Vec<u8>> {
        snapshot::write(state)
    }

    fn read_snapshot(&self, bytes: &[u8]) -> Option<State> {
        snapshot::read(bytes)
    }

    async fn lock_rows(
        &self,
        tx: &Transaction<'_>,
        commands: &[(&StreamId, &Command, &State)],
    ) -> Result<Stock, tokio_postgres::Error> {
        let (skus, receipts) = needed(commands);
        store::lock(tx, &skus, &receipts).await
    }

    fn project<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        store::save(effects(changes))
    }

    fn fresh_rows(&self, changes: &[Change<'_, Self>]) -> Vec<Load> {
        vec![store::load(&effects(changes).movements)]
    }

    /// Levels are sums over all orders: told in any other order than it happened, they would fall below zero on the way.
    fn retell<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        let mut beside = store::Effects::default();
        // What happens to an order moves levels and does nothing else.
        let goods = changes
            .iter()
            .filter(|change| change.stream_id.kind() == Some(SKU_STREAM));
        for (event, _) in goods.flat_map(|change| change.events) {
            beside.note(&wire::to_domain(event));
        }
        store::save(beside)
    }

    async fn sum_up(&self, tx: &deadpool_postgres::Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        store::sum_up(tx).await
    }

    fn committed(&self, changes: &[Change<'_, Self>]) {
        for (event, _) in changes.iter().flat_map(|change| change.events) {
            metrics::counter!("inventory_events_total", "type" => event.event_type().name).increment(1);
        }
    }
}

/// The SKUs that `commands` may look at or change, and the receipts that they may count, both sorted.
///
/// A command that follows another of the same order in this batch needs no more than that one: its lines are the order's.
fn needed<'a>(commands: &[(&StreamId, &'a Command, &'a State)]) -> (Vec<&'a Sku>, Vec<(&'a Sku, &'a ReceiptId)>) {
    let (mut skus, mut receipts) = (BTreeSet::new(), BTreeSet::new());
    for (_, command, state) in commands {
        match command {
            Command::Reserve(lines) => skus.extend(lines.iter().map(|line| &line.sku)),
            Command::Commit | Command::Cancel => {
                skus.extend(
                    state
                        .lines()
                        .into_iter()
                        .flat_map(|lines| lines.iter())
                        .map(|line| &line.sku),
                );
            }
            Command::Adjust { sku, .. } => {
                skus.insert(sku);
            }
            Command::Receive { sku, receipt, .. } => {
                skus.insert(sku);
                receipts.insert((sku, receipt));
            }
        }
    }
    (skus.into_iter().collect(), receipts.into_iter().collect())
}

/// What the events of `changes` do to the tables, in the order in which they were appended.
fn effects(changes: &[Change<'_, Inventory>]) -> store::Effects {
    let mut effects = store::Effects::default();
    for change in changes {
        let mut state = change.before.clone();
        for (event, recorded) in change.events {
            let event = wire::to_domain(event);
            for movement in stock::movements(&state, &event) {
                effects.movements.push(store::Moved {
                    movement,
                    occurred_at: recorded.envelope.occurred_at,
                    position: recorded.envelope.position,
                });
            }
            effects.note(&event);
            state = domain::evolve(state, &event);
        }
    }
    effects
}

#[cfg(test)]
mod tests;
