//! Port: the truth. Logs of conversations, mailbox rows of people, and the few records beside them.
//!
//! Adapters: `embedded` (SQLite, one process), `dynamodb` (one table, any number of processes),
//! `memory` (maps, gone with their process). `contract` is the suite that all pass. The model: a
//! conversation is a dense log of entries; a mailbox row says how far a person may have, has
//! received and has seen it.
//!
//! **Guarantees of every adapter.** A call that returned `Ok` is durable: it survives the death of
//! this process (and, for DynamoDB, of any machine); in `memory` alone it stands only as long as
//! the process lives. Reads are strongly consistent unless a read says otherwise: they see every
//! write that returned before they began. Nothing is lowered, ever (cursors of forgotten devices
//! may go, see [`Row::cursors`]).
//! A call ends within [`CALL_MS_MAX`]; adapters retry by themselves only what can't do harm when it
//! was applied already.

mod log;
mod mailbox;
mod record;
pub mod contract;
pub mod dynamodb;
pub mod embedded;
pub mod memory;

use async_trait::async_trait;

use crate::protocol::{ConversationId, Entry, UserId};

pub use log::{LogPage, LogRange, Order};
#[cfg(test)]
pub(crate) use mailbox::cursors_beyond;
pub use mailbox::{CURSORS_MAX, Device, MailboxPage, MailboxPart, Raise, Row};
pub use record::{Head, Member, Record, RecordPart, Span};

/// The longest that a store call takes, retries included, in milliseconds.
pub const CALL_MS_MAX: u64 = 3_000;
/// The most entries or rows that a page holds; a page also ends at 1 MB.
pub const PAGE_MAX: usize = 500;

/// Why a store call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not done, for certain; trying again later may help.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// May have been done, or may be done yet: read before you assume.
    #[error("the store did not answer, the write may have happened: {0}")]
    Unknown(String),
    /// Not done, and trying again won't help: no rights, no table, a bad request of our own.
    #[error("the store refused: {0}")]
    Refused(String),
    /// An item that can't be read back as what was written.
    #[error("the store holds a damaged item: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }
}

/// The durable store. See the module for what every adapter guarantees.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Puts `entries` (dense, at least one) behind each other, each only where its seq is free.
    ///
    /// Returns how many were put, from the first on; an adapter may take fewer than it was given.
    /// 0: the first seq is occupied. Entries beyond the returned number were not put. On
    /// [`StoreError::Unknown`] any prefix may have been put, or may be put yet.
    async fn append(
        &self,
        conversation: &ConversationId,
        entries: &[Entry],
    ) -> Result<usize, StoreError>;

    /// Reads a page of a log, strongly consistent; empty where there is no such log.
    async fn log(
        &self,
        conversation: &ConversationId,
        range: LogRange,
    ) -> Result<LogPage, StoreError>;

    /// Raises values of a row, making it where it is missing. Values that would not rise are left
    /// as they are, and that is a success.
    async fn raise(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError>;

    /// Reads a mailbox, page by page, or one row of it.
    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError>;

    /// Writes a record; `false` where the rule of its kind kept what stands there. Of many that
    /// write at once each is judged by what stands when its turn comes.
    async fn write(&self, record: Record) -> Result<bool, StoreError>;

    /// Reads records: the head before the members, chunks in the order of their numbers.
    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError>;
}

/// What a store on a disk of this machine has beside the port.
#[async_trait]
pub trait OwnDisk: Send + Sync + 'static {
    /// What is wrong with the disk, in words; `None` while writes go through.
    fn trouble(&self) -> Option<String>;

    /// The last call: puts everything in order for the next start. Later writes are not taken.
    async fn close(&self);
}
