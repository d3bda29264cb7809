//! Whether this build reads what its topics hold and may hold, asked before it takes work.
//!
//! Every version that the registry has for the service's topics, and every schema that its database has met, is held
//! against this build's newest by the rules ([`avro::advise`]), and its readers are given made-up data of it: rules say
//! what the schemas promise, data what the wire types do. For its own events a reader must also see what schema resolution
//! sees, or a default in the code is not the schema's.

use std::collections::HashSet;
use std::time::Duration;

use avro::{Defaults, Finding, Resolution};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::codec::{ListingError, Registry, WriterSchema};
use crate::event::{EventSet as _, EventType};
use crate::model::Model;

/// How many questions are put to the registry at once.
const QUESTIONS_MAX: usize = 8;
/// How often a registry that does not answer is asked at a start, so that one answer that was lost does not leave everything
/// unchecked.
const ATTEMPTS_MAX: u32 = 3;
/// How long after such an answer it is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// Most made-up data of one schema.
const SAMPLES_MAX: usize = 64;

/// A schema that this build cannot read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Where it was found: a subject with its version, or the database.
    pub place: String,
    /// Its id.
    pub id: u32,
    /// The record.
    pub name: String,
    /// Whether this build has it, too, as an earlier version: then its newest is at fault.
    pub own: bool,
    /// What is in the way.
    pub finding: Finding,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finding {
            reason,
            path,
            field,
            detail,
            hint,
        } = &self.finding;
        let field = if field.is_empty() { "the record" } else { field };
        write!(
            f,
            "{} (schema id {}, {}) cannot be read by this build: {reason} at {path} ({field}): {detail}; {hint}",
            self.name, self.id, self.place
        )
    }
}

/// One schema to be judged.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    place: String,
    /// The topic that it is for, without a namespace; `None` where only its record's name is known.
    topic: Option<&'static str>,
    id: u32,
    text: String,
}

impl Candidate {
    /// One that a database has met.
    pub(crate) fn remembered(id: u32, text: &str) -> Self {
        Self {
            place: "met before by this database".to_owned(),
            topic: None,
            id,
            text: text.to_owned(),
        }
    }
}

/// Every version that `registry` has of what `model` writes and reads; `named` puts a topic into its namespace.
///
/// Subjects are asked for by name: a registry that others use, too, has far more. Only for a model that does not say what it
/// hears are they looked for by their topic.
pub(crate) async fn registered<M: Model>(
    model: &M,
    registry: &Registry,
    named: impl Fn(&str) -> String,
) -> Result<Vec<Candidate>, ListingError> {
    let mut attempt = 1;
    loop {
        match ask(model, registry, &named).await {
            Err(ListingError::Unavailable { .. }) if attempt < ATTEMPTS_MAX => {
                attempt += 1;
                tokio::time::sleep(AGAIN).await;
            }
            asked => return asked,
        }
    }
}

