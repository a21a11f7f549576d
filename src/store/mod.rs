//! Port: the truth. Logs of conversations, mailbox rows of people, and the few records beside them.
//!
//! Adapters: `embedded` (SQLite, one process), `dynamodb` (one table, any number of processes).
//! `contract` is the suite that both pass. The model: a conversation is a dense log of entries; a
//! mailbox row says how far a person may have, has received and has seen it.
//!
//! **Guarantees of every adapter.** A call that returned `Ok` is durable: it survives the death of
//! this process (and, for DynamoDB, of any machine). Reads are strongly consistent unless a read
//! says otherwise: they see every write that returned before they began. Nothing is lowered, ever.
//! A call ends within [`CALL_MS_MAX`]; adapters retry by themselves only what can't do harm when it
//! was applied already.

pub mod contract;
pub mod dynamodb;
pub mod embedded;

use async_trait::async_trait;

use crate::protocol::{ConversationId, DeviceId, Entry, Seq, Timestamp, UserId};

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

/// Which way a page of a log runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the lowest seq up.
    Ascending,
    /// From the highest seq down.
    Descending,
}

/// Which part of a log to read.
#[derive(Debug, Clone, Copy)]
pub struct LogRange {
    /// Only entries with a higher seq.
    pub after: Seq,
    /// Only entries with a lower seq.
    pub before: Option<Seq>,
    /// Which end comes first.
    pub order: Order,
    /// At most so many entries (1 to [`PAGE_MAX`]).
    pub limit: usize,
}

impl LogRange {
    /// What follows `after`, lowest first.
    pub fn following(after: Seq, limit: usize) -> Self {
        Self { after, before: None, order: Order::Ascending, limit }
    }

    /// The newest entries, highest first.
    pub fn newest(limit: usize) -> Self {
        Self { after: 0, before: None, order: Order::Descending, limit }
    }
}

/// A page of a log.
#[derive(Debug, Clone, Default)]
pub struct LogPage {
    /// In the order that was asked for.
    pub entries: Vec<Entry>,
    /// The range may hold more beyond this page.
    pub more: bool,
}

/// A person's row for one conversation. 0 means "nothing yet" in every field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Upper bound of the log for recipients: no put at seq k before this durably says ≥ k.
    pub last: Seq,
    /// The highest seq that some device of the person has received.
    pub delivered: Seq,
    /// The highest seq that the person has seen.
    pub read: Seq,
    /// `n` of the entry at `read`.
    pub read_n: u64,
    /// How far each device has received, in any order; a device without one stands at its start.
    pub cursors: Vec<(DeviceId, Seq)>,
}

/// What a row is to be raised to; `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raise {
    /// See [`Row::last`].
    pub last: Option<Seq>,
    /// See [`Row::delivered`].
    pub delivered: Option<Seq>,
    /// See [`Row::read`] and [`Row::read_n`]: the two rise together.
    pub read: Option<(Seq, u64)>,
    /// See [`Row::cursors`].
    pub cursors: Vec<(DeviceId, Seq)>,
}

/// A device that the person has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub device: DeviceId,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
}

/// Which part of a mailbox to read.
#[derive(Debug, Clone)]
pub enum MailboxPart {
    /// Rows by conversation, then the devices. One Query where the mailbox fits a page of 1 MB.
    Page {
        /// The `next` of the page before.
        after: Option<String>,
        /// Strongly consistent; `false` only where an hour-old belt reads.
        consistent: bool,
    },
    /// One row.
    Row(ConversationId),
    /// The devices alone.
    Devices,
}

/// A page of a mailbox.
#[derive(Debug, Clone, Default)]
pub struct MailboxPage {
    /// Rows, in the order of the conversations' names.
    pub rows: Vec<Row>,
    /// Devices, in the order of their names.
    pub devices: Vec<Device>,
    /// Pass this as `after` for what follows; `None` at the end.
    pub next: Option<String>,
}

/// What a member may see: everything above `after`, up to and with `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The seq before the `joined` entry.
    pub after: Seq,
    /// The `left` entry, once there is one.
    pub until: Option<Seq>,
}

impl Span {
    /// Whether the entry at `seq` lies within.
    pub fn contains(&self, seq: Seq) -> bool {
        seq > self.after && self.until.is_none_or(|until| seq <= until)
    }
}

/// A room's member, present or former.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// `owner` for the creator, `member` for others.
    pub role: String,
    /// What the member may see, oldest first.
    pub spans: Vec<Span>,
    /// The seq of the entry that this item tells of; an item only gives way to a higher one.
    pub as_of: Seq,
}

impl Member {
    /// Whether the member belongs to the room now.
    pub fn present(&self) -> bool {
        self.spans.last().is_some_and(|span| span.until.is_none())
    }

    /// Whether the member may see the entry at `seq` (P9).
    pub fn may_see(&self, seq: Seq) -> bool {
        self.spans.iter().any(|span| span.contains(seq))
    }
}

/// What a conversation is beside its log. A direct one has none until it needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// No entry below this is shown or walked.
    pub floor: Seq,
    /// What people see.
    pub title: Option<String>,
    /// Who made the room.
    pub creator: Option<UserId>,
    /// Anybody may join.
    pub public: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// Items beside logs and rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A device of a person. `first_seen` of an existing one stays, `last_seen` only rises.
    Device(UserId, Device),
    /// A device that is to be forgotten, with its starts.
    ForgetDevice(UserId, DeviceId),
    /// Where a new device starts: seqs of rows with `delivered` > 0, in chunks of at most 1,000.
    Starts {
        /// Whose.
        user: UserId,
        /// Which device.
        device: DeviceId,
        /// Numbered from 0.
        chunk: u32,
        /// The starting seqs.
        starts: Vec<(ConversationId, Seq)>,
    },
    /// A member of a room. Written only if `as_of` is higher than what stands there.
    Member(ConversationId, Member),
    /// A conversation's head. Written only where none stands.
    Head(ConversationId, Head),
}

/// Which records to read.
#[derive(Debug, Clone)]
pub enum RecordPart {
    /// The head and all members of a conversation, present and former.
    Roster(ConversationId),
    /// The head and one member, if they exist.
    Member(ConversationId, UserId),
    /// The starts of a device.
    Starts(UserId, DeviceId),
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
