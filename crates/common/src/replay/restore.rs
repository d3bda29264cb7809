//! A service's database, made again from the service's own topic after the database is gone.
//!
//! ```text
//!  own topic ─► events (as they were) ─► constraints, contiguity ─► read models, deadlines ─► inbox, offsets, cursor
//!      └── chunks, each a transaction with its progress ──┘  └── rebuild.rs, swap ──┘   └── one transaction ──┘
//! ```
//!
//! The whole topic comes before anything else: to decide anew what was decided once would give the same ids other
//! content. What was committed and never published is lost with the database; so is what was set aside, which comes again
//! with the input. A restore that was interrupted goes on where it was, and until it has ended no service starts.

pub mod progress;
mod seen;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Client;
use futures_util::{TryStreamExt as _, pin_mut};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::log::{self, Log, Span, Start};
use super::rebuild::{From, Input, Intent, Plan, Rebuild, Watch};
use super::{STREAMS_OPEN_MAX, swap};
use crate::codec::{Codec, DecodeError};
use crate::event::{EventSet as _, Recorded};
use crate::model::Model;
use crate::store::import::{self, Hole};
use crate::{inbox, kafka, pg, relay, store};

use progress::Phase;
use seen::{Arrival, Seen};

/// Rows of one transaction of the import.
const IMPORT_ROWS_MAX: usize = 20_000;
/// Bytes of payload after which such a transaction ends in any case.
const IMPORT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Holes that are named.
const HOLES_NAMED_MAX: i64 = 10;
/// Connections: one that imports.
const POOL_SIZE: usize = 1;
/// How often to look how far the read models are.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// What the session asks of Postgres. Nothing is lost when the machine stops: the progress goes with the rows, and the last
/// transaction is waited for.
const SESSION: &str = "SET synchronous_commit = off; SET maintenance_work_mem = '128MB'";

/// How a restore is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Go on although events are missing.
    pub accept_gaps: bool,
}

/// What is being done, for whoever waits.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// So many records of so many are read.
    Importing(u64, u64),
    /// The event store gets its constraints and is checked.
    Checking,
    /// Read models are told from the event store: what is being done, how much of it, and of how much if that is known.
    Telling(&'static str, u64, u64),
    /// Inbox, offsets and cursor.
    Finishing,
}

/// What was restored.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events of the store.
    pub events: i64,
    /// The last one's position.
    pub last_position: i64,
    /// Records that repeat an event, seen by this run.
    pub repeated: u64,
    /// Records that are none of this service's events, seen by this run.
    pub foreign: u64,
    /// Streams that are not whole, which was accepted.
    pub holes: i64,
    /// Whether an earlier run had begun.
    pub resumed: bool,
}

/// Why a database is not restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database's URL cannot be used.
    #[error(transparent)]
    Url(#[from] pg::Error),
    /// No connection.
    #[error("the database cannot be used")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// A statement failed.
    #[error("the database refuses")]
    Database(#[from] tokio_postgres::Error),
    /// The topic cannot be read.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The broker did not answer.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// There is something in the database.
    #[error(
        "the database is not empty, and nothing was changed: only one that holds nothing is restored. Is it the right one? To begin again, drop it and create it empty"
    )]
    NotEmpty,
    /// Two events have one position.
    #[error(
        "two different events in {topic} claim position {position}: it holds the histories of two databases, and cannot be made one"
    )]
    TwoHistories {
        /// With namespace.
        topic: String,
        /// Which.
        position: i64,
    },
    /// Streams are not whole.
    #[error("{} events are missing from the log: {}. What was read is kept; --accept-gaps goes on without them", .count, .named)]
    Holes {
        /// In so many streams.
        count: String,
        /// The first of them.
        named: String,
    },
    /// The read models cannot be told.
    #[error("the event store is whole, but its read models cannot be told from it")]
    Rebuild(#[from] super::Error),
    /// A schema of the events is not to be had.
    #[error("schema {id} of the events cannot be had")]
    Schema {
        /// Its id.
        id: u32,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// It was told to stop.
    #[error("stopped; the same command goes on from here")]
    Stopped,
}

/// The database that is restored, and what it is restored from.
pub struct Source<'a, M: Model> {
    /// The service.
    pub model: Arc<M>,
    /// Reads its events.
    pub codec: Arc<Codec>,
    /// Where its topics are.
    pub kafka: &'a kafka::Settings,
    /// The database: its tables are there, and empty.
    pub database_url: &'a str,
}

