//! How a record becomes a dead letter, and again: writes of `dead_letters` and `dead_letter_history`.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Error;
use uuid::Uuid;

use super::{Disposition, Failure, HeaderColumns, Redriven, SetAside};

/// Makes dead letters of the records that have failed for good. One that was redriven and died again stays the row that it
/// was, byte for byte, with its newest death; its public copy is written again.
pub(super) async fn bury(tx: &impl GenericClient, consumer: &str, records: &[SetAside<'_>]) -> Result<(), Error> {
    let dead: Vec<(&SetAside<'_>, &Failure)> = records
        .iter()
        .filter_map(|aside| Some((aside, aside.failure?)))
        .filter(|(_, failure)| failure.disposition != Disposition::Retry)
        .collect();
    if dead.is_empty() {
        return Ok(());
    }
    let of = || dead.iter().map(|(aside, _)| aside.record);
    let envelopes = || dead.iter().map(|(aside, _)| aside.envelope);
    let topics: Vec<&str> = of().map(|record| &*record.topic).collect();
    let partitions: Vec<i32> = of().map(|record| record.partition).collect();
    let offsets: Vec<i64> = of().map(|record| record.offset).collect();
    let times: Vec<Option<Timestamp>> = of().map(|record| record.timestamp).collect();
    let record_keys: Vec<Option<&[u8]>> = of().map(|record| record.key.as_deref()).collect();
    let values: Vec<Option<&[u8]>> = of().map(|record| record.value.as_deref()).collect();
    let headers = HeaderColumns::of(of());
    let keys: Vec<Option<&str>> = envelopes().map(|of| of.map(|envelope| &*envelope.subject)).collect();
    let ids: Vec<Option<Uuid>> = envelopes().map(|of| of.map(|envelope| envelope.id)).collect();
    let types: Vec<Option<&str>> = envelopes().map(|of| of.map(|envelope| &*envelope.event_type)).collect();
    let traces: Vec<Option<&str>> = envelopes().map(|of| of?.traceparent.as_deref()).collect();
    let dispositions: Vec<&str> = dead.iter().map(|(_, failure)| failure.disposition.as_str()).collect();
    let classes: Vec<&str> = dead.iter().map(|(_, failure)| failure.class).collect();
    let errors: Vec<&str> = dead.iter().map(|(_, failure)| &*failure.message).collect();
    let attempts: Vec<i32> = dead.iter().map(|(aside, _)| aside.attempts).collect();
    let since: Vec<Timestamp> = dead.iter().map(|(aside, _)| aside.first_failed_at).collect();
    let statement = tx
        .prepare_cached(
            "WITH buried AS (
             INSERT INTO dead_letters (consumer, topic, partition, record_offset, record_timestamp, record_key, value,
                                       header_names, header_values, key, event_id, event_type, disposition,
                                       error_class, error, attempts, first_failed_at, traceparent)
             SELECT $1, r.topic, r.partition, r.record_offset, r.record_timestamp, r.record_key, r.value,
                    ($8::text[])[r.first:r.last], ($9::bytea[])[r.first:r.last], r.key, r.event_id, r.event_type,
                    r.disposition, r.error_class, r.error, r.attempts, r.first_failed_at, r.traceparent
             FROM unnest($2::text[], $3::int[], $4::bigint[], $5::timestamptz[], $6::bytea[], $7::bytea[], $10::int[],
                         $11::int[], $12::text[], $13::uuid[], $14::text[], $15::text[], $16::text[], $17::text[],
                         $18::int[], $19::timestamptz[], $20::text[]) WITH ORDINALITY
                  AS r (topic, partition, record_offset, record_timestamp, record_key, value, first, last, key, event_id,
                        event_type, disposition, error_class, error, attempts, first_failed_at, traceparent, n)
             ORDER BY r.n
             ON CONFLICT (consumer, topic, partition, record_offset) DO UPDATE
             SET disposition = EXCLUDED.disposition, error_class = EXCLUDED.error_class, error = EXCLUDED.error,
                 attempts = EXCLUDED.attempts, dead_at = now(), status = 'dead', published_at = NULL,
                 returns = dead_letters.returns + 1
             WHERE dead_letters.status = 'redriving'
             RETURNING id, last_campaign, attempts, error_class, error)
             INSERT INTO dead_letter_history (dead_letter, what, campaign, attempts, error_class, error)
             SELECT id, 'died', last_campaign, attempts, error_class, error FROM buried ORDER BY id",
        )
        .await?;
    tx.execute(
        &statement,
        &[
            &consumer,
            &topics,
            &partitions,
            &offsets,
            &times,
            &record_keys,
            &values,
            &headers.names,
            &headers.values,
            &headers.firsts,
            &headers.lasts,
            &keys,
            &ids,
            &types,
            &dispositions,
            &classes,
            &errors,
            &attempts,
            &since,
            &traces,
        ],
    )
    .await?;
    Ok(())
}

/// Writes down, after a redriven record died again, what that means for its campaign: its outcome, and the campaign's end
/// if a record came back too often.
///
/// # Errors
/// The database's.
pub async fn died_again(tx: &impl GenericClient, redriven: Redriven) -> Result<(), Error> {
    tx.execute(
        "UPDATE parked SET campaign = NULL, dead_letter = NULL WHERE dead_letter = $1",
        &[&redriven.dead_letter],
    )
    .await?;
    crate::campaigns::died_again(tx, redriven).await
}
