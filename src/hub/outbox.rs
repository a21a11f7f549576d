//! One socket's queue of what the rest of the server has for it.
//!
//! Empty most of the time, and then it holds no memory beside itself. Bounded by count and bytes.
//! What becomes of an event that does not fit depends on what it is:
//!
//! - Texts and hints are not lost, since they stand in the store; the queue remembers that it
//!   overflowed and the session reads its mailbox again.
//! - Statuses (`delivered`, `read`) and signals are dropped. A later status stands for the earlier
//!   ones, and history tells it (P6); signals are at most once.
//! - Answers to what the client said (`sent`, errors) are always kept: what is unanswered at a time
//!   is bounded where it is taken in. So are the few events that drive the session. (`pong` is the
//!   session's own answer and never stands here.)

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use super::bell::{Bell, NO_PLACE};
use crate::protocol::{
    CloseCode, ConversationId, DeviceId, ProcessId, Ref, Seq, SocketId, Text, Timestamp, UserId,
};

/// The most events that wait for a socket's task.
pub const EVENTS_MAX: usize = 1_024;
/// The most bytes of text that wait for a socket's task.
pub const BYTES_MAX: usize = 1024 * 1024;

/// Whose socket it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The person.
    pub user: UserId,
    /// The device; sockets of one device share its cursor.
    pub device: DeviceId,
    /// The socket.
    pub socket: SocketId,
}

/// Something for one socket.
#[derive(Debug, Clone)]
pub enum Event {
    /// An entry that was just stored.
    Text {
        /// Its log.
        conversation: ConversationId,
        /// Its place.
        seq: Seq,
        /// Messages up to here, for `read`.
        n: u64,
        /// The frame, encoded once for all.
        text: Text,
        /// The process that waits for the receipt.
        via: ProcessId,
        /// A try after the first: answer `have` if no receipt is due.
        again: bool,
    },
    /// An entry was stored, its text is to be read from the store.
    Hint {
        /// Its log.
        conversation: ConversationId,
        /// Its place.
        seq: Seq,
        /// The process that waits for the receipt, if any does.
        via: Option<ProcessId>,
    },
    /// The answer to a send of this very socket, which gets no copy of it.
    Sent {
        /// The ref that it was sent with.
        reference: Option<Ref>,
        /// Its log.
        conversation: ConversationId,
        /// Its place.
        seq: Seq,
        /// Messages up to here.
        n: u64,
        /// When it was stored.
        timestamp: Timestamp,
    },
    /// A frame that is ready: a status, a signal.
    Frame(Text),
    /// The answer to something that this client said, or why it is sent away.
    Answer(Text),
    /// A send of this socket was answered with an error; the frame says which.
    Refused(Text),
    /// Something may have been missed: read the mailbox again.
    Reread,
    /// The token may be dead, and nobody could look: nothing is told or taken until the mailbox was
    /// read again.
    Doubt,
    /// It is an hour since: read the mailbox again, as it stood a moment ago.
    Belt,
    /// Cursors that rested long enough are to be stored.
    Flush,
    /// Time to see whether the client still answers.
    Tick,
    /// The server is draining: tell the client to come back after so many milliseconds.
    Reconnect(u64),
    /// Close with this code.
    Close(CloseCode),
}

impl Event {
    fn bytes(&self) -> usize {
        match self {
            Self::Text { text, .. }
            | Self::Frame(text)
            | Self::Answer(text)
            | Self::Refused(text) => text.len(),
            _ => 0,
        }
    }

    /// Whether a later read of the store makes good for it.
    fn is_hint(&self) -> bool {
        matches!(self, Self::Text { .. } | Self::Hint { .. })
    }
}

/// What has ended of a socket's pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The token.
    Token,
    /// The time for which a token is believed that nobody has looked at since: it is to be shown
    /// again.
    Stay,
}

/// What the token of a socket says of time, in seconds since 1970: two numbers a socket, looked at
/// by whoever goes through all sockets anyway, so that no token needs a timer. The lowest bit of
/// the second says what ends then: the token (0), or the stay (1).
#[derive(Debug)]
pub struct Pass {
    issued: AtomicU32,
    ends: AtomicU32,
}

impl Default for Pass {
    fn default() -> Self {
        Self { issued: AtomicU32::new(u32::MAX), ends: AtomicU32::new(u32::MAX) }
    }
}

