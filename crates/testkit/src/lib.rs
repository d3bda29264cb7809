//! What tests share: throw-away databases, a broker, waiting on conditions, and given/when/then for pure domains.
//!
//! A test asks for what it needs and gets it: [`database`], [`kafka::brokers`],
//! [`registry`]. The servers behind are those that
//! `DATABASE_URL`, `KAFKA_BROKERS` and `SCHEMA_REGISTRY_URL` name, so that one suite runs against Kafka and Apicurio as
//! well; where a variable is unset, the embedded ones, started once a test process at the first request and gone with it.
//!
//! Nothing here sleeps for a while and hopes: [`eventually`] waits on conditions. Every function panics when the test
//! cannot go on.

mod database;
mod eventually;
pub mod kafka;
mod proxy;
pub mod scenario;
mod stack;

pub use database::{Database, database};
pub use eventually::{Answer, eventually};
pub use proxy::Proxy;
pub use scenario::domain;

/// URL of the tests' schema registry: `SCHEMA_REGISTRY_URL`, or this workspace's own, served by this process. All tests share
/// it, so subjects need a [`namespace`] too.
pub async fn registry() -> &'static str {
    stack::registry().await
}

/// A short prefix that no other test uses, so that topics and groups of tests never meet on a shared Kafka.
#[must_use]
pub fn namespace() -> String {
    format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..10])
}
