//! Where a balancer in another process of this host hands sockets to this server.
//!
//! What comes in here goes the way of a connection that was accepted (`porch`, `handshake`),
//! beginning with what the balancer has read. The answer leaves before anything is
//! done with the socket: a balancer that has given up waiting has closed it for all who have it.

use std::io::Result;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Accepted, Coming, Gateway};
use crate::edge::handoff::{
    ANSWER_PATIENCE, Answer, BadFolder, Folder, Line, Listening, PACKET_BYTES_MAX, Packet,
    Received, Reply, UNANSWERED,
};
use crate::limits::{Limit, Over};
use crate::protocol::ProcessId;
use crate::telemetry::Metrics;

/// How many are taken in at once: each has a packet's buffer.
const TAKING_MAX: usize = 64;
/// How long it rests where there is no file left.
const REST: Duration = Duration::from_millis(50);

/// See the module. Its file goes with it.
#[derive(Debug)]
pub struct Hatch {
    place: Listening,
    path: PathBuf,
    /// Whose balancers are listened to.
    user: u32,
}

/// A socket that is the server's own.
enum Judged {
    /// It goes on.
    Comes(Accepted),
    /// Its client has as many as it may: another server would have to tell it the same.
    Over(TcpStream, Over),
}

impl Drop for Hatch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Hatch {
    /// Listens in this folder for the server of this name.
    ///
    /// # Errors
    /// Another process does, or the folder is not right.
    pub fn open(folder: &Folder, server: &ProcessId) -> std::result::Result<Self, BadFolder> {
        let (place, path) = folder.listen(server)?;
        Ok(Self { place, path, user: folder.user() })
    }

    /// Takes sockets in until `stop`. A server that drains goes on answering that it takes none.
    pub async fn serve(self, gateway: Arc<Gateway>, stop: CancellationToken) {
        let taking = Arc::new(Semaphore::new(TAKING_MAX));
        loop {
            let Ok(place) = taking.clone().acquire_owned().await else { return };
            let dialled = tokio::select! {
                () = stop.cancelled() => return,
                dialled = self.place.accept() => dialled,
            };
            let Ok(line) = dialled else {
                gateway.chat.metrics.count_limited(Limit::Files.as_str());
                sleep(REST).await;
                continue;
            };
            let (gateway, user) = (gateway.clone(), self.user);
            gateway.sockets.clone().spawn(async move {
                if let Err(error) = gateway.take_over(&line, user).await {
                    tracing::debug!(%error, "a socket was not handed over");
                }
                drop(place);
            });
        }
    }
}

impl Gateway {
    async fn take_over(self: &Arc<Self>, line: &Line, user: u32) -> Result<()> {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        // A stranger's as well: what is unread at the end of a line overtakes the answer.
        let received = timeout(ANSWER_PATIENCE, line.receive(&mut buffer)).await??;
        if received.bytes == 0 {
            // Another process has looked whether anybody listens here.
            return Ok(());
        }
        if line.user()? != user {
            return self.reply(line, Answer::Stranger).await;
        }
        match self.judge_packet(received, &buffer) {
            Ok(judged) => {
                self.reply(line, Answer::Taken).await?;
                match judged {
                    Judged::Comes(accepted) => self.take(Coming::Handed(accepted)),
                    Judged::Over(stream, over) => self.porch.turn_away(stream, over),
                }
                Ok(())
            }
            Err(answer) => self.reply(line, answer).await,
        }
    }

