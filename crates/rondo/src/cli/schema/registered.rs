//! The registry's side: what it has, what it would say, and registering what it lacks.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use avro::{Defaults, Finding, advise};
use clap::Args as ClapArgs;
use common::codec::{Registered, Registry};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use registry::Level;
use serde_json::{Value, json};

use super::catalogue::{Catalogue, Event, Version};
use super::diff::finding;
use super::download::pretty;
use crate::cli::output::{self, Table, bad, bold, dim, good, warn};
use crate::cli::{GlobalArgs, Output, Target, Verdict};

/// How many questions are put to the registry at once.
const QUESTIONS_MAX: usize = 8;
/// The level of subjects that are registered here: replay reads from the beginning.
const LEVEL: &str = "BACKWARD_TRANSITIVE";
/// Levels that ask for as much.
const HELD: [&str; 2] = [LEVEL, "FULL_TRANSITIVE"];

/// What `schema register` takes.
#[derive(ClapArgs, Debug)]
pub struct RegisterArgs {
    /// Which events; all if none is named.
    events: Vec<String>,
    /// A directory of schemas; this build's own if left out.
    #[arg(long, value_name = "DIR")]
    schemas: Option<PathBuf>,
    /// Register. Without it nothing changes.
    #[arg(long)]
    execute: bool,
}

/// What `schema show` takes.
#[derive(ClapArgs, Debug)]
pub struct ShowArgs {
    /// A schema id, an event's name, or a whole subject.
    schema: String,
    /// Which version of a subject; the newest if left out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
}

/// How the schemas of one event stand to the registry's.
#[derive(Debug)]
pub(super) struct Standing {
    subject: String,
    /// The level that the registry holds it to; `None` where it has no such subject.
    level: Option<String>,
    /// Its versions there, with the files' version that says the same.
    registered: Vec<(Registered, Option<u32>)>,
    /// Versions of the files that it lacks, ascending.
    lacking: Vec<u32>,
    /// What keeps the newest file from reading a registered version.
    unreadable: Vec<(u32, Finding)>,
    /// What the registry says to the newest file, where it lacks it.
    objections: Vec<String>,
}

impl Standing {
    /// Whether something must be done before the files can be deployed. That a version is lacking is what `register` is for.
    pub(super) fn is_wanting(&self) -> bool {
        !self.unreadable.is_empty() || !self.objections.is_empty()
    }

    pub(super) fn json(&self) -> Value {
        let registered = self
            .registered
            .iter()
            .map(|(found, file)| json!({ "version": found.version, "id": found.id, "file_version": file }));
        let unreadable = self.unreadable.iter().map(|(version, found)| {
            let mut value = finding(found);
            value["registered_version"] = json!(version);
            value
        });
        json!({
            "subject": self.subject, "level": self.level, "registered": registered.collect::<Vec<_>>(),
            "lacking": self.lacking, "unreadable": unreadable.collect::<Vec<_>>(), "objections": self.objections,
        })
    }
}

/// Holds the newest file of each event against all that the registry has of it.
pub(super) async fn compare(catalogue: &Catalogue, target: &Target, level: Level) -> Result<Vec<Standing>> {
    let registry = target.registry()?;
    let namespace = target.namespace()?;
    let standing = |event| standing(&registry, namespace.as_deref(), event, level);
    stream::iter(&catalogue.events)
        .map(standing)
        .buffered(QUESTIONS_MAX)
        .try_collect()
        .await
}

