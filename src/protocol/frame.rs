//! What clients write: one JSON object a text frame, checked here and nowhere else.
//!
//! Parsing is two steps: the object with its fields as raw JSON, then each field as its command
//! needs it. So unknown fields cost nothing, a field that only another command has is ignored
//! whatever its type, and an error can name the `ref` of the frame that it answers. What has
//! nothing unusual about it is read in one step first (`frame/quick.rs`).

mod quick;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::code::ErrorCode;
use super::id::{ConversationId, Ref, UserId};
use super::message::Seq;
use super::sizes::Sizes;
use super::token::Token;
use super::word::Word;
#[cfg(all(debug_assertions, not(fuzzing)))]
use crate::planted::{Bug, planted};

/// Whom a message or signal is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The direct conversation with this person.
    User(UserId),
    /// A conversation by its id.
    Conversation(ConversationId),
}

/// A `message` frame, or the body of `POST /v1/messages`.
#[derive(Debug, Clone)]
pub struct SendFrame {
    /// Whom it is for.
    pub target: Target,
    /// The text: at least a byte.
    pub message: Arc<str>,
    /// The sender's own JSON object.
    pub data: Option<Arc<RawValue>>,
    /// The client's name for this send; the same again is the same message (P2).
    pub reference: Option<Ref>,
    /// The seq that the client knew at its first try.
    pub after: Option<Seq>,
    /// Who the client says that it is; only a planted bug looks at it. What is fuzzed is what
    /// people run: without it.
    #[cfg(all(debug_assertions, not(fuzzing)))]
    pub claimed: Option<UserId>,
}

/// A frame from a client, checked.
#[derive(Debug, Clone)]
pub enum ClientFrame {
    /// Say something.
    Message(SendFrame),
    /// Received by the application, up to seq (`acks=app`).
    Ack {
        /// Which conversation.
        conversation: ConversationId,
        /// Everything up to here.
        seq: Seq,
        /// Handed back in an error.
        reference: Option<Ref>,
    },
    /// Seen by the person, up to seq.
    Read {
        /// Which conversation.
        conversation: ConversationId,
        /// Everything up to here.
        seq: Seq,
        /// Handed back in an error.
        reference: Option<Ref>,
    },
    /// Something that is never stored: typing and the like.
    Signal {
        /// Whom it is for.
        target: Target,
        /// What is handed on, as it is.
        data: Arc<RawValue>,
        /// Handed back in an error.
        reference: Option<Ref>,
    },
    /// A ping that page scripts can see.
    Ping {
        /// Handed back in the `pong`.
        reference: Option<Ref>,
    },
    /// A fresh token before the old one ends.
    Auth {
        /// The token.
        token: Token,
        /// Handed back in an error.
        reference: Option<Ref>,
    },
}

/// A frame that is refused; the socket stays open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BadFrame {
    /// The code to answer with.
    pub code: ErrorCode,
    /// What was wrong, and what to do.
    pub detail: String,
    /// The frame's own ref, where it had a good one.
    pub reference: Option<Ref>,
    /// What was over its bound, by the name of that in the metrics.
    pub over: Option<&'static str>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    to: Option<&'a RawValue>,
    #[serde(borrow)]
    conversation: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    #[serde(borrow)]
    seq: Option<&'a RawValue>,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[cfg(all(debug_assertions, not(fuzzing)))]
    #[serde(borrow)]
    from: Option<&'a RawValue>,
}

/// The longest explanation of bad JSON, in characters.
const SENTENCE_CHARS_MAX: usize = 160;

/// Why a field, and with it the frame, is refused.
struct Refusal {
    code: ErrorCode,
    detail: String,
    over: Option<&'static str>,
}

impl Refusal {
    fn of(self, reference: Option<Ref>) -> BadFrame {
        BadFrame { code: self.code, detail: self.detail, reference, over: self.over }
    }
}

fn bad(detail: impl Into<String>) -> Refusal {
    Refusal { code: ErrorCode::BadRequest, detail: detail.into(), over: None }
}

fn too_large(detail: String, over: &'static str) -> Refusal {
    Refusal { code: ErrorCode::TooLarge, detail, over: Some(over) }
}

