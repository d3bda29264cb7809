//! `rondo offsets`: where each service goes on in the topics that it reads, and moving it.
//!
//! ```text
//!   plan (printed) ──── --execute ────► row of `offsets`: next_offset, epoch + 1, mark ──► the copy that runs notices,
//!                                                                                          claims again, reads on there
//! ```
//!
//! The row is the truth; the group's committed offset follows it, by the copy that runs or, where none does, from here.

mod arguments;
mod plan;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use common::kafka::group::{self, Group, Place};
use common::kafka::{self, LogEnd};
use common::model::Model as _;
use common::{inbox, pg};
use contracts::service::SERVICES;
use contracts::topics::Topics;
use jiff::Timestamp;
use serde_json::json;

use super::output::{self, Table};
use super::{Output, Target, Verdict};
use arguments::{ResetArgs, Scope, ShowArgs};
use plan::{Aim, Known, Step};

pub use arguments::Command;
pub(super) use arguments::parse_time;

/// How often a reset is tried that meets open batches head on.
const RESET_ATTEMPTS_MAX: u32 = 10;

/// A service that is meant, and its topics.
struct Reader {
    service: &'static str,
    group: String,
    /// With namespace; all partitions for `None`.
    topics: BTreeMap<String, Option<BTreeSet<i32>>>,
}

/// Runs a verb about offsets.
///
/// # Errors
/// The target is not usable, or what is meant is not there.
pub async fn run(command: Command, target: &Target) -> Result<Verdict> {
    match command {
        Command::Show(args) => show(target, &args).await,
        Command::Reset(args) => reset(target, &args).await,
    }
}

/// The topics that a service reads, without a namespace.
pub(super) fn inputs(service: &str) -> &'static [&'static str] {
    match service {
        "orders" => orders::service::Orders::LISTENS_TO,
        "payments" => payments::Payments::LISTENS_TO,
        _ => inventory::Inventory::LISTENS_TO,
    }
}

/// Who is meant by `scope`.
fn readers(scope: &Scope, settings: &kafka::Settings) -> Result<Vec<Reader>> {
    let topics = Topics::new(settings.namespace.as_deref());
    let mut wanted: BTreeMap<String, Option<BTreeSet<i32>>> = BTreeMap::new();
    for text in &scope.topics {
        let (name, partitions) = match text.split_once(':') {
            None => (text.as_str(), None),
            Some((name, list)) => {
                let parsed: Result<BTreeSet<i32>, _> = list.split(',').map(str::parse).collect();
                (name, Some(parsed.with_context(|| format!("{text} is not TOPIC:P,P"))?))
            }
        };
        let bare = topics.bare(name).unwrap_or(name);
        match (
            wanted
                .entry(topics.named(bare))
                .or_insert_with(|| Some(BTreeSet::new())),
            partitions,
        ) {
            (Some(known), Some(more)) => known.extend(more),
            (all, _) => *all = None,
        }
    }
    for group in &scope.groups {
        if !SERVICES.iter().any(|service| settings.named(service.name) == *group) {
            let known: Vec<String> = SERVICES.iter().map(|service| settings.named(service.name)).collect();
            bail!(
                "{group} is no group of this installation; there are {}",
                known.join(", ")
            );
        }
    }
    let all = scope.services.is_empty() && scope.groups.is_empty();
    let mut readers = Vec::new();
    for service in &SERVICES {
        let group = settings.named(service.name);
        if !all && !scope.services.iter().any(|name| name == service.name) && !scope.groups.contains(&group) {
            continue;
        }
        let read = inputs(service.name).iter().map(|topic| topics.named(topic));
        let mut meant: BTreeMap<_, _> = read.map(|topic| (topic, None)).collect();
        if !wanted.is_empty() {
            meant.retain(|topic, _| wanted.contains_key(topic));
            meant.extend(
                wanted
                    .clone()
                    .into_iter()
                    .filter(|(topic, _)| meant.contains_key(topic))
                    .collect::<Vec<_>>(),
            );
        }
        readers.push(Reader {
            service: service.name,
            group,
            topics: meant,
        });
    }
    let unread = wanted
        .keys()
        .find(|topic| !readers.iter().any(|reader| reader.topics.contains_key(*topic)));
    if let Some(topic) = unread {
        let read: BTreeSet<&str> = SERVICES
            .iter()
            .flat_map(|service| inputs(service.name))
            .copied()
            .collect();
        let read: Vec<&str> = read.into_iter().collect();
        bail!(
            "none of the services that are meant reads {topic}; services read {}",
            read.join(", ")
        );
    }
    Ok(readers)
}

