//! What a client has to remember over reconnects: sends without an answer, and what was seen.
//!
//! Pure. Invariant (P2): a send keeps its `ref` and its `after` from its first try on, whatever
//! happens; of a conversation that nothing is known of, only one send is under way, until its
//! answer says what the `after` of the next ones is. Invariant (P3): an entry is passed on once,
//! however often it comes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::frame::ServerFrame;
use crate::protocol::{ConversationId, UserId};

/// How many sends may wait for their answer.
pub const UNACKED_MAX: usize = 1_024;
/// How many seqs of a conversation are remembered one by one.
const SEEN_MAX: usize = 1_024;
/// What `ref` and `after` take in a frame, at most.
const NAMED_BYTES: usize = 96;
/// How long to wait after a retryable error that does not say it.
const RETRY_DEFAULT: Duration = Duration::from_millis(500);

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// The direct conversation with this person.
    User(String),
    /// A conversation by its id.
    Conversation(String),
}

/// A message to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Send {
    /// Whom it is for.
    pub to: To,
    /// The text.
    pub message: String,
    /// JSON beside the text.
    pub data: Option<Value>,
    /// The client's name for it.
    pub reference: Option<String>,
    /// The seq known at the first try.
    pub after: Option<u64>,
}

impl Send {
    /// A message with nothing beside it.
    pub fn new(to: To, message: impl Into<String>) -> Self {
        Self { to, message: message.into(), data: None, reference: None, after: None }
    }

    /// The same with this ref.
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// The same with the seq that is known.
    pub fn after(mut self, seq: u64) -> Self {
        self.after = Some(seq);
        self
    }

    /// How long its frame may become, with a ref of ours and any `after`.
    pub fn bytes_most(&self) -> usize {
        let bare = Self { reference: None, after: None, ..self.clone() };
        bare.frame().len() + NAMED_BYTES
    }

    /// The frame on the wire.
    pub fn frame(&self) -> String {
        let mut frame = Map::new();
        frame.insert("type".into(), "message".into());
        match &self.to {
            To::User(user) => frame.insert("to".into(), user.as_str().into()),
            To::Conversation(id) => frame.insert("conversation".into(), id.as_str().into()),
        };
        frame.insert("message".into(), self.message.as_str().into());
        let optional = [
            ("data", self.data.clone()),
            ("ref", self.reference.clone().map(Value::from)),
            ("after", self.after.map(Value::from)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                frame.insert(key.into(), value);
            }
        }
        Value::Object(frame).to_string()
    }
}

/// What a frame means to somebody who keeps a conversation going.
#[derive(Debug, PartialEq)]
pub enum Taken {
    /// New: pass it on.
    Pass(ServerFrame),
    /// Seen before, or an answer that nobody waits for.
    Nothing,
    /// The store has this send.
    Acked {
        /// The send.
        send: Send,
        /// Its conversation.
        conversation: String,
        /// Its place there.
        seq: u64,
    },
    /// This send is to be tried again, unchanged, at the time that [`Outstanding::due`] says.
    Later,
    /// This send was refused for good.
    Failed {
        /// The send.
        send: Send,
        /// The error code.
        code: String,
        /// The sentence.
        detail: String,
    },
}

#[derive(Debug, Default)]
struct Seen {
    seqs: BTreeSet<u64>,
    /// Everything up to here counts as seen.
    floor: u64,
}

impl Seen {
    /// Whether it is new.
    fn insert(&mut self, seq: u64) -> bool {
        let new = seq > self.floor && self.seqs.insert(seq);
        while self.seqs.len() > SEEN_MAX {
            self.floor = self.seqs.pop_first().unwrap_or(self.floor);
        }
        new
    }
}

#[derive(Debug)]
struct Pending {
    send: Send,
    conversation: String,
    /// Not to be tried yet: it has no `after`, and another one without is under way.
    held: bool,
    /// A server may have seen it.
    tried: bool,
    retry_at: Option<Instant>,
}

impl Pending {
    fn fits(&self, bytes_max: usize) -> bool {
        // What was tried stays as it is.
        let bytes = if self.tried { self.send.frame().len() } else { self.send.bytes_most() };
        bytes <= bytes_max
    }
}

/// See the module.
#[derive(Debug)]
pub struct Outstanding {
    me: String,
    unacked: VecDeque<Pending>,
    seen: HashMap<String, Seen>,
    known: HashMap<String, u64>,
}

