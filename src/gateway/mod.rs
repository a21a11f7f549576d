//! Sockets of one server: handshake, the socket loop, drain.
//!
//! A connection comes from the server's own listener or from a balancer: in the same process by the
//! door, in another one by the `hatch`. Each finds a place on the `porch`. `handshake` judges the
//! request, `seat` says whether it comes too often and whether there is room, `admission` who may
//! come in. From there on `engine`
//! runs the socket: it moves bytes over the `carrier` and lends them to the `connection`, which
//! reads frames (`framing`) at the user's `pace` and feeds the pure session of `chat`, whose
//! `effects` go on from here.
//! `drain` sends everybody away at an even rate. Nothing above the gateway knows which engine runs.

mod admission;
mod carrier;
pub(crate) mod connection;
pub mod drain;
pub(crate) mod effects;
mod engine;
#[doc(hidden)]
pub mod framing;
pub mod handshake;
mod hatch;
mod pace;
mod porch;
mod seat;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Verifier;
use crate::chat::Chat;
use crate::chat::session::Unstored;
use crate::edge::{Arrived, Came, Edge, HEAD_PATIENCE, Incoming, Peer, Stream};
use crate::hub::{Event, Outbox, Who};
use crate::limits::{Address, Limit, Seats};
use crate::protocol::CloseCode;
use crate::telemetry::Metrics;
use admission::Admitted;
pub use admission::Guard;
use carrier::Carrier;
use connection::Connection;
use engine::{Arrival, Lines};
use handshake::Request;
pub use hatch::Hatch;
pub use porch::{Guest, Porch, counted, note_crowded};
use seat::{Knocking, Seat};

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
    lines: Lines,
    /// Sockets on their way in or out, and loops that have some.
    sockets: TaskTracker,
    /// Ends every socket at once: past the drain's limit.
    abort: CancellationToken,
    /// Ends the loops.
    over: CancellationToken,
}

impl Gateway {
    /// A server that takes no sockets yet. With a verifier, who opens one must have a token. So
    /// many parts of this process share its cores, each of which is to have a loop of sockets.
    ///
    /// # Errors
    /// The system has no more files.
    pub fn new(
        chat: Arc<Chat>,
        edge: Arc<Edge>,
        verifier: Option<Verifier>,
        parts: usize,
    ) -> io::Result<Arc<Self>> {
        let seats = Arc::new(Seats::new(chat.limits.settings().sockets));
        chat.metrics.sockets_max.set(chat.limits.settings().sockets.map_or(0, i64::from));
        let porch = Porch::new(chat.limits.clone(), chat.metrics.clone(), edge.clone());
        let loops = engine::cores().div_ceil(parts.max(1));
        let (lines, ready) = engine::prepare(loops)?;
        let gateway = Arc::new(Self {
            chat,
            edge,
            porch,
            seats,
            guard: verifier.map(Guard::new),
            open: AtomicBool::new(false),
            lines,
            sockets: TaskTracker::new(),
            abort: CancellationToken::new(),
            over: CancellationToken::new(),
        });
        for ready in ready {
            tokio::spawn(engine::run(gateway.clone(), ready));
        }
        Ok(gateway)
    }

    /// From now on sockets are taken.
    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// No sockets are taken any more.
    fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// The places for sockets, which whoever deals connections looks at.
    pub fn seats(&self) -> Arc<Seats> {
        self.seats.clone()
    }

