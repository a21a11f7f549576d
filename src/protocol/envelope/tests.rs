//! What a person sees, what comes back, and the writer against `serde_json`.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn written(envelope: &Envelope) -> String {
    let mut out = Vec::new();
    envelope.write(&mut out);
    String::from_utf8(out).unwrap()
}

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
    let text = written(&envelope);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["to"], json!("userB"));
    assert_eq!(value["message"], json!("Hi"));
    assert_eq!(value["from"], json!("userA"));
    assert!(text.contains("{\"b\": 1.50}"), "data stays byte for byte");
    let back: Envelope = serde_json::from_str(&text).unwrap();
    assert_eq!(written(&back), text);
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
        let text = written(&envelope);
        let back: Envelope = serde_json::from_str(&text).unwrap();
        assert_eq!(written(&back), text);
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

/// As `serde_json` would write it.
impl From<&Envelope> for Wire<'_> {
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
            Envelope::Signal { conversation, from, data, users, roster } => Self {
                conversation: Some(conversation),
                from: Some(from),
                data: Some(data),
                users,
                roster,
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

fn user() -> impl Strategy<Value = UserId> {
    "[A-Za-z0-9_.@|+=~-]{1,20}".prop_map(|text| UserId::parse(&text).unwrap())
}

fn process() -> impl Strategy<Value = ProcessId> {
    "[A-Za-z0-9_-]{1,8}".prop_map(|text| ProcessId::parse(&text).unwrap())
}

fn conversation() -> impl Strategy<Value = ConversationId> {
    let direct = (user(), user()).prop_map(|(a, b)| ConversationId::direct(&a, &b));
    let room = "[A-Za-z0-9_.@|+=~-]{1,20}"
        .prop_map(|text| ConversationId::parse(&format!("room:{text}")).unwrap());
    prop_oneof![direct, room]
}

fn raw() -> impl Strategy<Value = Arc<RawValue>> {
    let json = prop_oneof![
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        any::<f64>().prop_map(|number| json!({"a": [number, null], "b": {}}).to_string()),
        Just("{ \"type\" : \"entry\" }".to_owned()),
    ];
    json.prop_map(|text| Arc::from(RawValue::from_string(text).unwrap()))
}

fn entry() -> impl Strategy<Value = Arc<Entry>> {
    let kind = prop_oneof![Just("message".to_owned()), Just("left".to_owned()), any::<String>()];
    let reference = proptest::option::of("[A-Za-z0-9_.:+=/~-]{1,20}");
    let texts =
        (kind, proptest::option::of(any::<String>()), reference, proptest::option::of(raw()));
    let people = (user(), proptest::option::of(user()), "[A-Za-z0-9_-]{1,9}");
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    (texts, people, numbers).prop_map(|((kind, message, reference, data), people, numbers)| {
        let (from, to, device) = people;
        Arc::new(Entry {
            seq: numbers.0,
            kind: Kind::from_name(&kind),
            from,
            to,
            message: message.map(Arc::from),
            data,
            reference: reference.map(|text| Ref::parse(&text).unwrap()),
            device: DeviceId::parse(&device).unwrap(),
            timestamp: numbers.1,
            n: numbers.2,
        })
    })
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let users = || prop::collection::vec(user(), 0..4);
    let about = || (conversation(), any::<u64>());
    let receipt = prop_oneof![Just(Receipt::Delivered), Just(Receipt::Have), Just(Receipt::Gone)];
    let entry = (conversation(), entry(), users(), proptest::option::of(any::<u64>()), process());
    let receipt = (about(), proptest::option::of((user(), any::<bool>())), receipt, process());
    prop_oneof![
        (entry, any::<bool>()).prop_map(|((conversation, entry, users, roster, via), again)| {
            Envelope::Entry { conversation, entry, users, roster, via, again }
        }),
        (about(), users(), proptest::option::of(process())).prop_map(
            |((conversation, seq), users, via)| {
                Envelope::Hint { conversation, seq, users, via }
            }
        ),
        receipt.prop_map(|((conversation, seq), of, receipt, server)| {
            let device = of.as_ref().and_then(|(_, named)| named.then(DeviceId::plain));
            let user = of.map(|(user, _)| user);
            Envelope::Receipt { conversation, seq, user, device, receipt, server }
        }),
        (about(), user(), any::<bool>(), users()).prop_map(
            |((conversation, seq), by, read, users)| {
                Envelope::Status { conversation, seq, by, read, users }
            }
        ),
        (conversation(), user(), raw(), users(), proptest::option::of(any::<u64>())).prop_map(
            |(conversation, from, data, users, roster)| {
                Envelope::Signal { conversation, from, data, users, roster }
            }
        ),
        (user(), any::<u128>())
            .prop_map(|(user, socket)| Envelope::End { user, socket: SocketId(socket) }),
        (user(), any::<u64>()).prop_map(|(user, until)| Envelope::Revoked { user, until }),
        any::<u64>().prop_map(|number| Envelope::Probe { number }),
    ]
}

proptest! {
    /// The writer by hand and the derived one agree to the byte, and what was written comes back.
    #[test]
    fn what_is_written_is_what_serde_json_writes(envelope in envelope()) {
        let text = written(&envelope);
        prop_assert_eq!(&text, &serde_json::to_string(&Wire::from(&envelope)).unwrap());
        let back: Envelope = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(written(&back), text);
    }
}
