//! A place for a socket: taken before its token is looked at, given back when it has ended. And how
//! often somebody may ask for one.

use std::net::IpAddr;
use std::sync::Arc;

use super::Gateway;
use super::admission::Admitted;
use super::handshake::{Hello, Refusal};
use super::porch::{counted, note_crowded};
use crate::chat::Chat;
use crate::limits::{Address, Limit, Over};

fn refuse(chat: &Chat, client: IpAddr, over: Over) -> Refusal {
    chat.metrics.count_limited(over.limit.as_str());
    note_crowded(client, &over);
    Refusal::over(over)
}

/// Somebody who asks for a socket, and has been counted.
pub(super) struct Knocking<'a> {
    chat: &'a Chat,
    client: IpAddr,
    address: Option<Address>,
    /// Its address has asked too often: it comes in only by a token that holds.
    over: Option<Over>,
}

impl<'a> Knocking<'a> {
    /// Counts a handshake. Where its address is over the rate its token is looked at all the same,
    /// up to four times as often: whoever shares an address with one who floods it comes in.
    pub fn of(gateway: &'a Gateway, hello: &Hello) -> Result<Self, Refusal> {
        let (chat, address) = (&*gateway.chat, counted(hello.client, &gateway.edge.gate.trusted));
        let over = chat.limits.handshake(address).err();
        if let Some(over) = over {
            let shows_token = gateway.guard.is_some() && matches!(hello.token, Ok(Some(_)));
            if !shows_token || chat.limits.look(address).is_err() {
                return Err(refuse(chat, hello.client, over));
            }
        }
        Ok(Self { chat, client: hello.client, address, over })
    }

    /// What comes of it once its token has been looked at: the user is counted as well.
    pub fn judged(self, admitted: Result<Admitted, Refusal>) -> Result<Admitted, Refusal> {
        match (admitted, self.over) {
            (Ok(admitted), _) => {
                let one = self.chat.limits.take_one(Limit::HandshakesPerUser, &admitted.user);
                one.map(|()| admitted).map_err(|over| refuse(self.chat, self.client, over))
            }
            (Err(refusal), Some(over)) if refusal.status == 401 => {
                // Told as one handshake too many, whichever of the two it is.
                let _ = self.chat.limits.failed(self.address);
                Err(refuse(self.chat, self.client, over))
            }
            (Err(refusal), _) => Err(refusal),
        }
    }
}

/// A place. It is free again once this is dropped.
pub(super) struct Seat {
    gateway: Arc<Gateway>,
    address: Option<Address>,
}

impl Seat {
    /// Takes a place for a client at this address, if there is room for it.
    pub fn take(gateway: &Arc<Gateway>, client: IpAddr) -> Result<Self, Refusal> {
        let address = counted(client, &gateway.edge.gate.trusted);
        let chat = &gateway.chat;
        let entered = chat.limits.enter(&gateway.seats, address);
        entered.map_err(|over| refuse(chat, client, over))?;
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
