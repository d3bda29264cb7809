//! A database of one's own for each test.

use crate::stack;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use std::sync::mpsc;
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

/// Patience with dropping a database at the end of its test; it is only tidiness.
const DROP_SECS_MAX: u64 = 5;

/// A database that is dropped with this value, whoever is still connected to it.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
    server_url: String,
}

/// A fresh database, brought up by `migrate`.
///
/// ```no_run
/// # async fn test() {
/// let database = testkit::database(async |client| client.batch_execute("CREATE TABLE t ()").await.unwrap()).await;
/// let pool = database.pool(4);
/// # }
/// ```
pub async fn database(migrate: impl AsyncFnOnce(&mut Client)) -> Database {
    let server_url = stack::postgres().await.url.clone();
    let name = format!("test_{}", Uuid::new_v4().simple());
    let server = connect(&server_url).await;
    server
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .await
        .expect("the server's user may create databases");
    let database = Database {
        url: with_database(&server_url, &name),
        name,
        server_url,
    };
    migrate(&mut database.client().await).await;
    database
}

impl Database {
    /// Its URL, password included.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name on the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Drops the database, whoever is connected to it, and creates it again with nothing in it.
    pub async fn lose(&self) {
        let server = connect(&self.server_url).await;
        let create = format!("CREATE DATABASE {}", self.name);
        let made_again = async {
            drop_with_force(&server, &self.name).await?;
            server.batch_execute(&create).await
        };
        made_again
            .await
            .expect("the server's user may drop and create databases");
    }

    /// A pool of at most `size` connections.
    #[must_use]
    pub fn pool(&self, size: usize) -> Pool {
        pool(&self.url, size)
    }

    /// One connection.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (done, waiting) = mpsc::channel();
        let (server_url, name) = (self.server_url.clone(), self.name.clone());
        stack::RUNTIME.spawn(async move {
            if let Ok((server, connection)) = tokio_postgres::connect(&server_url, NoTls).await {
                tokio::spawn(connection);
                // What cannot be dropped is left to the server's owner; the test's own verdict stands.
                let _ = drop_with_force(&server, &name).await;
            }
            let _ = done.send(());
        });
        let _ = waiting.recv_timeout(Duration::from_secs(DROP_SECS_MAX));
    }
}

/// Drops the database `name`, if there is one, whoever is connected to it.
async fn drop_with_force(server: &Client, name: &str) -> Result<(), tokio_postgres::Error> {
    let plain = format!("DROP DATABASE IF EXISTS {name}");
    let forced = format!("{plain} WITH (FORCE)");
    if server.batch_execute(&forced).await.is_ok() {
        return Ok(());
    }
    // By force it is refused while the server vacuums there; without, the server sends its vacuum away.
    let _ = server.batch_execute(&plain).await;
    server.batch_execute(&forced).await
}

pub(crate) fn pool(url: &str, size: usize) -> Pool {
    let config: Config = url.parse().expect("the tests' database URL is one");
    let manager = Manager::from_config(
        config,
        NoTls,
        ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        },
    );
    Pool::builder(manager)
        .max_size(size)
        .build()
        .expect("a pool without time-outs needs no runtime")
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("the tests' Postgres answers");
    tokio::spawn(connection);
    client
}

/// `url` with its path replaced by `name`.
pub(crate) fn with_database(url: &str, name: &str) -> String {
    let (head, query) = url
        .split_once('?')
        .map_or((url, None), |(head, query)| (head, Some(query)));
    let authority_start = head.find("://").map_or(0, |at| at + 3);
    let authority_end = head[authority_start..]
        .find('/')
        .map_or(head.len(), |at| authority_start + at);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{name}{query}", &head[..authority_end])
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn only_the_name_of_the_database_changes() {
        for (url, expected) in [
            ("postgres://u:p@h:1/postgres", "postgres://u:p@h:1/t"),
            ("postgres://u@h", "postgres://u@h/t"),
            ("postgres://h/a?sslmode=disable", "postgres://h/t?sslmode=disable"),
        ] {
            assert_eq!(with_database(url, "t"), expected);
        }
    }
}