impl ClientFrame {
    /// Reads one text frame, whose parts are of these sizes at most.
    pub fn parse(text: &str, sizes: &Sizes) -> Result<Self, BadFrame> {
        #[cfg(all(debug_assertions, not(fuzzing)))]
        if planted(Bug::SenderTrusted) {
            return Self::parse_at_length(text, sizes);
        }
        quick::read(text, sizes).map_or_else(|| Self::parse_at_length(text, sizes), Ok)
    }

    /// As [`ClientFrame::parse`], for whatever there is.
    pub(crate) fn parse_at_length(text: &str, sizes: &Sizes) -> Result<Self, BadFrame> {
        let fields: Fields<'_> = whole_object(text).map_err(|error| BadFrame {
            code: ErrorCode::BadRequest,
            detail: format!("a frame is one JSON object with a \"type\": {error}"),
            reference: None,
            over: None,
        })?;
        let reference = optional::<Ref>(fields.reference, "ref");
        let named = reference.as_ref().ok().cloned().flatten();
        let parsed = reference.and_then(|reference| fields.into_frame(reference, sizes));
        parsed.map_err(|refusal| refusal.of(named))
    }
}

/// Reads the body of `POST /v1/messages`, which is a `message` frame without its type.
pub fn parse_send(
    text: &str,
    reference: Option<Ref>,
    sizes: &Sizes,
) -> Result<SendFrame, BadFrame> {
    let fields: Result<Fields<'_>, _> = whole_object(text);
    let parsed = match fields {
        Ok(fields) => fields.into_send(reference.clone(), sizes),
        Err(error) => Err(bad(format!("the body is one JSON object: {error}"))),
    };
    parsed.map_err(|refusal| refusal.of(reference))
}

/// Reads a text that is one JSON object, and says in a sentence why it is not.
pub fn whole_object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    // serde takes an array of as many values for the same thing.
    if text.trim_ascii_start().starts_with('[') {
        return Err("it is an array".to_owned());
    }
    serde_json::from_str(text).map_err(|error| sentence(&error))
}

/// What serde says of bad JSON, which may quote all of it.
fn sentence(error: &serde_json::Error) -> String {
    let said = error.to_string();
    match said.char_indices().nth(SENTENCE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", said.get(..end).unwrap_or_default()),
        None => said,
    }
}

impl Fields<'_> {
    fn into_frame(self, reference: Option<Ref>, sizes: &Sizes) -> Result<ClientFrame, Refusal> {
        let Word(kind) = required(self.kind, "type")?;
        match &*kind {
            "message" => self.into_send(reference, sizes).map(ClientFrame::Message),
            "ack" => Ok(ClientFrame::Ack {
                conversation: required(self.conversation, "conversation")?,
                seq: required(self.seq, "seq")?,
                reference,
            }),
            "read" => Ok(ClientFrame::Read {
                conversation: required(self.conversation, "conversation")?,
                seq: required(self.seq, "seq")?,
                reference,
            }),
            "signal" => {
                let data = object(self.data, sizes)?;
                let data = data.ok_or_else(|| bad("\"data\" is missing"))?;
                Ok(ClientFrame::Signal { target: self.target()?, data, reference })
            }
            "ping" => Ok(ClientFrame::Ping { reference }),
            "auth" => Ok(ClientFrame::Auth { token: required(self.token, "token")?, reference }),
            other => Err(bad(format!(
                "unknown type {:?}: use message, ack, read, signal, ping or auth",
                other.chars().take(32).collect::<String>()
            ))),
        }
    }

    fn target(&self) -> Result<Target, Refusal> {
        let to = optional::<UserId>(self.to, "to")?;
        let conversation = optional::<ConversationId>(self.conversation, "conversation")?;
        match (to, conversation) {
            (Some(user), None) => Ok(Target::User(user)),
            (None, Some(conversation)) => Ok(Target::Conversation(conversation)),
            (None, None) => Err(bad("say whom it is for: \"to\" or \"conversation\"")),
            (Some(_), Some(_)) => Err(bad("give \"to\" or \"conversation\", not both")),
        }
    }

    fn into_send(self, reference: Option<Ref>, sizes: &Sizes) -> Result<SendFrame, Refusal> {
        let target = self.target()?;
        let Word(message) = required(self.message, "message")?;
        let message = message_of(&message, sizes)?;
        let data = object(self.data, sizes)?;
        let after = optional(self.after, "after")?;
        if reference.as_ref().is_some_and(|r| !r.is_clients()) {
            return Err(bad("\"ref\" must not begin with ~"));
        }
        Ok(SendFrame {
            target,
            message,
            data,
            reference,
            after,
            #[cfg(all(debug_assertions, not(fuzzing)))]
            claimed: optional(self.from.filter(|_| planted(Bug::SenderTrusted)), "from")?,
        })
    }
}

