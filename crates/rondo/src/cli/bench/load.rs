//! The load: orders placed in a closed loop, so many in flight, or in an open one, so many a second.
//!
//! In a closed loop a slow system is asked less; in an open one it is asked as often, and what it is late by counts, since
//! times run from when an order was due. What a system under load answers, 503 and `Retry-After`, is heeded and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reqwest::header;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::endings::Endings;
use super::mix::{Order, Orders};
use super::recorder::{Recorder, Tally};
use super::usage::{Memory, Spent, Usage};
use super::{IN_FLIGHT_MAX, output};
use crate::cli::Target;
use crate::cli::import;

/// Longest wait that a busy system is granted, whatever it asks for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
/// How often the progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// How orders come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// So many in flight.
    Closed { in_flight: u32 },
    /// So many a second.
    Open { rate: u32 },
}

/// How long, and in which way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How orders come.
    pub(super) shape: Shape,
    /// Before anything counts.
    pub(super) warm_up: Duration,
    /// What counts.
    pub(super) duration: Duration,
    /// How long the last ones are waited for.
    pub(super) drain: Duration,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Counts and times.
    pub(super) tally: Tally,
    /// What it cost.
    pub(super) spent: Spent,
    /// For how long it counted.
    pub(super) duration: Duration,
    shape: Shape,
}

impl Measured {
    /// Orders that ended while it counted.
    pub(super) fn sagas(&self) -> u64 {
        self.tally.ended.len()
    }

    /// Orders that ended, a second.
    pub(super) fn per_second(&self) -> f64 {
        self.sagas() as f64 / self.duration.as_secs_f64()
    }

    /// Whether the system did what was asked of it: everything was placed and ended, and an open loop's rate was held.
    pub(super) fn held(&self) -> bool {
        let rate_held = match self.shape {
            Shape::Closed { .. } => true,
            Shape::Open { rate } => self.per_second() >= f64::from(rate) * 0.98,
        };
        rate_held && self.tally.shed == 0 && self.tally.unfinished == 0 && self.tally.refused.is_empty()
    }

    /// What was in the way, in words.
    pub(super) fn why_not(&self) -> String {
        let refused = self.tally.refused.iter().map(|(why, times)| format!("{times} × {why}"));
        let mut reasons: Vec<String> = refused.collect();
        if self.tally.unfinished > 0 {
            reasons.push(format!("{} accepted and not ended", self.tally.unfinished));
        }
        if self.tally.shed > 0 {
            reasons.push(format!("{} not placed, too many were in flight", self.tally.shed));
        }
        reasons.join(", ")
    }
}

/// A load on an installation.
#[derive(Clone)]
pub(super) struct Load(Arc<Shared>);

struct Shared {
    client: reqwest::Client,
    url: Url,
    orders: Orders,
    endings: Endings,
    /// The next order.
    next: AtomicU64,
    /// Sets the idempotency keys of this run apart from those of any other; `None` for orders without keys.
    run: Option<Uuid>,
}

/// What the service says of an order that matters here.
#[derive(Deserialize)]
struct Accepted {
    order_id: Uuid,
}

impl Load {
    /// Orders to be placed with `target`.
    ///
    /// # Errors
    /// It is not known where orders is.
    pub(super) fn new(target: &Target, orders: Orders, endings: Endings, keys: bool) -> Result<Self> {
        let url = target
            .http("orders")?
            .join("orders")
            .context("the service's URL cannot hold a path")?;
        Ok(Self(Arc::new(Shared {
            client: target.client().clone(),
            url,
            orders,
            endings,
            next: AtomicU64::new(0),
            run: keys.then(Uuid::new_v4),
        })))
    }

