//! The choreography: for every event, who reacts to it, with which events, and within what time.
//!
//! Nobody runs this map. Each service reacts by its own code, and its tests hold it to what the map says of it; the
//! timeline of a saga and the picture in ARCHITECTURE.md are drawn from it. Which of the possible answers is right is
//! decided in each service's domain, never here.

mod picture;

use std::time::Duration;

use crate::service::{SERVICES, Service};

pub use picture::mermaid;

/// What one service does about one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// The event that it reacts to.
    pub event: &'static str,
    /// The service that reacts.
    pub service: &'static str,
    /// Which part of the service reacts.
    pub by: By,
    /// The answer: one of these.
    pub produces: &'static [&'static str],
    /// What may follow the answer in the same transaction.
    pub also: &'static [&'static str],
    /// By when.
    pub within: Within,
}

/// Which part of a service reacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Its consumer, on reading the event from Kafka.
    Consumer,
    /// Its worker, on finding the event's effect in its own database; the event is its own.
    Worker,
}

/// By when a reaction is due. The instants themselves travel in the events, as `decide_by_unix_ms` and
/// `settle_by_unix_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// Before the order's *decide* deadline: past it the order is cancelled.
    Decide,
    /// Before the order's *settle* deadline: past it the order is stuck.
    Settle,
    /// Before whichever of the two the order is under at the time.
    Running,
}

impl Within {
    /// How long an order is given unless configured otherwise; nothing for a deadline that already runs.
    pub const fn default_duration(self) -> Option<Duration> {
        match self {
            Self::Decide => Some(Duration::from_secs(60)),
            Self::Settle => Some(Duration::from_secs(10 * 60)),
            Self::Running => None,
        }
    }
}

/// What comes from outside the choreography, and what brings it about.
pub const FROM_OUTSIDE: &[(&str, &str)] = &[
    ("POST /orders", "OrderPlaced"),
    ("POST /orders/{id}/cancel", "OrderCancelling"),
    ("the decide deadline", "OrderCancelling"),
    ("the settle deadline", "OrderStuck"),
    ("rondo saga resume", "OrderResumed"),
    ("rondo inventory import", "StockAdjusted"),
    ("POST /inventory/{sku}/receipts", "StockReceived"),
];

/// Events that nobody reacts to: they record, or they end a saga.
pub const HEARD_BY_NOBODY: &[&str] = &[
    "PaymentNoted",
    "StockNoted",
    "OrderCompleted",
    "OrderCancelled",
    "OrderStuck",
    "StockAdjusted",
    "StockReceived",
];

/// Every reaction to every event.
pub const REACTIONS: &[Reaction] = &[
    // An order is placed: both participants start at once.
    consumed("OrderPlaced", "payments", PAYMENT_ANSWERS, Within::Decide),
    consumed(
        "OrderPlaced",
        "inventory",
        &["StockReserved", "StockRejected"],
        Within::Decide,
    ),
    // An open intent: the gateway's outcome is fetched outside any consumer.
    worked("PaymentIntentOpened", "payments", INTENT_OUTCOMES),
    worked("PaymentAttempted", "payments", INTENT_OUTCOMES),
    worked("PaymentCancelRequested", "payments", INTENT_OUTCOMES),
    // Orders takes each answer into its own stream and decides.
    noted("PaymentAuthorized", PAYMENT_NOTED),
    noted("PaymentDeclined", PAYMENT_NOTED),
    noted("PaymentCaptured", PAYMENT_NOTED),
    noted("PaymentCaptureFailed", PAYMENT_NOTED),
    noted("PaymentVoided", PAYMENT_NOTED),
    noted("PaymentRefunded", PAYMENT_NOTED),
    noted("PaymentRefundFailed", PAYMENT_NOTED),
    noted("StockReserved", STOCK_NOTED),
    noted("StockRejected", STOCK_NOTED),
    noted("StockCommitted", STOCK_NOTED),
    noted("StockReleased", STOCK_NOTED),
    noted("StockReturned", STOCK_NOTED),
    // Forward.
    consumed(
        "OrderConfirmed",
        "payments",
        &["PaymentCaptured", "PaymentCaptureFailed"],
        Within::Settle,
    ),
    consumed("OrderConfirmed", "inventory", &["StockCommitted"], Within::Settle),
    // Back.
    consumed(
        "OrderCancelling",
        "payments",
        &[
            "PaymentVoided",
            "PaymentRefunded",
            "PaymentRefundFailed",
            "PaymentCancelRequested",
        ],
        Within::Settle,
    ),
    consumed(
        "OrderCancelling",
        "inventory",
        &["StockReleased", "StockReturned"],
        Within::Settle,
    ),
    // Again, after a person has looked: each answers from its state, or retries the step that failed.
    consumed(
        "OrderResumed",
        "payments",
        &[
            "PaymentCaptured",
            "PaymentCaptureFailed",
            "PaymentVoided",
            "PaymentRefunded",
            "PaymentRefundFailed",
            "PaymentCancelRequested",
        ],
        Within::Settle,
    ),
    consumed(
        "OrderResumed",
        "inventory",
        &["StockCommitted", "StockReleased", "StockReturned"],
        Within::Settle,
    ),
];

