//! A lane per conversation and OS process: all appends of a conversation go through it.
//!
//! [`Lanes`] keeps one [`queue::Lane`] per conversation in use and one task that works it off
//! (`worker`). A batch goes `log` (open) → `refs` (was it sent before?) → `judge` (who may?) →
//! `rows` (raise) → `round` (put) → `answer`; `walk` reads forward whenever somebody else was there
//! first or an outcome is unknown.
//!
//! **Invariants.** No put at seq k before the rows that it is for say `last` ≥ k. One store call of
//! a lane is under way at a time. Every append is answered exactly once, whatever happens to the
//! lane: an unanswered one answers itself when it is dropped.

mod answer;
mod batch;
mod judge;
mod leaving;
mod log;
mod patience;
mod queue;
mod refs;
mod round;
mod rows;
mod walk;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use self::batch::Item;
pub(in crate::chat) use self::judge::not_opened;
use self::queue::Lane;
use self::worker::Worker;
use super::{ChatError, Clock, Sent};
use crate::chance::Hashing;
use crate::hub::Outbox;
use crate::protocol::{
    ConversationId, DeviceId, Entry, ErrorCode, Kind, Ref, Seq, SocketId, UserId,
};
use crate::store::{Member, Store};

const SHARDS: usize = 64;

/// Where the answer to an append goes.
#[derive(Debug)]
pub enum Reply {
    /// To a socket: as `Event::Sent`, or `Event::Refused` with the encoded `error` frame.
    Socket(Arc<Outbox>),
    /// To a caller that waits.
    Call(oneshot::Sender<Result<Sent, ChatError>>),
}

/// The process part that an append came through: it hands the stored entry on.
#[async_trait]
pub trait Origin: Send + Sync + 'static {
    /// Whether the part's own board row was written in the last 10 s; if not, nothing is appended,
    /// and no `sent` is given.
    fn may_append(&self) -> bool;
    /// Takes over stored entries: locates, delivers, keeps the hint until it is confirmed. Called
    /// in the order of seq; must not block.
    fn hand_on(&self, handed: HandedOn);
    /// Counts how an append of this part was answered: `stored`, `repeated`, or the error code.
    fn count(&self, _outcome: &'static str) {}
    /// Whether this person may open one more direct conversation with the other, both within their
    /// limits. Asked once for an append.
    async fn may_open(&self, _from: &UserId, _to: Option<&UserId>) -> Result<(), ChatError> {
        Ok(())
    }
}

/// Whether an append may be the first message of a direct conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// No.
    Never,
    /// If its sender is within the limits.
    Within,
    /// Yes.
    Freely,
}

/// Stored entries of one sender on their way to people, in the order of seq.
#[derive(Debug, Clone)]
pub struct HandedOn {
    /// Their log.
    pub conversation: ConversationId,
    /// The entries, at least one.
    pub entries: Vec<Handed>,
    /// The room's roster as of these entries; `None` for a direct conversation.
    pub roster: Option<Arc<Vec<Member>>>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Handed {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The socket that sent it and gets no copy.
    pub sender: Option<SocketId>,
    /// It stood there before this try, and may have been handed on then: no socket is to take it
    /// for new.
    pub repeated: bool,
}

/// Something to be appended.
pub struct Append {
    /// To which log.
    pub conversation: ConversationId,
    /// Who does it.
    pub from: UserId,
    /// From which device.
    pub device: DeviceId,
    /// What it does.
    pub kind: Kind,
    /// The recipient of a direct message, the member who joined or left.
    pub to: Option<UserId>,
    /// The text.
    pub message: Option<Arc<str>>,
    /// The sender's own JSON.
    pub data: Option<Arc<serde_json::value::RawValue>>,
    /// The client's name for the send.
    pub reference: Option<Ref>,
    /// The seq that the client knew at its first try.
    pub after: Option<Seq>,
    /// Whether it may be the first message of a direct conversation.
    pub opens: Opens,
    /// Where the answer goes.
    pub reply: Reply,
    /// Who hands it on.
    pub origin: Arc<dyn Origin>,
}

/// How much the lanes of a process hold, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Lanes; idle ones give way to new ones.
    pub lanes: usize,
    /// Appends that wait in one lane.
    pub appends: usize,
    /// Bytes that wait in one lane.
    pub bytes: usize,
    /// How long a lane without work is kept.
    pub idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            lanes: 16_384,
            appends: 1_024,
            bytes: 4 * 1024 * 1024,
            idle: Duration::from_secs(60),
        }
    }
}

/// All lanes of this OS process. Dropping it ends their tasks; what waits is answered then.
pub struct Lanes {
    shared: Arc<Shared>,
}

