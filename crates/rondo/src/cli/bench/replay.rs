//! `rondo bench replay`: how fast a log is told again, beside how fast it can be read at all.
//!
//! The log is a service's own topic, or a topic of its own that is filled with the events of finished orders, as the
//! service's code decides them. Both readings start with the same record and end with the same one. A rebuild writes to
//! tables of a schema of its own, with their indexes, a restore to a database of its own; both are dropped.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use common::kafka::{self, QuietContext};
use common::model::Model;
use common::replay::log::{Span, Start, reader_config, spans};
use common::replay::restore::{self, Options};
use common::replay::{From, Input, Intent, Plan, Rebuild, STREAMS_OPEN_MAX, Watch};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::scratch::Scratch;
use super::story::{self, Story};
use super::usage;
use crate::cli::replay::{Service, codec, fingerprint, progress, with_model};
use crate::cli::{Output, Target, Verdict, output};
use crate::init;

/// Most events that a log is filled with.
const EVENTS_MAX: u64 = 1_000_000_000;
/// How long the broker may say nothing to the bare consumer.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What `bench replay` takes.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Whose log
    #[arg(long, value_enum, default_value = "orders")]
    service: Service,
    /// Fill a topic of its own with so many events of finished orders, and read that
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=EVENTS_MAX), conflicts_with = "topic")]
    events: Option<u64>,
    /// Which verb is measured
    #[arg(long, value_enum, default_value = "rebuild")]
    verb: Verb,
    /// Read this topic instead of the service's own, whole name
    #[arg(long, value_name = "NAME", hide = true)]
    topic: Option<String>,
}

/// What is done with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    /// Told into read models, as by `replay rebuild` and `replay diff`
    Rebuild,
    /// Told into an empty database: event store, read models, offsets
    Restore,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    service: String,
    verb: Verb,
    topic: String,
    /// Events that were told.
    events: u64,
    /// From the first record to tables with their indexes; with a restore, to a database that a service may start on.
    replay: Reading,
    /// Every record taken from librdkafka, and nothing done with it.
    bare_consumer: Reading,
    /// The bare consumer's rate divided by the replay's.
    ratio: f64,
    /// The largest resident size of the process, where the system tells.
    peak_memory_bytes: Option<u64>,
    streams_in_memory: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reading {
    elapsed_ms: u64,
    events_per_second: f64,
}

/// Measures.
///
/// # Errors
/// The topic cannot be read or filled, or the database cannot be written.
pub(super) async fn run(args: &Args, target: &Target) -> Result<Verdict> {
    with_model!(args.service, one(args, target))
}

async fn one<M: Story>(model: M, args: &Args, target: &Target) -> Result<Verdict> {
    let report = match args.events {
        Some(events) => filled(&model, events, target).await?,
        None => measured(model, args, target).await?,
    };
    match target.output() {
        Output::Json => output::line(serde_json::to_string(&report)?),
        Output::Table => print(&report),
    }
    Ok(Verdict::Done)
}

/// Fills a topic, has a process of its own measure it, so that its memory is that of a replay alone, and drops the topic.
async fn filled<M: Story>(model: &M, events: u64, target: &Target) -> Result<Report> {
    let kafka = target.kafka_settings()?;
    let topic = story::create_topic::<M>(&kafka).await?;
    let measured = async {
        story::fill(model, &topic, events, &kafka, target).await?;
        again(&topic).await
    };
    let report = measured.await;
    story::delete_topic(&kafka, &topic).await?;
    report
}

/// Runs this command once more, on `topic`.
async fn again(topic: &str) -> Result<Report> {
    let mut arguments = Vec::new();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--events" | "--output" => drop(given.next()),
            text if text.starts_with("--events=") || text.starts_with("--output=") => {}
            _ => arguments.push(argument),
        }
    }
    let child = tokio::process::Command::new(std::env::current_exe()?)
        .args(arguments)
        .args(["--topic", topic, "--output", "json"])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("the measuring process cannot be started")?;
    if !child.status.success() {
        bail!("the measuring process failed");
    }
    serde_json::from_slice(&child.stdout).context("the measuring process says something else than figures")
}

async fn measured<M: Model>(model: M, args: &Args, target: &Target) -> Result<Report> {
    let kafka = target.kafka_settings()?;
    let topic = args.topic.clone().unwrap_or_else(|| Plan::topic_of::<M>(&kafka));
    let all = spans(&kafka, &topic, Start::Earliest).await?;
    let length: u64 = all.iter().map(Span::length).sum();
    if length == 0 {
        bail!("{topic} holds nothing; --events N fills a topic to measure with");
    }
    // First, so that both find the log in the broker's memory.
    let (bare, records) = bare(&kafka, &topic, &all).await?;

    let (events, elapsed) = match args.verb {
        Verb::Rebuild => rebuilt(model, args, target, &topic).await?,
        Verb::Restore => {
            let scratch = Scratch::create(&target.database_url(M::NAME)?).await?;
            let measured = restored(model, target, &topic, &scratch.url).await;
            scratch.drop().await?;
            measured?
        }
    };
    let replay = Reading::of(events, elapsed);
    let bare = Reading::of(records, bare);
    Ok(Report {
        service: M::NAME.to_owned(),
        verb: args.verb,
        topic,
        events,
        ratio: (bare.events_per_second / replay.events_per_second * 100.0).round() / 100.0,
        replay,
        bare_consumer: bare,
        peak_memory_bytes: peak_memory_bytes(),
        streams_in_memory: STREAMS_OPEN_MAX,
    })
}

