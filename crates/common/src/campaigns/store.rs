//! All SQL of the tables `campaigns` and `campaign_records`, and reads of `dead_letter_history`.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use tokio_postgres::{Error, Row};

use super::{Campaign, Control, Plan};
use crate::parking::{Chosen, Redriven};

/// A campaign that was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its row.
    pub id: i64,
    /// How many dead letters are in it; the others were decided about meanwhile, or are in another campaign.
    pub records: u64,
}

/// Writes a campaign down with its letters, of which those are left out that are not dead, or in another open campaign.
/// `None` if none is left.
///
/// # Errors
/// The database's.
pub async fn create(
    tx: &Transaction<'_>,
    consumer: &str,
    plan: &Plan,
    letters: &[Chosen],
) -> Result<Option<Created>, Error> {
    const CHUNK: usize = 1_000;
    let row = tx
        .query_one(
            "INSERT INTO campaigns (consumer, kind, operator, reason, filter, transform, rate, returns_max, paced_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() - interval '1 second' / $7) RETURNING id",
            &[
                &consumer,
                &plan.kind.as_str(),
                &plan.operator,
                &plan.reason,
                &plan.filter,
                &plan.transform,
                &plan.rate,
                &plan.returns_max,
            ],
        )
        .await?;
    let id: i64 = row.get(0);
    let mut records = 0;
    for chunk in letters.chunks(CHUNK) {
        let ids: Vec<i64> = chunk.iter().map(|one| one.dead_letter).collect();
        let values: Vec<Option<&[u8]>> = chunk.iter().map(|one| one.value.as_deref()).collect();
        records += tx
            .execute(
                "INSERT INTO campaign_records (campaign, dead_letter, value)
                 SELECT $1, c.id, c.value FROM unnest($3::bigint[], $4::bytea[]) AS c (id, value)
                 JOIN dead_letters d ON d.id = c.id AND d.consumer = $2 AND d.status = 'dead' ORDER BY c.id
                 ON CONFLICT DO NOTHING",
                &[&id, &consumer, &ids, &values],
            )
            .await?;
    }
    if records == 0 {
        tx.execute("DELETE FROM campaigns WHERE id = $1", &[&id]).await?;
        return Ok(None);
    }
    Ok(Some(Created { id, records }))
}

/// Campaigns, newest first; only `id`, if one is given.
///
/// # Errors
/// The database's.
pub async fn list(client: &impl GenericClient, id: Option<i64>, limit: i64) -> Result<Vec<Campaign>, Error> {
    let rows = client
        .query(
            "SELECT c.*, counted.outcomes, counted.counts
             FROM (SELECT * FROM campaigns WHERE $1::bigint IS NULL OR id = $1 ORDER BY id DESC LIMIT $2) AS c,
             LATERAL (SELECT array_agg(o.outcome) AS outcomes, array_agg(o.n) AS counts
                      FROM (SELECT outcome, count(*) AS n FROM campaign_records r WHERE r.campaign = c.id
                            GROUP BY 1 ORDER BY 1) AS o) AS counted
             ORDER BY c.id DESC",
            &[&id, &limit],
        )
        .await?;
    Ok(rows.iter().map(campaign_of).collect())
}

/// A dead letter's part in a campaign.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The dead letter.
    pub dead_letter: i64,
    /// `pending`, `sent`, `applied`, `died_again`, `skipped`, `discarded`, `left_out` or `cancelled`.
    pub outcome: String,
    /// What a transform made of its value.
    pub value: Option<Vec<u8>>,
    /// When it was sent back to its key.
    pub sent_at: Option<Timestamp>,
    /// When that came to its outcome.
    pub settled_at: Option<Timestamp>,
    /// Why, if there is more to say.
    pub detail: Option<String>,
    /// The letter's key.
    pub key: Option<String>,
    /// The letter's event type.
    pub event_type: Option<String>,
}

/// The letters of a campaign with an id above `after`.
///
/// # Errors
/// The database's.
pub async fn entries(client: &impl GenericClient, campaign: i64, after: i64, limit: i64) -> Result<Vec<Entry>, Error> {
    let rows = client
        .query(
            "SELECT r.*, d.key, d.event_type FROM campaign_records r JOIN dead_letters d ON d.id = r.dead_letter
             WHERE r.campaign = $1 AND r.dead_letter > $2 ORDER BY r.dead_letter LIMIT $3",
            &[&campaign, &after, &limit],
        )
        .await?;
    Ok(rows.iter().map(entry_of).collect())
}

/// What happened to a dead letter, one step.
#[derive(Clone, Debug)]
pub struct Step {
    /// When.
    pub at: Timestamp,
    /// `died`, `sent`, `applied`, `skipped` or `discarded`.
    pub what: String,
    /// In which campaign.
    pub campaign: Option<i64>,
    /// Who decided on that campaign.
    pub operator: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Attempts before a death.
    pub attempts: Option<i32>,
    /// Kind of the error of a death.
    pub error_class: Option<String>,
    /// The error of a death.
    pub error: Option<String>,
}

