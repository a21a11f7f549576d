//! What one socket has been sent and has received: the order that its client sees.
//!
//! A `position` per conversation in use; `receipt` numbers what was written and takes the proofs.
//! **Texts go out only in order**: the next one is written, a higher one waits and has the gap read
//! from the store, a lower one is dropped. While the socket catches up, what is heard live is only
//! marked, so that offline messages come first (P7).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::catchup::{Done, Waiting, Work};
use super::position::{Held, Next, Position, Queued};
use super::receipt::{Item, Receipts};
use super::session::{Effect, Outputs, Wish};
use crate::hub::Event;
use crate::protocol::{ConversationId, DeviceId, Entry, ProcessId, Receipt, Seq, UserId, answer};
use crate::store::Raise;

/// The most entries of one read.
const READ_MAX: u32 = 128;
/// The most `read` frames that wait; past that the socket is not read.
const SEES_MAX: usize = 64;
/// How long a cursor rests before it is stored by itself.
const CURSOR_RESTS: Duration = Duration::from_secs(29);
/// How long a room's cursor rests: rooms are written at the end of a socket, and rarely before.
const ROOM_CURSOR_RESTS: Duration = Duration::from_secs(600);
/// The most cursors in one piece of work.
const STORE_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The claim and the mailbox are to come.
    New,
    /// What waited is being sent.
    CatchingUp,
    /// `caughtup` was said.
    Live,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    user: UserId,
    device: DeviceId,
    wish: Wish,
    stage: Stage,
    positions: HashMap<ConversationId, Position>,
    queue: VecDeque<ConversationId>,
    store: VecDeque<ConversationId>,
    sees: VecDeque<(ConversationId, Seq)>,
    receipts: Receipts,
    working: bool,
    reread: bool,
    resting: bool,
}

impl Inbox {
    pub fn new(user: UserId, device: DeviceId, wish: Wish) -> Self {
        Self {
            user,
            device,
            wish,
            stage: Stage::New,
            positions: HashMap::new(),
            queue: VecDeque::new(),
            store: VecDeque::new(),
            sees: VecDeque::new(),
            receipts: Receipts::new(wish.acks_app),
            working: false,
            reread: false,
            resting: false,
        }
    }

    pub fn sees_full(&self) -> bool {
        self.sees.len() >= SEES_MAX
    }

    pub fn is_late(&self, now: Instant) -> bool {
        self.receipts.is_late(now)
    }

    pub fn plain_ping(&self) -> [u8; 8] {
        self.receipts.plain_ping()
    }

    /// The mailbox is to be read again.
    pub fn reread(&mut self) {
        // The first read is yet to begin, and will see it all.
        self.reread |= self.stage != Stage::New || self.working;
    }

    /// The person has seen up to `seq`.
    pub fn see(&mut self, conversation: ConversationId, seq: Seq) {
        match self.sees.iter_mut().find(|(known, _)| *known == conversation) {
            Some((_, known)) => *known = seq.max(*known),
            None => self.sees.push_back((conversation, seq)),
        }
    }

    fn position(&mut self, conversation: &ConversationId, now: Instant) -> &mut Position {
        if !self.positions.contains_key(conversation) {
            self.positions.insert(conversation.clone(), Position::unknown(now));
        }
        self.positions.entry(conversation.clone()).or_insert_with(|| Position::unknown(now))
    }

    /// A live text, or a hint that there is one.
    pub fn hear(&mut self, event: Event, now: Instant, out: &mut Outputs) {
        let (conversation, seq, via, again, text) = match event {
            Event::Text { conversation, seq, n, text, via, again } => {
                let held = Held { seq, n, text, fresh: !again };
                (conversation, seq, Some(via), again, Some(held))
            }
            Event::Hint { conversation, seq, via } => (conversation, seq, via, true, None),
            _ => return,
        };
        let live = self.stage == Stage::Live;
        let position = self.position(&conversation, now);
        let passed = position.loaded && seq <= position.sent;
        if let Some(via) = via {
            let received = position.loaded && seq <= position.received;
            let receipt = if received { Receipt::Delivered } else { Receipt::Have };
            if received || again {
                let (conversation, via) = (conversation.clone(), Some(via.clone()));
                out.effects.push(Effect::Received { conversation, seq, via, receipt });
            }
            if !received {
                position.note_via(via, seq);
            }
        }
        if passed {
            return;
        }
        position.hear(seq, now);
        if let (true, Some(held)) = (live, text) {
            position.hold(held);
        }
        self.advance(&conversation, now, out);
    }

