//! One idempotent producer, from its creation until it is given up, and what its reports do to the window.
//!
//! A report comes on librdkafka's thread and is booked there: no queue lies between an acknowledgement and the cursor.
//! After the first failure nothing more is sent through this producer: a record sent after a failed one of its key
//! would overtake it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::Counter;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer};
use tokio::sync::Notify;

use super::window::{Acknowledged, Progress, Window};
use crate::envelope;
use crate::event::Recorded;
use crate::kafka;
use crate::telemetry::names;

/// Largest record that is sent: payloads are bounded far below it when they are appended.
const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// More than the window ever has in flight, so that librdkafka's queue is never what is full.
const QUEUE_RECORDS_MAX: usize = 100_000;
/// How long records already on the wire may take to be reported when a producer is given up.
const REPORTS_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a producer was given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A record was not delivered.
    #[error("the event at position {position} was not delivered")]
    NotDelivered {
        position: String,
        #[source]
        source: KafkaError,
    },
    /// The producer cannot go on.
    #[error("the producer failed for good: {reason}")]
    Fatal {
        reason: String,
        #[source]
        source: KafkaError,
    },
    /// An offset was given out twice.
    #[error("the log of partition {partition} has lost its tail: offset {offset} was given out again")]
    LogLost { partition: i32, offset: i64 },
}

/// What the reports of a leadership's producers change. It outlives each of them.
#[derive(Debug)]
pub(super) struct InFlight {
    service: &'static str,
    window: Mutex<Window>,
    failure: Mutex<Option<Failure>>,
    unreachable: AtomicBool,
    room_wanted: AtomicBool,
    /// Something failed, or the window has room or is empty, where somebody waits for that.
    pub(super) changed: Notify,
    published: Counter,
}

impl InFlight {
    pub(super) fn new(service: &'static str, progress: Progress) -> Arc<Self> {
        Arc::new(Self {
            service,
            window: Mutex::new(Window::new(progress)),
            failure: Mutex::new(None),
            unreachable: AtomicBool::new(false),
            room_wanted: AtomicBool::new(false),
            changed: Notify::new(),
            published: metrics::counter!(names::RELAY_PUBLISHED_TOTAL, "service" => service),
        })
    }

    pub(super) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the producer must be given up, if it must.
    pub(super) fn take_failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the window has room; if not, [`changed`](Self::changed) is notified when much of it is free.
    pub(super) fn has_room(&self) -> bool {
        // First say that it is wanted, then look: an acknowledgement in between wakes us for nothing, never too late.
        self.room_wanted.store(true, Ordering::Release);
        let room = self.window().has_room();
        if room {
            self.room_wanted.store(false, Ordering::Release);
        }
        room
    }

    fn fail(&self, failure: Failure) {
        // The first failure is the cause; what follows it are its consequences.
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(failure);
        self.changed.notify_one();
    }

    fn acknowledge(&self, ticket: usize, partition: i32, offset: i64) {
        let mut window = self.window();
        let acknowledged = window.acknowledge(ticket, partition, offset);
        let wake = window.is_empty() || (window.has_much_room() && self.room_wanted.swap(false, Ordering::AcqRel));
        drop(window);
        match acknowledged {
            Acknowledged::Recorded => self.published.increment(1),
            Acknowledged::Regressed => self.fail(Failure::LogLost { partition, offset }),
            Acknowledged::Stale => {}
        }
        if wake {
            self.changed.notify_one();
        }
        if self.unreachable.load(Ordering::Relaxed) && self.unreachable.swap(false, Ordering::Relaxed) {
            tracing::info!(service = self.service, "Kafka acknowledges again; publishing goes on");
        }
    }
}

struct Context {
    in_flight: Arc<InFlight>,
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::quiet_log(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                self.in_flight.fail(Failure::Fatal {
                    reason: reason.to_owned(),
                    source: error,
                });
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if !self.in_flight.unreachable.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        service = self.in_flight.service,
                        reason,
                        "Kafka cannot be reached; events stay in the database until it can"
                    );
                }
            }
            _ => tracing::debug!(service = self.in_flight.service, reason, "librdkafka"),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        match result {
            Ok(message) => self
                .in_flight
                .acknowledge(ticket, message.partition(), message.offset()),
            Err((error, message)) => {
                let position = position_of(message.headers());
                self.in_flight.fail(Failure::NotDelivered {
                    position,
                    source: error.clone(),
                });
            }
        }
    }
}

fn position_of(headers: Option<&impl rdkafka::message::Headers>) -> String {
    headers
        .and_then(|headers| headers.iter().find(|header| header.key == envelope::names::POSITION))
        .and_then(|header| header.value)
        .map_or_else(|| "?".to_owned(), |value| String::from_utf8_lossy(value).into_owned())
}

