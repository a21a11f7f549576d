//! What was written to a socket and not yet received, and the proofs that it was (design §4.4).
//!
//! Plain clients: behind the texts goes one WebSocket ping whose payload numbers the batch; its
//! pong proves the batch. One ping is under way per socket; what is written meanwhile goes under
//! the next. Clients with `acks=app` say themselves how far they are.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::{ConversationId, Seq};

/// The most texts that a socket may have unreceived.
pub(super) const WINDOW_TEXTS: u32 = 256;
/// The most bytes of texts that a socket may have unreceived; the last one may go over.
pub(super) const WINDOW_BYTES: u32 = 256 * 1024;
/// How long a socket may leave texts without any receipt.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(30);

/// A text that was written.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Its log.
    pub conversation: ConversationId,
    /// Its place.
    pub seq: Seq,
    /// Its size.
    pub bytes: u32,
    /// Read from the store and written by somebody else: its sender's sockets are to be told.
    pub tell: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Receipts {
    app: bool,
    /// The number of the ping that is, or was last, under way.
    number: u64,
    /// What the pong with that number proves.
    flying: Vec<Item>,
    /// What the next ping will prove; with `acks=app` all that is unreceived.
    next: Vec<Item>,
    texts: u32,
    bytes: u32,
    full: bool,
    /// Since when something waits without any progress.
    since: Option<Instant>,
}

impl Receipts {
    /// A ping that proves nothing.
    pub const PLAIN_PING: [u8; 8] = [0; 8];

    /// `app`: the client acknowledges by itself. `number`: that of the last ping before these.
    pub fn new(app: bool, number: u64) -> Self {
        Self {
            app,
            number,
            flying: Vec::new(),
            next: Vec::new(),
            texts: 0,
            bytes: 0,
            full: false,
            since: None,
        }
    }

    /// The number of the last ping behind texts.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether all that was written was received.
    pub fn rests(&self) -> bool {
        self.texts == 0
    }

    /// Whether another text may be written. Once the window is full it opens when half of it is
    /// received, so that reads come in pages and not one by one.
    pub fn has_room(&self) -> bool {
        !self.full
    }

    /// How many texts and bytes may still be written.
    pub fn room(&self) -> (u32, u32) {
        (WINDOW_TEXTS.saturating_sub(self.texts), WINDOW_BYTES.saturating_sub(self.bytes))
    }

    /// A text was written.
    pub fn push(&mut self, item: Item, now: Instant) {
        self.texts += 1;
        self.bytes = self.bytes.saturating_add(item.bytes);
        self.full |= self.texts >= WINDOW_TEXTS || self.bytes >= WINDOW_BYTES;
        self.since.get_or_insert(now);
        self.next.push(item);
    }

    /// The ping to write behind the texts, if one is due.
    pub fn seal(&mut self) -> Option<[u8; 8]> {
        if self.app || self.next.is_empty() || !self.flying.is_empty() {
            return None;
        }
        self.flying = std::mem::take(&mut self.next);
        self.number += 1;
        Some(self.number.to_be_bytes())
    }

    /// A ping that only asks for a sign of life. A client may answer the newest of several pings
    /// alone, so while a batch is under way this one repeats its number.
    pub fn plain_ping(&self) -> [u8; 8] {
        if self.flying.is_empty() { Self::PLAIN_PING } else { self.number.to_be_bytes() }
    }

    /// Whether a pong is the answer to the ping under way.
    pub fn asked_for(&self, payload: &[u8]) -> bool {
        !self.flying.is_empty() && payload == self.number.to_be_bytes()
    }

    /// What a pong proves; nothing if it is not the answer to the ping under way.
    pub fn pong(&mut self, payload: &[u8], now: Instant) -> Vec<Item> {
        if !self.asked_for(payload) {
            return Vec::new();
        }
        let proven = std::mem::take(&mut self.flying);
        self.release(&proven, now);
        proven
    }

