//! What the server writes: compact JSON, `type` first, each frame encoded once however many sockets
//! it goes to.
//!
//! The writers are by hand, since a frame is a handful of known fields; a property test holds them
//! against `serde_json`.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::code::ErrorCode;
use super::id::{ConversationId, DeviceId, ProcessId, Ref, SocketId, UserId};
use super::message::{Entry, Seq, Timestamp};
use super::sizes::Sizes;
use super::{PING_INTERVAL_MS, PROTOCOL_VERSION, limits_json};

/// A frame as it leaves: UTF-8 JSON, shared by all sockets that it goes to.
pub type Text = Bytes;

/// When to come back, where nothing better is known.
pub const RETRY_MS: u64 = 1_000;

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: &str) -> Self {
        let mut bytes = Vec::with_capacity(192);
        bytes.extend_from_slice(b"{\"type\":\"");
        bytes.extend_from_slice(kind.as_bytes());
        bytes.push(b'"');
        Self(bytes)
    }

    fn key(mut self, key: &str) -> Self {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
        self
    }

    /// A string that may need escapes.
    fn text(self, key: &str, value: &str) -> Self {
        let mut writer = self.key(key);
        // Writing to a Vec can't fail, and a str is always JSON.
        let _ = serde_json::to_writer(&mut writer.0, value);
        writer
    }

    /// A name of ours, whose alphabet holds nothing that needs an escape.
    fn name(self, key: &str, value: &str) -> Self {
        let mut writer = self.key(key);
        writer.0.push(b'"');
        writer.0.extend_from_slice(value.as_bytes());
        writer.0.push(b'"');
        writer
    }

    /// See [`message_id`].
    fn id(self, conversation: &ConversationId, seq: Seq) -> Self {
        let mut writer = self.key("id");
        writer.0.push(b'"');
        writer.0.extend_from_slice(conversation.as_str().as_bytes());
        writer.0.push(b'/');
        let _ = serde_json::to_writer(&mut writer.0, &seq);
        writer.0.push(b'"');
        writer
    }

    fn number(self, key: &str, value: u64) -> Self {
        let mut writer = self.key(key);
        // As above, it can't fail.
        let _ = serde_json::to_writer(&mut writer.0, &value);
        writer
    }

    fn raw(self, key: &str, json: &str) -> Self {
        let mut writer = self.key(key);
        writer.0.extend_from_slice(json.as_bytes());
        writer
    }

    fn reference(self, reference: Option<&Ref>) -> Self {
        match reference {
            Some(reference) => self.name("ref", reference.as_str()),
            None => self,
        }
    }

    fn end(mut self) -> Text {
        self.0.push(b'}');
        Bytes::from(self.0)
    }
}

/// The first frame of every socket.
pub fn welcome(
    user: &UserId,
    socket: SocketId,
    server: &ProcessId,
    device: &DeviceId,
    now: Timestamp,
    sockets_per_user: u16,
    sizes: &Sizes,
) -> Text {
    Writer::new("welcome")
        .name("userId", user.as_str())
        .text("socketId", &socket.to_string())
        .name("server", server.as_str())
        .name("device", device.as_str())
        .number("protocol", u64::from(PROTOCOL_VERSION))
        .number("timestamp", now)
        .number("pingMs", PING_INTERVAL_MS)
        .raw("limits", &limits_json(sockets_per_user, sizes))
        .end()
}

/// The store has it (P1).
pub fn sent(
    reference: Option<&Ref>,
    conversation: &ConversationId,
    seq: Seq,
    at: Timestamp,
) -> Text {
    Writer::new("sent")
        .reference(reference)
        .id(conversation, seq)
        .name("conversation", conversation.as_str())
        .number("seq", seq)
        .number("timestamp", at)
        .end()
}

/// An entry of the log. `with_ref` for the sender's own other sockets.
pub fn entry(conversation: &ConversationId, entry: &Entry, with_ref: bool) -> Text {
    let mut writer = Writer::new(entry.kind.as_str())
        .id(conversation, entry.seq)
        .name("conversation", conversation.as_str())
        .number("seq", entry.seq)
        .name("from", entry.from.as_str());
    if let Some(to) = &entry.to {
        writer = writer.name("to", to.as_str());
    }
    if let Some(message) = &entry.message {
        writer = writer.text("message", message);
    }
    if let Some(data) = &entry.data {
        writer = writer.raw("data", data.get());
    }
    if with_ref {
        writer = writer.reference(entry.shown_ref());
    }
    writer.number("timestamp", entry.timestamp).end()
}

/// A device of `user` has everything up to `seq`.
pub fn delivered(conversation: &ConversationId, seq: Seq, user: &UserId) -> Text {
    status("delivered", conversation, seq, user)
}

/// `user` has seen everything up to `seq`.
pub fn read(conversation: &ConversationId, seq: Seq, user: &UserId) -> Text {
    status("read", conversation, seq, user)
}

fn status(kind: &str, conversation: &ConversationId, seq: Seq, user: &UserId) -> Text {
    Writer::new(kind)
        .name("conversation", conversation.as_str())
        .number("seq", seq)
        .name("userId", user.as_str())
        .end()
}

