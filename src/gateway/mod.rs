//! Sockets of one server: handshake, the socket loop, drain.
//!
//! A connection comes from the server's own listener or from the balancer in the same process; both
//! find a place on the `porch`. `handshake` judges the request, `seat` says whether there is room,
//! `admission` who may come in; `socket` runs the WebSocket at the user's `pace` and feeds the pure
//! session of `chat`, whose `effects` go on from here, `stream` counts what is read for it, `drain`
//! sends everybody away at an even rate. Nothing above the gateway knows which socket engine runs.

mod admission;
pub mod drain;
pub(crate) mod effects;
pub mod handshake;
mod pace;
mod porch;
mod seat;
pub mod socket;
pub(crate) mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Refusal, Verifier};
use crate::chat::Chat;
use crate::chat::session::Wish;
use crate::edge::{Arrived, Came, Edge, HEAD_PATIENCE, Incoming, Peer, Stream};
use crate::hub::{Event, Outbox, Who};
use crate::limits::{Limit, Seats};
use crate::protocol::{CloseCode, PING_INTERVAL_MS, SocketId};
use crate::telemetry::Metrics;
use admission::Admitted;
pub use admission::Guard;
use handshake::Request;
pub use porch::{Guest, Porch, counted};
use seat::Seat;
use socket::{End, Socket, Unstored};

/// A connection whose request a balancer in this process has read already, and which has passed all
/// that its edge demands.
pub struct Accepted {
    /// The socket.
    pub stream: Stream,
    /// Who dialled.
    pub peer: Peer,
    /// What was read, from the first byte of the request on.
    pub read: Bytes,
    /// Its place, until its socket is open.
    pub guest: Guest,
}

