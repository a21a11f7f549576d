//! Tables of the embedded store, and how a row stands in them.
//!
//! Rows are JSON beside the columns that a statement needs, with a crc32 over key and JSON: a row
//! that was moved under another key is damage too. Entries have a table of their own (`log`); all
//! else are items under two keys (`mailbox`, `records`).

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::commits;
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationId, DeviceId, UserId};
use crate::store::StoreError;

/// The version of what is below.
pub const SCHEMA: i64 = 1;
/// A page ends at 1 MB.
pub const PAGE_BYTES_MAX: usize = 1_000_000;

/// Settings of the writing connection. It is the writer who empties the log, so that a failure of
/// that is seen.
pub fn prepare_file(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 2000;
         PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 0;",
    )?;
    if planted(Bug::FsyncSkipped) {
        connection.execute_batch("PRAGMA synchronous = OFF")?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Settings of a reading connection.
pub fn prepare_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA busy_timeout = 2000; PRAGMA cache_size = -16384;")
}

/// The version that a file was written by; 0 where it is new.
pub fn schema(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Makes the tables; `Some` is the schema of a later version.
pub fn migrate(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let found = schema(connection)?;
    if found > SCHEMA {
        return Ok(Some(found));
    }
    // Each of these would write, and a start that has nothing to make should not.
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('entries', 'items', 'commits')";
    let made: i64 = connection.query_row(tables, [], |row| row.get(0))?;
    if found == SCHEMA && made == 3 {
        return Ok(None);
    }
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS entries (conversation TEXT, seq INTEGER, body BLOB NOT NULL,
             crc INTEGER NOT NULL, PRIMARY KEY (conversation, seq)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS items (pk TEXT, sk TEXT, body BLOB NOT NULL,
             crc INTEGER NOT NULL, PRIMARY KEY (pk, sk)) WITHOUT ROWID;
         {}
         PRAGMA user_version = {SCHEMA};
         COMMIT;",
        commits::TABLE
    ))?;
    Ok(None)
}

pub fn read_error(error: rusqlite::Error) -> StoreError {
    let not_ours = matches!(
        error,
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::IntegralValueOutOfRange(..)
    );
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            StoreError::Damaged(error.to_string())
        }
        _ if not_ours => StoreError::Damaged(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

pub fn crc(pk: &str, sk: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [pk.as_bytes(), &[0], sk, &[0], body] {
        hasher.update(part);
    }
    hasher.finalize()
}

pub fn decode<'a, T: Deserialize<'a>>(
    pk: &str,
    sk: &[u8],
    body: &'a [u8],
    stored: u32,
) -> Result<T, StoreError> {
    let damaged = || {
        let sk = String::from_utf8_lossy(sk);
        StoreError::Damaged(format!("{pk} {sk}"))
    };
    if crc(pk, sk, body) != stored {
        return Err(damaged());
    }
    serde_json::from_slice(body).map_err(|_| damaged())
}

pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Refused(error.to_string()))
}

pub fn get<T: for<'a> Deserialize<'a>>(
    connection: &Connection,
    pk: &str,
    sk: &str,
) -> rusqlite::Result<Option<Result<T, StoreError>>> {
    let mut statement =
        connection.prepare_cached("SELECT body, crc FROM items WHERE pk = ?1 AND sk = ?2")?;
    statement
        .query_row(params![pk, sk], |row| {
            let body: Vec<u8> = row.get(0)?;
            Ok(decode(pk, sk.as_bytes(), &body, row.get(1)?))
        })
        .optional()
}

pub fn put<T: Serialize>(
    connection: &Connection,
    pk: &str,
    sk: &str,
    value: &T,
) -> rusqlite::Result<()> {
    let to_sql = |error: StoreError| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let body = encode(value).map_err(to_sql)?;
    let crc = crc(pk, sk.as_bytes(), &body);
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO items VALUES (?1, ?2, ?3, ?4)")?;
    statement.execute(params![pk, sk, body, crc]).map(|_| ())
}

/// The value that stands there, for a write that depends on it. A damaged one is not overwritten.
pub fn stands<T: for<'a> Deserialize<'a>>(
    connection: &Connection,
    pk: &str,
    sk: &str,
) -> rusqlite::Result<Option<T>> {
    let damaged = |error: StoreError| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
    };
    get(connection, pk, sk)?.transpose().map_err(damaged)
}

pub fn user_pk(user: &UserId) -> String {
    format!("U#{user}")
}

pub fn conversation_pk(conversation: &ConversationId) -> String {
    format!("C#{conversation}")
}

pub fn starts_pk(user: &UserId, device: &DeviceId) -> String {
    format!("V#{user}#{device}")
}

pub fn parse<T: std::str::FromStr>(name: &str, pk: &str, sk: &str) -> Result<T, StoreError> {
    name.parse().map_err(|_| StoreError::Damaged(format!("{pk} {sk}")))
}

/// An item as it stands.
pub struct Item {
    pub sk: String,
    /// Body and check sum, where the columns hold such things.
    stored: rusqlite::Result<(Vec<u8>, u32)>,
}

impl Item {
    /// What it holds, if that is what was written.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self, pk: &str) -> Result<T, StoreError> {
        let damaged = |_| StoreError::Damaged(format!("{pk} {}", self.sk));
        let (body, crc) = self.stored.as_ref().map_err(damaged)?;
        decode(pk, self.sk.as_bytes(), body, *crc)
    }
}

/// Items of one partition.
pub struct Scan {
    pub rows: Vec<Item>,
    /// There are more behind these.
    pub more: bool,
}

/// Items of one partition, strictly between two keys: a page of at most `limit` and 1 MB, or all.
pub fn scan(
    connection: &Connection,
    pk: &str,
    after: &str,
    until: &str,
    limit: Option<usize>,
) -> Result<Scan, StoreError> {
    let sql = "SELECT sk, body, crc FROM items WHERE pk = ?1 AND sk > ?2 AND sk < ?3 ORDER BY sk";
    let mut statement = connection.prepare_cached(sql).map_err(read_error)?;
    let mut rows = statement.query(params![pk, after, until]).map_err(read_error)?;
    let (mut scan, mut bytes) = (Scan { rows: Vec::new(), more: false }, 0);
    while let Some(row) = rows.next().map_err(read_error)? {
        if limit.is_some_and(|limit| scan.rows.len() == limit || bytes > PAGE_BYTES_MAX) {
            scan.more = true;
            break;
        }
        let sk = row.get(0).map_err(read_error)?;
        let stored = row.get(1).and_then(|body| Ok((body, row.get(2)?)));
        bytes += stored.as_ref().map_or(0, |(body, _): &(Vec<u8>, u32)| body.len());
        scan.rows.push(Item { sk, stored });
    }
    Ok(scan)
}
