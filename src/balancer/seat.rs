//! A place for a socket that passes through: two open files, for as long as it lasts.
//!
//! Sockets of servers in this process don't, nor do those that were handed over: they are counted
//! where they are held.

use std::net::IpAddr;
use std::sync::Arc;

use super::Balancer;
use crate::gateway::counted;
use crate::limits::{Address, Over};

/// See the module. The place is free again once this is dropped.
pub(super) struct Seat {
    balancer: Arc<Balancer>,
    address: Option<Address>,
}

impl Balancer {
    fn counted(&self, client: IpAddr) -> Option<Address> {
        counted(client, &self.edge.gate.trusted)
    }

    /// Counts a handshake of a client, or a request that is as much work.
    pub(super) fn handshake(&self, client: IpAddr) -> Result<(), Over> {
        let counted = self.limits.handshake(self.counted(client));
        counted.inspect_err(|over| self.metrics.count_limited(over.limit.as_str()))
    }

    /// A place for a client's socket.
    pub(super) fn seat(self: &Arc<Self>, client: IpAddr) -> Result<Seat, Over> {
        let address = self.counted(client);
        let entered = self.limits.enter(&self.seats, address);
        entered.inspect_err(|over| self.metrics.count_limited(over.limit.as_str()))?;
        Ok(Seat { balancer: self.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.balancer.limits.leave(&self.balancer.seats, self.address);
    }
}
