//! The loop: what has come over HTTP and from Kafka while it was busy becomes one transaction.
//!
//! ```text
//!  commands ─┐
//!            ├─► pace ─► one transaction ── fails ─► each kind by itself, halved where one is to blame
//!  records ──┘
//! ```
//!
//! Whatever hinders records hinders no command, be it a registry that is away, a poison record, an open breaker or a backlog:
//! commands are then committed by themselves, beside.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::commands::{Ask, Commands, answer};
use super::pace::{COMPANY_WAIT, PAUSE_SAGAS_MAX, Pace};
use super::{BATCH_ITEMS_MAX, COMMANDS_QUEUED_MAX, Committer, IDLE_OFFSETS_WAIT, Item};
use crate::breaker::Standing;
use crate::model::Model;
use crate::record::Record;
use crate::telemetry::names;

impl<M: Model> Committer<M> {
    /// A queue for commands, and the loop that serves it and `records` until `shutdown`. Commands that are queued then are
    /// still committed.
    pub fn serve(
        self: &Arc<Self>,
        records: mpsc::Receiver<Record>,
        shutdown: CancellationToken,
    ) -> (Commands<M>, impl Future<Output = ()> + use<M>) {
        let (queue, commands) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let intake = Intake {
            committer: self.clone(),
            commands,
            asks: Vec::new(),
            records,
            arrived: Vec::new(),
            idle: Vec::new(),
            idle_since: Instant::now(),
            held: VecDeque::new(),
            claims_seen: 0,
            shutdown,
        };
        (Commands::new(queue), intake.serve())
    }

    /// Tries once to commit records and commands in one transaction. If that fails they come back: who is to blame shows when
    /// each kind is tried by itself.
    async fn commit_together(&self, mut items: Vec<Item<M>>, asks: Vec<Ask<M>>) -> Result<(), Split<M>> {
        items.retain(|item| self.is_held(item));
        let records = items.len();
        let (asked, waiting) = Ask::apart(asks);
        for (source, count) in [("records", records), ("commands", asked.len())] {
            metrics::histogram!(names::COMMIT_BATCH_SIZE, "service" => M::NAME, "source" => source)
                .record(count as f64);
        }
        items.extend(asked);
        match self.try_once(&mut items).await {
            Ok(mut committed) => {
                let answers = committed.results.split_off(records);
                items.truncate(records);
                self.came_to(&items, &committed.results, &committed.progress, committed.review);
                answer(answers, &committed.streams, waiting);
                Ok(())
            }
            Err(failed) => {
                tracing::debug!(?failed, "records and commands are committed apart");
                metrics::counter!(names::COMMIT_RETRIES_TOTAL, "service" => M::NAME, "cause" => "apart").increment(1);
                let asked = items.split_off(records);
                Err((items, Ask::together(asked, waiting)))
            }
        }
    }

    /// Whether there is work among `items`, and nobody waits for it. Two commands for one stream may lead on together.
    fn can_wait(&self, items: &[Item<M>]) -> bool {
        let mut streams = HashSet::new();
        let mut work = items.iter().filter(|item| !item.is_idle());
        let alone = work.all(|item| {
            item.failure.is_none()
                && item.commands.iter().all(|(stream, command)| {
                    let known = self.cache.get(stream);
                    known.is_some_and(|known| self.model.can_wait(&known.state, command)) && streams.insert(stream)
                })
        });
        alone && !streams.is_empty()
    }
}

/// Records beside which commands take part in a transaction; more of them take a while, and nobody is to wait that long for
/// an answer.
pub const TOGETHER_RECORDS_MAX: usize = BATCH_ITEMS_MAX / 2;

/// Records, and commands.
type Split<M> = (Vec<Item<M>>, Vec<Ask<M>>);

