//! How far one socket stands in one conversation.
//!
//! `sent` only moves to the next seq, or to what a read of the log has shown; so whatever is lost,
//! repeated or reordered on the way, the client sees a log without holes (P4). A position is kept
//! while it is in use and dropped once its cursor is stored.

use tokio::time::Instant;

use crate::protocol::{ProcessId, Seq, Text};

/// The most texts that wait for one that is missing before them.
pub(super) const HELD_MAX: usize = 64;
/// The most bytes of such texts.
pub(super) const HELD_BYTES_MAX: usize = 64 * 1024;
/// The most own sends that wait so.
const OWN_MAX: usize = 64;
/// The most processes that wait for a receipt of one conversation; one that is forgotten asks
/// again.
const VIAS_MAX: usize = 8;

/// A live text.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Its place.
    pub seq: Seq,
    /// Messages up to here.
    pub n: u64,
    /// The frame.
    pub text: Text,
}

/// In which of the session's queues a conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    /// In none.
    No,
    /// Its row is to be read.
    Load,
    /// Its log is to be read.
    Read,
    /// Its log is to be read unless what is missing since then comes by itself soon.
    Gap(Instant),
}

/// What comes next without a read.
#[derive(Debug)]
pub(super) enum Next {
    /// Sent by this very socket: it gets no copy.
    Own(Seq, u64),
    /// A text to write.
    Text(Held),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Position {
    /// The row was read: `sent`, `received` and `stored` mean something.
    pub loaded: bool,
    /// Everything up to here was written, or is not for this socket.
    pub sent: Seq,
    /// The highest seq that was written as a text, or told as missed: what needs a receipt.
    pub last_text: Seq,
    /// Everything up to here has been received, as a receipt proved.
    pub received: Seq,
    /// The cursor of this device in the store is at least this.
    pub stored: Seq,
    /// The highest seq heard of.
    pub heard: Seq,
    /// This socket had passed everything up to here when its position was dropped.
    pub passed: Seq,
    /// The lowest first try heard of before the row was read: this socket can't have been sent it.
    pub first_try: Option<Seq>,
    /// The newest entry passed whose `n` is known, with that `n`.
    pub newest: (Seq, u64),
    /// The highest own send passed whose raise of the own row is not stored yet.
    pub own_passed: Seq,
    /// Own sends beyond `sent`, with their `n`, lowest first.
    pub own: Vec<(Seq, u64)>,
    /// Texts beyond `sent`, lowest first.
    pub held: Vec<Held>,
    /// Who waits for a receipt, and up to where.
    pub vias: Vec<(ProcessId, Seq)>,
    /// When something last happened here.
    pub moved: Instant,
    /// When a cursor with a status that somebody waits for was last stored, or rode on a raise:
    /// `carrier` raises for each text, and carries the cursor that it knows.
    pub texted: Instant,
    /// Who raised for the text that is told of there.
    pub carrier: Option<ProcessId>,
    /// Since when the stored cursor trails, or was last tried.
    pub trails: Option<Instant>,
    /// Where it queues for work.
    pub queued: Queued,
    /// Something was heard since the read that is under way began.
    pub marked: bool,
    /// A read to the end of the log is due, whatever was heard.
    pub wanted: bool,
    /// Up to here it is offline messages, which come before `caughtup`.
    pub behind: Option<Seq>,
    /// What catch-up sent here is to be stored as soon as it is received.
    pub catching: bool,
    /// A write of the cursor is queued or under way.
    pub storing: bool,
    /// How many reads in a row stopped at an entry that may be this socket's own.
    pub doubts: u8,
}

impl Position {
    /// One whose row was not read yet.
    pub fn unknown(now: Instant) -> Self {
        Self {
            loaded: false,
            sent: 0,
            last_text: 0,
            received: 0,
            stored: 0,
            heard: 0,
            passed: 0,
            first_try: None,
            newest: (0, 0),
            own_passed: 0,
            own: Vec::new(),
            held: Vec::new(),
            vias: Vec::new(),
            moved: now,
            texted: now,
            carrier: None,
            trails: None,
            queued: Queued::No,
            marked: false,
            wanted: false,
            behind: None,
            catching: false,
            storing: false,
            doubts: 0,
        }
    }

    /// Takes the cursor of the row. Another socket of the same device may have moved it past a text
    /// that came for this one too; such a text is still sent here, unless it is a late copy of what
    /// this socket has passed.
    pub fn load(&mut self, cursor: Seq) {
        let first = self.first_try.take().map(|first| first.saturating_sub(1).max(self.passed));
        let sent = first.map_or(cursor, |first| cursor.min(first));
        self.loaded = true;
        self.sent = sent;
        self.received = sent;
        self.last_text = 0;
        self.stored = cursor;
        self.forget_passed();
    }