impl Pass {
    /// A token that was made at `issued` holds until `ends`.
    pub fn renew(&self, issued: u64, ends: u64) {
        // One that says 2106 is told from none.
        let seconds = |time: u64| u32::try_from(time).unwrap_or(u32::MAX).min(u32::MAX - 1);
        self.issued.store(seconds(issued), Ordering::Relaxed);
        self.ends.store(seconds(ends.saturating_add(1)) & !1, Ordering::Relaxed);
    }

    /// Whoever holds a token that goes on longer is to show it again then.
    pub fn stay(&self, until: u64) {
        let until = u32::try_from(until).unwrap_or(u32::MAX).saturating_sub(1) | 1;
        if until != u32::MAX {
            self.ends.fetch_min(until, Ordering::Relaxed);
        }
    }

    /// When it was made; `None` without a token.
    pub fn issued(&self) -> Option<u64> {
        let issued = self.issued.load(Ordering::Relaxed);
        (issued != u32::MAX).then_some(u64::from(issued))
    }

    /// When something of it ends; `None` without a token, and once that was told.
    pub fn ends(&self) -> Option<u64> {
        let ends = self.ends.load(Ordering::Relaxed);
        (ends != u32::MAX).then_some(u64::from(ends))
    }

    /// What has ended by now; told once.
    pub fn take_ended(&self, now: u64) -> Option<Ended> {
        let ends = self.ends.load(Ordering::Relaxed);
        let ended = ends != u32::MAX && u64::from(ends) < now;
        // One that was renewed since has not.
        let take =
            || self.ends.compare_exchange(ends, u32::MAX, Ordering::Relaxed, Ordering::Relaxed);
        let what = if ends & 1 == 0 { Ended::Token } else { Ended::Stay };
        (ended && take().is_ok()).then_some(what)
    }
}

/// The service by whose token a socket of somebody else's is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acting {
    /// The user of the token.
    pub user: UserId,
    /// When the token was made, in seconds since 1970.
    pub issued: u64,
}

/// What waits, and only while something does: most sockets have none of it.
#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: u32,
    overflowed: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Inside {
    queue: Option<Box<Queue>>,
    acting: Option<Box<Acting>>,
    /// Where its reader stands on the bell.
    place: u32,
    closed: bool,
}

/// A socket's queue. `push` never waits.
#[derive(Debug)]
pub struct Outbox {
    /// Whose it is.
    pub who: Who,
    /// How long its token holds.
    pub pass: Pass,
    /// Where its claim stands among those of its server, which alone looks at this; `u32::MAX`
    /// for nowhere.
    pub claim: AtomicU32,
    bell: Option<Arc<Bell>>,
    inside: Mutex<Inside>,
}

impl Outbox {
    /// An empty one, read by one task with [`Outbox::take`].
    pub fn new(who: Who) -> Self {
        Self::with(who, None)
    }

    /// An empty one, whose reader hears this bell once it has a place ([`Outbox::seat`]).
    pub fn on(bell: Arc<Bell>, who: Who) -> Self {
        Self::with(who, Some(bell))
    }

