//! A lane's queue, bounded by count and bytes, and the cursors that wait for a ride.
//!
//! **Invariant.** A lane is closed only under its shard's lock and only once nothing waits in it,
//! or by its own task's end, which answers what waits.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::batch::Item;
use super::{Shared, busy, lock};
use crate::chat::ChatError;
use crate::protocol::{ConversationId, DeviceId, ErrorCode, Seq, UserId};

/// How old a cursor may be to ride on a raise. Its session, which hears of the raise by the text,
/// writes it by itself after 29 s without one; one that is dropped earlier would be in neither.
const NOTE_AGE_MAX: Duration = Duration::from_secs(30);
/// Two people with 16 devices each.
const NOTES_MAX: usize = 32;

/// A device's cursor that no raise has carried yet.
struct Note {
    user: UserId,
    device: DeviceId,
    seq: Seq,
    at: Instant,
}

struct Inbox {
    queue: VecDeque<Item>,
    bytes: usize,
    /// Something is queued or being worked on.
    busy: bool,
    /// A put of unknown outcome is being decided: nothing is taken in.
    blocked: bool,
    closed: bool,
    used: Instant,
    notes: Vec<Note>,
    /// How far the log goes, as the bus says: a hint, only good for reading on.
    heard: Seq,
}

/// What a lane's task finds when it looks.
pub(super) enum Taken {
    Items(VecDeque<Item>),
    Nothing,
    Closed,
}

/// One conversation's lane, as seen from outside its task.
pub(super) struct Lane {
    pub(super) conversation: ConversationId,
    inbox: Mutex<Inbox>,
    wake: Notify,
    task: OnceLock<AbortHandle>,
}

impl Lane {
    pub(super) fn new(conversation: ConversationId) -> Self {
        let inbox = Inbox {
            queue: VecDeque::new(),
            bytes: 0,
            busy: false,
            blocked: false,
            closed: false,
            used: Instant::now(),
            notes: Vec::new(),
            heard: 0,
        };
        Self { conversation, inbox: Mutex::new(inbox), wake: Notify::new(), task: OnceLock::new() }
    }

    /// Remembers the task, to end it.
    pub(super) fn own(&self, task: AbortHandle) {
        // Called once, by whoever spawned it.
        let _ = self.task.set(task);
    }

    pub(super) fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// Queues an item, or hands it back with the reason.
    pub(super) fn push(&self, item: Item, shared: &Shared) -> Option<(Item, ChatError)> {
        let mut inbox = lock(&self.inbox);
        if inbox.blocked || inbox.closed {
            return Some((item, blocked()));
        }
        let bytes = item.bytes();
        let bounds = &shared.bounds;
        if inbox.queue.len() >= bounds.appends || inbox.bytes + bytes > bounds.bytes {
            return Some((item, busy("this conversation is too busy, send again later")));
        }
        inbox.bytes += bytes;
        inbox.queue.push_back(item);
        if !inbox.busy {
            inbox.busy = true;
            shared.begun();
            drop(inbox);
            self.wake.notify_one();
        }
        None
    }

    /// Takes at most `most` items; finding none, the lane rests.
    pub(super) fn take(&self, shared: &Shared, most: usize) -> Taken {
        let mut inbox = lock(&self.inbox);
        if !inbox.queue.is_empty() {
            let rest = inbox.queue.len().min(most);
            let rest = inbox.queue.split_off(rest);
            let items = std::mem::replace(&mut inbox.queue, rest);
            inbox.bytes -= items.iter().map(Item::bytes).sum::<usize>();
            return Taken::Items(items);
        }
        if inbox.busy {
            inbox.busy = false;
            inbox.used = Instant::now();
            shared.rested();
        }
        if inbox.closed { Taken::Closed } else { Taken::Nothing }
    }

    /// Waits until there may be something to take.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes all that waits; `blocked` says whether anything is taken in from now on.
    pub(super) fn drain(&self, blocked: bool) -> VecDeque<Item> {
        let mut inbox = lock(&self.inbox);
        inbox.blocked = blocked;
        inbox.bytes = 0;
        std::mem::take(&mut inbox.queue)
    }

    /// Takes sends in again.
    pub(super) fn unblock(&self) {
        lock(&self.inbox).blocked = false;
    }

    /// Since when there has been no work; `None` while there is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let inbox = lock(&self.inbox);
        (!inbox.busy).then_some(inbox.used)
    }

    /// Closes the lane unless it has work. Under the shard's lock.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut inbox = lock(&self.inbox);
        if inbox.busy {
            return false;
        }
        inbox.closed = true;
        drop(inbox);
        self.wake.notify_one();
        true
    }

    /// Closes the lane and hands out what waits: dropped, each item answers itself.
    pub(super) fn close(&self, shared: &Shared) -> VecDeque<Item> {
        let mut inbox = lock(&self.inbox);
        inbox.closed = true;
        if std::mem::take(&mut inbox.busy) {
            shared.rested();
        }
        std::mem::take(&mut inbox.queue)
    }

    /// A device has received up to `seq`.
    pub(super) fn note(&self, user: &UserId, device: &DeviceId, seq: Seq) {
        let mut inbox = lock(&self.inbox);
        let at = Instant::now();
        let same = |note: &&mut Note| note.user == *user && note.device == *device;
        if let Some(note) = inbox.notes.iter_mut().find(same) {
            if seq > note.seq {
                (note.seq, note.at) = (seq, at);
            }
        } else if inbox.notes.len() < NOTES_MAX {
            inbox.notes.push(Note { user: user.clone(), device: device.clone(), seq, at });
        }
    }

    /// The log is said to go up to `seq`.
    pub(super) fn hear(&self, seq: Seq) {
        let mut inbox = lock(&self.inbox);
        inbox.heard = inbox.heard.max(seq);
    }

    /// How far the log is said to go; told once, so that what is not there is not looked for again.
    pub(super) fn heard(&self) -> Seq {
        std::mem::take(&mut lock(&self.inbox).heard)
    }

    /// The cursors of a person that a raise is to carry, each handed out once. One above `tail`
    /// waits: what is stored of it must be neither beyond the log, as this lane knows it, nor below
    /// where the device has started.
    pub(super) fn carry(&self, user: &UserId, tail: Seq) -> Vec<(DeviceId, Seq)> {
        let mut inbox = lock(&self.inbox);
        let mut carried = Vec::new();
        inbox.notes.retain(|note| {
            let fresh = note.at.elapsed() < NOTE_AGE_MAX;
            let rides = fresh && note.user == *user && note.seq <= tail;
            if rides {
                carried.push((note.device.clone(), note.seq));
            }
            fresh && !rides
        });
        carried
    }
}

fn blocked() -> ChatError {
    let detail = "an earlier send here is not decided yet, send again with the same ref";
    ChatError::new(ErrorCode::Unavailable, detail)
}
