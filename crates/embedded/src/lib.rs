//! A private Postgres cluster and a Kafka-protocol broker inside this process tree.
