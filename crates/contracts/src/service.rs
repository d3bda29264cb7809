//! Who there is: the services, each with its topic and its events.

use common::event::{EventSet, EventType};

use crate::{inventory, orders, payments};

/// One service, as the others see it.
#[derive(Debug)]
pub struct Service {
    /// Its name, which is also its consumer's: `payments`.
    pub name: &'static str,
    /// The one topic that it writes, without a namespace.
    pub topic: &'static str,
    /// Everything that it says.
    pub types: &'static [EventType],
}

/// All services, in the order in which an order meets them.
pub static SERVICES: [Service; 3] = [
    Service::of::<orders::Event>("orders"),
    Service::of::<payments::Event>("payments"),
    Service::of::<inventory::Event>("inventory"),
];

impl Service {
    const fn of<E: EventSet>(name: &'static str) -> Self {
        Self {
            name,
            topic: E::TOPIC,
            types: E::TYPES,
        }
    }

    /// The service called `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        SERVICES.iter().find(|service| service.name == name)
    }

    /// The one service that writes `event`.
    pub fn writing(event: &str) -> Option<&'static Self> {
        SERVICES
            .iter()
            .find(|service| service.types.iter().any(|event_type| event_type.name == event))
    }
}
