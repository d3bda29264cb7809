//! Topics and raw records, over the Kafka protocol.

use crate::stack;
use embedded::broker::{self, Broker, Settings};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Patience with a broker under the load of other tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// `bootstrap.servers` of the tests' Kafka: `KAFKA_BROKERS`, or the embedded broker of this process.
pub async fn brokers() -> &'static str {
    stack::brokers().await
}

/// librdkafka's properties for consumers of that broker: none but for the embedded one.
#[must_use]
pub fn properties() -> BTreeMap<String, String> {
    let own = broker::CLIENT_PROPERTIES.map(|(property, value)| (property.to_owned(), value.to_owned()));
    own.into_iter().filter(|_| is_embedded()).collect()
}

/// Whether that is the embedded broker, which lacks a few things that Kafka has: see [`embedded::broker`].
#[must_use]
pub fn is_embedded() -> bool {
    stack::broker_is_embedded()
}

/// An embedded broker of one test's own, which can be away and come back: the same port, the same log. Whatever
/// `KAFKA_BROKERS` names, for a broker that others use cannot be stopped.
#[derive(Debug)]
pub struct OwnBroker {
    port: u16,
    address: String,
    running: Option<Broker>,
    data_dir: TempDir,
}

impl OwnBroker {
    /// A running broker with an empty log.
    pub async fn start() -> Self {
        let data_dir = tempfile::tempdir().expect("a temporary directory");
        let broker = Broker::start(Settings::new(data_dir.path()))
            .await
            .expect("the embedded broker starts");
        let address = broker.address();
        let (_, port) = address.rsplit_once(':').expect("a host and a port");
        Self {
            port: port.parse().expect("a port is a number"),
            address: address.clone(),
            running: Some(broker),
            data_dir,
        }
    }

    /// `bootstrap.servers` of this broker, the same after each start.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Stops it.
    pub async fn stop(&mut self) {
        if let Some(broker) = self.running.take() {
            broker.stop().await;
        }
    }

    /// Starts it again.
    pub async fn start_again(&mut self) {
        let settings = Settings {
            port: Some(self.port),
            ..Settings::new(self.data_dir.path())
        };
        self.running = Some(Broker::start(settings).await.expect("the embedded broker starts again"));
    }
}

/// A client's configuration with `bootstrap.servers` set.
pub async fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers().await);
    config
}

/// Creates topics of `partitions` each, with one replica, that keep their records; one that exists is left as it is.
pub async fn create_topics(names: &[&str], partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = config().await.create().expect("an admin client");
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1"))
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    for result in admin
        .create_topics(&topics, &options)
        .await
        .expect("the broker answers")
    {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => panic!("topic {topic} was not created: {code}"),
        }
    }
}

/// A record to be produced as it stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw<'a> {
    /// The partition, or by default the key's.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Names and values, in order; a name may come twice.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Produces records in order and returns where each went, as partition and offset.
pub async fn produce(topic: &str, records: &[Raw<'_>]) -> Vec<(i32, i64)> {
    let producer: FutureProducer = config()
        .await
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", "10000000")
        .create()
        .expect("a producer");
    let mut acknowledgements = Vec::with_capacity(records.len());
    for raw in records {
        let mut record = FutureRecord::<[u8], [u8]>::to(topic);
        (record.partition, record.key, record.payload) = (raw.partition, raw.key, raw.value);
        if !raw.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(raw.headers.len());
            let headers = raw.headers.iter().fold(headers, |all, (key, value)| {
                all.insert(Header {
                    key,
                    value: Some(*value),
                })
            });
            record.headers = Some(headers);
        }
        let queued = producer.send_result(record).map_err(|(error, _)| error);
        acknowledgements.push(queued.expect("the producer's queue has room"));
    }
    let mut places = Vec::with_capacity(records.len());
    for acknowledgement in acknowledgements {
        let delivery = acknowledgement.await.expect("the producer lives");
        let delivery = delivery
            .map_err(|(error, _)| error)
            .expect("the broker takes the record");
        places.push((delivery.partition, delivery.offset));
    }
    places
}

/// All records of a topic, from its beginning to where it ends now: by partition, in each by offset.
pub async fn read_all(topic: &str) -> Vec<OwnedMessage> {
    let mut config = config().await;
    config
        .set("group.id", "testkit-reader")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "10");
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || read_blocking(&config, &topic))
        .await
        .expect("reading does not panic")
}

fn read_blocking(config: &ClientConfig, topic: &str) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let metadata = consumer
        .fetch_metadata(Some(topic), PATIENCE)
        .expect("the broker answers");
    let mut open: BTreeMap<i32, i64> = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition.id(), PATIENCE)
            .expect("the broker answers");
        if low < high {
            open.insert(partition.id(), high);
            assignment
                .add_partition_offset(topic, partition.id(), Offset::Beginning)
                .expect("offsets are in range");
        }
    }
    consumer.assign(&assignment).expect("the partitions exist");
    let mut records = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        assert!(
            Instant::now() < deadline,
            "read {} records of {topic}; not at the end of {open:?}",
            records.len()
        );
        let Some(record) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let record = record.expect("the broker answers").detach();
        let (partition, offset) = (record.partition(), record.offset());
        // What was appended since is not asked for.
        if let Some(end) = open.get(&partition).copied() {
            if offset < end {
                records.push(record);
            }
            if offset + 1 >= end {
                open.remove(&partition);
            }
        }
    }
    records.sort_by_key(|record| (record.partition(), record.offset()));
    records
}
