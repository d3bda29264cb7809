//! Serves a registry alone: `DATABASE_URL=… cargo run -p registry --example serve -- 8081`.

use std::net::Ipv4Addr;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")?;
    let port = std::env::args().nth(1).map_or(Ok(8081), |port| port.parse())?;
    let config: tokio_postgres::Config = url.parse()?;
    let (mut client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    registry::migrate(&mut client).await?;
    drop(client);
    connection.await??;
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(8).build()?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    Ok(axum::serve(listener, registry::router(pool)).await?)
}