    /// The answer to a send of this socket, which gets no copy.
    pub fn sent(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        n: u64,
        now: Instant,
        out: &mut Outputs,
    ) {
        let position = self.position(&conversation, now);
        if position.loaded && seq <= position.sent {
            return;
        }
        position.hear(seq, now);
        position.hold_own(seq, n);
        self.advance(&conversation, now, out);
    }

    /// Writes what is next, and queues a conversation for which something has to be read.
    fn advance(&mut self, conversation: &ConversationId, now: Instant, out: &mut Outputs) {
        let Some(position) = self.positions.get_mut(conversation) else { return };
        if position.loaded && self.stage == Stage::Live {
            while self.receipts.has_room() {
                match position.next() {
                    None => break,
                    Some(Next::Own(seq, n)) => position.pass(seq, Some(n)),
                    Some(Next::Text(held)) => {
                        let item = Item {
                            conversation: conversation.clone(),
                            seq: held.seq,
                            bytes: u32::try_from(held.text.len()).unwrap_or(u32::MAX),
                            tell: false,
                        };
                        out.frames.push(held.text);
                        self.receipts.push(item, now);
                        position.pass(held.seq, Some(held.n));
                        position.last_text = held.seq;
                    }
                }
            }
            position.prove(0, now);
            rest(&mut self.resting, conversation, position, out);
        }
        if position.queued == Queued::No && position.needs_work() {
            position.queued = match (position.loaded, self.stage) {
                (false, _) => Queued::Load,
                (true, Stage::Live) if !position.wanted => Queued::Gap,
                (true, _) => Queued::Read,
            };
            self.queue.push_back(conversation.clone());
        }
    }

    /// A pong: what it proves was received.
    pub fn pong(&mut self, payload: &[u8], now: Instant, out: &mut Outputs) {
        let proven = self.receipts.pong(payload, now);
        self.proven(proven, now, out);
    }

    /// An `ack` frame, clamped to what was sent.
    pub fn ack(
        &mut self,
        conversation: &ConversationId,
        seq: Seq,
        now: Instant,
        out: &mut Outputs,
    ) {
        let proven = self.receipts.ack(conversation, seq, now);
        self.proven(proven, now, out);
    }

    fn proven(&mut self, proven: Vec<Item>, now: Instant, out: &mut Outputs) {
        if proven.is_empty() {
            return;
        }
        let mut highest: Vec<(ConversationId, Seq, bool)> = Vec::new();
        for item in proven {
            match highest.iter_mut().find(|(known, ..)| *known == item.conversation) {
                Some((_, seq, tell)) => (*seq, *tell) = (item.seq.max(*seq), *tell || item.tell),
                None => highest.push((item.conversation, item.seq, item.tell)),
            }
        }
        for (conversation, seq, tell) in highest {
            self.received(&conversation, seq, tell, now, out);
        }
        // There may be room again for what waits behind.
        let waiting: Vec<_> = self.queue.iter().cloned().collect();
        for conversation in waiting {
            self.advance(&conversation, now, out);
        }
    }

