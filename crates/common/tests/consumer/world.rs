//! One taster, its database and its topics, and what a test does to them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::codec::{Codec, Registry, RegistrySettings};
use common::committer::{Expect, Outcome, SubmitError};
use common::event::{Cause, Envelope, EventSet, Recorded, StreamId};
use common::parking::{Filter, RetryPolicy};
use common::service::{self, Running, Settings};
use common::{envelope, kafka, migrate};
use deadpool_postgres::Pool;
use jiff::Timestamp;
use rdkafka::message::Headers as _;
use testkit::Database;
use testkit::kafka::Raw;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::model::{Cleared, Refusal, Served, TABLES, Taste, Taster, kitchen, taster};

/// Patience of one condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) settings: Settings,
    /// With namespace.
    pub(crate) topic: String,
    pub(crate) pool: Pool,
    pub(crate) kitchen: Codec,
    _database: Database,
}

/// A record of the kitchen, before it is produced.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: Uuid,
    pub(crate) key: String,
    pub(crate) value: Bytes,
    headers: Vec<(String, Vec<u8>)>,
}

/// What came of a command.
pub(crate) type Tastes = Result<Outcome<Taster>, SubmitError<Refusal>>;

/// One copy of the service.
pub(crate) struct Copy {
    pub(crate) model: Arc<Taster>,
    pub(crate) running: Running<Taster>,
    shutdown: CancellationToken,
}

impl World {
    /// With one partition, so that all records are in one order.
    pub(crate) async fn new() -> Self {
        Self::with_partitions(1).await
    }

    pub(crate) async fn with_partitions(partitions: i32) -> Self {
        let database = testkit::database(async |client| {
            migrate::apply(client, "common", service::MIGRATIONS).await.unwrap();
            client.batch_execute(TABLES).await.unwrap();
        })
        .await;
        let namespace = testkit::namespace();
        let settings = Settings {
            database_url: database.url().to_owned(),
            pool_size: 6,
            kafka: kafka::Settings {
                brokers: testkit::kafka::brokers().await.to_owned(),
                namespace: Some(namespace),
                properties: testkit::kafka::properties(),
            },
            registry: RegistrySettings {
                url: testkit::registry().await.to_owned(),
                basic: None,
                token: None,
            },
            retry: RetryPolicy {
                attempts_max: 1_000,
                first_wait: Duration::from_millis(20),
                wait_max: Duration::from_millis(200),
                ..RetryPolicy::default()
            },
            breaker: common::breaker::Settings::default(),
            clock_interval: Duration::from_millis(20),
            deadline_grace: Duration::ZERO,
            schemas: Default::default(),
        };
        let named = |name: &str| settings.kafka.named(name);
        let (topic, own) = (named(kitchen::Event::TOPIC), named(taster::Event::TOPIC));
        let letters = format!("{topic}.taster.dlq");
        testkit::kafka::create_topics(&[&topic, &own, &letters], partitions).await;
        let registry = Registry::new(&settings.registry).unwrap();
        for (topic, types) in [(&topic, kitchen::Event::TYPES), (&own, taster::Event::TYPES)] {
            for event_type in types {
                registry
                    .register(topic, event_type, "BACKWARD_TRANSITIVE")
                    .await
                    .unwrap();
            }
        }
        Self {
            kitchen: Codec::pin::<kitchen::Event>(registry, &topic, &Default::default())
                .await
                .unwrap(),
            pool: database.pool(4),
            topic,
            settings,
            _database: database,
        }
    }

    /// As many attempts as a test has patience for.
    pub(crate) fn retrying(mut self, attempts_max: i32) -> Self {
        self.settings.retry.attempts_max = attempts_max;
        self
    }

    pub(crate) async fn start(&self) -> Copy {
        let (model, shutdown) = (Arc::new(Taster::default()), CancellationToken::new());
        let running = service::start(model.clone(), self.settings.clone(), shutdown.clone())
            .await
            .unwrap();
        Copy {
            model,
            running,
            shutdown,
        }
    }

    pub(crate) fn served(&self, dish: &str, version: i64, amount: i64) -> Record {
        let served = Served {
            dish: dish.to_owned(),
            amount,
        };
        self.record(dish, version, &served.into())
    }

    pub(crate) fn cleared(&self, dish: &str, version: i64) -> Record {
        self.record(dish, version, &Cleared { dish: dish.to_owned() }.into())
    }