impl Outstanding {
    /// Nothing yet.
    pub fn new(me: impl Into<String>) -> Self {
        let (unacked, seen, known) = Default::default();
        Self { me: me.into(), unacked, seen, known }
    }

    /// How many sends wait for their answer.
    pub fn waiting(&self) -> usize {
        self.unacked.len()
    }

    /// Whether no further send is taken.
    pub fn is_full(&self) -> bool {
        self.unacked.len() >= UNACKED_MAX
    }

    /// Says that the conversation has entries up to `seq`: the `after` of later sends.
    pub fn learn(&mut self, conversation: &str, seq: u64) {
        match self.known.get_mut(conversation) {
            Some(known) => *known = seq.max(*known),
            None => {
                self.known.insert(conversation.to_owned(), seq);
            }
        }
    }

    /// Takes a send: gives it a ref, freezes its `after`, returns its frame; `None` where it is
    /// held until [`Outstanding::released`] gives it.
    pub fn begin(&mut self, mut send: Send) -> Option<String> {
        if send.reference.is_none() {
            send.reference = Some(new_ref());
        }
        let conversation = self.conversation(&send.to);
        if send.after.is_none() {
            send.after = self.known.get(&conversation).copied();
        }
        let before = || self.unacked.iter().any(|pending| pending.conversation == conversation);
        let held = send.after.is_none() && before();
        let frame = (!held).then(|| send.frame());
        let pending = Pending { send, conversation, held, tried: false, retry_at: None };
        self.unacked.push_back(pending);
        frame
    }

    /// The frames that were held and are to be tried now, oldest first. Ask after every frame that
    /// was taken.
    pub fn released(&mut self) -> Vec<String> {
        let mut frames = Vec::new();
        for at in 0..self.unacked.len() {
            let Pending { conversation, held: true, .. } = &self.unacked[at] else { continue };
            let after = self.known.get(conversation).copied();
            let first = || self.unacked.iter().take(at).all(|p| p.conversation != *conversation);
            if after.is_some() || first() {
                let pending = &mut self.unacked[at];
                (pending.held, pending.tried, pending.send.after) = (false, true, after);
                frames.push(pending.send.frame());
            }
        }
        frames
    }

    /// Takes out the sends that no frame of so many bytes holds: of those that no server has seen,
    /// or of those that one may have stored.
    pub fn longer_than(&mut self, bytes_max: usize, tried: bool) -> Vec<Send> {
        let all = std::mem::take(&mut self.unacked);
        let stays = |pending: &Pending| pending.tried != tried || pending.fits(bytes_max);
        let (stay, long) = all.into_iter().partition(stays);
        self.unacked = stay;
        long.into_iter().map(|pending: Pending| pending.send).collect()
    }

    /// The newest send goes to a server.
    pub fn newest_is_tried(&mut self) {
        if let Some(pending) = self.unacked.back_mut().filter(|pending| !pending.held) {
            pending.tried = true;
        }
    }

    /// The ref of the newest send.
    pub fn newest_ref(&self) -> Option<&str> {
        self.unacked.back()?.send.reference.as_deref()
    }

    /// On a new socket: all frames without an answer that are no longer than so many bytes, oldest
    /// first, as they were.
    pub fn again(&mut self, bytes_max: usize) -> Vec<String> {
        let mut frames = Vec::new();
        for pending in self.unacked.iter_mut().filter(|pending| !pending.held) {
            pending.retry_at = None;
            let frame = pending.send.frame();
            if frame.len() <= bytes_max {
                pending.tried = true;
                frames.push(frame);
            }
        }
        frames
    }

    /// When the next refused send may be tried again.
    pub fn due(&self) -> Option<Instant> {
        self.unacked.iter().filter_map(|pending| pending.retry_at).min()
    }

    /// The frames whose time has come, oldest first.
    pub fn retry(&mut self, now: Instant) -> Vec<String> {
        let due = self.unacked.iter_mut().filter(|p| p.retry_at.is_some_and(|at| at <= now));
        due.map(|pending| {
            pending.retry_at = None;
            pending.send.frame()
        })
        .collect()
    }