impl Lanes {
    /// Lanes over a store, with the usual bounds and the wall clock.
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Self::with(store, super::wall_clock(), Bounds::default())
    }

    /// Lanes with other bounds or another clock.
    pub fn with(store: Arc<dyn Store>, clock: Clock, bounds: Bounds) -> Arc<Self> {
        let shared = Shared {
            store,
            clock,
            bounds,
            hasher: Hashing::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            rested: Notify::new(),
            closed: AtomicBool::new(false),
        };
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// Puts an append into its lane. Never blocks; the answer goes to `reply`, always. Must be
    /// called within a tokio runtime. `false`: too many wait already.
    pub fn submit(self: &Arc<Self>, append: Append) -> bool {
        let conversation = append.conversation.clone();
        let item = Item::new(append, &self.shared.hasher);
        let Some((mut item, error)) = self.shared.enqueue(&conversation, item) else { return true };
        item.answer.refuse(&error);
        error.code != ErrorCode::RateLimited
    }

    /// A device has received up to `seq`: the cursor rides on the next raise of that row.
    pub fn note_received(
        &self,
        conversation: &ConversationId,
        user: &UserId,
        device: &DeviceId,
        seq: Seq,
    ) {
        if conversation.is_room() || seq == 0 {
            return;
        }
        let lane = self.shared.shard(conversation).get(conversation).cloned();
        if let Some(lane) = lane {
            lane.note(user, device, seq);
        }
    }

    /// The bus says that the log goes up to `seq`: a lane that is behind reads on before its next
    /// put, which would otherwise be a failed one, and billed.
    pub fn hear(&self, conversation: &ConversationId, seq: Seq) {
        let lane = self.shared.shard(conversation).get(conversation).cloned();
        if let Some(lane) = lane {
            lane.hear(seq);
        }
    }

    /// From now on every submit is refused with `unavailable`; what is queued is worked off.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until no lane has work; at most as long as the caller waits.
    pub async fn finish(&self) {
        loop {
            let rested = self.shared.rested.notified();
            tokio::pin!(rested);
            rested.as_mut().enable();
            if self.shared.working.load(Ordering::SeqCst) == 0 {
                return;
            }
            rested.await;
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.close();
        for shard in &self.shared.shards {
            let lanes: Vec<_> = lock(shard).values().cloned().collect();
            lanes.iter().for_each(|lane| lane.abort());
        }
    }
}

type Shard = HashMap<ConversationId, Arc<Lane>, Hashing>;

/// What all lanes of a process share. Locks are taken in the order shard, then lane.
struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    bounds: Bounds,
    hasher: Hashing,
    shards: Vec<Mutex<Shard>>,
    count: AtomicUsize,
    working: AtomicUsize,
    rested: Notify,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is whole before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn busy(detail: &str) -> ChatError {
    ChatError::new(ErrorCode::RateLimited, detail)
}

impl Shared {
    fn shard(&self, conversation: &ConversationId) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(conversation) as usize;
        lock(&self.shards[hash % SHARDS])
    }

    /// Queues an item in its lane, opening one if need be; hands it back if it is refused.
    fn enqueue(
        self: &Arc<Self>,
        conversation: &ConversationId,
        item: Item,
    ) -> Option<(Item, ChatError)> {
        if self.closed.load(Ordering::SeqCst) {
            let detail = "this server is stopping, send again with the same ref";
            return Some((item, ChatError::new(ErrorCode::Unavailable, detail)));
        }
        if let Some(lane) = self.shard(conversation).get(conversation) {
            return lane.push(item, self);
        }
        if !self.reserve() {
            return Some((item, busy("too many conversations are busy here, send again later")));
        }
        let mut shard = self.shard(conversation);
        if let Some(lane) = shard.get(conversation) {
            self.count.fetch_sub(1, Ordering::SeqCst);
            return lane.push(item, self);
        }
        let lane = Arc::new(Lane::new(conversation.clone()));
        let refused = lane.push(item, self);
        shard.insert(conversation.clone(), lane.clone());
        // A runtime at its end drops the task at once, and the task then takes this lock.
        drop(shard);
        let task = tokio::spawn(Worker::new(self.clone(), lane.clone()).run());
        lane.own(task.abort_handle());
        refused
    }

    /// Takes a place for a new lane, an idle one's if all are taken.
    fn reserve(&self) -> bool {
        let free = |count| (count < self.bounds.lanes).then_some(count + 1);
        if self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).is_ok() {
            return true;
        }
        // All busy is the common case of a full house: told without a look at each.
        if self.working.load(Ordering::SeqCst) >= self.bounds.lanes {
            return false;
        }
        self.shards.iter().any(|shard| {
            let mut shard = lock(shard);
            let idle = shard.values().filter_map(|lane| Some((lane.idle_since()?, lane)));
            let oldest = idle.min_by_key(|(since, _)| *since).map(|(_, lane)| lane.clone());
            oldest.is_some_and(|lane| {
                let closed = lane.close_if_idle();
                if closed {
                    shard.remove(&lane.conversation);
                }
                closed
            })
        })
    }

    /// Ends a lane that has been idle for long; otherwise tells when to ask again.
    fn retire(&self, lane: &Arc<Lane>) -> Option<Instant> {
        let mut shard = self.shard(&lane.conversation);
        let idle = self.bounds.idle;
        let since = lane.idle_since().unwrap_or_else(Instant::now);
        if since.elapsed() < idle || !lane.close_if_idle() {
            return Some(since + idle);
        }
        self.remove(&mut shard, lane);
        None
    }

    /// The lane's task is at its end, for whatever reason: nobody may queue there any more.
    fn bury(&self, lane: &Arc<Lane>) {
        let mut shard = self.shard(&lane.conversation);
        self.remove(&mut shard, lane);
        let left = lane.close(self);
        drop(shard);
        drop(left);
    }

    fn remove(&self, shard: &mut Shard, lane: &Arc<Lane>) {
        if shard.get(&lane.conversation).is_some_and(|held| Arc::ptr_eq(held, lane)) {
            shard.remove(&lane.conversation);
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn begun(&self) {
        self.working.fetch_add(1, Ordering::SeqCst);
    }

    fn rested(&self) {
        if self.working.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.rested.notify_waiters();
        }
    }
}
