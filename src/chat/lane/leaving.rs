//! Answered entries on their way out of a lane: those that go the same way are handed on together,
//! so that a burst is located once and published once.
//!
//! **Invariant.** Entries of one hand-over have one sender, one roster and one origin, and their
//! seqs rise; a change of the roster goes alone, since whom it is for differs from what follows it
//! (P9).

use std::sync::Arc;

use super::{Handed, HandedOn, Origin};
use crate::protocol::{ConversationId, Entry, Kind};
use crate::store::Member;

/// What is to be handed on next.
#[derive(Default)]
pub(super) struct Leaving {
    together: Option<(Arc<dyn Origin>, HandedOn)>,
}

impl Leaving {
    /// Takes an entry; what can't go with it is handed on first.
    pub(super) fn push(
        &mut self,
        origin: &Arc<dyn Origin>,
        conversation: &ConversationId,
        roster: Option<Arc<Vec<Member>>>,
        handed: Handed,
    ) {
        if let Some((known, group)) = &mut self.together
            && Arc::ptr_eq(known, origin)
            && group.takes(&handed, roster.as_ref())
        {
            group.entries.push(handed);
            return;
        }
        self.flush();
        let (conversation, entries) = (conversation.clone(), vec![handed]);
        self.together = Some((origin.clone(), HandedOn { conversation, entries, roster }));
    }

    /// Hands on what is there.
    pub(super) fn flush(&mut self) {
        if let Some((origin, handed)) = self.together.take() {
            origin.hand_on(handed);
        }
    }
}

impl HandedOn {
    /// The entry with the highest seq.
    pub fn newest(&self) -> Option<&Entry> {
        self.entries.last().map(|handed| &*handed.entry)
    }

    fn takes(&self, next: &Handed, roster: Option<&Arc<Vec<Member>>>) -> bool {
        let same_roster = match (&self.roster, roster) {
            (None, None) => true,
            (Some(known), Some(roster)) => Arc::ptr_eq(known, roster),
            _ => false,
        };
        let goes_along = |handed: &Handed| {
            handed.entry.kind == Kind::Message && handed.entry.from == next.entry.from
        };
        // A send that stands twice in a batch has the seq of the first: it goes behind by itself.
        let rises = self.newest().is_some_and(|newest| newest.seq < next.entry.seq);
        rises && same_roster && goes_along(next) && self.entries.iter().all(goes_along)
    }
}
