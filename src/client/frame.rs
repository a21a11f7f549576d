//! What a server writes, as a client reads it.
//!
//! [`Fields`] borrows from the text and is what the load generator uses; [`ServerFrame`] owns what
//! it holds. Types that this version does not know are kept, never an error: servers may be newer.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::FRAME_BYTES_MAX;

/// A frame's fields, whatever its type; one that is absent is empty, 0 or `None`.
#[derive(Debug, Deserialize)]
pub struct Fields<'a> {
    /// The frame's type.
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    /// The id of an entry or a `sent`.
    #[serde(borrow, default)]
    pub id: Cow<'a, str>,
    /// Which conversation.
    #[serde(borrow, default)]
    pub conversation: Cow<'a, str>,
    /// Where in it.
    #[serde(default)]
    pub seq: u64,
    /// Who: `userId` of `delivered`, `read` and `welcome`.
    #[serde(borrow, default, rename = "userId")]
    pub user: Cow<'a, str>,
    /// Sender of an entry or signal (a string), or first seq of `missed` (a number).
    #[serde(borrow, default)]
    pub from: Option<&'a RawValue>,
    /// Recipient of an entry (a string), or last seq of `missed` (a number).
    #[serde(borrow, default)]
    pub to: Option<&'a RawValue>,
    /// The text of a message.
    #[serde(borrow, default)]
    pub message: Cow<'a, str>,
    /// The sender's JSON of an entry or signal.
    #[serde(borrow, default)]
    pub data: Option<&'a RawValue>,
    /// The ref of a send, an error or a pong.
    #[serde(borrow, default, rename = "ref")]
    pub reference: Cow<'a, str>,
    /// The server's clock.
    #[serde(default)]
    pub timestamp: u64,
    /// The code of an error.
    #[serde(borrow, default)]
    pub code: Cow<'a, str>,
    /// The sentence of an error.
    #[serde(borrow, default)]
    pub detail: Cow<'a, str>,
    /// Whether the same send may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// When it may.
    #[serde(default, rename = "retryAfterMs")]
    pub retry_after_ms: Option<u64>,
    /// When to come back, of `reconnect`.
    #[serde(default, rename = "afterMs")]
    pub after_ms: u64,
    /// When the token ends, of `authed`.
    #[serde(default, rename = "expiresAt")]
    pub expires_at: u64,
    /// The socket, of `welcome`.
    #[serde(borrow, default, rename = "socketId")]
    pub socket: Cow<'a, str>,
    /// The server, of `welcome`.
    #[serde(borrow, default)]
    pub server: Cow<'a, str>,
    /// The device, of `welcome`.
    #[serde(borrow, default)]
    pub device: Cow<'a, str>,
    /// How often a silent socket is pinged, of `welcome`.
    #[serde(default, rename = "pingMs")]
    pub ping_ms: u64,
    /// What may be said, of `welcome`.
    #[serde(default)]
    pub limits: Limits,
}

/// What may be said, as far as a client looks at it.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of a frame.
    #[serde(rename = "frameBytes")]
    pub frame_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_bytes: FRAME_BYTES_MAX }
    }
}

impl<'a> Fields<'a> {
    /// Reads one text frame.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The sender of an entry or signal.
    pub fn from_user(&self) -> Option<&'a str> {
        self.from.and_then(plain)
    }
}

/// A JSON string without escapes, as user ids are.
fn plain(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

/// The first frame of every socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Who the server takes us for.
    pub user: String,
    /// This socket.
    pub socket: String,
    /// The server that holds it.
    pub server: String,
    /// Which device it counts as.
    pub device: String,
    /// How often a silent socket is pinged.
    pub ping_ms: u64,
    /// How long a frame may be.
    pub frame_bytes: usize,
}