/// A message's text, if it may be one.
fn message_of(text: &str, sizes: &Sizes) -> Result<Arc<str>, Refusal> {
    let (length, most) = (text.len(), sizes.message);
    if length > most as usize {
        let detail = format!("\"message\" has {length} bytes, {most} are allowed");
        return Err(too_large(detail, "message_bytes"));
    }
    if text.trim().is_empty() {
        return Err(bad("\"message\" is empty"));
    }
    Ok(text.into())
}

fn optional<'a, T: Deserialize<'a>>(
    raw: Option<&'a RawValue>,
    name: &str,
) -> Result<Option<T>, Refusal> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let wrong = |error| bad(format!("\"{name}\": {}", sentence(&error)));
    serde_json::from_str(raw.get()).map(Some).map_err(wrong)
}

fn required<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>, name: &str) -> Result<T, Refusal> {
    optional(raw, name)?.ok_or_else(|| bad(format!("\"{name}\" is missing")))
}

fn object(raw: Option<&RawValue>, sizes: &Sizes) -> Result<Option<Arc<RawValue>>, Refusal> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let (length, most) = (raw.get().len(), sizes.data);
    if length > most as usize {
        let detail = format!("\"data\" has {length} bytes, {most} are allowed");
        return Err(too_large(detail, "data_bytes"));
    }
    if !raw.get().starts_with('{') {
        return Err(bad("\"data\" must be a JSON object"));
    }
    if depth(raw.get()) > sizes.depth as usize {
        let too_deep = bad(format!("\"data\" is nested deeper than {}", sizes.depth));
        return Err(Refusal { over: Some("json_depth"), ..too_deep });
    }
    Ok(Some(Arc::from(raw.to_owned())))
}

