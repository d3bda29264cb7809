//! Rows on their way into a table by `COPY … FROM STDIN BINARY`, encoded where they are made: by far the cheapest way in.
//!
//! Whoever makes the rows need not be who sends them, so a writer that waits for the server costs the maker nothing.

use std::pin::pin;

use bytes::{BufMut as _, BytesMut};
use deadpool_postgres::Transaction;
use futures_util::SinkExt as _;
use jiff::Timestamp;
use tokio_postgres::Error;
use uuid::Uuid;

/// Magic number, flags and the length of the extension: what a stream of rows begins with.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with, where a row would say how many columns it has.
const TRAILER: i16 = -1;
/// Bytes that are handed to the connection at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Postgres counts microseconds from the beginning of the year 2000.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// Rows of one table, all with the same columns in the same order.
#[derive(Debug, Default)]
pub struct Rows {
    buffer: BytesMut,
}

impl Rows {
    /// How many bytes they have.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Begins a row of `columns` columns; each is added next, in order.
    pub fn row(&mut self, columns: i16) -> &mut Self {
        if self.buffer.is_empty() {
            self.buffer.put_slice(HEADER);
        }
        self.buffer.put_i16(columns);
        self
    }

    /// A `bytea`, or a `text`.
    ///
    /// # Panics
    /// For more than Postgres takes, 2 GiB; a record is far smaller.
    pub fn bytea(&mut self, value: &[u8]) -> &mut Self {
        self.buffer
            .put_i32(i32::try_from(value.len()).expect("a value is smaller than 2 GiB"));
        self.buffer.put_slice(value);
        self
    }

    /// A `text`.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.bytea(value.as_bytes())
    }

    /// An `int`.
    pub fn int(&mut self, value: i32) -> &mut Self {
        self.buffer.put_i32(4);
        self.buffer.put_i32(value);
        self
    }

    /// A `bigint`.
    pub fn bigint(&mut self, value: i64) -> &mut Self {
        self.buffer.put_i32(8);
        self.buffer.put_i64(value);
        self
    }

    /// A `uuid`.
    pub fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.bytea(value.as_bytes())
    }

    /// A `timestamptz`, to the microsecond.
    pub fn timestamptz(&mut self, value: Timestamp) -> &mut Self {
        self.bigint(value.as_microsecond() - EPOCH_MICROSECONDS)
    }

    /// A null of any type.
    pub fn null(&mut self) -> &mut Self {
        self.buffer.put_i32(-1);
        self
    }

    /// What `add` adds, or a null.
    pub fn nullable<T>(&mut self, value: Option<T>, add: impl FnOnce(&mut Self, T) -> &mut Self) -> &mut Self {
        match value {
            Some(value) => add(self, value),
            None => self.null(),
        }
    }

    /// Sends them by `statement`, a `COPY table (columns) FROM STDIN BINARY`.
    ///
    /// # Errors
    /// The database's.
    async fn copy(mut self, tx: &Transaction<'_>, statement: &str) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        self.buffer.put_i16(TRAILER);
        let statement = tx.prepare_cached(statement).await?;
        let mut sink = pin!(tx.copy_in(&statement).await?);
        while !self.buffer.is_empty() {
            let piece = self.buffer.split_to(self.buffer.len().min(PIECE_BYTES));
            sink.feed(piece.freeze()).await?;
        }
        sink.finish().await?;
        Ok(())
    }
}

/// Rows and where they go.
#[derive(Debug)]
pub struct Load {
    /// The table.
    pub table: &'static str,
    /// Its columns in the order of the rows, with commas between.
    pub columns: &'static str,
    /// The rows.
    pub rows: Rows,
}

impl Load {
    /// Sends the rows.
    ///
    /// # Errors
    /// The database's.
    pub async fn send(self, tx: &Transaction<'_>) -> Result<(), Error> {
        let statement = format!("COPY {} ({}) FROM STDIN BINARY", self.table, self.columns);
        self.rows.copy(tx, &statement).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_arrive_as_the_driver_would_have_written_them() {
        let database = testkit::database(async |_| ()).await;
        let pool = database.pool(1);
        let mut client = pool.get().await.unwrap();
        let tx = client.transaction().await.unwrap();
        tx.batch_execute("CREATE TEMP TABLE t (a bigint, b int, c uuid, d text, e bytea, f timestamptz, g text)")
            .await
            .unwrap();
        let (id, at): (Uuid, Timestamp) = (Uuid::from_u128(7), "1999-12-31T23:59:59.999999Z".parse().unwrap());
        let long = "é".repeat(PIECE_BYTES);
        let mut rows = Rows::default();
        for (number, text) in [(-1, "short"), (2, &*long)] {
            rows.row(7).bigint(number).int(-5).uuid(id).text(text);
            rows.bytea(b"\0\xff").timestamptz(at).nullable(None, Rows::text);
        }
        rows.copy(&tx, "COPY t FROM STDIN BINARY").await.unwrap();
        let found = tx
            .query_one(
                "SELECT count(*) FROM t WHERE (a, d) IN ((-1, 'short'), (2, $1)) AND b = -5 AND c = $2 AND e = '\\x00ff'
                 AND f = $3 AND g IS NULL",
                &[&long, &id, &at],
            )
            .await
            .unwrap();
        assert_eq!(found.get::<_, i64>(0), 2);
        Rows::default().copy(&tx, "not even SQL").await.unwrap();
    }
}
