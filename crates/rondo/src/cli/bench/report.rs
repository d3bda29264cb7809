//! The figures of a run: a table for people, one line of JSON for programs and for later comparison.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::load::{Measured, Shape};
use super::mix::Mix;
use super::recorder::Times;
use super::usage::Memory;
use crate::cli::output::{self, Table};

/// The percentiles that are told.
const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

/// Times by percentile, in milliseconds.
type Percentiles = BTreeMap<String, f64>;

/// A run's figures. The first fields are named as other benches of the same saga name theirs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Report {
    peer: String,
    /// In flight; none for an open loop.
    concurrency: Option<u32>,
    /// Of an open loop.
    rate: Option<u32>,
    mix: String,
    sagas: u64,
    cancelled: u64,
    stuck: u64,
    sagas_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    duration_s: f64,
    accepted_ms: Percentiles,
    confirmed_ms: Percentiles,
    ended_ms: Percentiles,
    refused: BTreeMap<String, u64>,
    shed: u64,
    unfinished: u64,
    /// Processor milliseconds a saga, by process.
    cpu_ms_per_saga: BTreeMap<String, f64>,
    commits_per_saga: f64,
    rows_per_saga: f64,
    wal_bytes_per_saga: f64,
    wal_syncs_per_saga: Option<f64>,
    /// Most memory in each quarter of the run, by process.
    #[serde(default)]
    memory_mib: Memory,
    held: bool,
}

/// Reads the report of an earlier run.
///
/// # Errors
/// The file holds none.
pub(super) fn read(file: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{} holds no figures of a run; `rondo bench --output json` writes them",
            file.display()
        )
    })
}

impl Report {
    /// The figures of what was measured.
    pub(super) fn of(shape: Shape, mix: Mix, measured: &Measured) -> Self {
        let (tally, spent) = (&measured.tally, &measured.spent);
        let sagas = measured.sagas() as f64;
        let per_saga = |all: i64| all as f64 / sagas;
        let (concurrency, rate) = match shape {
            Shape::Closed { in_flight } => (Some(in_flight), None),
            Shape::Open { rate } => (None, Some(rate)),
        };
        let ended_ms = percentiles(&tally.ended);
        Self {
            peer: "rondo".to_owned(),
            concurrency,
            rate,
            mix: mix.to_string(),
            sagas: measured.sagas(),
            cancelled: tally.cancelled,
            stuck: tally.stuck,
            sagas_per_s: rounded(measured.per_second()),
            p50_ms: ended_ms["p50"],
            p99_ms: ended_ms["p99"],
            duration_s: measured.duration.as_secs_f64(),
            accepted_ms: percentiles(&tally.accepted),
            confirmed_ms: percentiles(&tally.confirmed),
            ended_ms,
            refused: tally.refused.clone(),
            shed: tally.shed,
            unfinished: tally.unfinished,
            cpu_ms_per_saga: spent
                .cpu_seconds
                .iter()
                .map(|(process, seconds)| (process.clone(), to_a_thousandth(seconds * 1e3 / sagas)))
                .collect(),
            commits_per_saga: to_a_thousandth(per_saga(spent.commits)),
            rows_per_saga: rounded(per_saga(spent.rows)),
            wal_bytes_per_saga: per_saga(spent.wal_bytes).round(),
            wal_syncs_per_saga: spent.wal_syncs.map(|syncs| to_a_thousandth(per_saga(syncs))),
            memory_mib: spent.memory.clone(),
            held: measured.held(),
        }
    }

    /// The figure by which sweeps and comparisons go.
    pub(super) fn sagas_per_s(&self) -> f64 {
        self.sagas_per_s
    }

    /// Prints it, beside an earlier one if there is one.
    pub(super) fn print(&self, before: Option<&Self>) {
        let asked = match (self.concurrency, self.rate) {
            (_, Some(rate)) => format!("{rate} orders/s"),
            (in_flight, None) => format!("{} in flight", in_flight.unwrap_or_default()),
        };
        let mut title = format!(
            "{} sagas/s   {asked}, {:.0} s, {}",
            output::bold(output::count(self.sagas_per_s.round() as u64)),
            self.duration_s,
            if self.mix.is_empty() { "all complete" } else { &self.mix },
        );
        if let Some(before) = before {
            title = format!("{title}   {}", ratio(self.sagas_per_s, before.sagas_per_s()));
        }
        output::line(title);
        output::line(format_args!(
            "{} ended: {} cancelled, {} stuck; the audit is clean\n",
            output::count(self.sagas),
            output::count(self.cancelled),
            output::count(self.stuck)
        ));
        self.times(before).print();
        output::line("");
        self.costs(before).print();
        output::line("");
        self.memory().print();
        for (why, times) in &self.refused {
            output::line(output::warn(format_args!("{} × {why}", output::count(*times))));
        }
        if self.shed > 0 {
            output::line(output::bad(format_args!(
                "{} orders were due and not placed: too many were in flight",
                output::count(self.shed)
            )));
        }
        if self.unfinished > 0 {
            output::line(output::bad(format_args!(
                "{} orders were accepted and their end was not seen",
                output::count(self.unfinished)
            )));
        }
        if self.rate.is_some() && !self.held {
            output::line(output::bad("the rate was not held"));
        }
    }

