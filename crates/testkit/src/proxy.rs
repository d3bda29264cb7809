//! A server that can be away, or keep its answers back: a TCP proxy before one that stays.
//!
//! It serves whatever is spoken to one address: Postgres, HTTP. Not Kafka, whose clients go on to the address that the
//! broker advertises; see [`kafka::OwnBroker`](crate::kafka::OwnBroker).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What must have gone to the server before any answer comes back.
type Awaited = watch::Sender<Option<Vec<u8>>>;

/// Bytes that are passed on at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// A proxy, at first open. It ends with the runtime of the test that made it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
    awaited: Awaited,
}

impl Proxy {
    /// A proxy before the server of `url`, which must name its port.
    pub async fn before(url: &str) -> Self {
        let (_, server, _) = split(url);
        let server = server.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (open, is_open) = watch::channel(true);
        let awaited = Awaited::default();
        let awaited_by_all = awaited.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, server.clone(), is_open.clone(), awaited_by_all.clone()));
            }
        });
        Self { address, open, awaited }
    }

    /// `url` by way of this proxy.
    #[must_use]
    pub fn instead_of(&self, url: &str) -> String {
        let (head, _, tail) = split(url);
        format!("{head}{}{tail}", self.address)
    }

    /// From now on the server is away: connections end, and new ones end at once.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// From now on no answer comes back until `sent` has gone to the server.
    pub fn answer_only_after(&self, sent: &str) {
        self.awaited.send_replace(Some(sent.as_bytes().to_vec()));
    }

    /// The server is there again.
    pub fn restore(&self) {
        self.open.send_replace(true);
    }
}

async fn pass_on(client: TcpStream, server: String, mut is_open: watch::Receiver<bool>, awaited: Awaited) {
    if !*is_open.borrow_and_update() {
        return;
    }
    let passing = async {
        if let Ok(server) = TcpStream::connect(server).await {
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            // However it ends, the client sees its connection end.
            let _ = tokio::try_join!(
                ask(from_client, to_server, &awaited),
                answer(from_server, to_client, awaited.subscribe()),
            );
        }
    };
    tokio::select! {
        () = passing => {}
        _ = is_open.wait_for(|open| !open) => {}
    }
}

async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, awaited: &Awaited) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let length @ 1.. = from.read(&mut buffer).await? {
        let asked = &buffer[..length];
        to.write_all(asked).await?;
        awaited.send_if_modified(|awaited| {
            let came = |bytes: &mut Vec<u8>| asked.windows(bytes.len()).any(|window| window == bytes);
            awaited.take_if(came).is_some()
        });
    }
    to.shutdown().await
}

async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut awaited: watch::Receiver<Option<Vec<u8>>>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let length @ 1.. = from.read(&mut buffer).await? {
        if awaited.wait_for(Option::is_none).await.is_err() {
            break;
        }
        to.write_all(&buffer[..length]).await?;
    }
    to.shutdown().await
}

/// `url` as what is before its `host:port`, that, and the rest.
fn split(url: &str) -> (&str, &str, &str) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let start = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    (&url[..start], &url[start..end], &url[end..])
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn only_the_server_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://u:p@h:1/db?x=y", ("postgres://u:p@", "h:1", "/db?x=y")),
            ("http://h:8081/apis/v7", ("http://", "h:8081", "/apis/v7")),
            ("http://h:8081", ("http://", "h:8081", "")),
        ] {
            assert_eq!(split(url), expected);
        }
    }
}