async fn standing(registry: &Registry, namespace: Option<&str>, event: &Event, level: Level) -> Result<Standing> {
    let subject = subject(namespace, event);
    let mut registered = Vec::new();
    for number in registry.versions(&subject).await? {
        let found = registry.version(&subject, number).await?;
        let same = event
            .versions
            .iter()
            .find(|version| says_the_same(version, &found.text));
        registered.push((found, same.map(|version| version.number)));
    }
    let lacking: Vec<u32> = event
        .versions
        .iter()
        .map(|version| version.number)
        .filter(|number| !registered.iter().any(|(_, file)| *file == Some(*number)))
        .collect();
    let newest = event.newest();
    let mut unreadable = Vec::new();
    let counted = if level.is_transitive() { usize::MAX } else { 1 };
    for (found, _) in registered.iter().rev().take(counted).filter(|_| level.new_reads_old()) {
        match avro::parse(&found.text, Defaults::Unchecked) {
            Ok(writer) => {
                let findings = advise(&newest.schema, &writer).into_iter();
                unreadable.extend(findings.map(|finding| (found.version, finding)));
            }
            Err(error) => bail!("{subject} version {} is no Avro schema: {error}", found.version),
        }
    }
    let objections = if lacking.contains(&newest.number) && !registered.is_empty() {
        registry.objections(&subject, &newest.text).await?
    } else {
        Vec::new()
    };
    let level = if registered.is_empty() {
        None
    } else {
        Some(registry.level(&subject).await?)
    };
    Ok(Standing {
        subject,
        level,
        registered,
        lacking,
        unreadable,
        objections,
    })
}

fn subject(namespace: Option<&str>, event: &Event) -> String {
    let topic = event.topic();
    event.subject(&match namespace {
        Some(namespace) => format!("{namespace}.{topic}"),
        None => topic,
    })
}

/// Whether a registry's text is `version`, as registries compare: white space and the order of members do not count.
fn says_the_same(version: &Version, text: &str) -> bool {
    avro::parse(text, Defaults::Unchecked).is_ok_and(|schema| schema.canonical() == version.schema.canonical())
}

/// Prints how the files stand to the registry.
pub(super) fn print(standings: &[Standing]) {
    let mut table = Table::new(&["well", "level", ">registered", "lacking", "subject"]);
    for standing in standings {
        let lacking: Vec<String> = standing.lacking.iter().map(|number| format!("v{number}")).collect();
        table.row([
            if standing.is_wanting() {
                bad("no").to_string()
            } else {
                good("yes").to_string()
            },
            standing.level.clone().unwrap_or_else(|| "-".to_owned()),
            standing.registered.len().to_string(),
            if lacking.is_empty() {
                "-".to_owned()
            } else {
                warn(lacking.join(" ")).to_string()
            },
            // Last, where nothing is cut: it ends with what tells it from others.
            standing.subject.clone(),
        ]);
    }
    table.print();
    for standing in standings {
        for (version, found) in &standing.unreadable {
            output::line(format!(
                "{} {}: the newest file cannot read registered version {version}\n    {} at {}: {}",
                bad("✗"),
                bold(&standing.subject),
                found.reason,
                found.path,
                found.detail
            ));
            output::line(dim(format!("    {}", found.hint)));
        }
        for objection in &standing.objections {
            output::line(format!(
                "{} {}: the registry objects: {objection}",
                bad("✗"),
                bold(&standing.subject)
            ));
        }
        let strangers = standing.registered.iter().filter(|(_, file)| file.is_none());
        for (found, _) in strangers {
            output::line(format!(
                "{} {}: registered version {} (id {}) is in no file; `rondo schema download` fetches it",
                warn("·"),
                bold(&standing.subject),
                found.version,
                found.id
            ));
        }
    }
}

