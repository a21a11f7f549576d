//! An entry of a conversation's log: a message, or another change of the conversation.

use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::id::{DeviceId, Ref, UserId};
use super::word::read_text;

/// A position in a conversation: dense from 1 (P4). 0 is "before the first".
pub type Seq = u64;

/// Milliseconds since the Unix epoch, as the storing server's clock said; order is by seq, never by
/// this.
pub type Timestamp = u64;

/// What an entry does to its conversation. Clients skip kinds that they don't know, and so does
/// Parlor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Something that somebody said.
    Message,
    /// `to` became a member of the room.
    Joined,
    /// `to` is a member no longer.
    Left,
    /// A kind of a later version, kept as it is.
    Other(Arc<str>),
}

impl Kind {
    /// The name on the wire and in the store.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Message => "message",
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Other(name) => name,
        }
    }

    /// Reads a name; unknown ones are kept.
    pub fn from_name(name: &str) -> Self {
        match name {
            "message" => Self::Message,
            "joined" => Self::Joined,
            "left" => Self::Left,
            other => Self::Other(other.into()),
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        read_text(d, |name| Ok::<_, Infallible>(Self::from_name(name)))
    }
}

/// One entry, as it is stored, carried on the bus and shown. The conversation is its key and stands
/// beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the conversation.
    pub seq: Seq,
    /// What it does.
    pub kind: Kind,
    /// Who did it: always the server's own knowledge, never what a client wrote.
    pub from: UserId,
    /// The recipient of a direct message, the member who joined or left; nobody for a room's
    /// message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<UserId>,
    /// The text; absent where the kind has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Arc<str>>,
    /// The sender's own JSON beside the text, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Arc<RawValue>>,
    /// The ref of the send. One that the server made is stored and not shown.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<Ref>,
    /// The device that it was sent from.
    pub device: DeviceId,
    /// When it was stored.
    pub timestamp: Timestamp,
    /// How many messages the log holds up to and with this entry; unread counts are differences of
    /// it.
    pub n: u64,
}

impl Entry {
    /// The ref to show, if a client gave one.
    pub fn shown_ref(&self) -> Option<&Ref> {
        self.reference.as_ref().filter(|r| r.is_clients())
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let data = |e: &Self| e.data.as_ref().map(|d| d.get().to_owned());
        self.seq == other.seq
            && self.kind == other.kind
            && self.from == other.from
            && self.to == other.to
            && self.message == other.message
            && data(self) == data(other)
            && self.reference == other.reference
            && self.device == other.device
            && self.timestamp == other.timestamp
            && self.n == other.n
    }
}