/// What the database and the log say of a reader's partitions, in their order.
async fn survey(target: &Target, client: &kafka::Client, reader: &Reader, at: Option<Timestamp>) -> Result<Vec<Known>> {
    let topics: Vec<String> = reader.topics.keys().cloned().collect();
    let ends = client.log_ends(&topics).await?;
    for (topic, partitions) in &reader.topics {
        let exists = |partition: &&i32| {
            ends.iter()
                .any(|end| end.topic == *topic && end.partition == **partition)
        };
        if let Some(missing) = partitions.iter().flatten().find(|partition| !exists(partition)) {
            bail!("{topic} has no partition {missing}");
        }
    }
    let meant = |end: &LogEnd| {
        reader.topics[&end.topic]
            .as_ref()
            .is_none_or(|set| set.contains(&end.partition))
    };
    let ends: Vec<LogEnd> = ends.into_iter().filter(meant).collect();
    let places: Vec<Place> = ends.iter().map(|end| (end.topic.clone(), end.partition)).collect();
    let since = match at {
        Some(at) => client.offsets_since(&places, at).await?,
        None => HashMap::new(),
    };
    let database = target.database(reader.service).await?;
    let rows = inbox::offsets(&database, reader.service).await?;
    let known = ends.into_iter().zip(places).map(|(end, place)| Known {
        service: reader.service,
        group: reader.group.clone(),
        next_offset: rows.get(&place).copied(),
        since: since.get(&place).copied(),
        topic: end.topic,
        partition: end.partition,
        first: end.first,
        end: end.end,
    });
    Ok(known.collect())
}

async fn show(target: &Target, args: &ShowArgs) -> Result<Verdict> {
    let settings = target.kafka_settings()?;
    let client = kafka::Client::new(&settings)?;
    let mut all = Vec::new();
    for reader in readers(&args.scope, &settings)? {
        let known = survey(target, &client, &reader, None).await?;
        let places: Vec<Place> = known
            .iter()
            .map(|known| (known.topic.clone(), known.partition))
            .collect();
        let committed = group::committed(&settings, &reader.group, &places).await?;
        let who = client.group(&reader.group).await?;
        let database = target.database(reader.service).await?;
        let rows = inbox::places(&database, reader.service).await?;
        let waits = |known: &Known| {
            let mut rows = rows.iter().filter(|row| row.waits_for_a_copy);
            rows.any(|row| row.topic == known.topic && row.partition == known.partition)
        };
        for (known, place) in known.into_iter().zip(&places) {
            let (committed, waits) = (committed.get(place).copied(), waits(&known));
            all.push((known, committed, waits, who.clone()));
        }
    }
    if let Some(file) = &args.export {
        let offsets = all.iter().map(|(known, ..)| {
            let offset = known.next_offset.unwrap_or(known.first);
            (known.group.as_str(), known.topic.as_str(), known.partition, offset)
        });
        export(file, &plan::to_csv(offsets))?;
        if file == Path::new("-") {
            return Ok(Verdict::Done);
        }
    }
    match target.output() {
        Output::Json => {
            let rows = all.iter().map(|(known, committed, waits, who)| {
                json!({
                    "service": known.service, "group": known.group, "topic": known.topic, "partition": known.partition,
                    "next_offset": known.next_offset, "committed": committed, "log_first": known.first,
                    "log_end": known.end, "lag": lag(known), "waits_for_a_copy": waits,
                    "members": who.as_ref().map(|group| &group.members),
                })
            });
            output::json(&rows.collect::<Vec<_>>());
        }
        Output::Table => print_places(&all),
    }
    Ok(Verdict::Done)
}

fn lag(known: &Known) -> i64 {
    (known.end - known.next_offset.unwrap_or(known.first)).max(0)
}

