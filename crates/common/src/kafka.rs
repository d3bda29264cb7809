//! How this process speaks to Kafka: client settings, topics, and what a topic's log holds.
//!
//! All questions to the broker are librdkafka's blocking calls, so they run on tokio's blocking threads, each with a
//! time limit. Nothing here publishes or consumes for a service: see [`relay`](crate::relay) and the consumer.

pub mod group;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Longest wait for one answer of a broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait until a new topic is known to the brokers that were asked to create it.
const CREATED_TIMEOUT: Duration = Duration::from_secs(15);
/// How often to look whether it is.
const CREATED_POLL: Duration = Duration::from_millis(50);
/// From so many brokers on a topic is kept in three copies, two of which must have a record before it counts.
const REPLICATED_FROM_BROKERS: usize = 3;

/// Where Kafka is, and how to log in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// librdkafka's own properties, passed through; they win over ours where both set one.
    pub properties: BTreeMap<String, String>,
    /// Put before the names of topics and groups, with a dot, so that deployments can share a cluster.
    pub namespace: Option<String>,
}

/// Why a question to Kafka has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This build has no TLS for Kafka.
    #[error("{property}={value} needs TLS, which this build was made without; build with `--features kafka-tls`")]
    TlsMissing {
        /// The librdkafka property.
        property: &'static str,
        /// What it asks for.
        value: String,
    },
    /// The client could not be made: a property is unknown or has a wrong value.
    #[error("a Kafka client could not be made; check the Kafka properties")]
    Client(#[source] KafkaError),
    /// The broker did not answer, or refused.
    #[error("{what} failed")]
    Asked {
        /// What was asked.
        what: String,
        /// The client's or the broker's words.
        #[source]
        source: KafkaError,
    },
    /// The broker refused to create a topic.
    #[error("topic {topic} could not be created: {code}")]
    NotCreated {
        /// The topic, with namespace.
        topic: String,
        /// The broker's reason.
        code: RDKafkaErrorCode,
    },
    /// The topic was accepted, but no broker shows it.
    #[error("topic {topic} was created but is not visible after {} s", CREATED_TIMEOUT.as_secs())]
    NotVisible {
        /// The topic, with namespace.
        topic: String,
    },
    /// The topic exists and is divided otherwise.
    #[error(
        "topic {topic} has {found} partitions, {wanted} were asked for; a key's partition follows from their number, so \
         changing it would move keys and break their order: use the {found} it has, or another topic namespace"
    )]
    OtherPartitionCount {
        /// The topic, with namespace.
        topic: String,
        /// How many partitions it has.
        found: i32,
        /// How many were asked for.
        wanted: i32,
    },
    /// There is no such topic.
    #[error("topic {topic} does not exist; `init` creates it")]
    NoSuchTopic {
        /// The topic, with namespace.
        topic: String,
    },
}

impl Settings {
    /// `name` in this deployment's namespace.
    pub fn named(&self, name: &str) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}.{name}"),
            None => name.to_owned(),
        }
    }

    /// Whether this build can do what the properties ask for. librdkafka's own message would name a build flag of C.
    ///
    /// # Errors
    /// [`Error::TlsMissing`].
    pub fn check(&self) -> Result<(), Error> {
        if cfg!(feature = "kafka-tls") {
            return Ok(());
        }
        let needs_tls = |value: &str| {
            let value = value.to_ascii_uppercase();
            value.contains("SSL") || value.starts_with("SCRAM") || value.starts_with("OAUTH")
        };
        for property in ["security.protocol", "sasl.mechanism", "sasl.mechanisms"] {
            if let Some(value) = self.properties.get(property).filter(|value| needs_tls(value)) {
                let value = value.clone();
                return Err(Error::TlsMissing { property, value });
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SECRET: [&str; 6] = ["password", "secret", "key.pem", "keytab", "token", "oauthbearer.config"];
        let shown = |(property, value): (&'_ String, &'_ String)| {
            let secret = SECRET.iter().any(|part| property.contains(part));
            (property.clone(), if secret { "***".to_owned() } else { value.clone() })
        };
        f.debug_struct("Settings")
            .field("brokers", &self.brokers)
            .field(
                "properties",
                &self.properties.iter().map(shown).collect::<BTreeMap<_, _>>(),
            )
            .field("namespace", &self.namespace)
            .finish()
    }
}

/// What every client of this process starts from.
pub fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "rondo")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "5000")
        // An idle connection that a broker or a firewall closes is no news.
        .set("log.connection.close", "false")
        .set("socket.keepalive.enable", "true");
    for (property, value) in &settings.properties {
        config.set(property, value);
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// Lets librdkafka's log speak at debug level: it repeats itself at each attempt, and whoever uses a client reports
/// changes of state once.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        quiet_log(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = &error as &dyn std::error::Error, reason, "librdkafka");
    }
}