/// An entry of a conversation's log: a message, or another change.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryFrame {
    /// `message`, `joined`, `left`, or a kind of a later version.
    pub kind: String,
    /// Which conversation.
    pub conversation: String,
    /// Its place there.
    pub seq: u64,
    /// Who did it.
    pub from: String,
    /// The recipient, or the member who joined or left.
    pub to: Option<String>,
    /// The text; empty where the kind has none.
    pub message: String,
    /// The sender's own JSON.
    pub data: Option<Value>,
    /// The ref, on entries of one's own other sockets.
    pub reference: Option<String>,
    /// When it was stored.
    pub timestamp: u64,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum ServerFrame {
    Welcome(Welcome),
    /// The store has it.
    Sent {
        reference: Option<String>,
        conversation: String,
        seq: u64,
        timestamp: u64,
    },
    Entry(EntryFrame),
    /// A device of the user has everything up to seq.
    Delivered {
        conversation: String,
        seq: u64,
        user: String,
    },
    /// The user has seen everything up to seq.
    Read {
        conversation: String,
        seq: u64,
        user: String,
    },
    Signal {
        conversation: String,
        from: String,
        data: Value,
    },
    /// What `catchup=N` left out.
    Missed {
        conversation: String,
        from: u64,
        to: u64,
    },
    CaughtUp,
    Error {
        code: String,
        detail: String,
        reference: Option<String>,
        retryable: bool,
        retry_after_ms: Option<u64>,
    },
    Pong {
        reference: Option<String>,
        timestamp: u64,
    },
    Authed {
        expires_at: u64,
    },
    /// The server goes away: come back after so long.
    Reconnect {
        after_ms: u64,
    },
    /// A type that this version does not know.
    Other(Value),
}

impl ServerFrame {
    /// Reads one text frame; fails only on what is not a JSON object with a `type`.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        match Fields::parse(text) {
            Ok(fields) => Self::from_fields(fields, text),
            // A field of ours with another type: the frame is one that we don't know.
            Err(error) => match serde_json::from_str::<Value>(text) {
                Ok(value) if value["type"].is_string() => Ok(Self::Other(value)),
                _ => Err(error),
            },
        }
    }

    fn from_fields(fields: Fields<'_>, text: &str) -> Result<Self, serde_json::Error> {
        let conversation = fields.conversation.to_string();
        let reference = some(&fields.reference);
        let (seq, timestamp) = (fields.seq, fields.timestamp);
        Ok(match fields.kind.as_ref() {
            "welcome" => Self::Welcome(Welcome {
                user: fields.user.into(),
                socket: fields.socket.into(),
                server: fields.server.into(),
                device: fields.device.into(),
                ping_ms: fields.ping_ms,
                frame_bytes: fields.limits.frame_bytes,
            }),
            "sent" => Self::Sent { reference, conversation, seq, timestamp },
            "delivered" => Self::Delivered { conversation, seq, user: fields.user.into() },
            "read" => Self::Read { conversation, seq, user: fields.user.into() },
            "signal" => Self::Signal {
                conversation,
                from: string(fields.from)?,
                data: fields.data.map_or(Ok(Value::Null), |d| serde_json::from_str(d.get()))?,
            },
            "missed" => {
                Self::Missed { conversation, from: number(fields.from)?, to: number(fields.to)? }
            }
            "caughtup" => Self::CaughtUp,
            "error" => Self::Error {
                code: fields.code.into(),
                detail: fields.detail.into(),
                reference,
                retryable: fields.retryable,
                retry_after_ms: fields.retry_after_ms,
            },
            "pong" => Self::Pong { reference, timestamp },
            "authed" => Self::Authed { expires_at: fields.expires_at },
            "reconnect" => Self::Reconnect { after_ms: fields.after_ms },
            _ if !fields.id.is_empty() && seq > 0 => Self::Entry(entry(&fields)?),
            _ => Self::Other(serde_json::from_str(text)?),
        })
    }
}

