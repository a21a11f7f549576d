//! The embedded store: SQLite in a folder, for one OS process.
//!
//! One writer thread takes all that has queued up into one transaction and answers each call after
//! the commit (`writer`, and `trouble` where that fails); reads run beside it on connections of
//! their own (`log`, `mailbox` and `records` have the SQL). WAL and `synchronous=FULL`: a commit
//! that returned survives the process and a power cut, as far as the disk keeps what it has
//! acknowledged. Every row carries a crc32 that is checked on read; what a log has lost is noticed
//! at the start (`opening` by `wal` and `commits`), and `check` reads everything.

mod lock;
mod opening;
mod wal;
mod commits;
mod tables;
mod log;
mod mailbox;
mod records;
mod writer;
mod trouble;
mod check;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

pub use check::{Fault, Told, check_folder};
pub use lock::FolderLock;
pub use opening::accept_loss;
use writer::{Job, Writer};

use super::{
    CALL_MS_MAX, LogPage, LogRange, MailboxPage, MailboxPart, OwnDisk, Raise, Record, RecordPart,
    Store, StoreError,
};
use crate::protocol::{ConversationId, Entry, UserId};

/// How many reads run at once.
const READERS: usize = 4;
/// The file within the folder.
const FILE: &str = "parlor.sqlite";
/// From so many pages on (64 MB) the log is copied into the database. The ends of busy logs are
/// written again and again: the longer the log, the less often each is copied.
const LOG_PAGES_MAX: u32 = 16_000;

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error("{0} is in use by another parlor process: stop it, or choose another --data")]
    InUse(String),
    /// There is nothing to read.
    #[error("{0} holds nothing: say where the folder of `parlor up` is, with --data")]
    Nothing(String),
    /// It was written by a later version.
    #[error("{0} was written by a later version of parlor (schema {1}): use that version")]
    Newer(String, i64),
    /// Something that was acknowledged is not there any more.
    #[error(
        "{0} has lost messages that were acknowledged: {1}. Bring back a backup, or go on with \
         what is left: parlor store accept-loss --data {0}"
    )]
    Lost(String, String),
    /// Another process has it open to read, and does not let go.
    #[error("{0} is being read: wait until `parlor store check` or `table show` has ended")]
    Read(String),
    /// It can't be read or written.
    #[error("{0} can't be used: {1}")]
    Io(String, String),
}

/// See the module.
pub struct EmbeddedStore {
    /// None for a store that is only read.
    writer: Option<Writer>,
    readers: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl EmbeddedStore {
    /// Opens the store in a folder, making it where it is missing. The caller holds the folder's
    /// [`FolderLock`].
    pub fn open(folder: &Path) -> Result<Arc<Self>, OpenError> {
        Self::open_with(folder, LOG_PAGES_MAX)
    }

    fn open_with(folder: &Path, log_pages_max: u32) -> Result<Arc<Self>, OpenError> {
        let io =
            |error: rusqlite::Error| OpenError::Io(folder.display().to_string(), error.to_string());
        let writer = Writer::start(opening::open(folder)?, log_pages_max).map_err(io)?;
        Self::with_readers(Some(writer), &folder.join(FILE)).map_err(io)
    }

    /// Opens the store in a folder to read only, also while another process writes it.
    pub fn read_only(folder: &Path) -> Result<Arc<Self>, OpenError> {
        let path = folder.join(FILE);
        let name = folder.display().to_string();
        let there = path.try_exists();
        if !there.map_err(|error| OpenError::Io(name.clone(), error.to_string()))? {
            return Err(OpenError::Nothing(name));
        }
        Self::with_readers(None, &path).map_err(|error| OpenError::Io(name, error.to_string()))
    }

    fn with_readers(writer: Option<Writer>, path: &Path) -> rusqlite::Result<Arc<Self>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let reader = Connection::open_with_flags(path, flags)?;
            tables::prepare_reader(&reader)?;
            readers.push(reader);
        }
        Ok(Arc::new(Self {
            writer,
            readers: Arc::new(Mutex::new(readers)),
            permits: Arc::new(Semaphore::new(READERS)),
        }))
    }

    async fn send(&self, job: Job) -> Result<(), StoreError> {
        match &self.writer {
            Some(writer) => writer.send(job).await,
            None => Err(StoreError::Refused("the store was opened to read only".to_owned())),
        }
    }

    /// A read that ends within [`CALL_MS_MAX`]; one that is late goes on by itself, for nobody.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let limit = Duration::from_millis(CALL_MS_MAX);
        let late = |_| StoreError::Unavailable("the disk took too long".to_owned());
        timeout(limit, self.read_for_long(read)).await.map_err(late)?
    }

    async fn read_for_long<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Unavailable("the store is closing".to_owned());
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| gone())?;
        let readers = self.readers.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let lock = || readers.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = lock().pop();
            let Some(connection) = connection else { return Err(gone()) };
            let result = read(&connection);
            lock().push(connection);
            drop(permit);
            result
        });
        reading.await.map_err(|_| gone())?
    }

    async fn write<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let limit = Instant::now() + Duration::from_millis(CALL_MS_MAX);
        let (reply, answer) = oneshot::channel();
        let full = |_| StoreError::Unavailable("too many writes wait for the disk".to_owned());
        timeout_at(limit, self.send(job(reply))).await.map_err(full)??;
        // Queued: from here on it may be done yet, whatever is answered.
        let late = |_| StoreError::Unknown("the disk took too long".to_owned());
        let ended = |_| StoreError::Unknown("the writer ended".to_owned());
        timeout_at(limit, answer).await.map_err(late)?.map_err(ended)?
    }
}

#[async_trait]
impl OwnDisk for EmbeddedStore {
    fn trouble(&self) -> Option<String> {
        self.writer.as_ref().and_then(Writer::trouble)
    }

    async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.send(Job::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn append(
        &self,
        conversation: &ConversationId,
        entries: &[Entry],
    ) -> Result<usize, StoreError> {
        let conversation = conversation.clone();
        // Encoded here, so that the one writer thread only writes.
        let bodies = entries.iter().map(log::encode_entry).collect::<Result<Vec<_>, _>>()?;
        self.write(|reply| Job::Append { conversation, bodies, reply }).await
    }

    async fn log(
        &self,
        conversation: &ConversationId,
        range: LogRange,
    ) -> Result<LogPage, StoreError> {
        let conversation = conversation.clone();
        self.read(move |connection| log::log(connection, &conversation, range)).await
    }

    async fn raise(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        let (user, conversation, raise) = (user.clone(), conversation.clone(), raise.clone());
        self.write(|reply| Job::Raise { user, conversation, raise, reply }).await
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        let user = user.clone();
        self.read(move |connection| mailbox::mailbox(connection, &user, part)).await
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        EmbeddedStore::write(self, |reply| Job::Write { record, reply }).await
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        self.read(move |connection| records::records(connection, part)).await
    }
}