impl ConsumerContext for QuietContext {}

/// librdkafka's log line, for contexts that have more to do than [`QuietContext`].
pub fn quiet_log(facility: &str, message: &str) {
    tracing::debug!(target: "librdkafka", facility, "{message}");
}

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// With namespace.
    pub name: String,
    /// Fixed for the topic's life.
    pub partitions: i32,
    /// The broker's topic settings, such as `retention.ms`.
    pub config: BTreeMap<String, String>,
}

/// What [`ensure_topics`] found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// With namespace.
    pub name: String,
    /// Whether it was made now, with `copies`.
    pub new: bool,
    /// How many copies of it the brokers keep if it is new.
    pub copies: i32,
    /// How many partitions it has.
    pub partitions: i32,
}

/// What one partition's log holds: offsets from `first` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// With namespace.
    pub topic: String,
    /// Of the topic.
    pub partition: i32,
    /// The oldest record that is kept.
    pub first: i64,
    /// Where the next record will go.
    pub end: i64,
}

/// Creates what is missing of `specs`, and leaves alone what is there.
///
/// With three brokers or more a topic has three copies of which two must have a record. With fewer it has one, and a lost
/// disk loses records: whoever asks for the topics should tell.
///
/// # Errors
/// [`Error::OtherPartitionCount`] before anything is created; else what the broker says.
pub async fn ensure_topics(settings: &Settings, specs: &[TopicSpec]) -> Result<Vec<Created>, Error> {
    let client = Client::new(settings)?;
    let cluster = client.ask(Asker::cluster).await?;
    let mut ensured = Vec::with_capacity(specs.len());
    for spec in specs {
        let found = cluster.partitions.get(&spec.name).copied();
        match found {
            Some(found) if found != spec.partitions => {
                return Err(Error::OtherPartitionCount {
                    topic: spec.name.clone(),
                    found,
                    wanted: spec.partitions,
                });
            }
            _ => ensured.push(Created {
                name: spec.name.clone(),
                new: found.is_none(),
                copies: copies(cluster.brokers),
                partitions: spec.partitions,
            }),
        }
    }
    let missing: Vec<&TopicSpec> = specs
        .iter()
        .filter(|spec| !cluster.partitions.contains_key(&spec.name))
        .collect();
    if !missing.is_empty() {
        create(settings, &missing, cluster.brokers).await?;
        visible(&client, &missing).await?;
    }
    Ok(ensured)
}

/// What the log of each partition of `topics` holds, in order of topic and partition.
///
/// Whoever asks again and again keeps a [`Client`].
///
/// # Errors
/// [`Error::NoSuchTopic`], or the broker did not answer.
pub async fn log_ends(settings: &Settings, topics: &[String]) -> Result<Vec<LogEnd>, Error> {
    Client::new(settings)?.log_ends(topics).await
}

/// A client for questions, kept because connecting costs more than asking. It belongs to no group and commits nothing.
#[derive(Clone)]
pub struct Client(Arc<Asker>);

