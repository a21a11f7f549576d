//! Items of the table: how each kind is named, written and read back.
//!
//! One function per kind and direction. Unknown attributes are ignored, so that a later version
//! may add some; what is missing or of another type is [`StoreError::Damaged`] with the item's key.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::value::RawValue;

use super::fields::{Fields, as_number};
use crate::protocol::{ConversationId, DeviceId, Entry, Kind, Ref, Seq, Timestamp, UserId};
use crate::store::{Device, Head, Member, Row, Span, StoreError};

/// An item, or a key.
pub type Item = HashMap<String, AttributeValue>;

/// The version that every item carries.
pub const ITEM_VERSION: u64 = 1;
/// What precedes a device's name in a row.
pub const CURSOR_PREFIX: &str = "c.";

/// The partition of a conversation: its log, members and head.
pub fn conversation_pk(conversation: &ConversationId) -> String {
    format!("C#{conversation}")
}

/// The partition of a person: rows and devices.
pub fn user_pk(user: &UserId) -> String {
    format!("U#{user}")
}

/// The partition of a device's starts.
pub fn starts_pk(user: &UserId, device: &DeviceId) -> String {
    format!("V#{user}#{device}")
}

/// The sort key of an entry: 20 digits hold every u64, so that text sorts as numbers do.
pub fn entry_sk(seq: Seq) -> String {
    format!("M#{seq:020}")
}

/// The sort key of a mailbox row.
pub fn row_sk(conversation: &ConversationId) -> String {
    format!("C#{conversation}")
}

/// The sort key of a device.
pub fn device_sk(device: &DeviceId) -> String {
    format!("D#{device}")
}

/// The sort key of a member.
pub fn member_sk(user: &UserId) -> String {
    format!("U#{user}")
}

/// The sort key of a conversation's head.
pub const HEAD_SK: &str = "HEAD";

/// The sort key of what says which tokens of a person are dead.
pub const REVOKED_SK: &str = "REVOKED";

/// The attribute of a device's cursor.
pub fn cursor_name(device: &DeviceId) -> String {
    format!("{CURSOR_PREFIX}{device}")
}

/// Text.
pub fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// A number.
pub fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// An item with its key and version.
pub fn item(pk: String, sk: String) -> Item {
    HashMap::from([
        ("pk".to_owned(), text(pk)),
        ("sk".to_owned(), text(sk)),
        ("v".to_owned(), number(ITEM_VERSION)),
    ])
}

/// An entry as it is put.
pub fn entry_item(conversation: &ConversationId, entry: &Entry) -> Item {
    let mut put = item(conversation_pk(conversation), entry_sk(entry.seq));
    let mut set = |name: &str, value| put.insert(name.to_owned(), value);
    set("kind", text(entry.kind.as_str()));
    set("from", text(entry.from.as_str()));
    if let Some(to) = &entry.to {
        set("to", text(to.as_str()));
    }
    if let Some(message) = &entry.message {
        set("message", text(&**message));
    }
    if let Some(data) = &entry.data {
        set("data", text(data.get()));
    }
    if let Some(reference) = &entry.reference {
        set("ref", text(reference.as_str()));
    }
    set("device", text(entry.device.as_str()));
    set("timestamp", number(entry.timestamp));
    set("n", number(entry.n));
    put
}

/// Reads an entry back.
pub fn read_entry(item: Item) -> Result<Entry, StoreError> {
    let mut fields = Fields::new(item);
    let data = match fields.maybe_text("data")? {
        None => None,
        Some(json) => {
            let raw = RawValue::from_string(json).map_err(|_| fields.damaged("data"))?;
            Some(Arc::from(raw))
        }
    };
    Ok(Entry {
        seq: fields.sk_id::<Seq>("M#")?,
        kind: Kind::from_name(&fields.text("kind")?),
        from: fields.id("from")?,
        to: fields.maybe_id("to")?,
        message: fields.maybe_text("message")?.map(Into::into),
        data,
        reference: fields.maybe_id::<Ref>("ref")?,
        device: fields.id("device")?,
        timestamp: fields.number("timestamp")?,
        n: fields.number("n")?,
    })
}

