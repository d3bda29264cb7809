//! The shadow tables and how far they have come: all SQL of the schema that a replay writes to.
//!
//! Rows and progress change in the same transactions, so a run that is killed anywhere goes on where it was. One run at a
//! time holds a lock of its session for as long as it lives.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use deadpool_postgres::{Client, Pool, Transaction};
use futures_util::try_join;

use super::fold::{Aside, Batch};
use super::log::Span;
use super::rebuild::Error;
use crate::codec::Codec;
use crate::event::StreamId;
use crate::migrate::Migration;
use crate::model::{Follows, Model, Table};
use crate::pg::Write;
use crate::{store, timers};

/// Where a rebuild keeps its tables and its progress.
pub const REBUILD_SCHEMA: &str = "rebuild";
/// Where a comparison that will never be swapped keeps them.
pub const CANDIDATE_SCHEMA: &str = "rebuild_candidate";
/// Where the tables are that a rebuild has replaced.
pub const OLD_SCHEMA: &str = "rebuild_old";
/// How long to wait for an earlier run's session to end: the server may take a moment to notice that it was killed.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(20);
/// How often to look whether it has.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// The runtime's own table: which streams need attention. When they do may lie earlier than events say, never later.
const TIMERS: Table = Table {
    name: "timers",
    key: &["stream_id"],
    follows: Follows::Stream("stream_id"),
    determined: &["stream_id"],
};

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// The log is read.
    Reading = 0,
    /// Streams that were set aside are told again.
    Again = 1,
    /// Indexes are built, sums are made.
    Finishing = 2,
    /// What happened since is added.
    Following = 3,
}

/// What is written down of a run.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    /// Events with a higher position are left to following.
    pub(super) cutoff: i64,
    /// Up to where what was written since the log was read has been added.
    pub(super) reached: i64,
    pub(super) events: u64,
    pub(super) repeated: u64,
    pub(super) foreign: u64,
    /// What is left to read.
    pub(super) spans: Vec<Span>,
    /// The highest position of each partition so far.
    pub(super) tops: HashMap<i32, i64>,
}

/// The tables of one run.
pub(super) struct Shadow {
    pub(super) client: Client,
    pub(super) schema: &'static str,
    /// Where the service's own tables are, quoted.
    pub(super) home: String,
    pub(super) tables: Vec<Table>,
}

