//! Whoever has dialled and has got nothing yet: so many of an address, so many in all.
//!
//! A connection takes a place when it is accepted, before anything is read of it. It gives it back
//! once its socket is open, or when it goes on as plain HTTP, which has places of its own, or when
//! it has ended. Who finds no place is told so where that costs nothing but a write.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpStream;

use super::handshake::{Refusal, refuse};
use crate::edge::{Doorman, Edge, Trusted};
use crate::limits::{Address, Limits, Over, Stay};
use crate::telemetry::Metrics;

/// What is counted for a client; a proxy that says nothing of its clients is many.
pub fn counted(client: IpAddr, trusted: &Trusted) -> Option<Address> {
    Address::of(client).filter(|_| !trusted.holds(client))
}

/// Says so once where an address is over a limit: one that many people come from has to be named,
/// or all of them share what one may have.
pub fn note_crowded(client: IpAddr, over: &Over) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if over.limit.is_of_an_address() && !SAID.swap(true, Ordering::Relaxed) {
        let limit = over.limit.as_str();
        tracing::warn!(
            %client,
            limit,
            "an address is over its limit; if this is a load balancer, name it by --trusted-proxy"
        );
    }
}

/// The places before a listener. All listeners of a process share them.
pub struct Porch {
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    edge: Arc<Edge>,
}

impl Porch {
    /// Before a listener with this edge.
    pub fn new(limits: Arc<Limits>, metrics: Arc<Metrics>, edge: Arc<Edge>) -> Arc<Self> {
        Arc::new(Self { limits, metrics, edge })
    }

    fn counted(&self, client: IpAddr) -> Option<Address> {
        counted(client, &self.edge.gate.trusted)
    }

    fn met(&self, client: IpAddr, over: Over) -> Over {
        self.metrics.count_limited(over.limit.as_str());
        note_crowded(client, &over);
        over
    }

    /// A place for a connection that was accepted just now, which comes back where there is one.
    pub fn enter(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Option<(TcpStream, Guest)> {
        match self.place(address) {
            Ok(guest) => Some((stream, guest)),
            Err(over) => {
                self.tell(stream, address, over);
                None
            }
        }
    }

    /// A place for a client at this address.
    pub(super) fn place(self: &Arc<Self>, address: SocketAddr) -> Result<Guest, Over> {
        let stay = self.limits.half_open.enter(self.counted(address.ip()));
        let stay = stay.map_err(|over| self.met(address.ip(), over))?;
        Ok(Guest { porch: self.clone(), stay })
    }

    /// Counts a head that is refused as a handshake of whoever has dialled; what it is over, if it
    /// is one too many.
    pub fn charge(&self, client: IpAddr) -> Option<Over> {
        let one = self.limits.handshake(self.counted(client));
        one.err().map(|over| self.met(client, over))
    }

    fn tell(&self, stream: TcpStream, address: SocketAddr, over: Over) {
        if self.edge.is_plain(address.ip()) {
            self.turn_away(stream, over);
        }
    }

    /// Tells whoever speaks plain HTTP here that there is no place.
    pub(super) fn turn_away(&self, stream: TcpStream, over: Over) {
        let Some(permit) = self.limits.half_open.tell() else { return };
        // Ends by itself in a few seconds, and there are few of them.
        tokio::spawn(async move {
            refuse(stream.into(), &Refusal::over(over)).await;
            drop(permit);
        });
    }
}

/// A connection on the porch; it has left once this is dropped.
pub struct Guest {
    porch: Arc<Porch>,
    stay: Stay,
}

impl Guest {
    /// A place of those for plain HTTP. Its own it keeps until it is dropped: whoever finds none of
    /// the other kind is one of these while being told.
    pub fn goes_on(&self, client: IpAddr) -> Result<Stay, Over> {
        let porch = &self.porch;
        porch.limits.plain.enter(porch.counted(client)).map_err(|over| porch.met(client, over))
    }
}

impl Doorman for Guest {
    fn names(&mut self, client: IpAddr) -> bool {
        let address = self.porch.counted(client);
        let taken = address.map_or(Ok(()), |address| self.stay.is_of(address));
        taken.map_err(|over| self.porch.met(client, over)).is_ok()
    }

    fn admits(&mut self, client: IpAddr) -> bool {
        let knocked = self.porch.limits.knock(self.porch.counted(client));
        knocked.map_err(|over| self.porch.met(client, over)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Settings;
    use crate::telemetry::Limited;

    fn porch(half_open: u32, plain: u32) -> Arc<Porch> {
        let [half_open, plain] = [half_open, plain].map(Some);
        let half_open_per_address = Some(2);
        let settings = Settings { half_open, plain, half_open_per_address, ..Settings::default() };
        Porch::new(Limits::new(settings), Arc::new(Metrics::new("test")), Edge::open())
    }

    fn at(last: u8) -> SocketAddr {
        ([203, 0, 113, last], 1).into()
    }

    fn met(porch: &Porch, limit: &'static str) -> u64 {
        porch.metrics.limited.get_or_create(&Limited { limit }).get()
    }

    #[test]
    fn whoever_finds_no_place_is_counted_by_what_was_lacking() {
        let limits = ["half_open_per_address", "half_open", "plain_per_address", "plain"];
        let (door, inside) = (porch(8, 64), porch(64, 8));
        let waiting: Vec<_> =
            [1, 1, 1, 2, 2, 3, 3, 4].into_iter().map(|n| door.place(at(n))).collect();
        let guests: Vec<_> = (1..6).map(|n| inside.place(at(n)).unwrap()).collect();
        let asked = [0, 0, 0, 1, 1, 2, 2, 3].into_iter();
        let asked: Vec<_> = asked.map(|n| guests[n].goes_on(at(n as u8 + 1).ip())).collect();
        // The third of an address, and the one beyond three quarters of eight.
        let refused = |ok: Vec<bool>| ok.iter().filter(|ok| !**ok).count();
        assert_eq!(refused(waiting.iter().map(Result::is_ok).collect()), 2);
        assert_eq!(refused(asked.iter().map(Result::is_ok).collect()), 2);
        assert_eq!(limits.map(|limit| met(&door, limit)), [1, 1, 0, 0]);
        assert_eq!(limits.map(|limit| met(&inside, limit)), [0, 0, 1, 1]);
    }
}
