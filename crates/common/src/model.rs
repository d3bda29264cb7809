//! What a service is: three pure functions, its rows beside the streams, and what it wants to hear.
//!
//! ```text
//!  HTTP ──────────────┐                                       ┌─► relay ─► Kafka
//!  Kafka ─► react ────┼─► commands ─► decide ─► events ─► one transaction
//!  deadlines ─────────┘                 ▲         │
//!                                       └─ evolve ┘
//! ```
//!
//! The [`Committer`](crate::committer) drives a model; a model never opens a transaction, never commits, and never talks
//! to the network from [`decide`](Model::decide).

use std::error::Error;
use std::fmt::Debug;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::codec::{DatumError, WriterSchema};
use crate::event::{Envelope, EventSet, EventType, Recorded, StreamId};
use crate::pg::copy::Load;
use crate::pg::{Transaction, Write};

/// One service: its events, commands, state, and how they follow from each other.
#[async_trait]
pub trait Model: Send + Sync + 'static {
    /// The service's name: consumer group, `ce_source`, metrics label.
    const NAME: &'static str;
    /// The topics it listens to, without a namespace.
    const LISTENS_TO: &'static [&'static str];
    /// Whether a deadline must wait until everything that arrived before it has been read (see [`crate::timers`]).
    /// `false` for deadlines that are only the service's own next try.
    const DEADLINES_WAIT_FOR_INPUT: bool;

    /// Tells the code that folds, for a model that keeps snapshots of long streams: a hash of its source text, by
    /// [`fold_of`](crate::store::snapshots::fold_of). A snapshot that other code folded is ignored. `None`: no snapshots,
    /// and nothing looks for any.
    const FOLD: Option<u64> = None;

    /// The tables that [`project`](Model::project) writes: what a replay rebuilds.
    const TABLES: &'static [Table] = &[];

    /// Whether [`project`](Model::project) looks at the positions of events, which they have once they are appended: it is
    /// then written one answer of the database later.
    const PROJECTS_POSITIONS: bool = false;

    /// What it says.
    type Event: EventSet;
    /// What it hears: the foreign events it reacts to.
    type Input: Send + Sync + 'static;
    /// What can be asked of one stream.
    type Command: Clone + Debug + Send + Sync + 'static;
    /// A stream's folded state. `Default` is the state before the first event.
    type State: Clone + Debug + Default + Send + Sync + 'static;
    /// Rows beside the streams that decisions depend on, locked for the batch (`()` for none).
    type Rows: Send;
    /// Why a command is refused. For a command that came from an event this is a failure of that record.
    type Rejection: Error + Clone + Send + Sync + 'static;

    /// The stream that an event of this service belongs to, by its type and its record's key: a record does not say of
    /// which kind its stream is. Whoever gives streams a kind ([`StreamId::of_kind`]) says here which.
    fn stream_of(&self, _event_type: &str, key: &str) -> StreamId {
        StreamId::new(key)
    }

    /// Reads a foreign event of type `writer.name` from `topic`; `None` for one this service does not react to.
    ///
    /// # Errors
    /// The bytes are not a datum of the writer's schema.
    fn read(&self, topic: &str, writer: &WriterSchema, datum: &[u8]) -> Option<Result<Self::Input, DatumError>>;

    /// The foreign events that it may react to, with their schemas, so that a start that must be refused can say why in the
    /// schemas' terms. Without them it says what its readers answer to made-up data.
    fn hears(&self) -> &'static [&'static [EventType]] {
        &[]
    }

    /// The commands that follow from a foreign event. Pure.
    ///
    /// # Errors
    /// The event decodes but cannot be meant, such as an id that is not one: poison.
    fn react(&self, input: &Self::Input, envelope: &Envelope) -> Result<Vec<(StreamId, Self::Command)>, String>;

    /// The events that follow from `command`. Pure but for `rows`, which it may change only together with the events it
    /// returns: a rejection leaves `rows` as they were.
    ///
    /// # Errors
    /// A caller's mistake. A refusal that others wait on is an event.
    fn decide(
        &self,
        stream: &StreamId,
        state: &Self::State,
        rows: &mut Self::Rows,
        command: &Self::Command,
        now: Timestamp,
    ) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// Whether `command` is nearly always the first of its stream, which is then not looked for. A wrong yes costs another
    /// attempt and nothing else.
    fn begins(&self, _command: &Self::Command) -> bool {
        false
    }

    /// Whether nobody waits for what `command` does in `state`, such as an answer that is only written down until another one
    /// comes. Its record then waits a moment for the next of its stream, or for any that cannot wait, and one transaction takes
    /// both. Pure; a wrong answer costs that moment, or a transaction, and nothing else.
    fn can_wait(&self, _state: &Self::State, _command: &Self::Command) -> bool {
        false
    }

    /// Folds one event into `state`. Holds no rule: what was decided has happened.
    fn evolve(&self, state: &mut Self::State, event: &Self::Event, envelope: &Envelope);

    /// Whether a stream goes on for so long that snapshots of it pay; only with [`FOLD`](Model::FOLD). Streams that end, as
    /// sagas do, are loaded without looking for one.
    fn grows_long(&self, _stream: &StreamId) -> bool {
        false
    }

    /// Writes a state for a snapshot, if it may be kept; only with [`FOLD`](Model::FOLD).
    fn snapshot(&self, _state: &Self::State) -> Option<Vec<u8>> {
        None
    }

    /// Reads what [`snapshot`](Model::snapshot) wrote. `None` for what it cannot read: the stream is then folded whole.
    fn read_snapshot(&self, _bytes: &[u8]) -> Option<Self::State> {
        None
    }

    /// When this stream needs attention if nothing else happens, or `None` when it has ended.
    fn deadline(&self, _state: &Self::State) -> Option<Timestamp> {
        None
    }

    /// What to do when a stream's deadline has passed. May talk to the network, bounded by itself: it runs outside any
    /// transaction. The command it returns is decided against the state as of then. `None`: nothing after all.
    async fn on_deadline(&self, _stream: &StreamId, _state: &Self::State, _due: Timestamp) -> Option<Self::Command> {
        None
    }

    /// Locks and loads the rows that these commands need, in one sorted statement. Some of them may turn out to have been
    /// done before, and are not decided.
    ///
    /// # Errors
    /// The database's.
    async fn lock_rows(
        &self,
        tx: &Transaction<'_>,
        commands: &[(&StreamId, &Self::Command, &Self::State)],
    ) -> Result<Self::Rows, tokio_postgres::Error>;

    /// What brings read models, and the rows that decisions depend on, up to date: a bounded number of multi-row statements,
    /// that follow from the events alone. Pure.
    fn project<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>>;

    /// Of what [`project`](Model::project) writes the rows that meet no other while the whole log is told again into empty tables.
    /// They are made ahead of the transaction, and there already when [`retell`](Model::retell) is called. Whoever has some
    /// implements that too: by itself it writes all that `project` writes.
    fn fresh_rows(&self, _changes: &[Change<'_, Self>]) -> Vec<Load> {
        Vec::new()
    }

    /// What writes all else that [`project`](Model::project) writes, while the whole log is told again into empty tables: each stream in
    /// its order, but streams in any order among each other. Whatever adds up over streams waits for
    /// [`sum_up`](Model::sum_up).
    fn retell<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        self.project(changes)
    }

    /// Brings the tables to what follows from everything that was [retold](Model::retell).
    ///
    /// # Errors
    /// The database's.
    async fn sum_up(&self, _tx: &deadpool_postgres::Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        Ok(())
    }

    /// Sets gauges of its own that cost a query; called every few seconds, beside all work.
    ///
    /// # Errors
    /// The database's.
    async fn figures(&self, _client: &deadpool_postgres::Client) -> Result<(), tokio_postgres::Error> {
        Ok(())
    }

    /// Called after the commit, in the same order: wake waiters, count outcomes. Must not block.
    fn committed(&self, _changes: &[Change<'_, Self>]) {}
}

/// A table that a [`Model`] writes.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The columns of its primary key.
    pub key: &'static [&'static str],
    /// What its rows follow from.
    pub follows: Follows,
    /// The columns that the events alone determine; none for all.
    pub determined: &'static [&'static str],
}

/// What a row follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// One stream: the row is rewritten as the stream goes on. The expression gives the stream's id from the row.
    Stream(&'static str),
    /// One event: the row is written once.
    Event,
    /// Many streams: the row adds them up, and decisions may lock it before they write events.
    Many,
}

/// What one batch did to one stream.
#[derive(Debug)]
pub struct Change<'a, M: Model + ?Sized> {
    /// The stream.
    pub stream_id: &'a StreamId,
    /// Before the batch's first event.
    pub before: &'a M::State,
    /// After its last.
    pub after: &'a M::State,
    /// The version after its last event.
    pub version: i64,
    /// What was appended, in order.
    pub events: &'a [(M::Event, Recorded)],
}

impl<M: Model + ?Sized> Change<'_, M> {
    /// Whether the stream begins with it, so that no row can follow from the stream yet.
    pub fn opens_stream(&self) -> bool {
        usize::try_from(self.version) == Ok(self.events.len())
    }
}