    /// Accepts from the listener and from the door until `stop`, and returns once all sockets have
    /// ended.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        mut door: mpsc::Receiver<Accepted>,
        stop: CancellationToken,
    ) {
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
        self.over.cancel();
    }

    fn arrived(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        if let Some((stream, guest)) = self.porch.enter(stream, address) {
            self.take(Coming::Here(stream, address, guest));
        }
    }

    fn take(self: &Arc<Self>, coming: Coming) {
        let gateway = self.clone();
        self.sockets.spawn(async move {
            if let Some(arrival) = gateway.clone().shake_hands(coming).await {
                gateway.seat(arrival).await;
            }
        });
    }

    /// Reads the request and answers it; `None` where no socket came of it. Until then the guest
    /// has its place, also while it is told that it gets none.
    async fn shake_hands(self: Arc<Self>, coming: Coming) -> Option<Arrival> {
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
        let Some(request) = handshake::read(&mut stream, read, peer, gate, until).await else {
            if Instant::now() >= until {
                self.chat.metrics.count_limited(Limit::HeadTime.as_str());
            }
            return None;
        };
        match request {
            Request::Open(hello, behind) if self.is_open() => {
                match self.seat_and_admit(&hello).await {
                    Ok((seat, admitted)) => {
                        handshake::accept(&mut stream, &hello, &self.chat.me.id).await.ok()?;
                        return self.enter(stream, &hello, seat, admitted, behind);
                    }
                    Err(refusal) => self.turn_back(stream, &hello, &refusal).await,
                }
            }
            Request::Open(..) => {
                let refusal = handshake::Refusal::new(503, "this server takes no sockets now");
                handshake::refuse(stream, &refusal.elsewhere()).await;
            }
            Request::Refused(refusal) => self.refuse_head(stream, peer, refusal).await,
            Request::Health => handshake::answer_health(stream, true).await,
            Request::Ready => {
                // Who is full has others sent elsewhere.
                let takes_more = self.is_open() && !self.seats.are_taken();
                handshake::answer_health(stream, takes_more).await;
            }
        }
        None
    }

    /// What is no handshake costs as much as one.
    async fn refuse_head(&self, stream: Stream, peer: Peer, refusal: handshake::Refusal) {
        if refusal.status == 431 {
            self.chat.metrics.count_limited(Limit::HeadBytes.as_str());
        }
        let refusal =
            self.porch.charge(peer.address.ip()).map_or(refusal, handshake::Refusal::over);
        Metrics::count(&self.chat.metrics.refused, refusal.code().as_str());
        handshake::refuse(stream, &refusal).await;
    }

    async fn seat_and_admit(
        self: &Arc<Self>,
        hello: &handshake::Hello,
    ) -> Result<(Seat, Admitted), handshake::Refusal> {
        let knocking = Knocking::of(self, hello)?;
        let seat = Seat::take(self, hello.client)?;
        let admitted = knocking.judged(self.admit(hello).await)?;
        Ok((seat, admitted))
    }

    fn enter(
        self: &Arc<Self>,
        stream: Stream,
        hello: &handshake::Hello,
        seat: Seat,
        admitted: Admitted,
        behind: Bytes,
    ) -> Option<Arrival> {
        let _ = stream.set_nodelay();
        let carrier = Carrier::new(stream).ok()?;
        tracing::debug!(client = %hello.client, user = %admitted.user, "a socket opens");
        let who = Who {
            user: admitted.user,
            device: hello.device.clone(),
            socket: self.chat.hub.next_socket((self.chat.clock)()),
        };
        let bell = self.lines.of(&who.user).bell.clone();
        let outbox = Arc::new(Outbox::on(bell, who));
        if let Some((issued, ends)) = admitted.holds {
            outbox.renew(issued, ends, admitted.acting);
            if let Some(guard) = &self.guard {
                guard.looked_at(&outbox, (self.chat.clock)());
            }
        }
        if admitted.pushes {
            if let Some(oldest) = self.chat.hub.enter(outbox.clone()) {
                self.chat.metrics.count_limited(Limit::SocketsPerUser.as_str());
                oldest.push(Event::Close(CloseCode::TooManySockets));
            }
        } else if !self.chat.hub.enter_beside(outbox.clone()) {
            // Others came at the same moment: next time its token is looked at first.
            drain::send_away(&outbox);
        }
        // A drain that began since the handshake may have looked through the hub before this: it
        // closes the door first and looks then, so that one of the two sees to this socket.
        if !self.is_open() {
            drain::send_away(&outbox);
        }
        let connection = Connection::new(self, hello);
        let entered = Entered::new(seat, outbox);
        let held = self.sockets.token();
        Some(Arrival { carrier, entered, connection, behind, held })
    }

    /// From here on its loop runs the socket.
    async fn seat(&self, arrival: Arrival) {
        self.lines.of(&arrival.entered.outbox().who.user).seat(arrival).await;
    }
}

/// A socket's place in the hub; leaves it whatever ends the socket.
struct Entered {
    seat: Seat,
    outbox: Arc<Outbox>,
}

impl Entered {
    fn new(seat: Seat, outbox: Arc<Outbox>) -> Self {
        seat.chat().metrics.sockets.inc();
        seat.chat().metrics.sockets_opened.inc();
        Self { seat, outbox }
    }

    fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    fn address(&self) -> Option<Address> {
        self.seat.address()
    }

    async fn leave(self, name: &'static str, unstored: Unstored) {
        let chat = self.seat.chat().clone();
        Metrics::count(&chat.metrics.sockets_closed, name);
        chat.end(self.outbox.clone(), unstored).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Who has left in good order takes nothing in any more.
        if !self.outbox.is_closed() {
            // Its loop panicked or was dropped: the map entry is removed by whoever follows it.
            let (chat, outbox) = (self.seat.chat().clone(), self.outbox.clone());
            chat.leave(&outbox);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { chat.release(&outbox).await });
            }
        }
    }
}

#[cfg(test)]
mod tests;
