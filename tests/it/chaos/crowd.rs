//! Hostile clients: they hold connections open, send a byte now and then, or never stop sending.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

const HEAD: &str = "POST /reservations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
/// Time between two bytes of a slow client, and before a client reconnects.
const PAUSE: Duration = Duration::from_millis(700);

/// Starts this many clients. They reconnect when they are disconnected, and end with the set.
pub fn gather(count: usize, address: SocketAddr) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for number in 0..count {
        crowd.spawn(async move {
            loop {
                let stream = TcpStream::connect(address).await;
                // Disconnected or refused: the client tries again after a while.
                let _ = match (stream, number % 4) {
                    (Ok(stream), 0) => slow_head(stream).await,
                    (Ok(stream), 1) => slow_body(stream).await,
                    (Ok(stream), 2) => endless_body(stream).await,
                    (Ok(stream), _) => idle(stream).await,
                    (Err(failure), _) => Err(failure),
                };
                sleep(PAUSE).await;
            }
        });
    }
    crowd
}

async fn slow_head(mut stream: TcpStream) -> std::io::Result<()> {
    for byte in HEAD.as_bytes() {
        stream.write_all(&[*byte]).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn slow_body(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(format!("{HEAD}content-length: 60\r\n\r\n").as_bytes()).await?;
    for _ in 0..60 {
        stream.write_all(b" ").await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn endless_body(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(format!("{HEAD}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
    let chunk = format!("400\r\n{}\r\n", " ".repeat(0x400));
    loop {
        stream.write_all(chunk.as_bytes()).await?;
        sleep(Duration::from_millis(20)).await;
    }
}

async fn idle(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut answer = [0; 1024];
    while stream.read(&mut answer).await? > 0 {}
    Ok(())
}
