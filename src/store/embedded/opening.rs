//! Opens the files of a folder to write: only what has lost nothing, and emptied into one.
//!
//! What is left in the log of an earlier life is written once more, then copied into the database
//! and fsynced there, before anything is acknowledged. After an fsync that failed this is what
//! makes a restart safe: the kernel may hold pages that it believes written and that are not on the
//! disk, and here all of them are written again. It also keeps the log short, and with it the next
//! start.

use std::fs::{File, copy};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode};

use super::commits::{self, Note};
use super::{FILE, OpenError, tables, wal};

/// How long another process may go on reading before a start gives up.
const READERS_SECONDS_MAX: u64 = 10;

/// A folder's files, open to write.
pub struct Opened {
    /// Nothing of an earlier log is left.
    pub connection: Connection,
    /// Where commits are noted.
    pub note: Note,
}

/// The log beside the database.
pub fn log_path(folder: &Path) -> PathBuf {
    folder.join(format!("{FILE}-wal"))
}

/// Opens a folder's files, making them where they are missing.
pub fn open(folder: &Path) -> Result<Opened, OpenError> {
    let name = || folder.display().to_string();
    let io = |error: std::io::Error| OpenError::Io(name(), error.to_string());
    if let Some(lost) = wal::lost(&log_path(folder)).map_err(io)? {
        let what = format!("its log {FILE}-wal is damaged: {lost}");
        return Err(OpenError::Lost(name(), what));
    }
    wal::make_durable(&log_path(folder)).map_err(io)?;
    let sql = |error: rusqlite::Error| OpenError::Io(name(), error.to_string());
    let connection = connect(folder).map_err(sql)?;
    // Compared before anything is written: what is left stays as it was found.
    let (stored, noted) =
        (commits::stored(&connection).map_err(sql)?, commits::noted(folder).map_err(io)?);
    if stored < noted {
        let what = format!("{noted} commits were acknowledged, and it holds {stored}");
        return Err(OpenError::Lost(name(), what));
    }
    ready(folder, connection)
}

/// Goes on with what is left of a folder that has lost something. The damaged log is kept.
pub fn accept_loss(folder: &Path) -> Result<Option<PathBuf>, OpenError> {
    let io = |error: std::io::Error| OpenError::Io(folder.display().to_string(), error.to_string());
    let sql =
        |error: rusqlite::Error| OpenError::Io(folder.display().to_string(), error.to_string());
    let log = log_path(folder);
    let mut kept = None;
    if log.exists() {
        let free = (1..).map(|number| folder.join(format!("{FILE}-wal.damaged-{number}")));
        let path = free.into_iter().find(|path| !path.exists());
        if let Some(path) = path {
            copy(&log, &path).map_err(io)?;
            kept = Some(path);
        }
    }
    wal::make_durable(&log).map_err(io)?;
    ready(folder, connect(folder).map_err(sql)?)?;
    Ok(kept)
}

fn connect(folder: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(folder.join(FILE))?;
    // A connection that was only opened to look must not empty the log when it closes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    tables::prepare_file(&connection)?;
    Ok(connection)
}

fn ready(folder: &Path, connection: Connection) -> Result<Opened, OpenError> {
    let name = || folder.display().to_string();
    let io = |error: std::io::Error| OpenError::Io(name(), error.to_string());
    let sql = |error: rusqlite::Error| OpenError::Io(name(), error.to_string());
    if let Some(newer) = tables::migrate(&connection).map_err(sql)? {
        return Err(OpenError::Newer(name(), newer));
    }
    if !emptied(&connection, Duration::from_secs(READERS_SECONDS_MAX)).map_err(sql)? {
        return Err(OpenError::Read(name()));
    }
    let note = Note::open(folder).map_err(io)?;
    note.write(commits::stored(&connection).map_err(sql)?).map_err(io)?;
    note.sync().map_err(io)?;
    // The files' names must outlive a power cut as well.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(Opened { connection, note })
}

/// Copies as much of the log into the database as readers allow; whoever commits next begins the
/// log anew where that was all.
pub fn copied(connection: &Connection) -> rusqlite::Result<()> {
    connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE).map(|_| ())
}

/// Copies the log into the database, fsyncs that, and begins the log anew; `false` where somebody
/// has kept on reading from it.
pub fn emptied(connection: &Connection, patience: Duration) -> rusqlite::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        match connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE) {
            Ok(_) => return Ok(true),
            Err(error) if busy(&error) && Instant::now() < until => {}
            Err(error) if busy(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
