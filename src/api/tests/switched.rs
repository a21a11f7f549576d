//! The embedded parts behind a switch that makes them fail.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::directory::embedded::EmbeddedDirectory;
use crate::directory::{Directory, DirectoryError, SocketEntry};
use crate::protocol::*;
use crate::store::memory::MemoryStore;
use crate::store::*;

/// How a part fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Every call is refused.
    Down,
    /// Every call panics.
    Panic,
    /// No call ends.
    Hang,
}

#[derive(Default)]
pub struct Switch(AtomicU8);

impl Switch {
    pub fn set(&self, trouble: Trouble) {
        self.0.store(trouble as u8, Ordering::SeqCst);
    }

    /// Whether the call is to be refused; a hanging one hangs here.
    pub async fn refuses(&self) -> bool {
        match self.0.load(Ordering::SeqCst) {
            0 => false,
            1 => true,
            2 => panic!("a part of the test panics"),
            _ => std::future::pending().await,
        }
    }
}

impl Switch {
    async fn store(&self) -> Result<(), StoreError> {
        match self.refuses().await {
            true => Err(StoreError::Unavailable("switched off".into())),
            false => Ok(()),
        }
    }

    async fn directory(&self) -> Result<(), DirectoryError> {
        match self.refuses().await {
            true => Err(DirectoryError("switched off".into())),
            false => Ok(()),
        }
    }
}

pub struct SwitchedStore {
    pub switch: Switch,
    /// The reads of logs and records, in their order.
    pub reads: Mutex<Vec<&'static str>>,
    store: Arc<MemoryStore>,
}

impl SwitchedStore {
    pub fn new() -> Self {
        Self { switch: Switch::default(), reads: Mutex::default(), store: Arc::default() }
    }
}

#[async_trait]
impl Store for SwitchedStore {
    async fn append(&self, to: &ConversationId, entries: &[Entry]) -> Result<usize, StoreError> {
        self.switch.store().await?;
        self.store.append(to, entries).await
    }

    async fn log(&self, of: &ConversationId, range: LogRange) -> Result<LogPage, StoreError> {
        self.switch.store().await?;
        self.reads.lock().unwrap().push("log");
        self.store.log(of, range).await
    }

    async fn raise(
        &self,
        user: &UserId,
        of: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        self.switch.store().await?;
        self.store.raise(user, of, raise).await
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        self.switch.store().await?;
        self.store.mailbox(user, part).await
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        self.switch.store().await?;
        self.store.write(record).await
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        self.switch.store().await?;
        self.reads.lock().unwrap().push("records");
        self.store.records(part).await
    }
}

#[derive(Default)]
pub struct SwitchedDirectory {
    pub switch: Switch,
    directory: EmbeddedDirectory,
}

#[async_trait]
impl Directory for SwitchedDirectory {
    async fn claim(
        &self,
        user: &UserId,
        entry: &SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<usize, DirectoryError> {
        self.switch.directory().await?;
        self.directory.claim(user, entry, dead).await
    }

    async fn release(&self, user: &UserId, it: SocketId, no: u64) -> Result<(), DirectoryError> {
        self.switch.directory().await?;
        self.directory.release(user, it, no).await
    }

    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError> {
        self.switch.directory().await?;
        self.directory.locate(users).await
    }

    async fn extend(&self, user: &UserId, it: SocketId, no: u64) -> Result<bool, DirectoryError> {
        self.switch.directory().await?;
        self.directory.extend(user, it, no).await
    }

    async fn instance(&self) -> Result<String, DirectoryError> {
        self.directory.instance().await
    }
}