/// What every producer of this process is made with: order and durability are not for the properties to change.
pub(super) fn producer_config(settings: &kafka::Settings) -> ClientConfig {
    let mut config = kafka::client_config(settings);
    let tunable = [
        ("linger.ms", "0".to_owned()),
        ("compression.type", "lz4".to_owned()),
        ("message.max.bytes", RECORD_BYTES_MAX.to_string()),
        ("max.in.flight.requests.per.connection", "5".to_owned()),
    ];
    for (property, value) in tunable {
        if !settings.properties.contains_key(property) {
            config.set(property, value);
        }
    }
    for other_name in ["request.required.acks", "delivery.timeout.ms"] {
        config.remove(other_name);
    }
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", QUEUE_RECORDS_MAX.to_string());
    config
}

/// A producer that sends events.
pub(super) struct Publisher {
    producer: Option<ThreadedProducer<Context>>,
    in_flight: Arc<InFlight>,
    topic: String,
    service: &'static str,
}

impl Publisher {
    pub(super) fn new(
        settings: &kafka::Settings,
        service: &'static str,
        topic: &str,
        in_flight: &Arc<InFlight>,
    ) -> Result<Self, kafka::Error> {
        let mut config = producer_config(settings);
        // An event is never given up: it waits in the window, and in the table, until Kafka has it.
        config.set("message.timeout.ms", "0");
        // Else librdkafka goes on behind a record that Kafka refused, under a new epoch, until it is told to stop.
        config.set("enable.gapless.guarantee", "true");
        let context = Context {
            in_flight: in_flight.clone(),
        };
        let producer = config.create_with_context(context).map_err(kafka::Error::Client)?;
        Ok(Self {
            producer: Some(producer),
            in_flight: in_flight.clone(),
            topic: topic.to_owned(),
            service,
        })
    }

    /// Hands one event to the producer; `false` if it takes no more.
    pub(super) fn send(&self, recorded: &Recorded) -> bool {
        let Some(producer) = &self.producer else { return false };
        let position = recorded.envelope.position;
        let ticket = self.in_flight.window().push(position, recorded.payload.len());
        let record = BaseRecord::with_opaque_to(&self.topic, ticket)
            .key(recorded.stream_id.key())
            .payload(&recorded.payload[..])
            .timestamp(recorded.envelope.occurred_at.as_millisecond())
            .headers(envelope::headers(recorded, self.service));
        let Err((error, _)) = producer.send(record) else {
            return true;
        };
        self.in_flight.window().take_back();
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
            self.in_flight.fail(Failure::NotDelivered {
                position: position.to_string(),
                source: error,
            });
        }
        false
    }

    /// Gives the producer up: what it has not sent is dropped, what is on the wire is awaited, and all is reported.
    pub(super) async fn close(mut self) {
        let Some(producer) = self.producer.take() else { return };
        producer.purge(PurgeConfig::default().queue());
        let closed = tokio::task::spawn_blocking(move || {
            if producer.flush(REPORTS_TIMEOUT).is_err() {
                producer.purge(PurgeConfig::default().queue().inflight());
                // Purged records are reported at once; the time is for the reports to be read.
                let _ = producer.flush(REPORTS_TIMEOUT);
            }
        });
        if let Err(error) = closed.await {
            tracing::warn!(
                service = self.service,
                error = &error as &dyn std::error::Error,
                "a producer closed badly"
            );
        }
    }
}

impl Drop for Publisher {
    /// The lease is lost: nothing more may leave. The rest of the closing blocks, so it is done elsewhere.
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            producer.purge(PurgeConfig::default().queue().inflight());
            std::thread::spawn(move || drop(producer));
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::relay::outbox::tests::rows;

    const TOPIC: &str = "counter.events";
    const PATIENCE: Duration = Duration::from_secs(30);
    /// What a producer that goes on under a new epoch needs, many times over.
    const TIME_TO_GO_ON: Duration = Duration::from_secs(1);

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_follows_a_refused_record_even_before_the_producer_is_given_up() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let settings = kafka::Settings {
            brokers: cluster.bootstrap_servers(),
            ..kafka::Settings::default()
        };
        let in_flight = InFlight::new("counter", Progress::default());
        let publisher = Publisher::new(&settings, "counter", TOPIC, &in_flight).unwrap();
        let [first, refused, behind @ ..] = &rows(&[1, 2, 3, 4, 5, 6, 7, 8, 9])[..] else {
            unreachable!()
        };
        assert!(publisher.send(first));
        testkit::eventually("the first record is acknowledged", PATIENCE, async || {
            in_flight.window().is_empty()
        })
        .await;

        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH;
        cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
        assert!(publisher.send(refused));
        testkit::eventually("the refusal is reported", PATIENCE, async || in_flight.take_failure()).await;
        for row in behind {
            publisher.send(row);
        }
        tokio::time::sleep(TIME_TO_GO_ON).await;

        let ends = kafka::log_ends(&settings, &[TOPIC.to_owned()]).await.unwrap();
        assert_eq!(ends[0].end, 1, "records were written behind the one that was refused");
    }
}
