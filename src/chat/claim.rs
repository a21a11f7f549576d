//! The own entries of the socket map: claimed, swept, released.

use std::sync::Arc;

use super::Chat;
use crate::hub::Outbox;

/// The claims of this server's sockets.
#[derive(Debug, Default)]
pub struct Claims {}

impl Chat {
    /// Claims the map entry of a socket, once. A claim that fails is repeated in the background
    /// until it holds; the socket then gets `Event::Reread`.
    pub async fn claim(self: &Arc<Self>, _outbox: &Arc<Outbox>) {
        unimplemented!()
    }

    /// Releases the socket's claim, if it still stands.
    pub async fn release(self: &Arc<Self>, _outbox: &Arc<Outbox>) {
        unimplemented!()
    }
}
