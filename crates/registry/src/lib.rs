//! A Confluent-compatible schema registry on Postgres.
