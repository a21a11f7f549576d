//! Hands a client's socket to a server in another process of this host, and is out of its way then.
//!
//! A socket that was sent is not ours any more, whatever follows. A server that refuses it leaves
//! it to be dealt elsewhere; where none answers nobody can know who has it, so it is shut down for
//! all: its client comes back.

use std::net::{Shutdown, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Balancer;
use super::discovery::Backend;
use super::head::Upgrade;
use crate::edge::Stream;
use crate::edge::handoff::{ABSENT, ANSWER_PATIENCE, Answer, Line, Packet, Reply, UNANSWERED};
use crate::telemetry::Metrics;

/// What became of a socket that was to be handed over.
pub(super) enum Handed {
    /// It is no longer here.
    Over,
    /// The server takes no more.
    Refused(Stream),
    /// The server can't be reached this way.
    Not(Stream),
}

impl Balancer {
    /// Hands a socket to this server, if it is on this host and the socket is one that can be.
    pub(super) async fn hand_on(
        &self,
        backend: &Backend,
        stream: Stream,
        upgrade: &Upgrade,
    ) -> Handed {
        // What TLS knows of a connection can't be sent.
        let stream = match stream {
            Stream::Plain(stream) => stream,
            sealed => return Handed::Not(sealed),
        };
        let Some(line) = self.line_to(backend) else { return Handed::Not(stream.into()) };
        let (peer, read) = (upgrade.caller.peer, upgrade.here());
        let Some(packet) = (Packet { peer, read: &read }).write() else {
            return Handed::Not(stream.into());
        };
        // Epoll goes on telling of a socket that is registered, as long as anybody has it.
        let Ok(stream) = stream.into_std() else { return Handed::Over };
        let until = Instant::now() + ANSWER_PATIENCE;
        let sent = timeout_at(until, line.send(&packet, Some(stream.as_fd()))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return back(stream).map_or(Handed::Over, Handed::Not);
        }
        let mut bytes = [0; Reply::BYTES];
        let reply = match timeout_at(until, line.receive(&mut bytes)).await {
            Ok(Ok(received)) => Reply::read(&bytes[..received.bytes]),
            _ => None,
        };
        self.take_reply(backend, stream, reply)
    }

    /// A line to a server that listens for sockets in our folder, as our own user.
    fn line_to(&self, backend: &Backend) -> Option<Line> {
        let folder = self.handoff.as_ref()?;
        let line = folder.place(&backend.id).ok().and_then(|place| Line::dial(&place).ok());
        let Some(line) = line else {
            Metrics::count(&self.metrics.handoffs, ABSENT);
            return None;
        };
        if line.user().is_ok_and(|user| user == folder.user()) {
            return Some(line);
        }
        Metrics::count(&self.metrics.handoffs, Answer::Stranger.as_str());
        tell_once(backend, Answer::Stranger);
        None
    }

    fn take_reply(&self, backend: &Backend, stream: StdStream, reply: Option<Reply>) -> Handed {
        let outcome = reply.map_or(UNANSWERED, |reply| reply.answer.as_str());
        Metrics::count(&self.metrics.handoffs, outcome);
        let Some(Reply { answer, sockets }) = reply else {
            tracing::info!(server = %backend.id, "no answer to a socket: it is closed");
            backend.refused();
            let _ = stream.shutdown(Shutdown::Both);
            return Handed::Over;
        };
        match answer {
            Answer::Taken => {
                backend.tells(sockets.saturating_add(1));
                Handed::Over
            }
            Answer::Closed | Answer::Full => {
                backend.refused();
                back(stream).map_or(Handed::Over, Handed::Refused)
            }
            Answer::Damaged | Answer::Stranger => {
                tell_once(backend, answer);
                back(stream).map_or(Handed::Over, Handed::Not)
            }
        }
    }
}

/// A socket that is ours again.
fn back(stream: StdStream) -> Option<Stream> {
    TcpStream::from_std(stream).ok().map(Stream::from)
}

/// Clients notice nothing of it, and the log is not to be filled with it.
fn tell_once(backend: &Backend, answer: Answer) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        let (server, answer) = (&backend.id, answer.as_str());
        tracing::warn!(%server, answer, "takes no sockets from here, which pass through instead: \
                        are both of the same version and user?");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{UPGRADE, exchange, handing, server, start};
    use super::*;
    use crate::balancer::Backends;
    use crate::config::NamedServer;
    use crate::edge::handoff::{Folder, PACKET_BYTES_MAX};
    use crate::limits::{Limits, Settings};
    use std::net::SocketAddr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    /// What must come, and not for ever.
    async fn soon<T>(coming: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), coming).await.unwrap()
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(&outer.path().join("handoff")).unwrap();
        (outer, folder)
    }

    /// Gives all the same answer, or none; what came is to be seen.
    fn hatch(
        folder: &Folder,
        server: &NamedServer,
        answer: Option<Answer>,
    ) -> mpsc::Receiver<(SocketAddr, Vec<u8>, Option<TcpStream>)> {
        let (line, _) = folder.listen(&server.id).unwrap();
        let (came, seen) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut lines = Vec::new();
            loop {
                let line = line.accept().await.unwrap();
                let mut buffer = vec![0; PACKET_BYTES_MAX];
                let received = line.receive(&mut buffer).await.unwrap();
                let packet = Packet::read(&buffer[..received.bytes]).unwrap();
                let (address, read) = (packet.peer.address, packet.read.to_vec());
                if let Some(answer) = answer {
                    let reply = Reply { answer, sockets: 7 };
                    line.send(&reply.write(), None).await.unwrap();
                }
                let refused = answer.is_some_and(|answer| answer != Answer::Taken);
                let stream = received.stream().filter(|_| !refused);
                let stream = stream.map(|stream| TcpStream::from_std(stream).unwrap());
                let _ = came.send((address, read, stream)).await;
                lines.push(line);
            }
        });
        seen
    }

    #[tokio::test]
    async fn a_socket_goes_to_who_takes_it_with_all_that_was_read() {
        let (_outer, folder) = folder();
        let ((one, _one), (two, _two)) = (server("ws1").await, server("ws2").await);
        let mut full = hatch(&folder, &one, Some(Answer::Full));
        let mut takes = hatch(&folder, &two, Some(Answer::Taken));
        let front = handing(Backends::Named(vec![one, two]), folder).await;
        for _ in 0..3 {
            let mut client = TcpStream::connect(front).await.unwrap();
            client.write_all(UPGRADE).await.unwrap();
            let (address, read, stream) = soon(takes.recv()).await.unwrap();
            let mut stream = stream.unwrap();
            assert_eq!(address, client.local_addr().unwrap());
            assert_eq!(read, UPGRADE);
            stream.write_all(b"hello").await.unwrap();
            drop(stream);
            let mut heard = Vec::new();
            soon(client.read_to_end(&mut heard)).await.unwrap();
            assert_eq!(heard, b"hello", "nobody else has it");
        }
        assert!(full.try_recv().is_ok(), "it was asked first");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_for_is_closed_and_dealt_to_nobody() {
        let (_outer, folder) = folder();
        let ((one, _one), (two, _two)) = (server("ws1").await, server("ws2").await);
        let mut mute = hatch(&folder, &one, None);
        let mut takes = hatch(&folder, &two, Some(Answer::Taken));
        let front = handing(Backends::Named(vec![one, two]), folder).await;
        let mut client = TcpStream::connect(front).await.unwrap();
        let begun = Instant::now();
        client.write_all(UPGRADE).await.unwrap();
        let mut held = mute.recv().await.unwrap().2.unwrap();
        let mut heard = Vec::new();
        soon(client.read_to_end(&mut heard)).await.unwrap();
        let took = begun.elapsed();
        assert_eq!(heard, b"");
        assert!((0.9..3.0).contains(&took.as_secs_f64()), "{took:?}");
        assert!(held.write_all(b"late").await.is_err(), "it is shut for all who have it");
        let late = tokio::time::timeout(Duration::from_millis(200), takes.recv()).await;
        assert!(late.is_err(), "another one has it as well");
        // Whoever does not answer is passed over for a while.
        let _next = TcpStream::connect(front).await.unwrap().write_all(UPGRADE).await;
        assert!(soon(takes.recv()).await.is_some());
    }

    #[tokio::test]
    async fn another_users_server_gets_no_socket() {
        let (_outer, folder) = folder();
        let (one, _one) = server("ws1").await;
        let mut takes = hatch(&folder, &one, Some(Answer::Taken));
        let front = handing(Backends::Named(vec![one]), folder.of_another()).await;
        assert_eq!(soon(exchange(front, UPGRADE, 3)).await, "ws1", "it passes through");
        assert!(takes.try_recv().is_err());
    }

    #[tokio::test]
    async fn only_what_passes_through_has_a_seat() {
        let (_outer, folder) = folder();
        let ((one, _one), (two, _two)) = (server("ws1").await, server("ws2").await);
        let mut takes = hatch(&folder, &two, Some(Answer::Taken));
        let limits = Limits::new(Settings { sockets: Some(1), ..Settings::default() });
        let front = start(Backends::Named(vec![one, two]), None, limits, Some(folder)).await;
        let dial = async |hears: &str| {
            let mut client = TcpStream::connect(front).await.unwrap();
            client.write_all(UPGRADE).await.unwrap();
            let mut heard = vec![0; hears.len()];
            soon(client.read_exact(&mut heard)).await.unwrap();
            assert_eq!(str::from_utf8(&heard).unwrap(), hears);
            client
        };
        let _through = dial("ws1").await;
        let _over = dial("").await;
        assert!(soon(takes.recv()).await.is_some(), "it needs none");
        dial("HTTP/1.1 503").await;
        let _over = dial("").await;
        assert!(soon(takes.recv()).await.is_some());
    }

    #[tokio::test]
    async fn what_can_not_be_handed_over_passes_through() {
        let (_outer, folder) = folder();
        let (one, _stop) = server("ws1").await;
        let _strange = hatch(&folder, &one, Some(Answer::Stranger));
        let (two, _stop) = server("ws2").await;
        let front = handing(Backends::Named(vec![one, two]), folder).await;
        assert_eq!(exchange(front, UPGRADE, 3).await, "ws1", "it takes none from us");
        assert_eq!(exchange(front, UPGRADE, 3).await, "ws2", "it does not listen there");
    }
}