    fn times(&self, before: Option<&Self>) -> Table {
        let mut table = Table::new(&["ms", ">p50", ">p90", ">p99", ">p99.9", ">max"]);
        let parts = |report: &Self| {
            [
                ("accepted", report.accepted_ms.clone()),
                ("confirmed", report.confirmed_ms.clone()),
                ("ended", report.ended_ms.clone()),
            ]
        };
        let earlier = before.map(parts);
        for (index, (part, times)) in parts(self).into_iter().enumerate() {
            let cell = |name: &str| times.get(name).map_or("-".to_owned(), |ms| format!("{ms:.1}"));
            table.row(std::iter::once(part.to_owned()).chain(PERCENTILES.iter().map(|(name, _)| cell(name))));
            if let Some((_, then)) = earlier.as_ref().map(|earlier| &earlier[index]) {
                let cell = |name: &str| {
                    let both = times.get(name).zip(then.get(name));
                    both.map_or("-".to_owned(), |(now, then)| ratio(*now, *then))
                };
                let cells = PERCENTILES.iter().map(|(name, _)| cell(name));
                table.row(std::iter::once("  against before".to_owned()).chain(cells));
            }
        }
        table
    }

    fn memory(&self) -> Table {
        let mut table = Table::new(&["most memory, MiB", ">1st quarter", ">2nd", ">3rd", ">4th"]);
        for (process, quarters) in self.memory_mib.iter() {
            table.row(std::iter::once(process.to_owned()).chain(quarters.map(output::count)));
        }
        table
    }

    fn costs(&self, before: Option<&Self>) -> Table {
        let mut headers = vec!["a saga costs", ">"];
        if before.is_some() {
            headers.push(">against before");
        }
        let mut table = Table::new(&headers);
        let mut row = |what: String, now: f64, unit: &str, then: Option<f64>| {
            let mut cells = vec![what, format!("{now} {unit}")];
            if before.is_some() {
                cells.push(then.map_or("-".to_owned(), |then| ratio(now, then)));
            }
            table.row(cells);
        };
        for (process, ms) in &self.cpu_ms_per_saga {
            let then = before.and_then(|before| before.cpu_ms_per_saga.get(process).copied());
            row(format!("processor, {process}"), *ms, "ms", then);
        }
        row(
            "commits".to_owned(),
            self.commits_per_saga,
            "",
            before.map(|before| before.commits_per_saga),
        );
        row(
            "rows written".to_owned(),
            self.rows_per_saga,
            "",
            before.map(|before| before.rows_per_saga),
        );
        row(
            "log of Postgres".to_owned(),
            self.wal_bytes_per_saga,
            "bytes",
            before.map(|before| before.wal_bytes_per_saga),
        );
        if let Some(syncs) = self.wal_syncs_per_saga {
            let then = before.and_then(|before| before.wal_syncs_per_saga);
            row("flushes of it".to_owned(), syncs, "", then);
        }
        table
    }
}

fn percentiles(times: &Times) -> Percentiles {
    let of = |quantile| rounded(times.value_at_quantile(quantile) as f64 / 1e3);
    PERCENTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), of(*quantile)))
        .collect()
}

/// To a tenth.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn to_a_thousandth(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// `× 1.25`, how many times as much as before.
fn ratio(now: f64, then: f64) -> String {
    if then == 0.0 {
        return "-".to_owned();
    }
    format!("× {:.2}", now / then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_milliseconds_to_a_tenth() {
        let mut times = Times::new_with_bounds(1, 600_000_000, 3).unwrap();
        for ms in 1..=100 {
            times.record(ms * 1_000).unwrap();
        }
        let told = percentiles(&times);
        assert!(
            (told["p50"] - 50.0).abs() < 0.2 && (told["max"] - 100.0).abs() < 0.2,
            "{told:?}"
        );
    }

    #[test]
    fn a_ratio_says_how_many_times_as_much() {
        assert_eq!(ratio(250.0, 200.0), "× 1.25");
        assert_eq!(ratio(1.0, 0.0), "-");
    }

    #[test]
    fn a_file_without_figures_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}").unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.contains("bench --output json"), "{error}");
    }
}