impl std::fmt::Debug for Accepted {
    /// Without what was read: there are tokens in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A connection on its way in.
enum Coming {
    /// From the server's own listener.
    Here(TcpStream, SocketAddr, Guest),
    /// From a balancer.
    Handed(Accepted),
}

/// How many handed-over connections wait for a server.
pub const DOOR_MAX: usize = 1_024;

/// Where a balancer in the same process hands connections to a server.
pub type Door = mpsc::Sender<Accepted>;

/// The sockets of one server.
pub struct Gateway {
    chat: Arc<Chat>,
    edge: Arc<Edge>,
    guard: Option<Arc<Guard>>,
    open: AtomicBool,
    seats: Arc<Seats>,
    porch: Arc<Porch>,
    sockets: TaskTracker,
    /// Ends every socket at once: past the drain's limit.
    abort: CancellationToken,
}

impl Gateway {
    /// A server that takes no sockets yet. With a verifier, who opens one must have a token.
    pub fn new(chat: Arc<Chat>, edge: Arc<Edge>, verifier: Option<Verifier>) -> Arc<Self> {
        let seats = Arc::new(Seats::new(chat.limits.settings().sockets));
        chat.metrics.sockets_max.set(chat.limits.settings().sockets.map_or(0, i64::from));
        let porch = Porch::new(chat.limits.clone(), chat.metrics.clone(), edge.clone());
        Arc::new(Self {
            chat,
            edge,
            porch,
            seats,
            guard: verifier.map(Guard::new),
            open: AtomicBool::new(false),
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

    /// The places for sockets, which whoever deals connections looks at.
    pub fn seats(&self) -> Arc<Seats> {
        self.seats.clone()
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
        let mut incoming = Incoming::at(listener);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                came = incoming.next() => match came {
                    Came::Connection(stream, address) => self.arrived(stream, address),
                    Came::Nothing => self.chat.metrics.count_limited(Limit::Files.as_str()),
                },
                Some(accepted) = door.recv() => self.take(Coming::Handed(accepted)),
            }
        }
        drop(incoming);
        // Who was handed over before is answered; the balancer sees that nobody is any more.
        door.close();
        while let Ok(accepted) = door.try_recv() {
            self.take(Coming::Handed(accepted));
        }
        self.sockets.close();
        self.sockets.wait().await;
        ticking.abort();
    }

    fn arrived(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        if let Some((stream, guest)) = self.porch.enter(stream, address) {
            self.take(Coming::Here(stream, address, guest));
        }
    }

    fn take(self: &Arc<Self>, coming: Coming) {
        let gateway = self.clone();
        self.sockets.spawn(async move {
            // Boxed apart: what a handshake needs is given back before its socket is open.
            let open = Box::pin(gateway.clone().shake_hands(coming)).await;
            if let Some((socket, entered)) = open {
                gateway.run(socket, entered).await;
            }
        });
    }

    /// Reads the request and answers it; `None` where no socket came of it. Until then the guest
    /// has its place, also while it is told that it gets none.
    async fn shake_hands(self: Arc<Self>, coming: Coming) -> Option<(Box<Socket>, Entered)> {
        let (mut stream, peer, read, until, _guest) = match coming {
            Coming::Handed(Accepted { stream, peer, read, guest }) => {
                (stream, peer, read, Instant::now() + HEAD_PATIENCE, guest)
            }
            Coming::Here(stream, address, mut guest) => {
                let arrived = self.edge.arrive(stream, address, &mut guest).await?;
                let Arrived { stream, peer, until } = arrived;
                (stream, peer, Bytes::new(), until, guest)
            }
        };
        let gate = &self.edge.gate;
        match handshake::read(&mut stream, read, peer, gate, until).await? {
            Request::Open(hello, behind) if self.is_open() => {
                match self.seat_and_admit(&hello).await {
                    Ok((seat, admitted)) => {
                        handshake::accept(&mut stream, &hello, &self.chat.me.id).await.ok()?;
                        return Some(self.enter(stream, &hello, seat, admitted, behind).await);
                    }
                    Err(refusal) => self.turn_back(stream, &hello, &refusal).await,
                }
            }
            Request::Open(..) => {
                let refusal = handshake::Refusal::new(503, "this server takes no sockets now");
                handshake::refuse(stream, &refusal.elsewhere()).await;
            }
            Request::Refused(refusal) => {
                Metrics::count(&self.chat.metrics.refused, refusal.code().as_str());
                handshake::refuse(stream, &refusal).await;
            }
            Request::Health => handshake::answer_health(stream, true).await,
            Request::Ready => {
                // Who is full has others sent elsewhere.
                let takes_more = self.is_open() && !self.seats.are_taken();
                handshake::answer_health(stream, takes_more).await;
            }
        }
        None
    }

    async fn seat_and_admit(
        self: &Arc<Self>,
        hello: &handshake::Hello,
    ) -> Result<(Seat, Admitted), handshake::Refusal> {
        let seat = Seat::take(self, hello.client)?;
        let admitted = self.admit(hello).await?;
        Ok((seat, admitted))
    }

    async fn enter(
        self: &Arc<Self>,
        stream: Stream,
        hello: &handshake::Hello,
        seat: Seat,
        admitted: Admitted,
        behind: Bytes,
    ) -> (Box<Socket>, Entered) {
        let _ = stream.set_nodelay();
        tracing::debug!(client = %hello.client, user = %admitted.user, "a socket opens");
        let who = Who {
            user: admitted.user,
            device: hello.device.clone(),
            socket: SocketId(rand::random()),
        };
        let outbox = Arc::new(Outbox::new(who));
        if let Some((issued, ends)) = admitted.holds {
            outbox.renew(issued, ends, admitted.acting);
        }
        if let Some(oldest) = self.chat.hub.enter(outbox.clone()) {
            self.chat.metrics.count_limited(Limit::SocketsPerUser.as_str());
            oldest.push(Event::Close(CloseCode::TooManySockets));
        }
        // A drain that began since the handshake may have looked through the hub before this: it
        // closes the door first and looks then, so that one of the two sees to this socket.
        if !self.is_open() {
            drain::send_away(&outbox);
        }
        let entered = Entered::new(seat, outbox.clone());
        (Socket::new(self, &outbox, stream, hello, behind).await, entered)
    }

    /// How this client is to be served.
    fn wish(&self, hello: &handshake::Hello) -> Wish {
        Wish {
            acks_app: hello.acks_app,
            catchup: hello.catchup,
            guarded: self.guard.is_some(),
            sockets_per_user: self.chat.hub.sockets_per_user(),
        }
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

    /// One tick for all sockets: each second a 25th of them is asked to see to its client, and
    /// those whose token has ended are sent away.
    async fn tick_for_ever(&self) {
        let rounds = (PING_INTERVAL_MS / 1_000).max(1);
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0;
        loop {
            second.tick().await;
            round = (round + 1) % rounds;
            let now = (self.chat.clock)() / 1_000;
            for outbox in self.chat.hub.all() {
                if outbox.pass.take_ended(now) {
                    self.chat.turn_away(&outbox, &Refusal::Ended.to_string());
                }
                if (outbox.who.socket.0 % u128::from(rounds)) as u64 == round {
                    outbox.push(Event::Tick);
                }
            }
        }
    }
}

/// A socket's place in the hub; leaves it whatever ends the socket's task.
struct Entered {
    seat: Seat,
    /// Until it has left.
    outbox: Option<Arc<Outbox>>,
}

impl Entered {
    fn new(seat: Seat, outbox: Arc<Outbox>) -> Self {
        seat.chat().metrics.sockets.inc();
        seat.chat().metrics.sockets_opened.inc();
        Self { seat, outbox: Some(outbox) }
    }

    async fn leave(mut self, name: &'static str, unstored: Unstored) {
        let chat = self.seat.chat().clone();
        crate::telemetry::Metrics::count(&chat.metrics.sockets_closed, name);
        if let Some(outbox) = self.outbox.take() {
            chat.end(outbox, unstored).await;
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(outbox) = self.outbox.take() {
            // The task panicked or was dropped: the map entry is removed by whoever follows it.
            let chat = self.seat.chat().clone();
            chat.leave(&outbox);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { chat.release(&outbox).await });
            }
        }
    }
}

#[cfg(test)]
mod tests;
