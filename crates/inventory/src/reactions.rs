//! What inventory makes of what orders says: wire events in, commands out. Pure.

use common::codec::{self, DatumError, WriterSchema};
use contracts::orders::{OrderCancelling, OrderConfirmed, OrderPlaced, OrderResumed, ResumeToward};
use uuid::Uuid;

use crate::domain::Command;
use crate::goods::{Line, Lines, Sku};

/// The events that inventory reacts to.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "half of what arrives is the large one; a box would be an allocation an order"
)]
pub enum Input {
    /// Set the goods aside.
    OrderPlaced(OrderPlaced),
    /// Let them leave.
    OrderConfirmed(OrderConfirmed),
    /// Undo it.
    OrderCancelling(OrderCancelling),
    /// Answer again.
    OrderResumed(OrderResumed),
}

impl Input {
    /// Their names.
    pub const EVENTS: &'static [&'static str] = &["OrderPlaced", "OrderConfirmed", "OrderCancelling", "OrderResumed"];

    /// Reads one; `None` for an event that inventory does not react to.
    pub fn read(writer: &WriterSchema, datum: &[u8]) -> Option<Result<Self, DatumError>> {
        let schema = &writer.schema;
        match &*writer.name {
            "OrderPlaced" => Some(codec::read_datum(datum, schema).map(Self::OrderPlaced)),
            "OrderConfirmed" => Some(codec::read_datum(datum, schema).map(Self::OrderConfirmed)),
            "OrderCancelling" => Some(codec::read_datum(datum, schema).map(Self::OrderCancelling)),
            "OrderResumed" => Some(codec::read_datum(datum, schema).map(Self::OrderResumed)),
            _ => None,
        }
    }
}

/// The order that `input` is about, and what it asks of its stock.
///
/// # Errors
/// The event cannot be meant; the text says why.
pub fn react(input: &Input) -> Result<(&str, Command), String> {
    let (order_id, command) = match input {
        Input::OrderPlaced(event) => (&event.order_id, reserve(event)?),
        Input::OrderConfirmed(event) => (&event.order_id, Command::Commit),
        Input::OrderCancelling(event) => (&event.order_id, Command::Cancel),
        Input::OrderResumed(event) => (&event.order_id, resume(event)?),
    };
    if Uuid::parse_str(order_id).is_err() {
        return Err(format!("{order_id:?} is not an order's id"));
    }
    Ok((order_id, command))
}

fn reserve(event: &OrderPlaced) -> Result<Command, String> {
    if event.lines.is_empty() {
        return Err("the order has no lines".to_owned());
    }
    let lines: Result<Vec<_>, _> = event
        .lines
        .iter()
        .map(|line| {
            let sku = Sku::parse(&line.sku).ok_or_else(|| format!("{:?} is not a SKU", line.sku))?;
            if line.quantity < 1 {
                return Err(format!("the order asks for {} of {sku}", line.quantity));
            }
            Ok(Line {
                sku,
                quantity: line.quantity,
            })
        })
        .collect();
    Ok(Command::Reserve(Lines::sum(lines?)))
}

/// A resumed order asks for the step that it was stuck at, as if for the first time: a step that was taken is answered
/// again from state, and moves nothing.
fn resume(event: &OrderResumed) -> Result<Command, String> {
    match event.toward {
        ResumeToward::Completion => Ok(Command::Commit),
        ResumeToward::Cancellation => Ok(Command::Cancel),
        ResumeToward::Unknown => Err("this build does not know the end that the order is resumed toward".to_owned()),
    }
}

#[cfg(test)]
mod tests;