/// Runs `schema register`: oldest versions first, and only what is lacking.
pub(super) async fn register(args: &RegisterArgs, global: &GlobalArgs) -> Result<Verdict> {
    let mut catalogue = Catalogue::load(args.schemas.as_deref())?;
    for name in &args.events {
        catalogue.event(name)?;
    }
    if !args.events.is_empty() {
        let wanted = |event: &Event| {
            args.events
                .iter()
                .any(|name| *name == event.name || *name == event.full_name)
        };
        catalogue.events.retain(wanted);
    }
    if let Some(fault) = catalogue.faults.first() {
        bail!("{}: {}; {}", fault.file, fault.what, fault.hint);
    }
    let target = Target::locate(global)?;
    let registry = target.registry()?;
    let standings = compare(&catalogue, &target, Level::BackwardTransitive).await?;
    let unset = registry.global_level().await?;
    let mut steps = Vec::new();
    let mut refused = false;
    for (event, standing) in catalogue.events.iter().zip(&standings) {
        // A subject gets its level after its first version. A run that ended between the two has left that to this one.
        let is_unset = |level: &String| *level == unset && !HELD.contains(&level.as_str());
        let mut level_is_due = args.execute && !standing.is_wanting() && standing.level.as_ref().is_none_or(is_unset);
        if level_is_due && standing.level.is_some() {
            registry.set_level(&standing.subject, LEVEL).await?;
            eprintln!("✓ {} is held to {LEVEL}, which it was not yet", standing.subject);
            level_is_due = false;
        }
        for number in &standing.lacking {
            let version = event.version(*number).expect("what lacks is a version of the event");
            let mut step = json!({
                "subject": standing.subject, "version": number, "file": version.file, "registered": false,
            });
            if standing.is_wanting() {
                refused = true;
                let findings = standing.unreadable.iter().map(|(registered, found)| {
                    let Finding {
                        reason,
                        path,
                        detail,
                        hint,
                        ..
                    } = found;
                    format!("it cannot read registered version {registered}: {reason} at {path}: {detail}; {hint}")
                });
                step["refused"] = json!(findings.chain(standing.objections.iter().cloned()).collect::<Vec<_>>());
            } else if args.execute {
                match registry.register_text(&standing.subject, &version.text).await {
                    Ok(id) => {
                        step["registered"] = json!(true);
                        step["id"] = json!(id);
                        if level_is_due {
                            registry.set_level(&standing.subject, LEVEL).await?;
                            level_is_due = false;
                        }
                    }
                    Err(error) => {
                        refused = true;
                        step["refused"] = json!([error.to_string()]);
                    }
                }
            }
            let stop = step.get("refused").is_some();
            steps.push(step);
            if stop {
                // Later versions build on this one.
                break;
            }
        }
    }
    match global.output {
        Output::Json => output::json(&json!({ "executed": args.execute, "steps": steps })),
        Output::Table => {
            for step in &steps {
                let what = format!("{} v{}", step["subject"].as_str().unwrap_or_default(), step["version"]);
                output::line(match (step.get("refused"), step["registered"] == true) {
                    (Some(why), _) => {
                        let lines = why.as_array().into_iter().flatten().filter_map(Value::as_str);
                        let lines: String = lines.map(|line| format!("\n    {line}")).collect();
                        format!("{} {what}{lines}", bad("refused   "))
                    }
                    (None, true) => format!("{} {what} as id {}", good("registered"), step["id"]),
                    (None, false) => format!("{} {what}", warn("would register")),
                });
            }
            output::line(match (steps.is_empty(), args.execute) {
                (true, _) => "nothing to register: the registry has every version".to_owned(),
                _ if refused => "what was refused is not registered, nor any later version of it".to_owned(),
                (false, true) => "done".to_owned(),
                (false, false) => "a dry run: nothing was changed; --execute registers".to_owned(),
            });
        }
    }
    Ok(Verdict::of(!refused))
}

