//! Mailbox rows, and the devices that stand beside them.

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::records::{REVOKED, RevokedItem};
use super::tables::{Item, conversation_pk, get, parse, put, read_error, scan, stands, user_pk};
use crate::protocol::{ConversationId, DeviceId, Seq, Timestamp, UserId};
use crate::store::mailbox::cursors_beyond;
use crate::store::{
    CURSORS_MAX, Device, MailboxPage, MailboxPart, PAGE_MAX, Raise, Row, StoreError,
};

/// A mailbox row's values; its key is the item's.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RowItem {
    #[serde(default)]
    pub last: Seq,
    #[serde(default)]
    pub delivered: Seq,
    #[serde(default)]
    pub read: Seq,
    #[serde(default)]
    pub read_n: u64,
    #[serde(default)]
    pub cursors: Vec<(DeviceId, Seq)>,
}

/// A device's values; its key is the item's.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeviceItem {
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
}

/// See `Store::raise`.
pub fn raise(
    connection: &Connection,
    user: &UserId,
    conversation: &ConversationId,
    raise: &Raise,
) -> rusqlite::Result<()> {
    let (pk, sk) = (user_pk(user), conversation_pk(conversation));
    let mut row: RowItem = stands(connection, &pk, &sk)?.unwrap_or_default();
    let mut rose = false;
    let mut lift = |value: &mut Seq, to: Seq| {
        let higher = to > *value;
        if higher {
            (*value, rose) = (to, true);
        }
        higher
    };
    if let Some(last) = raise.last {
        lift(&mut row.last, last);
    }
    if let Some(delivered) = raise.delivered {
        lift(&mut row.delivered, delivered);
    }
    if let Some((read, n)) = raise.read
        && lift(&mut row.read, read)
    {
        row.read_n = n;
    }
    let known = row.cursors.len();
    for (device, seq) in &raise.cursors {
        match row.cursors.iter_mut().find(|(known, _)| known == device) {
            Some((_, cursor)) => {
                lift(cursor, *seq);
            }
            None => {
                row.cursors.push((device.clone(), *seq));
                lift(&mut 0, seq.saturating_add(1));
            }
        }
    }
    if row.cursors.len() > known.max(CURSORS_MAX) {
        let gone = cursors_beyond(&row.cursors, &devices(connection, &pk)?, raise);
        row.cursors.retain(|cursor| !gone.contains(cursor));
    }
    if rose { put(connection, &pk, &sk, &row) } else { Ok(()) }
}

/// The devices of a person, by their keys alone.
fn devices(connection: &Connection, pk: &str) -> rusqlite::Result<Vec<DeviceId>> {
    let sql = "SELECT sk FROM items WHERE pk = ?1 AND sk > 'D#' AND sk < 'D~'";
    let mut statement = connection.prepare_cached(sql)?;
    let names = statement.query_map([pk], |row| row.get::<_, String>(0))?;
    let names = names.collect::<rusqlite::Result<Vec<_>>>()?;
    let device = |sk: String| DeviceId::parse(sk.strip_prefix("D#")?).ok();
    Ok(names.into_iter().filter_map(device).collect())
}

/// See `Store::mailbox`.
pub fn mailbox(
    connection: &Connection,
    user: &UserId,
    part: MailboxPart,
) -> Result<MailboxPage, StoreError> {
    let pk = user_pk(user);
    let (after, until) = match part {
        MailboxPart::Page { after, .. } => (after.unwrap_or_default(), "~"),
        MailboxPart::Row(conversation) => {
            let item = get(connection, &pk, &conversation_pk(&conversation)).map_err(read_error)?;
            let row = item.transpose()?.map(|item: RowItem| row(conversation, item));
            return Ok(MailboxPage { rows: row.into_iter().collect(), ..Default::default() });
        }
        MailboxPart::Devices => ("D#".to_owned(), "D~"),
    };
    let mut page = MailboxPage::default();
    let items = scan(connection, &pk, &after, until, Some(PAGE_MAX))?;
    for item in items.rows {
        if let Err(error) = read_into(&mut page, &pk, &item) {
            page.damaged.push(error.to_string());
        }
        page.next = items.more.then_some(item.sk);
    }
    Ok(page)
}

fn read_into(page: &mut MailboxPage, pk: &str, item: &Item) -> Result<(), StoreError> {
    if let Some(name) = item.sk.strip_prefix("C#") {
        let conversation = parse::<ConversationId>(name, pk, &item.sk)?;
        page.rows.push(row(conversation, item.decode(pk)?));
    } else if let Some(name) = item.sk.strip_prefix("D#") {
        let DeviceItem { first_seen, last_seen } = item.decode(pk)?;
        let device = parse::<DeviceId>(name, pk, &item.sk)?;
        page.devices.push(Device { device, first_seen, last_seen });
    } else if item.sk == REVOKED {
        // What can't be read must not open a door.
        page.revoked = Some(Timestamp::MAX);
        let RevokedItem { not_before } = item.decode(pk)?;
        page.revoked = Some(not_before);
    }
    Ok(())
}

fn row(conversation: ConversationId, item: RowItem) -> Row {
    let RowItem { last, delivered, read, read_n, cursors } = item;
    Row { conversation, last, delivered, read, read_n, cursors }
}