    fn record(&self, dish: &str, version: i64, event: &kitchen::Event) -> Record {
        let id = Uuid::now_v7();
        let (schema_id, payload) = self.kitchen.encode(event).unwrap();
        let recorded = Recorded {
            stream_id: StreamId::new(dish),
            envelope: Envelope {
                id,
                event_type: event.event_type().name.into(),
                source: "kitchen".into(),
                subject: dish.into(),
                occurred_at: Timestamp::now(),
                correlation_id: id,
                causation_id: id,
                traceparent: None,
                stream_version: version,
                position: version,
            },
            schema_id,
            payload: payload.clone(),
        };
        let headers = envelope::headers(&recorded, "kitchen");
        let headers = headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.unwrap().to_vec()));
        Record {
            id,
            key: dish.to_owned(),
            value: payload,
            headers: headers.collect(),
        }
    }

    /// Produces in this order; where each went.
    pub(crate) async fn produce(&self, records: &[&Record]) -> Vec<(i32, i64)> {
        let headers: Vec<Vec<(&str, &[u8])>> = records
            .iter()
            .map(|record| {
                record
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_slice()))
                    .collect()
            })
            .collect();
        let raw: Vec<Raw<'_>> = records
            .iter()
            .zip(&headers)
            .map(|(record, headers)| Raw {
                partition: None,
                key: Some(record.key.as_bytes()),
                value: Some(&record.value),
                headers,
            })
            .collect();
        testkit::kafka::produce(&self.topic, &raw).await
    }

    /// What was tasted of `dish`, in order.
    pub(crate) async fn tasted(&self, dish: &str) -> Vec<i64> {
        let client = self.pool.get().await.unwrap();
        let rows = client
            .query("SELECT amount FROM tastings WHERE dish = $1 ORDER BY id", &[&dish])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until exactly this was tasted of `dish`.
    pub(crate) async fn has_tasted(&self, dish: &str, amounts: &[i64]) {
        let what = format!("{dish} is tasted as {amounts:?}");
        testkit::eventually(&what, PATIENCE, async || {
            let tasted = self.tasted(dish).await;
            if tasted == amounts { Ok(()) } else { Err(tasted) }
        })
        .await;
    }

    /// Waits until the committed offsets are at the topic's end: all that was produced is dealt with, or parked.
    pub(crate) async fn caught_up(&self) {
        testkit::eventually("all records are dealt with", PATIENCE, async || {
            let ends = kafka::log_ends(&self.settings.kafka, std::slice::from_ref(&self.topic))
                .await
                .unwrap();
            let client = self.pool.get().await.unwrap();
            let ours = common::inbox::offsets(&client, "taster").await.unwrap();
            let ours: Vec<(i32, i64)> = ours
                .into_iter()
                .map(|((_, partition), next)| (partition, next))
                .collect();
            let open: Vec<_> = ends
                .iter()
                .filter(|end| end.end > 0 && !ours.contains(&(end.partition, end.end)))
                .collect();
            if open.is_empty() {
                Ok(())
            } else {
                Err(format!("{ours:?} of {open:?}"))
            }
        })
        .await;
    }

    pub(crate) async fn forbid(&self, dish: &str) {
        self.execute("INSERT INTO forbidden VALUES ($1)", dish).await;
    }

    pub(crate) async fn allow(&self, dish: &str) {
        self.execute("DELETE FROM forbidden WHERE dish = $1", dish).await;
    }

    async fn execute(&self, statement: &str, dish: &str) {
        let client = self.pool.get().await.unwrap();
        client.execute(statement, &[&dish]).await.unwrap();
    }

    /// A single number that a query over the taster's database gives.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        let client = self.pool.get().await.unwrap();
        client.query_one(query, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn parked_keys(&self) -> Vec<common::parking::ParkedKey> {
        let client = self.pool.get().await.unwrap();
        common::parking::parked_keys(&client, None, 100).await.unwrap()
    }

    pub(crate) async fn dead_letters(&self) -> Vec<common::parking::DeadLetter> {
        let client = self.pool.get().await.unwrap();
        let mut letters = common::parking::dead_letters(&client, &Filter::default(), i64::MAX, 100)
            .await
            .unwrap();
        letters.reverse();
        letters
    }

    /// Waits for so many dead letters.
    pub(crate) async fn has_dead_letters(&self, count: usize) -> Vec<common::parking::DeadLetter> {
        testkit::eventually("the dead letters are there", PATIENCE, async || {
            let letters = self.dead_letters().await;
            if letters.len() == count {
                Ok(letters)
            } else {
                Err(letters.len())
            }
        })
        .await
    }

    /// The value of the counter `name` for this world's topic.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let series = format!(r#"{name}{{consumer="taster",topic="{}"}} "#, self.topic);
        let text = common::telemetry::metrics().render();
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

impl Record {
    /// The same event with other bytes.
    pub(crate) fn with_value(mut self, value: &'static [u8]) -> Self {
        self.value = Bytes::from_static(value);
        self
    }

    /// The same record without its identity.
    pub(crate) fn without_envelope(mut self) -> Self {
        self.headers.clear();
        self
    }
}

impl Copy {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.join().await.unwrap();
    }

    /// Asks the taster to taste, and waits for what comes of it.
    pub(crate) fn tastes(&self, dish: &str, amount: i64) -> impl Future<Output = Tastes> + Send + 'static + use<> {
        let (commands, stream, command) = (
            self.running.commands.clone(),
            StreamId::new(dish),
            Taste::new(dish, amount),
        );
        let id = Uuid::now_v7();
        let cause = Cause {
            id,
            correlation_id: id,
            traceparent: None,
        };
        async move { commands.submit(stream, command, cause, Expect::Any).await }
    }

    /// Commands that came to each transaction so far.
    pub(crate) fn batches(&self) -> Vec<usize> {
        self.model.batches.lock().unwrap().clone()
    }

    /// Waits until so many transactions have come to the gate.
    pub(crate) async fn at_the_gate(&self, count: usize) {
        testkit::eventually("a transaction is at the gate", PATIENCE, async || {
            let batches = self.batches();
            if batches.len() >= count { Ok(()) } else { Err(batches) }
        })
        .await;
    }
}
