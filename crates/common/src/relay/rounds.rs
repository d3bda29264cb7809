//! When the next rows are handed to the producer: under load not before Kafka has acknowledged the last ones.
//!
//! librdkafka sends no more of a partition while five of its records are under way, and asks its socket over and over until
//! then if more wait in its queue. What waits here instead costs nothing, and goes out in fewer, larger requests.

use std::time::Duration;

use tokio::time::Instant;

/// Records under way below which more can be sent at once, to whatever partition (`RD_KAFKA_IDEMP_MAX_INFLIGHT`): a lone
/// order never waits.
const UNDER_WAY_MIN: usize = 5;
/// Longest wait for acknowledgements: a partition that is away holds up no other.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// What was last handed on.
#[derive(Debug)]
pub(super) struct Rounds {
    last: Instant,
}

impl Rounds {
    /// Nothing was handed on yet.
    pub(super) fn new() -> Self {
        Self { last: Instant::now() }
    }

    /// Something is handed on now.
    pub(super) fn begins(&mut self) {
        self.last = Instant::now();
    }

    /// Whether the next may be handed on, with so many records under way.
    pub(super) fn is_over(&self, under_way: usize) -> bool {
        under_way < UNDER_WAY_MIN || Instant::now() >= self.ends()
    }

    /// When the next may be handed on, whatever is under way.
    pub(super) fn ends(&self) -> Instant {
        self.last + WAIT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_ends_with_its_acknowledgements_or_after_the_longest_wait() {
        let mut rounds = Rounds::new();
        for _ in 0..2 {
            rounds.begins();
            assert!(rounds.is_over(UNDER_WAY_MIN - 1) && !rounds.is_over(UNDER_WAY_MIN));
            tokio::time::advance(WAIT_MAX - Duration::from_micros(1)).await;
            assert!(!rounds.is_over(UNDER_WAY_MIN));
            tokio::time::advance(Duration::from_micros(1)).await;
            assert!(rounds.is_over(usize::MAX));
        }
    }
}
