//! Where a balancer in another process of this host hands sockets to this server.
//!
//! What comes in here goes the way of a connection that was accepted (`porch`, the door,
//! `handshake`), beginning with what the balancer has read. The answer leaves before anything is
//! done with the socket: a balancer that has given up waiting has closed it for all who have it.

use std::io::Result;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Permit;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Accepted, Door, Gateway};
use crate::edge::handoff::{
    ANSWER_PATIENCE, Answer, BadFolder, Folder, Line, Listening, PACKET_BYTES_MAX, Packet,
    Received, Reply, own_user,
};
use crate::limits::Limit;
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
        Ok(Self { place, path })
    }

    /// Takes sockets in until `stop`. A server that drains goes on answering that it takes none.
    pub async fn serve(self, gateway: Arc<Gateway>, door: Door, stop: CancellationToken) {
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
            let (gateway, door) = (gateway.clone(), door.clone());
            gateway.sockets.clone().spawn(async move {
                if let Err(error) = gateway.take_over(&line, &door).await {
                    tracing::debug!(%error, "a socket was not handed over");
                }
                drop(place);
            });
        }
    }
}

impl Gateway {
    async fn take_over(self: &Arc<Self>, line: &Line, door: &Door) -> Result<()> {
        if line.user()? != own_user() {
            return self.reply(line, door, Answer::Stranger).await;
        }
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let received = timeout(ANSWER_PATIENCE, line.receive(&mut buffer)).await??;
        if received.bytes == 0 {
            // Another process has looked whether anybody listens here.
            return Ok(());
        }
        match self.judge_packet(received, &buffer, door) {
            Ok((place, accepted)) => {
                self.reply(line, door, Answer::Taken).await?;
                place.send(accepted);
                Ok(())
            }
            Err(answer) => self.reply(line, door, answer).await,
        }
    }

    fn judge_packet<'a>(
        self: &Arc<Self>,
        received: Received,
        buffer: &[u8],
        door: &'a Door,
    ) -> std::result::Result<(Permit<'a, Accepted>, Accepted), Answer> {
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
        let guest = self.porch.place(packet.peer.address).map_err(|_| Answer::Full)?;
        let place = door.try_reserve().map_err(|_| Answer::Full)?;
        // It may be a blocking one, whatever a balancer should have sent.
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        let stream = stream.map_err(|_| Answer::Damaged)?.into();
        let read = Bytes::copy_from_slice(packet.read);
        Ok((place, Accepted { stream, peer: packet.peer, read, guest }))
    }

    async fn reply(&self, line: &Line, door: &Door, answer: Answer) -> Result<()> {
        Metrics::count(&self.chat.metrics.handoffs, answer.as_str());
        let waiting = door.max_capacity() - door.capacity();
        let open = self.chat.metrics.sockets.get() + i64::try_from(waiting).unwrap_or(i64::MAX);
        let sockets = u32::try_from(open).unwrap_or(u32::MAX);
        line.send(&Reply { answer, sockets }.write(), None).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::testing::Part;
    use crate::edge::{Edge, Peer};
    use crate::gateway::DOOR_MAX;
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
            let part = Part::new().await;
            let gateway = Gateway::new(part.chat.clone(), Edge::open(), None, 1).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (door, handed) = mpsc::channel(DOOR_MAX);
            let stop = CancellationToken::new();
            tokio::spawn(gateway.clone().serve(listener, handed, stop.clone()));
            let outer = tempfile::tempdir().unwrap();
            let folder = Folder::open(&outer.path().join("handoff")).unwrap();
            let hatch = Hatch::open(&folder, &part.chat.me.id).unwrap();
            tokio::spawn(hatch.serve(gateway.clone(), door, stop));
            Self { part, gateway, folder, _outer: outer }
        }

        fn dial(&self) -> Line {
            Line::dial(&self.folder.place(&self.part.chat.me.id).unwrap()).unwrap()
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
    }
}
