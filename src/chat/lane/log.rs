//! What a lane knows of its log: the tail, the newest refs, and whom it is for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shared;
use super::patience::{Patience, persist};
use super::refs::{Seen, Window};
use super::rows::Rows;
use crate::chat::{ChatError, roster};
use crate::protocol::{ConversationId, Entry, Kind, REF_WINDOW_ENTRIES, Seq};
use crate::store::{Head, LogRange, Member, RecordPart};

/// A log, as far as a lane knows it. It may be behind the store, never before it.
pub(super) struct Log {
    pub(super) tail: Seq,
    /// Messages up to the tail.
    pub(super) n: u64,
    pub(super) window: Window,
    /// A put of unknown outcome: entries up to this seq may stand, or may stand yet.
    pub(super) undecided: Option<Seq>,
    pub(super) place: Place,
}

/// Whom a log is for.
pub(super) enum Place {
    Direct(Rows),
    Room(Room),
}

/// A room as of the tail.
pub(super) struct Room {
    pub(super) head: Head,
    pub(super) roster: Arc<Vec<Member>>,
    /// Member items that are behind the log; written before the next answer or put.
    pub(super) owed: VecDeque<Member>,
}

impl Log {
    /// Reads the end of the log, and for a room its roster, which may be behind the log: whoever
    /// put `joined` or `left` may have died before it wrote the member item.
    pub(super) async fn open(
        shared: &Shared,
        conversation: &ConversationId,
        patience: &mut Patience,
    ) -> Result<Self, ChatError> {
        let mut newest: Vec<Entry> = Vec::new();
        loop {
            let range = LogRange {
                before: newest.last().map(|entry| entry.seq),
                ..LogRange::newest(REF_WINDOW_ENTRIES - newest.len())
            };
            let page = persist!(patience, shared.store.log(conversation, range))?;
            let more = page.more && !page.entries.is_empty();
            newest.extend(page.entries);
            if !more || newest.len() >= REF_WINDOW_ENTRIES {
                break;
            }
        }
        let place = Self::place(shared, conversation, patience).await?;
        let mut log = Self { tail: 0, n: 0, window: Window::default(), undecided: None, place };
        for entry in newest.iter().rev() {
            log.advance(entry, Seen::of(&shared.hasher, entry));
        }
        Ok(log)
    }

    async fn place(
        shared: &Shared,
        conversation: &ConversationId,
        patience: &mut Patience,
    ) -> Result<Place, ChatError> {
        if !conversation.is_room() {
            return Ok(Place::Direct(Rows::of(conversation)));
        }
        let part = || RecordPart::Roster(conversation.clone());
        let found = persist!(patience, roster::stands(&*shared.store, conversation, part()))?;
        let (head, members) = found.ok_or_else(|| ChatError::not_found("conversation"))?;
        Ok(Place::Room(Room { head, roster: Arc::new(members), owed: VecDeque::new() }))
    }

    /// Takes in the entry behind the tail.
    pub(super) fn advance(&mut self, entry: &Entry, seen: Seen) {
        self.tail = entry.seq;
        self.n = entry.n;
        self.window.push(seen);
        if self.undecided.is_some_and(|until| entry.seq >= until) {
            self.undecided = None;
        }
        if let Place::Room(room) = &mut self.place
            && matches!(entry.kind, Kind::Joined | Kind::Left)
            && let Some(member) = roster::applied(&room.roster, room.head.creator.as_ref(), entry)
        {
            // A snapshot that was handed on keeps what it showed.
            roster::set(Arc::make_mut(&mut room.roster), member.clone());
            room.owed.push_back(member);
        }
    }

    /// The room's roster as of the tail.
    pub(super) fn roster(&self) -> Option<Arc<Vec<Member>>> {
        match &self.place {
            Place::Direct(_) => None,
            Place::Room(room) => Some(room.roster.clone()),
        }
    }
}
