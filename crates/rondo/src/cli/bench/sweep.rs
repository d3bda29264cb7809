//! `rondo bench sweep`: the highest rate that is held with its p99 under a bound, and the curve that leads there.
//!
//! Rates rise by half until one is not held, and then the gap is halved until it is narrow. Every step is an open loop, so
//! a rate that is too high shows itself by its times. One stall of the machine does so, too: a rate that is not held is tried
//! once more before that is believed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use serde::Serialize;
use serde_json::json;

use super::curve::{Curve, Point};
use super::load::{Plan, Shape};
use super::{Bench, Goods, output};
use crate::cli::{Output, Target, Verdict};

/// Steps after which a sweep ends, however wide the gap still is.
const STEPS_MAX: usize = 36;
/// How long the last orders of a step are waited for: a rate that needs longer is not held.
const DRAIN: Duration = Duration::from_secs(30);

/// What `bench sweep` takes.
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    goods: Goods,
    /// The rate to begin with, in orders a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    from: u32,
    /// Highest p99, from when an order was due to its end, that counts as held.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    p99_max: u32,
    /// Seconds of each step before anything counts.
    #[arg(long, default_value_t = 3, value_name = "SECS")]
    warm_up: u64,
    /// Seconds of each step that count.
    #[arg(long, default_value_t = 10, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    duration: u64,
    /// Ends when the gap between held and not held is narrower than so many in a hundred.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    precision: u32,
    /// Draws the latency curve into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// One step of the sweep.
#[derive(Clone, Debug, Serialize)]
struct Step {
    rate: u32,
    sagas_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    held: bool,
}

/// Runs the sweep.
///
/// # Errors
/// The installation cannot be reached, the curve cannot be written, or the audit fails.
pub(super) async fn run(args: Args, target: &Target) -> Result<Verdict> {
    let bench = Bench::prepare(&args.goods, target).await?;
    let mut search = Search::new(args.from, args.precision);
    let mut steps: Vec<Step> = Vec::new();
    while let Some(rate) = search.next().filter(|_| steps.len() < STEPS_MAX) {
        let plan = Plan {
            shape: Shape::Open { rate },
            warm_up: Duration::from_secs(args.warm_up),
            duration: Duration::from_secs(args.duration),
            drain: DRAIN,
        };
        let measured = bench.measure(plan).await?;
        let ms = |quantile| measured.tally.ended.value_at_quantile(quantile) as f64 / 1e3;
        let step = Step {
            rate,
            sagas_per_s: measured.per_second(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            held: measured.held() && ms(0.99) <= f64::from(args.p99_max),
        };
        let verdict = if step.held {
            output::good("held")
        } else {
            output::bad("not held")
        };
        if target.output() == Output::Table {
            output::line(format_args!(
                "{:>7} orders/s   {:>7.0} ended/s   p50 {:>8.1} ms   p99 {:>8.1} ms   {verdict}",
                step.rate, step.sagas_per_s, step.p50_ms, step.p99_ms
            ));
        }
        search.heard(step.held);
        steps.push(step);
    }
    bench.prove().await?;
    if let Some(file) = &args.svg {
        let points = better(&steps).into_iter().map(|step| Point {
            rate: f64::from(step.rate),
            p50_ms: step.p50_ms,
            p99_ms: step.p99_ms,
        });
        let curve = Curve::new(points.collect(), f64::from(args.p99_max));
        std::fs::write(file, curve.svg()).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    match target.output() {
        Output::Json => output::json(&json!({
            "highest_held": search.highest(),
            "p99_max_ms": args.p99_max,
            "steps": steps,
        })),
        Output::Table => match search.highest() {
            Some(rate) => output::line(format_args!(
                "\n{} orders/s held with p99 under {} ms; the audit is clean",
                output::bold(output::count(rate.into())),
                args.p99_max
            )),
            None => bail!(
                "not even {} orders/s was held with p99 under {} ms; begin lower, by --from",
                args.from,
                args.p99_max
            ),
        },
    }
    Ok(Verdict::of(search.highest().is_some()))
}

/// Of a rate that was tried twice the better step.
fn better(steps: &[Step]) -> Vec<&Step> {
    let mut best: Vec<&Step> = Vec::new();
    for step in steps {
        match best.iter_mut().find(|other| other.rate == step.rate) {
            Some(other) if step.p99_ms < other.p99_ms => *other = step,
            Some(_) => {}
            None => best.push(step),
        }
    }
    best
}

/// Looks for the highest rate that is held.
#[derive(Debug)]
struct Search {
    next: u32,
    /// Whether it was not held once.
    doubted: bool,
    precision: u32,
    held: Option<u32>,
    not_held: Option<u32>,
}

impl Search {
    fn new(from: u32, precision: u32) -> Self {
        Self {
            next: from,
            doubted: false,
            precision,
            held: None,
            not_held: None,
        }
    }

    /// The next rate to try; none when the answer is known well enough.
    fn next(&self) -> Option<u32> {
        let narrow = match (self.held, self.not_held) {
            (Some(held), Some(not_held)) => {
                u64::from(not_held - held) * 100 <= u64::from(not_held) * u64::from(self.precision)
                    || not_held - held < 2
            }
            (None, Some(_)) => true,
            (_, None) => false,
        };
        (!narrow).then_some(self.next)
    }

    /// How it went with the rate that was to be tried.
    fn heard(&mut self, held: bool) {
        if !held && !self.doubted {
            self.doubted = true;
            return;
        }
        self.doubted = false;
        if held {
            self.held = Some(self.next);
        } else {
            self.not_held = Some(self.next);
        }
        self.next = match (self.held, self.not_held) {
            (Some(held), Some(not_held)) => u32::midpoint(held, not_held),
            (Some(held), None) => held.saturating_add((held / 2).max(1)),
            (None, _) => self.next,
        };
    }

    /// The highest that was held.
    fn highest(&self) -> Option<u32> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(limit: u32, from: u32) -> (Option<u32>, usize) {
        let mut search = Search::new(from, 5);
        let mut steps = 0;
        while let Some(rate) = search.next() {
            search.heard(rate <= limit);
            steps += 1;
        }
        (search.highest(), steps)
    }

    #[test]
    fn the_highest_rate_is_found_to_the_precision_asked_for() {
        for limit in [100, 137, 999, 6_500, 40_000] {
            let (highest, steps) = found(limit, 100);
            let highest = highest.unwrap();
            assert!(
                highest <= limit && u64::from(highest) * 106 >= u64::from(limit) * 100 - 106,
                "{limit}: {highest}"
            );
            assert!(steps <= STEPS_MAX, "{limit}: {steps} steps");
        }
    }

    #[test]
    fn a_first_rate_that_is_not_held_ends_the_search() {
        assert_eq!(found(50, 100), (None, 2));
        assert_eq!(found(1, 1).0, Some(1));
    }

    #[test]
    fn a_rate_that_a_stall_spoilt_is_tried_again_and_drawn_as_it_is() {
        let mut search = Search::new(100, 5);
        search.heard(false);
        assert_eq!(search.next(), Some(100));
        search.heard(true);
        assert_eq!((search.highest(), search.next()), (Some(100), Some(150)));
        let step = |rate, p99_ms| Step {
            rate,
            sagas_per_s: 0.0,
            p50_ms: 0.0,
            p99_ms,
            held: false,
        };
        let steps = [step(100, 900.0), step(100, 40.0), step(150, 60.0), step(150, 70.0)];
        let drawn: Vec<_> = better(&steps).iter().map(|step| (step.rate, step.p99_ms)).collect();
        assert_eq!(drawn, [(100, 40.0), (150, 60.0)]);
    }
}
