//! A kitchen serves dishes, and a taster tastes each of them once. What the taster does in a transaction, a test can hold
//! up, forbid or look into.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use common::codec::{self, DatumError, WriterSchema};
use common::event::{Envelope, EventType, StreamId};
use common::model::{Change, Model};
use common::pg::{Transaction, Write};
use common::store::snapshots::fold_of;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;

/// The tables of the taster. A dish in `forbidden` fails in the database, for as long as it is there.
pub(crate) const TABLES: &str = "
    CREATE TABLE tastings (id bigint GENERATED ALWAYS AS IDENTITY, dish text NOT NULL, amount bigint NOT NULL);
    CREATE TABLE forbidden (dish text PRIMARY KEY);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (SELECT FROM forbidden WHERE dish = NEW.dish) THEN
            RAISE EXCEPTION 'nobody may taste %', NEW.dish USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON tastings FOR EACH ROW EXECUTE FUNCTION refuse();
";

/// An amount whose event decodes and cannot be meant.
pub(crate) const MEANINGLESS: i64 = -1;
/// An amount that the taster refuses.
pub(crate) const REFUSED: i64 = -2;

/// An amount whose tasting nobody waits for.
pub(crate) const UNHURRIED: i64 = -3;

/// A dish was served. The taster listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Served {
    pub(crate) dish: String,
    pub(crate) amount: i64,
}

/// A dish was cleared away, which means nothing to the taster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cleared {
    pub(crate) dish: String,
}

/// A dish was tasted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tasted {
    pub(crate) dish: String,
    pub(crate) amount: i64,
}

/// What the kitchen says.
pub(crate) mod kitchen {
    use super::{Cleared, Served};

    common::events! {
        /// All of it.
        pub enum Event on "kitchen.events" in "test.kitchen" {
            Served { 1 => "schemas/Served.v1.avsc" },
            Cleared { 1 => "schemas/Cleared.v1.avsc" },
        }
    }
}

/// What the taster says.
pub(crate) mod taster {
    use super::Tasted;

    common::events! {
        /// All of it.
        pub enum Event on "taster.events" in "test.taster" {
            Tasted { 1 => "schemas/Tasted.v1.avsc" },
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Taster {
    /// Each transaction passes here, between its look at the streams and its writes.
    pub(crate) gate: RwLock<()>,
    /// How many commands came to the gate, transaction by transaction; those with none are left out.
    pub(crate) batches: Mutex<Vec<usize>>,
    /// Since when something waits that can, if anything does, and how long each wait before it was.
    pub(crate) waits: Mutex<(Option<Instant>, Vec<Duration>)>,
    /// What it says that it hears; nothing, unless a test is about that.
    pub(crate) hears: &'static [&'static [EventType]],
}

impl Taster {
    fn ends_waiting(&self) {
        let (asked, waits) = &mut *self.waits.lock().unwrap();
        waits.extend(asked.take().map(|asked| asked.elapsed()));
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Taste {
    dish: String,
    amount: i64,
}

impl Taste {
    pub(crate) fn new(dish: &str, amount: i64) -> Self {
        let dish = dish.to_owned();
        Self { dish, amount }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Refusal;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the taster has no appetite")
    }
}

impl std::error::Error for Refusal {}

#[async_trait]
impl Model for Taster {
    const NAME: &'static str = "taster";
    const LISTENS_TO: &'static [&'static str] = &["kitchen.events"];
    const DEADLINES_WAIT_FOR_INPUT: bool = false;
    const FOLD: Option<u64> = Some(fold_of(&[include_bytes!("model.rs")]));

    type Event = taster::Event;
    type Input = Served;
    type Command = Taste;
    type State = i64;
    type Rows = ();
    type Rejection = Refusal;

    fn read(&self, _topic: &str, writer: &WriterSchema, datum: &[u8]) -> Option<Result<Served, DatumError>> {
        (&*writer.name == "Served").then(|| codec::read_datum(datum, &writer.schema))
    }

    fn hears(&self) -> &'static [&'static [EventType]] {
        self.hears
    }

    fn react(&self, served: &Served, _envelope: &Envelope) -> Result<Vec<(StreamId, Taste)>, String> {
        if served.amount == MEANINGLESS {
            return Err("less than nothing was served".to_owned());
        }
        let Served { dish, amount } = served.clone();
        Ok(vec![(StreamId::new(dish.clone()), Taste { dish, amount })])
    }

    fn decide(
        &self,
        _stream: &StreamId,
        _tasted: &i64,
        _rows: &mut (),
        command: &Taste,
        _now: Timestamp,
    ) -> Result<Vec<taster::Event>, Refusal> {
        if command.amount == REFUSED {
            return Err(Refusal);
        }
        let Taste { dish, amount } = command.clone();
        Ok(vec![Tasted { dish, amount }.into()])
    }

    fn can_wait(&self, _tasted: &i64, command: &Taste) -> bool {
        let can_wait = command.amount == UNHURRIED;
        if can_wait {
            self.waits.lock().unwrap().0.get_or_insert_with(Instant::now);
        }
        can_wait
    }

    fn evolve(&self, tasted: &mut i64, _event: &taster::Event, _envelope: &Envelope) {
        *tasted += 1;
    }

    fn grows_long(&self, _stream: &StreamId) -> bool {
        true
    }

    fn snapshot(&self, tasted: &i64) -> Option<Vec<u8>> {
        Some(tasted.to_le_bytes().to_vec())
    }

    fn read_snapshot(&self, bytes: &[u8]) -> Option<i64> {
        Some(i64::from_le_bytes(bytes.try_into().ok()?))
    }

    async fn lock_rows(
        &self,
        _tx: &Transaction<'_>,
        commands: &[(&StreamId, &Taste, &i64)],
    ) -> Result<(), tokio_postgres::Error> {
        if !commands.is_empty() {
            self.ends_waiting();
            self.batches.lock().unwrap().push(commands.len());
            drop(self.gate.read().await);
        }
        Ok(())
    }

    fn project<'a>(&self, changes: &[Change<'a, Self>]) -> Vec<Write<'a>> {
        let events = changes.iter().flat_map(|change| change.events);
        let (dishes, amounts): (Vec<&str>, Vec<i64>) = events
            .map(|(taster::Event::Tasted(tasted), _)| (tasted.dish.as_str(), tasted.amount))
            .unzip();
        let insert = "INSERT INTO tastings (dish, amount) SELECT * FROM unnest($1::text[], $2::bigint[])";
        vec![Write::new(insert).with(dishes).with(amounts)]
    }
}
