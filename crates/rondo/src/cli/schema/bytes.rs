//! `schema check --bytes`: the newest schemas read what production has written.
//!
//! Each datum is resolved from the schema that its id names to the candidate, the newest version of its event; for this
//! build's own schemas its wire type reads it, too. A record that not even its own writer's schema reads is broken, which
//! no candidate can help: it is listed and does not count.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::Result;
use avro::{Defaults, Resolution};
use common::codec::{self, DecodeError, Registry, WriterSchema};
use common::event::EventSet as _;
use contracts::{inventory, orders, payments};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::catalogue::{Catalogue, Event};
use super::sources::{self, Found, Place, Sink};
use crate::cli::Target;
use crate::cli::output::{self, Table, bad, bold, dim, warn};

/// Kinds of failure that are told apart; more are counted together.
const FAILURES_MAX: usize = 1_000;
/// Places that are named of one kind of failure.
const PLACES_MAX: usize = 5;

/// What is to be read.
pub(super) struct Wanted<'a> {
    pub(super) topics: &'a [String],
    pub(super) dead_letters: bool,
    pub(super) sample: Option<u64>,
}

/// What reading came to.
#[derive(Debug)]
pub(super) struct Read {
    /// Source and records.
    sources: Vec<(String, u64)>,
    failures: BTreeMap<Failure, Places>,
    untold: u64,
    took: Duration,
}

/// One kind of failure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Failure {
    /// Whether the candidate is to blame: its writer's schema reads the datum.
    refused: bool,
    source: String,
    schema_id: Option<u32>,
    event: String,
    why: String,
}

#[derive(Debug, Default)]
struct Places {
    count: u64,
    first: Vec<Place>,
}

impl Read {
    /// Whether the candidates read everything that can be read.
    pub(super) fn is_well(&self) -> bool {
        !self.failures.keys().any(|failure| failure.refused)
    }

    fn records(&self) -> u64 {
        self.sources.iter().map(|(_, records)| records).sum()
    }

    pub(super) fn json(&self) -> Value {
        let failures = self.failures.iter().map(|(failure, places)| {
            json!({
                "refused": failure.refused, "source": failure.source, "schema_id": failure.schema_id,
                "type": failure.event, "why": failure.why, "count": places.count,
                "first": places.first.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        });
        let sources = self
            .sources
            .iter()
            .map(|(source, records)| json!({ "source": source, "records": records }));
        json!({
            "records": self.records(), "seconds": self.took.as_secs_f64(), "sources": sources.collect::<Vec<_>>(),
            "failures": failures.collect::<Vec<_>>(), "failures_not_listed": self.untold,
        })
    }

    pub(super) fn print(&self) {
        let seconds = self.took.as_secs_f64().max(0.001);
        let parts: Vec<String> = self
            .sources
            .iter()
            .map(|(source, records)| format!("{source} {}", output::count(*records)))
            .collect();
        output::line(format!(
            "read {} in {:.1} s ({}/s): {}",
            output::counted(self.records(), "record"),
            seconds,
            output::count((self.records() as f64 / seconds) as u64),
            parts.join(", ")
        ));
        if self.failures.is_empty() {
            return;
        }
        let mut table = Table::new(&["", "source", ">schema", "type", ">count", "first at", "why"]);
        for (failure, places) in &self.failures {
            let first: Vec<String> = places.first.iter().map(ToString::to_string).collect();
            table.row([
                if failure.refused {
                    bad("refused").to_string()
                } else {
                    warn("broken").to_string()
                },
                failure.source.clone(),
                failure.schema_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                bold(&failure.event).to_string(),
                output::count(places.count),
                first.join(" "),
                failure.why.clone(),
            ]);
        }
        table.print();
        if self.untold > 0 {
            output::line(dim(format!(
                "and {} of other kinds",
                output::counted(self.untold, "failure")
            )));
        }
        output::line(dim(
            "broken records are those that their own writer's schema does not read either; they do not count",
        ));
    }
}

/// Reads everything that was asked for.
pub(super) async fn read(catalogue: &Catalogue, target: &Target, wanted: &Wanted<'_>) -> Result<Read> {
    let kafka = target.kafka_settings()?;
    let mut known: Vec<String> = catalogue.events.iter().map(Event::topic).collect();
    known.sort();
    known.dedup();
    let topics = sources::topics(wanted.topics, &known)?;
    let databases = sources::databases(target, &topics).await?;
    let mut reader = Reader {
        catalogue,
        registry: target.registry()?,
        remembered: HashMap::new(),
        plans: HashMap::new(),
        source: String::new(),
        failures: BTreeMap::new(),
        untold: 0,
    };
    for (_, client) in &databases {
        let schemas = common::store::schemas(client).await?;
        reader
            .remembered
            .extend(schemas.into_iter().map(|(id, _, text)| (id, text)));
    }
    let bar = output::progress(None, "{spinner} {msg} {human_pos} records, {per_sec}");
    let begun = Instant::now();
    let mut read = Vec::new();
    for topic in &topics {
        reader.source.clone_from(topic);
        bar.set_message(topic.clone());
        let count = sources::topic(&kafka, &kafka.named(topic), wanted.sample, &bar, &mut reader).await?;
        read.push((topic.clone(), count));
    }
    for (service, client) in &databases {
        reader.source = format!("{service}.events (table)");
        bar.set_message(reader.source.clone());
        let count = sources::event_store(client, wanted.sample, &bar, &mut reader).await?;
        read.push((reader.source.clone(), count));
    }
    if wanted.dead_letters {
        for (service, client) in &databases {
            reader.source = format!("{service} dead letters");
            bar.set_message(reader.source.clone());
            let count = sources::dead_letters(client, &bar, &mut reader).await?;
            read.push((reader.source.clone(), count));
        }
    }
    ProgressBar::finish_and_clear(&bar);
    Ok(Read {
        sources: read,
        failures: reader.failures,
        untold: reader.untold,
        took: begun.elapsed(),
    })
}

struct Reader<'a> {
    catalogue: &'a Catalogue,
    registry: Registry,
    /// What the databases know of ids, so that a registry that lost one does not hide its bytes.
    remembered: HashMap<u32, String>,
    plans: HashMap<u32, Plan>,
    source: String,
    failures: BTreeMap<Failure, Places>,
    untold: u64,
}

/// How data of one schema id are read.
enum Plan {
    Ready(Box<Ready>),
    /// No datum of it can be.
    Never {
        refused: bool,
        event: String,
        why: String,
    },
}

struct Ready {
    event: String,
    /// As the candidate has it.
    candidate: Resolution,
    /// As its writer wrote it.
    own: Resolution,
    /// This build's wire type, where the candidate is this build's.
    wire: Option<(String, WriterSchema)>,
}

impl Sink for Reader<'_> {
    fn take<'b>(&'b mut self, records: &'b [Found]) -> BoxFuture<'b, Result<()>> {
        async move {
            for record in records {
                let (id, datum) = match codec::split(&record.value) {
                    Ok(parts) => parts,
                    Err(error) => {
                        self.fail(None, String::new(), false, error.to_string(), record.place);
                        continue;
                    }
                };
                if !self.plans.contains_key(&id) {
                    let plan = self.plan(id).await?;
                    self.plans.insert(id, plan);
                }
                let failed = match &self.plans[&id] {
                    Plan::Never { refused, event, why } => Some((*refused, event.clone(), why.clone())),
                    Plan::Ready(ready) => {
                        let verdict = ready.judge(datum);
                        verdict.err().map(|(refused, why)| (refused, ready.event.clone(), why))
                    }
                };
                if let Some((refused, event, why)) = failed {
                    self.fail(Some(id), event, refused, why, record.place);
                }
            }
            Ok(())
        }
        .boxed()
    }
}

