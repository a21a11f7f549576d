//! Tables, statements and rows of the embedded store.
//!
//! Rows are JSON beside the columns that a statement needs, with a crc32 over key and JSON: a row
//! that was moved under another key is damage too.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::protocol::{ConversationId, DeviceId, Entry, Seq, Timestamp, UserId};
use crate::store::{
    Device, Head, LogPage, LogRange, MailboxPage, MailboxPart, Member, Order, PAGE_MAX, Raise,
    Record, RecordPart, Row, Span, StoreError,
};

const SCHEMA: i64 = 1;
/// A page ends at 1 MB.
const PAGE_BYTES_MAX: usize = 1_000_000;

/// Settings of the writing connection.
pub fn prepare_file(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 2000;
         PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 4000;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Settings of a store in memory.
pub fn prepare_memory(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Settings of a reading connection.
pub fn prepare_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA busy_timeout = 2000; PRAGMA cache_size = -16384;")
}

/// Makes the tables; `Some` is the schema of a later version.
pub fn migrate(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > SCHEMA {
        return Ok(Some(found));
    }
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS entries (conversation TEXT, seq INTEGER, body BLOB NOT NULL,
             crc INTEGER NOT NULL, PRIMARY KEY (conversation, seq)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS items (pk TEXT, sk TEXT, body BLOB NOT NULL,
             crc INTEGER NOT NULL, PRIMARY KEY (pk, sk)) WITHOUT ROWID;
         PRAGMA user_version = {SCHEMA};"
    ))?;
    Ok(None)
}

fn read_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            StoreError::Damaged(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

fn crc(pk: &str, sk: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [pk.as_bytes(), &[0], sk, &[0], body] {
        hasher.update(part);
    }
    hasher.finalize()
}

fn decode<'a, T: Deserialize<'a>>(
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

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Refused(error.to_string()))
}

/// An entry as it is stored, with its seq.
pub fn encode_entry(entry: &Entry) -> Result<(Seq, Vec<u8>), StoreError> {
    Ok((entry.seq, encode(entry)?))
}

fn seq_key(seq: Seq) -> [u8; 8] {
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
        page.entries.push(decode(conversation.as_str(), &seq_key(seq), body, stored)?);
        bytes += body.len();
    }
    Ok(page)
}

