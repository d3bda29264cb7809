//! Between the domain's events and the ones that travel. No decision is taken here.

use contracts::inventory as wire;

use crate::domain::{Event, Refusal};
use crate::goods::{Line, Lines, ReceiptId, Shortage, Sku};

/// The wire form of an event on the stream whose key is `key`: an order's id, or a SKU.
pub fn from_domain(key: &str, event: &Event) -> wire::Event {
    let order_id = key.to_owned();
    match event {
        Event::Reserved(lines) => wire::StockReserved {
            order_id,
            lines: lines_out(lines),
        }
        .into(),
        Event::Rejected(Refusal::Short(shortages)) => wire::StockRejected {
            order_id,
            shortages: shortages.iter().map(shortage_out).collect(),
            cancelled: false,
        }
        .into(),
        Event::Rejected(Refusal::Cancelled) => wire::StockRejected {
            order_id,
            shortages: Vec::new(),
            cancelled: true,
        }
        .into(),
        Event::Committed(lines) => wire::StockCommitted {
            order_id,
            lines: lines_out(lines),
        }
        .into(),
        Event::Released(lines) => wire::StockReleased {
            order_id,
            lines: lines_out(lines),
            nothing_held: lines.is_empty(),
        }
        .into(),
        Event::Returned(lines) => wire::StockReturned {
            order_id,
            lines: lines_out(lines),
        }
        .into(),
        Event::Adjusted {
            sku,
            name,
            unit_price_minor,
            on_hand,
            delta,
        } => wire::StockAdjusted {
            sku: sku.to_string(),
            name: name.to_string(),
            unit_price_minor: *unit_price_minor,
            on_hand: *on_hand,
            delta: *delta,
        }
        .into(),
        Event::Received { sku, quantity, receipt } => wire::StockReceived {
            sku: sku.to_string(),
            quantity: *quantity,
            receipt_id: receipt.as_str().to_owned(),
        }
        .into(),
    }
}

/// What a recorded event of this service says.
pub fn to_domain(event: &wire::Event) -> Event {
    match event {
        wire::Event::StockReserved(event) => Event::Reserved(lines_in(&event.lines)),
        wire::Event::StockRejected(event) if event.cancelled => Event::Rejected(Refusal::Cancelled),
        wire::Event::StockRejected(event) => {
            Event::Rejected(Refusal::Short(event.shortages.iter().map(shortage_in).collect()))
        }
        wire::Event::StockCommitted(event) => Event::Committed(lines_in(&event.lines)),
        wire::Event::StockReleased(event) => Event::Released(lines_in(&event.lines)),
        wire::Event::StockReturned(event) => Event::Returned(lines_in(&event.lines)),
        wire::Event::StockAdjusted(event) => Event::Adjusted {
            sku: Sku::recorded(&event.sku),
            name: event.name.as_str().into(),
            unit_price_minor: event.unit_price_minor,
            on_hand: event.on_hand,
            delta: event.delta,
        },
        wire::Event::StockReceived(event) => Event::Received {
            sku: Sku::recorded(&event.sku),
            quantity: event.quantity,
            receipt: ReceiptId::recorded(&event.receipt_id),
        },
    }
}

fn lines_out(lines: &Lines) -> Vec<wire::StockLine> {
    lines
        .iter()
        .map(|line| wire::StockLine {
            sku: line.sku.to_string(),
            quantity: line.quantity,
        })
        .collect()
}

fn lines_in(lines: &[wire::StockLine]) -> Lines {
    Lines::sum(lines.iter().map(|line| Line {
        sku: Sku::recorded(&line.sku),
        quantity: line.quantity,
    }))
}

fn shortage_out(shortage: &Shortage) -> wire::Shortage {
    wire::Shortage {
        sku: shortage.sku.to_string(),
        requested: shortage.requested,
        available: shortage.available,
    }
}

fn shortage_in(shortage: &wire::Shortage) -> Shortage {
    Shortage {
        sku: Sku::recorded(&shortage.sku),
        requested: shortage.requested,
        available: shortage.available,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_comes_back_from_the_wire_as_it_went() {
        let sku = Sku::parse("NW-001").unwrap();
        let lines = Lines::sum([Line {
            sku: sku.clone(),
            quantity: 2,
        }]);
        let short = Shortage {
            sku: sku.clone(),
            requested: 2,
            available: 1,
        };
        let events = [
            Event::Reserved(lines.clone()),
            Event::Rejected(Refusal::Short([short].into())),
            Event::Rejected(Refusal::Cancelled),
            Event::Committed(lines.clone()),
            Event::Released(lines.clone()),
            Event::Released(Lines::default()),
            Event::Returned(lines),
            Event::Adjusted {
                sku: sku.clone(),
                name: "Kettle".into(),
                unit_price_minor: 1_999,
                on_hand: 10,
                delta: -2,
            },
            Event::Received {
                sku,
                quantity: 5,
                receipt: ReceiptId::parse("r-1").unwrap(),
            },
        ];
        for event in events {
            assert_eq!(to_domain(&from_domain("NW-001", &event)), event);
        }
    }

    #[test]
    fn a_release_says_whether_anything_was_held() {
        let released = from_domain("o-1", &Event::Released(Lines::default()));
        assert!(matches!(released, wire::Event::StockReleased(event) if event.nothing_held));
    }
}