/// Everything that happened to a dead letter, in order, up to `limit` steps.
///
/// # Errors
/// The database's.
pub async fn history(client: &impl GenericClient, dead_letter: i64, limit: i64) -> Result<Vec<Step>, Error> {
    let rows = client
        .query(
            "SELECT h.*, c.operator, c.reason FROM dead_letter_history h LEFT JOIN campaigns c ON c.id = h.campaign
             WHERE h.dead_letter = $1 ORDER BY h.id LIMIT $2",
            &[&dead_letter, &limit],
        )
        .await?;
    let step = |row: &Row| Step {
        at: row.get("at"),
        what: row.get("what"),
        campaign: row.get("campaign"),
        operator: row.get("operator"),
        reason: row.get("reason"),
        attempts: row.get("attempts"),
        error_class: row.get("error_class"),
        error: row.get("error"),
    };
    Ok(rows.iter().map(step).collect())
}

/// Pauses, resumes or cancels a campaign; the state it is in then, or `None` if there is none. A campaign that has ended
/// stays as it is.
///
/// # Errors
/// The database's.
pub async fn control(tx: &Transaction<'_>, id: i64, control: Control) -> Result<Option<String>, Error> {
    let (to, from): (&str, &[&str]) = match control {
        Control::Pause => ("paused", &["running"]),
        Control::Resume => ("running", &["paused", "stopped"]),
        Control::Cancel => ("cancelled", &["running", "paused", "stopped"]),
    };
    let changed = tx
        .execute(
            "UPDATE campaigns SET state = $2, changed_at = now(), why = NULL, paced_at = now()
             WHERE id = $1 AND state = ANY($3)",
            &[&id, &to, &from],
        )
        .await?;
    if changed > 0 && control == Control::Cancel {
        tx.execute(
            "UPDATE campaign_records SET outcome = 'cancelled', settled_at = now()
             WHERE campaign = $1 AND outcome = 'pending'",
            &[&id],
        )
        .await?;
    }
    let row = tx
        .query_opt("SELECT state FROM campaigns WHERE id = $1", &[&id])
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// The campaigns of `consumer` that have something to do.
pub(super) async fn running(client: &impl GenericClient, consumer: &str) -> Result<Vec<i64>, Error> {
    let statement = client
        .prepare_cached("SELECT id FROM campaigns WHERE consumer = $1 AND state = 'running' ORDER BY id")
        .await?;
    let rows = client.query(&statement, &[&consumer]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A campaign to take a step of, and how many letters its rate allows by now.
pub(super) struct Due {
    pub(super) kind: String,
    pub(super) operator: String,
    pub(super) rate: f64,
    pub(super) allowed: f64,
}

/// Locks a running campaign that no other copy is taking a step of.
pub(super) async fn lock(tx: &Transaction<'_>, id: i64) -> Result<Option<Due>, Error> {
    let row = tx
        .query_opt(
            "SELECT kind, operator, rate, rate * extract(epoch FROM clock_timestamp() - paced_at)::float8 AS allowed
             FROM campaigns WHERE id = $1 AND state = 'running' FOR UPDATE SKIP LOCKED",
            &[&id],
        )
        .await?;
    Ok(row.map(|row| Due {
        kind: row.get("kind"),
        operator: row.get("operator"),
        rate: row.get("rate"),
        allowed: row.get("allowed"),
    }))
}

/// The next letters of a campaign, and whether any is on its way.
pub(super) async fn next(tx: &Transaction<'_>, id: i64, limit: usize) -> Result<(Vec<Chosen>, bool), Error> {
    let rows = tx
        .query(
            "SELECT dead_letter, value FROM campaign_records WHERE campaign = $1 AND outcome = 'pending'
             ORDER BY dead_letter LIMIT $2",
            &[&id, &i64::try_from(limit).unwrap_or(i64::MAX)],
        )
        .await?;
    let chosen: Vec<Chosen> = rows
        .iter()
        .map(|row| Chosen {
            dead_letter: row.get(0),
            value: row.get(1),
        })
        .collect();
    let under_way = chosen.is_empty()
        && tx
            .query_one(
                "SELECT EXISTS (SELECT FROM campaign_records WHERE campaign = $1 AND outcome = 'sent')",
                &[&id],
            )
            .await?
            .get(0);
    Ok((chosen, under_way))
}

/// Writes down what a step did: `gone` have this outcome now, the rest of `chosen` could not be done.
pub(super) async fn stepped(
    tx: &Transaction<'_>,
    id: i64,
    chosen: &[Chosen],
    gone: &[i64],
    outcome: &str,
) -> Result<(), Error> {
    tx.execute(
        "UPDATE campaign_records SET outcome = $3, sent_at = now(),
                settled_at = CASE $3 WHEN 'sent' THEN NULL ELSE now() END
         WHERE campaign = $1 AND dead_letter = ANY($2)",
        &[&id, &gone, &outcome],
    )
    .await?;
    let left: Vec<i64> = chosen
        .iter()
        .map(|one| one.dead_letter)
        .filter(|id| !gone.contains(id))
        .collect();
    if !left.is_empty() {
        tx.execute(
            "UPDATE campaign_records r SET outcome = 'left_out', settled_at = now(),
                    detail = CASE WHEN d.status <> 'dead' THEN 'it is ' || d.status || ' by now'
                                  WHEN d.key IS NULL THEN 'it has no valid envelope, so no key to go back to'
                                  ELSE 'its key does not wait for it' END
             FROM dead_letters d WHERE r.campaign = $1 AND r.dead_letter = ANY($2) AND d.id = r.dead_letter",
            &[&id, &left],
        )
        .await?;
    }
    tx.execute(
        "UPDATE campaigns SET paced_at = greatest(paced_at, clock_timestamp() - interval '1 second')
                                         + $2::float8 / rate * interval '1 second' WHERE id = $1",
        &[&id, &(chosen.len() as f64)],
    )
    .await?;
    Ok(())
}

/// Ends a campaign of which nothing is open.
pub(super) async fn finish(tx: &Transaction<'_>, id: i64) -> Result<(), Error> {
    tx.execute(
        "UPDATE campaigns SET state = 'done', changed_at = now() WHERE id = $1",
        &[&id],
    )
    .await
    .map(drop)
}

/// A redriven record has taken effect.
///
/// # Errors
/// The database's.
pub async fn applied(tx: &impl GenericClient, redriven: Redriven) -> Result<(), Error> {
    tx.execute(
        "UPDATE campaign_records SET outcome = 'applied', settled_at = now()
         WHERE campaign = $1 AND dead_letter = $2 AND outcome = 'sent'",
        &[&redriven.campaign, &redriven.dead_letter],
    )
    .await
    .map(drop)
}

/// A redriven record is a dead letter again. If it came back as often as it may, its campaign stops.
///
/// # Errors
/// The database's.
pub async fn died_again(tx: &impl GenericClient, redriven: Redriven) -> Result<(), Error> {
    tx.execute(
        "UPDATE campaign_records r SET outcome = 'died_again', settled_at = now(), detail = d.error_class || ': ' || d.error
         FROM dead_letters d WHERE r.campaign = $1 AND r.dead_letter = $2 AND r.outcome = 'sent' AND d.id = r.dead_letter",
        &[&redriven.campaign, &redriven.dead_letter],
    )
    .await?;
    tx.execute(
        "UPDATE campaigns c SET state = 'stopped', changed_at = now(),
                why = format('dead letter %s/%s came back %s times, the last time with %s: mend the cause, or discard it',
                             c.consumer, d.id, d.returns, d.error_class)
         FROM dead_letters d
         WHERE c.id = $1 AND d.id = $2 AND c.state IN ('running', 'paused') AND d.returns >= c.returns_max",
        &[&redriven.campaign, &redriven.dead_letter],
    )
    .await?;
    Ok(())
}

/// The value that a transform made of a dead letter, in its newest campaign that had one.
///
/// # Errors
/// The database's.
pub async fn recorded(client: &impl GenericClient, dead_letter: i64) -> Result<Option<(i64, Vec<u8>)>, Error> {
    let row = client
        .query_opt(
            "SELECT campaign, value FROM campaign_records WHERE dead_letter = $1 AND value IS NOT NULL
             ORDER BY campaign DESC LIMIT 1",
            &[&dead_letter],
        )
        .await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

fn campaign_of(row: &Row) -> Campaign {
    let outcomes: Vec<String> = row.get::<_, Option<_>>("outcomes").unwrap_or_default();
    let counts: Vec<i64> = row.get::<_, Option<_>>("counts").unwrap_or_default();
    Campaign {
        id: row.get("id"),
        consumer: row.get("consumer"),
        kind: row.get("kind"),
        created_at: row.get("created_at"),
        operator: row.get("operator"),
        reason: row.get("reason"),
        filter: row.get("filter"),
        transform: row.get("transform"),
        rate: row.get("rate"),
        returns_max: row.get("returns_max"),
        state: row.get("state"),
        why: row.get("why"),
        changed_at: row.get("changed_at"),
        outcomes: outcomes.into_iter().zip(counts).collect(),
    }
}

fn entry_of(row: &Row) -> Entry {
    Entry {
        dead_letter: row.get("dead_letter"),
        outcome: row.get("outcome"),
        value: row.get("value"),
        sent_at: row.get("sent_at"),
        settled_at: row.get("settled_at"),
        detail: row.get("detail"),
        key: row.get("key"),
        event_type: row.get("event_type"),
    }
}
