//! What a session wants: of its socket, and of other parts.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::chat::catchup::Work;
use crate::protocol::{
    CloseCode, ConversationId, ErrorCode, ProcessId, Receipt, Ref, SendFrame, Seq, Target, Text,
    Token,
};

/// What the socket's task has to do: hand `effects` on, start `work`, write `frames`, then `ping`,
/// flush once, then close.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Frames to write.
    pub frames: Vec<Text>,
    /// A WebSocket ping to write behind them.
    pub ping: Option<[u8; 8]>,
    /// A read or write of the store; at most one is under way.
    pub work: Option<Work>,
    /// What other parts are to do.
    pub effects: Vec<Effect>,
    /// Close with this code, once all is written.
    pub close: Option<CloseCode>,
}

impl Outputs {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let quiet = self.frames.is_empty() && self.effects.is_empty();
        quiet && self.ping.is_none() && self.work.is_none() && self.close.is_none()
    }
}

/// What other parts are to do for a session.
#[derive(Debug)]
pub enum Effect {
    /// Append this; the answer comes as an event.
    Send(SendFrame),
    /// Hand this on, once.
    Signal {
        /// Whom it is for.
        target: Target,
        /// What it says.
        data: Arc<RawValue>,
        /// For an error.
        reference: Option<Ref>,
    },
    /// Tell `via` (or, where nobody waits, the sender's sockets) how far this was received.
    Received {
        /// Which log.
        conversation: ConversationId,
        /// Up to here.
        seq: Seq,
        /// Who waits for it.
        via: Option<ProcessId>,
        /// Delivered, or only `have`.
        receipt: Receipt,
    },
    /// The person has seen up to `seq`: it is stored, tell the others.
    Seen(ConversationId, Seq),
    /// The own row says `last` ≥ this now, an own send: the person's other sockets look for it.
    Raised(ConversationId, Seq),
    /// A frame was refused: count it.
    Refused(ErrorCode),
    /// Something of it was over this bound: count that as well.
    Limited(&'static str),
    /// Ask for `Event::Flush` then: some cursor will have rested.
    Rest(Instant),
    /// Check this token, and go on with it; the answer comes as an event.
    Renew {
        /// The token.
        token: Token,
        /// For an error.
        reference: Option<Ref>,
    },
}
