//! A database of its own beside a service's, for as long as something is measured in it.

use anyhow::{Context as _, Result};
use common::pg;
use url::Url;
use uuid::Uuid;

/// A database that is dropped with [`drop`](Scratch::drop).
pub(super) struct Scratch {
    beside: String,
    name: String,
    /// The database.
    pub(super) url: String,
}

impl Scratch {
    /// Makes one on the server of `beside`, empty; the role must be allowed to.
    pub(super) async fn create(beside: &str) -> Result<Self> {
        let name = format!("rondo_bench_{}", Uuid::new_v4().simple());
        let mut url = Url::parse(beside).context("the database's URL cannot be read")?;
        url.set_path(&name);
        pg::single(beside)
            .await?
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .context("a restore is measured in a database of its own, which its role must be allowed to create: ALTER ROLE … CREATEDB")?;
        Ok(Self {
            beside: beside.to_owned(),
            name,
            url: url.into(),
        })
    }

    /// Drops it.
    pub(super) async fn drop(self) -> Result<()> {
        let client = pg::single(&self.beside).await?;
        client
            // Whoever may still be connected is about to leave, and the server sends its own vacuum away; by force, which only a
            // superuser may use against that, it would be refused.
            .batch_execute(&format!("DROP DATABASE {}", self.name))
            .await?;
        Ok(())
    }
}
