//! Splices a connection to a server in another process: bytes both ways, nothing looked at.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, BufReader, copy_buf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

/// How long a server may take to accept.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long the other side may take to end after one has.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(10);
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

/// Runs until both sides have ended, one broke, or one has ended and the other does not follow: a
/// client that stays after its server's close must not hold this connection for ever.
pub async fn splice(mut client: TcpStream, mut server: TcpStream, read: Bytes) {
    if server.write_all(&read).await.is_err() {
        return;
    }
    drop(read);
    let _ = client.set_nodelay(true);
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let (up, down) = (pass(from_client, to_server), pass(from_server, to_client));
    tokio::pin!(up, down);
    // Whoever broke has nothing to follow.
    let _ = tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => timeout(FOLLOW_PATIENCE, down).await,
            broke => Ok(broke),
        },
        ended = &mut down => match ended {
            Ok(()) => timeout(FOLLOW_PATIENCE, up).await,
            broke => Ok(broke),
        },
    };
}

/// One way, to its end, which is passed on too.
async fn pass(from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> std::io::Result<()> {
    copy_buf(&mut BufReader::with_capacity(BUFFER_BYTES, from), &mut to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_after_the_servers_close_is_let_go() {
        let ((mut client, outer), (inner, mut server)) = (pair().await, pair().await);
        let splicing = tokio::spawn(splice(outer, inner, Bytes::from_static(b"early")));
        let mut read = [0; 5];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"early");
        server.write_all(b"bye").await.unwrap();
        drop(server);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye", "what was said before the close arrives, and then the close");
        let begun = Instant::now();
        timeout(FOLLOW_PATIENCE * 3, splicing).await.unwrap().unwrap();
        assert!(begun.elapsed() <= FOLLOW_PATIENCE + Duration::from_secs(1));
        drop(client);
    }
}