    /// Sorts out a frame from the server.
    pub fn take(&mut self, frame: ServerFrame, now: Instant) -> Taken {
        match frame {
            ServerFrame::Sent { reference, conversation, seq, .. } => {
                self.acked(reference.as_deref(), conversation, seq)
            }
            ServerFrame::Error { code, detail, reference, retryable, retry_after_ms } => {
                let wait = retry_after_ms.map_or(RETRY_DEFAULT, Duration::from_millis);
                match self.position(reference.as_deref()) {
                    Some(at) if retryable => {
                        self.unacked[at].retry_at = Some(now + wait);
                        Taken::Later
                    }
                    Some(at) => match self.unacked.remove(at) {
                        Some(pending) => Taken::Failed { send: pending.send, code, detail },
                        None => Taken::Nothing,
                    },
                    None => Taken::Pass(ServerFrame::Error {
                        code,
                        detail,
                        reference,
                        retryable,
                        retry_after_ms,
                    }),
                }
            }
            ServerFrame::Entry(entry) => {
                self.learn(&entry.conversation, entry.seq);
                // One's own message, back in catch-up because its `sent` was lost on the way.
                if entry.from == self.me && self.position(entry.reference.as_deref()).is_some() {
                    return self.acked(entry.reference.as_deref(), entry.conversation, entry.seq);
                }
                if self.is_new(&entry.conversation, entry.seq) {
                    Taken::Pass(ServerFrame::Entry(entry))
                } else {
                    Taken::Nothing
                }
            }
            ServerFrame::Missed { conversation, from, to } => {
                self.learn(&conversation, to);
                Taken::Pass(ServerFrame::Missed { conversation, from, to })
            }
            other => Taken::Pass(other),
        }
    }

    fn acked(&mut self, reference: Option<&str>, conversation: String, seq: u64) -> Taken {
        self.learn(&conversation, seq);
        self.is_new(&conversation, seq);
        match self.position(reference).and_then(|at| self.unacked.remove(at)) {
            Some(pending) => Taken::Acked { send: pending.send, conversation, seq },
            None => Taken::Nothing,
        }
    }

    fn is_new(&mut self, conversation: &str, seq: u64) -> bool {
        if let Some(seen) = self.seen.get_mut(conversation) {
            return seen.insert(seq);
        }
        self.seen.entry(conversation.to_owned()).or_default().insert(seq)
    }

    fn position(&self, reference: Option<&str>) -> Option<usize> {
        let reference = reference?;
        self.unacked.iter().position(|p| p.send.reference.as_deref() == Some(reference))
    }

    fn conversation(&self, to: &To) -> String {
        match to {
            To::Conversation(id) => id.clone(),
            To::User(user) => match (UserId::parse(&self.me), UserId::parse(user)) {
                (Ok(me), Ok(user)) => ConversationId::direct(&me, &user).as_str().to_owned(),
                _ => String::new(),
            },
        }
    }
}