impl Shadow {
    /// Takes the lock of `schema` on a connection of its own.
    pub(super) async fn open<M: Model>(pool: &Pool, schema: &'static str) -> Result<Self, Error> {
        let client = pool.get().await?;
        let patience = Instant::now() + LOCK_WAIT_MAX;
        while !lock(&client, schema).await? {
            if Instant::now() >= patience {
                return Err(Error::Busy { schema });
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
        let home = client
            .query_one(
                "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'events'::regclass",
                &[],
            )
            .await?
            .get(0);
        let tables = M::TABLES.iter().copied().chain([TIMERS]).collect();
        Ok(Self {
            client,
            schema,
            home,
            tables,
        })
    }

    /// What an earlier run with the same `plan` has left; the leavings of any other are dropped.
    pub(super) async fn resume(&self, plan: &str) -> Result<Option<Progress>, Error> {
        let schema = self.schema;
        let left = self
            .client
            .query_one("SELECT to_regclass($1) IS NOT NULL", &[&format!("{schema}.progress")])
            .await?;
        if left.get(0) {
            let row = self
                .client
                .query_opt(
                    &format!(
                        "SELECT phase, cutoff, reached, events, repeated, foreign_records FROM {schema}.progress
                         WHERE plan = $1"
                    ),
                    &[&plan],
                )
                .await?;
            if let Some(row) = row {
                self.look_here().await?;
                let (spans, tops) = self.spans().await?;
                return Ok(Some(Progress {
                    phase: match row.get::<_, i16>(0) {
                        0 => Phase::Reading,
                        1 => Phase::Again,
                        2 => Phase::Finishing,
                        _ => Phase::Following,
                    },
                    cutoff: row.get(1),
                    reached: row.get(2),
                    events: row.get::<_, i64>(3).cast_unsigned(),
                    repeated: row.get::<_, i64>(4).cast_unsigned(),
                    foreign: row.get::<_, i64>(5).cast_unsigned(),
                    spans,
                    tops,
                }));
            }
        }
        self.drop_all().await?;
        Ok(None)
    }

    async fn spans(&self) -> Result<(Vec<Span>, HashMap<i32, i64>), Error> {
        let sql = format!(
            "SELECT partition, first, next, until, top FROM {}.spans ORDER BY partition",
            self.schema
        );
        let rows = self.client.query(&sql, &[]).await?;
        let span = |row: &tokio_postgres::Row| Span {
            partition: row.get(0),
            first: row.get(1),
            next: row.get(2),
            end: row.get(3),
        };
        Ok((
            rows.iter().map(span).collect(),
            rows.iter().map(|row| (row.get(0), row.get(4))).collect(),
        ))
    }

    /// Makes the tables, empty: like the service's own, or as `migrations` say.
    pub(super) async fn create(
        &mut self,
        plan: &str,
        cutoff: i64,
        spans: &[Span],
        migrations: Option<&[Migration]>,
    ) -> Result<(), Error> {
        let (schema, home) = (self.schema, self.home.clone());
        let tx = self.client.transaction().await?;
        tx.batch_execute(&format!(
            "CREATE SCHEMA {schema};
             CREATE TABLE {schema}.progress (
                 one boolean PRIMARY KEY DEFAULT true CHECK (one), plan text NOT NULL, phase smallint NOT NULL DEFAULT 0,
                 cutoff bigint NOT NULL, reached bigint NOT NULL DEFAULT 0, events bigint NOT NULL DEFAULT 0,
                 repeated bigint NOT NULL DEFAULT 0, foreign_records bigint NOT NULL DEFAULT 0);
             CREATE TABLE {schema}.spans (
                 partition int PRIMARY KEY, first bigint NOT NULL, next bigint NOT NULL, until bigint NOT NULL,
                 top bigint NOT NULL DEFAULT 0);
             CREATE TABLE {schema}.set_aside (
                 stream_id text PRIMARY KEY, first bigint NOT NULL, last bigint NOT NULL, gap boolean NOT NULL,
                 done boolean NOT NULL DEFAULT false);"
        ))
        .await?;
        tx.execute(
            &format!("INSERT INTO {schema}.progress (plan, cutoff, reached) VALUES ($1, $2, $2)"),
            &[&plan, &cutoff],
        )
        .await?;
        for span in spans {
            tx.execute(
                &format!("INSERT INTO {schema}.spans (partition, first, next, until) VALUES ($1, $2, $3, $4)"),
                &[&span.partition, &span.first, &span.next, &span.end],
            )
            .await?;
        }
        if let Some(migrations) = migrations {
            tx.batch_execute(&format!("SET LOCAL search_path = {schema}, {home}"))
                .await?;
            for migration in migrations {
                tx.batch_execute(migration.sql).await?;
            }
        }
        for table in &self.tables {
            if migrations.is_some() && table.name != TIMERS.name {
                continue;
            }
            create_like(&tx, schema, &home, table).await?;
        }
        for table in &self.tables {
            // Autovacuum would read what is still being written, and hold up the index builds.
            let sql = format!("ALTER TABLE {schema}.{} SET (autovacuum_enabled = false)", table.name);
            tx.batch_execute(&sql).await?;
        }
        tx.commit().await?;
        self.look_here().await
    }

    /// From now on an unqualified name of this connection is a shadow table's, if there is one. A commit need not wait for
    /// the disk: after a crash of the server rows and progress are equally old.
    async fn look_here(&self) -> Result<(), Error> {
        let sql = format!(
            "SET search_path = {}, {}; SET synchronous_commit = off",
            self.schema, self.home
        );
        self.client.batch_execute(&sql).await?;
        Ok(store::import::ready_to_build(&self.client).await?)
    }

    /// Writes a batch of the log and where it ends.
    pub(super) async fn write<M: Model>(
        &mut self,
        model: &M,
        codec: &Codec,
        batch: &mut Batch<M>,
    ) -> Result<(), Error> {
        let schema = self.schema;
        let tx = self.client.transaction().await?;
        let (taken, aside) = (std::mem::take(&mut batch.taken), std::mem::take(&mut batch.aside));
        let next = std::mem::take(&mut batch.next);
        let counts = [batch.events, batch.repeated, batch.foreign];
        // One after the other on the wire: while the server takes what was written down it is sent what follows from it.
        try_join!(
            taken.write(&tx, codec),
            retell(&tx, model, batch),
            set_aside(&tx, schema, &aside),
            advance(&tx, schema, &next),
            count(&tx, schema, counts),
        )?;
        tx.commit().await?;
        Ok(())
    }

    /// Goes on to `phase`.
    pub(super) async fn enter(&self, phase: Phase) -> Result<(), Error> {
        let sql = format!("UPDATE {}.progress SET phase = $1", self.schema);
        self.client.execute(&sql, &[&(phase as i16)]).await?;
        Ok(())
    }

    /// Up to `limit` streams that must still be told again, with their first version that was not folded.
    pub(super) async fn aside(&self, limit: i64) -> Result<Vec<(StreamId, i64)>, Error> {
        let sql = format!(
            "SELECT stream_id, first FROM {}.set_aside WHERE NOT done ORDER BY stream_id LIMIT $1",
            self.schema
        );
        let rows = self.client.query(&sql, &[&limit]).await?;
        let stream = |row: &tokio_postgres::Row| (StreamId::new(row.get::<_, String>(0)), row.get(1));
        Ok(rows.iter().map(stream).collect())
    }

    /// How many streams were set aside, how many of them lack a version in the log, and the first of these.
    pub(super) async fn gaps(&self, shown_max: i64) -> Result<(u64, u64, Vec<String>), Error> {
        let schema = self.schema;
        let row = self
            .client
            .query_one(
                &format!(
                    "SELECT count(*), count(*) FILTER (WHERE gap),
                            ARRAY(SELECT stream_id FROM {schema}.set_aside WHERE gap ORDER BY stream_id LIMIT $1)
                     FROM {schema}.set_aside"
                ),
                &[&shown_max],
            )
            .await?;
        Ok((
            row.get::<_, i64>(0).cast_unsigned(),
            row.get::<_, i64>(1).cast_unsigned(),
            row.get(2),
        ))
    }

    /// Gives the tables what a table needs to serve: keys, indexes, privileges; and from now on every row that changes is
    /// written down.
    pub(super) async fn finish<M: Model>(&mut self, model: &M, own_shape: bool) -> Result<(), Error> {
        let (schema, home) = (self.schema, self.home.clone());
        let tx = self.client.transaction().await?;
        for table in &self.tables {
            if !own_shape || table.name == TIMERS.name {
                index(&tx, schema, &home, table).await?;
                grant(&tx, schema, &home, table).await?;
            }
        }
        model.sum_up(&tx).await?;
        for table in &self.tables {
            note_changes(&tx, schema, table).await?;
            let sql = format!("ALTER TABLE {schema}.{} RESET (autovacuum_enabled)", table.name);
            tx.batch_execute(&sql).await?;
            if !own_shape || table.name == TIMERS.name {
                set_options(&tx, schema, &home, table).await?;
            }
        }
        let sql = format!("UPDATE {schema}.progress SET phase = $1");
        tx.execute(&sql, &[&(Phase::Following as i16)]).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Lets the server know what the tables hold, as its own would after a while.
    pub(super) async fn analyse(&self) -> Result<(), Error> {
        for table in &self.tables {
            let sql = format!("ANALYZE {}.{}", self.schema, table.name);
            self.client.batch_execute(&sql).await?;
        }
        Ok(())
    }

    /// Forgets which rows have changed so far.
    pub(super) async fn forget_changes(&self) -> Result<(), Error> {
        for table in &self.tables {
            let sql = format!("TRUNCATE {}.touched_{}", self.schema, table.name);
            self.client.batch_execute(&sql).await?;
        }
        Ok(())
    }

    /// Drops the schema with all that is in it.
    pub(super) async fn drop_all(&self) -> Result<(), Error> {
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema);
        Ok(self.client.batch_execute(&sql).await?)
    }
}

/// Takes the lock of `schema` for as long as the connection lasts; `false` if another one holds it.
pub(super) async fn lock(client: &Client, schema: &str) -> Result<bool, Error> {
    let sql = "SELECT pg_try_advisory_lock(hashtext('rondo replay'), hashtext($1))";
    Ok(client.query_one(sql, &[&schema]).await?.get(0))
}

/// Writes what follows from `batch`, whose rows have been made, while the log is told from its beginning.
pub(super) async fn retell<M: Model>(tx: &Transaction<'_>, model: &M, batch: &mut Batch<M>) -> Result<(), Error> {
    for load in std::mem::take(&mut batch.fresh) {
        load.send(tx).await?;
    }
    let changes = batch.changes();
    let mut writes = model.retell(&changes);
    writes.extend(timers::rearm(model, &changes));
    run(tx, &writes).await
}

/// Writes what follows from `batch`, which holds everything that happened next.
pub(super) async fn follow<M: Model>(
    tx: &Transaction<'_>,
    schema: &str,
    model: &M,
    batch: &Batch<M>,
    reached: i64,
) -> Result<(), Error> {
    let changes = batch.changes();
    let mut writes = model.project(&changes);
    writes.extend(timers::rearm(model, &changes));
    run(tx, &writes).await?;
    let sql = format!("UPDATE {schema}.progress SET reached = $1, events = events + $2");
    tx.execute(&sql, &[&reached, &batch.events.cast_signed()]).await?;
    Ok(())
}

async fn run(tx: &Transaction<'_>, writes: &[Write<'_>]) -> Result<(), Error> {
    for write in writes {
        write.run(tx).await?;
    }
    Ok(())
}

/// Each partition goes on at an offset, with the highest position so far.
async fn advance(tx: &Transaction<'_>, schema: &str, to: &HashMap<i32, (i64, i64)>) -> Result<(), Error> {
    let partitions: Vec<i32> = to.keys().copied().collect();
    let next: Vec<i64> = to.values().map(|(next, _)| *next).collect();
    let tops: Vec<i64> = to.values().map(|(_, top)| *top).collect();
    let statement = tx
        .prepare_cached(&format!(
            "UPDATE {schema}.spans SET next = at.next, top = at.top
             FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS at (partition, next, top)
             WHERE spans.partition = at.partition"
        ))
        .await?;
    tx.execute(&statement, &[&partitions, &next, &tops]).await?;
    Ok(())
}

/// Adds to the numbers of events, of repeated ones and of foreign records.
async fn count(tx: &Transaction<'_>, schema: &str, more: [u64; 3]) -> Result<(), Error> {
    let statement = tx
        .prepare_cached(&format!(
            "UPDATE {schema}.progress
             SET events = events + $1, repeated = repeated + $2, foreign_records = foreign_records + $3"
        ))
        .await?;
    let [events, repeated, foreign] = more.map(u64::cast_signed);
    tx.execute(&statement, &[&events, &repeated, &foreign]).await?;
    Ok(())
}

async fn set_aside(tx: &Transaction<'_>, schema: &str, aside: &HashMap<StreamId, Aside>) -> Result<(), Error> {
    if aside.is_empty() {
        return Ok(());
    }
    let streams: Vec<&str> = aside.keys().map(StreamId::as_str).collect();
    let first: Vec<i64> = aside.values().map(|aside| aside.first).collect();
    let last: Vec<i64> = aside.values().map(|aside| aside.last).collect();
    let gaps: Vec<bool> = aside.values().map(|aside| aside.gap).collect();
    let statement = tx
        .prepare_cached(&format!(
            "INSERT INTO {schema}.set_aside (stream_id, first, last, gap)
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bool[])
             ON CONFLICT (stream_id) DO UPDATE SET
                 gap = set_aside.gap OR excluded.gap OR excluded.first > set_aside.last + 1,
                 first = least(set_aside.first, excluded.first), last = greatest(set_aside.last, excluded.last)"
        ))
        .await?;
    tx.execute(&statement, &[&streams, &first, &last, &gaps]).await?;
    Ok(())
}

