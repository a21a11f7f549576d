//! What processes say to each other over the bus: JSON that a person can read with `SUBSCRIBE`.
//!
//! An envelope is a hint (P10): it may be lost, repeated or late. Whatever it says about the log is
//! checked against positions, and the store decides.

mod writer;

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::PROTOCOL_VERSION;
use super::id::{ConversationId, DeviceId, ProcessId, Ref, SocketId, UserId};
use super::message::{Entry, Kind, Seq, Timestamp};
use super::word::read_text;

/// How far one person has an entry, as a server tells the server that handed it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
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
///
/// In JSON each carries `type` and `v`; the fields of an entry stand beside them, so that a person
/// who subscribes to a channel sees `to`, `message` and `from` at a glance.
#[derive(Debug, Clone)]
pub enum Envelope {
    /// An entry was stored: hand it to these people's sockets.
    Entry {
        /// The log that it stands in.
        conversation: ConversationId,
        /// The entry, with the body, so that the common case reads nothing.
        entry: Arc<Entry>,
        /// Whose sockets it is for; nobody named: all members of the room on this server.
        users: Vec<UserId>,
        /// For a large room: the seq of the newest joined or left entry that its audience follows.
        roster: Option<Seq>,
        /// The process that waits for the receipt.
        via: ProcessId,
        /// A try after the first: the server answers `have` when it has no receipt yet.
        again: bool,
    },
    /// Something up to `seq` was stored; its text is to be read from the store.
    Hint {
        /// The log.
        conversation: ConversationId,
        /// The highest seq known.
        seq: Seq,
        /// Whose sockets it is for; nobody named: all members of the room on this server.
        users: Vec<UserId>,
        /// The process that waits for the receipt, if any does.
        via: Option<ProcessId>,
    },
    /// The answer to `Entry` and `Hint`.
    Receipt {
        /// The log.
        conversation: ConversationId,
        /// Everything up to here.
        seq: Seq,
        /// Whose; absent where a server answers for all its members of a room.
        user: Option<UserId>,
        /// The device that received it, for the cursor that rides on the next raise.
        device: Option<DeviceId>,
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
        /// Whose sockets it is for.
        users: Vec<UserId>,
        /// For a large room, which names nobody: as with an entry.
        roster: Option<Seq>,
    },
    /// A person has too many sockets, and this is the oldest: close it with 4001.
    End {
        /// Whose.
        user: UserId,
        /// Which.
        socket: SocketId,
    },
    /// Tokens of a person made up to this moment are dead, as the store will tell.
    Revoked {
        /// Whose.
        user: UserId,
        /// Up to here.
        until: Timestamp,
    },
    /// A message to oneself, to see that the subscription delivers.
    Probe {
        /// Which probe.
        number: u64,
    },
}

/// The one shape of all envelopes in JSON, as it is read; `writer` writes it. `data` is raw JSON,
/// which serde can't carry through tagged or flattened types; so the fields of all kinds stand here
/// side by side, those that a person looks for first.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Wire<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "shared_text")]
    message: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<UserId>,
    #[serde(rename = "type", borrow)]
    kind_of: Cow<'a, str>,
    #[serde(default)]
    v: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    conversation: Option<ConversationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Arc<RawValue>>,
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    users: Vec<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    roster: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<ProcessId>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    again: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<ProcessId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<UserId>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    read: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    socket: Option<SocketId>,
}

/// A text that is copied once, to where it stays.
fn shared_text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Arc<str>>, D::Error> {
    struct Shared(Arc<str>);
    impl<'de> Deserialize<'de> for Shared {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            read_text(d, |text| Ok::<_, Infallible>(Self(text.into())))
        }
    }
    Ok(Option::<Shared>::deserialize(d)?.map(|shared| shared.0))
}

impl Wire<'_> {
    fn into_envelope(self) -> Option<Envelope> {
        Some(match &*self.kind_of {
            "entry" => Envelope::Entry {
                conversation: self.conversation?,
                entry: Arc::new(Entry {
                    seq: self.seq?,
                    kind: self.kind?,
                    from: self.from?,
                    to: self.to,
                    message: self.message,
                    data: self.data,
                    reference: self.reference,
                    device: self.device?,
                    timestamp: self.timestamp?,
                    n: self.n?,
                }),
                users: self.users,
                roster: self.roster,
                via: self.via?,
                again: self.again,
            },
            "hint" => Envelope::Hint {
                conversation: self.conversation?,
                seq: self.seq?,
                users: self.users,
                via: self.via,
            },
            "receipt" => Envelope::Receipt {
                conversation: self.conversation?,
                seq: self.seq?,
                user: self.user,
                device: self.device,
                receipt: self.receipt?,
                server: self.server?,
            },
            "status" => Envelope::Status {
                conversation: self.conversation?,
                seq: self.seq?,
                by: self.by?,
                read: self.read,
                users: self.users,
            },
            "signal" => Envelope::Signal {
                conversation: self.conversation?,
                from: self.from?,
                data: self.data?,
                users: self.users,
                roster: self.roster,
            },
            "end" => Envelope::End { user: self.user?, socket: self.socket? },
            "revoked" => Envelope::Revoked { user: self.user?, until: self.timestamp? },
            "probe" => Envelope::Probe { number: self.number? },
            _ => return None,
        })
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(d)?;
        if wire.v != PROTOCOL_VERSION {
            return Err(serde::de::Error::custom("an envelope of another version"));
        }
        let unknown = || serde::de::Error::custom("an unknown or incomplete envelope");
        wire.into_envelope().ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests;
