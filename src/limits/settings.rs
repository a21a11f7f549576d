//! What a process allows: every limit that has a number of its own.

use super::Rate;
use crate::protocol::Sizes;

/// What is allowed; `None`: anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Sockets of a server.
    pub sockets: Option<u32>,
    /// Sockets of a user; without a number as many as the protocol has.
    pub sockets_per_user: Option<u16>,
    /// Sockets of an address.
    pub sockets_per_address: Option<u32>,
    /// Connections whose head has not come; without a number 4,096, as of the next.
    pub half_open: Option<u32>,
    /// Connections of plain HTTP.
    pub plain: Option<u32>,
    /// Each of the two, of an address.
    pub half_open_per_address: Option<u32>,
    /// Conversations of a user.
    pub conversations: Option<u32>,
    /// By the second, of an address.
    pub handshakes: Option<Rate>,
    /// By the second, of a user, as are those that follow: sockets that are opened.
    pub user_handshakes: Option<Rate>,
    /// Frames.
    pub frames: Option<Rate>,
    /// Bytes of frames and of request bodies.
    pub bytes: Option<Rate>,
    /// Messages.
    pub messages: Option<Rate>,
    /// Signals.
    pub signals: Option<Rate>,
    /// Requests to the Message API.
    pub requests: Option<Rate>,
    /// By the hour, of a user.
    pub new_conversations: Option<Rate>,
    /// Of what clients write.
    pub sizes: Sizes,
}

impl Settings {
    /// What people and their bots do not notice, and one who floods does.
    pub const USUAL: Self = Self {
        sockets: None,
        sockets_per_user: None,
        sockets_per_address: Some(1_000),
        half_open: None,
        plain: None,
        half_open_per_address: Some(256),
        conversations: Some(10_000),
        handshakes: Some(Rate::new(50, 500)),
        user_handshakes: Some(Rate::new(5, 100)),
        frames: Some(Rate::new(200, 1_000)),
        bytes: Some(Rate::new(256 << 10, 1 << 20)),
        messages: Some(Rate::new(50, 200)),
        signals: Some(Rate::new(20, 100)),
        requests: Some(Rate::new(50, 200)),
        new_conversations: Some(Rate::new(100, 100)),
        sizes: Sizes::MOST,
    };
}
