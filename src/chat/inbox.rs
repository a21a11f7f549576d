//! What one socket has been sent and has received: the order that its client sees.
//!
//! A `position` per conversation in use; `receipt` numbers what was written and takes the proofs.
//! **Texts go out only in order**: the next one is written, a higher one waits and has the gap read
//! from the store, a lower one is dropped. While the socket catches up, what is heard live is only
//! marked, so that offline messages come first (P7). `work` is what it has read from the store,
//! `cursors` what it has received and what of that is stored. A session has an inbox only while
//! something is under way: of one in which all is at rest nothing is needed but its last ping.

mod cursors;
mod past;
mod work;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use past::Past;

use super::position::{Held, Next, Position, Queued};
use super::receipt::{Item, Receipts};
use super::session::{Effect, Outputs, Wish};
use crate::chance::Hashing;
use crate::hub::Event;
use crate::protocol::{ConversationId, Receipt, Seq};
use crate::store::CALL_MS_MAX;

/// The most `read` frames that wait; past that the socket is not read.
const SEES_MAX: usize = 64;

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
    wish: Wish,
    stage: Stage,
    positions: HashMap<ConversationId, Position, Hashing>,
    past: Past,
    queue: VecDeque<ConversationId>,
    store: VecDeque<ConversationId>,
    sees: VecDeque<(ConversationId, Seq)>,
    receipts: Receipts,
    /// How many conversations have offline messages that were not written yet.
    behind: usize,
    working: bool,
    /// The work under way reads the mailbox.
    entering: bool,
    /// A send of this socket was not answered when the last work was done.
    sending: bool,
    reread: bool,
    /// The token may have been taken back since the mailbox was read.
    doubted: bool,
    /// The mailbox is to be read again, eventually consistent.
    belt: bool,
    /// The `read` that is with the store now.
    seeing: Option<(ConversationId, Seq)>,
    /// When the next `Event::Flush` comes.
    resting: Option<Instant>,
    /// The store did not take the last `read`.
    unseen: bool,
    /// The mailbox takes so long that what the client says is answered without it.
    overdue: bool,
}

impl Inbox {
    /// One that the mailbox is still to be read into.
    pub fn new(wish: Wish) -> Self {
        Self {
            wish,
            stage: Stage::New,
            positions: HashMap::default(),
            past: Past::default(),
            queue: VecDeque::new(),
            store: VecDeque::new(),
            sees: VecDeque::new(),
            receipts: Receipts::new(wish.acks_app, 0),
            behind: 0,
            working: false,
            entering: false,
            sending: false,
            reread: false,
            doubted: false,
            belt: false,
            seeing: None,
            resting: None,
            unseen: false,
            overdue: false,
        }
    }

    /// One that goes on where all was at rest, behind so many pings.
    pub fn resume(acks_app: bool, pings: u64) -> Self {
        let receipts = Receipts::new(acks_app, pings);
        let wish = Wish { acks_app, ..Wish::default() };
        Self { stage: Stage::Live, receipts, ..Self::new(wish) }
    }

    /// The number of the last ping behind texts.
    pub fn pings(&self) -> u64 {
        self.receipts.number()
    }

    /// Whether nothing is under way, or remembered for a moment.
    pub fn rests(&self, now: Instant) -> bool {
        self.stage == Stage::Live
            && !(self.working || self.reread || self.belt || self.unseen)
            && self.positions.is_empty()
            && self.past.is_empty()
            && self.sees.is_empty()
            && self.receipts.rests()
            // A flush that was asked for comes by itself; a second one is not to be asked for.
            && self.resting.is_none_or(|flush| flush <= now)
    }

    /// Whether a token opened the socket that may be dead, as the mailbox will tell.
    pub fn is_unknown(&self) -> bool {
        self.doubted || self.wish.guarded && self.stage == Stage::New
    }

    /// Whether texts are written as they come.
    fn is_live(&self) -> bool {
        self.stage == Stage::Live && !self.doubted
    }

    /// Whether the socket is not to be read.
    pub fn pauses(&self) -> bool {
        (self.is_unknown() && !self.overdue) || self.sees.len() >= SEES_MAX
    }

    pub fn is_late(&self, now: Instant) -> bool {
        self.receipts.is_late(now)
    }

    /// What came long ago comes no more; a read that was to be answered by now is late.
    pub fn tick(&mut self, since_last: Duration, now: Instant) {
        self.overdue |= since_last > Duration::from_millis(2 * CALL_MS_MAX);
        self.past.tick(now);
    }