    fn received(
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

    /// Cursors that have rested long enough are stored; those of conversations in use ride on the
    /// raises of their lanes.
    pub fn flush(&mut self, now: Instant, out: &mut Outputs) {
        self.resting = false;
        for (conversation, position) in &mut self.positions {
            if position.dirty() && !position.storing && due(conversation, position) <= now {
                position.storing = true;
                self.store.push_back(conversation.clone());
            }
        }
        let dirty = self.positions.iter().filter(|(_, p)| p.dirty() && !p.storing);
        if let Some(next) = dirty.map(|(id, position)| due(id, position)).min() {
            self.resting = true;
            out.effects.push(Effect::Rest(next));
        }
    }

    fn raise(&self, position: &Position) -> Raise {
        let seq = position.received;
        Raise {
            last: Some(seq),
            delivered: Some(seq),
            read: None,
            cursors: vec![(self.device.clone(), seq)],
        }
    }

    /// All cursors that the store does not know yet.
    pub fn finish(self) -> Vec<(ConversationId, Raise)> {
        let dirty = self.positions.iter().filter(|(_, position)| position.dirty());
        dirty.map(|(id, position)| (id.clone(), self.raise(position))).collect()
    }

    fn forget(&mut self, conversation: &ConversationId) {
        if self.positions.get(conversation).is_some_and(Position::rests) {
            self.positions.remove(conversation);
            self.positions.shrink_to(16);
        }
    }

    /// Takes what came of work.
    pub fn done(&mut self, done: Done, now: Instant, out: &mut Outputs) {
        self.working = false;
        match done {
            Done::Mailbox(waiting) => self.mailbox(waiting, now, out),
            Done::Loaded(conversation, cursor) => {
                if let Some(position) = self.positions.get_mut(&conversation) {
                    position.queued = Queued::No;
                    if !position.loaded {
                        position.load(cursor);
                    }
                }
                self.advance(&conversation, now, out);
            }
            Done::Page { conversation, entries, more } => {
                self.page(&conversation, entries, more, now, out);
            }
            Done::Paused(conversation) => {
                let Some(position) = self.positions.get_mut(&conversation) else { return };
                position.queued = Queued::No;
                if position.needs_work() {
                    // What was missing did not come by itself.
                    position.queued = Queued::Read;
                    self.queue.push_front(conversation);
                }
            }
            Done::Stored(stored) => {
                for (conversation, seq) in stored {
                    if let Some(position) = self.positions.get_mut(&conversation) {
                        position.storing = false;
                        position.stored = position.stored.max(seq);
                    }
                    self.forget(&conversation);
                }
            }
            Done::Seen(conversation, seq) => {
                if let Some(seq) = seq {
                    out.effects.push(Effect::Seen(conversation, seq));
                }
            }
        }
    }

    fn mailbox(&mut self, waiting: Vec<Waiting>, now: Instant, out: &mut Outputs) {
        let first = self.stage == Stage::New;
        if first {
            self.stage = Stage::CatchingUp;
        }
        for Waiting { conversation, cursor, start } in waiting {
            let position = self.position(&conversation, now);
            if !position.loaded {
                position.load(cursor);
            }
            if first && start > position.sent {
                let missed = answer::missed(&conversation, position.sent + 1, start);
                position.pass(start, None);
                position.prove(0, now);
                out.frames.push(missed);
            }
            position.wanted = true;
            position.catching |= first;
            if position.queued == Queued::No {
                position.queued = Queued::Read;
                self.queue.push_back(conversation);
            }
        }
        // What was heard during the read is compared with what it showed.
        let heard: Vec<_> = self.positions.keys().cloned().collect();
        heard.iter().for_each(|conversation| self.advance(conversation, now, out));
    }

    fn page(
        &mut self,
        conversation: &ConversationId,
        entries: Vec<(Seq, Option<Entry>)>,
        more: bool,
        now: Instant,
        out: &mut Outputs,
    ) {
        let Some(position) = self.positions.get_mut(conversation) else { return };
        position.queued = Queued::No;
        let mut whole = !more;
        for (seq, entry) in entries {
            if seq <= position.sent {
                continue;
            }
            if seq != position.sent + 1 || !self.receipts.has_room() {
                whole = false;
                break;
            }
            let own = position.is_own(seq);
            let n = entry.as_ref().map(|entry| entry.n);
            if let Some(entry) = entry.filter(|_| !own) {
                let text = answer::entry(conversation, &entry, entry.from == self.user);
                let item = Item {
                    conversation: conversation.clone(),
                    seq,
                    bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
                    tell: entry.from != self.user,
                };
                out.frames.push(text);
                self.receipts.push(item, now);
                position.last_text = seq;
            }
            position.pass(seq, n);
        }
        if whole {
            position.wanted = false;
            if !position.marked {
                // The end of the log is here, whatever a hint said.
                position.heard = position.sent;
            }
        } else {
            position.wanted = true;
        }
        position.prove(0, now);
        self.advance(conversation, now, out);
        self.forget(conversation);
    }

    /// Asks for the next piece of work, says `caughtup` when there is none left, and seals what was
    /// written with a ping.
    pub fn next_work(&mut self, now: Instant, out: &mut Outputs) {
        if !self.working
            && let Some(work) = self.choose(now, out)
        {
            self.working = true;
            out.work = Some(work);
        }
        let at_end = !self.working && self.queue.is_empty() && !self.reread;
        if self.stage == Stage::CatchingUp && at_end {
            self.stage = Stage::Live;
            out.frames.push(answer::caught_up());
        }
        if let Some(ping) = self.receipts.seal() {
            out.ping = Some(ping);
        }
    }

    fn choose(&mut self, now: Instant, out: &mut Outputs) -> Option<Work> {
        if self.stage == Stage::New {
            return Some(Work::Enter { catchup: self.wish.catchup });
        }
        if std::mem::take(&mut self.reread) {
            return Some(Work::Reread);
        }
        if let Some((conversation, seq)) = self.sees.pop_front() {
            let newest = self.positions.get(&conversation).map(|position| position.newest);
            let n = newest.filter(|(known, _)| *known == seq && seq > 0).map(|(_, n)| n);
            return Some(Work::See { conversation, seq, n });
        }
        if !self.store.is_empty() {
            let count = self.store.len().min(STORE_MAX);
            let ids: Vec<_> = self.store.drain(..count).collect();
            let raise = |id: ConversationId| {
                let raise = self.raise(self.positions.get(&id)?);
                Some((id, raise))
            };
            return Some(Work::Store(ids.into_iter().filter_map(raise).collect()));
        }
        while let Some(conversation) = self.queue.pop_front() {
            let Some(position) = self.positions.get_mut(&conversation) else { continue };
            let queued = std::mem::replace(&mut position.queued, Queued::No);
            if !position.needs_work() {
                self.advance(&conversation, now, out);
                self.forget(&conversation);
                continue;
            }
            if !position.loaded {
                position.queued = Queued::Load;
                return Some(Work::Load(conversation));
            }
            if !self.receipts.has_room() {
                // Receipts must come first; then this goes on where it stands.
                position.queued = queued;
                self.queue.push_front(conversation);
                return None;
            }
            if queued == Queued::Gap {
                position.queued = Queued::Gap;
                return Some(Work::Pause(conversation));
            }
            position.queued = Queued::Read;
            position.marked = false;
            let (texts, _) = self.receipts.room();
            let (after, limit) = (position.sent, texts.clamp(1, READ_MAX) as usize);
            return Some(Work::Read { conversation, after, limit });
        }
        None
    }
}

/// When a cursor has rested long enough to be stored by itself.
fn due(conversation: &ConversationId, position: &Position) -> Instant {
    position.moved + if conversation.is_room() { ROOM_CURSOR_RESTS } else { CURSOR_RESTS }
}

/// Asks to be told when this cursor has rested, unless that was asked for already.
fn rest(resting: &mut bool, conversation: &ConversationId, position: &Position, out: &mut Outputs) {
    if position.dirty() && !position.storing && !std::mem::replace(resting, true) {
        out.effects.push(Effect::Rest(due(conversation, position)));
    }
}