/// Something that was never stored.
pub fn signal(conversation: &ConversationId, from: &UserId, data: &RawValue) -> Text {
    Writer::new("signal")
        .name("conversation", conversation.as_str())
        .name("from", from.as_str())
        .raw("data", data.get())
        .end()
}

/// What `catchup=N` left out, for paging: the entries `from` to `to`, both included.
pub fn missed(conversation: &ConversationId, from: Seq, to: Seq) -> Text {
    Writer::new("missed")
        .name("conversation", conversation.as_str())
        .number("from", from)
        .number("to", to)
        .end()
}

/// All that waited has been sent; what comes now is live (P7).
pub fn caught_up() -> Text {
    Bytes::from_static(b"{\"type\":\"caughtup\"}")
}

/// A command was refused. `retry_after_ms` is for the retryable codes.
pub fn error(
    code: ErrorCode,
    detail: &str,
    reference: Option<&Ref>,
    retry_after_ms: Option<u64>,
) -> Text {
    let writer = Writer::new("error")
        .text("code", code.as_str())
        .text("detail", detail)
        .reference(reference)
        .raw("retryable", if code.retryable() { "true" } else { "false" });
    match retry_after_ms.filter(|_| code.retryable()) {
        Some(ms) => writer.number("retryAfterMs", ms).end(),
        None => writer.end(),
    }
}

/// A refusal over HTTP, in the shape that every problem of Parlor has (RFC 9457).
/// `reason` is the status in words, `retry_after_ms` for the retryable codes.
pub fn problem(
    status: u16,
    reason: &str,
    code: ErrorCode,
    detail: &str,
    retry_after_ms: u64,
) -> Text {
    let writer = Writer::new(&format!("urn:parlor:problem:{}", code.as_str()))
        .text("title", code.title(status, reason))
        .number("status", u64::from(status))
        .text("code", code.as_str())
        .text("detail", detail)
        .raw("retryable", if code.retryable() { "true" } else { "false" });
    match code.retryable() {
        true => writer.number("retryAfterMs", retry_after_ms).end(),
        false => writer.end(),
    }
}

/// The answer to a `ping` frame.
pub fn pong(reference: Option<&Ref>, now: Timestamp) -> Text {
    Writer::new("pong").reference(reference).number("timestamp", now).end()
}

/// The new token holds, until then.
pub fn authed(expires_at: Timestamp) -> Text {
    Writer::new("authed").number("expiresAt", expires_at).end()
}

/// This server is going away: come back after so long, through the balancer.
pub fn reconnect(after_ms: u64) -> Text {
    Writer::new("reconnect").number("afterMs", after_ms).end()
}

/// A message's id: its conversation and its place in it.
pub fn message_id(conversation: &ConversationId, seq: Seq) -> String {
    format!("{conversation}/{seq}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::message::Kind;
    use super::*;

    fn value(text: &Text) -> Value {
        serde_json::from_slice(text).unwrap()
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    #[test]
    fn frames_are_those_of_the_protocol() {
        let conversation = ConversationId::direct(&user("userA"), &user("userB"));
        let reference = Ref::parse("r1").unwrap();
        assert_eq!(
            sent(Some(&reference), &conversation, 7, 1_790_000_000_000),
            concat!(
                r#"{"type":"sent","ref":"r1","id":"dm:userA:userB/7","#,
                r#""conversation":"dm:userA:userB","seq":7,"timestamp":1790000000000}"#
            )
        );
        assert_eq!(
            delivered(&conversation, 7, &user("userB")),
            r#"{"type":"delivered","conversation":"dm:userA:userB","seq":7,"userId":"userB"}"#
        );
        let welcome = value(&welcome(
            &user("userA"),
            SocketId(1),
            &ProcessId::parse("ws1").unwrap(),
            &DeviceId::plain(),
            5,
            20,
            &Sizes { message: 1_000, ..Sizes::MOST },
        ));
        assert_eq!(welcome["limits"]["socketsPerUser"], json!(20));
        assert_eq!(welcome["limits"]["messageBytes"], json!(1_000));
        assert_eq!(welcome["limits"]["dataDepth"], json!(32));
        assert_eq!(welcome["pingMs"], json!(25_000));
        assert_eq!(
            error(ErrorCode::BadRequest, "no", None, Some(3)),
            r#"{"type":"error","code":"bad_request","detail":"no","retryable":false}"#
        );
        assert_eq!(
            value(&error(ErrorCode::Unavailable, "no", None, Some(3)))["retryAfterMs"],
            json!(3)
        );
    }

    proptest! {
        #[test]
        fn any_text_survives(message in ".{1,64}", timestamp: u64, seq: u64) {
            let conversation = ConversationId::direct(&user("a"), &user("b"));
            let made = Entry {
                seq, kind: Kind::Message, from: user("a"), to: Some(user("b")),
                message: Some(Arc::from(message.as_str())), data: None,
                reference: Ref::parse("r").ok(), device: DeviceId::plain(), timestamp, n: seq,
            };
            let expected = json!({"type": "message", "id": format!("dm:a:b/{seq}"),
                "conversation": "dm:a:b", "seq": seq, "from": "a", "to": "b",
                "message": message, "timestamp": timestamp});
            prop_assert_eq!(value(&entry(&conversation, &made, false)), expected);
            prop_assert_eq!(&value(&entry(&conversation, &made, true))["ref"], &json!("r"));
        }
    }
}
