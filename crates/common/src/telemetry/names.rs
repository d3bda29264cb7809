//! The names of the runtime's own metrics. What a business counts is named by its service.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Gauge `{group, topic, partition}`: records in the log that the consumer has not committed.
pub const CONSUMER_LAG_RECORDS: &str = "consumer_lag_records";
/// Counter `{consumer, topic}`: records read from Kafka.
pub const CONSUMER_RECORDS_TOTAL: &str = "consumer_records_total";
/// Counter `{consumer}`: partitions taken away or given by rebalances.
pub const CONSUMER_REBALANCES_TOTAL: &str = "consumer_rebalances_total";
/// Counter `{consumer}`: records whose event had already taken effect.
pub const INBOX_DUPLICATES_TOTAL: &str = "inbox_duplicates_total";
/// Counter `{consumer, topic}`: holes found in the versions of a stream: an event between two that arrived did not.
pub const STREAM_GAPS_TOTAL: &str = "stream_gaps_total";
/// Counter `{consumer, topic}`: records whose version of their stream had already been passed: repetitions, mostly.
pub const STREAM_REPEATS_TOTAL: &str = "stream_repeats_total";
/// Gauge `{consumer}`: 1 while a consumer takes no records, or only probes, because too many became dead letters.
pub const CONSUMER_BREAKER_OPEN: &str = "consumer_breaker_open";
/// Counter `{consumer}`: times that it came to that.
pub const CONSUMER_BREAKER_OPENED_TOTAL: &str = "consumer_breaker_opened_total";
/// Gauge `{consumer}`: keys that wait behind a failed record.
pub const PARKED_KEYS: &str = "parked_keys";
/// Gauge `{consumer}`: records that wait on parked keys.
pub const PARKED_RECORDS: &str = "parked_records";
/// Gauge `{consumer}`: how long the oldest parked key has waited.
pub const PARKED_OLDEST_AGE_SECONDS: &str = "parked_oldest_age_seconds";
/// Counter `{consumer}`: attempts to apply a parked record again.
pub const PARKED_RETRIES_TOTAL: &str = "parked_retries_total";
/// Counter `{consumer, reason}`: records that became dead letters.
pub const DEAD_LETTERS_TOTAL: &str = "dead_letters_total";
/// Gauge `{consumer}`: dead letters about which nobody has decided.
pub const DEAD_LETTERS: &str = "dead_letters";
/// Gauge `{consumer}`: how long the oldest of them has waited for a decision.
pub const DEAD_LETTERS_OLDEST_AGE_SECONDS: &str = "dead_letters_oldest_age_seconds";
/// Histogram `{service, source}`: records or commands in one transaction; one that has both counts for each.
pub const COMMIT_BATCH_SIZE: &str = "commit_batch_size";
/// Histogram `{service}`: one transaction, from its first statement to its commit.
pub const COMMIT_DURATION_SECONDS: &str = "commit_duration_seconds";
/// Counter `{service, cause}`: transactions that were tried again, for a conflict, a lost connection, or records and commands
/// apart.
pub const COMMIT_RETRIES_TOTAL: &str = "commit_retries_total";
/// Counter `{service, type}`: events appended to the event store.
pub const EVENTS_APPENDED_TOTAL: &str = "events_appended_total";
/// Gauge `{service}`: committed events that Kafka has not acknowledged.
pub const RELAY_LAG_EVENTS: &str = "relay_lag_events";
/// Gauge `{service}`: age of the oldest such event.
pub const RELAY_LAG_SECONDS: &str = "relay_lag_seconds";
/// Counter `{service}`: events that Kafka has acknowledged.
pub const RELAY_PUBLISHED_TOTAL: &str = "relay_published_total";
/// Counter `{service}`: times that the producer was given up and publishing began again at the cursor.
pub const RELAY_RESTARTS_TOTAL: &str = "relay_restarts_total";
/// Gauge `{service}`: deadlines that have passed and wait for their turn.
pub const TIMERS_DUE: &str = "timers_due";
/// Gauge `{service}`: how long ago the oldest deadline passed that has not been dealt with.
pub const TIMERS_OVERDUE_SECONDS: &str = "timers_overdue_seconds";
/// Histogram `{method, route, status}`: one HTTP request, until its response's head is ready.
pub const HTTP_SERVER_REQUEST_DURATION_SECONDS: &str = "http_server_request_duration_seconds";
/// Gauge `{method}`: HTTP requests being answered.
pub const HTTP_SERVER_ACTIVE_REQUESTS: &str = "http_server_active_requests";
/// Counter: HTTP requests refused because too many were in flight.
pub const HTTP_SERVER_SHED_TOTAL: &str = "http_server_shed_total";