/// Reads a mailbox row back.
pub fn read_row(item: Item) -> Result<Row, StoreError> {
    let mut fields = Fields::new(item);
    let row = Row {
        conversation: fields.sk_id("C#")?,
        last: fields.maybe_number("last")?.unwrap_or(0),
        delivered: fields.maybe_number("delivered")?.unwrap_or(0),
        read: fields.maybe_number("read")?.unwrap_or(0),
        read_n: fields.maybe_number("readN")?.unwrap_or(0),
        cursors: Vec::new(),
    };
    let mut cursors = Vec::new();
    for (name, value) in &fields.item {
        let Some(device) = name.strip_prefix(CURSOR_PREFIX) else { continue };
        let device = DeviceId::parse(device).map_err(|_| fields.damaged(name))?;
        cursors.push((device, as_number(value).ok_or_else(|| fields.damaged(name))?));
    }
    cursors.sort();
    Ok(Row { cursors, ..row })
}

/// Reads a device back.
pub fn read_device(item: Item) -> Result<Device, StoreError> {
    let mut fields = Fields::new(item);
    Ok(Device {
        device: fields.sk_id("D#")?,
        first_seen: fields.number("firstSeen")?,
        last_seen: fields.number("lastSeen")?,
    })
}

/// A chunk of a device's starts as it is put.
pub fn starts_item(
    user: &UserId,
    device: &DeviceId,
    chunk: u32,
    starts: &[(ConversationId, Seq)],
) -> Item {
    let map = starts.iter().map(|(c, seq)| (c.to_string(), number(*seq))).collect();
    let mut put = item(starts_pk(user, device), chunk.to_string());
    put.insert("starts".to_owned(), AttributeValue::M(map));
    put
}

/// Reads a chunk of starts back: its number, and the starts by conversation.
pub fn read_starts(item: Item) -> Result<(u32, Vec<(ConversationId, Seq)>), StoreError> {
    let mut fields = Fields::new(item);
    let chunk = fields.sk_id("")?;
    let Some(AttributeValue::M(map)) = fields.value("starts") else {
        return Err(fields.damaged("starts"));
    };
    let mut starts = Vec::with_capacity(map.len());
    for (name, value) in map {
        let start = ConversationId::parse(&name).ok().zip(as_number(&value));
        starts.push(start.ok_or_else(|| fields.damaged(&name))?);
    }
    starts.sort();
    Ok((chunk, starts))
}

/// A member as it is put.
pub fn member_item(conversation: &ConversationId, member: &Member) -> Item {
    let span = |span: &Span| {
        let mut map = HashMap::from([("after".to_owned(), number(span.after))]);
        map.extend(span.until.map(|until| ("until".to_owned(), number(until))));
        AttributeValue::M(map)
    };
    let mut put = item(conversation_pk(conversation), member_sk(&member.user));
    put.insert("role".to_owned(), text(member.role.as_str()));
    put.insert("spans".to_owned(), AttributeValue::L(member.spans.iter().map(span).collect()));
    put.insert("as_of".to_owned(), number(member.as_of));
    put
}

/// Reads a member back.
pub fn read_member(item: Item) -> Result<Member, StoreError> {
    let mut fields = Fields::new(item);
    let Some(AttributeValue::L(list)) = fields.value("spans") else {
        return Err(fields.damaged("spans"));
    };
    let mut spans = Vec::with_capacity(list.len());
    for value in list {
        let AttributeValue::M(map) = value else { return Err(fields.damaged("spans")) };
        let mut span = Fields { item: map, key: fields.key.clone() };
        spans.push(Span { after: span.number("after")?, until: span.maybe_number("until")? });
    }
    Ok(Member {
        user: fields.sk_id("U#")?,
        role: fields.text("role")?,
        spans,
        as_of: fields.number("as_of")?,
    })
}

/// Up to when a person's tokens are dead, as it is put.
pub fn revoked_item(user: &UserId, not_before: Timestamp) -> Item {
    let mut put = item(user_pk(user), REVOKED_SK.to_owned());
    put.insert("notBefore".to_owned(), number(not_before));
    put
}

