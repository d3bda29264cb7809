//! A decision about dead letters: who goes, who is left out and why, writing it down, and watching the service do it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use common::campaigns::{self, Campaign, Kind, Plan, RECORDS_MAX};
use common::parking::{Chosen, DeadLetter};
use deadpool_postgres::Client;

use super::LetterId;
use crate::cli::{Target, Verdict, output};

/// How often a campaign is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long nothing may move before it is said what that may mean.
const STILL: Duration = Duration::from_secs(10);

/// Who decides: whoever is named, else the user of this shell, if that can be told.
pub(super) fn operator(given: Option<&str>) -> Option<String> {
    let named = given
        .map(str::to_owned)
        .or_else(|| std::env::var("USER").ok())
        .or_else(|| std::env::var("LOGNAME").ok())
        .map(|name| name.trim().to_owned());
    named.filter(|name| !name.is_empty())
}

/// Why a letter cannot be dealt with as asked, if it cannot.
pub(super) fn left_out(kind: Kind, service: &str, letter: &DeadLetter) -> Option<String> {
    if let Some(campaign) = letter.campaign {
        return Some(format!("campaign {service}/{campaign} has it already"));
    }
    if letter.status != "dead" {
        return Some(format!("it is {}", letter.status));
    }
    (kind == Kind::Redrive && letter.key.is_none()).then(|| {
        "it has no valid envelope, so its consumer cannot handle it; `rondo dlq export` keeps what it says, `rondo dlq \
         discard` lets it go"
            .to_owned()
    })
}

/// Writes the campaigns down, one for each service, each in one transaction.
pub(super) async fn start(
    target: &Target,
    services: Vec<(&'static str, Plan, Vec<Chosen>)>,
) -> Result<Vec<(LetterId, u64)>> {
    let mut started = Vec::new();
    for (service, plan, mut chosen) in services {
        if chosen.is_empty() {
            continue;
        }
        chosen.sort_by_key(|one| one.dead_letter);
        let mut client = target.database(service).await?;
        let tx = client.transaction().await?;
        let created = campaigns::create(&tx, service, &plan, &chosen)
            .await
            .context("the campaign could not be written down")?;
        tx.commit().await?;
        if let Some(created) = created {
            let id = LetterId {
                service,
                row: created.id,
            };
            started.push((id, created.records));
        }
    }
    Ok(started)
}

/// Says that not all of what was found is in the campaign.
pub(super) fn warn_of_bound(found: usize) {
    if found >= RECORDS_MAX {
        eprintln!(
            "{}",
            output::warn(format_args!(
                "one campaign has {RECORDS_MAX} dead letters at most; run this again for the rest"
            ))
        );
    }
}

/// Waits until these campaigns rest, with a progress bar, and returns them. Ctrl-C stops the watching, not the work.
pub(super) async fn watch(target: &Target, ids: &[LetterId]) -> Result<Option<Vec<(LetterId, Campaign)>>> {
    let mut clients: Vec<(LetterId, Client)> = Vec::new();
    for id in ids {
        clients.push((*id, target.database(id.service).await?));
    }
    let bar = output::progress(None, "{spinner} {bar:30.cyan} {pos}/{len}  {msg}  {elapsed}");
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let (mut moved_at, mut done_before, mut told) = (Instant::now(), 0, false);
    loop {
        let mut all = Vec::new();
        for (id, client) in &clients {
            let found = campaigns::list(client, Some(id.row), 1).await?.pop();
            all.push((*id, found.with_context(|| format!("campaign {id} is gone"))?));
        }
        let records: i64 = all.iter().map(|(_, campaign)| campaign.records()).sum();
        let done = records - all.iter().map(|(_, campaign)| campaign.open()).sum::<i64>();
        bar.set_length(records.cast_unsigned());
        bar.set_position(done.cast_unsigned());
        bar.set_message(messages(&all));
        if all.iter().all(|(_, campaign)| campaign.rests()) {
            bar.finish_and_clear();
            return Ok(Some(all));
        }
        if done != done_before {
            (moved_at, done_before) = (Instant::now(), done);
        } else if !told && moved_at.elapsed() > STILL {
            told = true;
            bar.suspend(|| {
                eprintln!(
                    "nothing has moved for {} s: the service whose dead letters these are must be running, and what it \
                     tries again waits between tries. `rondo dlq campaigns {}` shows more",
                    STILL.as_secs(),
                    ids[0]
                );
            });
        }
        tokio::select! {
            _ = &mut interrupted => {
                bar.finish_and_clear();
                return Ok(None);
            }
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

fn messages(all: &[(LetterId, Campaign)]) -> String {
    let of = |outcome: &str| all.iter().map(|(_, campaign)| campaign.count(outcome)).sum::<i64>();
    let told = [
        ("applied", "applied"),
        ("died_again", "died again"),
        ("sent", "under way"),
    ];
    let told: Vec<String> = told
        .iter()
        .filter(|(outcome, _)| of(outcome) > 0)
        .map(|(outcome, words)| format!("{} {words}", of(outcome)))
        .collect();
    told.join(", ")
}

/// Well, if every letter came to a good end.
pub(super) fn verdict(all: &[(LetterId, Campaign)]) -> Verdict {
    let well = |campaign: &Campaign| {
        campaign.state == "done" && campaign.count("died_again") == 0 && campaign.count("left_out") == 0
    };
    Verdict::of(all.iter().all(|(_, campaign)| well(campaign)))
}
