//! Whether the broker still answers.
//!
//! One task of Tansu owns the log. A request that it does not implement (`DeleteRecords`, for one) makes that task panic,
//! and from then on every connection breaks while the port stays open: `serve` never returns. So it is asked, over its own
//! protocol, for something that only the log's owner can answer.

use std::net::SocketAddr;
use std::time::Duration;
use tansu_sans_io::{ApiKey, Frame, Header, MetadataRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How often it is asked.
const PULSE_SECS: u64 = 2;

/// A loaded broker answers late; this late it is gone.
const ANSWER_SECS_MAX: u64 = 30;

/// So many failures in a row are an end: one may be a connection that the system refused for want of descriptors.
const FAILURES_MAX: u32 = 3;

/// The metadata version of the question; any that the broker speaks would do.
const METADATA_VERSION: i16 = 12;

/// Returns when the broker at `address` has stopped answering, with the reason.
pub(super) async fn lost(address: SocketAddr) -> String {
    let mut failures = 0;
    loop {
        sleep(Duration::from_secs(PULSE_SECS)).await;
        let asked = timeout(Duration::from_secs(ANSWER_SECS_MAX), ask(address)).await;
        let reason = match asked {
            Ok(Ok(())) => {
                failures = 0;
                continue;
            }
            Ok(Err(reason)) => reason,
            Err(_) => format!("no answer within {ANSWER_SECS_MAX} s"),
        };
        failures += 1;
        if failures == FAILURES_MAX {
            return format!(
                "the broker's port is open but requests fail ({reason}); a panic of thread `broker` says why"
            );
        }
    }
}

async fn ask(address: SocketAddr) -> Result<(), String> {
    let header = Header::Request {
        api_key: MetadataRequest::KEY,
        api_version: METADATA_VERSION,
        correlation_id: 0,
        client_id: Some("liveness".to_owned()),
    };
    let question = MetadataRequest::default()
        .topics(Some(Vec::new()))
        .allow_auto_topic_creation(Some(false))
        .include_topic_authorized_operations(Some(false));
    let request = Frame::request(header, question.into()).map_err(|error| error.to_string())?;
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&request).await?;
        stream.read_i32().await
    };
    exchange
        .await
        .map(drop)
        .map_err(|error: std::io::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Broker, Settings};

    #[tokio::test]
    async fn a_broker_in_health_answers() {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(Settings::new(dir.path())).await.unwrap();
        ask(broker.address().parse().unwrap()).await.unwrap();
        broker.stop().await;
    }
}