/// Reads that back.
pub fn read_revoked(item: Item) -> Result<Timestamp, StoreError> {
    Fields::new(item).number("notBefore")
}

/// A head as it is put.
pub fn head_item(conversation: &ConversationId, head: &Head) -> Item {
    let mut put = item(conversation_pk(conversation), HEAD_SK.to_owned());
    put.insert("floor".to_owned(), number(head.floor));
    put.extend(head.title.as_ref().map(|title| ("title".to_owned(), text(title.as_str()))));
    put.extend(head.creator.as_ref().map(|user| ("creator".to_owned(), text(user.as_str()))));
    put.insert("public".to_owned(), AttributeValue::Bool(head.public));
    put.insert("created".to_owned(), number(head.created));
    put
}

/// Reads a head back.
pub fn read_head(item: Item) -> Result<Head, StoreError> {
    let mut fields = Fields::new(item);
    Ok(Head {
        floor: fields.number("floor")?,
        title: fields.maybe_text("title")?,
        creator: fields.maybe_id("creator")?,
        public: fields.flag("public")?,
        created: fields.number("created")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> (ConversationId, Entry) {
        let user = |name| UserId::parse(name).unwrap();
        let entry = Entry {
            seq: 7,
            kind: Kind::Message,
            from: user("userA"),
            to: Some(user("userB")),
            message: Some("Hi\u{0}\u{1f600}".into()),
            data: Some(Arc::from(RawValue::from_string(r#"{"a": 1.0}"#.into()).unwrap())),
            reference: Some(Ref::parse("r-1").unwrap()),
            device: DeviceId::plain(),
            timestamp: 1_790_000_000_000,
            n: 6,
        };
        (ConversationId::direct(&user("userA"), &user("userB")), entry)
    }

    #[test]
    fn an_entry_comes_back_with_the_names_of_the_wire() {
        let (conversation, entry) = entry();
        let put = entry_item(&conversation, &entry);
        assert_eq!(put["pk"], text("C#dm:userA:userB"));
        assert_eq!(put["sk"], text("M#00000000000000000007"));
        assert_eq!(put["data"], text(r#"{"a": 1.0}"#));
        assert_eq!(put["v"], number(1));
        let mut later = put;
        later.insert("reactions".to_owned(), text("of a later version"));
        assert_eq!(read_entry(later).unwrap(), entry);
    }

    #[test]
    fn every_damage_of_an_entry_is_said() {
        let (conversation, entry) = entry();
        let put = entry_item(&conversation, &entry);
        let mut damages = vec![];
        for name in ["kind", "from", "device", "timestamp", "n", "sk"] {
            let mut gone = put.clone();
            gone.remove(name);
            damages.push((name, gone));
        }
        let bad = [
            ("data", text("{")),
            ("from", text("a#b")),
            ("n", text("6")),
            ("n", AttributeValue::N("-1".into())),
            ("message", AttributeValue::Bool(true)),
            ("sk", text("M#x")),
        ];
        for (name, value) in bad {
            let mut other = put.clone();
            other.insert(name.to_owned(), value);
            damages.push((name, other));
        }
        for (name, item) in damages {
            let error = read_entry(item).unwrap_err();
            let StoreError::Damaged(text) = error else { panic!("{name}: {error}") };
            assert!(text.contains("C#dm:userA:userB") && text.ends_with(name), "{text}");
        }
    }

    #[test]
    fn records_come_back() {
        let user = UserId::parse("userA").unwrap();
        let room = ConversationId::parse("room:general").unwrap();
        let spans = vec![Span { after: 0, until: Some(4) }, Span { after: 8, until: None }];
        let member = Member { user: user.clone(), role: "owner".into(), spans, as_of: 9 };
        assert_eq!(read_member(member_item(&room, &member)).unwrap(), member);
        let head = Head { floor: 1, title: None, creator: Some(user), public: true, created: 5 };
        assert_eq!(read_head(head_item(&room, &head)).unwrap(), head);
        let mut bad = head_item(&room, &head);
        bad.insert("public".into(), text("yes"));
        assert!(matches!(read_head(bad), Err(StoreError::Damaged(_))));
    }
}
