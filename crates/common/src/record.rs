//! A record as it came from Kafka, whole: it can be decoded, parked, or sent on byte for byte.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};
use tokio::sync::OwnedSemaphorePermit;

/// One record of one partition.
#[derive(Clone, Debug)]
pub struct Record {
    /// With namespace.
    pub topic: Arc<str>,
    /// Of the topic.
    pub partition: i32,
    /// In the partition.
    pub offset: i64,
    /// The producer's or the broker's, by the topic's configuration.
    pub timestamp: Option<Timestamp>,
    /// Its bytes, if it has a key.
    pub key: Option<Bytes>,
    /// Its bytes; `None` for a tombstone.
    pub value: Option<Bytes>,
    /// In their order, with repetitions.
    pub headers: Option<OwnedHeaders>,
    /// The claim under which its partition was read; 0 for a record read from the database.
    pub epoch: i64,
    /// Its share of the memory that records may take, given back when it is dropped.
    pub permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Record {
    /// Copies a message out of librdkafka's buffers.
    pub fn detach(message: &BorrowedMessage<'_>, topic: Arc<str>, epoch: i64) -> Self {
        Self {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message
                .timestamp()
                .to_millis()
                .and_then(|millis| Timestamp::from_millisecond(millis).ok()),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: message.headers().map(rdkafka::message::BorrowedHeaders::detach),
            epoch,
            permit: None,
        }
    }

    /// How many bytes of memory it holds, about.
    pub fn weight(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + 512
    }

    /// The headers as two columns: names and values.
    pub fn header_columns(&self) -> (Vec<String>, Vec<Option<Vec<u8>>>) {
        self.headers
            .iter()
            .flat_map(|headers| headers.iter())
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .unzip()
    }

    /// The headers that two columns hold.
    pub fn headers_of_columns(names: &[String], values: &[Option<Vec<u8>>]) -> OwnedHeaders {
        names
            .iter()
            .zip(values)
            .fold(OwnedHeaders::new_with_capacity(names.len()), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: value.as_deref(),
                })
            })
    }
}
