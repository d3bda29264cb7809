//! A service's database, made again from the service's own topic after the database is gone.
//!
//! ```text
//!  own topic ─┬─► events (as they were) ────┬─► constraints, contiguity ─► swap ─► offsets, cursor
//!             └─► read models, deadlines ───┘
//!      └── rebuild.rs: batches, each a transaction with its progress ───────┘   └ one transaction ┘
//! ```
//!
//! The whole topic comes before anything else: to decide anew what was decided once would give the same ids other
//! content. A record is read once, for the event store and for what follows from it. What was committed and never published is lost with the database; so is what was set aside, which comes again
//! with the input. A restore that was interrupted goes on where it was, and until it has ended no service starts.

pub mod progress;

use std::sync::Arc;

use deadpool_postgres::Client;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::log::{self, Start};
use super::plan::{From, Input, Intent, Plan, Watch};
use super::rebuild::Rebuild;
use super::{STREAMS_OPEN_MAX, swap};
use crate::codec::{Codec, DecodeError};
use crate::model::Model;
use crate::store::import::{self, Hole};
use crate::{inbox, kafka, pg, relay, store};

/// Holes that are named.
const HOLES_NAMED_MAX: i64 = 10;
/// Connections: one that begins and ends it.
const POOL_SIZE: usize = 1;

/// How a restore is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Go on although events are missing.
    pub accept_gaps: bool,
}

/// What was restored.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events of the store.
    pub events: i64,
    /// The last one's position.
    pub last_position: i64,
    /// Records that repeat an event.
    pub repeated: u64,
    /// Records that are none of this service's events.
    pub foreign: u64,
    /// Streams that are not whole, which was accepted.
    pub holes: u64,
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
    /// Streams are not whole.
    #[error("{} events are missing from the log: {}. What was read is kept; --accept-gaps goes on without them", .count, .named)]
    Holes {
        /// In so many streams.
        count: String,
        /// The first of them.
        named: String,
    },
    /// The log cannot be told.
    #[error(transparent)]
    Telling(#[from] super::Error),
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
    /// The service's own, with namespace.
    pub topic: String,
    /// The database: its tables are there, and empty.
    pub database_url: &'a str,
}

/// Restores the database of a service of which no copy runs. `stop` ends it; the transaction that is open is undone.
///
/// # Errors
/// See [`Error`]; each says what to do, and the same call goes on where this one ended.
pub async fn restore<M: Model>(
    source: Source<'_, M>,
    options: Options,
    stop: &CancellationToken,
    watch: Arc<Watch>,
) -> Result<Report, Error> {
    let pool = pg::pool(source.database_url, POOL_SIZE)?;
    let mut client = pool.get().await?;
    let resumed = progress::begun(&client).await?;
    if !resumed {
        begin(&mut client, source.kafka, &source.topic).await?;
    }
    let run = Run {
        source,
        stop,
        watch,
        options,
    };
    let told = run.tell_log(&client).await?;
    let (events, last_position) = import::extent(&client).await?;
    run.finish(&mut client, last_position).await?;
    Ok(Report {
        events,
        last_position,
        repeated: told.repeated,
        foreign: told.foreign,
        holes: told.gaps,
        resumed,
    })
}

async fn begin(client: &mut Client, settings: &kafka::Settings, topic: &str) -> Result<(), Error> {
    if !(import::is_empty(client).await? && inbox::is_empty(client).await?) {
        return Err(Error::NotEmpty);
    }
    let spans = log::spans(settings, topic, Start::Earliest).await?;
    let tx = client.transaction().await?;
    progress::begin(&tx, &spans).await?;
    tx.commit().await?;
    Ok(())
}

/// Makes the event store ready to be filled, empty and without constraints, when there is nothing to go on with.
pub(super) async fn begin_anew(client: &mut Client) -> Result<(), super::Error> {
    let tx = client.transaction().await?;
    import::empty(&tx).await?;
    progress::begin_anew(&tx).await?;
    tx.commit().await?;
    Ok(())
}

struct Run<'a, M: Model> {
    source: Source<'a, M>,
    stop: &'a CancellationToken,
    watch: Arc<Watch>,
    options: Options,
}

impl<M: Model> Run<'_, M> {
    /// Reads the topic to where it ended when the restore began, into the event store, read models and deadlines.
    async fn tell_log(&self, client: &Client) -> Result<super::Report, Error> {
        for (id, _, text) in store::schemas(client).await? {
            let known = self.source.codec.remember(id, &text);
            known.map_err(|source| Error::Schema { id, source })?;
        }
        let plan = Plan {
            database_url: self.source.database_url.to_owned(),
            input: Input::Restore {
                kafka: self.source.kafka.clone(),
                topic: self.source.topic.clone(),
                spans: progress::spans(client).await?,
            },
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
        tokio::select! {
            told = self.tell_and_install(plan) => told,
            () = self.stop.cancelled() => Err(Error::Stopped),
        }
    }

    async fn tell_and_install(&self, plan: Plan) -> Result<super::Report, Error> {
        if let Some(report) = Rebuild::<M>::installed(&plan).await? {
            return Ok(report);
        }
        let (model, codec) = (self.source.model.clone(), self.source.codec.clone());
        let told = Rebuild::told_whole(model, codec, plan, self.watch.clone()).await?;
        let (count, named) = told.holes(HOLES_NAMED_MAX).await?;
        if count > 0 && !self.options.accept_gaps {
            return Err(holes(count, &named));
        }
        Ok(told.install().await?)
    }

    /// What was consumed stays consumed, the inputs are read from their beginning, and publishing goes on behind what is
    /// published: all at once, for half of it would repeat effects.
    async fn finish(&self, client: &mut Client, last_position: i64) -> Result<(), Error> {
        self.watch.enter(7, 0);
        let inputs: Vec<String> = M::LISTENS_TO
            .iter()
            .map(|topic| self.source.kafka.named(topic))
            .collect();
        let ends = kafka::log_ends(self.source.kafka, &inputs).await?;
        let starts: Vec<inbox::Moved<'_>> = ends
            .iter()
            .map(|end| (end.topic.as_str(), end.partition, end.first))
            .collect();
        let published = progress::last(client).await?;
        inbox::ensure_partitions(client, Timestamp::now()).await?;
        let tx = client.transaction().await?;
        tx.batch_execute("SET LOCAL synchronous_commit = on").await?;
        inbox::reset(&tx, M::NAME, &starts).await?;
        relay::publish_behind(&tx, &self.source.topic, last_position, &published).await?;
        import::continue_behind(&tx, last_position).await?;
        swap::drop_empty(&tx).await?;
        progress::end(&tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn holes(count: u64, named: &[Hole]) -> Error {
    let name = |hole: &Hole| {
        format!(
            "stream {} has {} of {} versions",
            hole.stream_id, hole.events, hole.last_version
        )
    };
    let mut shown = named.iter().map(name).collect::<Vec<_>>().join("; ");
    if count > HOLES_NAMED_MAX.unsigned_abs() {
        shown.push_str("; …");
    }
    Error::Holes {
        count: format!("in {count} streams"),
        named: shown,
    }
}
