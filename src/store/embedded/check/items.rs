//! The rules of items: known by their keys, and nobody is further than the log.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;

use super::{NEW_DISK, ROW_LOST, Report, TELL_US, sound};
use crate::protocol::{ConversationId, DeviceId, Seq, UserId};
use crate::store::embedded::mailbox::{DeviceItem, RowItem};
use crate::store::embedded::records::{HeadItem, MemberItem, REVOKED, RevokedItem};

const TAIL_IS_GONE: &str = NEW_DISK;

pub(super) fn check(connection: &Connection, report: &mut Report<'_>) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT pk, sk, body, crc FROM items")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (pk, sk): (String, String) = (row.get(0)?, row.get(1)?);
        match sound(&pk, sk.as_bytes(), row.get_ref(2)?, row.get(3)) {
            Err(what) => report.fault(format!("item {pk} {sk}"), what, ROW_LOST),
            Ok(body) => {
                if let Some((what, advice)) = wrong(connection, &pk, &sk, body)? {
                    report.fault(format!("item {pk} {sk}"), what, advice);
                }
            }
        }
        report.row("items");
    }
    Ok(())
}

type Wrong = Option<(String, &'static str)>;

/// What is wrong with an item whose check sum holds.
fn wrong(connection: &Connection, pk: &str, sk: &str, body: &[u8]) -> rusqlite::Result<Wrong> {
    let of_user = pk.strip_prefix("U#").filter(|user| UserId::parse(user).is_ok());
    let of_conversation = pk.strip_prefix("C#").and_then(|id| ConversationId::parse(id).ok());
    let device = sk.strip_prefix("D#").filter(|device| DeviceId::parse(device).is_ok());
    let conversation = sk.strip_prefix("C#").and_then(|id| ConversationId::parse(id).ok());
    let member = sk.strip_prefix("U#").filter(|user| UserId::parse(user).is_ok());
    Ok(match (of_user, of_conversation) {
        (Some(_), _) if let Some(conversation) = conversation => {
            let tail = tail(connection, &conversation)?;
            judged(body, |row: &RowItem| row_wrong(row, tail))
        }
        (Some(_), _) if device.is_some() => judged(body, |device: &DeviceItem| {
            let backwards = device.first_seen > device.last_seen;
            backwards.then(|| "was last seen before it was first seen".to_owned())
        }),
        (Some(_), _) if sk == REVOKED => judged(body, |_: &RevokedItem| None),
        (_, Some(_)) if sk == "HEAD" => judged(body, |_: &HeadItem| None),
        (_, Some(conversation)) if member.is_some() => {
            let tail = tail(connection, &conversation)?;
            judged(body, |member: &MemberItem| {
                let beyond = member.as_of > tail.0;
                beyond.then(|| format!("tells of {}, and the log ends at {}", member.as_of, tail.0))
            })
        }
        _ if pk.starts_with("V#") && sk.parse::<u32>().is_ok() => {
            judged(body, |_: &Vec<(ConversationId, Seq)>| None)
        }
        _ => Some(("nobody knows such a key".to_owned(), TELL_US)),
    })
}

fn judged<T: for<'a> Deserialize<'a>>(body: &[u8], wrong: impl Fn(&T) -> Option<String>) -> Wrong {
    match serde_json::from_slice(body) {
        Ok(item) => wrong(&item).map(|what| (what, TAIL_IS_GONE)),
        Err(error) => Some((format!("is not what its key says: {error}"), TELL_US)),
    }
}

/// Where a log ends, and `n` there if that can be read.
fn tail(
    connection: &Connection,
    conversation: &ConversationId,
) -> rusqlite::Result<(Seq, Option<u64>)> {
    #[derive(Deserialize)]
    struct Counted {
        n: u64,
    }
    let sql = "SELECT seq, body FROM entries WHERE conversation = ?1 ORDER BY seq DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let newest = statement.query_row(params![conversation.as_str()], |row| {
        let seq: i64 = row.get(0)?;
        let counted = row.get_ref(1)?.as_blob().ok().and_then(|b| serde_json::from_slice(b).ok());
        Ok((seq.unsigned_abs(), counted.map(|Counted { n }| n)))
    });
    Ok(newest.optional()?.unwrap_or((0, Some(0))))
}

/// Nobody has received or seen what does not stand, unless what stood is gone.
fn row_wrong(row: &RowItem, (tail, n): (Seq, Option<u64>)) -> Option<String> {
    let cursor = row.cursors.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
    let all = [("received", row.delivered), ("seen", row.read), ("at a device's cursor", cursor)];
    let beyond = all.into_iter().find(|(_, seq)| *seq > tail);
    if let Some((what, seq)) = beyond {
        return Some(format!("{seq} is {what}, and the log ends at {tail}"));
    }
    n.filter(|n| row.read_n > *n)
        .map(|n| format!("{} messages are seen, and the log counts {n}", row.read_n))
}