    /// Something up to `seq` is in the log.
    pub fn hear(&mut self, seq: Seq, now: Instant) {
        self.heard = self.heard.max(seq);
        self.marked = true;
        self.moved = now;
    }

    /// A text came through `via`. Only who raised for the one before knows the cursor that waits.
    pub fn hear_text(&mut self, via: Option<&ProcessId>, now: Instant) {
        if !self.owes_status() {
            self.carrier = via.cloned();
            self.texted = now;
        } else if via.is_some() && self.carrier.as_ref() == via {
            self.texted = now;
        }
    }

    /// A text at `seq` came as a first try.
    pub fn hear_first_try(&mut self, seq: Seq) {
        if !self.loaded {
            self.first_try = Some(self.first_try.map_or(seq, |known| known.min(seq)));
        }
    }

    /// Keeps a text until its turn comes. Over the bounds the highest goes: a read brings it back.
    pub fn hold(&mut self, held: Held) {
        match self.held.binary_search_by_key(&held.seq, |h| h.seq) {
            Ok(_) => return,
            Err(at) => self.held.insert(at, held),
        }
        let mut bytes: usize = self.held.iter().map(|h| h.text.len()).sum();
        while self.held.len() > 1 && (self.held.len() > HELD_MAX || bytes > HELD_BYTES_MAX) {
            bytes -= self.held.pop().map_or(0, |h| h.text.len());
        }
    }

    /// Remembers an own send beyond `sent`. They are bounded by the sends under way and by the
    /// reads that pass them; past the bound one is pushed to its sender like any other.
    pub fn hold_own(&mut self, seq: Seq, n: u64) {
        if self.own.len() < OWN_MAX
            && let Err(at) = self.own.binary_search_by_key(&seq, |&(s, _)| s)
        {
            self.own.insert(at, (seq, n));
        }
    }

    /// What stands at `sent + 1`, if it is here.
    pub fn next(&mut self) -> Option<Next> {
        let due = self.sent + 1;
        if let Some(&(seq, n)) = self.own.first().filter(|&&(seq, _)| seq == due) {
            return Some(Next::Own(seq, n));
        }
        let ready = self.held.first().is_some_and(|h| h.seq == due);
        ready.then(|| Next::Text(self.held.remove(0)))
    }

    /// Whether this socket sent the entry at `seq`.
    pub fn is_own(&self, seq: Seq) -> bool {
        self.own.binary_search_by_key(&seq, |&(s, _)| s).is_ok()
    }

    /// `sent` moves; `n` is that of the entry there, where known.
    pub fn pass(&mut self, seq: Seq, n: Option<u64>) {
        self.sent = self.sent.max(seq);
        if let Some(n) = n
            && seq >= self.newest.0
        {
            self.newest = (seq, n);
        }
        self.forget_passed();
    }

