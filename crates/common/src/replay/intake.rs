//! What of a log goes into the event store of a database that is restored, on its way through the fold.
//!
//! A record is decoded once: the row that it was published from and what follows from it are written in one transaction.

use std::collections::{BTreeSet, HashMap};

use deadpool_postgres::{Client, Transaction};
use futures_util::{TryStreamExt as _, pin_mut};

use super::rebuild::Error;
use super::restore::progress;
use super::seen::{Arrival, Seen};
use super::source::Found;
use crate::codec::Codec;
use crate::event::{EventSet as _, Recorded};
use crate::model::Model;
use crate::pg::copy::Rows;
use crate::store::{self, import};

/// Which rows the event store has.
pub(super) struct Intake {
    /// With namespace.
    topic: String,
    seen: Seen,
    /// Schemas whose texts are in the database, or on their way into it.
    schemas: BTreeSet<u32>,
}

/// What one batch brings.
#[derive(Default)]
pub(super) struct Taken {
    rows: Rows,
    /// Schemas that come for the first time.
    schemas: Vec<u32>,
    /// Offset and position of the last event of each partition.
    last: HashMap<i32, (i64, i64)>,
}

impl Intake {
    /// For `topic`, with namespace, of which an earlier run may have brought a part.
    pub(super) async fn open(client: &Client, topic: &str) -> Result<Self, Error> {
        let mut seen = Seen::default();
        let known = import::identities(client).await?;
        pin_mut!(known);
        while let Some((position, id)) = known.try_next().await? {
            seen.put(position, id);
        }
        Ok(Self {
            topic: topic.to_owned(),
            seen,
            schemas: BTreeSet::new(),
        })
    }

    /// The event of `found` if it is one of this service's, and what it is to the event store; its row, if that is new, is
    /// added to `taken`.
    pub(super) fn take<M: Model>(
        &mut self,
        taken: &mut Taken,
        found: Found,
    ) -> Result<Option<(Arrival, Recorded)>, Error> {
        let Some(event) = found.recorded.filter(is_of::<M>) else {
            return Ok(None);
        };
        let position = event.envelope.position;
        let arrival = self.seen.put(position, event.envelope.id);
        match arrival {
            Arrival::New => {
                import::add(&mut taken.rows, &event);
                if self.schemas.insert(event.schema_id) {
                    taken.schemas.push(event.schema_id);
                }
                taken.last.insert(found.partition, (found.offset, position));
            }
            Arrival::Again => {}
            Arrival::Other => {
                let topic = self.topic.clone();
                return Err(Error::TwoHistories { topic, position });
            }
        }
        Ok(Some((arrival, event)))
    }
}

/// Whether `event` is one that `M` published.
fn is_of<M: Model>(event: &Recorded) -> bool {
    let envelope = &event.envelope;
    *envelope.source == *M::NAME
        && envelope.position > 0
        && envelope.stream_version > 0
        && M::Event::type_named(&envelope.event_type).is_some()
}

impl Taken {
    /// How many bytes the rows have.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// Writes it all. What a schema's id means goes into the database too, so that the service can start while the registry is
    /// away.
    pub(super) async fn write(self, tx: &Transaction<'_>, codec: &Codec) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        import::copy(tx, self.rows).await?;
        for id in self.schemas {
            let schema = codec.schema(id).await.map_err(|source| Error::Schema { id, source })?;
            store::remember_schema(tx, id, &schema.name, &schema.text).await?;
        }
        progress::imported(tx, &self.last).await?;
        Ok(())
    }
}
