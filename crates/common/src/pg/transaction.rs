//! A transaction that waits for as few answers as it can: BEGIN goes out ahead of the first statement without a wait of its
//! own, and COMMIT right behind the last writes.
//!
//! On a busy machine an answer costs two turns of the scheduler, whatever the statement: a batch that waits for two answers
//! instead of five is over sooner and leaves the processors to others.

use std::future::Future;
use std::ops::Deref;
use std::pin::{Pin, pin};

use deadpool_postgres::{Client, GenericClient};
use futures_util::FutureExt as _;
use futures_util::future::{MaybeDone, maybe_done};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

type Parameter<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// A statement that writes, with its parameters.
pub struct Write<'a> {
    sql: &'static str,
    parameters: Vec<Parameter<'a>>,
}

impl<'a> Write<'a> {
    /// A statement, so far without parameters.
    pub fn new(sql: &'static str) -> Self {
        Self {
            sql,
            parameters: Vec::new(),
        }
    }

    /// With its next parameter.
    #[must_use]
    pub fn with(mut self, parameter: impl ToSql + Sync + Send + 'a) -> Self {
        self.parameters.push(Box::new(parameter));
        self
    }

    /// With a column of values as its next parameter: an array.
    #[must_use]
    pub fn column<T>(self, values: impl Iterator<Item = T>) -> Self
    where
        T: ToSql + Sync + Send + 'a,
    {
        self.with(values.collect::<Vec<T>>())
    }

    /// Executes it, and waits for that. The rows are those of a RETURNING clause.
    ///
    /// # Errors
    /// The database's.
    pub async fn run(&self, client: &impl GenericClient) -> Result<Vec<Row>, Error> {
        let statement = client.prepare_cached(self.sql).await?;
        client.query(&statement, &self.parameters()).await
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let parameters = self.parameters.iter();
        parameters
            .map(|parameter| &**parameter as &(dyn ToSql + Sync))
            .collect()
    }
}

impl std::fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Write").field(&self.sql).finish()
    }
}

/// An open transaction. Dropped without a commit it is rolled back.
pub struct Transaction<'a> {
    client: &'a Client,
    open: bool,
}

impl<'a> Transaction<'a> {
    /// Begins one on `client`. Whether the server is there the first statement finds out.
    pub fn begin(client: &'a mut Client) -> Self {
        send(client.batch_execute("BEGIN"));
        Self { client, open: true }
    }

    /// Executes `writes` in their order and commits, all in one go; what each returned.
    ///
    /// # Errors
    /// The database's, for the first that failed. Nothing is committed then, unless the connection was lost, which leaves it open.
    pub async fn commit(mut self, writes: &[Write<'_>]) -> Result<Vec<Vec<Row>>, Error> {
        let client = self.client;
        // What this connection has not prepared yet must be waited for: only then nothing can come behind the COMMIT.
        let mut prepared = Vec::with_capacity(writes.len());
        for write in writes {
            prepared.push((client.prepare_cached(write.sql).await?, write.parameters()));
        }
        let executed = prepared
            .iter()
            .map(|(statement, parameters)| client.query(statement, parameters));
        let mut executed: Vec<_> = executed.map(sent).collect();
        let mut committed = sent(client.batch_execute("COMMIT"));
        self.open = false;
        let mut returned = Vec::with_capacity(writes.len());
        for one in &mut executed {
            returned.push(answer(one).await?);
        }
        answer(&mut committed).await?;
        Ok(returned)
    }
}

impl Deref for Transaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            send(self.client.batch_execute("ROLLBACK"));
        }
    }
}

/// Sends a statement whose answer nobody waits for.
fn send<T>(statement: impl Future<Output = Result<T, Error>>) {
    // A statement goes out when it is first polled; its answer is read by the connection, whoever asks for it.
    drop(pin!(statement).now_or_never());
}

/// A statement that is on its way.
fn sent<F: Future>(statement: F) -> Pin<Box<MaybeDone<F>>> {
    let mut statement = Box::pin(maybe_done(statement));
    let _ = statement.as_mut().now_or_never();
    statement
}

async fn answer<T, F: Future<Output = T>>(statement: &mut Pin<Box<MaybeDone<F>>>) -> T {
    statement.as_mut().await;
    statement.as_mut().take_output().expect("it is asked for once")
}
