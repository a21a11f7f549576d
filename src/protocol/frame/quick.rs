//! The frames that nearly all are: a whole one read in one go, with each field of the type that its
//! command needs.
//!
//! **Invariant.** What is read here is what [`ClientFrame::parse`] would read the long way;
//! whatever is unusual or wrong is left to it, which knows what to answer.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{ClientFrame, SendFrame, Target, message_of, object};
use crate::protocol::id::{ConversationId, Ref, UserId};
use crate::protocol::message::Seq;
use crate::protocol::sizes::Sizes;
use crate::protocol::word::Word;

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Word<'a>,
    #[serde(borrow)]
    to: Option<Word<'a>>,
    #[serde(borrow)]
    conversation: Option<Word<'a>>,
    #[serde(borrow)]
    message: Option<Word<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    reference: Option<Word<'a>>,
    after: Option<Seq>,
    seq: Option<Seq>,
    /// Read only to be there once.
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
    #[cfg(all(debug_assertions, not(fuzzing)))]
    #[serde(rename = "from")]
    _from: Option<IgnoredAny>,
}

/// Reads a frame, if it is one of the usual kind without a fault.
pub(super) fn read(text: &str, sizes: &Sizes) -> Option<ClientFrame> {
    // serde takes an array of as many values for the same thing.
    if !text.starts_with('{') {
        return None;
    }
    let fields: Fields<'_> = serde_json::from_str(text).ok()?;
    let reference = match &fields.reference {
        Some(Word(name)) => Some(Ref::parse(name).ok()?),
        None => None,
    };
    match &*fields.kind.0 {
        "message" => {
            if reference.as_ref().is_some_and(|name| !name.is_clients()) {
                return None;
            }
            Some(ClientFrame::Message(SendFrame {
                target: fields.target()?,
                message: message_of(&fields.message.as_ref()?.0, sizes).ok()?,
                data: object(fields.data, sizes).ok()?,
                reference,
                after: fields.after,
                #[cfg(all(debug_assertions, not(fuzzing)))]
                claimed: None,
            }))
        }
        "ack" => {
            let (conversation, seq) = fields.place()?;
            Some(ClientFrame::Ack { conversation, seq, reference })
        }
        "read" => {
            let (conversation, seq) = fields.place()?;
            Some(ClientFrame::Read { conversation, seq, reference })
        }
        "signal" => {
            let data = object(fields.data, sizes).ok()??;
            Some(ClientFrame::Signal { target: fields.target()?, data, reference })
        }
        _ => None,
    }
}

impl Fields<'_> {
    fn target(&self) -> Option<Target> {
        match (&self.to, &self.conversation) {
            (Some(Word(user)), None) => UserId::parse(user).ok().map(Target::User),
            (None, Some(Word(id))) => ConversationId::parse(id).ok().map(Target::Conversation),
            _ => None,
        }
    }

    fn place(&self) -> Option<(ConversationId, Seq)> {
        Some((ConversationId::parse(&self.conversation.as_ref()?.0).ok()?, self.seq?))
    }
}

#[cfg(test)]
mod tests {
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// One of these for each field, or none.
    const VALUES: [(&str, &[&str]); 10] = [
        ("type", &["message", "message", "ack", "read", "signal", "ping", "nope"]),
        ("to", &[r#""b""#, r#""b""#, r#""a b""#, "7", "null"]),
        ("conversation", &[r#""dm:a:b""#, r#""room:x""#, r#""dm:b:a""#, "null", "{}"]),
        ("message", &[r#""x""#, r#""é\n\"""#, r#"" ""#, r#""\ud800""#, "null", "1"]),
        ("data", &[r#"{"k":[1]}"#, r#"{ "k" : "v" }"#, "[1]", "null", "7"]),
        ("ref", &[r#""r-1""#, r#""r\u002d1""#, r#""~1""#, r#""a b""#, "null", "[]"]),
        ("after", &["7", "0", "-1", "1.0", "null", r#""7""#, "18446744073709551616"]),
        ("seq", &["7", "0", "1e3", "null", "true"]),
        ("token", &[r#""t""#, "{}"]),
        ("from", &[r#""c""#, "7"]),
    ];

    #[test]
    fn it_reads_what_the_long_way_reads() {
        let mut random = rand::rngs::StdRng::seed_from_u64(11);
        let (mut usual, mut others) = (0, 0);
        for _ in 0..200_000 {
            let mut fields = Vec::new();
            for (name, values) in VALUES {
                if name == "type" || random.random_bool(0.4) {
                    let value = values.choose(&mut random).unwrap();
                    let quote = if name == "type" { "\"" } else { "" };
                    fields.push(format!("\"{name}\":{quote}{value}{quote}"));
                }
            }
            if random.random_bool(0.02) {
                let twice = fields.choose(&mut random).cloned();
                fields.extend(twice);
            }
            let text = format!("{{{}}}", fields.join(","));
            let long = ClientFrame::parse_at_length(&text, &Sizes::MOST);
            match read(&text, &Sizes::MOST) {
                Some(frame) => {
                    assert_eq!(format!("{frame:?}"), format!("{:?}", long.unwrap()), "{text}");
                    usual += 1;
                }
                None => others += u32::from(long.is_ok()),
            }
        }
        assert!(usual > 1_000, "{usual} of 200,000 were read here");
        assert!(others > 100, "{others} good ones were left to the long way");
    }

    #[test]
    fn usual_frames_are_read_here() {
        for text in [
            r#"{"type":"message","to":"b","message":"Hi","ref":"r1","after":3,"data":{"k":1}}"#,
            r#"{"message":"Hi","conversation":"room:x","type":"message","new":[1]}"#,
            r#"{"type":"ack","conversation":"dm:a:b","seq":1}"#,
            r#"{"type":"read","conversation":"room:x","seq":18446744073709551615}"#,
            r#"{"type":"signal","to":"b","data":{"typing":true}}"#,
        ] {
            assert!(read(text, &Sizes::MOST).is_some(), "{text}");
        }
    }
}
