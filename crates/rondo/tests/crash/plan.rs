//! How many faults, and the seed that all that is random comes from.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Few enough for every run of the tests.
const ROUNDS_DEFAULT: u32 = 3;

/// What a test is going to do.
pub(crate) struct Plan {
    /// How many faults must have met work under way.
    pub(crate) rounds: u32,
    /// For those who need randomness of their own.
    pub(crate) seed: u64,
    pub(crate) rng: StdRng,
}

impl Plan {
    /// What the environment says; printed, so that it can be repeated.
    pub(crate) fn of(test: &str) -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = variable("RONDO_CRASH_SEED").unwrap_or_else(|| u64::from(clock.subsec_nanos()) ^ clock.as_secs());
        let rounds = variable("RONDO_CRASH_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
        eprintln!("{test}: RONDO_CRASH_SEED={seed} RONDO_CRASH_ROUNDS={rounds}");
        Self {
            rounds,
            seed,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Waits for a random moment within `span`: the only sleep of these tests, and the point of them.
    pub(crate) async fn moment(&mut self, span: Duration) -> Duration {
        let moment = span.mul_f64(self.rng.random());
        tokio::time::sleep(moment).await;
        moment
    }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let Ok(value) = text.parse() else {
        panic!("{name} is not a number: {text}");
    };
    Some(value)
}