fn entry(fields: &Fields<'_>) -> Result<EntryFrame, serde_json::Error> {
    Ok(EntryFrame {
        kind: fields.kind.to_string(),
        conversation: fields.conversation.to_string(),
        seq: fields.seq,
        from: string(fields.from)?,
        to: fields.to.map(|to| serde_json::from_str(to.get())).transpose()?,
        message: fields.message.to_string(),
        data: fields.data.map(|data| serde_json::from_str(data.get())).transpose()?,
        reference: some(&fields.reference),
        timestamp: fields.timestamp,
    })
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn string(raw: Option<&RawValue>) -> Result<String, serde_json::Error> {
    raw.map_or(Ok(String::new()), |raw| serde_json::from_str(raw.get()))
}

fn number(raw: Option<&RawValue>) -> Result<u64, serde_json::Error> {
    raw.map_or(Ok(0), |raw| serde_json::from_str(raw.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ServerFrame {
        ServerFrame::parse(text).unwrap()
    }

    #[test]
    fn the_frames_that_answer_a_send_are_read() {
        let conversation = String::from("dm:userA:userB");
        assert_eq!(
            parse(
                r#"{"type":"sent","ref":"r1","id":"dm:userA:userB/7",
                "conversation":"dm:userA:userB","seq":7,"timestamp":1790000000000}"#
            ),
            ServerFrame::Sent {
                reference: Some("r1".into()),
                conversation: conversation.clone(),
                seq: 7,
                timestamp: 1_790_000_000_000
            }
        );
        let status =
            r#"{"type":"delivered","conversation":"dm:userA:userB","seq":7,"userId":"userB"}"#;
        assert_eq!(
            parse(status),
            ServerFrame::Delivered {
                conversation: conversation.clone(),
                seq: 7,
                user: "userB".into()
            }
        );
        assert_eq!(
            parse(&status.replace("delivered", "read")),
            ServerFrame::Read { conversation, seq: 7, user: "userB".into() }
        );
        assert_eq!(
            parse(
                r#"{"type":"error","code":"unavailable","detail":"d","ref":"r",
                "retryable":true,"retryAfterMs":9}"#
            ),
            ServerFrame::Error {
                code: "unavailable".into(),
                detail: "d".into(),
                reference: Some("r".into()),
                retryable: true,
                retry_after_ms: Some(9)
            }
        );
    }

    #[test]
    fn entries_of_every_kind_are_read() {
        let text = r#"{"type":"message","id":"dm:userA:userB/7","conversation":"dm:userA:userB",
            "seq":7,"from":"userA","to":"userB","message":"Hi \"you\"\n",
            "data":{"a":[1]},"timestamp":17}"#;
        let ServerFrame::Entry(entry) = parse(text) else { panic!("not an entry") };
        assert_eq!((entry.kind.as_str(), entry.seq, entry.from.as_str()), ("message", 7, "userA"));
        assert_eq!((entry.to.as_deref(), entry.message.as_str()), (Some("userB"), "Hi \"you\"\n"));
        assert_eq!(entry.data, Some(serde_json::json!({"a": [1]})));
        let text = r#"{"type":"reaction","id":"room:r/2","conversation":"room:r",
            "seq":2,"from":"userA","timestamp":1}"#;
        let ServerFrame::Entry(entry) = parse(text) else { panic!("not an entry") };
        assert_eq!((entry.kind.as_str(), entry.message.as_str()), ("reaction", ""));
    }

    #[test]
    fn the_frames_of_a_connection_are_read() {
        let welcome = parse(
            r#"{"type":"welcome","userId":"userA","socketId":"00ff","server":"ws1",
            "device":"default","protocol":1,"timestamp":5,"pingMs":25000,
            "limits":{"messageBytes":16384,"frameBytes":12000}}"#,
        );
        let ServerFrame::Welcome(welcome) = welcome else { panic!("not a welcome") };
        assert_eq!((welcome.server.as_str(), welcome.ping_ms), ("ws1", 25_000));
        assert_eq!(welcome.frame_bytes, 12_000);
        assert_eq!(parse(r#"{"type":"caughtup"}"#), ServerFrame::CaughtUp);
        assert_eq!(
            parse(r#"{"type":"missed","conversation":"dm:userA:userB","from":1,"to":5800}"#),
            ServerFrame::Missed { conversation: "dm:userA:userB".into(), from: 1, to: 5800 }
        );
        assert_eq!(
            parse(
                r#"{"type":"signal","conversation":"dm:userA:userB",
                "from":"userA","data":{"typing":true}}"#
            ),
            ServerFrame::Signal {
                conversation: "dm:userA:userB".into(),
                from: "userA".into(),
                data: serde_json::json!({"typing": true})
            }
        );
        assert_eq!(
            parse(r#"{"type":"pong","ref":"r","timestamp":3}"#),
            ServerFrame::Pong { reference: Some("r".into()), timestamp: 3 }
        );
        assert_eq!(
            parse(r#"{"type":"authed","expiresAt":4}"#),
            ServerFrame::Authed { expires_at: 4 }
        );
        assert_eq!(
            parse(r#"{"type":"reconnect","afterMs":1200}"#),
            ServerFrame::Reconnect { after_ms: 1200 }
        );
    }

    #[test]
    fn what_is_unknown_is_kept_and_what_is_not_a_frame_refused() {
        for text in [r#"{"type":"weather","sun":true}"#, r#"{"type":"weather","seq":"high"}"#] {
            assert_eq!(parse(text), ServerFrame::Other(serde_json::from_str(text).unwrap()));
        }
        for text in ["", "[]", "{}", r#"{"type":1}"#, "null"] {
            assert!(ServerFrame::parse(text).is_err(), "{text:?}");
        }
    }
}
