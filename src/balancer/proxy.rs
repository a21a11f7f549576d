//! Asks a server in another process to take a socket; what follows passes through `splice`.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::edge::{Stream, TLS_ADDRESS, Upstream};
use crate::gateway::handshake::ELSEWHERE;

/// How long a server may take to accept.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long a server may take to answer before the client is left to it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// What the beginning of an answer mostly fits into.
const ANSWER_BYTES: usize = 1_024;

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
    let mut answer = BytesMut::with_capacity(ANSWER_BYTES);
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

/// Passes on what a server has answered.
pub async fn give(client: &mut Stream, answer: &[u8]) -> Result<()> {
    client.write_all(answer).await?;
    client.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
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
