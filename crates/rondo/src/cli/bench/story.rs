//! Events of finished orders, as the services' own code decides them, in a topic that is filled with them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use common::codec::Codec;
use common::envelope;
use common::event::{Cause, Envelope, EventSet as _, Recorded, StreamId, derived_id};
use common::kafka::{self, TopicSpec, ensure_topics};
use common::model::Model;
use indicatif::ProgressBar;
use inventory::goods::{Line as Goods, Lines, Sku};
use inventory::stock::{Level, Stock};
use jiff::{SignedDuration, Timestamp};
use orders::domain::{
    Answer, Authorization, Capture, Currency, CustomerId, Line, PaymentAnswer, Request, Reservation, SourceId,
    StockAnswer, total_minor,
};
use payments::gateway::{Method, PaymentId};
use payments::money::Money;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use uuid::Uuid;

use crate::cli::{Target, output};

/// Orders that are under way at once, so that their events lie among each other's as they do in life.
const UNDER_WAY: u64 = 200;
/// Partitions of the topic.
const PARTITIONS: i32 = 4;
/// SKUs that orders draw from.
const SKUS: u64 = 1_000;
/// How long the broker may take for the last records.
const FLUSH: Duration = Duration::from_secs(60);
/// How long the broker may take to drop the topic.
const DELETE: Duration = Duration::from_secs(30);

/// A service whose part of an order can be told.
pub(super) trait Story: Model {
    /// What was there before the first order.
    fn before() -> Vec<(StreamId, Self::Command)>;
    /// What is asked of it during order number `number`, in steps; one that ends well.
    fn order(number: u64) -> Vec<Self::Command>;
    /// The rows that its decisions look at.
    fn rows() -> Self::Rows;
}

fn sku(number: u64) -> String {
    format!("bench-{:04}", number % SKUS)
}

impl Story for orders::service::Orders {
    fn before() -> Vec<(StreamId, Self::Command)> {
        Vec::new()
    }

    fn order(number: u64) -> Vec<Self::Command> {
        use orders::domain::Command;
        let line = |at: u64| Line {
            sku: orders::domain::Sku::new(&sku(number + at)).expect("it is short and plain"),
            quantity: 1,
            unit_price_minor: 1_250,
        };
        let lines = vec![line(0), line(7)];
        let source = |at: u64| SourceId(Uuid::from_u64_pair(number, at));
        let note = |answer, at| Command::Note {
            answer,
            source: source(at),
        };
        let request = Request {
            customer_id: CustomerId::new(&format!("customer-{}", number % 10_000)).expect("it is short and plain"),
            currency: Currency::new("EUR").expect("it is a currency"),
            total_minor: total_minor(&lines).expect("it is small"),
            lines,
            payment_method: "tok_visa".into(),
            reference: None,
            channel: "web".into(),
            note: None,
            tags: Vec::new(),
            idempotency_key: Some(format!("bench-{number}").into()),
            request_hash: format!("{number:064x}").into(),
        };
        vec![
            Command::Place {
                request: Arc::new(request),
                decide_within: SignedDuration::from_secs(60),
                settle_within: SignedDuration::from_secs(600),
            },
            note(
                Answer::Payment(PaymentAnswer::Authorization(Authorization::Authorized)),
                1,
            ),
            note(Answer::Stock(StockAnswer::Reservation(Reservation::Reserved)), 2),
            note(Answer::Payment(PaymentAnswer::Capture(Capture::Captured)), 3),
            note(Answer::Stock(StockAnswer::Committed), 4),
        ]
    }

    fn rows() {}
}

impl Story for payments::Payments {
    fn before() -> Vec<(StreamId, Self::Command)> {
        Vec::new()
    }

    fn order(number: u64) -> Vec<Self::Command> {
        use payments::domain::{Command, Payment};
        let euro = payments::money::Currency::parse("EUR").expect("it is a currency");
        vec![
            Command::Authorize {
                payment: Payment {
                    id: PaymentId::recorded(&format!("pay_{number:016x}")),
                    amount: Money::new(2_500, euro).expect("it is positive"),
                },
                method: Method::recorded("tok_visa"),
            },
            Command::Capture,
        ]
    }

    fn rows() {}
}

impl Story for inventory::Inventory {
    fn before() -> Vec<(StreamId, Self::Command)> {
        let count = |number| {
            let name = sku(number);
            let command = inventory::domain::Command::Adjust {
                sku: Sku::recorded(&name),
                name: name.as_str().into(),
                unit_price_minor: 1_250,
                on_hand: 1_000_000_000,
            };
            (StreamId::of_kind(contracts::inventory::SKU_STREAM, &name), command)
        };
        (0..SKUS).map(count).collect()
    }

    fn order(number: u64) -> Vec<Self::Command> {
        use inventory::domain::Command;
        let line = |at: u64| Goods {
            sku: Sku::recorded(&sku(number + at)),
            quantity: 1,
        };
        vec![Command::Reserve(Lines::sum([line(0), line(7)])), Command::Commit]
    }

    fn rows() -> Stock {
        Stock::new(std::iter::empty::<(Sku, Level)>(), [])
    }
}

