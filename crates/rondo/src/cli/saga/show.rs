//! `rondo saga show`: one order, read from the three event stores.
//!
//! Orders is read last. Whatever it has written down of the others' answers is then in what was read of the others, so
//! that no answer seems to come from nowhere.

use anyhow::{Context as _, Result, bail};
use common::codec::Codec;
use common::event::{Recorded, StreamId};
use common::parking::{self, DeadLetter, ParkedKey};
use common::store;
use contracts::choreography::By;
use contracts::service::SERVICES;
use deadpool_postgres::Client;
use jiff::Timestamp;
use orders::domain::{self, Order};
use orders::wire;
use serde_json::{Value, json};
use uuid::Uuid;

use super::expectation::{Expectation, expected};
use super::timeline::{Because, Moment, arranged, because, clock, in_short};
use crate::cli::output::{self, Table};
use crate::cli::target::remember_schemas;
use crate::cli::{Output, Target, Verdict};

/// Most parked keys of one order that are shown; it has at most one a topic and consumer.
const PARKED_MAX: i64 = 16;

/// All that is known of one order.
struct Saga {
    order_id: Uuid,
    /// As the order's own events fold; `None` if orders does not know it.
    order: Option<Order>,
    moments: Vec<Moment>,
    expected: Vec<Expectation>,
    parked: Vec<(&'static str, ParkedKey)>,
    dead_letters: Vec<(&'static str, DeadLetter)>,
    now: Timestamp,
}

/// Shows the order; wanting if it is stuck, or something about it is overdue or set aside.
pub(super) async fn run(target: &Target, order_id: Uuid) -> Result<Verdict> {
    let saga = read(target, order_id).await?;
    if saga.moments.is_empty() && saga.dead_letters.is_empty() && saga.parked.is_empty() {
        bail!("no service knows an order {order_id}; `rondo saga list` lists those there are");
    }
    match target.output() {
        Output::Json => output::json(&saga.as_json()),
        Output::Table => saga.print(),
    }
    Ok(Verdict::of(saga.is_well()))
}

async fn read(target: &Target, order_id: Uuid) -> Result<Saga> {
    let codec = target.codec()?;
    let stream = StreamId::new(order_id.to_string());
    let mut saga = Saga {
        order_id,
        order: None,
        moments: Vec::new(),
        expected: Vec::new(),
        parked: Vec::new(),
        dead_letters: Vec::new(),
        now: Timestamp::now(),
    };
    for service in SERVICES.iter().rev() {
        let client = target.database(service.name).await?;
        remember_schemas(&codec, &client).await?;
        // The cursor first: what it has passed is in Kafka, whatever happens meanwhile.
        let published_to = published_to(&client).await?;
        let recorded = store::load(&client, service.name, &[&stream]).await?;
        for event in recorded {
            saga.take(&codec, service.name, event, published_to).await;
        }
        let parked = parking::parked_keys(&client, Some(stream.key()), PARKED_MAX).await?;
        saga.parked.extend(parked.into_iter().map(|key| (service.name, key)));
        let dead = parking::dead_letters_of(&client, stream.key()).await?;
        saga.dead_letters
            .extend(dead.into_iter().map(|letter| (service.name, letter)));
    }
    saga.moments = arranged(std::mem::take(&mut saga.moments));
    saga.expected = expected(&saga.moments, saga.now);
    Ok(saga)
}

/// How far a service's events are acknowledged by Kafka.
async fn published_to(client: &Client) -> Result<i64> {
    // The relay's own statements belong to the running service; this one only looks.
    let row = client
        .query_one("SELECT cursor FROM relay", &[])
        .await
        .context("the relay's cursor cannot be read")?;
    Ok(row.get(0))
}

impl Saga {
    async fn take(&mut self, codec: &Codec, service: &'static str, recorded: Recorded, published_to: i64) {
        let data = match codec.to_json(&recorded.payload).await {
            Ok(data) => data,
            Err(error) => Value::String(format!("cannot be decoded: {error}")),
        };
        if service == "orders" {
            let event = codec.decode::<contracts::orders::Event>(&recorded.payload).await.ok();
            if let Some(event) = event.as_ref().and_then(wire::read) {
                self.order = domain::evolve(self.order.take(), &event, recorded.envelope.occurred_at);
            }
        }
        self.moments.push(Moment {
            service,
            published: recorded.envelope.position <= published_to,
            deadline: self
                .order
                .as_ref()
                .filter(|_| service == "orders")
                .and_then(domain::deadline),
            envelope: recorded.envelope,
            data,
        });
    }

    fn is_well(&self) -> bool {
        self.stuck_reason().is_none()
            && self.expected.iter().all(|expectation| !expectation.overdue)
            && self.parked.is_empty()
            && self.dead_letters.iter().all(|(_, letter)| letter.status != "dead")
    }

    fn stuck_reason(&self) -> Option<&str> {
        self.order.as_ref().and_then(|order| order.phase.stuck_reason())
    }

    fn started_at(&self) -> Option<Timestamp> {
        self.moments.first().map(|moment| moment.envelope.occurred_at)
    }

    fn elapsed_ms(&self, at: Timestamp) -> i64 {
        self.started_at()
            .map_or(0, |start| at.as_millisecond() - start.as_millisecond())
    }

    fn print(&self) {
        self.print_head();
        self.print_timeline();
        self.print_expected();
        self.print_set_aside();
    }

    fn print_head(&self) {
        let id = output::bold(self.order_id);
        let Some(order) = &self.order else {
            output::line(format_args!(
                "{id}  {}",
                output::bad("orders knows no such order, others do")
            ));
            return;
        };
        let took = match order.phase.has_ended() {
            true => format!("after {}", output::span(self.elapsed_ms(order.since))),
            false => format!(
                "since {}",
                output::span(self.now.as_millisecond() - order.since.as_millisecond())
            ),
        };
        let because = order
            .phase
            .reason()
            .map(|reason| format!(" ({})", reason.name()))
            .unwrap_or_default();
        output::line(format_args!(
            "{id}  {}{because} {took}",
            output::status(order.phase.name())
        ));
        let request = &order.request;
        let reference = request
            .reference
            .as_deref()
            .map(|reference| format!(" · {reference}"))
            .unwrap_or_default();
        output::line(format_args!(
            "{}{reference} · {} · {}",
            request.customer_id.as_str(),
            output::money(request.total_minor, request.currency.code()),
            request.payment_method
        ));
        let state = |(status, why): (&'static str, Option<&str>)| match why {
            Some(why) => format!("{status} ({why})"),
            None => status.to_owned(),
        };
        output::line(format_args!(
            "payment {} · stock {}",
            state(order.payment.status()),
            state(order.stock.status())
        ));
        if let Some(reason) = self.stuck_reason() {
            output::line(output::bad(format_args!("STUCK: {reason}")));
            output::line(format_args!("send it on with `rondo saga resume {}`", self.order_id));
        }
        output::line("");
    }

    fn print_timeline(&self) {
        let mut table = Table::new(&[">#", "time", ">ms", "service", "event", "because of", "what"]);
        for (place, moment) in self.moments.iter().enumerate() {
            let at = moment.envelope.occurred_at;
            let because = match because(&self.moments, place) {
                Because::Event(cause) => format!("{} {}", cause + 1, self.moments[cause].event()),
                Because::Outside(what) => what.to_owned(),
            };
            let unpublished = if moment.published {
                String::new()
            } else {
                format!(" {}", output::warn("not yet in Kafka"))
            };
            table.row([
                (place + 1).to_string(),
                clock(at),
                format!("+{}", self.elapsed_ms(at)),
                output::service(moment.service).to_string(),
                output::bold(moment.event()).to_string(),
                output::dim(because).to_string(),
                format!("{}{unpublished}", in_short(&moment.data)),
            ]);
        }
        table.print();
    }

    fn print_expected(&self) {
        let ended = self.order.as_ref().is_some_and(|order| order.phase.has_ended());
        if self.expected.is_empty() {
            output::line(match (ended, self.stuck_reason()) {
                (true, _) => format!("\n{}", output::good("ended; nothing more is expected")),
                (false, Some(_)) => format!("\n{}", output::bad("nothing is under way: a person has to decide")),
                (false, None) => format!("\n{}", output::warn("nothing is under way")),
            });
            return;
        }
        output::line(format_args!("\n{}", output::bold("expected next")));
        let mut table = Table::new(&["from", "about", "one of", "by"]);
        for expectation in &self.expected {
            let moment = &self.moments[expectation.place];
            let reaction = expectation.reaction;
            let who = match reaction.by {
                By::Consumer => output::service(reaction.service).to_string(),
                By::Worker => format!("{} worker", output::service(reaction.service)),
            };
            table.row([
                who,
                format!("{} {}", expectation.place + 1, moment.event()),
                reaction.produces.join(", "),
                self.by_when(expectation, moment),
            ]);
        }
        for text in table.lines() {
            output::line(format_args!("  {text}"));
        }
    }

    fn by_when(&self, expectation: &Expectation, moment: &Moment) -> String {
        let unpublished = if moment.published {
            ""
        } else {
            ", its question is not yet in Kafka"
        };
        match expectation.due {
            None => format!("no deadline runs{unpublished}"),
            Some(due) => {
                let left = due.as_millisecond() - self.now.as_millisecond();
                if expectation.overdue {
                    let late = output::span(-left);
                    output::bad(format_args!("OVERDUE by {late}{unpublished}")).to_string()
                } else {
                    format!("{}, in {}{unpublished}", clock(due), output::span(left))
                }
            }
        }
    }

    fn print_set_aside(&self) {
        for (service, key) in &self.parked {
            let next = if key.dead {
                "its head is a dead letter".to_owned()
            } else {
                format!("tried {} times, next at {}", key.attempts, clock(key.next_attempt_at))
            };
            let error = key.error.as_deref().unwrap_or("no reason recorded");
            let what = format!(
                "parked in {service}: {} of {}, {next}",
                output::counted(key.waiting.cast_unsigned(), "record"),
                key.topic
            );
            output::line(format_args!("\n{}\n  {error}", output::bad(what)));
        }
        for (service, letter) in &self.dead_letters {
            let what = format!(
                "dead letter {service}/{}: {} ({}, {})",
                letter.id,
                letter.event_type.as_deref().unwrap_or("of unknown type"),
                letter.disposition,
                letter.status
            );
            let what = if letter.status == "dead" {
                output::bad(what).to_string()
            } else {
                what
            };
            output::line(format_args!("\n{what}\n  {}", letter.error));
        }
    }

    fn as_json(&self) -> Value {
        let order = self.order.as_ref();
        json!({
            "order_id": self.order_id,
            "status": order.map(|order| order.phase.name()),
            "reason": order.and_then(|order| order.phase.reason()).map(|reason| reason.name()),
            "stuck_reason": self.stuck_reason(),
            "since": order.map(|order| order.since),
            "due_at": order.and_then(domain::deadline),
            "elapsed_ms": order.filter(|order| order.phase.has_ended()).map(|order| self.elapsed_ms(order.since)),
            "customer_id": order.map(|order| order.request.customer_id.as_str()),
            "reference": order.and_then(|order| order.request.reference.as_deref()),
            "total_minor": order.map(|order| order.request.total_minor),
            "currency": order.map(|order| order.request.currency.code()),
            "payment": order.map(|order| order.payment.status().0),
            "stock": order.map(|order| order.stock.status().0),
            "timeline": (0..self.moments.len()).map(|place| self.moment_as_json(place)).collect::<Vec<_>>(),
            "expected": self.expected.iter().map(|expectation| self.expectation_as_json(expectation)).collect::<Vec<_>>(),
            "parked": self.parked.iter().map(|(service, key)| json!({
                "service": service, "topic": key.topic, "dead": key.dead, "attempts": key.attempts,
                "waiting": key.waiting, "since": key.since, "next_attempt_at": key.next_attempt_at, "error": key.error,
            })).collect::<Vec<_>>(),
            "dead_letters": self.dead_letters.iter().map(|(service, letter)| json!({
                "id": format!("{service}/{}", letter.id), "topic": letter.record.topic, "event_type": letter.event_type,
                "event_id": letter.event_id, "disposition": letter.disposition, "status": letter.status,
                "error": letter.error, "dead_at": letter.dead_at,
            })).collect::<Vec<_>>(),
        })
    }

    fn moment_as_json(&self, place: usize) -> Value {
        let moment = &self.moments[place];
        let envelope = &moment.envelope;
        let because = match because(&self.moments, place) {
            Because::Event(cause) => json!({ "number": cause + 1, "event": self.moments[cause].event() }),
            Because::Outside(what) => json!({ "outside": what }),
        };
        json!({
            "number": place + 1,
            "at": envelope.occurred_at,
            "elapsed_ms": self.elapsed_ms(envelope.occurred_at),
            "service": moment.service,
            "event": moment.event(),
            "event_id": envelope.id,
            "causation_id": envelope.causation_id,
            "because_of": because,
            "version": envelope.stream_version,
            "position": envelope.position,
            "published": moment.published,
            "traceparent": envelope.traceparent,
            "data": moment.data,
        })
    }

    fn expectation_as_json(&self, expectation: &Expectation) -> Value {
        json!({
            "about": expectation.place + 1,
            "event": self.moments[expectation.place].event(),
            "from": expectation.reaction.service,
            "by": match expectation.reaction.by { By::Consumer => "consumer", By::Worker => "worker" },
            "one_of": expectation.reaction.produces,
            "due_at": expectation.due,
            "overdue": expectation.overdue,
        })
    }
}
