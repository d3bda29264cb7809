//! A server that can be away: a TCP proxy before one that stays.
//!
//! It serves whatever is spoken to one address: Postgres, HTTP. Not Kafka, whose clients go on to the address that the
//! broker advertises; see [`kafka::OwnBroker`](crate::kafka::OwnBroker).

use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy, at first open. It ends with the runtime of the test that made it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Proxy {
    /// A proxy before the server of `url`, which must name its port.
    pub async fn before(url: &str) -> Self {
        let (_, server, _) = split(url);
        let server = server.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (open, is_open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, server.clone(), is_open.clone()));
            }
        });
        Self { address, open }
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

    /// The server is there again.
    pub fn restore(&self) {
        self.open.send_replace(true);
    }
}

async fn pass_on(mut client: TcpStream, server: String, mut is_open: watch::Receiver<bool>) {
    if !*is_open.borrow_and_update() {
        return;
    }
    let passing = async {
        if let Ok(mut server) = TcpStream::connect(server).await {
            // However it ends, the client sees its connection end.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    };
    tokio::select! {
        () = passing => {}
        _ = is_open.wait_for(|open| !open) => {}
    }
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