/// Gives Prometheus each name's help text.
pub(super) fn describe() {
    describe_gauge!(
        CONSUMER_LAG_RECORDS,
        Unit::Count,
        "Records that the consumer has not committed yet"
    );
    describe_counter!(CONSUMER_RECORDS_TOTAL, Unit::Count, "Records read from Kafka");
    describe_counter!(
        CONSUMER_REBALANCES_TOTAL,
        Unit::Count,
        "Partitions given or taken by rebalances"
    );
    describe_counter!(
        INBOX_DUPLICATES_TOTAL,
        Unit::Count,
        "Records whose event had already taken effect"
    );
    describe_counter!(
        STREAM_GAPS_TOTAL,
        Unit::Count,
        "Holes found in the versions of a stream"
    );
    describe_counter!(
        STREAM_REPEATS_TOTAL,
        Unit::Count,
        "Records whose version of their stream had been passed"
    );
    describe_gauge!(
        CONSUMER_BREAKER_OPEN,
        Unit::Count,
        "1 while the consumer is paused by its circuit breaker"
    );
    describe_counter!(
        CONSUMER_BREAKER_OPENED_TOTAL,
        Unit::Count,
        "Times that the circuit breaker paused the consumer"
    );
    describe_gauge!(
        PARKED_OLDEST_AGE_SECONDS,
        Unit::Seconds,
        "How long the oldest parked key has waited"
    );
    describe_gauge!(DEAD_LETTERS, Unit::Count, "Dead letters about which nobody has decided");
    describe_gauge!(
        DEAD_LETTERS_OLDEST_AGE_SECONDS,
        Unit::Seconds,
        "How long the oldest of them has waited"
    );
    describe_gauge!(
        TIMERS_OVERDUE_SECONDS,
        Unit::Seconds,
        "How long ago the oldest deadline passed that waits"
    );
    describe_gauge!(PARKED_KEYS, Unit::Count, "Keys that wait behind a failed record");
    describe_gauge!(PARKED_RECORDS, Unit::Count, "Records that wait on parked keys");
    describe_counter!(
        PARKED_RETRIES_TOTAL,
        Unit::Count,
        "Attempts to apply a parked record again"
    );
    describe_counter!(DEAD_LETTERS_TOTAL, Unit::Count, "Records that became dead letters");
    describe_histogram!(COMMIT_BATCH_SIZE, Unit::Count, "Commands in one transaction");
    describe_histogram!(
        COMMIT_DURATION_SECONDS,
        Unit::Seconds,
        "One transaction, first statement to commit"
    );
    describe_counter!(COMMIT_RETRIES_TOTAL, Unit::Count, "Transactions that were tried again");
    describe_counter!(EVENTS_APPENDED_TOTAL, Unit::Count, "Events appended to the event store");
    describe_gauge!(
        RELAY_LAG_EVENTS,
        Unit::Count,
        "Committed events that Kafka has not acknowledged"
    );
    describe_gauge!(
        RELAY_LAG_SECONDS,
        Unit::Seconds,
        "Age of the oldest event that Kafka has not acknowledged"
    );
    describe_counter!(RELAY_PUBLISHED_TOTAL, Unit::Count, "Events that Kafka has acknowledged");
    describe_counter!(RELAY_RESTARTS_TOTAL, Unit::Count, "Producers given up and replaced");
    describe_gauge!(
        TIMERS_DUE,
        Unit::Count,
        "Deadlines that have passed and wait for their turn"
    );
    describe_histogram!(HTTP_SERVER_REQUEST_DURATION_SECONDS, Unit::Seconds, "One HTTP request");
    describe_gauge!(HTTP_SERVER_ACTIVE_REQUESTS, Unit::Count, "HTTP requests being answered");
    describe_counter!(
        HTTP_SERVER_SHED_TOTAL,
        Unit::Count,
        "HTTP requests refused because too many were in flight"
    );
}