async fn ask<M: Model>(
    model: &M,
    registry: &Registry,
    named: &impl Fn(&str) -> String,
) -> Result<Vec<Candidate>, ListingError> {
    let own = M::Event::TYPES.iter().map(|event_type| (M::Event::TOPIC, event_type));
    let heard = M::LISTENS_TO.iter().flat_map(|topic| {
        let types = model.hears().iter().copied().flatten();
        types
            .filter(|event_type| reacts(model, topic, event_type))
            .map(|event_type| (*topic, event_type))
    });
    let mut subjects: Vec<(&'static str, String)> = own
        .chain(heard)
        .map(|(topic, event_type)| (topic, event_type.subject(&named(topic))))
        .collect();
    if model.hears().is_empty() && !M::LISTENS_TO.is_empty() {
        let all = registry.subjects().await?;
        for topic in M::LISTENS_TO {
            let prefix = format!("{}-", named(topic));
            let of_topic = all.iter().filter(|subject| subject.starts_with(&prefix));
            subjects.extend(of_topic.map(|subject| (*topic, subject.clone())));
        }
    }
    let versions: Vec<_> = stream::iter(subjects)
        .map(|(topic, subject)| async move {
            let versions = registry.versions(&subject).await?;
            Ok::<_, ListingError>(
                versions
                    .into_iter()
                    .map(move |version| (topic, subject.clone(), version)),
            )
        })
        .buffered(QUESTIONS_MAX)
        .try_collect()
        .await?;
    stream::iter(versions.into_iter().flatten())
        .map(|(topic, subject, version)| async move {
            let found = registry.version(&subject, version).await?;
            Ok(Candidate {
                place: format!("subject {subject} version {version}"),
                topic: Some(topic),
                id: found.id,
                text: found.text,
            })
        })
        .buffered(QUESTIONS_MAX)
        .try_collect()
        .await
}

/// Whether `model` reads events of this type from `topic`: it is asked with a made-up one.
fn reacts<M: Model>(model: &M, topic: &str, event_type: &EventType) -> bool {
    let text = event_type.newest().avsc;
    let sample = avro::parse(text, Defaults::Unchecked)
        .ok()
        .and_then(|schema| schema.sample(0));
    let decoder = WriterSchema::parse(0, text).ok();
    let read = sample
        .zip(decoder)
        .and_then(|(datum, decoder)| model.read(topic, &decoder, &datum));
    read.is_some()
}

/// Which of `candidates` this build cannot read. Each schema is judged once.
pub(crate) fn unreadable<M: Model>(model: &M, candidates: &[Candidate]) -> Vec<Unreadable> {
    let mut judged = HashSet::new();
    let fresh = candidates.iter().filter(|candidate| judged.insert(candidate.id));
    fresh
        .filter_map(|candidate| {
            let (name, finding) = judge(model, candidate)?;
            Some(Unreadable {
                place: candidate.place.clone(),
                id: candidate.id,
                own: is_own(model, &name, &candidate.text),
                name,
                finding,
            })
        })
        .collect()
}

/// Whether `text` is a version that this build has of the record `name`.
fn is_own<M: Model>(model: &M, name: &str, text: &str) -> bool {
    let canonical = |text: &str| avro::parse(text, Defaults::Unchecked).map(|schema| schema.canonical());
    let types = M::Event::TYPES.iter().chain(model.hears().iter().copied().flatten());
    let mut versions = types
        .filter(|event_type| event_type.fullname == name)
        .flat_map(|event_type| event_type.versions);
    let Ok(text) = canonical(text) else { return false };
    versions.any(|version| canonical(version.avsc).is_ok_and(|version| version == text))
}

fn judge<M: Model>(model: &M, candidate: &Candidate) -> Option<(String, Finding)> {
    // What is no Avro here is noticed where it is used: it may be of an event that this service never reads.
    let writer = avro::parse(&candidate.text, Defaults::Unchecked).ok()?;
    let full_name = writer.full_name()?.to_owned();
    let decoder = WriterSchema::parse(candidate.id, &candidate.text).ok()?;
    let of_name = |types: &'static [EventType]| types.iter().find(|event_type| event_type.fullname == full_name);
    let own = of_name(M::Event::TYPES).filter(|_| candidate.topic.is_none_or(|topic| topic == M::Event::TOPIC));
    let topics: Vec<&str> = match candidate.topic {
        Some(topic) => vec![topic],
        None => M::LISTENS_TO.to_vec(),
    };
    let samples: Vec<Vec<u8>> = (0..writer.variants().min(SAMPLES_MAX))
        .filter_map(|variant| writer.sample(variant))
        .collect();
    let read_foreign = |datum: &[u8]| topics.iter().find_map(|topic| model.read(topic, &decoder, datum));
    let reads_foreign = own.is_none() && samples.first().is_some_and(|datum| read_foreign(datum).is_some());
    let reader = match own {
        Some(own) => Some(own),
        None if reads_foreign => model.hears().iter().find_map(|types| of_name(types)),
        None => return None,
    };
    let reader = reader.and_then(|event_type| avro::parse(event_type.newest().avsc, Defaults::Unchecked).ok());
    if let Some(finding) = reader
        .as_ref()
        .and_then(|reader| avro::advise(reader, &writer).into_iter().next())
    {
        return Some((full_name, finding));
    }
    let resolution = reader.as_ref().map(|reader| Resolution::new(reader, &writer));
    let finding = samples.iter().find_map(|datum| match own {
        Some(own) => match M::Event::read(own.name, datum, &decoder.schema)? {
            Err(error) => Some(broken(&error)),
            Ok(event) => {
                let wanted = resolution.as_ref()?.read(datum).ok()?;
                let found = event.to_json();
                (wanted != found).then(|| differs(&wanted, &found))
            }
        },
        None => read_foreign(datum)?.err().map(|error| broken(&error)),
    })?;
    Some((full_name, finding))
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Finding {
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        detail = format!("{detail}: {error}");
        source = error.source();
    }
    Finding {
        reason: "WIRE_TYPE_CANNOT_READ",
        path: "/".to_owned(),
        field: String::new(),
        detail,
        hint: "the schemas agree and the wire type does not: give the field its default, alias or wider type there"
            .to_owned(),
    }
}

fn differs(wanted: &serde_json::Value, found: &serde_json::Value) -> Finding {
    let fields = wanted.as_object().into_iter().flatten();
    let first = fields
        .filter(|(name, value)| found.get(name.as_str()) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .next()
        .unwrap_or_default();
    let (field, value) = first;
    Finding {
        reason: "WIRE_TYPE_READS_OTHERWISE",
        path: "/fields".to_owned(),
        detail: format!(
            "the schema says {value}, the wire type reads {}",
            found.get(&field).unwrap_or(&serde_json::Value::Null)
        ),
        hint: format!("make the upcaster of {field} answer what the newest schema has for default"),
        field,
    }
}
