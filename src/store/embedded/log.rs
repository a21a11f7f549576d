//! The entries of a conversation, in a table of their own.

use rusqlite::{Connection, params};

use super::tables::{PAGE_BYTES_MAX, crc, decode, encode, read_error};
use crate::protocol::{ConversationId, Entry, Seq};
use crate::store::{LogPage, LogRange, Order, PAGE_MAX, StoreError};

/// An entry as it is stored, with its seq.
pub fn encode_entry(entry: &Entry) -> Result<(Seq, Vec<u8>), StoreError> {
    Ok((entry.seq, encode(entry)?))
}

/// The key as it goes into the checksum.
pub fn seq_key(seq: Seq) -> [u8; 8] {
    seq.to_be_bytes()
}

/// Puts entries until one is occupied; how many were put.
pub fn append(
    connection: &Connection,
    conversation: &ConversationId,
    bodies: &[(Seq, Vec<u8>)],
) -> rusqlite::Result<usize> {
    let mut put =
        connection.prepare_cached("INSERT OR IGNORE INTO entries VALUES (?1, ?2, ?3, ?4)")?;
    for (count, (seq, body)) in bodies.iter().enumerate() {
        let crc = crc(conversation.as_str(), &seq_key(*seq), body);
        let rows = put.execute(params![conversation.as_str(), signed(*seq), body, crc])?;
        if rows == 0 {
            return Ok(count);
        }
    }
    Ok(bodies.len())
}

/// SQLite's integers are signed; a seq of 2^63 is never reached by appending at the tail.
fn signed(seq: Seq) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// A page of a log.
pub fn log(
    connection: &Connection,
    conversation: &ConversationId,
    range: LogRange,
) -> Result<LogPage, StoreError> {
    let sql = match range.order {
        Order::Ascending => {
            "SELECT seq, body, crc FROM entries
             WHERE conversation = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4"
        }
        Order::Descending => {
            "SELECT seq, body, crc FROM entries
             WHERE conversation = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4"
        }
    };
    let limit = range.limit.clamp(1, PAGE_MAX);
    let before = range.before.map_or(i64::MAX, signed);
    let mut statement = connection.prepare_cached(sql).map_err(read_error)?;
    // One more than asked for shows whether there is more.
    let bounds = params![
        conversation.as_str(),
        signed(range.after),
        before,
        i64::try_from(limit + 1).unwrap_or(i64::MAX)
    ];
    let mut rows = statement.query(bounds).map_err(read_error)?;
    let (mut page, mut bytes) = (LogPage::default(), 0);
    while let Some(row) = rows.next().map_err(read_error)? {
        if page.entries.len() == limit || bytes > PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        let seq: i64 = row.get(0).map_err(read_error)?;
        let body = row.get_ref(1).map_err(read_error)?;
        let body = body.as_blob().map_err(|error| StoreError::Damaged(error.to_string()))?;
        let stored: u32 = row.get(2).map_err(read_error)?;
        let seq = seq.unsigned_abs();
        if page.entries.last().is_some_and(|before| before.seq.abs_diff(seq) != 1) {
            // Logs are dense: what should stand in between is gone.
            return Err(StoreError::Damaged(format!("{conversation} next to {seq}")));
        }
        page.entries.push(decode(conversation.as_str(), &seq_key(seq), body, stored)?);
        bytes += body.len();
    }
    Ok(page)
}
