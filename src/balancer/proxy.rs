//! Splices a connection to a server in another process: bytes both ways, nothing looked at.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may take to accept.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);
/// Buffer each way; frames are small, and an idle connection holds both.
const BUFFER_BYTES: usize = 1_024;

/// Dials a server and gives it what was read already. An error means that the server has seen
/// nothing of the client: the next one may be tried.
pub async fn dial(address: &str) -> std::io::Result<TcpStream> {
    let dialled = timeout(DIAL_PATIENCE, TcpStream::connect(address)).await;
    let stream = dialled.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Runs until both sides have ended, or one broke.
pub async fn splice(mut client: TcpStream, mut server: TcpStream, read: Bytes) {
    if server.write_all(&read).await.is_err() {
        return;
    }
    drop(read);
    let _ = client.set_nodelay(true);
    let _ =
        copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await;
}
