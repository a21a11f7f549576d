//! The JSON of an envelope, written behind what stands in a buffer: no copy of it is made first.
//!
//! What a person who subscribes looks for stands first: `to`, `message`, `from`. A property test
//! holds this against `serde_json`.

use super::{Envelope, Receipt};
use crate::protocol::PROTOCOL_VERSION;
use crate::protocol::id::UserId;
use crate::protocol::message::Entry;

/// The fields of one JSON object.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn key(&mut self, key: &str) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// A string that may need escapes.
    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        // Writing to a Vec can't fail, and a str is always JSON.
        let _ = serde_json::to_writer(&mut *self.0, value);
    }

    fn quoted(&mut self, value: &str) {
        self.0.push(b'"');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'"');
    }

    /// A name of ours, whose alphabet holds nothing that needs an escape.
    fn name(&mut self, key: &str, value: &str) {
        self.key(key);
        self.quoted(value);
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        // As above, it can't fail.
        let _ = serde_json::to_writer(&mut *self.0, &value);
    }

    fn raw(&mut self, key: &str, json: &str) {
        self.key(key);
        self.0.extend_from_slice(json.as_bytes());
    }

    /// Left out where it is not so.
    fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.raw(key, "true");
        }
    }

    /// Left out where there are none.
    fn users(&mut self, users: &[UserId]) {
        for (number, user) in users.iter().enumerate() {
            match number {
                0 => self.raw("users", "["),
                _ => self.0.push(b','),
            }
            self.quoted(user.as_str());
        }
        if !users.is_empty() {
            self.0.push(b']');
        }
    }

    fn kind(&mut self, kind: &str) {
        self.name("type", kind);
        self.number("v", u64::from(PROTOCOL_VERSION));
    }

    /// What a person looks for.
    fn head(&mut self, entry: &Entry) {
        if let Some(to) = &entry.to {
            self.name("to", to.as_str());
        }
        if let Some(message) = &entry.message {
            self.text("message", message);
        }
        self.name("from", entry.from.as_str());
    }

    fn rest(&mut self, entry: &Entry) {
        self.number("seq", entry.seq);
        self.text("kind", entry.kind.as_str());
        if let Some(data) = &entry.data {
            self.raw("data", data.get());
        }
        if let Some(reference) = &entry.reference {
            self.name("ref", reference.as_str());
        }
        self.name("device", entry.device.as_str());
        self.number("timestamp", entry.timestamp);
        self.number("n", entry.n);
    }
}

impl Receipt {
    fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Have => "have",
            Self::Gone => "gone",
        }
    }
}

impl Envelope {
    /// Writes it behind what stands there.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_fields(&mut Fields(out));
        out.push(b'}');
    }

    fn write_fields(&self, fields: &mut Fields<'_>) {
        match self {
            Self::Entry { conversation, entry, users, roster, via, again } => {
                fields.head(entry);
                fields.kind("entry");
                fields.name("conversation", conversation.as_str());
                fields.rest(entry);
                fields.users(users);
                if let Some(roster) = roster {
                    fields.number("roster", *roster);
                }
                fields.name("via", via.as_str());
                fields.flag("again", *again);
            }
            Self::Hint { conversation, seq, users, via } => {
                fields.kind("hint");
                fields.name("conversation", conversation.as_str());
                fields.number("seq", *seq);
                fields.users(users);
                if let Some(via) = via {
                    fields.name("via", via.as_str());
                }
            }
            Self::Receipt { conversation, seq, user, device, receipt, server } => {
                fields.kind("receipt");
                fields.name("conversation", conversation.as_str());
                fields.number("seq", *seq);
                if let Some(device) = device {
                    fields.name("device", device.as_str());
                }
                if let Some(user) = user {
                    fields.name("user", user.as_str());
                }
                fields.name("receipt", receipt.name());
                fields.name("server", server.as_str());
            }
            Self::Status { conversation, seq, by, read, users } => {
                fields.kind("status");
                fields.name("conversation", conversation.as_str());
                fields.number("seq", *seq);
                fields.users(users);
                fields.name("by", by.as_str());
                fields.flag("read", *read);
            }
            Self::Signal { conversation, from, data, users, roster } => {
                fields.name("from", from.as_str());
                fields.kind("signal");
                fields.name("conversation", conversation.as_str());
                fields.raw("data", data.get());
                fields.users(users);
                if let Some(roster) = roster {
                    fields.number("roster", *roster);
                }
            }
            Self::End { user, socket } => {
                fields.kind("end");
                fields.name("user", user.as_str());
                fields.name("socket", &socket.to_string());
            }
            Self::Revoked { user, until } => {
                fields.kind("revoked");
                fields.number("timestamp", *until);
                fields.name("user", user.as_str());
            }
            Self::Probe { number } => {
                fields.kind("probe");
                fields.number("number", *number);
            }
        }
    }
}
