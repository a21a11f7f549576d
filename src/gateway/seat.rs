//! A place for a socket: taken before its token is looked at, given back when it has ended.

use std::net::IpAddr;
use std::sync::Arc;

use super::Gateway;
use super::handshake::Refusal;
use super::porch::counted;
use crate::chat::Chat;
use crate::limits::{Address, Over};

/// See the module. The place is free again once this is dropped.
pub(super) struct Seat {
    gateway: Arc<Gateway>,
    address: Option<Address>,
}

impl Seat {
    /// Takes a place for a client at this address, if there is room for it.
    pub fn take(gateway: &Arc<Gateway>, client: IpAddr) -> Result<Self, Refusal> {
        let address = counted(client, &gateway.edge.gate.trusted);
        let chat = &gateway.chat;
        let refuse = |over: Over| {
            chat.metrics.count_limited(over.limit.as_str());
            Refusal::over(over)
        };
        chat.limits.handshake(address).map_err(refuse)?;
        chat.limits.enter(&gateway.seats, address).map_err(refuse)?;
        Ok(Self { gateway: gateway.clone(), address })
    }

    /// For whom it counts.
    pub fn address(&self) -> Option<Address> {
        self.address
    }

    /// Of whose server the place is.
    pub fn chat(&self) -> &Arc<Chat> {
        &self.gateway.chat
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gateway.chat.limits.leave(&self.gateway.seats, self.address);
    }
}
