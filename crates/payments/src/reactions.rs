//! What payments makes of what orders says: wire events in, commands out. Pure.

use common::codec::{self, DatumError, WriterSchema};
use contracts::orders::{OrderCancelling, OrderConfirmed, OrderPlaced, OrderResumed, ResumeToward};
use uuid::Uuid;

use crate::domain::{Command, Payment};
use crate::gateway::{self, Method};
use crate::money::{Currency, Money};

/// The events that payments reacts to.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "half of what arrives is the large one; a box would be an allocation an order"
)]
pub enum Input {
    /// Hold the money.
    OrderPlaced(OrderPlaced),
    /// Take it.
    OrderConfirmed(OrderConfirmed),
    /// Undo it.
    OrderCancelling(OrderCancelling),
    /// Answer again, or try again what failed.
    OrderResumed(OrderResumed),
}

impl Input {
    /// Their names.
    pub const EVENTS: &'static [&'static str] = &["OrderPlaced", "OrderConfirmed", "OrderCancelling", "OrderResumed"];

    /// Reads one; `None` for an event that payments does not react to.
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

/// The order that `input` is about, and what it asks of its payment.
///
/// # Errors
/// The event cannot be meant; the text says why.
pub fn react(input: &Input) -> Result<(&str, Command), String> {
    let (order_id, command) = match input {
        Input::OrderPlaced(event) => (&event.order_id, authorize(event)?),
        Input::OrderConfirmed(event) => (&event.order_id, Command::Capture),
        Input::OrderCancelling(event) => (&event.order_id, Command::Cancel),
        Input::OrderResumed(event) => (&event.order_id, resume(event)?),
    };
    if Uuid::parse_str(order_id).is_err() {
        return Err(format!("{order_id:?} is not an order's id"));
    }
    Ok((order_id, command))
}

fn authorize(event: &OrderPlaced) -> Result<Command, String> {
    let currency = Currency::parse(&event.currency).ok_or_else(|| format!("{:?} is not a currency", event.currency))?;
    let amount = Money::new(event.total_minor, currency).ok_or_else(|| "the total is less than nothing".to_owned())?;
    let method = Method::parse(&event.payment_method)
        .ok_or_else(|| "the payment method is empty or longer than a token can be".to_owned())?;
    let id = gateway::payment_id(&method, &event.order_id);
    Ok(Command::Authorize {
        payment: Payment { id, amount },
        method,
    })
}

/// A resumed order asks for the step that it was stuck at, as if for the first time: the state knows what is left to do.
fn resume(event: &OrderResumed) -> Result<Command, String> {
    match event.toward {
        ResumeToward::Completion => Ok(Command::Capture),
        ResumeToward::Cancellation => Ok(Command::Cancel),
        ResumeToward::Unknown => Err("this build does not know the end that the order is resumed toward".to_owned()),
    }
}

#[cfg(test)]
mod tests;