/// Tells `topic` into tables beside the service's own: how many events, and how long it took.
async fn rebuilt<M: Model>(model: M, args: &Args, target: &Target, topic: &str) -> Result<(u64, Duration)> {
    let codec = Arc::new(codec(target, M::NAME).await?);
    let watch = Arc::new(Watch::default());
    let plan = Plan {
        database_url: target.database_url(M::NAME)?,
        input: Input::Topic {
            kafka: target.kafka_settings()?,
            topic: topic.to_owned(),
        },
        from: From::Earliest,
        until: None,
        // A topic that was filled for this is no outbox of the database.
        cutoff: args.topic.as_ref().map(|_| i64::MAX),
        intent: Intent::Candidate,
        migrations: None,
        streams_max: STREAMS_OPEN_MAX,
        fingerprint: format!("bench {}", fingerprint()),
        fresh: true,
        shown_max: 0,
    };
    let started = Instant::now();
    let work = Rebuild::measure(Arc::new(model), codec, plan, watch.clone());
    let events = progress::shown(watch, work).await?;
    Ok((events, started.elapsed()))
}

/// Restores the database at `url`, which is empty, from `topic`: how many events, and how long it took, migrations included.
async fn restored<M: Model>(model: M, target: &Target, topic: &str, url: &str) -> Result<(u64, Duration)> {
    let kafka = target.kafka_settings()?;
    let started = Instant::now();
    init::database(M::NAME, url).await?;
    let source = restore::Source {
        model: Arc::new(model),
        codec: Arc::new(target.codec()?),
        kafka: &kafka,
        topic: topic.to_owned(),
        database_url: url,
    };
    let (watch, stop) = (Arc::new(Watch::default()), CancellationToken::new());
    let work = restore::restore(source, Options::default(), &stop, watch.clone());
    let report = progress::shown(watch, work).await?;
    Ok((report.events.unsigned_abs(), started.elapsed()))
}

impl Reading {
    fn of(events: u64, elapsed: Duration) -> Self {
        Self {
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            events_per_second: (events as f64 / elapsed.as_secs_f64().max(0.000_001)).round(),
        }
    }
}

/// How long it takes to take every record of `spans` from librdkafka, and how many there are.
async fn bare(kafka: &kafka::Settings, topic: &str, spans: &[Span]) -> Result<(Duration, u64)> {
    // As the replay's, so that the two differ by what is done with a record alone.
    let config = reader_config(kafka, "rondo-bench");
    let mut start = TopicPartitionList::new();
    let mut open: HashMap<i32, i64> = HashMap::new();
    for span in spans.iter().filter(|span| span.length() > 0) {
        start.add_partition_offset(topic, span.partition, Offset::Offset(span.next))?;
        open.insert(span.partition, span.end);
    }
    tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let consumer: BaseConsumer<QuietContext> = config.create_with_context(QuietContext)?;
        consumer.assign(&start)?;
        let mut records = 0;
        let mut silent_since = None;
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    silent_since = None;
                    let end = open.get(&message.partition()).copied().unwrap_or(0);
                    records += u64::from(message.offset() < end);
                    if message.offset() + 1 >= end {
                        open.remove(&message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                // librdkafka tries again by itself; only a silence that lasts is an error.
                Some(Err(_)) | None => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > SILENCE_MAX {
                        bail!("the broker says nothing more");
                    }
                }
            }
        }
        Ok((started.elapsed(), records))
    })
    .await
    .expect("reading does not panic")
}

/// The largest resident size that this process has had.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(usage::kib_of(&status, "VmHWM:")? * 1024)
}

fn print(report: &Report) {
    let mut table = output::Table::new(&["", ">events/s", ">time"]);
    let verb = match report.verb {
        Verb::Rebuild => "rebuild",
        Verb::Restore => "restore",
    };
    for (what, reading) in [(verb, &report.replay), ("bare consumer", &report.bare_consumer)] {
        table.row([
            what.to_owned(),
            output::count(reading.events_per_second as u64),
            output::span(reading.elapsed_ms.cast_signed()),
        ]);
    }
    output::line(format_args!(
        "{} of {}\n",
        output::bold(output::counted(report.events, "event")),
        output::service(&report.service)
    ));
    table.print();
    output::line("");
    output::line(format_args!("the bare consumer is {} times as fast", report.ratio));
    if let Some(bytes) = report.peak_memory_bytes {
        output::line(format_args!("peak memory {} MiB", bytes / 1024 / 1024));
    }
}