    fn forget_passed(&mut self) {
        let sent = self.sent;
        self.heard = self.heard.max(sent);
        let passed = self.own.iter().map(|&(seq, _)| seq).filter(|seq| *seq <= sent);
        self.own_passed = passed.max().unwrap_or(0).max(self.own_passed);
        self.own.retain(|&(seq, _)| seq > sent);
        self.held.retain(|h| h.seq > sent);
        if self.own.is_empty() {
            self.own = Vec::new();
        }
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// A receipt proves everything up to `seq`. What follows and was never written as a text needs
    /// no receipt. Says whether `received` moved.
    pub fn prove(&mut self, seq: Seq, now: Instant) -> bool {
        let before = self.received;
        self.received = self.received.max(seq.min(self.sent));
        if self.received >= self.last_text {
            self.received = self.sent;
        }
        if self.received > before {
            self.moved = now;
            self.trails.get_or_insert(now);
        }
        self.received > before
    }

    /// The highest own send whose lazy raise is stored now, given once.
    pub fn take_raised(&mut self) -> Option<Seq> {
        let raised = self.own_passed > 0 && self.own_passed <= self.stored;
        raised.then(|| std::mem::take(&mut self.own_passed))
    }

    /// The highest own send that the stored row may not tell of.
    pub fn own_unstored(&self) -> Option<Seq> {
        let waits = self.own.last().map_or(0, |&(seq, _)| seq);
        Some(waits.max(self.own_passed)).filter(|seq| *seq > self.stored)
    }

    /// Whether the last of the offline messages has just been passed; `ended`: nothing follows.
    pub fn catches_up(&mut self, ended: bool) -> bool {
        self.behind.take_if(|behind| ended || *behind <= self.sent).is_some()
    }

    /// What was heard of behind `sent` is not there, or can't be read.
    pub fn give_up(&mut self) {
        (self.wanted, self.marked, self.heard) = (false, false, self.sent);
        self.held = Vec::new();
    }

    /// `via` waits for a receipt of `seq`.
    pub fn note_via(&mut self, via: ProcessId, seq: Seq) {
        if let Some((_, up_to)) = self.vias.iter_mut().find(|(known, _)| *known == via) {
            *up_to = (*up_to).max(seq);
        } else {
            if self.vias.len() >= VIAS_MAX {
                self.vias.remove(0);
            }
            self.vias.push((via, seq));
        }
    }

    /// Whether a read is due: of the row, or of the log.
    pub fn needs_work(&self) -> bool {
        !self.loaded || self.wanted || self.heard > self.sent
    }

    /// Whether the stored cursor trails.
    pub fn dirty(&self) -> bool {
        self.loaded && self.received > self.stored
    }

    /// Whether receipts of texts are among what the store does not know: their senders wait for a
    /// status, as nobody does for what this socket said itself.
    pub fn owes_status(&self) -> bool {
        self.last_text > self.stored
    }

    /// Whether it can be dropped: the store knows all that stands here.
    pub fn rests(&self) -> bool {
        self.loaded
            && self.received == self.sent
            && self.stored >= self.received
            && !self.needs_work()
            && !self.storing
            && self.queued == Queued::No
            && self.vias.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(seq: Seq, bytes: usize) -> Held {
        let text = Text::from(vec![b'x'; bytes]);
        Held { seq, n: seq, text }
    }

    fn at(cursor: Seq) -> Position {
        let mut position = Position::unknown(Instant::now());
        position.load(cursor);
        position
    }

    #[test]
    fn texts_and_own_sends_come_in_order_once() {
        let mut p = at(4);
        for seq in [7, 5, 7, 8] {
            p.hold(held(seq, 1));
        }
        p.hold_own(6, 6);
        let mut order = Vec::new();
        while let Some(next) = p.next() {
            let (seq, own) = match next {
                Next::Own(seq, _) => (seq, true),
                Next::Text(h) => (h.seq, false),
            };
            p.pass(seq, Some(seq));
            order.push((seq, own));
        }
        assert_eq!(order, [(5, false), (6, true), (7, false), (8, false)]);
        assert!(p.own.is_empty() && p.held.is_empty());
    }

    #[test]
    fn the_buffer_is_bounded_and_keeps_the_lowest() {
        let mut p = at(0);
        for seq in (2..100).rev() {
            p.hold(held(seq, 10));
        }
        let kept: Vec<_> = p.held.iter().map(|h| h.seq).collect();
        assert_eq!(kept, (2..66).collect::<Vec<_>>());
        let mut p = at(0);
        for seq in 2..10 {
            p.hold(held(seq, 20_000));
        }
        assert_eq!(p.held.len(), 3);
    }

    #[test]
    fn what_was_never_written_needs_no_receipt() {
        let now = Instant::now();
        let mut p = at(3);
        p.pass(4, None);
        p.last_text = 4;
        p.pass(5, Some(5));
        assert!(!p.prove(3, now));
        assert!(p.prove(4, now));
        assert_eq!(p.received, 5);
        p.pass(6, Some(6));
        assert!(p.prove(0, now));
        assert_eq!(p.received, 6);
        assert!(!p.prove(100, now), "never beyond what was sent");
    }

    #[test]
    fn own_sends_do_not_put_off_a_status() {
        let begun = Instant::now();
        let later = begun + std::time::Duration::from_secs(9);
        let mut p = Position::unknown(begun);
        p.load(3);
        p.hear_text(None, begun);
        p.pass(4, None);
        p.last_text = 4;
        p.prove(4, begun);
        p.hear(5, later);
        p.pass(5, Some(5));
        assert!(p.prove(0, later) && p.owes_status());
        assert_eq!((p.moved, p.texted), (later, begun));
        p.stored = 4;
        assert!(p.dirty() && !p.owes_status(), "what it said itself");
    }

    #[test]
    fn a_second_socket_of_the_device_gets_what_the_first_had() {
        let mut p = Position::unknown(Instant::now());
        p.hear_first_try(9);
        p.hear_first_try(8);
        p.load(9);
        assert_eq!((p.sent, p.stored), (7, 9));
        let mut late = Position { passed: 9, ..Position::unknown(Instant::now()) };
        late.hear_first_try(8);
        late.load(9);
        assert_eq!(late.sent, 9, "it passed here before");
        let mut repeated = Position::unknown(Instant::now());
        repeated.hold(held(8, 1));
        repeated.load(9);
        assert_eq!(repeated.sent, 9);
        assert!(repeated.next().is_none());
    }
}