struct Asker {
    /// Always there until it is dropped.
    consumer: Option<BaseConsumer<QuietContext>>,
    /// Partitions of the topics that have been asked for: their number never changes.
    partitions: Mutex<BTreeMap<String, i32>>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        // librdkafka waits for its threads to end.
        let consumer = self.consumer.take();
        std::thread::spawn(move || drop(consumer));
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// A client that connects when it is first asked.
    ///
    /// # Errors
    /// [`Error::Client`] for properties that librdkafka does not take; [`Error::TlsMissing`].
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        let mut config = client_config(settings);
        config
            // librdkafka wants a group's name before it assigns partitions; without a commit the group never exists.
            .set("group.id", "rondo-probe")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("allow.auto.create.topics", "false")
            .set("enable.partition.eof", "true");
        let consumer = config.create_with_context(QuietContext).map_err(Error::Client)?;
        Ok(Self(Arc::new(Asker {
            consumer: Some(consumer),
            partitions: Mutex::default(),
        })))
    }

    /// How many partitions `topic` has.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`], or the broker did not answer.
    pub async fn partitions(&self, topic: &str) -> Result<i32, Error> {
        let topic = topic.to_owned();
        self.ask(move |asker| asker.partitions(&topic)).await
    }

    /// What the log of each partition of `topics` holds, in order of topic and partition.
    ///
    /// # Errors
    /// [`Error::NoSuchTopic`], or the broker did not answer.
    pub async fn log_ends(&self, topics: &[String]) -> Result<Vec<LogEnd>, Error> {
        let topics = topics.to_vec();
        self.ask(move |asker| {
            let mut ends = Vec::new();
            for topic in topics {
                for partition in 0..asker.partitions(&topic)? {
                    let (first, end) = asker
                        .consumer()
                        .fetch_watermarks(&topic, partition, ASK_TIMEOUT)
                        .map_err(asked(|| format!("asking for the log end of {topic}/{partition}")))?;
                    ends.push(LogEnd {
                        topic: topic.clone(),
                        partition,
                        first,
                        end,
                    });
                }
            }
            Ok(ends)
        })
        .await
    }

    /// Runs `ask` on a blocking thread.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Asker) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let asker = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            // What librdkafka has to tell of lost brokers piles up until somebody listens.
            while asker.consumer().poll(Duration::ZERO).is_some() {}
            ask(&asker)
        })
        .await
        .expect("a question to Kafka does not panic")
    }
}

impl Asker {
    fn consumer(&self) -> &BaseConsumer<QuietContext> {
        self.consumer.as_ref().expect("it is taken only by drop")
    }

    fn partitions(&self, topic: &str) -> Result<i32, Error> {
        let mut known = self.partitions.lock().expect("nothing panics while it holds this lock");
        if let Some(count) = known.get(topic) {
            return Ok(*count);
        }
        let found = self.cluster()?.partitions;
        let count = found.get(topic).copied().ok_or_else(|| Error::NoSuchTopic {
            topic: topic.to_owned(),
        })?;
        *known = found;
        Ok(count)
    }

    /// All topics are asked for, not one: to ask for a topic that does not exist may create it, where brokers do that.
    fn cluster(&self) -> Result<Cluster, Error> {
        let metadata = self
            .consumer()
            .fetch_metadata(None, ASK_TIMEOUT)
            .map_err(asked(|| "asking for the topics".to_owned()))?;
        let known = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none() && !topic.partitions().is_empty());
        Ok(Cluster {
            brokers: metadata.brokers().len(),
            partitions: known
                .map(|topic| {
                    (
                        topic.name().to_owned(),
                        i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
                    )
                })
                .collect(),
        })
    }
}

/// What metadata says: how many brokers there are, and each topic's partitions.
struct Cluster {
    brokers: usize,
    partitions: BTreeMap<String, i32>,
}

