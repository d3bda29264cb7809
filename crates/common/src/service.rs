//! A running service: its model, wired to Postgres, Kafka and the registry.
//!
//! ```text
//!  start ─► pool ─► schemas pinned ─► relay ─► committer ─► consumer ─► clockwork
//! ```
//!
//! Starting checks everything that a person must mend: missing migrations, unregistered or changed schemas, missing
//! topics. A broker or registry that is merely away does not keep a service from starting.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::claims::Claims;
use crate::codec::{Codec, DecodeError, PinError, Registry, RegistrySettings, WriteVersions};
use crate::committer::{Commands, Committer, Patience, RECORDS_QUEUED_MAX};
use crate::event::EventSet;
use crate::migrate::{self, Migration};
use crate::model::Model;
use crate::parking::RetryPolicy;
use crate::readable::{self, Candidate, Unreadable};
use crate::replay::restore;
use crate::{breaker, campaigns, consumer, deadlines, inbox, kafka, pg, relay, store};

/// The most connections that only commit batches: of records, of commands beside them, of parked records, of campaigns.
const BATCH_CONNECTIONS_MAX: usize = 4;

/// The migrations of the runtime's own tables; they come before a service's own.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "0001_runtime.sql",
        sql: include_str!("../../../migrations/common/0001_runtime.sql"),
    },
    Migration {
        version: 2,
        name: "0002_missing_versions.sql",
        sql: include_str!("../../../migrations/common/0002_missing_versions.sql"),
    },
    Migration {
        version: 3,
        name: "0003_deliberate_resets.sql",
        sql: include_str!("../../../migrations/common/0003_deliberate_resets.sql"),
    },
    Migration {
        version: 4,
        name: "0004_restore.sql",
        sql: include_str!("../../../migrations/common/0004_restore.sql"),
    },
    Migration {
        version: 5,
        name: "0005_dead_letter_campaigns.sql",
        sql: include_str!("../../../migrations/common/0005_dead_letter_campaigns.sql"),
    },
    Migration {
        version: 6,
        name: "0006_snapshots.sql",
        sql: include_str!("../../../migrations/common/0006_snapshots.sql"),
    },
    Migration {
        version: 7,
        name: "0007_bytewise_streams.sql",
        sql: include_str!("../../../migrations/common/0007_bytewise_streams.sql"),
    },
];

/// How a service reaches the world, and its bounds.
#[derive(Clone)]
pub struct Settings {
    /// The service's own database.
    pub database_url: String,
    /// Connections to it, three at least.
    pub pool_size: usize,
    /// The brokers.
    pub kafka: kafka::Settings,
    /// The schema registry.
    pub registry: RegistrySettings,
    /// How failed records are tried again.
    pub retry: RetryPolicy,
    /// When the consumer pauses itself.
    pub breaker: breaker::Settings,
    /// How often deadlines and parked heads are looked at.
    pub clock_interval: Duration,
    /// See [`deadlines::Settings::grace`].
    pub deadline_grace: Duration,
    /// What is written, and what a start may pass over.
    pub schemas: Schemas,
}

/// How a service treats schemas at its start.
#[derive(Clone, Debug, Default)]
pub struct Schemas {
    /// Versions that are written instead of the newest, while copies of older builds still read.
    pub write_versions: WriteVersions,
    /// Whether to start, with a warning, where something registered cannot be read by this build.
    pub start_with_unreadable: bool,
}

