//! Reading the outbox without ever passing an event that commits late.
//!
//! Positions are drawn before they commit: a row can appear below rows that are already visible. Rows are therefore read
//! up to the first gap. A gap is stepped over once every transaction that held a write lock on `events` when the gap was
//! seen has ended, and a read after that still shows it:
//!
//! ```text
//!  read      sees 1 2 _ 4        whoever drew 3 drew it before 4, and holds the lock from before it draws
//!  pg_locks  {tx A, tx B}        until after its commit can be seen
//!  ...
//!  pg_locks  {tx C}              A and B have ended
//!  read      sees 1 2 _ 4 5      3 was rolled back, and no one can fill it
//! ```
//!
//! Snapshots' xmin would do instead of locks, but it belongs to the whole cluster: a long write in another database would
//! hold up this one. Sequences that hand out positions in blocks (`CACHE`) would break the first line; the relay refuses
//! to start on one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use deadpool_postgres::{Pool, PoolError};

use crate::event::Recorded;
use crate::store;

/// Most rows of one read.
const READ_PAGE_MAX: i64 = 1_000;
/// Rows of the first read, before it is known how large they are.
const READ_PAGE_FIRST: i64 = 100;
/// Most payload bytes that one read should bring, about.
const READ_PAGE_BYTES: usize = 8 * 1024 * 1024;
/// A gap that lasts longer is reported: somebody keeps a transaction open.
const GAP_REPORTED_AFTER: Duration = Duration::from_secs(5);

/// What to do after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read again, there is more.
    More,
    /// Everything that is committed was read.
    Done,
    /// A transaction that is still open may fill the gap: ask again soon.
    Wait,
}

/// Transactions that may still fill the gaps below `seen`.
#[derive(Debug)]
struct Fence {
    seen: i64,
    /// Virtual transaction ids with their backends, for the report.
    writers: BTreeMap<String, Option<i32>>,
    since: Instant,
    reported: bool,
}

/// Reads pages in order of position.
#[derive(Debug)]
pub(super) struct Reader {
    service: &'static str,
    /// A position up to here that has no row will never have one.
    settled: i64,
    fence: Option<Fence>,
    page_rows: i64,
}

impl Reader {
    pub(super) fn new(service: &'static str) -> Self {
        Self {
            service,
            settled: 0,
            fence: None,
            page_rows: READ_PAGE_FIRST,
        }
    }

    /// Whether a gap is being waited for, so that reading sooner would show nothing new.
    pub(super) fn waits(&self) -> bool {
        self.fence.is_some()
    }

    /// The rows that follow `after` without an open gap.
    pub(super) async fn read(&mut self, pool: &Pool, after: i64) -> Result<(Vec<Recorded>, Next), PoolError> {
        let client = pool.get().await?;
        if let Some(fence) = &mut self.fence {
            let writing = store::writers(&client).await?;
            let before = fence.writers.len();
            fence.writers.retain(|writer, _| writing.contains_key(writer));
            if fence.writers.is_empty() {
                self.settled = fence.seen;
                self.fence = None;
            } else if fence.writers.len() == before {
                fence.report_if_long(self.service, after);
                return Ok((Vec::new(), Next::Wait));
            }
        }
        // Twice at most: where nobody writes, a gap is settled by looking again.
        loop {
            let rows = store::page(&client, self.service, after, self.page_rows).await?;
            let full = i64::try_from(rows.len()).is_ok_and(|count| count == self.page_rows);
            self.adapt(&rows);
            let (rows, gap) = followers(after, self.settled, rows);
            let reached = rows.last().map_or(after, |row| row.envelope.position);
            let Some(seen) = gap else {
                self.fence = None;
                return Ok((rows, if full { Next::More } else { Next::Done }));
            };
            // A fence set for an earlier gap holds for this one too if it was set when this one was there to see.
            if self.fence.as_ref().is_none_or(|fence| fence.seen <= reached) {
                let writers = store::writers(&client).await?;
                if writers.is_empty() {
                    self.settled = seen;
                    self.fence = None;
                    continue;
                }
                self.fence = Some(Fence {
                    seen,
                    writers,
                    since: Instant::now(),
                    reported: false,
                });
            }
            return Ok((rows, Next::Wait));
        }
    }