/// A topic of its own, beside the service's.
pub(super) async fn create_topic<M: Model>(kafka: &kafka::Settings) -> Result<String> {
    let name = kafka.named(&format!("bench-{}.{}", Uuid::new_v4().simple(), M::Event::TOPIC));
    let spec = TopicSpec {
        name: name.clone(),
        partitions: PARTITIONS,
        config: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
    };
    ensure_topics(kafka, &[spec])
        .await
        .context("the topic to measure with cannot be created")?;
    Ok(name)
}

/// Drops that topic.
pub(super) async fn delete_topic(kafka: &kafka::Settings, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = kafka::client_config(kafka).create()?;
    let options = AdminOptions::new().operation_timeout(Some(DELETE));
    let results = admin.delete_topics(&[topic], &options).await?;
    for result in results {
        if let Err((topic, code)) = result {
            eprintln!("! the topic {topic} could not be dropped: {code}");
        }
    }
    Ok(())
}

/// Fills `topic` with `events` events, or the few more that the last order takes.
pub(super) async fn fill<M: Story>(
    model: &M,
    topic: &str,
    events: u64,
    kafka: &kafka::Settings,
    target: &Target,
) -> Result<()> {
    let own = kafka.named(M::Event::TOPIC);
    let codec = Codec::pin::<M::Event>(target.codec()?.registry().clone(), &own, &BTreeMap::new())
        .await
        .context("the schemas are not in order")?;
    let mut config = kafka::client_config(kafka);
    config
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "200000");
    let bar = output::progress(
        Some(events),
        "{spinner} {bar:30.cyan} filling the log: {pos} of {len}, {per_sec}",
    );
    let mut writer = Writer {
        model,
        codec,
        producer: config.create()?,
        topic,
        position: 0,
        rows: M::rows(),
        // The past, so that nothing of it lies ahead of the clock.
        clock: Timestamp::now() - SignedDuration::from_hours(24 * 30),
        bar,
    };
    tokio::task::block_in_place(|| writer.write(events))
}

/// What fills a topic.
struct Writer<'a, M: Story> {
    model: &'a M,
    codec: Codec,
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: &'a str,
    position: i64,
    rows: M::Rows,
    clock: Timestamp,
    bar: ProgressBar,
}

/// One stream under way.
struct Told<M: Model> {
    stream: StreamId,
    state: M::State,
    version: i64,
    steps: std::vec::IntoIter<M::Command>,
}

impl<M: Story> Writer<'_, M> {
    fn write(&mut self, events: u64) -> Result<()> {
        for (stream, command) in M::before() {
            let mut told = Told::<M>::of(stream, vec![command]);
            self.step(&mut told)?;
        }
        let mut number = 0;
        while self.position.cast_unsigned() < events {
            let mut under_way: Vec<Told<M>> = (number..number + UNDER_WAY)
                .map(|number| {
                    let id = Uuid::from_u64_pair(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), number);
                    Told::of(StreamId::new(id.to_string()), M::order(number))
                })
                .collect();
            number += UNDER_WAY;
            while !under_way.is_empty() {
                let mut left = Vec::with_capacity(under_way.len());
                for mut told in under_way {
                    if self.step(&mut told)? {
                        left.push(told);
                    }
                }
                under_way = left;
            }
            self.bar.set_position(self.position.cast_unsigned());
        }
        self.producer.flush(FLUSH)?;
        self.bar.finish_and_clear();
        Ok(())
    }

    /// Decides the stream's next step and sends what follows; whether there may be another.
    fn step(&mut self, told: &mut Told<M>) -> Result<bool> {
        let Some(command) = told.steps.next() else {
            return Ok(false);
        };
        self.clock += SignedDuration::from_micros(100);
        let events = self
            .model
            .decide(&told.stream, &told.state, &mut self.rows, &command, self.clock)
            .with_context(|| format!("{} refuses its own story", M::NAME))?;
        let cause = Cause {
            id: Uuid::from_u64_pair(self.position.cast_unsigned(), 0),
            correlation_id: Uuid::from_u64_pair(0, self.position.cast_unsigned()),
            traceparent: None,
        };
        for (ordinal, event) in events.into_iter().enumerate() {
            let (schema_id, payload) = self.codec.encode(&event)?;
            self.position += 1;
            told.version += 1;
            let envelope = Envelope {
                id: derived_id(M::NAME, cause.id, ordinal),
                event_type: event.event_type().name.into(),
                source: M::NAME.into(),
                subject: told.stream.key().into(),
                occurred_at: self.clock,
                correlation_id: cause.correlation_id,
                causation_id: cause.id,
                traceparent: None,
                stream_version: told.version,
                position: self.position,
            };
            self.model.evolve(&mut told.state, &event, &envelope);
            self.send(&Recorded {
                stream_id: told.stream.clone(),
                envelope,
                schema_id,
                payload,
            })?;
        }
        Ok(true)
    }

    fn send(&self, recorded: &Recorded) -> Result<()> {
        let mut record = BaseRecord::to(self.topic)
            .key(recorded.stream_id.key())
            .payload(&*recorded.payload)
            .headers(envelope::headers(recorded, M::NAME));
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error).context("the log cannot be filled"),
            }
        }
    }
}

impl<M: Story> Told<M> {
    fn of(stream: StreamId, steps: Vec<M::Command>) -> Self {
        Self {
            stream,
            state: M::State::default(),
            version: 0,
            steps: steps.into_iter(),
        }
    }
}
