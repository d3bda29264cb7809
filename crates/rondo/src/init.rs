//! `rondo init`: brings databases, topics and schemas to what this build needs. Safe to run again at any time.

use anyhow::{Context as _, Result};
use common::codec::{Registry, RegistrySettings};
use common::kafka;
use common::migrate::{self, Migration};
use common::pg;
use contracts::service::SERVICES;
use contracts::topics::Topics;

/// Replay reads the log from its beginning, so each version of a schema must read all earlier ones, not only the last.
const LEVEL: &str = "BACKWARD_TRANSITIVE";

/// What a service's database needs beside the runtime's tables.
pub fn migrations_of(service: &str) -> &'static [Migration] {
    match service {
        "orders" => orders::MIGRATIONS,
        "payments" => payments::MIGRATIONS,
        _ => inventory::MIGRATIONS,
    }
}

/// Brings one service's database to this build's schema; how many files that took.
///
/// # Errors
/// The database cannot be reached, or a migration failed.
pub async fn database(service: &str, url: &str) -> Result<usize> {
    let mut client = pg::single(url)
        .await
        .with_context(|| format!("the database of {service} cannot be reached"))?;
    migrate::claim(&client, service).await?;
    let runtime = migrate::apply(&mut client, "common", common::service::MIGRATIONS).await?;
    Ok(runtime + migrate::apply(&mut client, service, migrations_of(service)).await?)
}

/// Brings the embedded registry's database to this build's schema.
///
/// # Errors
/// The database cannot be reached, or a migration failed.
pub async fn registry_database(url: &str) -> Result<usize> {
    let mut client = pg::single(url)
        .await
        .context("the database of the registry cannot be reached")?;
    Ok(registry::migrate(&mut client).await?)
}

/// Creates the topics that are missing, and tells which.
///
/// # Errors
/// The broker cannot be reached, or a topic has another partition count.
pub async fn topics(kafka: &kafka::Settings, partitions: i32) -> Result<Vec<kafka::Created>> {
    let specs: Vec<kafka::TopicSpec> = Topics::new(kafka.namespace.as_deref())
        .specs(partitions)
        .into_iter()
        .map(|spec| kafka::TopicSpec {
            name: spec.name,
            partitions: spec.partitions,
            config: spec
                .config
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        })
        .collect();
    let created = kafka::ensure_topics(kafka, &specs)
        .await
        .context("the topics could not be created")?;
    Ok(created.into_iter().filter(|topic| topic.new).collect())
}

/// Registers every version of every event's schema, with its subject's level; how many types.
///
/// # Errors
/// The registry cannot be reached, or refuses a schema.
pub async fn schemas(settings: &RegistrySettings, namespace: Option<&str>) -> Result<usize> {
    let registry = Registry::new(settings)?;
    let topics = Topics::new(namespace);
    let mut count = 0;
    for service in &SERVICES {
        let topic = topics.named(service.topic);
        for event_type in service.types {
            registry.register(&topic, event_type, LEVEL).await?;
            count += 1;
        }
    }
    Ok(count)
}
