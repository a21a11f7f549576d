//! Sockets of one server: handshake, the socket loop, drain.
//!
//! A connection comes from the server's own listener or from the balancer in the same process; both
//! give an [`Accepted`]. `handshake` judges the request, `socket` runs the WebSocket and feeds the
//! pure session of `chat`, `drain` sends everybody away at an even rate. Nothing above the gateway
//! knows which socket engine runs.

pub mod drain;
pub mod handshake;
pub mod socket;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chat::Chat;
use crate::edge::{Arrived, Edge, Peer, Stream};
use crate::hub::{Event, Outbox, Who};
use crate::protocol::{CloseCode, PING_INTERVAL_MS, SocketId};
use handshake::Request;
use socket::{End, Socket, Unstored};

/// A connection whose request head may have been read already.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: Stream,
    /// Who dialled.
    pub peer: Peer,
    /// What was read already, from the first byte of the request on; empty if nothing was.
    pub read: Bytes,
}

/// A connection on its way in.
enum Coming {
    /// From the server's own listener.
    Here(TcpStream, SocketAddr),
    /// From a balancer in this process, which has seen to all that its edge demands.
    Handed(Accepted),
}

/// How many handed-over connections wait for a server.
pub const DOOR_MAX: usize = 1_024;
/// How many connections may be at their handshake.
const HALF_OPEN_MAX: usize = 4_096;
/// How long accepting rests when the process has no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a balancer in the same process hands connections to a server.
pub type Door = mpsc::Sender<Accepted>;

/// The sockets of one server.
pub struct Gateway {
    chat: Arc<Chat>,
    edge: Arc<Edge>,
    open: AtomicBool,
    half_open: Arc<Semaphore>,
    sockets: TaskTracker,
    /// Ends every socket at once: past the drain's limit.
    abort: CancellationToken,
}

impl Gateway {
    /// A server that takes no sockets yet.
    pub fn new(chat: Arc<Chat>, edge: Arc<Edge>) -> Arc<Self> {
        Arc::new(Self {
            chat,
            edge,
            open: AtomicBool::new(false),
            half_open: Arc::new(Semaphore::new(HALF_OPEN_MAX)),
            sockets: TaskTracker::new(),
            abort: CancellationToken::new(),
        })
    }

