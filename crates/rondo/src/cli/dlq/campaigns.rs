//! `rondo dlq campaigns`: what was decided about dead letters, what became of each, and how to hold it up.

use anyhow::{Result, bail};
use clap::Subcommand;
use common::campaigns::{self, Campaign, Control, Entry};
use contracts::service::SERVICES;
use serde_json::{Value, json};

use super::{LetterId, work};
use crate::cli::output::{self, Table};
use crate::cli::{Output, Target, Verdict};

/// Records of a campaign that a person is shown.
const SHOWN_MAX: usize = 100;
/// Records read at once.
const PAGE: i64 = 1_000;
/// Letters that were left out and are named.
const LEFT_SHOWN_MAX: usize = 20;

/// What `dlq campaigns` takes.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Which one, as listed: `orders/3`; with what became of each of its records.
    id: Option<LetterId>,
    /// Most to list of each service.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(subcommand)]
    control: Option<ControlCommand>,
}

/// What may be done to a campaign.
#[derive(Debug, Subcommand)]
pub(super) enum ControlCommand {
    /// Send nothing more for now; what is under way ends.
    Pause {
        /// As listed: `orders/3`.
        id: LetterId,
    },
    /// Go on with a paused campaign, or one that its loop guard stopped.
    Resume {
        /// As listed: `orders/3`.
        id: LetterId,
    },
    /// End a campaign; what was not sent stays dead.
    Cancel {
        /// As listed: `orders/3`.
        id: LetterId,
    },
    /// Wait until a campaign rests.
    Watch {
        /// As listed: `orders/3`.
        id: LetterId,
    },
}

/// Lists, shows or controls.
pub(super) async fn run(target: &Target, args: Args) -> Result<Verdict> {
    match args.control {
        Some(ControlCommand::Pause { id }) => control(target, id, Control::Pause).await,
        Some(ControlCommand::Resume { id }) => control(target, id, Control::Resume).await,
        Some(ControlCommand::Cancel { id }) => control(target, id, Control::Cancel).await,
        Some(ControlCommand::Watch { id }) => {
            one(target, id).await?;
            follow(target, &[(id, 0)], &[], false).await
        }
        None => match args.id {
            Some(id) => show(target, id).await,
            None => list(target, args.limit).await,
        },
    }
}

/// Tells what was started and, unless `detach`, waits for its end and tells that.
pub(super) async fn follow(
    target: &Target,
    started: &[(LetterId, u64)],
    left: &[(LetterId, String)],
    detach: bool,
) -> Result<Verdict> {
    if started.is_empty() {
        match target.output() {
            Output::Json => output::json(&json!({ "campaigns": [], "left_out": left_out_json(left) })),
            Output::Table => {
                print_left_out(left);
                output::line(output::good("no dead letters to deal with"));
            }
        }
        return Ok(Verdict::of(left.is_empty()));
    }
    let ids: Vec<LetterId> = started.iter().map(|(id, _)| *id).collect();
    for (id, records) in started.iter().filter(|(_, records)| *records > 0) {
        let count = output::counted(*records, "dead letter");
        eprintln!("campaign {id}: {count}; to stop it: rondo dlq campaigns cancel {id}");
    }
    let ended = if detach { None } else { work::watch(target, &ids).await? };
    let watched = ended.is_some();
    let all = match ended {
        Some(all) => all,
        None => {
            let mut all = Vec::new();
            for id in &ids {
                all.push((*id, one(target, *id).await?));
            }
            all
        }
    };
    match target.output() {
        Output::Json => output::json(&json!({
            "campaigns": all.iter().map(|(id, campaign)| as_json(*id, campaign)).collect::<Vec<_>>(),
            "left_out": left_out_json(left),
        })),
        Output::Table => {
            print_left_out(left);
            print(&all);
            let troubled = |campaign: &Campaign| campaign.count("died_again") + campaign.count("left_out") > 0;
            if let Some((id, _)) = all.iter().find(|(_, campaign)| troubled(campaign)) {
                output::line(output::dim(format_args!(
                    "`rondo dlq campaigns {id}` says why for each"
                )));
            }
            if !watched {
                output::line(output::dim(format_args!(
                    "the service goes on with it; `rondo dlq campaigns watch {}` waits for its end",
                    ids[0]
                )));
            }
        }
    }
    Ok(match watched {
        true if left.is_empty() => work::verdict(&all),
        true => Verdict::Wanting,
        false => Verdict::Done,
    })
}

async fn one(target: &Target, id: LetterId) -> Result<Campaign> {
    let client = target.database(id.service).await?;
    match campaigns::list(&client, Some(id.row), 1).await?.pop() {
        Some(campaign) => Ok(campaign),
        None => bail!("there is no campaign {id}; `rondo dlq campaigns` lists those there are"),
    }
}

async fn list(target: &Target, limit: u32) -> Result<Verdict> {
    let mut all = Vec::new();
    for service in &SERVICES {
        let client = target.database(service.name).await?;
        let found = campaigns::list(&client, None, limit.into()).await?;
        let named = |campaign: Campaign| {
            let id = LetterId {
                service: service.name,
                row: campaign.id,
            };
            (id, campaign)
        };
        all.extend(found.into_iter().map(named));
    }
    all.sort_by_key(|(_, campaign)| std::cmp::Reverse(campaign.created_at));
    match target.output() {
        Output::Json => output::json(
            &all.iter()
                .map(|(id, campaign)| as_json(*id, campaign))
                .collect::<Vec<_>>(),
        ),
        Output::Table if all.is_empty() => output::line("nothing was decided about dead letters yet"),
        Output::Table => print(&all),
    }
    Ok(Verdict::Done)
}