    pub fn wait_anew(&mut self, now: Instant) {
        self.receipts.wait_anew(now);
    }

    pub fn plain_ping(&self) -> [u8; 8] {
        self.receipts.plain_ping()
    }

    /// The mailbox is to be read again.
    pub fn reread(&mut self) {
        // The first read is yet to begin, and will see it all.
        self.reread |= self.stage != Stage::New || self.working;
    }

    /// The same, and until then the token may be dead.
    pub fn doubt(&mut self) {
        self.reread();
        // A first read that is yet to begin tells it anyway.
        (self.doubted, self.overdue) = (self.reread, false);
    }

    /// The mailbox is to be read again for no reason but time.
    pub fn belt(&mut self) {
        self.belt |= self.stage == Stage::Live;
    }

    /// The person has seen up to `seq`.
    pub fn see(&mut self, conversation: ConversationId, seq: Seq) {
        match self.sees.iter_mut().find(|(known, _)| *known == conversation) {
            Some((_, known)) => *known = seq.max(*known),
            None => self.sees.push_back((conversation, seq)),
        }
    }

    fn position(&mut self, conversation: &ConversationId, now: Instant) -> &mut Position {
        let (positions, past) = (&mut self.positions, &self.past);
        positions
            .entry(conversation.clone())
            .or_insert_with(|| Position { passed: past.of(conversation), ..Position::unknown(now) })
    }

    /// A live text, or a hint that there is one.
    pub fn hear(&mut self, event: Event, now: Instant, out: &mut Outputs) {
        let (conversation, seq, via, again, text) = match event {
            Event::Text { conversation, seq, n, text, via, again } => {
                let held = Held { seq, n, text };
                (conversation, seq, Some(via), again, Some(held))
            }
            Event::Hint { conversation, seq, via } => (conversation, seq, via, true, None),
            _ => return,
        };
        // While nothing may be written no text is kept: a slow reader costs no memory, and what
        // waits is read from the store.
        let keeps = self.is_live() && self.receipts.has_room();
        let position = self.position(&conversation, now);
        let passed = position.loaded && seq <= position.sent;
        if !passed {
            position.hear_text(via.as_ref(), now);
        }
        if let Some(via) = via {
            let received = position.loaded && seq <= position.received;
            let receipt = if received { Receipt::Delivered } else { Receipt::Have };
            // All that it has, and not this one alone: the lane stores what it is told as this
            // device's cursor, and one below where a new device began offers what lies between.
            let seq = if received { position.received } else { seq };
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
        if text.is_some() && !again {
            position.hear_first_try(seq);
        }
        if let (true, Some(held)) = (keeps, text) {
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
        let live = self.is_live();
        let Some(position) = self.positions.get_mut(conversation) else { return };
        if position.loaded && live {
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
            cursors::rest(&mut self.resting, conversation, position, out);
        }
        if position.queued == Queued::No && position.needs_work() {
            position.queued = match (position.loaded, self.stage) {
                (false, _) => Queued::Load,
                (true, Stage::Live) if !position.wanted => Queued::Gap(now),
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

    /// Whether the pong to the ping behind what was written says so.
    pub fn asked_for(&self, payload: &[u8]) -> bool {
        self.receipts.asked_for(payload)
    }

    /// An `ack` frame, clamped to what was sent; whether it says anything new.
    pub fn ack(
        &mut self,
        conversation: &ConversationId,
        seq: Seq,
        now: Instant,
        out: &mut Outputs,
    ) -> bool {
        let proven = self.receipts.ack(conversation, seq, now);
        let proves = !proven.is_empty();
        self.proven(proven, now, out);
        // What `missed` told of has no text of its own: an `ack` alone says that it was received.
        let position = self.positions.get(conversation).filter(|_| self.wish.acks_app);
        let seq = position.filter(|p| p.loaded).map_or(0, |p| p.sent.min(seq));
        let moves = position.is_some_and(|p| seq > p.received);
        if moves {
            self.received(conversation, seq, false, now, out);
        }
        proves || moves
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

    #[cfg(test)]
    pub fn texts_held(&self) -> usize {
        self.positions.values().map(|position| position.held.len()).sum()
    }

    fn forget(&mut self, conversation: &ConversationId) {
        if self.positions.get(conversation).is_some_and(Position::rests) {
            if let Some((conversation, position)) = self.positions.remove_entry(conversation) {
                self.past.keep(conversation, position.sent, position.moved);
            }
            self.positions.shrink_to(16);
        }
    }
}
