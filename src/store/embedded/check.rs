//! Reads everything that a folder holds and says what is wrong with it.
//!
//! Works on a stopped store and beside a running one: all is read in one transaction, as it stood
//! at one moment. The structure of the file is SQLite's to check; the rows' check sums and the
//! rules of the data (`entries`, `items`) are ours. Nothing is mended here.

mod entries;
mod items;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{FILE, FolderLock, OpenError, commits, opening, tables, wal};

/// How many faults of the file's structure are told.
const STRUCTURE_FAULTS_MAX: u32 = 100;
/// How many rows are read between two signs of life.
const ROWS_PER_SIGN: u64 = 2_000;

const NEW_DISK: &str = "stop parlor, keep a copy of the folder, and bring back a backup";
const ROW_LOST: &str = "what it held is lost; bring it back from a backup. All else is served";
const TELL_US: &str = "parlor never writes this: keep a copy of the folder and report it";

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which row or file.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub advice: Cow<'static, str>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.advice)
    }
}

/// What a check tells while it runs.
#[derive(Debug)]
pub enum Told {
    /// A fault.
    Fault(Fault),
    /// What is looked at now, and how many rows of how many were read so far.
    Progress(&'static str, u64, u64),
    /// It is over; so many rows were read.
    Done(u64),
}

/// Where a check puts what it finds.
struct Report<'a> {
    tell: &'a mut dyn FnMut(Told),
    rows: u64,
    rows_total: u64,
}

impl Report<'_> {
    fn fault(
        &mut self,
        place: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<Cow<'static, str>>,
    ) {
        let fault = Fault { place: place.into(), what: what.into(), advice: advice.into() };
        (self.tell)(Told::Fault(fault));
    }

    /// The rest of something can't be read.
    fn stopped(&mut self, place: &str, error: &rusqlite::Error) {
        self.fault(place, format!("can't be read on: {error}"), NEW_DISK);
    }

    fn row(&mut self, what: &'static str) {
        self.rows += 1;
        if self.rows.is_multiple_of(ROWS_PER_SIGN) {
            (self.tell)(Told::Progress(what, self.rows, self.rows_total));
        }
    }
}

/// Checks a folder; what is found goes to `tell`, as it is found.
pub fn check_folder(folder: &Path, tell: &mut dyn FnMut(Told)) -> Result<(), OpenError> {
    let name = || folder.display().to_string();
    let io = |error: std::io::Error| OpenError::Io(name(), error.to_string());
    let sql = |error: rusqlite::Error| OpenError::Io(name(), error.to_string());
    if !folder.join(FILE).try_exists().map_err(io)? {
        return Err(OpenError::Nothing(name()));
    }
    let accept = format!(
        "bring back a backup, or go on with what is left: parlor store accept-loss --data {}",
        name()
    );
    // Held until the end, so that nobody starts on what is being looked at.
    let lock = match FolderLock::take(folder) {
        Ok(lock) => Some(lock),
        Err(OpenError::InUse(_)) => None,
        Err(error) => return Err(error),
    };
    let mut report = Report { tell, rows: 0, rows_total: 0 };
    if lock.is_some() {
        // The log of a running store moves, and was looked at when that started.
        if let Some(lost) = wal::lost(&opening::log_path(folder)).map_err(io)? {
            report.fault(format!("{FILE}-wal"), format!("damaged: {lost}"), accept.clone());
        }
    }
    // In this order: the number in the database may rise in between.
    let noted = commits::noted(folder).map_err(io)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder.join(FILE), flags).map_err(sql)?;
    let begun = tables::prepare_reader(&connection)
        .and_then(|()| connection.execute_batch("BEGIN"))
        .and_then(|()| commits::stored(&connection));
    let schema = tables::schema(&connection).unwrap_or(0);
    match begun {
        Ok(_) if schema > tables::SCHEMA => return Err(OpenError::Newer(name(), schema)),
        Ok(stored) if stored < noted => {
            let what = format!("{noted} commits were acknowledged, and it holds {stored}");
            report.fault(FILE, what, accept);
        }
        Ok(_) => {}
        Err(error) => {
            report.stopped(FILE, &error);
            return Ok(());
        }
    }
    everything(&connection, &mut report);
    (report.tell)(Told::Done(report.rows));
    Ok(())
}

fn everything(connection: &Connection, report: &mut Report<'_>) {
    (report.tell)(Told::Progress("the file's structure", 0, 0));
    if let Err(error) = structure(connection, report) {
        report.stopped(FILE, &error);
    }
    let count = "SELECT (SELECT count(*) FROM entries) + (SELECT count(*) FROM items)";
    let count = connection.query_row(count, [], |row| row.get::<_, i64>(0));
    report.rows_total = count.unwrap_or(0).unsigned_abs();
    if let Err(error) = entries::check(connection, report) {
        report.stopped("the table of entries", &error);
    }
    if let Err(error) = items::check(connection, report) {
        report.stopped("the table of items", &error);
    }
}

fn structure(connection: &Connection, report: &mut Report<'_>) -> rusqlite::Result<()> {
    let sql = format!("PRAGMA integrity_check({STRUCTURE_FAULTS_MAX})");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let what: String = row.get(0)?;
        if what != "ok" {
            report.fault(FILE, what.replace('\n', " "), NEW_DISK);
        }
    }
    Ok(())
}

/// A row as it stands, if its columns are of the right types and its check sum holds.
fn sound<'a>(
    pk: &str,
    sk: &[u8],
    body: rusqlite::types::ValueRef<'a>,
    crc: rusqlite::Result<u32>,
) -> Result<&'a [u8], String> {
    let body = body.as_blob().map_err(|error| error.to_string())?;
    let crc = crc.map_err(|error| error.to_string())?;
    match tables::crc(pk, sk, body) == crc {
        true => Ok(body),
        false => Err("its check sum does not hold".to_owned()),
    }
}
