//! Waiting on conditions.

use std::fmt::Debug;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The first pause between two looks; it doubles up to [`PAUSE_MS_MAX`].
const PAUSE_MS_MIN: u64 = 5;

/// Short enough not to be felt, long enough not to keep a core from the code under test.
const PAUSE_MS_MAX: u64 = 100;

/// What a look at a condition can say.
pub trait Answer {
    /// What is known once the condition holds.
    type Value;

    /// The value, or words for the state that was found instead.
    ///
    /// # Errors
    ///
    /// The condition does not hold yet.
    fn found(self) -> Result<Self::Value, String>;
}

impl Answer for bool {
    type Value = ();

    fn found(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".to_owned()) }
    }
}

impl<T> Answer for Option<T> {
    type Value = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "none".to_owned())
    }
}

/// The error is the state as it was found: `Err(format!("{seen} of 5 orders ended"))`.
impl<T, E: Debug> Answer for Result<T, E> {
    type Value = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

/// Looks until the condition holds and returns what it found; panics after `patience` with `what` and the last state.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # let mut looks = 0;
/// let found = testkit::eventually("a third look", std::time::Duration::from_secs(5), async || {
///     looks += 1;
///     if looks == 3 { Ok("here") } else { Err(format!("after {looks} looks")) }
/// })
/// .await;
/// assert_eq!(found, "here");
/// # }
/// ```
#[track_caller]
pub fn eventually<A: Answer, F: AsyncFnMut() -> A>(
    what: &str,
    patience: Duration,
    mut look: F,
) -> impl Future<Output = A::Value> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(PAUSE_MS_MIN);
        let mut last = "nothing: the first look did not come back".to_owned();
        loop {
            if let Ok(answer) = timeout_at(deadline, look()).await {
                match answer.found() {
                    Ok(value) => return value,
                    Err(state) => last = state,
                }
            }
            assert!(
                Instant::now() < deadline,
                "{caller}: waited {patience:?} for {what}; found {last}"
            );
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(Duration::from_millis(PAUSE_MS_MAX));
        }
    }
}