    fn judge_packet(
        &self,
        received: Received,
        buffer: &[u8],
    ) -> std::result::Result<Judged, Answer> {
        if !received.whole {
            // Bytes are never cut, of a balancer of this version: there was no file for the socket.
            self.chat.metrics.count_limited(Limit::Files.as_str());
            return Err(Answer::Full);
        }
        let packet = buffer.get(..received.bytes).and_then(Packet::read).ok_or(Answer::Damaged)?;
        let stream = received.stream().ok_or(Answer::Damaged)?;
        if !self.is_open() {
            return Err(Answer::Closed);
        }
        if self.seats.are_taken() {
            return Err(Answer::Full);
        }
        // It may be a blocking one, whatever a balancer should have sent.
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        let stream = stream.map_err(|_| Answer::Damaged)?;
        match self.porch.place(packet.peer.address) {
            Ok(guest) => {
                let read = Bytes::copy_from_slice(packet.read);
                let (stream, peer) = (stream.into(), packet.peer);
                Ok(Judged::Comes(Accepted { stream, peer, read, guest }))
            }
            Err(over) if over.limit == Limit::HalfOpenPerAddress => Ok(Judged::Over(stream, over)),
            Err(_) => Err(Answer::Full),
        }
    }

    async fn reply(&self, line: &Line, answer: Answer) -> Result<()> {
        let metrics = &self.chat.metrics;
        let sockets = u32::try_from(metrics.sockets.get()).unwrap_or(u32::MAX);
        let sent = line.send(&Reply { answer, sockets }.write(), None).await;
        // Who does not hear it has given up, and has what was sent.
        let outcome = if sent.is_ok() { answer.as_str() } else { UNANSWERED };
        Metrics::count(&metrics.handoffs, outcome);
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::testing::Part;
    use crate::edge::{Edge, Peer};
    use crate::limits::{Limits, Settings};
    use crate::telemetry::Outcome;
    use std::os::fd::AsFd;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    const REQUEST: &[u8] = b"GET /ws?userId=userA HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
          Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    /// A server with a hatch in a folder of its own.
    struct Hatched {
        part: Part,
        gateway: Arc<Gateway>,
        folder: Folder,
        _outer: tempfile::TempDir,
    }

    impl Hatched {
        async fn new() -> Self {
            Self::with(Limits::none(), |folder| folder).await
        }

        async fn with(limits: Arc<Limits>, seen: fn(Folder) -> Folder) -> Self {
            let part = Part::limited(limits).await;
            let gateway = Gateway::new(part.chat.clone(), Edge::open(), None, 1).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (_, handed) = mpsc::channel(1);
            let stop = CancellationToken::new();
            tokio::spawn(gateway.clone().serve(listener, handed, stop.clone()));
            let outer = tempfile::tempdir().unwrap();
            let folder = Folder::open(&outer.path().join("handoff")).unwrap();
            let hatch = Hatch::open(&seen(folder.clone()), &part.chat.me.id).unwrap();
            tokio::spawn(hatch.serve(gateway.clone(), stop));
            Self { part, gateway, folder, _outer: outer }
        }

        fn dial(&self) -> Line {
            Line::dial(&self.folder.place(&self.part.chat.me.id).unwrap()).unwrap()
        }

        fn counted(&self, outcome: &'static str) -> u64 {
            let handoffs = &self.part.chat.metrics.handoffs;
            handoffs.get_or_create(&Outcome { outcome }).get()
        }

        /// What is answered to this packet, and the client whose socket went with it.
        async fn hand(&self, bytes: &[u8]) -> (Answer, TcpStream) {
            let (client, held) = client().await;
            let line = self.dial();
            line.send(bytes, Some(held.as_fd())).await.unwrap();
            (reply(&line).await, client)
        }
    }

    async fn client() -> (TcpStream, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0.into_std().unwrap())
    }

    async fn reply(line: &Line) -> Answer {
        let mut bytes = [0; Reply::BYTES];
        let received = line.receive(&mut bytes).await.unwrap();
        Reply::read(&bytes[..received.bytes]).unwrap().answer
    }

    fn packet(read: &[u8]) -> Vec<u8> {
        let peer = Peer { address: "203.0.113.7:4711".parse().unwrap(), secure: false };
        Packet { peer, read }.write().unwrap()
    }

