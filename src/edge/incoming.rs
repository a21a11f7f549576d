//! Connections as they come in at a listener, one after the other.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

/// How long accepting rests when the process or the system has no file left: what comes meanwhile
/// waits in the system's queue.
const REST: Duration = Duration::from_millis(50);
/// How often that is said.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// A listener that rests at the limit of open files, where the system says at once, and again and
/// again, that nothing can be accepted.
pub struct Incoming {
    listener: TcpListener,
    rests_until: Option<Instant>,
    said: Option<Instant>,
}

/// What came in, or why nothing can.
pub enum Came {
    /// A connection, and who dialled.
    Connection(TcpStream, SocketAddr),
    /// Nothing can be accepted for a while; told at the beginning of each rest.
    Nothing,
}

impl Incoming {
    /// What comes in here.
    pub fn at(listener: TcpListener) -> Self {
        Self { listener, rests_until: None, said: None }
    }

    /// The next connection. Cancel-safe: a rest goes on where it stood.
    pub async fn next(&mut self) -> Came {
        loop {
            if let Some(until) = self.rests_until {
                sleep_until(until).await;
                self.rests_until = None;
            }
            match self.listener.accept().await {
                Ok((stream, address)) => return Came::Connection(stream, address),
                // Of this one connection, which left before its turn.
                Err(error) if has_left(&error) => {}
                Err(error) => {
                    self.rest(&error);
                    return Came::Nothing;
                }
            }
        }
    }

    fn rest(&mut self, error: &Error) {
        let now = Instant::now();
        self.rests_until = Some(now + REST);
        if self.said.is_none_or(|said| now.duration_since(said) >= SAID_EVERY) {
            self.said = Some(now);
            tracing::warn!(%error, "no connection can be accepted: those who come wait");
        }
    }
}

fn has_left(error: &Error) -> bool {
    let kind = error.kind();
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_come_one_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::at(listener);
        for _ in 0..2 {
            let client = TcpStream::connect(address).await.unwrap();
            let Came::Connection(_, peer) = incoming.next().await else { panic!("one came") };
            assert_eq!(peer, client.local_addr().unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_kept_and_said_once_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::at(listener);
        let full = Error::from_raw_os_error(24);
        assert!(!has_left(&full));
        incoming.rest(&full);
        let said = incoming.said;
        let _client = TcpStream::connect(address).await.unwrap();
        let begun = Instant::now();
        // Whoever looks elsewhere meanwhile does not cut it short.
        for _ in 0..10 {
            let brief = tokio::time::timeout(Duration::from_millis(4), incoming.next());
            assert!(brief.await.is_err());
        }
        assert!(matches!(incoming.next().await, Came::Connection(..)));
        assert!(begun.elapsed() >= REST);
        incoming.rest(&full);
        assert_eq!(incoming.said, said);
        tokio::time::advance(SAID_EVERY).await;
        incoming.rest(&full);
        assert_ne!(incoming.said, said);
    }
}
