//! Splices a connection to a server in another process: bytes both ways, nothing looked at.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, copy, copy_buf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::edge::{Stream, TLS_ADDRESS, Upstream};
use crate::gateway::handshake::ELSEWHERE;

/// How long a server may take to accept.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long a server may take to answer before the client is left to it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long the other side may take to end after one has.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(10);
/// How long the server may take after the client's way to it has broken: what it says before it
/// closes is on its way when the client's next bytes are refused.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);
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

/// Whether a dial has failed by what this machine lacks: files, ports, memory. Another server could
/// be dialled no better.
pub fn is_local(error: &Error) -> bool {
    /// `ENOMEM`, `ENFILE`, `EMFILE`, `EADDRNOTAVAIL`, `ENOBUFS`.
    const LACKS: [i32; 5] = [12, 23, 24, 99, 105];
    error.raw_os_error().is_some_and(|code| LACKS.contains(&code))
}

/// How an answer begins that says: not now.
const AWAY: &[u8] = b"HTTP/1.1 503";
/// The longest head of such an answer.
const AWAY_BYTES_MAX: usize = 2 * 1024;

/// What the beginning of an answer says of the server that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// The client's answer.
    Its,
    /// Not now: what the server needs is away, for others perhaps as well.
    Away,
    /// Not here: this server alone is full, or stops.
    Elsewhere,
}

/// Gives a server the request, and takes the beginning of its answer: enough to tell whether it
/// takes the socket. None of it has reached the client: another server may be asked.
pub async fn ask(server: &mut Stream, request: &[u8]) -> Result<Bytes> {
    server.write_all(request).await?;
    server.flush().await?;
    let mut answer = BytesMut::with_capacity(BUFFER_BYTES);
    let answering = async {
        while is_open(&answer) {
            if server.read_buf(&mut answer).await? == 0 {
                return Err(Error::from(ErrorKind::UnexpectedEof));
            }
        }
        Ok(())
    };
    // Whoever takes so long is left to it: the client waits for this server now.
    match timeout(ANSWER_PATIENCE, answering).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(answer.freeze()),
    }
}

/// Whether more must be read to tell.
fn is_open(answer: &[u8]) -> bool {
    match answer.get(..AWAY.len()) {
        None => AWAY.starts_with(answer),
        Some(begun) => begun == AWAY && answer.len() < AWAY_BYTES_MAX && head(answer).is_none(),
    }
}

fn head(answer: &[u8]) -> Option<&str> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    str::from_utf8(&answer[..end]).ok()
}

/// What an answer that begins so says.
pub fn says(answer: &[u8]) -> Says {
    if !answer.starts_with(AWAY) {
        return Says::Its;
    }
    let is_mark = |line: &str| {
        line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case(ELSEWHERE))
    };
    match head(answer).is_some_and(|head| head.lines().any(is_mark)) {
        true => Says::Elsewhere,
        false => Says::Away,
    }
}

/// Passes on what the server has answered, then runs until both sides have ended, one broke, or one
/// has ended and the other does not follow: a client that stays after its server's close must not
/// hold this connection for ever.
pub async fn splice(mut client: Stream, server: Stream, answer: Bytes) {
    let given = async {
        client.write_all(&answer).await?;
        client.flush().await
    };
    if given.await.is_err() {
        return;
    }
    drop(answer);
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
    let _ = tokio::select! {
        ended = &mut up => {
            let patience = if ended.is_ok() { FOLLOW_PATIENCE } else { LAST_WORDS_PATIENCE };
            timeout(patience, down).await
        }
        ended = &mut down => match ended {
            Ok(()) => timeout(FOLLOW_PATIENCE, up).await,
            // All that the server said has left before this, and it hears nothing any more.
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
        let splicing = tokio::spawn(async move {
            let mut inner = Stream::from(inner);
            let answer = ask(&mut inner, b"early").await.unwrap();
            splice(outer.into(), inner, answer).await;
        });
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

    /// A server that refuses what comes has said why; its reset must not overtake that.
    #[tokio::test]
    async fn the_last_words_of_a_server_that_resets_arrive() {
        for _ in 0..20 {
            let ((mut client, outer), (inner, mut server)) = (pair().await, pair().await);
            let splicing = tokio::spawn(async move {
                let mut inner = Stream::from(inner);
                let answer = ask(&mut inner, b"early").await.unwrap();
                splice(outer.into(), inner, answer).await;
            });
            server.write_all(b"HTTP/1.1 101 answer").await.unwrap();
            client.read_exact(&mut [0; 19]).await.unwrap();
            // Unread bytes make the close a reset.
            let (mut from_client, mut to_server) = client.split();
            let writing = async { while to_server.write_all(&[b'['; 4096]).await.is_ok() {} };
            let refusing = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                server.write_all(b"too large").await.unwrap();
                drop(server);
            };
            let mut heard = Vec::new();
            let reading = async {
                let _ = from_client.read_to_end(&mut heard).await;
            };
            tokio::join!(writing, refusing, reading);
            assert_eq!(heard, b"too large");
            splicing.await.unwrap();
        }
    }

    /// What is made of an answer that comes in these pieces.
    async fn asked(pieces: &'static [&'static [u8]]) -> Result<Bytes> {
        let (inner, mut server) = pair().await;
        tokio::spawn(async move {
            let mut read = [0; 7];
            server.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"request");
            for piece in pieces {
                server.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // It stays until nobody listens, or says nothing more.
            if !pieces.is_empty() {
                let _ = server.read(&mut read).await;
            }
        });
        ask(&mut inner.into(), b"request").await
    }

    #[tokio::test]
    async fn a_server_that_is_full_is_told_from_others() {
        const CASES: [(&[&[u8]], Says); 7] = [
            (&[b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n"], Says::Away),
            (
                &[b"HTTP", b"/1.1 50", b"3 a\r\nx-parlor-ELSEWHERE: y", b"es\r\n\r\n"],
                Says::Elsewhere,
            ),
            (&[b"HTTP/1.1 503 no\r\n\r\nX-Parlor-Elsewhere: yes\r\n\r\n"], Says::Away),
            (&[b"HTTP/1.1 503 no\r\n", &[b'x'; 3_000]], Says::Away),
            (&[b"HTTP/1.1 101 Switching Protocols\r\n"], Says::Its),
            (&[b"HTTP/1.1 50", b"0 no"], Says::Its),
            (&[b"hello"], Says::Its),
        ];
        for (pieces, said) in CASES {
            let answer = asked(pieces).await.unwrap();
            assert_eq!(says(&answer), said, "{answer:?}");
            assert!(pieces.concat().starts_with(&answer), "nothing of it is lost");
        }
        assert!(asked(&[]).await.is_err(), "it has died");
    }

    #[test]
    fn what_this_machine_lacks_is_nobodys_fault() {
        assert!([24, 99].into_iter().map(Error::from_raw_os_error).all(|e| is_local(&e)));
        assert!(!is_local(&ErrorKind::TimedOut.into()));
        assert!(!is_local(&Error::from_raw_os_error(111)), "refused");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_long_is_waited_for_with_what_there_is() {
        let (inner, _server) = pair().await;
        assert_eq!(ask(&mut inner.into(), b"request").await.unwrap(), "");
    }
}
