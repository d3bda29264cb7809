//! A Kafka-protocol broker in this process.