/// Restores the database of a service of which no copy runs. `stop` ends it after the transaction that is open.
///
/// # Errors
/// See [`Error`]; each says what to do, and the same call goes on where this one ended.
pub async fn restore<M: Model>(
    source: Source<'_, M>,
    options: Options,
    stop: &CancellationToken,
    tell: &(impl Fn(Step) + Sync),
) -> Result<Report, Error> {
    let topic = source.kafka.named(M::Event::TOPIC);
    let pool = pg::pool(source.database_url, POOL_SIZE)?;
    let mut client = pool.get().await?;
    client.batch_execute(SESSION).await?;
    let mut report = Report::default();
    let phase = match progress::begun(&client).await? {
        Some(phase) => {
            report.resumed = true;
            phase
        }
        None => begin(&mut client, source.kafka, &topic).await?,
    };
    let mut run = Run {
        source,
        topic,
        stop,
        tell,
        report,
    };
    if phase == Phase::Importing {
        run.import(&mut client).await?;
        run.check(&mut client, options).await?;
    }
    (run.report.events, run.report.last_position) = import::extent(&client).await?;
    run.tell_read_models(&client).await?;
    run.finish(&mut client).await?;
    Ok(run.report)
}

async fn begin(client: &mut Client, settings: &kafka::Settings, topic: &str) -> Result<Phase, Error> {
    if !(import::is_empty(client).await? && inbox::is_empty(client).await?) {
        return Err(Error::NotEmpty);
    }
    let spans = log::spans(settings, topic, Start::Earliest).await?;
    let tx = client.transaction().await?;
    progress::begin(&tx, &spans).await?;
    import::drop_constraints(&tx).await?;
    tx.commit().await?;
    Ok(Phase::Importing)
}

struct Run<'a, M: Model, T> {
    source: Source<'a, M>,
    topic: String,
    stop: &'a CancellationToken,
    tell: &'a T,
    report: Report,
}

