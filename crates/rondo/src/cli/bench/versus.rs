//! `rondo bench versus`: this system and another in turns, on the same machine, and the medians side by side.
//!
//! The other is a command that prints a line of JSON for each level, as `rondo bench --output json` does: `peer`,
//! `concurrency`, `sagas_per_s`, `p50_ms`, `p99_ms`, and `variant` if it has several. What else it prints is passed on.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::load::{Plan, Shape};
use super::{Bench, DRAIN, Goods, output};
use crate::cli::output::Table;
use crate::cli::{Output, Target, Verdict};

/// What `bench versus` takes.
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    /// The other system's bench, run by `sh -c`.
    command: String,
    #[command(flatten)]
    goods: Goods,
    /// Orders in flight; several levels separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256], value_name = "N,…", value_parser = clap::value_parser!(u32).range(1..=super::IN_FLIGHT_MAX))]
    in_flight: Vec<u32>,
    /// Turns of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Seconds of each level before anything counts.
    #[arg(long, default_value_t = 5, value_name = "SECS")]
    warm_up: u64,
    /// Seconds of each level that count.
    #[arg(long, default_value_t = 20, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    duration: u64,
}

/// One line of one turn.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    peer: String,
    #[serde(default)]
    variant: Option<String>,
    concurrency: u32,
    sagas_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Medians of one level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Medians {
    sagas_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// All lines so far, by system and level.
#[derive(Debug, Default)]
struct Lines(BTreeMap<(String, u32), Vec<Line>>);

/// Runs both in turns.
///
/// # Errors
/// Either could not be measured, or the audit fails.
pub(super) async fn run(args: Args, target: &Target) -> Result<Verdict> {
    let bench = Bench::prepare(&args.goods, target).await?;
    let mut lines = Lines::default();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}: rondo", args.rounds);
        for &in_flight in &args.in_flight {
            let measured = bench
                .measure(Plan {
                    shape: Shape::Closed { in_flight },
                    warm_up: Duration::from_secs(args.warm_up),
                    duration: Duration::from_secs(args.duration),
                    drain: DRAIN,
                })
                .await?;
            if !measured.held() {
                bail!("{in_flight} in flight was not held: {}", measured.why_not());
            }
            let ms = |quantile| measured.tally.ended.value_at_quantile(quantile) as f64 / 1e3;
            lines.add(Line {
                peer: "rondo".to_owned(),
                variant: None,
                concurrency: in_flight,
                sagas_per_s: measured.per_second(),
                p50_ms: ms(0.5),
                p99_ms: ms(0.99),
            });
        }
        eprintln!("round {round} of {}: {}", args.rounds, args.command);
        for line in other(&args.command).await? {
            lines.add(line);
        }
    }
    bench.prove().await?;
    let medians = lines.medians();
    match target.output() {
        Output::Json => output::json(
            &medians
                .iter()
                .map(|((system, in_flight), medians)| {
                    json!({"system": system, "concurrency": in_flight, "median": medians})
                })
                .collect::<Vec<_>>(),
        ),
        Output::Table => print(&medians, args.rounds),
    }
    Ok(Verdict::Done)
}

/// One turn of the other system.
async fn other(command: &str) -> Result<Vec<Line>> {
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("there is no sh to run the command with")?;
    let mut printed = BufReader::new(child.stdout.take().expect("it was piped")).lines();
    let mut lines = Vec::new();
    while let Some(text) = printed.next_line().await? {
        match serde_json::from_str(&text) {
            Ok(line) => lines.push(line),
            Err(_) => eprintln!("{text}"),
        }
    }
    let status = child.wait().await?;
    if !status.success() {
        bail!("`{command}` failed: {status}");
    }
    if lines.is_empty() {
        bail!("`{command}` printed no line of JSON with peer, concurrency, sagas_per_s, p50_ms and p99_ms");
    }
    Ok(lines)
}

impl Lines {
    fn add(&mut self, line: Line) {
        let system = match &line.variant {
            Some(variant) => format!("{} {variant}", line.peer),
            None => line.peer.clone(),
        };
        self.0.entry((system, line.concurrency)).or_default().push(line);
    }

    fn medians(&self) -> BTreeMap<(String, u32), Medians> {
        let medians = |lines: &Vec<Line>| Medians {
            sagas_per_s: median(lines.iter().map(|line| line.sagas_per_s)),
            p50_ms: median(lines.iter().map(|line| line.p50_ms)),
            p99_ms: median(lines.iter().map(|line| line.p99_ms)),
        };
        self.0.iter().map(|(of, lines)| (of.clone(), medians(lines))).collect()
    }
}

fn print(medians: &BTreeMap<(String, u32), Medians>, rounds: u8) {
    let mut table = Table::new(&[
        "system",
        ">in flight",
        ">sagas/s",
        ">p50 ms",
        ">p99 ms",
        ">rondo's rate",
        ">rondo's p50",
    ]);
    for ((system, in_flight), of) in medians {
        let ours = medians
            .get(&("rondo".to_owned(), *in_flight))
            .filter(|_| system != "rondo");
        let times = |ours: f64, theirs: f64| format!("× {:.2}", ours / theirs);
        table.row([
            system.clone(),
            in_flight.to_string(),
            format!("{:.0}", of.sagas_per_s),
            format!("{:.1}", of.p50_ms),
            format!("{:.1}", of.p99_ms),
            ours.map_or_else(String::new, |ours| times(ours.sagas_per_s, of.sagas_per_s)),
            ours.map_or_else(String::new, |ours| times(ours.p50_ms, of.p50_ms)),
        ]);
    }
    table.print();
    output::line(format_args!(
        "\nmedians of {rounds} rounds in turns; the audit is clean"
    ));
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        length if length.is_multiple_of(2) => f64::midpoint(figures[middle - 1], figures[middle]),
        _ => figures[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        assert!((median([3.0, 100.0, 1.0].into_iter()) - 3.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 100.0].into_iter()) - 3.0).abs() < f64::EPSILON);
    }

    #[tokio::test]
    async fn another_bench_is_read_line_by_line_and_told_by_variant_and_level() {
        let command = r#"echo starting; for c in 1 64; do
            echo "{\"peer\":\"other\",\"variant\":\"local\",\"concurrency\":$c,\"sagas\":9,\"sagas_per_s\":$c.5,\"p50_ms\":2,\"p99_ms\":3}"; done"#;
        let mut lines = Lines::default();
        for line in other(command).await.unwrap() {
            lines.add(line);
        }
        let medians = lines.medians();
        assert_eq!(medians.len(), 2);
        assert!((medians[&("other local".to_owned(), 64)].sagas_per_s - 64.5).abs() < f64::EPSILON);
    }

    #[tokio::test]
    async fn a_bench_that_fails_or_says_nothing_is_no_comparison() {
        assert!(
            other("exit 3")
                .await
                .unwrap_err()
                .to_string()
                .contains("exit status: 3")
        );
        assert!(
            other("echo hello")
                .await
                .unwrap_err()
                .to_string()
                .contains("sagas_per_s")
        );
    }
}
