//! What works campaigns off, in the running service: a few letters a step, at each campaign's rate.
//!
//! A step is a transaction of its own; what it sends back is handled by the committer afterwards, each head in a
//! transaction of its own as every retried head is. A crash between the two leaves heads that the clockwork takes up when
//! their claim runs out. Two copies of a service pass over each other's steps.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_util::sync::CancellationToken;

use super::{Kind, STEP_RECORDS_MAX, store};
use crate::committer::Committer;
use crate::deadlines::CLAIM_LEASE;
use crate::inbox::Outcome;
use crate::model::Model;
use crate::parking::{self, Head};

/// Longest pause between two steps of a campaign that waits for its rate.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Runs until `shutdown`; looks for campaigns every `interval`.
pub async fn run<M: Model>(committer: Arc<Committer<M>>, pool: Pool, interval: Duration, shutdown: CancellationToken) {
    let mut pause = interval;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = match turn(&committer, &pool, &shutdown).await {
            Ok(Some(pause)) => pause.min(PAUSE_MAX),
            Ok(None) => interval,
            Err(error) => {
                tracing::debug!(service = M::NAME, error, "campaigns wait for the database");
                interval.max(PAUSE_MAX)
            }
        };
    }
}

/// Takes a step of each running campaign; when the next one is due, if any waits for its rate alone.
async fn turn<M: Model>(
    committer: &Committer<M>,
    pool: &Pool,
    shutdown: &CancellationToken,
) -> Result<Option<Duration>, String> {
    let client = pool.get().await.map_err(text)?;
    let running = store::running(&client, M::NAME).await.map_err(text)?;
    drop(client);
    let mut next: Option<Duration> = None;
    for campaign in running {
        let (heads, pause) = step(pool, M::NAME, campaign).await?;
        committer.retry_parked(heads, shutdown).await;
        next = match (next, pause) {
            (Some(next), Some(pause)) => Some(next.min(pause)),
            (next, pause) => next.or(pause),
        };
    }
    Ok(next)
}

/// One step of one campaign: what it sent back to be handled, and when its rate allows the next.
async fn step(pool: &Pool, consumer: &str, id: i64) -> Result<(Vec<Head>, Option<Duration>), String> {
    let mut client = pool.get().await.map_err(text)?;
    let tx = client.transaction().await.map_err(text)?;
    let Some(due) = store::lock(&tx, id).await.map_err(text)? else {
        return Ok((Vec::new(), None));
    };
    let burst = due.rate.max(1.0).min(STEP_RECORDS_MAX as f64);
    let allowed = due.allowed.clamp(0.0, burst) as usize;
    let (chosen, under_way) = store::next(&tx, id, allowed.max(1)).await.map_err(text)?;
    if chosen.is_empty() {
        if under_way {
            return Ok((Vec::new(), None));
        }
        store::finish(&tx, id).await.map_err(text)?;
        tx.commit().await.map_err(text)?;
        tracing::info!(consumer, campaign = id, "a campaign over dead letters is done");
        return Ok((Vec::new(), None));
    }
    if allowed == 0 {
        let missing = (1.0 - due.allowed) / due.rate;
        return Ok((Vec::new(), Some(Duration::from_secs_f64(missing.clamp(0.001, 3_600.0)))));
    }
    let ids: Vec<i64> = chosen.iter().map(|one| one.dead_letter).collect();
    let (gone, heads, outcome) = if due.kind == Kind::Redrive.as_str() {
        let sent = parking::send_back(&tx, consumer, (id, &due.operator), &chosen, CLAIM_LEASE).await;
        let (gone, heads) = sent.map_err(text)?;
        (gone, heads, "sent")
    } else {
        let (outcome, name) = if due.kind == Kind::Discard.as_str() {
            (Outcome::Discarded, "discarded")
        } else {
            (Outcome::Applied, "skipped")
        };
        let gone = parking::let_go(&tx, consumer, id, &ids, outcome).await.map_err(text)?;
        (gone, Vec::new(), name)
    };
    store::stepped(&tx, id, &chosen, &gone, outcome).await.map_err(text)?;
    tx.commit().await.map_err(text)?;
    Ok((
        heads,
        Some(Duration::from_secs_f64((1.0 / due.rate).clamp(0.001, 3_600.0))),
    ))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
