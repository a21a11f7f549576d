//! What processes say to each other over the bus: JSON that a person can read with `SUBSCRIBE`.
//!
//! An envelope is a hint (P10): it may be lost, repeated or late. Whatever it says about the log is
//! checked against positions, and the store decides.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;

use super::PROTOCOL_VERSION;
use super::id::{ConversationId, DeviceId, ProcessId, Ref, SocketId, UserId};
use super::message::{Entry, Kind, Seq, Timestamp};

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
        /// Whose sockets it is for; nobody named: all members of the room on this server.
        users: Vec<UserId>,
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

/// The one shape of all envelopes in JSON. `data` is raw JSON, which serde can't carry through
/// tagged or flattened types; so the fields of all kinds stand here side by side, those that a
/// person looks for first.
#[derive(Default, Serialize, Deserialize)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<UserId>,
    #[serde(rename = "type")]
    kind_of: Cow<'static, str>,
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

impl From<&Envelope> for Wire {
    fn from(envelope: &Envelope) -> Self {
        let wire = |kind_of: &'static str| Self {
            kind_of: Cow::Borrowed(kind_of),
            v: PROTOCOL_VERSION,
            ..Self::default()
        };
        match envelope.clone() {
            Envelope::Entry { conversation, entry, users, roster, via, again } => Self {
                conversation: Some(conversation),
                seq: Some(entry.seq),
                kind: Some(entry.kind.clone()),
                from: Some(entry.from.clone()),
                to: entry.to.clone(),
                message: entry.message.clone(),
                data: entry.data.clone(),
                reference: entry.reference.clone(),
                device: Some(entry.device.clone()),
                timestamp: Some(entry.timestamp),
                n: Some(entry.n),
                users,
                roster,
                via: Some(via),
                again,
                ..wire("entry")
            },
            Envelope::Hint { conversation, seq, users, via } => Self {
                conversation: Some(conversation),
                seq: Some(seq),
                users,
                via,
                ..wire("hint")
            },
            Envelope::Receipt { conversation, seq, user, device, receipt, server } => Self {
                conversation: Some(conversation),
                seq: Some(seq),
                user,
                device,
                receipt: Some(receipt),
                server: Some(server),
                ..wire("receipt")
            },
            Envelope::Status { conversation, seq, by, read, users } => Self {
                conversation: Some(conversation),
                seq: Some(seq),
                by: Some(by),
                read,
                users,
                ..wire("status")
            },
            Envelope::Signal { conversation, from, data, users } => Self {
                conversation: Some(conversation),
                from: Some(from),
                data: Some(data),
                users,
                ..wire("signal")
            },
            Envelope::End { user, socket } => {
                Self { user: Some(user), socket: Some(socket), ..wire("end") }
            }
            Envelope::Revoked { user, until } => {
                Self { user: Some(user), timestamp: Some(until), ..wire("revoked") }
            }
            Envelope::Probe { number } => Self { number: Some(number), ..wire("probe") },
        }
    }
}

impl Wire {
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
            },
            "end" => Envelope::End { user: self.user?, socket: self.socket? },
            "revoked" => Envelope::Revoked { user: self.user?, until: self.timestamp? },
            "probe" => Envelope::Probe { number: self.number? },
            _ => return None,
        })
    }
}

impl Serialize for Envelope {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Wire::from(self).serialize(s)
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(d)?;
        if wire.v != PROTOCOL_VERSION {
            return Err(serde::de::Error::custom("an envelope of another version"));
        }
        let unknown = || serde::de::Error::custom("an unknown or incomplete envelope");
        wire.into_envelope().ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_person_can_read_an_entry_on_the_channel() {
        let user = |name| UserId::parse(name).unwrap();
        let data: Arc<RawValue> = Arc::from(RawValue::from_string("{\"b\": 1.50}".into()).unwrap());
        let envelope = Envelope::Entry {
            conversation: ConversationId::direct(&user("userA"), &user("userB")),
            entry: Arc::new(Entry {
                seq: 7,
                kind: Kind::Message,
                from: user("userA"),
                to: Some(user("userB")),
                message: Some("Hi".into()),
                data: Some(data),
                reference: Ref::parse("r1").ok(),
                device: DeviceId::plain(),
                timestamp: 5,
                n: 7,
            }),
            users: vec![user("userB")],
            roster: None,
            via: ProcessId::parse("ws1").unwrap(),
            again: false,
        };
        let text = serde_json::to_string(&envelope).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["to"], json!("userB"));
        assert_eq!(value["message"], json!("Hi"));
        assert_eq!(value["from"], json!("userA"));
        assert!(text.contains("{\"b\": 1.50}"), "data stays byte for byte");
        let back: Envelope = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }

    #[test]
    fn every_kind_comes_back_and_strangers_are_refused() {
        let conversation = ConversationId::parse("room:x").unwrap();
        let user = UserId::parse("a").unwrap();
        let server = ProcessId::parse("ws1").unwrap();
        let all = [
            Envelope::Hint {
                conversation: conversation.clone(),
                seq: 1,
                users: vec![],
                via: Some(server.clone()),
            },
            Envelope::Receipt {
                conversation: conversation.clone(),
                seq: 1,
                user: Some(user.clone()),
                device: Some(DeviceId::plain()),
                receipt: Receipt::Have,
                server,
            },
            Envelope::Status {
                conversation,
                seq: 1,
                by: user.clone(),
                read: true,
                users: vec![user.clone()],
            },
            Envelope::End { user: user.clone(), socket: SocketId(7) },
            Envelope::Revoked { user, until: 5 },
            Envelope::Probe { number: 3 },
        ];
        for envelope in all {
            let text = serde_json::to_string(&envelope).unwrap();
            let back: Envelope = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&back).unwrap(), text);
        }
        for stranger in [
            r#"{"type":"new","v":1}"#,
            r#"{"type":"probe","number":1,"v":2}"#,
            r#"{"type":"entry","v":1,"seq":1}"#,
            "{}",
            "[]",
        ] {
            assert!(serde_json::from_str::<Envelope>(stranger).is_err(), "{stranger}");
        }
    }
}
