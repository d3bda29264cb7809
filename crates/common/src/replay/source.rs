//! Where events are read from: the service's own topic, or its event store. Both give the same rows.

use std::sync::Arc;

use deadpool_postgres::Pool;
use tokio::sync::mpsc;

use super::log::{Log, Span};
use super::rebuild::Error;
use crate::event::Recorded;
use crate::kafka::Settings;
use crate::model::Model;
use crate::store;

/// Rows of one page of the event store.
const PAGE_ROWS: i64 = 2_000;
/// Pages that may wait for whoever folds them.
const PAGES_QUEUED_MAX: usize = 4;

/// One event and where it was found. The event store counts as one partition, whose offsets are positions.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// `None` for a record that is no event of ours.
    pub(super) recorded: Option<Recorded>,
}

/// Events being read.
pub(super) enum Source<M: Model> {
    Topic { log: Log, model: Arc<M> },
    Store(mpsc::Receiver<Result<Vec<Recorded>, Error>>),
}

impl<M: Model> Source<M> {
    /// Reads `spans` of `topic`, with namespace.
    pub(super) fn topic(settings: &Settings, topic: &str, spans: &[Span], model: Arc<M>) -> Result<Self, Error> {
        let log = Log::read(settings, topic, spans)?;
        Ok(Self::Topic { log, model })
    }

    /// Reads the positions of `span` from the event store; they must be settled.
    pub(super) fn store(pool: Pool, span: &Span) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_QUEUED_MAX);
        let (next, end) = (span.next, span.end);
        tokio::spawn(async move {
            let mut after = next - 1;
            loop {
                let page = page::<M>(&pool, after).await;
                let (page, last) = match page {
                    Err(error) => (Err(error), true),
                    Ok(mut rows) => {
                        after = rows.last().map_or(after, |row| row.envelope.position);
                        let last = rows.is_empty() || after + 1 >= end;
                        rows.retain(|row| row.envelope.position < end);
                        (Ok(rows), last)
                    }
                };
                if sender.send(page).await.is_err() || last {
                    return;
                }
            }
        });
        Self::Store(pages)
    }

    /// The next events; `None` when everything has been read.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        match self {
            Self::Topic { log, model } => {
                let Some(chunk) = log.next().await? else {
                    return Ok(None);
                };
                let found = chunk.into_iter().map(|logged| Found {
                    partition: logged.partition,
                    offset: logged.offset,
                    recorded: logged.recorded(|event_type, key| model.stream_of(event_type, key)),
                });
                Ok(Some(found.collect()))
            }
            Self::Store(pages) => {
                let Some(page) = pages.recv().await.transpose()? else {
                    return Ok(None);
                };
                let found = page.into_iter().map(|recorded| Found {
                    partition: 0,
                    offset: recorded.envelope.position,
                    recorded: Some(recorded),
                });
                Ok(Some(found.collect()))
            }
        }
    }
}

async fn page<M: Model>(pool: &Pool, after: i64) -> Result<Vec<Recorded>, Error> {
    let client = pool.get().await?;
    Ok(store::page(&client, M::NAME, after, PAGE_ROWS).await?)
}