/// Runs `schema list`.
pub(super) async fn list(global: &GlobalArgs) -> Result<Verdict> {
    let target = Target::locate(global)?;
    let registry = target.registry()?;
    let found = all(&registry, &prefix(&target)?).await?;
    let mut rows = Vec::new();
    for (subject, versions) in &found {
        rows.push((subject, registry.level(subject).await?, versions));
    }
    match global.output {
        Output::Json => {
            let row = |(subject, level, versions): &(&String, String, &Vec<Registered>)| {
                let versions = versions
                    .iter()
                    .map(|found| json!({ "version": found.version, "id": found.id }));
                json!({ "subject": subject, "level": level, "versions": versions.collect::<Vec<_>>() })
            };
            output::json(&rows.iter().map(row).collect::<Vec<_>>());
        }
        Output::Table => {
            let mut table = Table::new(&["level", "versions (id)", "subject"]);
            for (subject, level, versions) in &rows {
                let versions: Vec<String> = versions
                    .iter()
                    .map(|found| format!("v{} ({})", found.version, found.id))
                    .collect();
                table.row([level.clone(), versions.join(" "), (*subject).clone()]);
            }
            table.print();
        }
    }
    Ok(Verdict::Done)
}

/// What subjects of this deployment begin with; others in the registry are other deployments'.
pub(super) fn prefix(target: &Target) -> Result<String> {
    let namespace = target.namespace()?;
    Ok(namespace.map(|namespace| format!("{namespace}.")).unwrap_or_default())
}

/// Every subject that begins with `prefix`, with its versions.
pub(super) async fn all(registry: &Registry, prefix: &str) -> Result<Vec<(String, Vec<Registered>)>> {
    let subjects = registry.subjects().await?;
    let subjects: Vec<String> = subjects
        .into_iter()
        .filter(|subject| subject.starts_with(prefix))
        .collect();
    let found = stream::iter(subjects).map(|subject| async move {
        let mut versions = Vec::new();
        for number in registry.versions(&subject).await? {
            versions.push(registry.version(&subject, number).await?);
        }
        anyhow::Ok((subject, versions))
    });
    found.buffered(QUESTIONS_MAX).try_collect().await
}

/// Runs `schema show`.
pub(super) async fn show(args: &ShowArgs, global: &GlobalArgs) -> Result<Verdict> {
    let target = Target::locate(global)?;
    let registry = target.registry()?;
    let (found, text) = match args.schema.parse::<u32>() {
        Ok(id) => {
            let text = registry.schema_text(id).await?;
            (
                registry
                    .places(id)
                    .await?
                    .into_iter()
                    .map(|(subject, version)| (subject, version, id))
                    .collect(),
                text,
            )
        }
        Err(_) => {
            let subjects = registry.subjects().await?;
            let prefix = prefix(&target)?;
            let named = |subject: &&String| {
                **subject == args.schema
                    || subject.starts_with(&prefix) && subject.ends_with(&format!(".{}", args.schema))
            };
            let matching: Vec<&String> = subjects.iter().filter(named).collect();
            let subject = match &matching[..] {
                [one] => (*one).clone(),
                [] => bail!(
                    "the registry has no subject {}; `rondo schema list` shows them",
                    args.schema
                ),
                several => bail!("{} may be any of {several:?}: name the whole subject", args.schema),
            };
            let versions = registry.versions(&subject).await?;
            let number = args
                .version
                .or(versions.last().copied())
                .context("the subject has no version")?;
            let found = registry.version(&subject, number).await?;
            (vec![(found.subject, found.version, found.id)], found.text)
        }
    };
    let schema: Value = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.clone()));
    let fingerprint = avro::parse(&text, Defaults::Unchecked)
        .map(|schema| format!("{:016x}", schema.fingerprint_crc64()))
        .ok();
    match global.output {
        Output::Json => {
            let places = found
                .iter()
                .map(|(subject, version, id)| json!({ "subject": subject, "version": version, "id": id }));
            output::json(
                &json!({ "places": places.collect::<Vec<_>>(), "fingerprint": fingerprint, "schema": schema }),
            );
        }
        Output::Table => {
            for (subject, version, id) in &found {
                output::line(format!("{} version {version}, id {id}", bold(subject)));
            }
            output::line(dim(format!(
                "fingerprint {}",
                fingerprint.as_deref().unwrap_or("none: it is no Avro schema")
            )));
            output::line(pretty(&text));
        }
    }
    Ok(Verdict::Done)
}
