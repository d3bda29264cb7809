//! A consumer group seen from outside: who is in it, what it has committed, and what it shall have committed.

use std::collections::HashMap;

use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{ASK_TIMEOUT, Client, Error, QuietContext, Settings, asked, client_config};

/// A place in a log: topic with namespace, and partition.
pub type Place = (String, i32);

/// What a group looks like now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Kafka's word for its state; empty if the broker knows no such group.
    pub state: String,
    /// The clients that read for it, each as its id and host.
    pub members: Vec<String>,
}

impl Client {
    /// Who is in `group` now; `None` from a broker that does not tell, as the embedded one.
    ///
    /// # Errors
    /// The broker refused.
    pub async fn group(&self, group: &str) -> Result<Option<Group>, Error> {
        let group = group.to_owned();
        self.ask(move |asker| {
            let list = match asker.consumer().fetch_group_list(Some(&group), ASK_TIMEOUT) {
                // It hangs up on a question that it does not know.
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerTransportFailure) => {
                    return Ok(None);
                }
                answer => answer.map_err(asked(|| format!("asking for the members of group {group}")))?,
            };
            let found = list.groups().iter().find(|found| found.name() == group);
            Ok(Some(found.map_or_else(Group::default, |found| {
                Group {
                    state: found.state().to_owned(),
                    members: found
                        .members()
                        .iter()
                        .map(|member| format!("{} {}", member.client_id(), member.client_host()))
                        .collect(),
                }
            })))
        })
        .await
    }

    /// The first offset of each place whose record is of `at` or later, where there is one.
    ///
    /// # Errors
    /// The broker did not answer.
    pub async fn offsets_since(&self, places: &[Place], at: Timestamp) -> Result<HashMap<Place, i64>, Error> {
        let mut wanted = TopicPartitionList::new();
        for (topic, partition) in places {
            wanted
                .add_partition_offset(topic, *partition, Offset::Offset(at.as_millisecond()))
                .map_err(asked(|| format!("naming {topic}/{partition}")))?;
        }
        self.ask(move |asker| {
            let found = asker
                .consumer()
                .offsets_for_times(wanted, ASK_TIMEOUT)
                .map_err(asked(|| format!("asking for the offsets since {at}")))?;
            Ok(known(&found))
        })
        .await
    }
}

/// What `group` has committed of `places`, where it has committed anything.
///
/// # Errors
/// The broker did not answer.
pub async fn committed(settings: &Settings, group: &str, places: &[Place]) -> Result<HashMap<Place, i64>, Error> {
    let mut wanted = TopicPartitionList::new();
    for (topic, partition) in places {
        wanted.add_partition(topic, *partition);
    }
    let name = group.to_owned();
    as_member(settings, group, move |consumer| {
        let found = consumer
            .committed_offsets(wanted, ASK_TIMEOUT)
            .map_err(asked(|| format!("asking for the offsets of group {name}")))?;
        Ok(known(&found))
    })
    .await
}

/// Commits `offsets` for a group that nobody is in; Kafka refuses others.
///
/// # Errors
/// The broker did not answer, or refuses.
pub async fn commit(settings: &Settings, group: &str, offsets: &[(&str, i32, i64)]) -> Result<(), Error> {
    let mut moved = TopicPartitionList::new();
    for (topic, partition, offset) in offsets {
        moved
            .add_partition_offset(topic, *partition, Offset::Offset(*offset))
            .map_err(asked(|| format!("naming {topic}/{partition}")))?;
    }
    let name = group.to_owned();
    as_member(settings, group, move |consumer| {
        consumer
            .commit(&moved, CommitMode::Sync)
            .map_err(asked(|| format!("committing offsets for group {name}")))
    })
    .await
}

/// Runs `ask` with a consumer that bears the group's name and joins it not.
async fn as_member<T: Send + 'static>(
    settings: &Settings,
    group: &str,
    ask: impl FnOnce(&BaseConsumer<QuietContext>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    settings.check()?;
    let mut config = client_config(settings);
    config.set("group.id", group).set("enable.auto.commit", "false");
    tokio::task::spawn_blocking(move || {
        let consumer = config.create_with_context(QuietContext).map_err(Error::Client)?;
        ask(&consumer)
    })
    .await
    .expect("a question to Kafka does not panic")
}

fn known(list: &TopicPartitionList) -> HashMap<Place, i64> {
    let elements = list.elements();
    let numbers = elements.iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) => Some(((element.topic().to_owned(), element.partition()), offset)),
        _ => None,
    });
    numbers.collect()
}
