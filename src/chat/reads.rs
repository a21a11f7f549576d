//! Turns at the store for those who catch up, so that a storm of them stays a queue.
//!
//! One for each OS process, shared by its parts. Lanes never wait here: what people send goes to
//! the store at once. Whoever connects waits behind others who do, and behind a few mailboxes at
//! most that are read again (a death, Redis back, the belt): those have few places in the same
//! queue, so neither of the two starves. Reads for sockets that have caught up have a queue apart.

pub(super) mod together;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use together::Together;

use crate::protocol::{ConversationId, Seq, UserId};
use crate::store::{
    LogPage, LogRange, MailboxPage, MailboxPart, Member, Raise, Record, RecordPart, Store,
    StoreError,
};

/// How many calls of sockets that catch up are under way, mailboxes read again among them.
pub(crate) const CATCHING_UP_MAX: usize = 64;
/// How many of those are of mailboxes that are read again.
const AGAIN_MAX: usize = 16;
/// How many calls of sockets that have caught up are under way: many, since those of one partition
/// that answers slowly must not keep all others waiting.
const LIVE_MAX: usize = 256;

/// For whom a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A socket that catches up, or stores what came of it.
    CatchingUp,
    /// A mailbox that is read again.
    Again,
    /// A socket that has caught up, and somebody waits.
    Live,
}

/// The places at the store.
#[derive(Debug)]
pub struct Reads {
    catching_up: Semaphore,
    again: Semaphore,
    again_waiting: AtomicUsize,
    live: Semaphore,
    tails: Together<ConversationId, Result<Seq, StoreError>>,
    rosters: Together<ConversationId, Result<Arc<Vec<Member>>, StoreError>>,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            catching_up: Semaphore::new(CATCHING_UP_MAX),
            again: Semaphore::new(AGAIN_MAX),
            again_waiting: AtomicUsize::new(0),
            live: Semaphore::new(LIVE_MAX),
            tails: Together::default(),
            rosters: Together::default(),
        }
    }
}

/// Held while a call is under way.
type Place<'a> = (Option<SemaphorePermit<'a>>, Option<SemaphorePermit<'a>>);

impl Reads {
    async fn place(&self, turn: Turn) -> Place<'_> {
        // Never closed, so a place always comes.
        match turn {
            Turn::Live => (self.live.acquire().await.ok(), None),
            Turn::CatchingUp => (self.catching_up.acquire().await.ok(), None),
            Turn::Again => {
                let _waiting = Waiting::of(&self.again_waiting);
                let again = self.again.acquire().await.ok();
                (again, self.catching_up.acquire().await.ok())
            }
        }
    }

    /// How many mailboxes wait for their turn to be read again. Whoever asks for many asks for few
    /// at a time: a session that waits reads nothing else meanwhile, not even what comes live.
    pub fn again_waiting(&self) -> usize {
        self.again_waiting.load(Ordering::Relaxed)
    }
}

/// Counted while it stands, also where the wait is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The store, each call of which waits for its turn.
pub struct InTurn<'a> {
    store: &'a dyn Store,
    reads: &'a Reads,
    turn: Turn,
}

impl<'a> InTurn<'a> {
    /// The store for this kind of turn.
    pub fn new(store: &'a dyn Store, reads: &'a Reads, turn: Turn) -> Self {
        Self { store, reads, turn }
    }

    /// As `Store::log`.
    pub async fn log(&self, log: &ConversationId, range: LogRange) -> Result<LogPage, StoreError> {
        let _place = self.reads.place(self.turn).await;
        self.store.log(log, range).await
    }

    /// As `Store::mailbox`.
    pub async fn mailbox(
        &self,
        user: &UserId,
        part: MailboxPart,
    ) -> Result<MailboxPage, StoreError> {
        let _place = self.reads.place(self.turn).await;
        self.store.mailbox(user, part).await
    }

    /// As `Store::records`.
    pub async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        let _place = self.reads.place(self.turn).await;
        self.store.records(part).await
    }

    /// As `Store::write`.
    pub async fn write(&self, record: Record) -> Result<bool, StoreError> {
        let _place = self.reads.place(self.turn).await;
        self.store.write(record).await
    }

    /// As `Store::raise`.
    pub async fn raise(
        &self,
        user: &UserId,
        log: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        let _place = self.reads.place(self.turn).await;
        self.store.raise(user, log, raise).await
    }

    /// The seq of a log's newest entry; 0 where it is empty.
    pub async fn tail(&self, log: &ConversationId) -> Result<Seq, StoreError> {
        let _place = self.reads.place(self.turn).await;
        self.newest(log).await
    }

    async fn newest(&self, log: &ConversationId) -> Result<Seq, StoreError> {
        let page = self.store.log(log, LogRange::newest(1)).await?;
        Ok(page.entries.first().map_or(0, |entry| entry.seq))
    }

    /// The same for a room: one read for all who ask before it begins.
    pub async fn shared_tail(&self, room: &ConversationId) -> Result<Seq, StoreError> {
        self.reads.tails.ask(room, self.reads.place(self.turn), self.newest(room)).await
    }

    /// Present and former members of a room: one read for all who ask before it begins.
    pub async fn shared_roster(
        &self,
        room: &ConversationId,
    ) -> Result<Arc<Vec<Member>>, StoreError> {
        let read = async {
            let records = self.store.records(RecordPart::Roster(room.clone())).await?;
            Ok(Arc::new(records.into_iter().filter_map(Record::into_member).collect()))
        };
        self.reads.rosters.ask(room, self.reads.place(self.turn), read).await
    }
}

#[cfg(test)]
mod tests;