/// The two ways in, and what of them is not committed yet.
struct Intake<M: Model> {
    committer: Arc<Committer<M>>,
    commands: mpsc::Receiver<Ask<M>>,
    asks: Vec<Ask<M>>,
    records: mpsc::Receiver<Record>,
    arrived: Vec<Record>,
    /// Records without work only move an offset; that can wait for the next batch with work, or a moment.
    idle: Vec<Item<M>>,
    idle_since: Instant,
    /// Taken when the breaker opened, and to be handled before all that comes after them.
    held: VecDeque<Item<M>>,
    claims_seen: u64,
    shutdown: CancellationToken,
}

impl<M: Model> Intake<M> {
    async fn serve(mut self) {
        let mut pace = Pace::new();
        while let Some(room) = self.something().await {
            pace.wait(self.asks.len().max(self.arrived.len()) >= BATCH_ITEMS_MAX)
                .await;
            let Some(items) = self.take(room).await else { break };
            if items.is_empty() && self.asks.is_empty() {
                continue;
            }
            let (began, sagas) = (Instant::now(), self.sagas(&items));
            if !self.commit(items).await {
                break;
            }
            pace.committed(sagas, began);
        }
        self.commands.close();
        loop {
            self.commit_asks().await;
            if self.commands.recv_many(&mut self.asks, BATCH_ITEMS_MAX).await == 0 {
                return;
            }
        }
    }

    /// Waits until there may be something to do, and for how many records there is room then; `None` when stopping.
    async fn something(&mut self) -> Option<usize> {
        let (room, pause) = match self.committer.breaker.standing() {
            Standing::Closed => (BATCH_ITEMS_MAX, None),
            Standing::Probing => (1, None),
            Standing::Open(pause) => (0, Some(pause)),
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return None,
            () = std::future::ready(()), if room > 0 && !self.held.is_empty() || !self.asks.is_empty() => {}
            _ = self.records.recv_many(&mut self.arrived, room), if room > 0 && !is_over(&self.records) => {}
            _ = self.commands.recv_many(&mut self.asks, BATCH_ITEMS_MAX), if !is_over(&self.commands) => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            () = tokio::time::sleep_until(self.idle_since + IDLE_OFFSETS_WAIT), if !self.idle.is_empty() => {}
        }
        Some(room)
    }

    /// Takes what has come by now, and finds out what the records among it ask for; `None` when stopping.
    async fn take(&mut self, room: usize) -> Option<Vec<Item<M>>> {
        if self.held.is_empty() {
            drain(&mut self.records, &mut self.arrived, room);
        }
        drain(&mut self.commands, &mut self.asks, BATCH_ITEMS_MAX);
        if self.committer.claims.changes() != self.claims_seen {
            // What another copy did meanwhile is not in the cache.
            self.claims_seen = self.committer.claims.changes();
            self.committer.cache.clear();
        }
        if self.idle.is_empty() {
            self.idle_since = Instant::now();
        }
        let mut items = std::mem::take(&mut self.idle);
        items.extend(self.held.drain(..room.min(self.held.len())));
        let wait_until = Instant::now() + COMPANY_WAIT;
        loop {
            items.extend(self.parse().await?);
            let may_wait = self.asks.is_empty() && items.len() < room && self.held.is_empty();
            if !may_wait || !self.committer.can_wait(&items) || !self.company(room - items.len(), wait_until).await {
                break;
            }
        }
        let due = self.idle_since.elapsed() >= IDLE_OFFSETS_WAIT || items.len() >= BATCH_ITEMS_MAX;
        if !due && items.iter().all(Item::is_idle) {
            self.idle = items;
            return Some(Vec::new());
        }
        if items.iter().any(|item| item.failure.is_some()) {
            let dies = |item: &Item<M>| (!item.is_idle()).then_some(item.failure.is_some());
            let room = self.committer.breaker.room(items.iter().map(dies));
            let held = std::mem::take(&mut self.held);
            self.held = items.drain(room..).chain(held).collect();
        }
        Some(items)
    }

    /// Finds out what the records that have arrived ask for; `None` when stopping.
    async fn parse(&mut self) -> Option<Vec<Item<M>>> {
        let (committer, shutdown) = (self.committer.clone(), self.shutdown.clone());
        let records = std::mem::take(&mut self.arrived);
        self.beside(async move {
            let mut items = Vec::with_capacity(records.len());
            for record in records {
                items.push(committer.parse(record, &shutdown).await?);
            }
            Some(items)
        })
        .await
    }