async fn show(target: &Target, id: LetterId) -> Result<Verdict> {
    let campaign = one(target, id).await?;
    let client = target.database(id.service).await?;
    let mut entries: Vec<Entry> = Vec::new();
    let most = match target.output() {
        Output::Json => campaigns::RECORDS_MAX,
        Output::Table => SHOWN_MAX,
    };
    while entries.len() < most {
        let after = entries.last().map_or(0, |entry| entry.dead_letter);
        let page = campaigns::entries(&client, id.row, after, PAGE.min(most as i64)).await?;
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    entries.truncate(most);
    if target.output() == Output::Json {
        let mut shown = as_json(id, &campaign);
        shown["records"] = entries.iter().map(|entry| entry_json(id, entry)).collect();
        output::json(&shown);
        return Ok(Verdict::Done);
    }
    print(&[(id, campaign.clone())]);
    if let Some(transform) = &campaign.transform {
        output::line(format_args!("\n{}", output::bold("transform")));
        output::json(transform);
    }
    output::line(format_args!("\n{}", output::bold("records")));
    let mut table = Table::new(&["dead letter", "key", "type", "outcome", "sent", "settled", "detail"]);
    for entry in &entries {
        table.row([
            format!("{}/{}", id.service, entry.dead_letter),
            entry.key.clone().unwrap_or_else(|| "-".to_owned()),
            entry.event_type.clone().unwrap_or_else(|| "-".to_owned()),
            entry.outcome.clone(),
            entry.sent_at.map(output::time).unwrap_or_default(),
            entry.settled_at.map(output::time).unwrap_or_default(),
            entry.detail.clone().unwrap_or_default(),
        ]);
    }
    table.print();
    let more = campaign.records() - i64::try_from(entries.len()).unwrap_or(i64::MAX);
    if more > 0 {
        output::line(output::dim(format_args!("… and {more} more; --output json shows all")));
    }
    Ok(Verdict::Done)
}

async fn control(target: &Target, id: LetterId, control: Control) -> Result<Verdict> {
    one(target, id).await?;
    let mut client = target.database(id.service).await?;
    let tx = client.transaction().await?;
    campaigns::control(&tx, id.row, control).await?;
    tx.commit().await?;
    let campaign = one(target, id).await?;
    let wanted = match control {
        Control::Pause => "paused",
        Control::Resume => "running",
        Control::Cancel => "cancelled",
    };
    match target.output() {
        Output::Json => output::json(&as_json(id, &campaign)),
        Output::Table => print(&[(id, campaign.clone())]),
    }
    // One that ended meanwhile stays as it is.
    Ok(Verdict::of(campaign.state == wanted))
}

fn print(all: &[(LetterId, Campaign)]) {
    let mut table = Table::new(&["campaign", "what", "state", ">records", "outcomes", "by", "at", "why"]);
    for (id, campaign) in all {
        let outcomes: Vec<String> = campaign
            .outcomes
            .iter()
            .map(|(outcome, count)| format!("{count} {}", outcome.replace('_', " ")))
            .collect();
        let state = match campaign.state.as_str() {
            "done" => output::good("done").to_string(),
            "stopped" => output::bad("stopped").to_string(),
            state => output::warn(state).to_string(),
        };
        table.row([
            output::bold(id).to_string(),
            campaign.kind.clone(),
            state,
            campaign.records().to_string(),
            outcomes.join(", "),
            campaign.operator.clone(),
            output::time(campaign.created_at),
            campaign
                .why
                .clone()
                .or_else(|| campaign.reason.clone())
                .unwrap_or_default(),
        ]);
    }
    table.print();
}

/// Says which letters could not be dealt with.
pub(super) fn print_left_out(left: &[(LetterId, String)]) {
    if left.is_empty() {
        return;
    }
    let count = output::counted(left.len() as u64, "dead letter");
    output::line(output::warn(format_args!("{count} left out")));
    for (id, why) in left.iter().take(LEFT_SHOWN_MAX) {
        output::line(format_args!("  {id}: {why}"));
    }
    if left.len() > LEFT_SHOWN_MAX {
        output::line(output::dim(format_args!(
            "  … and {} more",
            left.len() - LEFT_SHOWN_MAX
        )));
    }
}

/// The same for programs.
pub(super) fn left_out_json(left: &[(LetterId, String)]) -> Value {
    left.iter()
        .map(|(id, why)| json!({ "id": id.to_string(), "why": why }))
        .collect()
}

fn as_json(id: LetterId, campaign: &Campaign) -> Value {
    let outcomes: serde_json::Map<String, Value> = campaign
        .outcomes
        .iter()
        .map(|(outcome, count)| (outcome.clone(), (*count).into()))
        .collect();
    json!({
        "id": id.to_string(),
        "kind": campaign.kind,
        "state": campaign.state,
        "why": campaign.why,
        "operator": campaign.operator,
        "reason": campaign.reason,
        "created_at": campaign.created_at,
        "changed_at": campaign.changed_at,
        "filter": campaign.filter,
        "transform": campaign.transform,
        "rate": campaign.rate,
        "returns_max": campaign.returns_max,
        "records_total": campaign.records(),
        "outcomes": outcomes,
    })
}

fn entry_json(id: LetterId, entry: &Entry) -> Value {
    json!({
        "id": format!("{}/{}", id.service, entry.dead_letter),
        "key": entry.key,
        "event_type": entry.event_type,
        "outcome": entry.outcome,
        "changed_value_hex": entry.value.as_deref().map(hex::encode),
        "sent_at": entry.sent_at,
        "settled_at": entry.settled_at,
        "detail": entry.detail,
    })
}