    /// From now on sockets are taken.
    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Accepts from the listener and from the door until `stop`. The ticks of open sockets go on
    /// for as long as there are any.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        mut door: mpsc::Receiver<Accepted>,
        stop: CancellationToken,
    ) {
        let ticking = tokio::spawn({
            let (gateway, abort) = (self.clone(), self.abort.clone());
            async move { abort.run_until_cancelled(gateway.tick_for_ever()).await }
        });
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => self.take(Coming::Here(stream, address)),
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(accepted) = door.recv() => self.take(Coming::Handed(accepted)),
            }
        }
        drop(listener);
        self.sockets.close();
        self.sockets.wait().await;
        ticking.abort();
    }

    fn take(self: &Arc<Self>, coming: Coming) {
        // Past the bound a connection is dropped at once: its client comes back.
        let Ok(permit) = self.half_open.clone().try_acquire_owned() else { return };
        let gateway = self.clone();
        self.sockets.spawn(async move {
            // Boxed apart: what a handshake needs is given back before its socket is open.
            let open = Box::pin(gateway.clone().shake_hands(coming, permit)).await;
            if let Some((socket, entered)) = open {
                gateway.run(socket, entered).await;
            }
        });
    }

    /// Reads the request and answers it; `None` where no socket came of it.
    async fn shake_hands(
        self: Arc<Self>,
        coming: Coming,
        permit: OwnedSemaphorePermit,
    ) -> Option<(Box<Socket>, Entered)> {
        let Accepted { mut stream, peer, read } = match coming {
            Coming::Handed(accepted) => accepted,
            Coming::Here(stream, address) => {
                let Arrived { stream, peer } = self.edge.arrive(stream, address).await?;
                Accepted { stream, peer, read: Bytes::new() }
            }
        };
        let request = handshake::read(&mut stream, read, peer, &self.edge.gate).await;
        drop(permit);
        match request? {
            Request::Open(hello, behind) if self.is_open() => {
                handshake::accept(&mut stream, &hello, &self.chat.me.id).await.ok()?;
                return Some(self.enter(stream, &hello, behind).await);
            }
            Request::Open(..) => {
                let refusal = handshake::Refusal::new(503, "this server takes no sockets now");
                handshake::refuse(stream, &refusal).await;
            }
            Request::Refused(refusal) => handshake::refuse(stream, &refusal).await,
            Request::Health => handshake::answer_health(stream, true).await,
            Request::Ready => handshake::answer_health(stream, self.is_open()).await,
        }
        None
    }

    async fn enter(
        &self,
        stream: Stream,
        hello: &handshake::Hello,
        behind: Bytes,
    ) -> (Box<Socket>, Entered) {
        let _ = stream.set_nodelay();
        tracing::debug!(client = %hello.client, user = %hello.user, "a socket opens");
        let who = Who {
            user: hello.user.clone(),
            device: hello.device.clone(),
            socket: SocketId(rand::random()),
        };
        let outbox = Arc::new(Outbox::new(who));
        if let Some(oldest) = self.chat.hub.enter(outbox.clone()) {
            oldest.push(Event::Close(CloseCode::TooManySockets));
        }
        // A drain that began since the handshake may have looked through the hub before this: it
        // closes the door first and looks then, so that one of the two sees to this socket.
        if !self.is_open() {
            drain::send_away(&outbox);
        }
        let entered = Entered::new(self.chat.clone(), outbox.clone());
        (Socket::new(&self.chat, &outbox, stream, hello, behind).await, entered)
    }

    async fn run(&self, mut socket: Box<Socket>, entered: Entered) {
        let end = self.abort.run_until_cancelled(socket.run()).await;
        Box::pin(async move {
            let name = end.as_ref().map_or("aborted", End::name);
            let unstored = socket.close(end).await;
            entered.leave(name, unstored).await;
        })
        .await;
    }

    /// One tick for all sockets: each second a 25th of them is asked to see to its client.
    async fn tick_for_ever(&self) {
        let rounds = (PING_INTERVAL_MS / 1_000).max(1);
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0;
        loop {
            second.tick().await;
            round = (round + 1) % rounds;
            for outbox in self.chat.hub.all() {
                if (outbox.who.socket.0 % u128::from(rounds)) as u64 == round {
                    outbox.push(Event::Tick);
                }
            }
        }
    }
}

/// A socket's place in the hub; leaves it whatever ends the socket's task.
struct Entered {
    chat: Arc<Chat>,
    outbox: Arc<Outbox>,
    left: bool,
}

impl Entered {
    fn new(chat: Arc<Chat>, outbox: Arc<Outbox>) -> Self {
        chat.metrics.sockets.inc();
        chat.metrics.sockets_opened.inc();
        Self { chat, outbox, left: false }
    }

    fn out(&mut self) -> VecDeque<Event> {
        self.left = true;
        self.chat.hub.leave(&self.outbox.who.user, self.outbox.who.socket);
        let unheard = self.outbox.close();
        self.chat.metrics.sockets.dec();
        unheard
    }

    async fn leave(mut self, name: &'static str, mut unstored: Unstored) {
        crate::telemetry::Metrics::count(&self.chat.metrics.sockets_closed, name);
        for event in self.out() {
            if let Event::Sent { conversation, seq, .. } = event {
                unstored.sent(&conversation, seq);
            }
        }
        // Out of the map first: from here on a sender looks elsewhere, or nowhere.
        self.chat.release(&self.outbox).await;
        self.chat.store_at_end(&self.outbox.who, unstored).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if !self.left {
            // The task panicked or was dropped: the map entry is removed by whoever follows it.
            self.out();
            let (chat, outbox) = (self.chat.clone(), self.outbox.clone());
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { chat.release(&outbox).await });
            }
        }
    }
}

#[cfg(test)]
mod tests;