    /// Waits for others to join records that nobody waits for; `false` if nobody has come by `until`.
    async fn company(&mut self, room: usize, until: Instant) -> bool {
        let come = async {
            tokio::select! {
                records = self.records.recv_many(&mut self.arrived, room) => records,
                asks = self.commands.recv_many(&mut self.asks, BATCH_ITEMS_MAX) => asks,
            }
        };
        tokio::time::timeout_at(until, come).await.is_ok_and(|come| come > 0)
    }

    /// How many sagas a commit of `items` and of the commands that wait is for, if not more than count for the pace.
    fn sagas(&self, items: &[Item<M>]) -> usize {
        let work = items.iter().filter(|item| !item.is_idle());
        let mut sagas = HashSet::with_capacity(PAUSE_SAGAS_MAX);
        for item in work.chain(self.asks.iter().map(|ask| &ask.item)) {
            sagas.insert(item.cause.correlation_id);
            if sagas.len() == PAUSE_SAGAS_MAX {
                break;
            }
        }
        sagas.len()
    }

    /// Commits all there is; `false` when stopping.
    async fn commit(&mut self, items: Vec<Item<M>>) -> bool {
        if items.is_empty() {
            self.commit_asks().await;
            return true;
        }
        let (committer, shutdown) = (self.committer.clone(), self.shutdown.clone());
        committer.claims.begin();
        let items = if self.asks.is_empty() || items.len() > TOGETHER_RECORDS_MAX {
            items
        } else {
            let asks = std::mem::take(&mut self.asks);
            match committer.commit_together(items, asks).await {
                Ok(()) => Vec::new(),
                Err((items, asks)) => {
                    self.asks = asks;
                    items
                }
            }
        };
        let left = self
            .beside(async move {
                let left = committer.commit_records(items, &shutdown).await;
                committer.claims.end();
                left
            })
            .await;
        let Some(left) = left else { return false };
        let held = std::mem::take(&mut self.held);
        self.held = left.into_iter().chain(held).collect();
        true
    }

    /// Awaits what records need, and meanwhile commits commands as they come, by themselves.
    async fn beside<T>(&mut self, records: impl Future<Output = T>) -> T {
        let mut records = pin!(records);
        if let Some(done) = records.as_mut().now_or_never() {
            return done;
        }
        let over = CancellationToken::new();
        let records = async {
            let done = records.await;
            over.cancel();
            done
        };
        let commands = async {
            let mut pace = Pace::new();
            loop {
                let (began, sagas) = (Instant::now(), self.asks.len());
                self.commit_asks().await;
                pace.committed(sagas, began);
                tokio::select! {
                    biased;
                    () = over.cancelled() => return,
                    _ = self.commands.recv_many(&mut self.asks, BATCH_ITEMS_MAX), if !is_over(&self.commands) => {}
                }
                tokio::select! {
                    biased;
                    // What has come is for the next turn.
                    () = over.cancelled() => return,
                    () = pace.wait(self.asks.len() >= BATCH_ITEMS_MAX) => {}
                }
                drain(&mut self.commands, &mut self.asks, BATCH_ITEMS_MAX);
            }
        };
        tokio::join!(records, commands).0
    }

    async fn commit_asks(&mut self) {
        let asks = std::mem::take(&mut self.asks);
        self.committer.commit_asks(asks, &self.shutdown).await;
    }
}

/// Whether nothing will come any more.
fn is_over<T>(queue: &mpsc::Receiver<T>) -> bool {
    queue.is_closed() && queue.is_empty()
}

/// Adds what `queue` has now to `batch`, up to `room` in all.
fn drain<T>(queue: &mut mpsc::Receiver<T>, batch: &mut Vec<T>, room: usize) {
    while batch.len() < room
        && let Ok(more) = queue.try_recv()
    {
        batch.push(more);
    }
}
