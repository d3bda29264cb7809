//! From a stream's history to its state: loading, folding, and the snapshots that keep both short for long streams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deadpool_postgres::GenericClient;
use futures_util::try_join;

use super::Committer;
use super::batch::{Failed, Working};
use crate::event::{Recorded, StreamId};
use crate::model::Model;
use crate::parking;
use crate::pg::Write;
use crate::store;
use crate::store::snapshots::{self, Loaded, SNAPSHOT_EVERY};

impl<M: Model> Committer<M> {
    /// What there is of `streams`, each in order: of those that grow long from the last snapshot on.
    pub(super) async fn history(
        &self,
        client: &impl GenericClient,
        streams: &[&StreamId],
    ) -> Result<Vec<Loaded>, tokio_postgres::Error> {
        let (long, short): (Vec<&StreamId>, Vec<&StreamId>) = streams
            .iter()
            .partition(|stream| M::FOLD.is_some() && self.model.grows_long(stream));
        let (events, mut all) = try_join!(
            store::load(client, M::NAME, &short),
            snapshots::load(client, M::NAME, M::FOLD.unwrap_or_default(), &long),
        )?;
        all.extend(events.into_iter().map(Loaded::Event));
        Ok(all)
    }

    /// Folds what was loaded into the streams. A snapshot that cannot be read is passed over: its stream is read whole.
    pub(super) async fn fold(
        &self,
        client: &impl GenericClient,
        streams: &mut BTreeMap<StreamId, Working<M>>,
        history: Vec<Loaded>,
    ) -> Result<(), Failed> {
        let mut unreadable: BTreeSet<StreamId> = BTreeSet::new();
        for loaded in history {
            match loaded {
                Loaded::Snapshot {
                    stream_id,
                    version,
                    state,
                } => match self.model.read_snapshot(&state) {
                    Some(state) => {
                        let stream = streams.get_mut(&stream_id).expect("only asked-for streams were read");
                        (stream.after, stream.version) = (Arc::new(state), version);
                    }
                    None => {
                        tracing::warn!(stream = %stream_id, version, "a snapshot cannot be read; its stream is folded whole");
                        unreadable.insert(stream_id);
                    }
                },
                Loaded::Event(recorded) if unreadable.contains(&recorded.stream_id) => {}
                Loaded::Event(recorded) => self.fold_one(streams, &recorded).await?,
            }
        }
        if !unreadable.is_empty() {
            let whole: Vec<&StreamId> = unreadable.iter().collect();
            for recorded in store::load(client, M::NAME, &whole).await? {
                self.fold_one(streams, &recorded).await?;
            }
        }
        for stream in streams.values_mut() {
            stream.before = stream.after.clone();
        }
        Ok(())
    }

    async fn fold_one(&self, streams: &mut BTreeMap<StreamId, Working<M>>, recorded: &Recorded) -> Result<(), Failed> {
        let event = self
            .codec
            .decode::<M::Event>(&recorded.payload)
            .await
            .map_err(|error| match error.is_transient() {
                true => Failed::Registry(parking::chain(&error)),
                false => Failed::Encoding(format!(
                    "event {} of stream {} in our own store does not decode: {error}",
                    recorded.envelope.id, recorded.stream_id
                )),
            })?;
        let stream = streams
            .get_mut(&recorded.stream_id)
            .expect("only asked-for streams were read");
        self.model
            .evolve(Arc::make_mut(&mut stream.after), &event, &recorded.envelope);
        stream.version = recorded.envelope.stream_version;
        stream.folded += 1;
        Ok(())
    }

    /// What keeps snapshots of streams that this batch took past another [`SNAPSHOT_EVERY`] versions, or that took as many events
    /// to load, as after a change of the code that folds. Nearly always there are none.
    pub(super) fn keep_snapshots<'a>(&self, streams: &'a BTreeMap<StreamId, Working<M>>) -> Option<Write<'a>> {
        let fold = M::FOLD?;
        let due = |stream_id: &StreamId, stream: &Working<M>| {
            let added = stream.events.len() as i64;
            let passed = stream.version / SNAPSHOT_EVERY > (stream.version - added) / SNAPSHOT_EVERY;
            added > 0 && (passed || stream.folded >= SNAPSHOT_EVERY) && self.model.grows_long(stream_id)
        };
        let due = streams.iter().filter(|(stream_id, stream)| due(stream_id, stream));
        let snapshots: Vec<(&StreamId, i64, Vec<u8>)> = due
            .filter_map(|(stream_id, stream)| Some((stream_id, stream.version, self.model.snapshot(&stream.after)?)))
            .collect();
        snapshots::save(fold, snapshots)
    }
}
