//! How far a socket has received, and when the store is told.
//!
//! A cursor is stored by itself only once it has rested, when a socket has caught up, or at its
//! end: those of conversations in use ride on the raises of their lanes, which cost a write anyway.

use std::time::Duration;

use tokio::time::Instant;

use super::{Inbox, Stage};
use crate::chat::position::Position;
use crate::chat::session::{Effect, Outputs, Unstored};
use crate::hub::Who;
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationId, ProcessId, Receipt, Seq};
use crate::store::Raise;

/// How long a direct conversation is quiet before its cursor is stored by itself.
const CURSOR_RESTS: Duration = Duration::from_secs(29);
/// How long a cursor trails at most: of rooms, and of direct conversations that are never quiet.
const TRAILS_MAX: Duration = Duration::from_secs(600);

impl Inbox {
    /// The client has everything up to `seq`: whoever waits for that is told.
    pub(super) fn received(
        &mut self,
        conversation: &ConversationId,
        seq: Seq,
        tell: bool,
        now: Instant,
        out: &mut Outputs,
    ) {
        let Some(position) = self.positions.get_mut(conversation) else { return };
        position.prove(seq, now);
        let received = position.received;
        let mut told = false;
        let mut tell_via = |via: Option<ProcessId>| {
            let (conversation, receipt) = (conversation.clone(), Receipt::Delivered);
            out.effects.push(Effect::Received { conversation, seq: received, via, receipt });
        };
        position.vias.retain(|(via, up_to)| {
            told = true;
            tell_via(Some(via.clone()));
            *up_to > received
        });
        if position.vias.is_empty() {
            position.vias = Vec::new();
        }
        if tell && !told {
            tell_via(None);
        }
        let caught = position.catching && position.received == position.sent;
        if position.dirty() && !position.storing && caught && !position.needs_work() {
            (position.catching, position.storing) = (false, true);
            self.store.push_back(conversation.clone());
        } else {
            rest(&mut self.resting, conversation, position, out);
        }
        self.forget(conversation);
    }

    /// What came of a write of cursors. What failed rests again.
    pub(super) fn stored(
        &mut self,
        stored: Vec<(ConversationId, Seq)>,
        failed: Vec<ConversationId>,
        now: Instant,
        out: &mut Outputs,
    ) {
        for conversation in failed {
            if let Some(position) = self.positions.get_mut(&conversation) {
                (position.storing, position.trails) = (false, Some(now));
                (position.moved, position.texted) = (now, now);
                rest(&mut self.resting, &conversation, position, out);
            }
        }
        for (conversation, seq) in stored {
            if let Some(position) = self.positions.get_mut(&conversation) {
                position.storing = false;
                position.stored = position.stored.max(seq);
                position.texted = now;
                position.trails = position.dirty().then_some(now);
                if let Some(own) = position.take_raised() {
                    out.effects.push(Effect::Raised(conversation.clone(), own));
                }
                rest(&mut self.resting, &conversation, position, out);
            }
            self.forget(&conversation);
        }
    }

    /// Cursors that have rested long enough are stored; those of conversations in use ride on the
    /// raises of their lanes.
    pub fn flush(&mut self, now: Instant, out: &mut Outputs) {
        self.resting = self.resting.filter(|asked| *asked > now);
        for (conversation, position) in &mut self.positions {
            if position.dirty() && !position.storing && due(conversation, position) <= now {
                position.storing = true;
                self.store.push_back(conversation.clone());
            }
        }
        let dirty = self.positions.iter().filter(|(_, p)| p.dirty() && !p.storing);
        let next = dirty.map(|(id, position)| due(id, position)).min();
        ask(&mut self.resting, next, out);
    }

    /// All that the store does not know yet.
    pub fn finish(self, who: &Who) -> Unstored {
        let entered = self.stage != Stage::New;
        let mut unstored = Unstored { entered, ..Unstored::default() };
        for (id, position) in &self.positions {
            if position.dirty() {
                unstored.raises.push((id.clone(), raise(position, who)));
            }
            if let Some(own) = position.own_unstored() {
                unstored.sent(id, own);
            }
        }
        if entered {
            // The one that is under way may have been stored, which does not hurt.
            unstored.sees = self.seeing.into_iter().chain(self.sees).collect();
        }
        unstored
    }
}

/// Stores the cursor of this device.
pub(super) fn raise(position: &Position, who: &Who) -> Raise {
    let seq = position.received + u64::from(planted(Bug::CursorOffByOne));
    Raise {
        last: Some(seq),
        delivered: Some(seq),
        read: None,
        cursors: vec![(who.device.clone(), seq)],
    }
}

/// When a cursor is to be stored by itself.
fn due(conversation: &ConversationId, position: &Position) -> Instant {
    let latest = position.trails.unwrap_or(position.moved) + TRAILS_MAX;
    if conversation.is_room() {
        return latest;
    }
    // The raises that a cursor rides on are those for texts: who only sends has none.
    let quiet_since = if position.owes_status() { position.texted } else { position.moved };
    latest.min(quiet_since + CURSOR_RESTS)
}

/// Asks to be told when this cursor has rested, unless that was asked for already.
pub(super) fn rest(
    resting: &mut Option<Instant>,
    conversation: &ConversationId,
    position: &Position,
    out: &mut Outputs,
) {
    if position.dirty() && !position.storing {
        ask(resting, Some(due(conversation, position)), out);
    }
}

/// Asks for `Event::Flush` unless one comes by then.
fn ask(resting: &mut Option<Instant>, due: Option<Instant>, out: &mut Outputs) {
    if let Some(due) = due
        && resting.is_none_or(|asked| due < asked)
    {
        *resting = Some(due);
        out.effects.push(Effect::Rest(due));
    }
}
