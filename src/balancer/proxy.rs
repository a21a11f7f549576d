//! Splices a connection to a server in another process: bytes both ways, nothing looked at.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy, copy_buf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::edge::{Stream, TLS_ADDRESS, Upstream};

/// How long a server may take to accept.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long the other side may take to end after one has.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(10);
/// Buffer each way; frames are small, and an idle connection holds both.
const BUFFER_BYTES: usize = 1_024;

/// `HOST:PORT` of a server's address.
pub fn place(address: &str) -> &str {
    address.strip_prefix(TLS_ADDRESS).unwrap_or(address)
}

/// Dials a server: by TLS if there is somebody to trust, whatever the board says, so that nobody
/// who writes there can take it away. An error means that the server has seen nothing of the
/// client: the next one may be tried.
pub async fn dial(address: &str, upstream: Option<&Upstream>) -> Result<Stream> {
    let place = place(address);
    let dialling = async {
        let stream = TcpStream::connect(place).await?;
        stream.set_nodelay(true)?;
        let Some(upstream) = upstream else {
            if address.starts_with(TLS_ADDRESS) {
                return Err(Error::other(
                    "it speaks TLS: say whom to trust with --upstream-ca FILE",
                ));
            }
            return Ok(stream.into());
        };
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        upstream.secure(stream, host).await
    };
    let dialled = timeout(DIAL_PATIENCE, dialling).await;
    dialled.map_err(|_| Error::from(ErrorKind::TimedOut))?
}

/// Runs until both sides have ended, one broke, or one has ended and the other does not follow: a
/// client that stays after its server's close must not hold this connection for ever.
pub async fn splice(client: Stream, mut server: Stream, read: Bytes) {
    let given = async {
        server.write_all(&read).await?;
        server.flush().await
    };
    if given.await.is_err() {
        return;
    }
    drop(read);
    let _ = client.set_nodelay();
    match (client, server) {
        // Halves of plain sockets share nothing that would have to be locked.
        (Stream::Plain(mut client), Stream::Plain(mut server)) => {
            let ((from_client, to_client), (from_server, to_server)) =
                (client.split(), server.split());
            both_ways(pass(from_client, to_server), pass(from_server, to_client)).await;
        }
        (client, server) => {
            let (from_client, to_client) = tokio::io::split(client);
            let (from_server, to_server) = tokio::io::split(server);
            let up = pass_sealed(from_client, to_server);
            both_ways(up, pass_sealed(from_server, to_client)).await;
        }
    }
}

async fn both_ways(up: impl Future<Output = Result<()>>, down: impl Future<Output = Result<()>>) {
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
async fn pass(from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<()> {
    copy_buf(&mut BufReader::with_capacity(BUFFER_BYTES, from), &mut to).await?;
    to.shutdown().await
}

/// The same where one side is encrypted: what was taken to be sealed may wait in there, and is
/// flushed whenever nothing more is to be read.
async fn pass_sealed(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> Result<()> {
    copy(&mut from, &mut to).await?;
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
        let splicing =
            tokio::spawn(splice(outer.into(), inner.into(), Bytes::from_static(b"early")));
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