/// The streams have been told again. With `holed` it is known which of them lack a version in the event store too, whatever
/// the log has looked like.
pub(super) async fn told_again(
    tx: &Transaction<'_>,
    schema: &str,
    streams: &[(StreamId, i64)],
    holed: Option<&[StreamId]>,
) -> Result<(), Error> {
    let ids: Vec<&str> = streams.iter().map(|(stream, _)| stream.as_str()).collect();
    let holed: Option<Vec<&str>> = holed.map(|holed| holed.iter().map(StreamId::as_str).collect());
    let sql = format!(
        "UPDATE {schema}.set_aside SET done = true, gap = CASE WHEN $2::text[] IS NULL THEN gap ELSE stream_id = ANY($2) END
         WHERE stream_id = ANY($1)"
    );
    tx.execute(&sql, &[&ids, &holed]).await?;
    Ok(())
}

/// A table like the service's own, without what only costs time while it is filled.
async fn create_like(tx: &Transaction<'_>, schema: &str, home: &str, table: &Table) -> Result<(), Error> {
    let name = table.name;
    tx.batch_execute(&format!(
        "CREATE TABLE {schema}.{name} (LIKE {home}.{name} INCLUDING ALL EXCLUDING INDEXES)"
    ))
    .await?;
    set_options(tx, schema, home, table).await?;
    if table.follows != Follows::Event {
        // Rows are written over, so the key is needed from the beginning.
        constrain(tx, schema, home, table, "p").await?;
    }
    Ok(())
}

