//! The topics: their names, under a namespace where several installations share a cluster, and what each is created with.
//!
//! Replication is not here: it depends on how many brokers there are, which only the one who creates topics can know.

use crate::choreography;
use crate::service::SERVICES;

/// Where orders publishes.
pub const ORDERS: &str = "orders.events";
/// Where payments publishes.
pub const PAYMENTS: &str = "payments.events";
/// Where inventory publishes.
pub const INVENTORY: &str = "inventory.events";

/// Partitions of every topic, unless told otherwise when they are created. Never changed later: keys would move.
pub const PARTITIONS_DEFAULT: i32 = 12;
/// Largest record batch of a topic of events.
pub const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest record batch of a topic of dead letters: whatever fits an event topic fits here with the headers added.
pub const DEAD_LETTER_BYTES_MAX: usize = 5 * 1024 * 1024;

/// Events are kept for ever and never compacted, since replay reads the log from its beginning.
const EVENT_CONFIG: &[(&str, &str)] = &[
    ("retention.ms", "-1"),
    ("cleanup.policy", "delete"),
    ("max.message.bytes", "4194304"),
];
/// Dead letters are kept until somebody decides about them, however long that takes.
const DEAD_LETTER_CONFIG: &[(&str, &str)] = &[
    ("retention.ms", "-1"),
    ("cleanup.policy", "delete"),
    ("max.message.bytes", "5242880"),
];

/// A topic as it is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its whole name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// Topic settings by Kafka's names.
    pub config: &'static [(&'static str, &'static str)],
}

/// The topic that holds what `consumer` could not handle of `topic`.
pub fn dead_letters(topic: &str, consumer: &str) -> String {
    format!("{topic}.{consumer}.dlq")
}

/// The topics of one installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// Topics under `namespace`: `shop` gives `shop.orders.events`. None, or an empty one, gives the bare names.
    pub fn new(namespace: Option<&str>) -> Self {
        match namespace {
            None | Some("") => Self::default(),
            Some(namespace) => Self {
                prefix: format!("{namespace}."),
            },
        }
    }

    /// The whole name of `topic`.
    pub fn named(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// The bare name of `whole`, if it is under this namespace.
    pub fn bare<'a>(&self, whole: &'a str) -> Option<&'a str> {
        whole.strip_prefix(self.prefix.as_str())
    }

    /// Where orders publishes.
    pub fn orders(&self) -> String {
        self.named(ORDERS)
    }

    /// Where payments publishes.
    pub fn payments(&self) -> String {
        self.named(PAYMENTS)
    }

    /// Where inventory publishes.
    pub fn inventory(&self) -> String {
        self.named(INVENTORY)
    }

    /// Every topic that must exist before a service takes work: the events', and the dead letters' of each that reads
    /// them. Topics that are read together have equally many partitions, so that a key has the same number in each.
    pub fn specs(&self, partitions: i32) -> Vec<TopicSpec> {
        let events = SERVICES.iter().map(|service| TopicSpec {
            name: self.named(service.topic),
            partitions,
            config: EVENT_CONFIG,
        });
        let dead_letters = SERVICES.iter().flat_map(|service| {
            choreography::topics_read_by(service.name)
                .into_iter()
                .map(|topic| TopicSpec {
                    name: dead_letters(&self.named(topic), service.name),
                    partitions,
                    config: DEAD_LETTER_CONFIG,
                })
        });
        events.chain(dead_letters).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_writes_the_topic_that_bears_its_name() {
        let topics = SERVICES.each_ref().map(|service| service.topic);
        assert_eq!(topics, [ORDERS, PAYMENTS, INVENTORY]);
    }

    #[test]
    fn a_namespace_prefixes_every_topic_and_none_prefixes_nothing() {
        let shop = Topics::new(Some("shop"));
        assert_eq!(shop.orders(), "shop.orders.events");
        assert_eq!(shop.bare("shop.orders.events"), Some(ORDERS));
        assert_eq!(shop.bare(ORDERS), None);
        assert!(shop.specs(1).iter().all(|spec| spec.name.starts_with("shop.")));
        assert_eq!(Topics::new(None).payments(), PAYMENTS);
        assert_eq!(Topics::new(Some("")), Topics::new(None));
    }

    #[test]
    fn events_and_the_dead_letters_of_each_reader_have_topics() {
        let mut names: Vec<_> = Topics::new(None).specs(12).into_iter().map(|spec| spec.name).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "inventory.events",
                "inventory.events.orders.dlq",
                "orders.events",
                "orders.events.inventory.dlq",
                "orders.events.payments.dlq",
                "payments.events",
                "payments.events.orders.dlq",
            ]
        );
    }

    #[test]
    fn a_dead_letter_may_be_larger_than_an_event_and_neither_ever_expires() {
        let value = |config: &[(&str, &str)], name: &str| {
            config
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        for (config, bytes_max) in [
            (EVENT_CONFIG, EVENT_BYTES_MAX),
            (DEAD_LETTER_CONFIG, DEAD_LETTER_BYTES_MAX),
        ] {
            assert_eq!(value(config, "retention.ms").as_deref(), Some("-1"));
            assert_eq!(value(config, "cleanup.policy").as_deref(), Some("delete"));
            assert_eq!(value(config, "max.message.bytes"), Some(bytes_max.to_string()));
        }
        const { assert!(DEAD_LETTER_BYTES_MAX > EVENT_BYTES_MAX) };
    }
}