fn copies(brokers: usize) -> i32 {
    if brokers >= REPLICATED_FROM_BROKERS { 3 } else { 1 }
}

async fn create(settings: &Settings, specs: &[&TopicSpec], brokers: usize) -> Result<(), Error> {
    settings.check()?;
    let admin: AdminClient<DefaultClientContext> = client_config(settings).create().map_err(Error::Client)?;
    let topics: Vec<NewTopic<'_>> = specs
        .iter()
        .map(|spec| {
            let copies = copies(brokers);
            let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(copies));
            let topic = if copies > 1 {
                topic.set("min.insync.replicas", "2")
            } else {
                topic
            };
            spec.config
                .iter()
                .fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let options = AdminOptions::new()
        .request_timeout(Some(ASK_TIMEOUT))
        .operation_timeout(Some(ASK_TIMEOUT));
    let results = admin
        .create_topics(&topics, &options)
        .await
        .map_err(asked(|| "creating topics".to_owned()))?;
    // Dropping an admin client joins its thread.
    tokio::task::spawn_blocking(move || drop(admin));
    for result in results {
        match result {
            // Somebody else was first; `visible` looks at what they made.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(Error::NotCreated { topic, code }),
        }
    }
    Ok(())
}

/// Creating a topic is asynchronous in Kafka: whoever used it at once would be told that there is none.
async fn visible(client: &Client, specs: &[&TopicSpec]) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + CREATED_TIMEOUT;
    loop {
        let cluster = client.ask(Asker::cluster).await?;
        let Some(hidden) = specs.iter().find(|spec| !cluster.partitions.contains_key(&spec.name)) else {
            let other = specs.iter().map(|spec| (spec, cluster.partitions[&spec.name]));
            return match other.into_iter().find(|(spec, found)| *found != spec.partitions) {
                Some((spec, found)) => Err(Error::OtherPartitionCount {
                    topic: spec.name.clone(),
                    found,
                    wanted: spec.partitions,
                }),
                None => Ok(()),
            };
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::NotVisible {
                topic: hidden.name.clone(),
            });
        }
        tokio::time::sleep(CREATED_POLL).await;
    }
}

/// Runs `ask` on a blocking thread with a [`Client`]'s consumer, which may be assigned partitions.
pub(crate) async fn blocking<T: Send + 'static>(
    settings: &Settings,
    ask: impl FnOnce(&BaseConsumer<QuietContext>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    Client::new(settings)?.ask(move |asker| ask(asker.consumer())).await
}

/// Names what was asked, for the error's message.
pub(crate) fn asked(what: impl FnOnce() -> String) -> impl FnOnce(KafkaError) -> Error {
    move |source| Error::Asked { what: what(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> Settings {
        Settings {
            brokers: "localhost:9092".to_owned(),
            properties: properties
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            namespace: Some("blue".to_owned()),
        }
    }

    #[test]
    fn properties_pass_through_and_win() {
        let config = client_config(&settings(&[("client.id", "mine"), ("sasl.username", "me")]));
        assert_eq!(config.get("client.id"), Some("mine"));
        assert_eq!(config.get("sasl.username"), Some("me"));
        assert_eq!(config.get("bootstrap.servers"), Some("localhost:9092"));
    }

    #[test]
    fn a_namespace_comes_before_each_name() {
        assert_eq!(settings(&[]).named("orders.events"), "blue.orders.events");
        assert_eq!(Settings::default().named("orders.events"), "orders.events");
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn what_needs_tls_is_refused_with_the_feature_to_build_with() {
        for (property, value) in [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.mechanisms", "OAUTHBEARER"),
        ] {
            let refused = settings(&[(property, value)]).check().unwrap_err().to_string();
            assert!(refused.contains("--features kafka-tls"), "{refused}");
        }
        assert!(
            settings(&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN")])
                .check()
                .is_ok()
        );
    }
}
