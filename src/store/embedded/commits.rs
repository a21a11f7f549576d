//! How many commits there were, kept twice: in the database, and in a small file beside it.
//!
//! The number in the database rises with every commit, and is written into the file once the commit
//! has returned. The file is not fsynced: it may trail, and is never ahead of what is durable. So a
//! database with a lower number has lost commits, however that came about: a damaged or missing
//! log, an older copy of the file put back, a disk that said fsync and did not.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::tables::crc;

/// The file within the folder.
pub const FILE: &str = "commits";
/// A number of 20 digits, its check sum, a line's end.
const LINE: usize = 30;

/// Made with the other tables; one row.
pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS commits (id INTEGER PRIMARY KEY CHECK (id = 1),
     number INTEGER NOT NULL);
     INSERT OR IGNORE INTO commits VALUES (1, 0);";

/// The number in the database; 0 where the table is not made yet.
pub fn stored(connection: &Connection) -> rusqlite::Result<u64> {
    let table = "SELECT 1 FROM sqlite_schema WHERE name = 'commits'";
    if connection.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    let number: Option<i64> =
        connection.query_row("SELECT number FROM commits", [], |row| row.get(0)).optional()?;
    Ok(number.unwrap_or(0).unsigned_abs())
}

/// Raises the number, within the transaction that it counts.
pub fn count(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "UPDATE commits SET number = number + 1 RETURNING number";
    let number: i64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(number.unsigned_abs())
}

/// A change that is none, to see whether a commit goes through.
pub fn touch(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE commits SET number = number", []).map(|_| ())
}

/// What the file says; 0 where there is none, or none that can be read.
pub fn noted(folder: &Path) -> std::io::Result<u64> {
    let mut line = String::new();
    match File::open(folder.join(FILE)).and_then(|mut file| file.read_to_string(&mut line)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) if error.kind() == ErrorKind::InvalidData => line.clear(),
        Err(error) => return Err(error),
    }
    let number = line.split_whitespace().next().and_then(|number| number.parse().ok());
    match number {
        Some(number) if line == text(number) => Ok(number),
        _ => {
            tracing::warn!("the file {FILE:?} can't be read: lost commits would not be noticed");
            Ok(0)
        }
    }
}

fn text(number: u64) -> String {
    let digits = format!("{number:020}");
    let sum = crc("commits", digits.as_bytes(), &[]);
    format!("{digits} {sum:08x}\n")
}

/// The file, open to be written.
pub struct Note(File);

impl Note {
    /// Makes it where it is missing.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join(FILE);
        Ok(Self(File::options().create(true).truncate(false).write(true).open(path)?))
    }

    /// Notes a commit that has returned.
    pub fn write(&self, number: u64) -> std::io::Result<()> {
        let text = text(number);
        debug_assert_eq!(text.len(), LINE, "it is overwritten in place");
        self.0.write_all_at(text.as_bytes(), 0)
    }

    /// Makes it durable: at the start and the end of a life.
    pub fn sync(&self) -> std::io::Result<()> {
        self.0.sync_all()
    }
}