/// A mailbox row's values; its key is the item's.
#[derive(Debug, Default, Serialize, Deserialize)]
struct RowItem {
    #[serde(default)]
    last: Seq,
    #[serde(default)]
    delivered: Seq,
    #[serde(default)]
    read: Seq,
    #[serde(default)]
    read_n: u64,
    #[serde(default)]
    cursors: Vec<(DeviceId, Seq)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DeviceItem {
    first_seen: Timestamp,
    last_seen: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct MemberItem {
    role: String,
    spans: Vec<(Seq, Option<Seq>)>,
    as_of: Seq,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeadItem {
    floor: Seq,
    title: Option<String>,
    creator: Option<UserId>,
    public: bool,
    created: Timestamp,
}

fn get<T: for<'a> Deserialize<'a>>(
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

fn put<T: Serialize>(
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
fn stands<T: for<'a> Deserialize<'a>>(
    connection: &Connection,
    pk: &str,
    sk: &str,
) -> rusqlite::Result<Option<T>> {
    let damaged = |error: StoreError| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
    };
    get(connection, pk, sk)?.transpose().map_err(damaged)
}

fn user_pk(user: &UserId) -> String {
    format!("U#{user}")
}

fn conversation_pk(conversation: &ConversationId) -> String {
    format!("C#{conversation}")
}

fn starts_pk(user: &UserId, device: &DeviceId) -> String {
    format!("V#{user}#{device}")
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
    if rose { put(connection, &pk, &sk, &row) } else { Ok(()) }
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
    }
    Ok(true)
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
    let items = scan(connection, &pk, &after, until, PAGE_MAX)?;
    for (sk, body, stored) in items.rows {
        if let Some(name) = sk.strip_prefix("C#") {
            let conversation = parse::<ConversationId>(name, &pk, &sk)?;
            page.rows.push(row(conversation, decode(&pk, sk.as_bytes(), &body, stored)?));
        } else if let Some(name) = sk.strip_prefix("D#") {
            let item: DeviceItem = decode(&pk, sk.as_bytes(), &body, stored)?;
            let device = parse::<DeviceId>(name, &pk, &sk)?;
            let DeviceItem { first_seen, last_seen } = item;
            page.devices.push(Device { device, first_seen, last_seen });
        }
        page.next = items.more.then_some(sk);
    }
    Ok(page)
}

fn row(conversation: ConversationId, item: RowItem) -> Row {
    let RowItem { last, delivered, read, read_n, cursors } = item;
    Row { conversation, last, delivered, read, read_n, cursors }
}

fn parse<T: std::str::FromStr>(name: &str, pk: &str, sk: &str) -> Result<T, StoreError> {
    name.parse().map_err(|_| StoreError::Damaged(format!("{pk} {sk}")))
}

struct Scan {
    rows: Vec<(String, Vec<u8>, u32)>,
    more: bool,
}

fn scan(
    connection: &Connection,
    pk: &str,
    after: &str,
    until: &str,
    limit: usize,
) -> Result<Scan, StoreError> {
    let sql = "SELECT sk, body, crc FROM items WHERE pk = ?1 AND sk > ?2 AND sk < ?3 ORDER BY sk";
    let mut statement = connection.prepare_cached(sql).map_err(read_error)?;
    let mut rows = statement.query(params![pk, after, until]).map_err(read_error)?;
    let (mut scan, mut bytes) = (Scan { rows: Vec::new(), more: false }, 0);
    while let Some(row) = rows.next().map_err(read_error)? {
        if scan.rows.len() == limit || bytes > PAGE_BYTES_MAX {
            scan.more = true;
            break;
        }
        let body: Vec<u8> = row.get(1).map_err(read_error)?;
        bytes += body.len();
        scan.rows.push((row.get(0).map_err(read_error)?, body, row.get(2).map_err(read_error)?));
    }
    Ok(scan)
}

/// See `Store::records`.
pub fn records(connection: &Connection, part: RecordPart) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    let (conversation, members) = match part {
        RecordPart::Starts(user, device) => {
            let pk = starts_pk(&user, &device);
            for (sk, body, stored) in scan(connection, &pk, "", "~", usize::MAX)?.rows {
                let starts = decode(&pk, sk.as_bytes(), &body, stored)?;
                let chunk = parse(&sk, &pk, &sk)?;
                let (user, device) = (user.clone(), device.clone());
                records.push(Record::Starts { user, device, chunk, starts });
            }
            return Ok(records);
        }
        RecordPart::Roster(conversation) => (conversation, None),
        RecordPart::Member(conversation, user) => (conversation, Some(user_pk(&user))),
    };
    let pk = conversation_pk(&conversation);
    let head = get::<HeadItem>(connection, &pk, "HEAD").map_err(read_error)?.transpose()?;
    if let Some(HeadItem { floor, title, creator, public, created }) = head {
        let head = Head { floor, title, creator, public, created };
        records.push(Record::Head(conversation.clone(), head));
    }
    let member = |sk: &str, item: MemberItem| -> Result<Record, StoreError> {
        let name = sk.strip_prefix("U#").unwrap_or_default();
        let user = parse::<UserId>(name, &pk, sk)?;
        let span = |(after, until)| Span { after, until };
        let spans = item.spans.into_iter().map(span).collect();
        let member = Member { user, role: item.role, spans, as_of: item.as_of };
        Ok(Record::Member(conversation.clone(), member))
    };
    match members {
        Some(sk) => {
            if let Some(item) = get(connection, &pk, &sk).map_err(read_error)? {
                records.push(member(&sk, item?)?);
            }
        }
        None => {
            for (sk, body, stored) in scan(connection, &pk, "U#", "U~", usize::MAX)?.rows {
                records.push(member(&sk, decode(&pk, sk.as_bytes(), &body, stored)?)?);
            }
        }
    }
    Ok(records)
}

/// Every damaged row.
pub fn check(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut damaged = Vec::new();
    let mut statement = connection
        .prepare("SELECT conversation, seq, body, crc FROM entries")
        .map_err(read_error)?;
    let mut rows = statement.query([]).map_err(read_error)?;
    while let Some(row) = rows.next().map_err(read_error)? {
        let pk: String = row.get(0).map_err(read_error)?;
        let seq: i64 = row.get(1).map_err(read_error)?;
        let body: Vec<u8> = row.get(2).map_err(read_error)?;
        if crc(&pk, &seq_key(seq.unsigned_abs()), &body)
            != row.get::<_, u32>(3).map_err(read_error)?
        {
            damaged.push(format!("entry {pk} {seq}"));
        }
    }
    let mut statement =
        connection.prepare("SELECT pk, sk, body, crc FROM items").map_err(read_error)?;
    let mut rows = statement.query([]).map_err(read_error)?;
    while let Some(row) = rows.next().map_err(read_error)? {
        let (pk, sk): (String, String) =
            (row.get(0).map_err(read_error)?, row.get(1).map_err(read_error)?);
        let body: Vec<u8> = row.get(2).map_err(read_error)?;
        if crc(&pk, sk.as_bytes(), &body) != row.get::<_, u32>(3).map_err(read_error)? {
            damaged.push(format!("item {pk} {sk}"));
        }
    }
    Ok(damaged)
}