/// Gives the shadow table the storage options of the service's own.
async fn set_options(tx: &Transaction<'_>, schema: &str, home: &str, table: &Table) -> Result<(), Error> {
    let name = table.name;
    let options: Vec<String> = tx
        .query_one(
            "SELECT coalesce(reloptions, '{}') FROM pg_class WHERE oid = $1::text::regclass",
            &[&format!("{home}.{name}")],
        )
        .await?
        .get(0);
    if !options.is_empty() {
        tx.batch_execute(&format!("ALTER TABLE {schema}.{name} SET ({})", options.join(", ")))
            .await?;
    }
    Ok(())
}

/// Adds the constraints of the kinds `kinds` that the service's own table has, under their names.
async fn constrain(tx: &Transaction<'_>, schema: &str, home: &str, table: &Table, kinds: &str) -> Result<(), Error> {
    let rows = tx
        .query(
            "SELECT quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
             WHERE conrelid = $1::text::regclass AND position(contype::text in $2) > 0 ORDER BY conname",
            &[&format!("{home}.{}", table.name), &kinds],
        )
        .await?;
    for row in rows {
        let (name, definition): (String, String) = (row.get(0), row.get(1));
        let sql = format!("ALTER TABLE {schema}.{} ADD CONSTRAINT {name} {definition}", table.name);
        tx.batch_execute(&sql).await?;
    }
    Ok(())
}

