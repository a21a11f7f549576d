//! The rules of logs: dense, counted, and each leads from a mailbox row of whom it is for.

use rusqlite::Connection;

use super::{NEW_DISK, ROW_LOST, Report, TELL_US, sound};
use crate::protocol::{ConversationId, ConversationKind, Entry, Kind, Seq, UserId};
use crate::store::embedded::log::seq_key;
use crate::store::embedded::mailbox::RowItem;
use crate::store::embedded::records::HeadItem;
use crate::store::embedded::tables::{conversation_pk, get, user_pk};

const NOT_OFFERED: &str = "history has the messages, but they may not be offered to that person";

/// What was read of one log so far.
#[derive(Default)]
struct Log {
    name: String,
    tail: Seq,
    /// `n` at the tail, where that could be read.
    n: Option<u64>,
    /// The highest seq addressed to each of two people.
    addressed: Vec<(UserId, Seq)>,
}

impl Log {
    fn place(&self, seq: Seq) -> String {
        format!("entry {} {seq}", self.name)
    }
}

pub(super) fn check(connection: &Connection, report: &mut Report<'_>) -> rusqlite::Result<()> {
    let sql = "SELECT conversation, seq, body, crc FROM entries ORDER BY conversation, seq";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut log = Log::default();
    while let Some(row) = rows.next()? {
        let (name, seq): (String, i64) = (row.get(0)?, row.get(1)?);
        let seq = seq.unsigned_abs();
        if name != log.name {
            end(connection, &log, report)?;
            log = Log { name, ..Log::default() };
            begin(connection, &mut log, seq, report)?;
        } else if seq != log.tail + 1 {
            let what = format!("there is nothing between {} and this", log.tail);
            report.fault(log.place(seq), what, NEW_DISK);
            log.n = None;
        }
        log.tail = seq;
        match sound(&log.name, &seq_key(seq), row.get_ref(2)?, row.get(3)) {
            Ok(body) => entry(&mut log, body, report),
            Err(what) => {
                report.fault(log.place(seq), what, ROW_LOST);
                log.n = None;
            }
        }
        report.row("entries");
    }
    end(connection, &log, report)
}

/// A log begins at 1, or where a floor says that older entries were deleted.
fn begin(
    connection: &Connection,
    log: &mut Log,
    first: Seq,
    report: &mut Report<'_>,
) -> rusqlite::Result<()> {
    let Ok(id) = ConversationId::parse(&log.name) else {
        report.fault(log.place(first), "this is no conversation's name", TELL_US);
        return Ok(());
    };
    let head: Option<Result<HeadItem, _>> = get(connection, &conversation_pk(&id), "HEAD")?;
    let floor = head.and_then(Result::ok).map_or(0, |head| head.floor);
    if first > floor.max(1) {
        report.fault(log.place(first), "the entries before it are missing", NEW_DISK);
    }
    if first == 1 {
        log.n = Some(0);
    }
    Ok(())
}

fn entry(log: &mut Log, body: &[u8], report: &mut Report<'_>) {
    let place = log.place(log.tail);
    let entry: Entry = match serde_json::from_slice(body) {
        Ok(entry) => entry,
        Err(error) => {
            report.fault(place, format!("is not an entry: {error}"), TELL_US);
            log.n = None;
            return;
        }
    };
    if entry.seq != log.tail {
        report.fault(place.clone(), format!("says that it is {}", entry.seq), TELL_US);
    }
    let n = log.n.map(|n| n + u64::from(entry.kind == Kind::Message));
    if n.is_some_and(|n| n != entry.n) {
        report.fault(place, format!("counts {} messages up to here", entry.n), TELL_US);
    }
    log.n = Some(entry.n);
    if let Some(to) = entry.to {
        // Of a room only two are kept: it is direct conversations that are looked at.
        let room_left = log.addressed.len() < 2;
        match log.addressed.iter_mut().find(|(known, _)| *known == to) {
            Some((_, seq)) => *seq = log.tail,
            None if room_left => log.addressed.push((to, log.tail)),
            None => {}
        }
    }
}

/// No entry stands before the row of whom it is for leads to it.
fn end(connection: &Connection, log: &Log, report: &mut Report<'_>) -> rusqlite::Result<()> {
    let Ok(id) = ConversationId::parse(&log.name) else { return Ok(()) };
    let ConversationKind::Direct(..) = id.kind() else { return Ok(()) };
    for (user, highest) in &log.addressed {
        let (pk, sk) = (user_pk(user), conversation_pk(&id));
        let place = format!("item {pk} {sk}");
        match get::<RowItem>(connection, &pk, &sk)? {
            None => {
                report.fault(place, format!("is missing, and {highest} is for it"), NOT_OFFERED);
            }
            Some(Ok(row)) if row.last < *highest => {
                let what = format!("leads to {}, and {highest} stands", row.last);
                report.fault(place, what, NOT_OFFERED);
            }
            // A damaged one is told with the items.
            Some(_) => {}
        }
    }
    Ok(())
}
