//! Devices, members, heads of conversations: items that are written now and then.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::mailbox::DeviceItem;
use super::tables::{
    conversation_pk, get, parse, put, read_error, scan, stands, starts_pk, user_pk,
};
use crate::protocol::{ConversationId, Seq, Timestamp, UserId};
use crate::store::{Head, Member, Record, RecordPart, Span, StoreError};

#[derive(Debug, Serialize, Deserialize)]
pub struct MemberItem {
    pub role: String,
    pub spans: Vec<(Seq, Option<Seq>)>,
    pub as_of: Seq,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct HeadItem {
    pub floor: Seq,
    pub title: Option<String>,
    pub creator: Option<UserId>,
    pub public: bool,
    pub created: Timestamp,
}

/// The key of what says which tokens of a person are dead.
pub const REVOKED: &str = "REVOKED";

#[derive(Debug, Serialize, Deserialize)]
pub struct RevokedItem {
    pub not_before: Timestamp,
}

/// See `Store::write`.
pub fn write(connection: &Connection, record: &Record) -> rusqlite::Result<bool> {
    match record {
        Record::Device(user, device) => {
            let (pk, sk) = (user_pk(user), format!("D#{}", device.device));
            let known: Option<DeviceItem> = stands(connection, &pk, &sk)?;
            if known.as_ref().is_some_and(|known| known.last_seen >= device.last_seen) {
                return Ok(false);
            }
            let first_seen = known.map_or(device.first_seen, |known| known.first_seen);
            put(connection, &pk, &sk, &DeviceItem { first_seen, last_seen: device.last_seen })?;
        }
        Record::ForgetDevice(user, device) => {
            let delete = "DELETE FROM items WHERE pk = ?1 AND sk = ?2";
            connection.execute(delete, params![user_pk(user), format!("D#{device}")])?;
            let starts = "DELETE FROM items WHERE pk = ?1";
            connection.execute(starts, params![starts_pk(user, device)])?;
        }
        Record::Starts { user, device, chunk, starts } => {
            put(connection, &starts_pk(user, device), &format!("{chunk:06}"), starts)?;
        }
        Record::Member(conversation, member) => {
            let (pk, sk) = (conversation_pk(conversation), user_pk(&member.user));
            let known: Option<MemberItem> = stands(connection, &pk, &sk)?;
            if known.is_some_and(|known| known.as_of >= member.as_of) {
                return Ok(false);
            }
            let spans = member.spans.iter().map(|span| (span.after, span.until)).collect();
            let item = MemberItem { role: member.role.clone(), spans, as_of: member.as_of };
            put(connection, &pk, &sk, &item)?;
        }
        Record::Head(conversation, head) => {
            let pk = conversation_pk(conversation);
            if stands::<HeadItem>(connection, &pk, "HEAD")?.is_some() {
                return Ok(false);
            }
            let Head { floor, title, creator, public, created } = head.clone();
            put(connection, &pk, "HEAD", &HeadItem { floor, title, creator, public, created })?;
        }
        Record::Revoked(user, until) => {
            let pk = user_pk(user);
            let known: Option<RevokedItem> = stands(connection, &pk, REVOKED)?;
            if known.is_some_and(|known| known.not_before >= *until) {
                return Ok(false);
            }
            put(connection, &pk, REVOKED, &RevokedItem { not_before: *until })?;
        }
    }
    Ok(true)
}

/// See `Store::records`.
pub fn records(connection: &Connection, part: RecordPart) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    match part {
        RecordPart::Starts(user, device) => {
            let pk = starts_pk(&user, &device);
            for item in scan(connection, &pk, "", "~", None)?.rows {
                let starts = item.decode(&pk)?;
                let chunk = parse(&item.sk, &pk, &item.sk)?;
                let (user, device) = (user.clone(), device.clone());
                records.push(Record::Starts { user, device, chunk, starts });
            }
        }
        RecordPart::Revoked(user) => {
            let item = get::<RevokedItem>(connection, &user_pk(&user), REVOKED);
            let item = item.map_err(read_error)?.transpose()?;
            records.extend(item.map(|item| Record::Revoked(user, item.not_before)));
        }
        RecordPart::Head(conversation) => {
            let pk = conversation_pk(&conversation);
            let item = get::<HeadItem>(connection, &pk, "HEAD").map_err(read_error)?.transpose()?;
            if let Some(HeadItem { floor, title, creator, public, created }) = item {
                let head = Head { floor, title, creator, public, created };
                records.push(Record::Head(conversation, head));
            }
        }
        RecordPart::Member(conversation, user) => {
            let (pk, sk) = (conversation_pk(&conversation), user_pk(&user));
            if let Some(item) = get(connection, &pk, &sk).map_err(read_error)? {
                records.push(member(&conversation, &sk, item?)?);
            }
        }
        RecordPart::Roster(conversation) => {
            let pk = conversation_pk(&conversation);
            for item in scan(connection, &pk, "U#", "U~", None)?.rows {
                records.push(member(&conversation, &item.sk, item.decode(&pk)?)?);
            }
        }
    }
    Ok(records)
}

fn member(conversation: &ConversationId, sk: &str, item: MemberItem) -> Result<Record, StoreError> {
    let name = sk.strip_prefix("U#").unwrap_or_default();
    let user = parse::<UserId>(name, &conversation_pk(conversation), sk)?;
    let span = |(after, until)| Span { after, until };
    let spans = item.spans.into_iter().map(span).collect();
    let member = Member { user, role: item.role, spans, as_of: item.as_of };
    Ok(Record::Member(conversation.clone(), member))
}
