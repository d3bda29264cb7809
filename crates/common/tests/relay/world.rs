//! One service's database and topic, and what a test does to them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::event::{Envelope, Recorded, StreamId};
use common::relay::{Error, Handle, Relay, Settings};
use common::{envelope, kafka, store};
use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use testkit::Database;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Patience of one condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Partitions of a test's topic.
pub(crate) const PARTITIONS: i32 = 3;

pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) pool: Pool,
    pub(crate) settings: Settings,
}

/// One copy of the service.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) task: JoinHandle<Result<(), Error>>,
    pub(crate) shutdown: CancellationToken,
}

impl World {
    /// With a topic of three partitions on the tests' Kafka.
    pub(crate) async fn new() -> Self {
        let world = Self::on(testkit::kafka::brokers().await.to_owned()).await;
        testkit::kafka::create_topics(&[&world.settings.topic], PARTITIONS).await;
        world
    }

    /// On other brokers, where the topic is the test's to make.
    pub(crate) async fn on(brokers: String) -> Self {
        let database = testkit::database(async |client| {
            common::migrate::apply(client, "common", common::service::MIGRATIONS)
                .await
                .expect("the runtime's tables are made");
        })
        .await;
        let settings = Settings {
            service: "counter",
            topic: format!("{}.counter.events", testkit::namespace()),
            kafka: kafka::Settings {
                brokers,
                ..kafka::Settings::default()
            },
            lease: Duration::from_secs(60),
            poll: Duration::from_millis(20),
        };
        Self {
            pool: database.pool(8),
            database,
            settings,
        }
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with(self.settings.clone())
    }

    pub(crate) fn start_with(&self, settings: Settings) -> Running {
        let shutdown = CancellationToken::new();
        let url = self.database.url().to_owned();
        let (handle, task) = Relay::start(self.database.pool(4), url, settings, shutdown.clone());
        Running { handle, task, shutdown }
    }

    /// Appends an event to each of `streams` in one transaction, and returns what was recorded.
    pub(crate) async fn append(&self, streams: &[(&str, i64)]) -> Vec<Recorded> {
        let mut client = self.pool.get().await.unwrap();
        let tx = client.transaction().await.unwrap();
        let recorded = append(&tx, streams).await;
        tx.commit().await.unwrap();
        recorded
    }

    /// The positions that are committed, in order.
    pub(crate) async fn committed(&self) -> Vec<i64> {
        let rows = self
            .pool
            .get()
            .await
            .unwrap()
            .query("SELECT position FROM events ORDER BY position", &[])
            .await;
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Waits until Kafka has acknowledged everything that is committed, and the database knows it.
    pub(crate) async fn published(&self) {
        testkit::eventually("all events are acknowledged", PATIENCE, async || {
            let client = self.pool.get().await.unwrap();
            let row = client
                .query_one(
                    "SELECT cursor, (SELECT coalesce(max(position), 0) FROM events) FROM relay",
                    &[],
                )
                .await
                .unwrap();
            let (cursor, newest): (i64, i64) = (row.get(0), row.get(1));
            if cursor == newest {
                Ok(())
            } else {
                Err(format!("cursor {cursor} of {newest}"))
            }
        })
        .await;
    }

    pub(crate) async fn log(&self) -> Vec<OwnedMessage> {
        testkit::kafka::read_all(&self.settings.topic).await
    }

    /// Holds the topic to what is committed: every event, each stream's in order, and in each partition the first
    /// appearances in order of position. Returns how many records repeat one.
    pub(crate) async fn assert_complete(&self) -> usize {
        let mut partitions: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        let mut versions: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        let (mut all, mut repeated) = (Vec::new(), 0);
        for record in self.log().await {
            let envelope = envelope_of(&record);
            let last = versions.entry(record.key().unwrap().to_vec()).or_default();
            assert!(
                envelope.stream_version <= *last + 1,
                "{:?} overtakes version {last}",
                envelope
            );
            *last = envelope.stream_version.max(*last);
            let seen = partitions.entry(record.partition()).or_default();
            if seen.contains(&envelope.position) {
                repeated += 1;
                continue;
            }
            assert!(
                seen.last().is_none_or(|last| *last < envelope.position),
                "{seen:?} then {envelope:?}"
            );
            seen.push(envelope.position);
            all.push(envelope.position);
        }
        all.sort_unstable();
        assert_eq!(all, self.committed().await);
        repeated
    }
}

impl Running {
    pub(crate) async fn leads(&self) {
        testkit::eventually("this copy leads", PATIENCE, async || self.handle.status().leading).await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As if the process had been killed: nothing is handed back.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Appends in a transaction that the test commits or not.
pub(crate) async fn append(tx: &Transaction<'_>, streams: &[(&str, i64)]) -> Vec<Recorded> {
    let mut recorded: Vec<Recorded> = streams
        .iter()
        .map(|(stream, version)| event(stream, *version))
        .collect();
    let append = store::appending(&recorded.iter().collect::<Vec<_>>()).run(tx).await;
    store::place(&append.unwrap(), recorded.iter_mut());
    recorded
}

pub(crate) fn envelope_of(record: &OwnedMessage) -> Envelope {
    envelope::from_record(record.headers(), record.key()).unwrap()
}

fn event(stream: &str, version: i64) -> Recorded {
    let id = Uuid::now_v7();
    let stream_id = StreamId::of_kind("counter", stream);
    Recorded {
        envelope: Envelope {
            id,
            event_type: "Counted".into(),
            source: "counter".into(),
            subject: stream_id.key().into(),
            occurred_at: Timestamp::now(),
            correlation_id: id,
            causation_id: id,
            traceparent: None,
            stream_version: version,
            position: 0,
        },
        stream_id,
        schema_id: 7,
        payload: Bytes::from(format!("\0\0\0\0\u{7}{stream} {version}")),
    }
}
