//! The bar of a replay on stderr: what is being done, at which rate, how far behind, how long still.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::replay::Watch;
use indicatif::ProgressBar;

use crate::cli::output;

/// How often the bar is brought up to date.
const TICK: Duration = Duration::from_millis(125);

/// Does `work` and shows how it goes.
pub(in crate::cli) async fn shown<T>(watch: Arc<Watch>, work: impl Future<Output = T>) -> T {
    let bar = output::progress(Some(1), "{spinner} {bar:30.cyan} {msg}  {elapsed}");
    let mut pace = Pace::default();
    let mut ticks = tokio::time::interval(TICK);
    let mut work = std::pin::pin!(work);
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            _ = ticks.tick() => pace.show(&bar, watch.look()),
        }
    };
    bar.finish_and_clear();
    done
}

/// How fast one phase goes.
#[derive(Default)]
struct Pace {
    phase: &'static str,
    since: Option<Instant>,
}

impl Pace {
    fn show(&mut self, bar: &ProgressBar, (phase, done, total): (&'static str, u64, u64)) {
        if self.phase != phase {
            self.phase = phase;
            self.since = Some(Instant::now());
        }
        bar.set_length(total.max(1));
        bar.set_position(done.min(total));
        let elapsed = self.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        bar.set_message(message(phase, done, total, elapsed));
    }
}

fn message(phase: &str, done: u64, total: u64, elapsed_secs: f64) -> String {
    if total == 0 {
        return phase.to_owned();
    }
    let behind = total.saturating_sub(done);
    let mut text = format!("{phase}: {} of {}", output::count(done), output::count(total));
    if done > 0 && elapsed_secs > 0.0 {
        let rate = done as f64 / elapsed_secs;
        let left_ms = (behind as f64 / rate * 1_000.0) as i64;
        text.push_str(&format!(
            ", {}/s, {} behind, {} left",
            output::count(rate as u64),
            output::count(behind),
            output::span(left_ms)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_tells_rate_lag_and_time_left() {
        let text = message("reading the log", 250_000, 1_000_000, 2.0);
        assert_eq!(
            text,
            "reading the log: 250 000 of 1 000 000, 125 000/s, 750 000 behind, 6.0 s left"
        );
        assert_eq!(message("building indexes", 0, 0, 9.0), "building indexes");
    }
}