impl<M: Model, T: Fn(Step) + Sync> Run<'_, M, T> {
    /// Reads the topic to where it ended when the restore began.
    async fn import(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut seen = Seen::default();
        if self.report.resumed {
            let known = import::identities(client).await?;
            pin_mut!(known);
            while let Some((position, id)) = known.try_next().await? {
                seen.put(position, id);
            }
        }
        let mut schemas = BTreeSet::new();
        let mut partitions = progress::partitions(client).await?;
        let total = partitions
            .iter()
            .map(|each| (each.span.end - each.span.first).max(0))
            .sum::<i64>();
        let spans: Vec<Span> = partitions.iter().map(|partition| partition.span.clone()).collect();
        let mut done = total - spans.iter().map(|span| span.length().cast_signed()).sum::<i64>();
        let mut log = Log::read(self.source.kafka, &self.topic, &spans)?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        loop {
            (self.tell)(Step::Importing(done.cast_unsigned(), total.cast_unsigned()));
            let chunk = log.next().await?;
            let last = chunk.is_none();
            for record in chunk.into_iter().flatten() {
                done += 1;
                let partition = partitions
                    .iter_mut()
                    .find(|partition| partition.span.partition == record.partition)
                    .expect("only these partitions are read");
                let offset = record.offset;
                partition.span.next = offset + 1;
                let Some(row) = self.row(record) else {
                    self.report.foreign += 1;
                    continue;
                };
                let position = row.envelope.position;
                match seen.put(position, row.envelope.id) {
                    Arrival::New => {
                        partition.last = partition.last.max(Some((offset, position)));
                        bytes += row.payload.len();
                        schemas.insert(row.schema_id);
                        rows.push(row);
                    }
                    Arrival::Again => self.report.repeated += 1,
                    Arrival::Other => {
                        let topic = self.topic.clone();
                        return Err(Error::TwoHistories { topic, position });
                    }
                }
            }
            if last || rows.len() >= IMPORT_ROWS_MAX || bytes >= IMPORT_BYTES_MAX {
                let tx = client.transaction().await?;
                import::copy(&tx, &rows).await?;
                for id in std::mem::take(&mut schemas) {
                    self.remember_schema(&tx, id).await?;
                }
                progress::imported(&tx, &partitions).await?;
                tx.commit().await?;
                rows.clear();
                bytes = 0;
                if self.stop.is_cancelled() {
                    return Err(Error::Stopped);
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    /// The row that a record was published from, if it is one of this service's.
    fn row(&self, record: log::Logged) -> Option<Recorded> {
        let row = record.recorded(|event_type, key| self.source.model.stream_of(event_type, key))?;
        let ours = &*row.envelope.source == M::NAME && row.envelope.position > 0 && row.envelope.stream_version > 0;
        (ours && M::Event::type_named(&row.envelope.event_type).is_some()).then_some(row)
    }

    /// What an id means goes into the database, so that the service can start while the registry is away.
    async fn remember_schema(&self, tx: &deadpool_postgres::Transaction<'_>, id: u32) -> Result<(), Error> {
        let text = self.source.codec.registry().schema_text(id).await;
        let text = text.map_err(|source| Error::Schema { id, source })?;
        let schema = self
            .source
            .codec
            .remember(id, &text)
            .map_err(|source| Error::Schema { id, source })?;
        store::remember_schema(tx, id, &schema.name, &text).await?;
        Ok(())
    }

    /// Gives the event store its constraints and looks for holes.
    async fn check(&mut self, client: &mut Client, options: Options) -> Result<(), Error> {
        (self.tell)(Step::Checking);
        let tx = client.transaction().await?;
        import::add_constraints(&tx).await?;
        tx.commit().await?;
        client.batch_execute("ANALYZE events").await?;
        let (count, named) = import::holes(client, HOLES_NAMED_MAX).await?;
        if count > 0 && !options.accept_gaps {
            let name = |hole: &Hole| {
                format!(
                    "stream {} has {} of {} versions",
                    hole.stream_id, hole.events, hole.last_version
                )
            };
            let mut named = named.iter().map(name).collect::<Vec<_>>().join("; ");
            if count > HOLES_NAMED_MAX {
                named.push_str("; …");
            }
            let count = format!("in {count} streams");
            return Err(Error::Holes { count, named });
        }
        self.report.holes = count;
        let tx = client.transaction().await?;
        progress::begin_folding(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Fills read models and deadlines, as a rebuild does.
    async fn tell_read_models(&self, client: &Client) -> Result<(), Error> {
        for (id, _, text) in store::schemas(client).await? {
            let known = self.source.codec.remember(id, &text);
            known.map_err(|source| Error::Schema { id, source })?;
        }
        let plan = Plan {
            database_url: self.source.database_url.to_owned(),
            input: Input::Store,
            from: From::Earliest,
            until: None,
            cutoff: None,
            intent: Intent::SwapAnyway,
            migrations: None,
            streams_max: STREAMS_OPEN_MAX,
            fingerprint: "restore".to_owned(),
            fresh: false,
            shown_max: 0,
        };
        let watch = Arc::new(Watch::default());
        let (model, codec) = (self.source.model.clone(), self.source.codec.clone());
        let telling = Rebuild::install(model, codec, plan, watch.clone());
        let mut telling = std::pin::pin!(telling);
        loop {
            let (what, done, total) = watch.look();
            (self.tell)(Step::Telling(what, done, total));
            tokio::select! {
                told = &mut telling => return Ok(told?),
                () = self.stop.cancelled() => return Err(Error::Stopped),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// What was consumed stays consumed, the inputs are read from their beginning, and publishing goes on behind what is
    /// published: all at once, for half of it would repeat effects.
    async fn finish(&self, client: &mut Client) -> Result<(), Error> {
        (self.tell)(Step::Finishing);
        let inputs: Vec<String> = M::LISTENS_TO
            .iter()
            .map(|topic| self.source.kafka.named(topic))
            .collect();
        let ends = kafka::log_ends(self.source.kafka, &inputs).await?;
        let starts: Vec<inbox::Moved<'_>> = ends
            .iter()
            .map(|end| (end.topic.as_str(), end.partition, end.first))
            .collect();
        let published: Vec<(i32, i64, i64)> = progress::partitions(client)
            .await?
            .into_iter()
            .filter_map(|partition| partition.last.map(|last| (partition.span.partition, last.0, last.1)))
            .collect();
        inbox::ensure_partitions(client, Timestamp::now()).await?;
        let tx = client.transaction().await?;
        tx.batch_execute("SET LOCAL synchronous_commit = on").await?;
        inbox::reset(&tx, M::NAME, &starts).await?;
        relay::publish_behind(&tx, &self.topic, self.report.last_position, &published).await?;
        import::continue_behind(&tx, self.report.last_position).await?;
        swap::drop_empty(&tx).await?;
        progress::end(&tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