/// Why a service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection to the database.
    #[error("the database of {service} cannot be used")]
    Database {
        /// The service.
        service: &'static str,
        /// What the pool says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is being restored.
    #[error(
        "the database of {service} is only half restored, and nothing was started: run `rondo replay restore --service \
         {service}` again, which goes on where it was"
    )]
    Restoring {
        /// The service.
        service: &'static str,
    },
    /// Its schemas are not in order.
    #[error("the schemas of {service} are not in order")]
    Schemas {
        /// The service.
        service: &'static str,
        /// Which and why.
        #[source]
        source: PinError,
    },
    /// The registry gives other schemas for ids that are in this database's bytes.
    #[error(
        "schema id {id} is {ours} in the database of {service}, but the registry at hand says otherwise: {theirs}. It is \
         another registry, or it lost its storage; events would be decoded wrongly"
    )]
    OtherRegistry {
        /// The service.
        service: &'static str,
        /// The id.
        id: u32,
        /// The record that it named.
        ours: String,
        /// What the registry answers.
        theirs: String,
    },
    /// Data may come, or are there, that this build cannot read.
    #[error(
        "{service} would meet events that it cannot read.{}\n  {} RONDO_UNREADABLE_SCHEMAS=warn starts all the same",
        listed(.found), advice(.found)
    )]
    Unreadable {
        /// The service.
        service: &'static str,
        /// Which schemas, and why not.
        found: Vec<Unreadable>,
    },
    /// Topics are missing.
    #[error("the topics of {service} are not in order; run `rondo init` first")]
    Topics {
        /// The service.
        service: &'static str,
        /// Which and why.
        #[source]
        source: kafka::Error,
    },
    /// The Kafka client's configuration is refused.
    #[error("the Kafka settings of {service} cannot be used")]
    Kafka {
        /// The service.
        service: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part of the running service failed for good.
    #[error("the {part} of {service} stopped")]
    Stopped {
        /// The service.
        service: &'static str,
        /// Which part.
        part: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A service at work. Dropping it does not stop it; cancel the token it was started with, then [`Running::join`].
pub struct Running<M: Model> {
    /// The way in.
    pub commands: Commands<M>,
    /// Its database.
    pub pool: Pool,
    /// Its codec.
    pub codec: Arc<Codec>,
    /// Its relay.
    pub relay: relay::Handle,
    /// Its consumer's circuit breaker.
    pub breaker: Arc<Breaker>,
    tasks: JoinSet<Result<(), Error>>,
    shutdown: CancellationToken,
}

/// Starts `model` as a service.
///
/// # Errors
/// See [`Error`]; each says what to do.
pub async fn start<M: Model>(
    model: Arc<M>,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<Running<M>, Error> {
    let service = M::NAME;
    let database = |source: Box<dyn std::error::Error + Send + Sync>| Error::Database { service, source };
    let for_batches = (settings.pool_size / 2).clamp(1, BATCH_CONNECTIONS_MAX);
    let pool = pg::connect(&settings.database_url, settings.pool_size.saturating_sub(for_batches))
        .await
        .map_err(|error| database(error.into()))?;
    let batches = pg::planned_once(&settings.database_url, for_batches).map_err(|error| database(error.into()))?;
    {
        let client = pool.get().await.map_err(|error| database(error.into()))?;
        migrate::refuse_another(&client, service)
            .await
            .map_err(|error| database(error.into()))?;
        inbox::ensure_partitions(&client, Timestamp::now())
            .await
            .map_err(|error| database(error.into()))?;
        let begun = restore::progress::begun(&client).await;
        if begun.map_err(|error| database(error.into()))? {
            return Err(Error::Restoring { service });
        }
    }
    let log = kafka::Client::new(&settings.kafka).map_err(|error| Error::Kafka {
        service,
        source: error.into(),
    })?;
    let named = |topic: &str| settings.kafka.named(topic);
    let codec = Arc::new(codec_of::<M>(&model, &pool, &settings).await?);
    let inputs: Vec<String> = M::LISTENS_TO.iter().map(|topic| named(topic)).collect();
    for topic in inputs.iter().chain([&named(M::Event::TOPIC)]) {
        match log.partitions(topic).await {
            Err(source @ kafka::Error::NoSuchTopic { .. }) => return Err(Error::Topics { service, source }),
            Err(error) => tracing::warn!(
                service,
                error = &error as &dyn std::error::Error,
                "the broker does not answer yet; the service starts and goes on when it does"
            ),
            Ok(_) => {}
        }
    }

    let mut tasks = JoinSet::new();
    let relay_settings = relay::Settings {
        service,
        topic: named(M::Event::TOPIC),
        kafka: settings.kafka.clone(),
        lease: relay::LEASE,
        poll: relay::POLL,
    };
    let (relay, relay_task) = relay::Relay::start(
        pool.clone(),
        settings.database_url.clone(),
        relay_settings,
        shutdown.clone(),
    );
    tasks.spawn(async move {
        let ended = relay_task
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        ended.map_err(|error| Error::Stopped {
            service,
            part: "relay",
            source: error.into(),
        })
    });

    let claims = Arc::new(Claims::default());
    let committer = Committer::new(
        model,
        codec.clone(),
        batches,
        relay.clone(),
        claims.clone(),
        Patience {
            retry: settings.retry.clone(),
            breaker: settings.breaker.clone(),
        },
        settings.kafka.namespace.as_deref(),
    );
    let (queue, records) = mpsc::channel(RECORDS_QUEUED_MAX);
    let (commands, serve) = committer.serve(records, shutdown.clone());
    tasks.spawn(async move {
        serve.await;
        Ok(())
    });
    if !inputs.is_empty() {
        let consumer_settings = consumer::Settings {
            consumer: service,
            group: named(service),
            topics: inputs.clone(),
            kafka: settings.kafka.clone(),
        };
        let consumer = consumer::run(consumer_settings, pool.clone(), claims, queue, shutdown.clone());
        tasks.spawn(async move {
            let stopped = |error: consumer::Error| Error::Stopped {
                service,
                part: "consumer",
                source: error.into(),
            };
            consumer.await.map_err(stopped)
        });
    }
    let breaker = committer.breaker().clone();
    let campaigns = campaigns::run(
        committer.clone(),
        pool.clone(),
        settings.clock_interval,
        shutdown.clone(),
    );
    tasks.spawn(async move {
        campaigns.await;
        Ok(())
    });
    let clock = deadlines::Settings {
        topics: inputs,
        log,
        interval: settings.clock_interval,
        grace: settings.deadline_grace,
    };
    let clockwork = deadlines::run(
        clock,
        committer,
        commands.clone(),
        pool.clone(),
        relay.clone(),
        shutdown.clone(),
    );
    tasks.spawn(async move {
        clockwork.await;
        Ok(())
    });
    tracing::info!(service, "started");
    Ok(Running {
        commands,
        pool,
        codec,
        relay,
        breaker,
        tasks,
        shutdown,
    })
}

impl<M: Model> Running<M> {
    /// Waits until the service has stopped: after its token was cancelled, or because a part of it failed, which stops
    /// the rest.
    ///
    /// # Errors
    /// The first part's failure.
    pub async fn join(mut self) -> Result<(), Error> {
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            if ended.is_err() {
                self.shutdown.cancel();
            }
            first = first.and(ended);
        }
        first
    }
}

/// A codec with the service's own schemas pinned, and everything that its database remembers.
async fn codec_of<M: Model>(model: &M, pool: &Pool, settings: &Settings) -> Result<Codec, Error> {
    let service = M::NAME;
    let topic = &settings.kafka.named(M::Event::TOPIC);
    let written = &settings.schemas.write_versions;
    let database = |source: Box<dyn std::error::Error + Send + Sync>| Error::Database { service, source };
    let schemas = |source| Error::Schemas { service, source };
    let registry = Registry::new(&settings.registry).map_err(|error| schemas(PinError::Unavailable(error)))?;
    let client = pool.get().await.map_err(|error| database(error.into()))?;
    let remembered = store::schemas(&client).await.map_err(|error| database(error.into()))?;
    for (id, name, text) in &remembered {
        match registry.schema_text(*id).await {
            Ok(theirs) if same_schema(text, &theirs) => {}
            Ok(theirs) => {
                return Err(Error::OtherRegistry {
                    service,
                    id: *id,
                    ours: name.clone(),
                    theirs,
                });
            }
            Err(error @ DecodeError::UnknownSchema(_)) => {
                return Err(Error::OtherRegistry {
                    service,
                    id: *id,
                    ours: name.clone(),
                    theirs: error.to_string(),
                });
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    service,
                    error,
                    "the registry does not answer; going by what the database remembers"
                );
                break;
            }
        }
    }
    let codec = match Codec::pin::<M::Event>(registry.clone(), topic, written).await {
        Ok(codec) => codec,
        Err(PinError::Unavailable(error)) => {
            let mut codec = Codec::reader(registry.clone());
            for event_type in M::Event::TYPES {
                let known = remembered
                    .iter()
                    .find(|(_, _, text)| same_schema(text, event_type.written(written).avsc));
                let Some((id, ..)) = known else {
                    return Err(schemas(PinError::Unavailable(error)));
                };
                let version = event_type.written(written);
                codec.pin_as(event_type, version, *id).map_err(schemas)?;
            }
            codec
        }
        Err(error) => return Err(schemas(error)),
    };
    for (id, _, text) in &remembered {
        if let Err(error) = codec.remember(*id, text) {
            tracing::warn!(
                service,
                id,
                error = &error as &dyn std::error::Error,
                "a remembered schema is not usable"
            );
        }
    }
    refuse_unreadable(model, &registry, settings, &remembered).await?;
    for (name, id, text) in codec.pinned() {
        store::remember_schema(&client, id, name, text)
            .await
            .map_err(|error| database(error.into()))?;
    }
    Ok(codec)
}

/// Refuses a start where this build's readers could not read what its topics have or may get.
async fn refuse_unreadable<M: Model>(
    model: &M,
    registry: &Registry,
    settings: &Settings,
    remembered: &[(u32, String, String)],
) -> Result<(), Error> {
    let service = M::NAME;
    let mut candidates = match readable::registered(model, registry, |topic| settings.kafka.named(topic)).await {
        Ok(candidates) => candidates,
        Err(error) => {
            tracing::warn!(
                service,
                error = &error as &dyn std::error::Error,
                "the registry does not tell its versions; only what this database has met is checked"
            );
            Vec::new()
        }
    };
    candidates.extend(remembered.iter().map(|(id, _, text)| Candidate::remembered(*id, text)));
    let found = readable::unreadable(model, &candidates);
    if found.is_empty() {
        return Ok(());
    }
    if settings.schemas.start_with_unreadable {
        for unreadable in &found {
            tracing::warn!(service, schema.id = unreadable.id, "{unreadable}");
        }
        return Ok(());
    }
    Err(Error::Unreadable { service, found })
}

/// The first of what was found, a line each.
fn listed(found: &[Unreadable]) -> String {
    const LISTED_MAX: usize = 5;
    let lines = found
        .iter()
        .take(LISTED_MAX)
        .map(|unreadable| format!("\n  {unreadable}"));
    let more = found.len().saturating_sub(LISTED_MAX);
    let rest = (more > 0).then(|| format!("\n  and {more} more"));
    lines.chain(rest).collect()
}

/// What to do about them.
fn advice(found: &[Unreadable]) -> &'static str {
    if found.iter().any(|unreadable| unreadable.own) {
        "This build has versions itself that its newest schema cannot read: mend the newest one (`rondo schema check` says \
         how), and never delete a version that events were written with."
    } else {
        "A schema newer than this build: start the newer build. One that was registered by mistake: delete that version from \
         the registry (`rondo schema check --registry` shows it)."
    }
}

/// Whether two texts are the same schema, whatever their white space and the order of their attributes.
fn same_schema(ours: &str, theirs: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    parse(ours).is_some_and(|ours| parse(theirs) == Some(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(own: bool) -> String {
        let unreadable = Unreadable {
            place: "subject s version 1".to_owned(),
            id: 7,
            name: "rondo.orders.OrderPlaced".to_owned(),
            own,
            finding: avro::Finding {
                reason: "READER_FIELD_MISSING_DEFAULT_VALUE",
                path: "/fields/14".to_owned(),
                field: "gift_message".to_owned(),
                detail: "gift_message".to_owned(),
                hint: "give gift_message a default".to_owned(),
            },
        };
        let found = vec![unreadable];
        Error::Unreadable {
            service: "orders",
            found,
        }
        .to_string()
    }

    #[test]
    fn only_a_version_that_this_build_does_not_have_may_be_deleted() {
        assert!(refusal(true).contains("never delete"), "{}", refusal(true));
        assert!(refusal(false).contains(": delete that version"), "{}", refusal(false));
    }
}