fn print_places(all: &[(Known, Option<i64>, bool, Option<Group>)]) {
    let mut table = Table::new(&[
        "service",
        "topic",
        ">partition",
        ">next",
        ">committed",
        ">log end",
        ">lag",
        "readers",
    ]);
    for (known, committed, waits, who) in all {
        let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let readers = match who.as_ref().map(|group| group.members.len()) {
            _ if *waits => output::warn("moved; no copy has gone on from there yet").to_string(),
            None => output::dim("the broker does not tell").to_string(),
            Some(0) => output::dim("none").to_string(),
            Some(1) => "1 copy".to_owned(),
            Some(copies) => format!("{copies} copies"),
        };
        let lag = lag(known);
        table.row([
            output::service(known.service).to_string(),
            known.topic.clone(),
            known.partition.to_string(),
            number(known.next_offset),
            number(*committed),
            known.end.to_string(),
            if lag == 0 {
                lag.to_string()
            } else {
                output::warn(lag).to_string()
            },
            readers,
        ]);
    }
    table.print();
}

async fn reset(target: &Target, args: &ResetArgs) -> Result<Verdict> {
    let aim = args.aim()?;
    let settings = target.kafka_settings()?;
    let client = kafka::Client::new(&settings)?;
    let readers = readers(&args.scope, &settings)?;
    if let Aim::Listed(listed) = &aim
        && readers.len() > 1
        && listed.keys().any(|(group, ..)| group.is_none())
    {
        bail!("the file does not say which group is meant: name one --service, or write GROUP,TOPIC,PARTITION,OFFSET");
    }
    let at = match &aim {
        Aim::Since(at) => Some(*at),
        _ => None,
    };
    let mut steps = Vec::new();
    for reader in &readers {
        let known = survey(target, &client, reader, at).await?;
        steps.extend(known.iter().filter_map(|known| known.step(&aim)));
    }
    if let Aim::Listed(listed) = &aim
        && let Some((_, topic, partition)) = listed
            .keys()
            .find(|named| !steps.iter().any(|step| is_named(step, named)))
    {
        bail!("the file names {topic}/{partition}, which none of the services that are meant reads");
    }
    if let Some(file) = &args.export {
        let offsets = steps
            .iter()
            .map(|step| (step.group.as_str(), step.topic.as_str(), step.partition, step.new));
        export(file, &plan::to_csv(offsets))?;
    }
    let skipped: i64 = steps.iter().map(|step| step.skipped).sum();
    let refused = args.execute && skipped > 0 && !args.accept_skipped;
    let execute = args.execute && !refused && !steps.is_empty();
    let mut notes = Vec::new();
    if execute {
        for reader in &readers {
            let of_reader: Vec<&Step> = steps.iter().filter(|step| step.service == reader.service).collect();
            notes.extend(carry_out(target, &settings, &client, reader, &of_reader).await?);
        }
    }
    match target.output() {
        Output::Json => output::json(&json!({ "executed": execute, "skipped": skipped, "plan": steps })),
        Output::Table if args.export.as_deref() == Some(Path::new("-")) => {}
        Output::Table => print_plan(&steps),
    }
    for note in notes {
        eprintln!("{note}");
    }
    if steps.is_empty() {
        eprintln!("nothing to reset: no partition is meant");
        return Ok(Verdict::Wanting);
    }
    if skipped > 0 {
        let records = output::counted(skipped.unsigned_abs(), "record");
        eprintln!("! {records} would be skipped: nobody will ever handle them, and orders may wait for them for good");
    }
    if refused {
        eprintln!("nothing was changed; if they are to be skipped, say so: --accept-skipped");
        return Ok(Verdict::Wanting);
    }
    if !execute {
        eprintln!("nothing was changed; --execute does it");
    }
    Ok(Verdict::Done)
}

fn is_named(step: &Step, (group, topic, partition): &plan::Named) -> bool {
    group.as_ref().is_none_or(|group| *group == step.group) && *topic == step.topic && *partition == step.partition
}