    #[tokio::test]
    async fn a_socket_is_taken_while_the_server_takes_any() {
        let hatched = Hatched::new().await;
        let (answer, mut client) = hatched.hand(&packet(REQUEST)).await;
        assert_eq!(answer, Answer::Closed, "it has not begun");
        let ended = timeout(Duration::from_secs(5), client.read(&mut [0])).await.unwrap();
        assert_eq!(ended.unwrap(), 0, "and keeps nothing of it");
        hatched.gateway.open();
        let (answer, mut client) = hatched.hand(&packet(REQUEST)).await;
        assert_eq!(answer, Answer::Taken);
        let mut heard = [0; 12];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"HTTP/1.1 101");
        hatched.gateway.drain(Duration::ZERO).await;
        assert_eq!(hatched.hand(&packet(REQUEST)).await.0, Answer::Closed);
    }

    #[tokio::test]
    async fn what_is_no_packet_with_a_socket_is_refused() {
        let hatched = Hatched::new().await;
        hatched.gateway.open();
        let good = packet(REQUEST);
        assert_eq!(hatched.hand(&good[..20]).await.0, Answer::Damaged);
        assert_eq!(hatched.hand(&[b'x'; 100]).await.0, Answer::Damaged);
        let long = vec![b'x'; PACKET_BYTES_MAX + 1];
        assert_eq!(hatched.hand(&long).await.0, Answer::Full, "cut off");
        let line = hatched.dial();
        line.send(&good, None).await.unwrap();
        assert_eq!(reply(&line).await, Answer::Damaged, "nothing is in it");
        drop(hatched.dial());
        assert_eq!(hatched.hand(&good).await.0, Answer::Taken, "whoever only looks is no trouble");
    }

    #[tokio::test]
    async fn another_users_balancer_is_told_so_and_keeps_its_socket() {
        let hatched = Hatched::with(Limits::none(), Folder::of_another).await;
        hatched.gateway.open();
        for _ in 0..20 {
            let (answer, mut client) = hatched.hand(&packet(REQUEST)).await;
            assert_eq!(answer, Answer::Stranger);
            let ended = timeout(Duration::from_secs(5), client.read(&mut [0])).await.unwrap();
            assert_eq!(ended.unwrap(), 0, "nothing is said to it");
        }
        assert_eq!((hatched.counted("stranger"), hatched.counted("taken")), (20, 0));
    }

    /// Else a client that opens too many would have its server passed over, for all.
    #[tokio::test]
    async fn an_addresss_own_limit_is_not_the_servers() {
        let settings =
            Settings { half_open: Some(2), half_open_per_address: Some(1), ..Settings::default() };
        let hatched = Hatched::with(Limits::new(settings), |folder| folder).await;
        hatched.gateway.open();
        let place = |address: &str| hatched.gateway.porch.place(address.parse().unwrap());
        let _one = place("203.0.113.7:1").unwrap();
        let (answer, mut client) = hatched.hand(&packet(REQUEST)).await;
        assert_eq!(answer, Answer::Taken);
        let mut heard = String::new();
        timeout(Duration::from_secs(5), client.read_to_string(&mut heard)).await.unwrap().unwrap();
        assert!(heard.starts_with("HTTP/1.1 429") && heard.contains("Retry-After"), "{heard}");
        let _two = place("203.0.113.8:1").unwrap();
        assert_eq!(hatched.hand(&packet(REQUEST)).await.0, Answer::Full);
    }

    #[tokio::test]
    async fn a_socket_whose_balancer_has_given_up_is_let_go() {
        let hatched = Hatched::new().await;
        hatched.gateway.open();
        for _ in 0..20 {
            let (mut client, held) = client().await;
            let line = hatched.dial();
            line.send(&packet(REQUEST), Some(held.as_fd())).await.unwrap();
            drop((line, held));
            let mut heard = Vec::new();
            let _ = timeout(Duration::from_secs(5), client.read_to_end(&mut heard)).await.unwrap();
            assert_eq!(heard, b"");
        }
        assert_eq!(hatched.part.chat.metrics.sockets_opened.get(), 0);
        assert_eq!((hatched.counted(UNANSWERED), hatched.counted("taken")), (20, 0));
    }
}
