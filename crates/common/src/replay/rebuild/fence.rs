//! The moment in which nobody writes events: the rest is added, the verdict is given, the tables change places.

use std::time::Duration;

use deadpool_postgres::Transaction;

use super::super::compare::Comparison;
use super::super::fold::Fold;
use super::super::{shadow, swap};
use super::{Error, FENCE_ATTEMPTS_MAX, GAPS_SHOWN_MAX, Intent, Rebuild, Report, batch_of};
use crate::model::{Follows, Model};
use crate::{pg, store};

/// Events that may be left to add while the fence is up.
const FENCED_EVENTS_MAX: usize = 1_000;
/// How long the fence may wait for those who are writing; whoever comes then waits behind it.
const FENCE_WAIT_MAX: Duration = Duration::from_millis(500);
/// How long the fence may wait for a vacuum of each table, which hinders nobody else: the server ends its own ones, but for those
/// against wraparound, when somebody has waited for a second (`deadlock_timeout`).
const VACUUM_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a statement may take while the fence is up.
const FENCE_STATEMENT_MAX: Duration = Duration::from_secs(3);
/// Pause after a fence that could not be had, so that traffic flows off.
const FENCE_PAUSE: Duration = Duration::from_millis(250);

impl<M: Model> Rebuild<M> {
    /// Holds up whoever writes events, for a moment: adds the rest, gives the verdict, swaps. `None` if there was too much
    /// traffic to tell.
    pub(super) async fn fenced(
        &mut self,
        fold: &mut Fold<M>,
        comparisons: &mut [Comparison],
        partial: bool,
    ) -> Result<Option<Report>, Error> {
        let mut why = String::new();
        for _ in 0..FENCE_ATTEMPTS_MAX {
            if self.plan.until.is_none() {
                self.follow(fold, FENCED_EVENTS_MAX / 4).await?;
            }
            self.watch.enter(6, 0);
            match self.try_fence(fold, comparisons, partial).await {
                Ok(Fenced::Report(report)) => return Ok(Some(*report)),
                Ok(Fenced::CutShort) => return Ok(None),
                Ok(Fenced::TooMany) => "too much is written meanwhile".clone_into(&mut why),
                Err(Error::Database(error)) if pg::failure(&error, &[]) == pg::Failure::Conflict => {
                    why = error
                        .as_db_error()
                        .map_or_else(|| error.to_string(), |error| error.message().to_owned());
                }
                Err(error) => return Err(error),
            }
            // What was folded in vain is not in the tables.
            fold.clear();
            tokio::time::sleep(FENCE_PAUSE).await;
        }
        Err(Error::NoFence(why))
    }

    async fn try_fence(
        &mut self,
        fold: &mut Fold<M>,
        comparisons: &mut [Comparison],
        partial: bool,
    ) -> Result<Fenced, Error> {
        let (told_again, gaps, gaps_first) = self.shadow.gaps(GAPS_SHOWN_MAX).await?;
        let (schema, home) = (self.shadow.schema, self.shadow.home.clone());
        let may_swap = !partial && matches!(self.plan.intent, Intent::SwapIfEqual | Intent::SwapAnyway);
        let tables = self.shadow.tables.clone();
        let named = |wanted: bool| {
            let some = tables.iter().filter(|table| (table.follows == Follows::Many) == wanted);
            some.map(|table| format!("{home}.{}", table.name)).collect::<Vec<_>>()
        };
        let tx = self.shadow.client.transaction().await?;
        // A lock that vacuums mind, and nothing else that reads or writes: they are waited for before anybody is held up.
        let mut all = Vec::new();
        if self.plan.until.is_none() {
            all.push(format!("{home}.events"));
        }
        if may_swap {
            for schema in [&*home, schema] {
                all.extend(tables.iter().map(|table| format!("{schema}.{}", table.name)));
            }
        }
        tx.batch_execute(&format!("SET LOCAL lock_timeout = {}", VACUUM_WAIT_MAX.as_millis()))
            .await?;
        lock_tables(&tx, &all, "SHARE UPDATE EXCLUSIVE").await?;
        tx.batch_execute(&format!(
            "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; SET LOCAL synchronous_commit = on;
             SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off",
            FENCE_WAIT_MAX.as_millis(),
            FENCE_STATEMENT_MAX.as_millis()
        ))
        .await?;
        if may_swap {
            // In the order in which the service's transactions lock: what decisions look at, events, read models.
            lock_tables(&tx, &named(true), "ACCESS EXCLUSIVE").await?;
        }
        let (mut position, mut events) = (self.progress.reached, self.progress.events);
        if self.plan.until.is_none() {
            lock_tables(&tx, &[format!("{home}.events")], "SHARE").await?;
            let rest = store::page(&self.reader, M::NAME, position, FENCED_EVENTS_MAX as i64 + 1).await?;
            if rest.len() > FENCED_EVENTS_MAX {
                return Ok(Fenced::TooMany);
            }
            if let Some(last) = rest.last().map(|recorded| recorded.envelope.position) {
                let batch = batch_of(&self.reader, fold, rest).await?;
                shadow::follow(&tx, schema, &*self.model, &batch, last).await?;
                (position, events) = (last, events + batch.events);
            }
        }
        let mut reports = Vec::with_capacity(comparisons.len());
        for comparison in comparisons {
            let verdict = comparison.verdict(&tx, schema, self.plan.shown_max).await?;
            if comparison.is_cut_short(&verdict) {
                return Ok(Fenced::CutShort);
            }
            reports.push(verdict);
        }
        let mut report = Report {
            service: M::NAME.to_owned(),
            source: self.plan.input.name().to_owned(),
            events,
            repeated: self.progress.repeated,
            foreign: self.progress.foreign,
            told_again,
            position,
            gaps,
            gaps_first,
            partial,
            tables: reports,
            swapped: false,
            resumed: self.resumed,
        };
        report.swapped = may_swap && (self.plan.intent == Intent::SwapAnyway || report.is_equal());
        if report.swapped {
            lock_tables(&tx, &named(false), "ACCESS EXCLUSIVE").await?;
            swap::swap(&tx, (schema, &home), &tables, &self.plan.name(), &report).await?;
            tx.commit().await?;
        } else {
            tx.rollback().await?;
            self.shadow.drop_all().await?;
        }
        Ok(Fenced::Report(Box::new(report)))
    }
}

/// What came of one fence.
enum Fenced {
    Report(Box<Report>),
    /// More has been written than may be added while others wait.
    TooMany,
    /// There were more suspects than could be looked at, and none of them differs.
    CutShort,
}

async fn lock_tables(tx: &Transaction<'_>, tables: &[String], mode: &str) -> Result<(), Error> {
    if !tables.is_empty() {
        tx.batch_execute(&format!("LOCK TABLE {} IN {mode} MODE", tables.join(", ")))
            .await?;
    }
    Ok(())
}
