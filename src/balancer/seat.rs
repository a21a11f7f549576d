//! A place for a socket that passes through: two open files, for as long as it lasts.
//!
//! Sockets of servers in this process don't, nor do those that were handed over: they are counted
//! where they are held.

use std::net::IpAddr;
use std::sync::Arc;

use super::Balancer;
use crate::gateway::{counted, note_crowded};
use crate::limits::{Address, Over};
use crate::protocol::Token;

/// See the module. The place is free again once this is dropped.
pub(super) struct Seat {
    balancer: Arc<Balancer>,
    address: Option<Address>,
}

impl Balancer {
    fn counted(&self, client: IpAddr) -> Option<Address> {
        counted(client, &self.edge.gate.trusted)
    }

    /// Counts a handshake of a client, or a request that is as much work. Beyond the rate of its
    /// address one with a token that holds goes on, as at a server.
    pub(super) async fn handshake(
        &self,
        client: IpAddr,
        token: Option<&Token>,
    ) -> Result<(), Over> {
        let address = self.counted(client);
        let Err(over) = self.limits.handshake(address) else { return Ok(()) };
        if let (Some(auth), Some(token)) = (&self.auth, token)
            && self.limits.look(address).is_ok()
        {
            match auth.verify(token).await {
                Ok(_) => return Ok(()),
                // Told as one handshake too many, whichever of the two it is.
                Err(refusal) if refusal.counts() => _ = self.limits.failed(address),
                Err(_) => {}
            }
        }
        Err(self.met(client, over))
    }

    /// Whether no more sockets pass through here: whoever deals to balancers is to deal elsewhere.
    pub(super) fn is_full(&self) -> bool {
        self.passes_on && self.seats.are_taken()
    }

    fn met(&self, client: IpAddr, over: Over) -> Over {
        self.metrics.count_limited(over.limit.as_str());
        note_crowded(client, &over);
        over
    }

    /// A place for a client's socket.
    pub(super) fn seat(self: &Arc<Self>, client: IpAddr) -> Result<Seat, Over> {
        let address = self.counted(client);
        let entered = self.limits.enter(&self.seats, address);
        entered.map_err(|over| self.met(client, over))?;
        self.metrics.sockets.inc();
        Ok(Seat { balancer: self.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.balancer.metrics.sockets.dec();
        self.balancer.limits.leave(&self.balancer.seats, self.address);
    }
}