/// How deep the brackets of well-formed JSON go, those within strings left out.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> BadFrame {
        ClientFrame::parse(text, &Sizes::MOST).expect_err(text)
    }

    #[test]
    fn the_first_line_of_the_readme_is_a_message() {
        let text = r#"{"type":"message","to":"userB","message":"Hi"}"#;
        let frame = ClientFrame::parse(text, &Sizes::MOST).unwrap();
        let ClientFrame::Message(send) = frame else { panic!("{frame:?}") };
        assert_eq!(send.target, Target::User(UserId::parse("userB").unwrap()));
        assert_eq!(&*send.message, "Hi");
        assert!(send.reference.is_none() && send.data.is_none() && send.after.is_none());
    }

    #[test]
    fn what_the_server_knows_better_is_ignored() {
        let text = r#"{"type":"message","to":"b","message":"x","from":"evil","id":3,
                       "seq":"x","timestamp":{},"token":1,"new":[1]}"#;
        let frame = ClientFrame::parse(text, &Sizes::MOST);
        assert!(matches!(frame, Ok(ClientFrame::Message(_))));
    }

    #[test]
    fn bad_frames_say_what_to_do_and_name_their_ref() {
        for text in [
            "",
            "hello",
            "null",
            "[]",
            "1",
            "\"x\"",
            "{}",
            "{}{}",
            r#"["message","b",null,"x",null,null,null,null,null]"#,
            "\u{feff}{}",
            r#"{"type":1}"#,
            r#"{"type":"message"}"#,
            r#"{"type":"nope","to":"b"}"#,
            r#"{"type":"message","to":"a b","message":"x"}"#,
            r#"{"type":"message","to":"b","message":""}"#,
            r#"{"type":"message","to":"b","message":"  \n"}"#,
            r#"{"type":"message","to":"b","message":7}"#,
            r#"{"type":"message","to":"b","conversation":"room:x","message":"x"}"#,
            r#"{"type":"message","to":"b","message":"x","data":[1]}"#,
            r#"{"type":"message","to":"b","message":"x","after":-1}"#,
            r#"{"type":"message","to":"b","message":"x","after":1.5}"#,
            r#"{"type":"message","to":"b","message":"x","ref":"~1"}"#,
            r#"{"type":"message","to":"b","message":"\ud800"}"#,
            r#"{"type":"read","conversation":"dm:b:a","seq":1}"#,
            r#"{"type":"read","conversation":"dm:a:b","seq":18446744073709551616}"#,
            r#"{"type":"message","type":"ack","to":"b","message":"x"}"#,
            r#"{"type":"signal","to":"b"}"#,
            r#"{"type":"auth"}"#,
        ] {
            assert_eq!(refused(text).code, ErrorCode::BadRequest, "{text}");
        }
        let named = refused(r#"{"type":"message","ref":"r-1","message":"x"}"#);
        assert_eq!(named.reference, Ref::parse("r-1").ok());
        assert!(named.detail.contains("\"to\""), "{}", named.detail);
    }

    #[test]
    fn a_sentence_does_not_repeat_a_long_mistake() {
        let long = "\\\"".repeat(20_000);
        let text = format!(r#"{{"type":"read","conversation":"dm:a:b","seq":"{long}"}}"#);
        let detail = refused(&text).detail;
        assert!(detail.starts_with("\"seq\"") && detail.chars().count() < 200, "{detail}");
    }

    #[test]
    fn sizes_are_counted_in_bytes() {
        let send = |text: &str| {
            let json = serde_json::json!({"type": "message", "to": "b", "message": text});
            ClientFrame::parse(&json.to_string(), &Sizes::MOST)
        };
        assert!(send(&"é".repeat(8 * 1024)).is_ok());
        let over = send(&format!("{}x", "é".repeat(8 * 1024))).unwrap_err();
        assert_eq!(over.code, ErrorCode::TooLarge);
        let data = format!("{{\"k\":\"{}\"}}", "x".repeat(Sizes::MOST.data as usize));
        let text = format!(r#"{{"type":"message","to":"b","message":"x","data":{data}}}"#);
        assert_eq!(refused(&text).code, ErrorCode::TooLarge);
    }

    #[test]
    fn lower_bounds_hold_to_the_byte_whatever_way_a_frame_is_read() {
        let sizes = Sizes { message: 10, data: 20, depth: 2, ..Sizes::MOST };
        let send = |message: &str, data: &str| {
            let text =
                format!(r#"{{"type":"message","to":"b","message":"{message}","data":{data}}}"#);
            let body = parse_send(&text, None, &sizes).map(drop);
            let frames = [ClientFrame::parse, ClientFrame::parse_at_length];
            for parsed in frames.map(|parse| parse(&text, &sizes).map(drop)) {
                assert_eq!(parsed, body, "{text}");
            }
            let signal = format!(r#"{{"type":"signal","to":"b","data":{data}}}"#);
            let signal = ClientFrame::parse(&signal, &sizes).map(drop);
            if message.len() <= 10 {
                assert_eq!(signal, body, "{data}");
            }
            body.map_err(|bad| (bad.over, bad.detail))
        };
        assert_eq!(send("0123456789", r#"{"k":"0123456789ab"}"#), Ok(()));
        let detail = "\"message\" has 11 bytes, 10 are allowed".to_owned();
        assert_eq!(send("0123456789a", "{}"), Err((Some("message_bytes"), detail)));
        let detail = "\"data\" has 21 bytes, 20 are allowed".to_owned();
        assert_eq!(send("x", r#"{"k":"0123456789abc"}"#), Err((Some("data_bytes"), detail)));
        assert_eq!(send("x", r#"{"k":[1]}"#), Ok(()));
        let detail = "\"data\" is nested deeper than 2".to_owned();
        assert_eq!(send("x", r#"{"k":[{}]}"#), Err((Some("json_depth"), detail)));
    }

    #[test]
    fn deep_json_is_refused_without_recursion() {
        let deep = "[".repeat(30_000);
        refused(&deep);
        let nested = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
        let text = format!(r#"{{"type":"message","to":"b","message":"x","data":{nested}}}"#);
        assert!(refused(&text).detail.contains("nested"));
        assert_eq!(depth(r#"{"a":"[[[\"[","b":[{}]}"#), 3);
    }
}
