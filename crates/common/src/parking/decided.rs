//! What people decided about dead letters, done to the tables of [`parking`](super): sent back to the head of their key, or
//! let go. Each function is a step of one transaction, with the same locks in the same order as the committer takes them.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use tokio_postgres::Error;
use uuid::Uuid;

use super::{Head, Redriven, head_of};
use crate::inbox::{self, Outcome};

/// Header of a redriven record: the campaign, as `consumer/number`.
pub const REDRIVE_CAMPAIGN: &str = "rondo-redrive-campaign";
/// Header of a redriven record: which redrive of it this is, from 1.
pub const REDRIVE_COUNT: &str = "rondo-redrive-count";
/// Header of a redriven record: who decided.
pub const REDRIVE_OPERATOR: &str = "rondo-redrive-operator";
/// Headers of a redriven record: where it came from.
pub const ORIGINAL: [&str; 3] = [
    "rondo-original-topic",
    "rondo-original-partition",
    "rondo-original-offset",
];

/// A dead letter of a campaign, to be dealt with in this transaction.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Its row.
    pub dead_letter: i64,
    /// What a transform made of its value.
    pub value: Option<Vec<u8>>,
}

/// Sends dead letters back to their keys, each with its own bytes or those that a transform made, and headers that tell of
/// the campaign. The heads of these keys are claimed for `lease` and returned: nothing of a key overtakes its head.
///
/// Only a letter that is still dead, whose key waits for it, goes; the ids of those that went come first.
///
/// # Errors
/// The database's.
pub async fn send_back(
    tx: &Transaction<'_>,
    consumer: &str,
    (campaign, operator): (i64, &str),
    chosen: &[Chosen],
    lease: Duration,
) -> Result<(Vec<i64>, Vec<Head>), Error> {
    let ids: Vec<i64> = chosen.iter().map(|one| one.dead_letter).collect();
    let values: Vec<Option<&[u8]>> = chosen.iter().map(|one| one.value.as_deref()).collect();
    lock_keys(tx, consumer, &ids).await?;
    let going = tx
        .query(
            "UPDATE parked p SET campaign = $4, dead_letter = d.id, value = coalesce(c.value, d.value),
                    header_names = d.header_names || ARRAY['rondo-redrive-campaign', 'rondo-redrive-count',
                        'rondo-redrive-operator', 'rondo-original-topic', 'rondo-original-partition',
                        'rondo-original-offset'],
                    header_values = d.header_values || ARRAY[convert_to($1 || '/' || $4::bigint, 'UTF8'),
                        convert_to((d.redrives + 1)::text, 'UTF8'), convert_to($5, 'UTF8'), convert_to(d.topic, 'UTF8'),
                        convert_to(d.partition::text, 'UTF8'), convert_to(d.record_offset::text, 'UTF8')]
             FROM unnest($2::bigint[], $3::bytea[]) AS c (id, value)
                  JOIN dead_letters d ON d.id = c.id AND d.status = 'dead'
                  JOIN parked_keys k ON (k.consumer, k.topic, k.key) = (d.consumer, d.topic, d.key) AND k.state = 1
             WHERE d.consumer = $1 AND p.consumer = d.consumer AND p.event_id = d.event_id
             RETURNING d.id, p.event_id, p.topic, p.key",
            &[&consumer, &ids, &values, &campaign, &operator],
        )
        .await?;
    let gone: Vec<i64> = going.iter().map(|row| row.get(0)).collect();
    let mut events: Vec<Uuid> = going.iter().map(|row| row.get(1)).collect();
    let topics: Vec<String> = going.iter().map(|row| row.get(2)).collect();
    let keys: Vec<String> = going.iter().map(|row| row.get(3)).collect();
    inbox::settle(tx, consumer, &mut events, Outcome::Parked).await?;
    tx.execute(
        "WITH sent AS (
             UPDATE dead_letters SET status = 'redriving', redrives = redrives + 1, last_campaign = $2 WHERE id = ANY($1)
             RETURNING id)
         INSERT INTO dead_letter_history (dead_letter, what, campaign) SELECT id, 'sent', $2 FROM sent ORDER BY id",
        &[&gone, &campaign],
    )
    .await?;
    let heads = tx
        .query(
            "WITH claimed AS (
                 UPDATE parked_keys k SET state = 0, attempts = 0,
                        next_attempt_at = now() + $4::double precision * interval '1 second'
                 FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS c (topic, key, n)
                 WHERE (k.consumer, k.topic, k.key) = ($1, c.topic, c.key)
                 RETURNING k.consumer, k.topic, k.key, k.attempts, c.n)
             SELECT head.*, claimed.attempts AS key_attempts FROM claimed CROSS JOIN LATERAL (
                 SELECT * FROM parked p WHERE (p.consumer, p.topic, p.key) = (claimed.consumer, claimed.topic, claimed.key)
                 ORDER BY stream_version, seq LIMIT 1) AS head ORDER BY claimed.n",
            &[&consumer, &topics, &keys, &lease.as_secs_f64()],
        )
        .await?;
    Ok((gone, heads.iter().map(head_of).collect()))
}

