//! One socket's conversation with Parlor, pure: `(state, input) → outputs`.

use crate::hub::Event;
use crate::protocol::SendFrame;
use crate::protocol::{CloseCode, ConversationId, ProcessId, Receipt, Seq, Target, Text};

/// What the socket's task feeds in.
#[derive(Debug)]
pub enum Input<'a> {
    /// A text frame.
    Frame(&'a str),
    /// A WebSocket pong with its payload.
    Pong(&'a [u8]),
    /// Something from the outbox.
    Event(Event),
    /// Work that was asked for is done.
    Done(super::catchup::Done),
}

/// What the socket's task has to do, in this order: write `frames`, then `ping`, flush once; start
/// `work` if none is under way; hand `effects` to `Chat`; close.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Frames to write.
    pub frames: Vec<Text>,
    /// A WebSocket ping to write behind them.
    pub ping: Option<[u8; 8]>,
    /// One read or write of the store, at most one under way.
    pub work: Option<super::catchup::Work>,
    /// What other parts are to do.
    pub effects: Vec<Effect>,
    /// Close with this code, once all is written.
    pub close: Option<CloseCode>,
}

/// What other parts are to do for a session.
#[derive(Debug)]
pub enum Effect {
    /// Append this; the answer comes as an event.
    Send(SendFrame),
    /// Hand this on, once.
    Signal(Target, std::sync::Arc<serde_json::value::RawValue>),
    /// Tell `via` (or, where unknown, the sender's sockets) that this was received.
    Received {
        /// Which log.
        conversation: ConversationId,
        /// Up to here.
        seq: Seq,
        /// Who waits for it, if the text came live.
        via: Option<ProcessId>,
        /// Delivered, or only `have`.
        receipt: Receipt,
    },
    /// The person has seen up to `seq`: stored already, tell the others.
    Seen(ConversationId, Seq),
    /// Ask for `Event::Flush` once this socket's cursors have rested for 29 s.
    Rest,
}