    /// Runs to the end of `plan`, or until Ctrl-C.
    ///
    /// # Errors
    /// The usage cannot be read.
    pub(super) async fn run(&self, plan: Plan, usage: &Usage) -> Result<Measured> {
        let start = Instant::now();
        let window = (start + plan.warm_up, start + plan.warm_up + plan.duration);
        let recorder = Arc::new(Recorder::new(window));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        match plan.shape {
            Shape::Closed { in_flight } => {
                for _ in 0..in_flight {
                    tasks.spawn(
                        self.clone()
                            .one_after_another(recorder.clone(), stop.clone(), plan.drain),
                    );
                }
            }
            Shape::Open { rate } => {
                tasks.spawn(self.clone().at_a_rate(rate, recorder.clone(), stop.clone(), plan.drain));
            }
        }
        let bar = output::progress(
            Some(plan.duration.as_secs()),
            "{spinner} {bar:30.cyan} {pos}/{len} s  {msg}",
        );
        let counted = async {
            tokio::time::sleep_until(window.0.into()).await;
            let before = usage.read().await?;
            let mut memory = Memory::default();
            let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
            while Instant::now() < window.1 {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = tokio::time::sleep_until(window.1.into()) => {}
                }
                let elapsed = window.0.elapsed();
                memory.note(elapsed.div_duration_f64(plan.duration));
                let (sagas, median) = recorder.so_far();
                bar.set_position(elapsed.as_secs());
                bar.set_message(format!(
                    "{:.0} sagas/s, half of them within {:.1} ms",
                    sagas as f64 / elapsed.as_secs_f64().max(0.001),
                    median.as_secs_f64() * 1e3
                ));
            }
            let after = usage.read().await?;
            anyhow::Ok(Spent {
                memory,
                ..after.since(&before)
            })
        };
        let spent = tokio::select! {
            spent = counted => spent,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; what was measured until then is not shown")),
        };
        stop.cancel();
        bar.set_message("waiting for the last orders");
        while let Some(ended) = tasks.join_next().await {
            ended.context("placing orders failed")?;
        }
        bar.finish_and_clear();
        Ok(Measured {
            tally: recorder.tally(),
            spent: spent?,
            duration: plan.duration,
            shape: plan.shape,
        })
    }

    async fn one_after_another(self, recorder: Arc<Recorder>, stop: CancellationToken, drain: Duration) {
        while !stop.is_cancelled() {
            self.place(Instant::now(), &recorder, &stop, drain).await;
        }
    }

    async fn at_a_rate(self, rate: u32, recorder: Arc<Recorder>, stop: CancellationToken, drain: Duration) {
        let in_flight_max = usize::try_from(IN_FLIGHT_MAX).expect("a small number");
        let room = Arc::new(Semaphore::new(in_flight_max));
        let mut orders = JoinSet::new();
        let start = Instant::now();
        for n in 0_u64.. {
            let due = start + Duration::from_secs_f64(n as f64 / f64::from(rate));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(due.into()) => {}
            }
            let Ok(permit) = room.clone().try_acquire_owned() else {
                recorder.shed();
                continue;
            };
            let (load, recorder, stop) = (self.clone(), recorder.clone(), stop.clone());
            orders.spawn(async move {
                load.place(due, &recorder, &stop, drain).await;
                drop(permit);
            });
            while orders.try_join_next().is_some() {}
        }
        while orders.join_next().await.is_some() {}
    }

    /// Places the next order and waits for its end.
    async fn place(&self, due: Instant, recorder: &Recorder, stop: &CancellationToken, drain: Duration) {
        let n = self.0.next.fetch_add(1, Ordering::Relaxed);
        let order = self.0.orders.order(n);
        let Some((id, accepted)) = self.accepted(n, &order, recorder, stop).await else {
            return;
        };
        let ended = self.0.endings.of(id);
        if let Some(body) = order.cancel {
            self.cancel(id, body, recorder).await;
        }
        let stopped_for = async {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            ended = ended => match ended {
                Ok(ended) => recorder.ended(due, accepted, ended),
                Err(_) => recorder.unfinished(),
            },
            () = stopped_for => {
                self.0.endings.forget(id);
                recorder.unfinished();
            }
        }
    }

    /// Sends an order until it is accepted, refused for good, or the run is over.
    async fn accepted(
        &self,
        n: u64,
        order: &Order,
        recorder: &Recorder,
        stop: &CancellationToken,
    ) -> Option<(Uuid, Instant)> {
        loop {
            let mut request = self
                .0
                .client
                .post(self.0.url.clone())
                .header(header::CONTENT_TYPE, "application/json")
                .body(order.body.clone());
            if let Some(run) = self.0.run {
                request = request.header("idempotency-key", format!("{}-{n}", run.simple()));
            }
            // Without a key an order that was taken and not answered is placed again as another, and the first not counted.
            let after = match request.send().await {
                Ok(response) if response.status().is_success() => {
                    let accepted = Instant::now();
                    match response.json::<Accepted>().await {
                        Ok(order) => return Some((order.order_id, accepted)),
                        Err(error) => recorder.refused(format!("an answer that is no order: {error}")),
                    }
                    return None;
                }
                Ok(response) => match import::not_taken(response).await {
                    import::Try::Again { why, after } => {
                        recorder.refused(why);
                        after.unwrap_or_default()
                    }
                    import::Try::Done(outcome) => {
                        recorder.refused(format!("{outcome:?}"));
                        Duration::from_secs(1)
                    }
                },
                Err(error) => {
                    recorder.refused(format!("no answer: {error}"));
                    Duration::from_secs(1)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(after.min(RETRY_AFTER_MAX)) => {}
            }
        }
    }

    /// The customer changes their mind; that it may be too late belongs to the mix.
    async fn cancel(&self, id: Uuid, body: String, recorder: &Recorder) {
        let request = self.0.client.post(format!("{}/{id}/cancel", self.0.url));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        match request.send().await {
            Ok(response) if response.status().is_success() || response.status() == reqwest::StatusCode::CONFLICT => {}
            Ok(response) => recorder.refused(format!("a cancellation: {}", response.status())),
            Err(error) => recorder.refused(format!("a cancellation: {error}")),
        }
    }
}
