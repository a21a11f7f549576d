//! Presence: whether a person has a socket anywhere, and when one was last seen.
//!
//! The socket map is a hint: an entry counts only while its server beats on the board with the same
//! epoch (`liveness`). A map that can't be asked is told as `unavailable`, never as "offline".

use super::{Chat, ChatError};
use crate::protocol::{ErrorCode, Timestamp, UserId};
use crate::store::MailboxPart;

/// What is known of a person's sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub user: UserId,
    /// A living server holds a socket of the person.
    pub online: bool,
    /// When a device of the person was last seen; `None` for who never connected.
    pub last_seen: Option<Timestamp>,
}

impl Chat {
    /// The presence of `user`. Anybody who is somebody may ask.
    pub async fn presence(&self, _caller: &UserId, user: &UserId) -> Result<Presence, ChatError> {
        let located = self.directory.locate(std::slice::from_ref(user)).await;
        let entries = located.map_err(|error| {
            tracing::warn!(%error, "presence asked in vain");
            ChatError::new(ErrorCode::Unavailable, "the socket map does not answer, ask again")
        })?;
        let view = self.liveness.view();
        let lives =
            |entry: &crate::directory::SocketEntry| view.is_alive(&entry.server, entry.epoch);
        let online = entries.iter().flatten().any(lives);
        let devices = self.store.mailbox(user, MailboxPart::Devices).await?.devices;
        let last_seen = devices.iter().map(|device| device.last_seen).max();
        Ok(Presence { user: user.clone(), online, last_seen })
    }
}
