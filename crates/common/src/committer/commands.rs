//! The way in for everything that is not a record: commands, and the answers to those who wait for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{Settled, Working};
use super::{COMMAND_WAIT_MAX, COMMANDS_QUEUED_MAX, Committer, GaveUp, Item, Origin};
use crate::event::{Cause, Recorded, StreamId};
use crate::model::Model;
use crate::telemetry::names;

/// What is known of a command's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nearly surely no such stream yet: it is not looked for before the database says that there is one.
    New,
    /// It may exist.
    Any,
}

/// What a command came to.
#[derive(Debug)]
pub struct Outcome<M: Model> {
    /// The stream's state after it.
    pub state: Arc<M::State>,
    /// The stream's version after it.
    pub version: i64,
    /// What it appended; nothing if it was recognised as done already.
    pub events: Vec<Recorded>,
}

/// Why a command came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError<R: std::error::Error + 'static> {
    /// The domain refuses it.
    #[error(transparent)]
    Rejected(R),
    /// Too much is waiting already.
    #[error("the service has {COMMANDS_QUEUED_MAX} commands waiting; try again shortly")]
    Overloaded,
    /// The database has been away too long, or the service is stopping. The command may have taken effect: repeat it
    /// with the same idempotency key.
    #[error("the service cannot commit now: {0}")]
    Unavailable(String),
}

type Reply<M> = oneshot::Sender<Result<Outcome<M>, SubmitError<<M as Model>::Rejection>>>;

/// A command, and who waits for it.
pub(super) struct Ask<M: Model> {
    pub(super) item: Item<M>,
    waits: Waits<M>,
}

/// Who waits for a command, and until when.
pub(super) struct Waits<M: Model> {
    until: Instant,
    reply: Reply<M>,
}

/// The way in for everything that is not a record: HTTP, deadlines, tools.
pub struct Commands<M: Model> {
    queue: mpsc::Sender<Ask<M>>,
}

impl<M: Model> Clone for Commands<M> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<M: Model> Commands<M> {
    pub(super) fn new(queue: mpsc::Sender<Ask<M>>) -> Self {
        Self { queue }
    }

    /// Has `command` decided against `stream` and returns when the result is durable.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(
        &self,
        stream: StreamId,
        command: M::Command,
        cause: Cause,
        expect: Expect,
    ) -> Result<Outcome<M>, SubmitError<M::Rejection>> {
        let (reply, answer) = oneshot::channel();
        let item = Item {
            origin: Origin::Asked,
            cause,
            commands: vec![(stream, command)],
            failure: None,
            expect,
            // The request has one.
            _span: None,
        };
        let until = Instant::now() + COMMAND_WAIT_MAX;
        let ask = Ask {
            item,
            waits: Waits { until, reply },
        };
        self.queue.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Unavailable("it is stopping".into()),
        })?;
        answer
            .await
            .unwrap_or_else(|_| Err(SubmitError::Unavailable("it is stopping".into())))
    }
}

impl<M: Model> Committer<M> {
    /// Commits `asks` and answers them. A batch with a culprit is halved until the culprit is alone.
    pub(super) async fn commit_asks(&self, asks: Vec<Ask<M>>, shutdown: &CancellationToken) {
        let mut open = vec![asks];
        while let Some(asks) = open.pop() {
            if asks.is_empty() {
                continue;
            }
            let (mut items, waiting) = Ask::apart(asks);
            let until = waiting.iter().map(|waits| waits.until).min().expect("there are some");
            metrics::histogram!(names::COMMIT_BATCH_SIZE, "service" => M::NAME, "source" => "commands")
                .record(items.len() as f64);
            match self.commit(&mut items, Some(until), shutdown).await {
                Ok(committed) => answer(committed.results, &committed.streams, waiting),
                Err(GaveUp::Items { .. }) if items.len() > 1 => {
                    let mut asks = Ask::together(items, waiting);
                    let rest = asks.split_off(asks.len() / 2);
                    open.extend([rest, asks]);
                }
                Err(gave_up) => {
                    if let GaveUp::Items { class, reason } = &gave_up {
                        tracing::error!(class, error = reason, "a command cannot be committed");
                    }
                    for waits in waiting {
                        let _ = waits.reply.send(Err(SubmitError::Unavailable(gave_up.to_string())));
                    }
                }
            }
        }
    }
}

impl<M: Model> Ask<M> {
    /// What is to be done, and who waits for each.
    pub(super) fn apart(asks: Vec<Self>) -> (Vec<Item<M>>, Vec<Waits<M>>) {
        asks.into_iter().map(|ask| (ask.item, ask.waits)).unzip()
    }

    /// What was taken apart.
    pub(super) fn together(items: Vec<Item<M>>, waiting: Vec<Waits<M>>) -> Vec<Self> {
        let asks = items.into_iter().zip(waiting);
        asks.map(|(item, waits)| Self { item, waits }).collect()
    }
}

/// Tells each caller what came of its command.
pub(super) fn answer<M: Model>(
    results: Vec<Settled<M>>,
    streams: &BTreeMap<StreamId, Working<M>>,
    waiting: Vec<Waits<M>>,
) {
    for (waits, settled) in waiting.into_iter().zip(results) {
        let answer = match settled {
            Settled::Done { stream, events, .. } => {
                let stream = stream.and_then(|stream| streams.get(&stream));
                let stream = stream.expect("a command names one stream");
                Ok(Outcome {
                    state: stream.after.clone(),
                    version: stream.version,
                    events,
                })
            }
            Settled::Rejected(rejection) => Err(SubmitError::Rejected(rejection)),
            _ => Err(SubmitError::Unavailable("it could not be committed".into())),
        };
        // A caller that went away needs no answer.
        let _ = waits.reply.send(answer);
    }
}
