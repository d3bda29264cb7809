//! The runtime of an event-sourced service on Kafka and Postgres: event store, relay, consumer, parking, codec, HTTP.
