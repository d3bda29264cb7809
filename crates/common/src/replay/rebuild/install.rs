//! Tables for a database that is being restored: told like any others, held against nothing, and put in the place of empty ones.

use std::sync::Arc;

use super::super::swap;
use super::{Error, GAPS_SHOWN_MAX, POOL_SIZE, Plan, Rebuild, Report, Watch, after_swap};
use crate::codec::Codec;
use crate::model::Model;
use crate::pg;
use crate::store::import::{self, Hole};

impl<M: Model> Rebuild<M> {
    /// What an earlier run with this plan did, if it came to its end.
    pub(in crate::replay) async fn installed(plan: &Plan) -> Result<Option<Report>, Error> {
        after_swap::<M>(&pg::pool(&plan.database_url, 1)?, plan).await
    }

    /// Tells the whole log, from wherever an earlier run was.
    ///
    /// # Errors
    /// See [`Error`]. What has been done stays; the same call goes on from there.
    pub(in crate::replay) async fn told_whole(
        model: Arc<M>,
        codec: Arc<Codec>,
        plan: Plan,
        watch: Arc<Watch>,
    ) -> Result<Self, Error> {
        let pool = pg::pool(&plan.database_url, POOL_SIZE)?;
        let mut rebuild = Self::open(model, codec, plan, watch, pool).await?;
        rebuild.tell().await?;
        Ok(rebuild)
    }

    /// How many streams lack a version, and what the first of them have.
    pub(in crate::replay) async fn holes(&self, named_max: i64) -> Result<(u64, Vec<Hole>), Error> {
        let (_, count, first) = self.shadow.gaps(named_max).await?;
        if count == 0 {
            return Ok((0, Vec::new()));
        }
        Ok((count, import::holes(&self.shadow.client, &first).await?))
    }

    /// Puts the tables in the place of the service's own, which nobody uses. They move to the schema for old tables all the
    /// same.
    pub(in crate::replay) async fn install(mut self) -> Result<Report, Error> {
        self.finish().await?;
        self.shadow.analyse().await?;
        self.shadow.forget_changes().await?;
        let (told_again, gaps, gaps_first) = self.shadow.gaps(GAPS_SHOWN_MAX).await?;
        let report = Report {
            service: M::NAME.to_owned(),
            source: self.plan.input.name().to_owned(),
            events: self.progress.events,
            repeated: self.progress.repeated,
            foreign: self.progress.foreign,
            told_again,
            position: self.progress.reached,
            gaps,
            gaps_first,
            partial: false,
            tables: Vec::new(),
            swapped: true,
            resumed: self.resumed,
        };
        let (schema, home, name) = (self.shadow.schema, self.shadow.home.clone(), self.plan.name());
        let tables = self.shadow.tables.clone();
        let tx = self.shadow.client.transaction().await?;
        tx.batch_execute("SET LOCAL synchronous_commit = on").await?;
        swap::swap(&tx, (schema, &home), &tables, &name, &report).await?;
        tx.commit().await?;
        Ok(report)
    }
}
