//! `rondo dlq skip` and `rondo dlq discard`: lets dead letters go, so that what waits behind them goes on. Both need a
//! reason and a name, and are written down.

use anyhow::{Result, bail};
use common::campaigns::{Kind, Plan, RECORDS_MAX};
use common::parking::Chosen;

use super::selection::{self, Selection};
use super::{LetterId, campaigns, work};
use crate::cli::output::{self, Table};
use crate::cli::{Output, Target, Verdict};

/// Letters a second: releasing a key costs little.
const RATE: f64 = 1_000.0;
/// Letters of a dry run that a person is shown.
const SHOWN_MAX: usize = 50;

/// What `dlq skip` and `dlq discard` take.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// All dead letters of all services.
    #[arg(long)]
    all: bool,
    /// Why they are let go; kept for good.
    #[arg(long, value_name = "TEXT", value_parser = worded)]
    reason: String,
    /// Who decides; the user of this shell if nobody is named.
    #[arg(long, env = "RONDO_OPERATOR", value_name = "NAME")]
    operator: Option<String>,
    /// Show which, and let nothing go.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
}

/// Lets go, or shows what that would be.
pub(super) async fn run(target: &Target, kind: Kind, args: Args) -> Result<Verdict> {
    if !args.all && args.selection.is_everything() {
        output::refuse("which dead letters? Give ids such as orders/12, a filter, or --all");
    }
    let Some(operator) = work::operator(args.operator.as_deref()) else {
        output::refuse("who decides? Give --operator NAME, or set RONDO_OPERATOR");
    };
    let (mut found, mut left, mut going, mut services) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (service, filter) in args.selection.filters(!args.selection.names_each()) {
        let client = target.database(service).await?;
        let mut chosen = Vec::new();
        let read = selection::each(&client, &filter, RECORDS_MAX, async |letter| {
            let id = LetterId {
                service,
                row: letter.id,
            };
            found.push(id);
            match work::left_out(kind, service, &letter) {
                Some(why) => left.push((id, why)),
                None => {
                    chosen.push(Chosen {
                        dead_letter: letter.id,
                        value: None,
                    });
                    going.push((id, letter.key, letter.event_type, letter.waiting));
                }
            }
            Ok(())
        })
        .await?;
        work::warn_of_bound(read);
        let plan = Plan {
            kind,
            operator: operator.clone(),
            reason: Some(args.reason.clone()),
            filter: selection::as_json(&filter),
            transform: None,
            rate: RATE,
            returns_max: 1,
        };
        services.push((service, plan, chosen));
    }
    if let Some(missing) = args.selection.missing(&found).first() {
        bail!("there is no dead letter {missing}; `rondo dlq list --all` lists those there are");
    }
    if args.dry_run {
        show(target, kind, &going, &left);
        return Ok(Verdict::of(left.is_empty()));
    }
    let started = work::start(target, services).await?;
    campaigns::follow(target, &started, &left, args.detach).await
}

type Going = (LetterId, Option<String>, Option<String>, i64);

fn show(target: &Target, kind: Kind, going: &[Going], left: &[(LetterId, String)]) {
    if target.output() == Output::Json {
        let records: Vec<serde_json::Value> = going
            .iter()
            .map(|(id, key, event_type, waiting)| {
                serde_json::json!({ "id": id.to_string(), "key": key, "event_type": event_type, "waiting": waiting })
            })
            .collect();
        output::json(&serde_json::json!({
            "dry_run": true, "kind": kind.as_str(), "records": records, "left_out": campaigns::left_out_json(left),
        }));
        return;
    }
    let mut table = Table::new(&["id", "key", "type", ">goes on behind it"]);
    for (id, key, event_type, waiting) in going.iter().take(SHOWN_MAX) {
        table.row([
            output::bold(id).to_string(),
            key.clone().unwrap_or_else(|| "-".to_owned()),
            event_type.clone().unwrap_or_else(|| "-".to_owned()),
            waiting.to_string(),
        ]);
    }
    if !table.is_empty() {
        table.print();
    }
    campaigns::print_left_out(left);
    let count = output::counted(going.len() as u64, "dead letter");
    output::line(format_args!(
        "\n{count}: that is what {} would let go; nothing was",
        kind.as_str()
    ));
}

fn worded(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a reason has words".to_owned());
    }
    Ok(text.to_owned())
}
