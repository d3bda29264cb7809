//! What orders does about what payments and inventory say: it writes down every answer, and nothing else.
//!
//! ```text
//! payments.events, inventory.events ──► Input ──► react ──► Note { answer, source } ──► domain
//! ```
//!
//! [`contracts::choreography`] says which events these are; the tests hold this file to it. Which answer leads where is
//! decided in [`domain`](crate::domain).

use common::codec::{DatumError, WriterSchema};
use common::event::{Envelope, EventSet as _, StreamId};
use contracts::inventory::{Event as InventoryEvent, Shortage};
use contracts::payments::{DeclineReason, Event as PaymentsEvent};
use contracts::topics;
use uuid::Uuid;

#[cfg(test)]
mod tests;

use crate::domain::{
    Answer, Authorization, Capture, Command, Decline, OrderId, PaymentAnswer, PaymentUndo, Refusal, Reservation,
    SourceId, StockAnswer, StockUndo,
};

/// The topics that orders listens to.
pub const LISTENS_TO: &[&str] = &[topics::PAYMENTS, topics::INVENTORY];

/// Most shortages that an order keeps the words of; the rest is counted.
const SHORTAGES_TOLD_MAX: usize = 5;

/// An answer, with the order that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    order_id: String,
    answer: Answer,
}

/// Reads a foreign event; `None` for one that is no answer to an order.
pub fn read(topic: &str, writer: &WriterSchema, datum: &[u8]) -> Option<Result<Input, DatumError>> {
    match topic {
        topics::PAYMENTS if ANSWERS_OF_PAYMENTS.contains(&&*writer.name) => {
            let event = PaymentsEvent::read(&writer.name, datum, &writer.schema)?;
            event.map(|event| answer_of_payments(&event)).transpose()
        }
        topics::INVENTORY if ANSWERS_OF_INVENTORY.contains(&&*writer.name) => {
            let event = InventoryEvent::read(&writer.name, datum, &writer.schema)?;
            event.map(|event| answer_of_inventory(&event)).transpose()
        }
        _ => None,
    }
}

/// Writes the answer down in the order that it is for.
///
/// # Errors
/// The order id is not one.
pub fn react(input: &Input, envelope: &Envelope) -> Result<Vec<(StreamId, Command)>, String> {
    let order_id: OrderId = input
        .order_id
        .parse::<Uuid>()
        .map(OrderId)
        .map_err(|_| format!("order_id {:?} is not a UUID", input.order_id))?;
    let command = Command::Note {
        answer: input.answer.clone(),
        source: SourceId(envelope.id),
    };
    Ok(vec![(StreamId::new(order_id.to_string()), command)])
}

/// Events of payments that are read; what payments says to itself is not even decoded.
const ANSWERS_OF_PAYMENTS: &[&str] = &[
    "PaymentAuthorized",
    "PaymentDeclined",
    "PaymentCaptured",
    "PaymentCaptureFailed",
    "PaymentVoided",
    "PaymentRefunded",
    "PaymentRefundFailed",
];

/// Events of inventory that are read; levels of stock are not.
const ANSWERS_OF_INVENTORY: &[&str] = &[
    "StockReserved",
    "StockRejected",
    "StockCommitted",
    "StockReleased",
    "StockReturned",
];

fn answer_of_payments(event: &PaymentsEvent) -> Option<Input> {
    let answer = match event {
        PaymentsEvent::PaymentAuthorized(_) => PaymentAnswer::Authorization(Authorization::Authorized),
        PaymentsEvent::PaymentDeclined(event) => {
            PaymentAnswer::Authorization(Authorization::Declined(match event.reason {
                DeclineReason::Declined | DeclineReason::Unknown => Decline::ByIssuer,
                DeclineReason::InsufficientFunds => Decline::InsufficientFunds,
                DeclineReason::Unavailable => Decline::Unavailable,
                DeclineReason::Cancelled => Decline::Cancelled,
                DeclineReason::ExpiredCard => Decline::ExpiredCard,
            }))
        }
        PaymentsEvent::PaymentCaptured(_) => PaymentAnswer::Capture(Capture::Captured),
        PaymentsEvent::PaymentCaptureFailed(event) => {
            PaymentAnswer::Capture(Capture::Failed(event.reason.as_str().into()))
        }
        PaymentsEvent::PaymentVoided(_) => PaymentAnswer::Undo(PaymentUndo::Voided),
        PaymentsEvent::PaymentRefunded(_) => PaymentAnswer::Undo(PaymentUndo::Refunded),
        PaymentsEvent::PaymentRefundFailed(event) => {
            PaymentAnswer::Undo(PaymentUndo::Failed(event.reason.as_str().into()))
        }
        PaymentsEvent::PaymentIntentOpened(_)
        | PaymentsEvent::PaymentAttempted(_)
        | PaymentsEvent::PaymentCancelRequested(_) => return None,
    };
    Some(Input {
        order_id: event.order_id().to_owned(),
        answer: Answer::Payment(answer),
    })
}

fn answer_of_inventory(event: &InventoryEvent) -> Option<Input> {
    let answer = match event {
        InventoryEvent::StockReserved(_) => StockAnswer::Reservation(Reservation::Reserved),
        InventoryEvent::StockRejected(event) => StockAnswer::Reservation(Reservation::Rejected(if event.cancelled {
            Refusal::Cancelled
        } else {
            Refusal::Shortage(told(&event.shortages).into())
        })),
        InventoryEvent::StockCommitted(_) => StockAnswer::Committed,
        InventoryEvent::StockReleased(_) => StockAnswer::Undo(StockUndo::Released),
        InventoryEvent::StockReturned(_) => StockAnswer::Undo(StockUndo::Returned),
        InventoryEvent::StockAdjusted(_) | InventoryEvent::StockReceived(_) => return None,
    };
    Some(Input {
        order_id: event.order_id()?.to_owned(),
        answer: Answer::Stock(answer),
    })
}

/// The shortages in words, for people.
fn told(shortages: &[Shortage]) -> String {
    let mut told: Vec<String> = shortages
        .iter()
        .take(SHORTAGES_TOLD_MAX)
        .map(|shortage| {
            let Shortage {
                sku,
                requested,
                available,
            } = shortage;
            format!("{sku}: {requested} wanted, {available} available")
        })
        .collect();
    if shortages.len() > SHORTAGES_TOLD_MAX {
        told.push(format!("and {} more", shortages.len() - SHORTAGES_TOLD_MAX));
    }
    told.join("; ")
}
