//! Which of a large room's members are on this server.
//!
//! The bus names the members of small rooms; for a large one an envelope comes to every server and
//! says which roster it was stored under (the seq of the newest joined or left entry). A roster
//! that is not that one is read again before anybody is shown anything (P9).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::Chat;
use super::reads::{InTurn, Turn};
use super::route::Texts;
use crate::chance::Hashing;
use crate::hub::Event;
use crate::protocol::{ConversationId, Entry, ProcessId, Receipt, Seq};
use crate::store::{Member, Record, RecordPart};

/// The most rooms whose roster is kept.
const ROOMS_MAX: usize = 256;
/// How often a roster is asked for, for the sake of a hint.
const HINT_TRIES_MAX: u32 = 5;
/// How long between two tries.
const HINT_PAUSE_MS: std::ops::Range<u64> = 200..1_500;
/// How long hints that could not be handed on gather before all mailboxes are read for them.
const REREAD_PAUSE: Duration = Duration::from_secs(10);

/// Rosters of large rooms, as of the newest joined or left entry that they tell of.
#[derive(Debug, Default)]
pub struct Rosters {
    known: Mutex<HashMap<ConversationId, Arc<Vec<Member>>, Hashing>>,
    rereading: AtomicBool,
}

fn version(members: &[Member]) -> Seq {
    members.iter().map(|member| member.as_of).max().unwrap_or(0)
}

impl Rosters {
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
        roster: Seq,
    ) {
        if let Some(members) = self.rosters.get(room, roster) {
            return self.show_to_members(room, entry, via, &members);
        }
        let (chat, room) = (self.clone(), room.clone());
        let (entry, via) = (entry.clone(), via.clone());
        tokio::spawn(async move {
            if let Some(members) = chat.read_roster(&room).await {
                chat.show_to_members(&room, &entry, &via, &members);
            }
        });
    }

    fn show_to_members(
        self: &Arc<Self>,
        room: &ConversationId,
        entry: &Entry,
        via: &ProcessId,
        members: &[Member],
    ) {
        let texts = Texts::new(room, entry);
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
        tokio::spawn(async move {
            let Some(members) = chat.read_roster_patiently(&room).await else {
                return chat.reread_for_rosters().await;
            };
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
    async fn reread_for_rosters(&self) {
        if self.rosters.rereading.swap(true, Ordering::Relaxed) {
            return;
        }
        sleep(REREAD_PAUSE).await;
        self.rosters.rereading.store(false, Ordering::Relaxed);
        self.reread_all().await;
    }

    async fn read_roster(&self, room: &ConversationId) -> Option<Arc<Vec<Member>>> {
        let store = InTurn::new(&*self.store, &self.reads, Turn::Live);
        let records = match store.records(RecordPart::Roster(room.clone())).await {
            Ok(records) => records,
            Err(error) => {
                // An entry is not answered, so the lane's process tries again, then the slow way.
                tracing::warn!(%error, %room, "the roster could not be read");
                return None;
            }
        };
        let member = |record| match record {
            Record::Member(_, member) => Some(member),
            _ => None,
        };
        let members: Arc<Vec<Member>> = Arc::new(records.into_iter().filter_map(member).collect());
        self.rosters.put(room, members.clone());
        Some(members)
    }
}

#[cfg(test)]
mod tests;
