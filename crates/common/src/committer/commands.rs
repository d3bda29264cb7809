//! The way in for everything that is not a record, and the loop that commits it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{Committed, Settled};
use super::pace::Pace;
use super::{BATCH_ITEMS_MAX, COMMAND_WAIT_MAX, COMMANDS_QUEUED_MAX, Committer, GaveUp, Item, Origin};
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

struct Ask<M: Model> {
    item: Item<M>,
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
        let ask = Ask {
            item,
            until: Instant::now() + COMMAND_WAIT_MAX,
            reply,
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
    /// A queue for commands and the loop that serves it until `shutdown` and all handles are gone or drained.
    pub fn serve_commands(
        self: &Arc<Self>,
        shutdown: CancellationToken,
    ) -> (Commands<M>, impl Future<Output = ()> + use<M>) {
        let (queue, mut waiting) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let committer = self.clone();
        let serve = async move {
            let mut batch = Vec::new();
            let mut pace = Pace::new();
            loop {
                tokio::select! {
                    biased;
                    received = waiting.recv_many(&mut batch, BATCH_ITEMS_MAX) => if received == 0 { break },
                    () = shutdown.cancelled() => {
                        waiting.close();
                        if waiting.is_empty() { break }
                        continue;
                    }
                }
                pace.fill(&mut batch, &mut waiting, BATCH_ITEMS_MAX).await;
                let (began, several) = (Instant::now(), batch.len() > 1);
                committer.commit_asks(std::mem::take(&mut batch), &shutdown).await;
                pace.committed(several, began);
            }
        };
        (Commands { queue }, serve)
    }

    /// Commits `asks` and answers them. A batch with a culprit is halved until the culprit is alone.
    async fn commit_asks(&self, asks: Vec<Ask<M>>, shutdown: &CancellationToken) {
        let mut open = vec![asks];
        while let Some(asks) = open.pop() {
            let until = asks.iter().map(|ask| ask.until).min().unwrap_or_else(Instant::now);
            let (mut items, replies): (Vec<Item<M>>, Vec<_>) =
                asks.into_iter().map(|ask| (ask.item, ask.reply)).unzip();
            metrics::histogram!(names::COMMIT_BATCH_SIZE, "service" => M::NAME, "source" => "commands")
                .record(items.len() as f64);
            match self.commit(&mut items, Some(until), shutdown).await {
                Ok(committed) => answer(committed, replies),
                Err(GaveUp::Items { .. }) if items.len() > 1 => {
                    let asks = items.into_iter().zip(replies);
                    let mut asks: Vec<Ask<M>> = asks.map(|(item, reply)| Ask { item, until, reply }).collect();
                    let rest = asks.split_off(asks.len() / 2);
                    open.extend([rest, asks]);
                }
                Err(gave_up) => {
                    if let GaveUp::Items { class, reason } = &gave_up {
                        tracing::error!(class, error = reason, "a command cannot be committed");
                    }
                    for reply in replies {
                        let _ = reply.send(Err(SubmitError::Unavailable(gave_up.to_string())));
                    }
                }
            }
        }
    }
}

/// Tells each caller what came of its command.
fn answer<M: Model>(committed: Committed<M>, replies: Vec<Reply<M>>) {
    let Committed { results, streams, .. } = committed;
    for (reply, settled) in replies.into_iter().zip(results) {
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
        let _ = reply.send(answer);
    }
}