/// 128 random bits.
fn new_ref() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::FRAME_BYTES_MAX;

    const DM: &str = "dm:userA:userB";

    fn frame(text: &str) -> ServerFrame {
        ServerFrame::parse(text).unwrap()
    }

    fn message(seq: u64, from: &str, reference: &str) -> ServerFrame {
        frame(&format!(
            r#"{{"type":"message","id":"{DM}/{seq}","conversation":"{DM}","seq":{seq},
                "from":"{from}","to":"userA","message":"m{seq}",
                "ref":"{reference}","timestamp":1}}"#
        ))
    }

    fn sent(reference: &str, seq: u64) -> ServerFrame {
        frame(&format!(
            r#"{{"type":"sent","ref":"{reference}","id":"{DM}/{seq}",
                "conversation":"{DM}","seq":{seq},"timestamp":1}}"#
        ))
    }

    fn to_b(text: &str) -> Send {
        Send::new(To::User("userB".into()), text)
    }

    #[test]
    fn a_send_is_repeated_with_its_first_ref_and_after_until_it_is_answered() {
        let mut state = Outstanding::new("userA");
        let now = Instant::now();
        state.take(message(41, "userB", "x"), now);
        let first = state.begin(to_b("one")).unwrap();
        assert!(first.contains(r#""after":41"#), "{first}");
        state.take(message(42, "userB", "y"), now);
        let second = state.begin(to_b("two")).unwrap();
        assert!(second.contains(r#""after":42"#), "{second}");
        assert_ne!(first.split("\"ref\":").nth(1), second.split("\"ref\":").nth(1));
        state.take(message(50, "userB", "z"), now);
        assert_eq!(state.again(FRAME_BYTES_MAX), [first, second.clone()]);
        let reference = state.unacked[0].send.reference.clone().unwrap();
        let taken = state.take(sent(&reference, 43), now);
        assert!(matches!(taken, Taken::Acked { ref send, seq: 43, .. } if send.message == "one"));
        assert_eq!(state.take(sent(&reference, 43), now), Taken::Nothing);
        assert_eq!(state.again(FRAME_BYTES_MAX), [second]);
    }

    #[test]
    fn of_an_unknown_conversation_one_send_is_under_way() {
        let mut state = Outstanding::new("userA");
        let now = Instant::now();
        let first = state.begin(to_b("one").reference("r1")).unwrap();
        assert!(!first.contains("after"), "{first}");
        assert_eq!(state.begin(to_b("two").reference("r2")), None);
        assert_eq!(state.begin(to_b("three").reference("r3")), None);
        let other = Send::new(To::User("userC".into()), "elsewhere");
        assert!(state.begin(other.reference("c1")).is_some());
        assert!(state.released().is_empty());
        assert_eq!(state.again(FRAME_BYTES_MAX).len(), 2, "what was held was never tried");
        state.take(sent("r1", 41), now);
        let released = state.released();
        assert_eq!(released.len(), 2);
        assert!(released.iter().all(|frame| frame.contains(r#""after":41"#)), "{released:?}");
        assert!(released[0].contains("two") && released[1].contains("three"), "{released:?}");
        assert!(state.released().is_empty() && state.begin(to_b("four")).is_some());
    }

    #[test]
    fn a_refused_first_send_lets_the_next_one_go() {
        let mut state = Outstanding::new("userA");
        state.begin(to_b("one").reference("r1")).unwrap();
        assert_eq!(state.begin(to_b("two").reference("r2")), None);
        assert_eq!(state.begin(to_b("three").reference("r3")), None);
        let never = r#"{"type":"error","code":"too_large","detail":"d","ref":"r1"}"#;
        state.take(frame(never), Instant::now());
        let released = state.released();
        assert!(released.len() == 1 && released[0].contains("two"), "{released:?}");
    }

    #[test]
    fn an_entry_is_passed_on_once_in_whatever_order_it_comes() {
        let mut state = Outstanding::new("userA");
        let now = Instant::now();
        let passed: Vec<bool> = [5, 6, 5, 8, 7, 8, 6]
            .map(|seq| matches!(state.take(message(seq, "userB", "r"), now), Taken::Pass(_)))
            .to_vec();
        assert_eq!(passed, [true, true, false, true, true, false, false]);
        for seq in 9..9 + SEEN_MAX as u64 + 10 {
            assert!(matches!(state.take(message(seq, "userB", "r"), now), Taken::Pass(_)));
        }
        assert_eq!(state.take(message(5, "userB", "r"), now), Taken::Nothing);
    }

    #[test]
    fn ones_own_message_that_comes_back_is_the_answer() {
        let mut state = Outstanding::new("userA");
        let now = Instant::now();
        state.begin(to_b("one").reference("mine")).unwrap();
        let taken = state.take(message(3, "userA", "mine"), now);
        assert!(matches!(taken, Taken::Acked { seq: 3, .. }));
        assert_eq!(state.take(sent("mine", 3), now), Taken::Nothing);
        assert_eq!(state.take(message(3, "userA", "mine"), now), Taken::Nothing);
        assert!(matches!(state.take(message(4, "userA", "phones"), now), Taken::Pass(_)));
    }

    #[test]
    fn retryable_errors_wait_and_others_are_final() {
        let mut state = Outstanding::new("userA");
        let now = Instant::now();
        state.learn(DM, 7);
        let first = state.begin(to_b("one").reference("r1")).unwrap();
        state.begin(to_b("two").reference("r2")).unwrap();
        let later = frame(
            r#"{"type":"error","code":"unavailable","detail":"d","ref":"r1",
                "retryable":true,"retryAfterMs":900}"#,
        );
        assert_eq!(state.take(later, now), Taken::Later);
        assert_eq!(state.due(), Some(now + Duration::from_millis(900)));
        assert!(state.retry(now).is_empty());
        assert_eq!(state.retry(now + Duration::from_secs(1)), [first]);
        assert_eq!((state.due(), state.waiting()), (None, 2));
        let never = frame(
            r#"{"type":"error","code":"too_large","detail":"d","ref":"r2","retryable":false}"#,
        );
        assert!(
            matches!(state.take(never, now), Taken::Failed { ref code, .. } if code == "too_large")
        );
        assert_eq!(state.waiting(), 1);
    }
}