    /// What an `ack` up to `seq` proves.
    pub fn ack(&mut self, conversation: &ConversationId, seq: Seq, now: Instant) -> Vec<Item> {
        if !self.app {
            return Vec::new();
        }
        let is_proven = |i: &mut Item| i.seq <= seq && i.conversation == *conversation;
        let proven: Vec<Item> = self.next.extract_if(.., is_proven).collect();
        if self.next.is_empty() {
            self.next = Vec::new();
        }
        self.release(&proven, now);
        proven
    }

    fn release(&mut self, proven: &[Item], now: Instant) {
        for item in proven {
            self.texts -= 1;
            self.bytes -= item.bytes;
        }
        if self.texts <= WINDOW_TEXTS / 2 && self.bytes <= WINDOW_BYTES / 2 {
            self.full = false;
        }
        if !proven.is_empty() {
            self.since = (self.texts > 0).then_some(now);
        }
    }

    /// The server itself stood still: the client has had no time.
    pub fn wait_anew(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    /// Whether the client has left texts unreceived for too long.
    pub fn is_late(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= SLOW_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::UserId;

    fn dm() -> ConversationId {
        ConversationId::direct(&UserId::parse("a").unwrap(), &UserId::parse("b").unwrap())
    }

    fn item(seq: Seq, bytes: u32) -> Item {
        Item { conversation: dm(), seq, bytes, tell: false }
    }

    fn seqs(items: &[Item]) -> Vec<Seq> {
        items.iter().map(|i| i.seq).collect()
    }

    #[test]
    fn one_ping_is_under_way_and_proves_what_stood_before_it() {
        let now = Instant::now();
        let mut r = Receipts::new(false, 0);
        assert_eq!(r.seal(), None);
        r.push(item(1, 1), now);
        r.push(item(2, 1), now);
        let first = r.seal().unwrap();
        r.push(item(3, 1), now);
        assert_eq!(r.seal(), None, "one under way");
        assert!(r.pong(b"", now).is_empty());
        assert!(r.pong(&99u64.to_be_bytes(), now).is_empty());
        assert_eq!(seqs(&r.pong(&first, now)), [1, 2]);
        assert!(r.pong(&first, now).is_empty(), "proves once");
        let second = r.seal().unwrap();
        assert_ne!(first, second);
        assert_eq!(r.plain_ping(), second, "a plain ping must not hide the batch's");
        assert_eq!(seqs(&r.pong(&second, now)), [3]);
        assert_eq!(r.plain_ping(), [0; 8]);
    }

    #[test]
    fn acks_prove_up_to_and_pings_nothing() {
        let now = Instant::now();
        let mut r = Receipts::new(true, 0);
        for seq in 1..=4 {
            r.push(item(seq, 1), now);
        }
        assert_eq!(r.seal(), None);
        assert!(r.pong(&[0; 8], now).is_empty());
        assert_eq!(seqs(&r.ack(&dm(), 3, now)), [1, 2, 3]);
        assert!(r.ack(&dm(), 2, now).is_empty());
        assert_eq!(seqs(&r.ack(&dm(), 9, now)), [4]);
    }

    #[test]
    fn the_window_closes_when_full_and_opens_at_half() {
        let now = Instant::now();
        let mut r = Receipts::new(true, 0);
        for seq in 1..=256 {
            assert!(r.has_room());
            r.push(item(seq, 1), now);
        }
        assert!(!r.has_room());
        r.ack(&dm(), 127, now);
        assert!(!r.has_room());
        r.ack(&dm(), 128, now);
        assert!(r.has_room());
        r.push(item(257, WINDOW_BYTES), now);
        assert!(!r.has_room());
    }

    #[test]
    fn late_is_without_progress() {
        let start = Instant::now();
        let mut r = Receipts::new(true, 0);
        assert!(!r.is_late(start + SLOW_AFTER));
        r.push(item(1, 1), start);
        r.push(item(2, 1), start + SLOW_AFTER / 2);
        assert!(r.is_late(start + SLOW_AFTER));
        r.ack(&dm(), 1, start + SLOW_AFTER);
        assert!(!r.is_late(start + SLOW_AFTER));
        r.ack(&dm(), 2, start + SLOW_AFTER);
        assert!(!r.is_late(start + SLOW_AFTER * 9));
    }
}