impl Reader<'_> {
    async fn plan(&self, id: u32) -> Result<Plan> {
        let broken = |why: String| Plan::Never {
            refused: false,
            event: String::new(),
            why,
        };
        let text = match self.remembered.get(&id) {
            Some(text) => text.clone(),
            None => match self.registry.schema_text(id).await {
                Ok(text) => text,
                Err(error @ DecodeError::RegistryUnavailable { .. }) => return Err(error.into()),
                Err(error) => return Ok(broken(error.to_string())),
            },
        };
        let writer = match avro::parse(&text, Defaults::Unchecked) {
            Ok(writer) => writer,
            Err(error) => return Ok(broken(format!("schema {id} is no Avro schema: {error}"))),
        };
        let full_name = writer.full_name().unwrap_or_default().to_owned();
        let Some(event) = self.catalogue.events.iter().find(|event| event.full_name == full_name) else {
            return Ok(Plan::Never {
                refused: true,
                why: format!("no schema at hand is of {full_name}"),
                event: full_name,
            });
        };
        let wire = if self.catalogue.built_in {
            Some((event.service.clone(), WriterSchema::parse(id, &text)?))
        } else {
            None
        };
        Ok(Plan::Ready(Box::new(Ready {
            event: event.name.clone(),
            candidate: Resolution::new(&event.newest().schema, &writer),
            own: Resolution::new(&writer, &writer),
            wire,
        })))
    }

    fn fail(&mut self, schema_id: Option<u32>, event: String, refused: bool, why: String, place: Place) {
        let failure = Failure {
            refused,
            source: self.source.clone(),
            schema_id,
            event,
            why,
        };
        if self.failures.len() >= FAILURES_MAX && !self.failures.contains_key(&failure) {
            self.untold += 1;
            return;
        }
        let places = self.failures.entry(failure).or_default();
        places.count += 1;
        if places.first.len() < PLACES_MAX {
            places.first.push(place);
        }
    }
}

impl Ready {
    /// Whether the candidate reads `datum`; else whether it is to blame, and why.
    fn judge(&self, datum: &[u8]) -> Result<(), (bool, String)> {
        if let Err(error) = self.candidate.verify(datum) {
            return Err((self.own.verify(datum).is_ok(), error.to_string()));
        }
        let Some((service, writer)) = &self.wire else {
            return Ok(());
        };
        let schema = &writer.schema;
        let read = match service.as_str() {
            "orders" => orders::Event::read(&writer.name, datum, schema).map(|read| read.map(drop)),
            "payments" => payments::Event::read(&writer.name, datum, schema).map(|read| read.map(drop)),
            _ => inventory::Event::read(&writer.name, datum, schema).map(|read| read.map(drop)),
        };
        match read {
            Some(Err(error)) => Err((
                true,
                format!("the wire type does not read it: {:#}", anyhow::Error::new(error)),
            )),
            Some(Ok(())) | None => Ok(()),
        }
    }
}
