//! Which of a large room's members are on this server.
//!
//! The bus names the members of small rooms; for a large one an envelope comes to every server and
//! says which roster it was stored, or a signal sent, under (the seq of the newest joined or left
//! entry). A roster that is not that one is read again before anybody is shown anything (P9).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::Chat;
use super::reads::{InTurn, Turn};
use super::roster;
use super::route::Texts;
use crate::chance::Hashing;
use crate::hub::Event;
use crate::protocol::{ConversationId, Entry, ProcessId, Receipt, Seq, SocketId, Text};
use crate::store::Member;

/// The most rooms whose roster is kept.
const ROOMS_MAX: usize = 256;
/// The most entries and hints that wait for a roster.
const WAITING_MAX: usize = 8_192;
/// How often a roster is asked for, for the sake of a hint.
const HINT_TRIES_MAX: u32 = 5;
/// How long between two tries.
const HINT_PAUSE_MS: std::ops::Range<u64> = 200..1_500;
/// How long hints that could not be handed on gather before all mailboxes are read for them.
const REREAD_PAUSE: Duration = Duration::from_secs(10);

/// Rosters of large rooms, as of the newest joined or left entry that they tell of.
#[derive(Debug)]
pub struct Rosters {
    known: Mutex<HashMap<ConversationId, Arc<Vec<Member>>, Hashing>>,
    waiting: Arc<Semaphore>,
    rereading: AtomicBool,
}

impl Default for Rosters {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            rereading: AtomicBool::new(false),
        }
    }
}

/// Of which entry a roster tells last.
pub(super) fn version(members: &[Member]) -> Seq {
    members.iter().map(|member| member.as_of).max().unwrap_or(0)
}

impl Rosters {
    /// Leave to wait for a roster; `None` when too many do.
    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }

    fn get(&self, room: &ConversationId, at: Seq) -> Option<Arc<Vec<Member>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(room).filter(|members| version(members) == at).cloned()
    }

    fn put(&self, room: &ConversationId, members: Arc<Vec<Member>>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ROOMS_MAX
            && let Some(other) = known.keys().next().cloned()
        {
            known.remove(&other);
        }
        known.insert(room.clone(), members);
    }
}

impl Chat {
    /// An entry for all members of a large room on this server.
    pub(super) fn hear_room_entry(
        self: &Arc<Self>,
        room: &ConversationId,
        entry: &Arc<Entry>,
        via: &ProcessId,
        roster: Option<Seq>,
    ) {
        if let Some(members) = roster.and_then(|at| self.rosters.get(room, at)) {
            return self.show_to_members(room, entry, via, &members);
        }
        // Where it is not shown it is not answered either, so the lane's process tries again.
        let Some(permit) = self.rosters.permit() else { return };
        let (chat, room) = (self.clone(), room.clone());
        let (entry, via) = (entry.clone(), via.clone());
        tokio::spawn(async move {
            let members = chat.read_roster(&room).await;
            // A member's item follows its entry: one that is behind may show somebody who left.
            let tells = |members: &Arc<Vec<Member>>| roster.is_none_or(|at| version(members) >= at);
            if let Some(members) = members.filter(tells) {
                chat.show_to_members(&room, &entry, &via, &members);
            }
            drop(permit);
        });
    }

    /// A signal for all members of a large room on this server; lost where too many wait.
    pub(super) fn hear_room_signal(
        self: &Arc<Self>,
        room: &ConversationId,
        frame: Text,
        roster: Seq,
    ) {
        if let Some(members) = self.rosters.get(room, roster) {
            return self.signal_members(&members, &frame, None);
        }
        let Some(permit) = self.rosters.permit() else { return };
        let (chat, room) = (self.clone(), room.clone());
        tokio::spawn(async move {
            let members = chat.read_roster(&room).await;
            if let Some(members) = members.filter(|members| version(members) >= roster) {
                chat.signal_members(&members, &frame, None);
            }
            drop(permit);
        });
    }

    /// Puts a signal into the outboxes of a room's members here, but for one socket's.
    pub(super) fn signal_members(&self, members: &[Member], frame: &Text, but: Option<SocketId>) {
        roster::present(members).for_each(|member| self.push_frame(&member.user, but, frame));
    }

    fn show_to_members(
        self: &Arc<Self>,
        room: &ConversationId,
        entry: &Entry,
        via: &ProcessId,
        members: &[Member],
    ) {
        let texts = Texts::default();
        for member in members.iter().filter(|member| member.may_see(entry.seq)) {
            for outbox in self.hub.of(&member.user) {
                self.push_entry(&outbox, room, entry, &texts, via, false);
            }
        }
        self.answer(room, entry.seq, None, via, Receipt::Have);
    }

    /// A bare hint for all members of a room on this server: their sessions read the store.
    pub(super) fn hint_local_members(&self, room: ConversationId, seq: Seq) {
        let Some(chat) = self.this.upgrade() else { return };
        let Some(permit) = self.rosters.permit() else { return chat.reread_for_rosters() };
        tokio::spawn(async move {
            let members = chat.read_roster_patiently(&room).await;
            drop(permit);
            let Some(members) = members else { return chat.reread_for_rosters() };
            // Former members too: the seq of several hints may lie beyond what one may see.
            for member in members.iter() {
                for outbox in chat.hub.of(&member.user) {
                    outbox.push(Event::Hint { conversation: room.clone(), seq, via: None });
                }
            }
        });
    }

    /// Again while the store is away for a moment: nobody asks for a hint twice.
    async fn read_roster_patiently(&self, room: &ConversationId) -> Option<Arc<Vec<Member>>> {
        for _ in 1..HINT_TRIES_MAX {
            if let Some(members) = self.read_roster(room).await {
                return Some(members);
            }
            sleep(Duration::from_millis(crate::chance::within(HINT_PAUSE_MS))).await;
        }
        self.read_roster(room).await
    }

    /// Whom hints were for is not known: every session looks for itself, once for all of them.
    fn reread_for_rosters(self: &Arc<Self>) {
        if self.rosters.rereading.swap(true, Ordering::Relaxed) {
            return;
        }
        let chat = self.clone();
        tokio::spawn(async move {
            sleep(REREAD_PAUSE).await;
            chat.rosters.rereading.store(false, Ordering::Relaxed);
            chat.reread_all().await;
        });
    }

    async fn read_roster(&self, room: &ConversationId) -> Option<Arc<Vec<Member>>> {
        let store = InTurn::new(&*self.store, &self.reads, Turn::Live);
        match store.shared_roster(room).await {
            Ok(members) => {
                self.rosters.put(room, members.clone());
                Some(members)
            }
            Err(error) => {
                // An entry is not answered, so the lane's process tries again, then the slow way.
                tracing::warn!(%error, %room, "the roster could not be read");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
