//! What processes say to each other over the bus: JSON that a person can read with `SUBSCRIBE`.
//!
//! An envelope is a hint (P10): it may be lost, repeated or late. Whatever it says about the log is
//! checked against positions, and the store decides.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

use super::id::{ConversationId, ProcessId, UserId};
use super::message::{Entry, Seq};

/// How far one person has an entry, as a server tells the server that handed it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Receipt {
    /// A device of the person has received everything up to seq.
    Delivered,
    /// The server has it and will see to it; no device has answered yet.
    Have,
    /// The server holds no socket of the person.
    Gone,
}

/// One thing that a process tells another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Envelope {
    /// An entry was stored: hand it to these people's sockets.
    Entry {
        /// The log that it stands in.
        conversation: ConversationId,
        /// The entry, with the body, so that the common case reads nothing.
        #[serde(flatten)]
        entry: Arc<Entry>,
        /// Whose sockets it is for; nobody named: all members of the room on this server.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        users: Vec<UserId>,
        /// For a large room: the seq of the newest joined or left entry that its audience follows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        roster: Option<Seq>,
        /// The process that waits for the receipt.
        via: ProcessId,
        /// A try after the first: the server answers `have` when it has no receipt yet.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// Something up to `seq` was stored; its text is to be read from the store.
    Hint {
        /// The log.
        conversation: ConversationId,
        /// The highest seq known.
        seq: Seq,
        /// Whose sockets it is for; nobody named: all members of the room on this server.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        users: Vec<UserId>,
        /// The process that waits for the receipt, if any does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        via: Option<ProcessId>,
    },
    /// The answer to `Entry` and `Hint`.
    Receipt {
        /// The log.
        conversation: ConversationId,
        /// Everything up to here.
        seq: Seq,
        /// Whose; absent where a server answers for all its members of a room.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// The device that received it, for the cursor that rides on the next raise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<super::id::DeviceId>,
        /// How far.
        receipt: Receipt,
        /// The server that answers.
        server: ProcessId,
    },
    /// A status frame for these people's sockets: `by` has received or seen up to `seq`.
    Status {
        /// The log.
        conversation: ConversationId,
        /// Everything up to here.
        seq: Seq,
        /// Who has received or seen it.
        by: UserId,
        /// Seen, not only received.
        read: bool,
        /// Whose sockets are to be told.
        users: Vec<UserId>,
    },
    /// A signal for these people's sockets. Never stored, at most once.
    Signal {
        /// The conversation that it belongs to.
        conversation: ConversationId,
        /// Who sends it.
        from: UserId,
        /// What it says.
        data: Arc<RawValue>,
        /// Whose sockets it is for; nobody named: all members of the room on this server.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        users: Vec<UserId>,
    },
    /// A message to oneself, to see that the subscription delivers.
    Probe {
        /// Which probe.
        number: u64,
    },
}