/// Moves one service, and says what becomes of it.
async fn carry_out(
    target: &Target,
    settings: &kafka::Settings,
    client: &kafka::Client,
    reader: &Reader,
    steps: &[&Step],
) -> Result<Option<String>> {
    if steps.is_empty() {
        return Ok(None);
    }
    let moved: Vec<inbox::Moved<'_>> = steps
        .iter()
        .map(|step| (step.topic.as_str(), step.partition, step.new))
        .collect();
    let database = target.database(reader.service).await?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match inbox::reset(&database, reader.service, &moved).await {
            Ok(()) => break,
            Err(error) if attempt < RESET_ATTEMPTS_MAX && pg::failure(&error, &[]) == pg::Failure::Conflict => {}
            Err(error) => {
                return Err(error).with_context(|| format!("the offsets of {} were not moved", reader.service));
            }
        }
    }
    let known = client.group(&reader.group).await?;
    if known.is_none_or(|group| !group.members.is_empty()) {
        let service = reader.service;
        return Ok(Some(format!(
            "✓ {service}: moved; copies that run go on from there within seconds, others when they start"
        )));
    }
    // A courtesy to tools: whoever starts next goes by the row, and lets the group follow if this failed.
    let note = match group::commit(settings, &reader.group, &moved).await {
        Ok(()) => format!("✓ {}: moved; it goes on from there when it is started", reader.service),
        Err(error) => format!(
            "✓ {}: moved; it goes on from there when it is started, and the group's own offsets follow then ({error})",
            reader.service
        ),
    };
    Ok(Some(note))
}

fn print_plan(steps: &[Step]) {
    let mut table = Table::new(&["service", "topic", ">partition", ">current", ">new", "what that means"]);
    for step in steps {
        let mut means = Vec::new();
        if let Some(wanted) = step.clamped_from {
            means.push(output::warn(format!("clamped: the log does not have {wanted}")).to_string());
        }
        if step.skipped > 0 {
            means.push(
                output::bad(format!(
                    "skips {}",
                    output::counted(step.skipped.unsigned_abs(), "record")
                ))
                .to_string(),
            );
        } else if step.repeated > 0 {
            means.push(format!(
                "reads {} again",
                output::counted(step.repeated.unsigned_abs(), "record")
            ));
        } else {
            means.push(output::dim("stays").to_string());
        }
        table.row([
            output::service(step.service).to_string(),
            step.topic.clone(),
            step.partition.to_string(),
            step.current
                .map_or_else(|| "-".to_owned(), |current| current.to_string()),
            step.new.to_string(),
            means.join("; "),
        ]);
    }
    if !table.is_empty() {
        table.print();
    }
}

/// Writes CSV into a file, or to stdout.
fn export(file: &Path, text: &str) -> Result<()> {
    if file == Path::new("-") {
        if !text.is_empty() {
            output::line(text.trim_end());
        }
        return Ok(());
    }
    std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> kafka::Settings {
        kafka::Settings {
            namespace: Some("blue".to_owned()),
            ..kafka::Settings::default()
        }
    }

    fn scope(services: &[&str], topics: &[&str]) -> Scope {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Scope {
            services: owned(services),
            groups: Vec::new(),
            topics: owned(topics),
        }
    }

    #[test]
    fn topics_are_named_with_or_without_their_namespace_and_partitions_add_up() {
        let found = readers(
            &scope(&["payments"], &["orders.events:1", "blue.orders.events:3,4"]),
            &settings(),
        )
        .unwrap();
        assert_eq!((found.len(), found[0].group.as_str()), (1, "blue.payments"));
        assert_eq!(found[0].topics["blue.orders.events"], Some(BTreeSet::from([1, 3, 4])));
        let all = readers(
            &scope(&["payments"], &["orders.events:1", "orders.events"]),
            &settings(),
        )
        .unwrap();
        assert_eq!(all[0].topics["blue.orders.events"], None);
        assert_eq!(readers(&scope(&[], &[]), &settings()).unwrap().len(), 3);
    }

    #[test]
    fn what_nobody_reads_is_refused() {
        for (services, topics) in [
            (&["payments"][..], "payments.events"),
            (&[][..], "typo"),
            (&[][..], "orders.events:x"),
        ] {
            assert!(readers(&scope(services, &[topics]), &settings()).is_err(), "{topics}");
        }
        let group = Scope {
            groups: vec!["payments".to_owned()],
            ..scope(&[], &[])
        };
        let refused = readers(&group, &settings()).err().unwrap().to_string();
        assert!(refused.contains("blue.payments"), "{refused}");
    }
}