    fn with(who: Who, bell: Option<Arc<Bell>>) -> Self {
        let inside = Inside { queue: None, acting: None, place: NO_PLACE, closed: false };
        let claim = AtomicU32::new(u32::MAX);
        Self { who, pass: Pass::default(), claim, bell, inside: Mutex::new(inside) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the bell rings with this number. What was pushed before is there to be taken.
    pub fn seat(&self, place: u32) {
        self.lock().place = place;
    }

    /// From now on a token holds that the person's rights go by from `issued` on, until `ends`:
    /// the person's own, or that of a service, named by `acting`.
    pub fn renew(&self, issued: u64, ends: u64, acting: Option<Box<Acting>>) {
        self.lock().acting = acting;
        self.pass.renew(issued, ends);
    }

    /// The service whose token it is, where it is one's.
    pub fn acting(&self) -> Option<Acting> {
        self.lock().acting.as_deref().cloned()
    }

    /// Queues an event. Over the bounds texts, hints and frames are dropped; for texts and hints
    /// the session is told to read its mailbox again; what else there is is always kept.
    pub fn push(&self, event: Event) {
        self.offer(event);
    }

    /// As [`Outbox::push`]. `false`: the socket has ended, and nobody will hear it.
    pub fn offer(&self, event: Event) -> bool {
        let may_drop = event.is_hint() || matches!(event, Event::Frame(_));
        self.put(event, may_drop)
    }

    /// Queues the answer to something that this client said, other than a send: always kept. For
    /// what is under way in bounded numbers only.
    pub fn answer(&self, frame: Text) {
        self.put(Event::Answer(frame), false);
    }

    fn put(&self, event: Event, may_drop: bool) -> bool {
        let mut inside = self.lock();
        if inside.closed {
            return false;
        }
        let place = inside.place;
        let queue = inside.queue.get_or_insert_default();
        let first = queue.events.is_empty() && !queue.overflowed;
        let bytes = u32::try_from(event.bytes()).unwrap_or(u32::MAX).saturating_add(queue.bytes);
        let full = queue.events.len() >= EVENTS_MAX || bytes as usize > BYTES_MAX;
        if full && may_drop {
            queue.overflowed |= event.is_hint();
        } else {
            queue.bytes = bytes;
            queue.events.push_back(event);
        }
        let waker = queue.waker.take();
        drop(inside);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(bell) = self.bell.as_ref().filter(|_| first && place != NO_PLACE) {
            bell.ring(place);
        }
        true
    }

    /// All that is there; for the reader that the bell called.
    pub fn take_now(&self) -> VecDeque<Event> {
        let queue = self.lock().queue.take();
        queue.map_or_else(VecDeque::new, |mut queue| {
            if queue.overflowed {
                queue.events.push_back(Event::Reread);
            }
            queue.events
        })
    }

    /// Waits until something is there and takes all of it: how simulation and tests read. For one
    /// reader only. Cancel-safe.
    pub async fn take(&self) -> VecDeque<Event> {
        poll_fn(|context| {
            let mut inside = self.lock();
            let queue = inside.queue.get_or_insert_default();
            if std::mem::take(&mut queue.overflowed) {
                queue.events.push_back(Event::Reread);
            }
            if queue.events.is_empty() {
                queue.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            queue.bytes = 0;
            Poll::Ready(std::mem::take(&mut queue.events))
        })
        .await
    }

    /// Whether nothing is taken in any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Nothing is taken in any more; what waits is given back.
    pub fn close(&self) -> VecDeque<Event> {
        let mut inside = self.lock();
        inside.closed = true;
        inside.queue.take().map_or_else(VecDeque::new, |queue| queue.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> Outbox {
        let (user, device) = (UserId::parse("a").unwrap(), DeviceId::plain());
        Outbox::new(Who { user, device, socket: SocketId(1) })
    }

    fn frame(bytes: usize) -> Event {
        Event::Frame(Text::from(vec![b'x'; bytes]))
    }

    fn text(bytes: usize) -> Event {
        let (conversation, via) = (ConversationId::parse("dm:a:b"), ProcessId::parse("ws1"));
        let (conversation, via) = (conversation.unwrap(), via.unwrap());
        let text = Text::from(vec![b'x'; bytes]);
        Event::Text { conversation, seq: 1, n: 1, text, via, again: false }
    }

    #[test]
    fn a_token_ends_once_and_without_one_nothing_does() {
        let pass = Pass::default();
        assert_eq!((pass.issued(), pass.take_ended(u64::MAX)), (None, None));
        pass.renew(100, 200);
        assert_eq!((pass.issued(), pass.take_ended(200)), (Some(100), None));
        assert_eq!(pass.take_ended(201), Some(Ended::Token));
        assert_eq!(pass.take_ended(201), None, "it was told");
        pass.renew(150, u64::MAX);
        assert_eq!((pass.issued(), pass.take_ended(300)), (Some(150), None));
        assert_eq!(pass.take_ended(u64::MAX), Some(Ended::Token));
        assert!(size_of::<Pass>() <= 8);
    }

    #[test]
    fn a_token_that_lasts_is_to_be_shown_again() {
        let pass = Pass::default();
        for (ends, told) in [(9_000, Ended::Stay), (1_001, Ended::Stay), (1_000, Ended::Token)] {
            pass.renew(100, ends);
            pass.stay(1_001);
            assert!(pass.ends().unwrap().abs_diff(1_000) <= 1);
            assert_eq!((pass.take_ended(999), pass.take_ended(1_002)), (None, Some(told)));
        }
        pass.renew(100, u64::MAX);
        pass.stay(u64::MAX);
        assert_eq!(pass.take_ended(u64::MAX), Some(Ended::Token));
    }

    #[test]
    fn who_acts_changes_with_the_token() {
        let (outbox, service) = (outbox(), UserId::parse("shop").unwrap());
        assert_eq!(outbox.acting(), None);
        let acting = Acting { user: service, issued: 90 };
        outbox.renew(100, 200, Some(Box::new(acting.clone())));
        assert_eq!((outbox.acting(), outbox.pass.issued()), (Some(acting), Some(100)));
        outbox.renew(110, 300, None);
        assert_eq!((outbox.acting(), outbox.pass.issued()), (None, Some(110)));
    }

    fn rereads(events: &VecDeque<Event>) -> usize {
        events.iter().filter(|event| matches!(event, Event::Reread)).count()
    }

    #[tokio::test]
    async fn what_does_not_fit_becomes_one_reread() {
        for (bytes, fit) in [(10, EVENTS_MAX), (BYTES_MAX / 4, 4)] {
            let outbox = outbox();
            (0..fit + 5).for_each(|_| outbox.push(text(bytes)));
            let events = outbox.take().await;
            assert_eq!((events.len(), rereads(&events)), (fit + 1, 1));
            outbox.push(text(bytes));
            let events = outbox.take().await;
            assert_eq!((events.len(), rereads(&events)), (1, 0), "there is room again");
        }
    }

    #[tokio::test]
    async fn answers_are_kept_in_a_full_queue() {
        let outbox = outbox();
        (0..EVENTS_MAX + 1).for_each(|_| outbox.push(text(1)));
        outbox.push(Event::Refused(Text::from_static(b"{}")));
        outbox.answer(Text::from_static(b"{1}"));
        outbox.push(Event::Close(CloseCode::Restart));
        let events = outbox.take().await;
        assert_eq!(events.len(), EVENTS_MAX + 4);
        assert!(matches!(events[EVENTS_MAX], Event::Refused(_)));
        assert!(matches!(&events[EVENTS_MAX + 1], Event::Answer(frame) if frame.len() == 3));
        assert!(matches!(events[EVENTS_MAX + 2], Event::Close(CloseCode::Restart)));
    }

    #[tokio::test]
    async fn a_status_that_does_not_fit_asks_for_no_read() {
        let outbox = outbox();
        (0..EVENTS_MAX + 9).for_each(|_| outbox.push(frame(1)));
        let events = outbox.take().await;
        assert_eq!((events.len(), rereads(&events)), (EVENTS_MAX, 0), "no read brings it back");
    }

    #[tokio::test]
    async fn the_bell_rings_once_for_all_that_waits() {
        let bell = Arc::new(Bell::default());
        let who = outbox().who;
        let outbox = Outbox::on(bell.clone(), who);
        outbox.push(Event::Tick);
        assert!(bell.now().is_empty(), "it has no place yet");
        outbox.seat(7);
        assert_eq!(outbox.take_now().len(), 1);
        (0..3).for_each(|_| outbox.push(Event::Tick));
        assert_eq!(bell.now(), [7]);
        assert_eq!((outbox.take_now().len(), outbox.take_now().len()), (3, 0));
        (0..EVENTS_MAX + 5).for_each(|_| outbox.push(text(1)));
        assert_eq!(bell.now(), [7]);
        assert_eq!(rereads(&outbox.take_now()), 1);
        assert!(outbox.lock().queue.is_none(), "it holds nothing while nothing waits");
    }

    /// As the allocator counts, in steps of 16 less 8.
    #[test]
    fn an_idle_outbox_is_small() {
        assert!(size_of::<Outbox>() + 16 <= 136, "{}", size_of::<Outbox>());
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken_and_a_closed_queue_takes_nothing() {
        let outbox = std::sync::Arc::new(outbox());
        let reader = outbox.clone();
        let reading = tokio::spawn(async move { reader.take().await.len() });
        tokio::task::yield_now().await;
        outbox.push(Event::Tick);
        assert_eq!(reading.await.unwrap(), 1);
        outbox.close();
        outbox.push(Event::Tick);
        assert!(outbox.lock().queue.is_none());
    }
}