/// Builds the indexes that the service's own table has, under their names.
async fn index(tx: &Transaction<'_>, schema: &str, home: &str, table: &Table) -> Result<(), Error> {
    let kinds = if table.follows == Follows::Event { "pu" } else { "u" };
    constrain(tx, schema, home, table, kinds).await?;
    let rows = tx
        .query(
            "SELECT pg_get_indexdef(indexrelid), indrelid::regclass::text FROM pg_index
             WHERE indrelid = $1::text::regclass
               AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x'))",
            &[&format!("{home}.{}", table.name)],
        )
        .await?;
    for row in rows {
        let definition: String = row.get(0);
        let own = format!(" ON {home}.{} ", table.name);
        let shadow = format!(" ON {schema}.{} ", table.name);
        tx.batch_execute(&definition.replacen(&own, &shadow, 1)).await?;
    }
    Ok(())
}

/// Gives the shadow table the owner and the privileges of the service's own.
async fn grant(tx: &Transaction<'_>, schema: &str, home: &str, table: &Table) -> Result<(), Error> {
    let rows = tx
        .query(
            "SELECT format('GRANT %s ON %s TO %s%s', privilege_type, $2::text,
                           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
                           CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
             FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = $1::text::regclass AND grantee <> relowner
             UNION ALL
             SELECT format('ALTER TABLE %s OWNER TO %s', $2::text, relowner::regrole::text) FROM pg_class
             WHERE oid = $1::text::regclass AND relowner::regrole::text <> quote_ident(current_user)",
            &[&format!("{home}.{}", table.name), &format!("{schema}.{}", table.name)],
        )
        .await?;
    for row in rows {
        tx.batch_execute(row.get(0)).await?;
    }
    Ok(())
}

/// Writes down the key of every row that changes from now on.
async fn note_changes(tx: &Transaction<'_>, schema: &str, table: &Table) -> Result<(), Error> {
    let name = table.name;
    let columns = table.key.join(", ");
    let of = |row: &str| {
        let keys: Vec<String> = table.key.iter().map(|key| format!("{row}.{key}")).collect();
        keys.join(", ")
    };
    tx.batch_execute(&format!(
        "CREATE TABLE {schema}.touched_{name} AS SELECT {columns} FROM {schema}.{name} WITH NO DATA;
         CREATE FUNCTION {schema}.note_{name}() RETURNS trigger LANGUAGE plpgsql AS $note$ BEGIN
             IF TG_OP = 'DELETE' THEN INSERT INTO {schema}.touched_{name} VALUES ({old});
             ELSE INSERT INTO {schema}.touched_{name} VALUES ({new}); END IF;
             RETURN NULL;
         END $note$;
         CREATE TRIGGER note_change AFTER INSERT OR UPDATE OR DELETE ON {schema}.{name}
             FOR EACH ROW EXECUTE FUNCTION {schema}.note_{name}();",
        old = of("OLD"),
        new = of("NEW"),
    ))
    .await?;
    Ok(())
}