const PAYMENT_ANSWERS: &[&str] = &["PaymentAuthorized", "PaymentDeclined", "PaymentIntentOpened"];
const INTENT_OUTCOMES: &[&str] = &[
    "PaymentAuthorized",
    "PaymentDeclined",
    "PaymentAttempted",
    "PaymentVoided",
];
const PAYMENT_NOTED: &[&str] = &["PaymentNoted"];
const STOCK_NOTED: &[&str] = &["StockNoted"];
const ORDER_MOVES: &[&str] = &[
    "OrderConfirmed",
    "OrderCancelling",
    "OrderCompleted",
    "OrderCancelled",
    "OrderStuck",
];

/// What is done about `event`, and by whom; nothing for one that nobody hears.
pub fn reactions_to(event: &str) -> impl Iterator<Item = &'static Reaction> {
    REACTIONS.iter().filter(move |reaction| reaction.event == event)
}

/// What the consumer of `service` does: these events and no others.
pub fn consumed_by(service: &str) -> impl Iterator<Item = &'static Reaction> {
    REACTIONS
        .iter()
        .filter(move |reaction| reaction.service == service && reaction.by == By::Consumer)
}

/// The topics that the consumer of `service` reads, without a namespace.
pub fn topics_read_by(service: &str) -> Vec<&'static str> {
    let reads = |topic: &Service| {
        topic
            .types
            .iter()
            .any(|written| consumed_by(service).any(|r| r.event == written.name))
    };
    SERVICES
        .iter()
        .filter(|writer| reads(writer))
        .map(|writer| writer.topic)
        .collect()
}

/// The one service that writes `event`; none if there is no such event.
pub fn producer_of(event: &str) -> Option<&'static str> {
    Service::writing(event).map(|service| service.name)
}

const fn consumed(
    event: &'static str,
    service: &'static str,
    produces: &'static [&'static str],
    within: Within,
) -> Reaction {
    Reaction {
        event,
        service,
        by: By::Consumer,
        produces,
        also: &[],
        within,
    }
}

const fn worked(event: &'static str, service: &'static str, produces: &'static [&'static str]) -> Reaction {
    Reaction {
        event,
        service,
        by: By::Worker,
        produces,
        also: &[],
        within: Within::Running,
    }
}

const fn noted(event: &'static str, produces: &'static [&'static str]) -> Reaction {
    Reaction {
        event,
        service: "orders",
        by: By::Consumer,
        produces,
        also: ORDER_MOVES,
        within: Within::Running,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn every_event() -> BTreeSet<&'static str> {
        SERVICES
            .iter()
            .flat_map(|service| service.types)
            .map(|event_type| event_type.name)
            .collect()
    }

    #[test]
    fn no_two_services_have_an_event_of_the_same_name() {
        let named: usize = SERVICES.iter().map(|service| service.types.len()).sum();
        assert_eq!(every_event().len(), named);
    }

    #[test]
    fn every_event_is_heard_by_somebody_or_known_to_be_heard_by_nobody() {
        let heard: BTreeSet<_> = REACTIONS.iter().map(|reaction| reaction.event).collect();
        let unheard: BTreeSet<_> = HEARD_BY_NOBODY.iter().copied().collect();
        assert_eq!(heard.intersection(&unheard).count(), 0, "both heard and unheard");
        assert_eq!(&heard | &unheard, every_event());
    }

    #[test]
    fn every_event_comes_from_a_reaction_or_from_outside() {
        let reactions = REACTIONS
            .iter()
            .flat_map(|reaction| reaction.produces.iter().chain(reaction.also).copied());
        let outside = FROM_OUTSIDE.iter().map(|(_, event)| *event);
        assert_eq!(reactions.chain(outside).collect::<BTreeSet<_>>(), every_event());
    }

    #[test]
    fn a_service_answers_with_its_own_events_only() {
        for reaction in REACTIONS {
            assert!(
                !reaction.produces.is_empty(),
                "{} of {}",
                reaction.event,
                reaction.service
            );
            for event in reaction.produces.iter().chain(reaction.also) {
                assert_eq!(
                    producer_of(event),
                    Some(reaction.service),
                    "{event}, on {}",
                    reaction.event
                );
            }
        }
    }

    #[test]
    fn a_consumer_hears_others_and_a_worker_hears_its_own_service() {
        for reaction in REACTIONS {
            let own = producer_of(reaction.event) == Some(reaction.service);
            assert_eq!(
                own,
                reaction.by == By::Worker,
                "{} by {}",
                reaction.event,
                reaction.service
            );
        }
    }

    #[test]
    fn a_service_reacts_to_an_event_once() {
        let pairs: BTreeSet<_> = REACTIONS
            .iter()
            .map(|reaction| (reaction.event, reaction.service))
            .collect();
        assert_eq!(pairs.len(), REACTIONS.len());
    }

    #[test]
    fn participants_read_orders_and_orders_reads_both() {
        assert_eq!(topics_read_by("orders"), ["payments.events", "inventory.events"]);
        assert_eq!(topics_read_by("payments"), ["orders.events"]);
        assert_eq!(topics_read_by("inventory"), ["orders.events"]);
        assert!(topics_read_by("nobody").is_empty());
    }

    #[test]
    fn an_unknown_event_has_no_producer_and_no_reactions() {
        assert_eq!(producer_of("OrderMislaid"), None);
        assert_eq!(reactions_to("OrderMislaid").count(), 0);
    }
}