    fn adapt(&mut self, rows: &[Recorded]) {
        let bytes: usize = rows.iter().map(|row| row.payload.len()).sum();
        if bytes > READ_PAGE_BYTES {
            self.page_rows = (self.page_rows / 2).max(1);
        } else if bytes < READ_PAGE_BYTES / 4 {
            self.page_rows = (self.page_rows * 2).min(READ_PAGE_MAX);
        }
    }
}

impl Fence {
    fn report_if_long(&mut self, service: &str, after: i64) {
        if self.reported || self.since.elapsed() < GAP_REPORTED_AFTER {
            return;
        }
        self.reported = true;
        let backends: Vec<String> = self
            .writers
            .values()
            .map(|pid| pid.map_or("prepared".to_owned(), |pid| pid.to_string()))
            .collect();
        tracing::warn!(
            service,
            relay.position = after,
            postgres.backends = backends.join(","),
            "publishing waits for transactions that have written events and stay open"
        );
    }
}

/// The rows that may be handed on after `after`, and, if a gap follows them that is not settled, the highest position
/// seen beyond it.
fn followers(after: i64, settled: i64, mut rows: Vec<Recorded>) -> (Vec<Recorded>, Option<i64>) {
    let mut reached = after;
    for index in 0..rows.len() {
        let position = rows[index].envelope.position;
        if position - 1 > reached.max(settled) {
            let seen = rows.last().map(|row| row.envelope.position);
            rows.truncate(index);
            return (rows, seen);
        }
        reached = position;
    }
    (rows, None)
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::event::{Envelope, StreamId};

    /// Rows of one stream at these positions.
    pub(in crate::relay) fn rows(positions: &[i64]) -> Vec<Recorded> {
        let row = |position: &i64| Recorded {
            stream_id: StreamId::new("s"),
            envelope: Envelope {
                id: Uuid::nil(),
                event_type: "T".into(),
                source: "s".into(),
                subject: "s".into(),
                occurred_at: Timestamp::UNIX_EPOCH,
                correlation_id: Uuid::nil(),
                causation_id: Uuid::nil(),
                traceparent: None,
                stream_version: 1,
                position: *position,
            },
            schema_id: 1,
            payload: Bytes::new(),
        };
        positions.iter().map(row).collect()
    }

    fn follow(after: i64, settled: i64, positions: &[i64]) -> (Vec<i64>, Option<i64>) {
        let (rows, gap) = followers(after, settled, rows(positions));
        (rows.iter().map(|row| row.envelope.position).collect(), gap)
    }

    #[test]
    fn rows_are_handed_on_up_to_the_first_gap() {
        assert_eq!(follow(2, 0, &[3, 4, 6, 7, 9]), (vec![3, 4], Some(9)));
        assert_eq!(follow(2, 0, &[4]), (vec![], Some(4)));
        assert_eq!(follow(2, 0, &[3, 4]), (vec![3, 4], None));
        assert_eq!(follow(2, 0, &[]), (vec![], None));
    }

    #[test]
    fn settled_gaps_are_stepped_over_and_later_ones_are_not() {
        assert_eq!(follow(2, 9, &[3, 4, 6, 7, 9, 10]), (vec![3, 4, 6, 7, 9, 10], None));
        assert_eq!(follow(2, 9, &[3, 9, 11, 12]), (vec![3, 9], Some(12)));
        // The position just below a row is what must be settled, not the row.
        assert_eq!(follow(2, 8, &[9]), (vec![9], None));
        assert_eq!(follow(2, 7, &[9]), (vec![], Some(9)));
    }
}