/// Lets dead letters go: as skipped, which counts as taken effect, or as discarded. Their keys go on with what waits behind
/// them. Returns those that went; a letter that parks no key goes as well.
///
/// # Errors
/// The database's.
pub async fn let_go(
    tx: &Transaction<'_>,
    consumer: &str,
    campaign: i64,
    ids: &[i64],
    outcome: Outcome,
) -> Result<Vec<i64>, Error> {
    let status = match outcome {
        Outcome::Discarded => "discarded",
        _ => "skipped",
    };
    lock_keys(tx, consumer, ids).await?;
    let rows = tx
        .query(
            "WITH gone AS (
                 UPDATE dead_letters d SET status = $3, last_campaign = $4
                 WHERE d.consumer = $1 AND d.id = ANY($2) AND d.status = 'dead'
                   AND (d.key IS NULL OR EXISTS (
                       SELECT FROM parked_keys k
                       WHERE (k.consumer, k.topic, k.key) = (d.consumer, d.topic, d.key) AND k.state = 1))
                 RETURNING d.id, d.topic, d.key, d.event_id),
             told AS (
                 INSERT INTO dead_letter_history (dead_letter, what, campaign)
                 SELECT id, $3, $4 FROM gone ORDER BY id)
             SELECT id, topic, key, event_id FROM gone ORDER BY id",
            &[&consumer, &ids, &status, &campaign],
        )
        .await?;
    let with_keys = || rows.iter().filter(|row| row.get::<_, Option<String>>(2).is_some());
    let topics: Vec<String> = with_keys().map(|row| row.get(1)).collect();
    let keys: Vec<String> = with_keys().map(|row| row.get(2)).collect();
    let mut events: Vec<Uuid> = with_keys().filter_map(|row| row.get(3)).collect();
    inbox::settle(tx, consumer, &mut events, outcome).await?;
    tx.execute(
        "DELETE FROM parked WHERE consumer = $1 AND event_id = ANY($2)",
        &[&consumer, &events],
    )
    .await?;
    tx.execute(
        "DELETE FROM parked_keys k USING unnest($2::text[], $3::text[]) AS c (topic, key)
         WHERE (k.consumer, k.topic, k.key) = ($1, c.topic, c.key)
           AND NOT EXISTS (SELECT FROM parked p WHERE (p.consumer, p.topic, p.key) = (k.consumer, k.topic, k.key))",
        &[&consumer, &topics, &keys],
    )
    .await?;
    tx.execute(
        "UPDATE parked_keys k SET state = 0, attempts = 0, next_attempt_at = now()
         FROM unnest($2::text[], $3::text[]) AS c (topic, key)
         WHERE (k.consumer, k.topic, k.key) = ($1, c.topic, c.key)",
        &[&consumer, &topics, &keys],
    )
    .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Writes down that a redriven record has taken effect.
///
/// # Errors
/// The database's.
pub async fn settled(tx: &impl GenericClient, redriven: Redriven) -> Result<(), Error> {
    tx.execute(
        "WITH settled AS (UPDATE dead_letters SET status = 'redriven' WHERE id = $1 RETURNING id)
         INSERT INTO dead_letter_history (dead_letter, what, campaign) SELECT id, 'applied', $2 FROM settled",
        &[&redriven.dead_letter, &redriven.campaign],
    )
    .await?;
    crate::campaigns::applied(tx, redriven).await
}

/// Locks the keys of these letters, in order.
async fn lock_keys(tx: &Transaction<'_>, consumer: &str, ids: &[i64]) -> Result<(), Error> {
    tx.execute(
        "SELECT FROM parked_keys WHERE consumer = $1
           AND (topic, key) IN (SELECT topic, key FROM dead_letters WHERE id = ANY($2))
         ORDER BY topic, key FOR UPDATE",
        &[&consumer, &ids],
    )
    .await
    .map(drop)
}
