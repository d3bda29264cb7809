//! `rondo init`: brings databases, topics and schemas to what this build needs. Safe to run again at any time.

use std::time::Duration;

use anyhow::{Context as _, Result};
use common::codec::{PinError, Registry, RegistrySettings};
use common::event::EventType;
use common::kafka;
use common::migrate::{self, Migration};
use common::pg;
use contracts::service::SERVICES;
use contracts::topics::Topics;

/// Replay reads the log from its beginning, so each version of a schema must read all earlier ones, not only the last.
const LEVEL: &str = "BACKWARD_TRANSITIVE";
/// How often a registry that gives no answer is asked in all, and the pause in between.
const REGISTER_ATTEMPTS_MAX: u32 = 3;
const REGISTER_PAUSE: Duration = Duration::from_secs(1);

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
            register(&registry, &topic, event_type).await?;
            count += 1;
        }
    }
    Ok(count)
}

/// Registers one type; a registry that is busy with much else is given another chance, since registering twice is as once.
async fn register(registry: &Registry, topic: &str, event_type: &EventType) -> Result<u32, PinError> {
    for attempt in 1..REGISTER_ATTEMPTS_MAX {
        match registry.register(topic, event_type, LEVEL).await {
            Err(error @ PinError::Unavailable(_)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    attempt,
                    "the registry is asked again"
                );
                tokio::time::sleep(REGISTER_PAUSE).await;
            }
            registered => return registered,
        }
    }
    registry.register(topic, event_type, LEVEL).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A registry that hangs up on the first callers and takes everything after them; its settings.
    async fn hangs_up_on(callers: u32) -> RegistrySettings {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for caller in 1.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                if caller > callers {
                    let mut request = vec![0; 64 * 1024];
                    let _ = stream.read(&mut request).await;
                    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\nconnection: close\r\n\r\n{\"id\":7}";
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        RegistrySettings {
            url,
            basic: None,
            token: None,
        }
    }

    #[tokio::test]
    async fn a_registry_that_misses_a_call_is_asked_again_and_not_for_ever() {
        let event_type = &SERVICES[0].types[0];
        let patient = Registry::new(&hangs_up_on(1).await).unwrap();
        assert_eq!(register(&patient, "orders.events", event_type).await.unwrap(), 7);
        let away = Registry::new(&hangs_up_on(u32::MAX).await).unwrap();
        let error = register(&away, "orders.events", event_type).await.unwrap_err();
        assert!(matches!(error, PinError::Unavailable(_)), "{error:?}");
    }
}
