//! What a socket has read from the store next, and what comes of it. One piece of work at a time.

use std::time::Duration;

use tokio::time::Instant;

use super::{Inbox, Stage, cursors};
use crate::chat::catchup::{Done, Waiting, Work};
use crate::chat::position::Queued;
use crate::chat::reads::Turn;
use crate::chat::receipt::Item;
use crate::chat::session::{Effect, Here, Outputs};
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationId, Entry, Seq, Text, answer};

/// The most entries of one read.
const READ_MAX: u32 = 128;
/// How long a text that is missing before others is waited for. Another server may have stored it
/// and be about to say so; each read that this saves is two or three requests of the store.
const GAP_PATIENCE: Duration = Duration::from_millis(100);
/// How often a read waits for the answer that tells whose an entry is: about a second.
const DOUBTS_MAX: u8 = 10;
/// The most cursors in one piece of work.
const STORE_MAX: usize = 16;

impl Inbox {
    /// Takes what came of work. `sending`: some send of this socket is not answered yet.
    pub fn done(&mut self, done: Done, sending: bool, here: &Here<'_>, out: &mut Outputs) {
        let now = here.now;
        (self.working, self.entering, self.sending) = (false, false, sending);
        self.seeing = None;
        match done {
            Done::Mailbox(waiting) => {
                // One that began before the doubt says nothing: another is to follow.
                self.doubted &= self.reread;
                self.mailbox(waiting, now, out);
            }
            Done::Loaded(conversation, cursor) => {
                if let Some(position) = self.positions.get_mut(&conversation) {
                    position.queued = Queued::No;
                    if !position.loaded {
                        position.load(cursor);
                    }
                }
                self.advance(&conversation, now, out);
            }
            Done::Page { conversation, start, entries, skip, more } => {
                if let Some(position) = self.positions.get_mut(&conversation) {
                    position.pass(start, None);
                }
                self.page(&conversation, entries, skip, more, here, out);
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
            Done::Stored { stored, failed } => self.stored(stored, failed, now, out),
            Done::Seen(conversation, seq) => {
                self.unseen = false;
                if let Some(seq) = seq {
                    out.effects.push(Effect::Seen(conversation, seq));
                }
            }
            Done::Unseen(conversation, seq) => {
                self.unseen = true;
                self.see(conversation, seq);
            }
            Done::Failed(conversation) => self.failed(&conversation),
            // The session ends with it.
            Done::Revoked => {}
        }
    }

    /// Nothing more is read here until something new is heard.
    fn failed(&mut self, conversation: &ConversationId) {
        let Some(position) = self.positions.get_mut(conversation) else { return };
        position.queued = Queued::No;
        if position.loaded {
            position.give_up();
            self.behind -= usize::from(position.catches_up(true));
            self.forget(conversation);
        } else {
            self.positions.remove(conversation);
        }
    }

    fn mailbox(&mut self, waiting: Vec<Waiting>, now: Instant, out: &mut Outputs) {
        let first = self.stage == Stage::New;
        if first {
            self.stage = Stage::CatchingUp;
        }
        let waiting = if planted(Bug::CaughtupAlways) { Vec::new() } else { waiting };
        for Waiting { conversation, cursor, start, end } in waiting {
            let catching_up = self.stage == Stage::CatchingUp;
            let position = self.position(&conversation, now);
            if !position.loaded {
                position.load(cursor);
            }
            let skips = first && start > position.sent;
            // What is put from now on is live, or a busy conversation would never be caught up.
            let newly = catching_up && position.behind.is_none();
            if newly {
                position.behind = Some(end);
            }
            position.wanted = true;
            position.catching |= first;
            if position.queued == Queued::No {
                position.queued = Queued::Read;
                self.queue.push_back(conversation.clone());
            }
            self.behind += usize::from(newly);
            if skips {
                self.tell_missed(&conversation, start, now, out);
            }
        }
        // What was heard during the read is compared with what it showed.
        let heard: Vec<_> = self.positions.keys().cloned().collect();
        heard.iter().for_each(|conversation| self.advance(conversation, now, out));
    }

    /// Older texts are left out up to `start`. Told is not received: it is told again unless a
    /// receipt proves it. A client that acknowledges by itself does so with a text behind it.
    fn tell_missed(
        &mut self,
        conversation: &ConversationId,
        start: Seq,
        now: Instant,
        out: &mut Outputs,
    ) {
        let position = self.position(conversation, now);
        let missed = answer::missed(conversation, position.sent + 1, start);
        position.pass(start, None);
        position.last_text = start;
        if !self.wish.acks_app {
            let (conversation, bytes) = (conversation.clone(), size(&missed));
            self.receipts.push(Item { conversation, seq: start, bytes, tell: false }, now);
        }
        out.frames.push(missed);
    }

    fn page(
        &mut self,
        conversation: &ConversationId,
        entries: Vec<(Seq, Option<Entry>)>,
        skip: Seq,
        more: bool,
        here: &Here<'_>,
        out: &mut Outputs,
    ) {
        let Some(position) = self.positions.get_mut(conversation) else { return };
        let (who, now) = (here.who, here.now);
        if self.doubted {
            // Asked for before the doubt, and to be asked for again after it.
            (position.wanted, position.queued) = (true, Queued::Read);
            return self.queue.push_back(conversation.clone());
        }
        position.queued = Queued::No;
        let (mut taken, mut doubtful) = (true, false);
        for (seq, entry) in entries {
            if seq <= position.sent {
                continue;
            }
            if seq != position.sent + 1 || !self.receipts.has_room() {
                taken = false;
                break;
            }
            let own = position.is_own(seq);
            let maybe = |e: &Entry| e.from == who.user && e.device == who.device && self.sending;
            doubtful = !own && entry.as_ref().is_some_and(maybe) && position.doubts < DOUBTS_MAX;
            if doubtful {
                // Stored by this very socket, perhaps, with its answer on the way: that tells.
                break;
            }
            let n = entry.as_ref().map(|entry| entry.n);
            if let Some(entry) = entry.filter(|_| !own) {
                let text = answer::entry(conversation, &entry, entry.from == who.user);
                let (conversation, bytes) = (conversation.clone(), size(&text));
                let item = Item { conversation, seq, bytes, tell: entry.from != who.user };
                out.frames.push(text);
                self.receipts.push(item, now);
                position.last_text = seq;
            }
            position.pass(seq, n);
        }
        taken &= !doubtful;
        if taken && more {
            position.pass(skip, None);
        }
        let whole = taken && !more;
        position.doubts = if doubtful { position.doubts + 1 } else { 0 };
        if doubtful {
            (position.wanted, position.queued) = (true, Queued::Gap(now));
            self.queue.push_back(conversation.clone());
        } else if whole {
            position.wanted = false;
            if !position.marked {
                // The end of the log is here, whatever a hint said or an envelope brought.
                position.give_up();
            }
        } else {
            position.wanted = true;
        }
        self.behind -= usize::from(position.catches_up(whole));
        position.prove(0, now);
        self.advance(conversation, now, out);
        self.forget(conversation);
    }

    /// Asks for the next piece of work, says `caughtup` once all that waited is written, and seals
    /// what was written with a ping.
    pub fn next_work(&mut self, here: &Here<'_>, out: &mut Outputs) {
        if !self.working
            && let Some(work) = self.choose(here, out)
        {
            self.working = true;
            self.entering = matches!(work, Work::Enter { .. } | Work::Reread { .. });
            out.work = Some(work);
        }
        let caught_up = self.behind == 0 && !self.entering;
        if self.stage == Stage::CatchingUp && caught_up {
            self.stage = Stage::Live;
            out.frames.push(answer::caught_up());
        }
        if let Some(ping) = self.receipts.seal() {
            out.ping = Some(ping);
            if planted(Bug::DeliveredOnWrite) {
                self.pong(&ping, here.now, out);
            }
        }
    }

    fn choose(&mut self, here: &Here<'_>, out: &mut Outputs) -> Option<Work> {
        if self.stage == Stage::New {
            return Some(Work::Enter { catchup: self.wish.catchup });
        }
        let (reread, belt) = (std::mem::take(&mut self.reread), std::mem::take(&mut self.belt));
        if reread || belt {
            let loaded = self.positions.iter().filter(|(_, position)| position.loaded);
            let here = loaded.map(|(id, position)| (id.clone(), position.sent));
            let (here, doubted) = (here.collect(), self.doubted);
            return Some(Work::Reread { here, consistent: reread, doubted });
        }
        // What the store did not take waits until there is nothing to read.
        if self.unseen
            && let Some(read) = self.choose_read(here.now, out)
        {
            return Some(read);
        }
        if let Some((conversation, seq)) = self.sees.pop_front() {
            let newest = self.positions.get(&conversation).map(|position| position.newest);
            let n = newest.filter(|(known, _)| *known == seq && seq > 0).map(|(_, n)| n);
            self.seeing = Some((conversation.clone(), seq));
            return Some(Work::See { conversation, seq, n });
        }
        if !self.store.is_empty() {
            let count = self.store.len().min(STORE_MAX);
            let ids: Vec<_> = self.store.drain(..count).collect();
            let raise = |id: ConversationId| {
                let raise = cursors::raise(self.positions.get(&id)?, here.who);
                Some((id, raise))
            };
            return Some(Work::Store(ids.into_iter().filter_map(raise).collect()));
        }
        self.choose_read(here.now, out)
    }

    /// The first conversation in the queue for which there is still something to read.
    fn choose_read(&mut self, now: Instant, out: &mut Outputs) -> Option<Work> {
        let turn = if self.stage == Stage::Live { Turn::Live } else { Turn::CatchingUp };
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
                return Some(Work::Load(conversation, turn));
            }
            if !self.receipts.has_room() {
                // Receipts must come first; then this goes on where it stands.
                position.queued = queued;
                self.queue.push_front(conversation);
                return None;
            }
            if let Queued::Gap(since) = queued {
                position.queued = queued;
                return Some(Work::Pause(conversation, since + GAP_PATIENCE));
            }
            position.queued = Queued::Read;
            position.marked = false;
            let (texts, _) = self.receipts.room();
            let (after, limit) = (position.sent, texts.clamp(1, READ_MAX) as usize);
            return Some(Work::Read { conversation, after, limit, turn });
        }
        None
    }
}

fn size(text: &Text) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}
