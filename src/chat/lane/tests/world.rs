//! One process's lanes, and what a test says to them and sees of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::faulty::{Faulty, Trace};
use crate::chat::lane::{Append, Bounds, Handed, HandedOn, Lanes, Opens, Origin, Reply};
use crate::chat::{ChatError, Sent};
use crate::hub::{Event, Outbox, Who};
use crate::protocol::*;
use crate::store::{LogRange, Member, PAGE_MAX, Record, Store};

pub type Answer = Result<Sent, ChatError>;

pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub fn dm() -> ConversationId {
    ConversationId::direct(&user("a"), &user("b"))
}

/// An entry that was handed on.
#[derive(Clone)]
pub struct One {
    pub entry: Arc<Entry>,
    pub sender: Option<SocketId>,
    pub repeated: bool,
    pub roster: Option<Arc<Vec<Member>>>,
}

/// The part that appends come through.
pub struct Part {
    pub alive: AtomicBool,
    pub handed: Mutex<Vec<One>>,
    /// How many conversations may be opened yet.
    pub openings: AtomicU64,
    trace: Trace,
}

#[async_trait]
impl Origin for Part {
    fn may_append(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    fn hand_on(&self, handed: HandedOn) {
        let HandedOn { entries, roster, .. } = handed;
        let seqs: Vec<_> = entries.iter().map(|handed| handed.entry.seq).collect();
        assert!(
            !seqs.is_empty() && seqs.is_sorted_by(|a, b| a < b),
            "in the order of seq: {seqs:?}"
        );
        assert!(entries.iter().all(|handed| handed.entry.from == entries[0].entry.from));
        for Handed { entry, sender, repeated } in entries {
            self.trace.lock().unwrap().push(format!("handed {}", entry.seq));
            let one = One { entry, sender, repeated, roster: roster.clone() };
            self.handed.lock().unwrap().push(one);
        }
    }

    async fn may_open(&self, from: &UserId, to: Option<&UserId>) -> Result<(), ChatError> {
        self.trace.lock().unwrap().push(format!("{from} opens with {}", to.unwrap()));
        let one_less = |left: u64| left.checked_sub(1);
        let left = self.openings.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        left.map(drop).map_err(|_| ChatError::new(ErrorCode::RateLimited, "enough"))
    }

    fn count(&self, outcome: &'static str) {
        self.trace.lock().unwrap().push(outcome.to_owned());
    }
}

/// Something to be appended.
#[derive(Debug, Clone)]
pub struct Say {
    pub conversation: ConversationId,
    pub from: UserId,
    pub device: DeviceId,
    pub kind: Kind,
    pub to: Option<UserId>,
    pub text: Option<String>,
    pub data: Option<String>,
    pub reference: Option<Ref>,
    pub after: Option<Seq>,
    pub opens: Opens,
}

impl Say {
    pub fn to(from: &str, to: &str, text: &str) -> Self {
        Self {
            conversation: ConversationId::direct(&user(from), &user(to)),
            from: user(from),
            device: DeviceId::plain(),
            kind: Kind::Message,
            to: Some(user(to)),
            text: Some(text.to_owned()),
            data: None,
            reference: None,
            after: None,
            opens: Opens::Freely,
        }
    }

    /// From `a` to `b`, with this name.
    pub fn named(reference: &str, text: &str) -> Self {
        Self { reference: Some(Ref::parse(reference).unwrap()), ..Self::to("a", "b", text) }
    }

    pub fn after(self, seq: Seq) -> Self {
        Self { after: Some(seq), ..self }
    }

    pub fn on(self, device: &str) -> Self {
        Self { device: DeviceId::parse(device).unwrap(), ..self }
    }

    /// Into the room.
    pub fn room(from: &str, text: &str) -> Self {
        let conversation = ConversationId::parse("room:r").unwrap();
        Self { conversation, to: None, ..Self::to(from, from, text) }
    }

    /// A change of the room by its owner.
    pub fn change(kind: Kind, who: &str) -> Self {
        Self { kind, to: Some(user(who)), text: None, ..Self::room("owner", "") }
    }

    pub fn append(self, reply: Reply, origin: Arc<dyn Origin>) -> Append {
        let raw = |data| serde_json::value::RawValue::from_string(data).unwrap();
        Append {
            opens: self.opens,
            conversation: self.conversation,
            from: self.from,
            device: self.device,
            kind: self.kind,
            to: self.to,
            message: self.text.map(Into::into),
            data: self.data.map(|data| Arc::from(raw(data))),
            reference: self.reference,
            after: self.after,
            reply,
            origin,
        }
    }
}

/// See the module.
pub struct World {
    pub store: Arc<Faulty>,
    /// The store as it is.
    pub calm: Faulty,
    pub part: Arc<Part>,
    pub lanes: Arc<Lanes>,
}

impl World {
    pub fn new() -> Self {
        Self::with(Bounds::default())
    }

    pub fn with(bounds: Bounds) -> Self {
        Self::over(Faulty::new(), bounds)
    }

    /// Another process on the same store.
    pub fn another(&self) -> Self {
        Self::over(self.store.another(), Bounds::default())
    }

    fn over(store: Faulty, bounds: Bounds) -> Self {
        let calm = store.calm();
        let store = Arc::new(store);
        // Every entry of a process gets another time.
        let time = AtomicU64::new(rand::random_range(1..1 << 40));
        let clock = Arc::new(move || time.fetch_add(1, Ordering::SeqCst));
        Self { lanes: Lanes::with(store.clone(), clock, bounds), part: part(&store), store, calm }
    }

    /// Puts it into its lane; the answer is waited for elsewhere.
    pub fn submit(&self, say: Say) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.lanes.submit(say.append(Reply::Call(reply), self.part.clone()));
        answer
    }

    pub fn submit_all(&self, all: impl IntoIterator<Item = Say>) -> Vec<oneshot::Receiver<Answer>> {
        all.into_iter().map(|say| self.submit(say)).collect()
    }

    pub async fn say(&self, say: Say) -> Answer {
        self.submit(say).await.unwrap()
    }

    /// The seq of what must succeed.
    pub async fn seq(&self, say: Say) -> Seq {
        self.say(say).await.unwrap().seq
    }

    /// The code of what must be refused.
    pub async fn code(&self, say: Say) -> &'static str {
        self.say(say).await.unwrap_err().code.as_str()
    }

    /// By a socket, as a client does.
    pub fn submit_by(&self, outbox: &Arc<Outbox>, say: Say) {
        let say = Say { device: outbox.who.device.clone(), ..say };
        self.lanes.submit(say.append(Reply::Socket(outbox.clone()), self.part.clone()));
    }

    /// As [`World::submit_by`], and waits for the answer.
    pub async fn say_by(&self, outbox: &Arc<Outbox>, say: Say) -> Event {
        self.submit_by(outbox, say);
        let mut events = outbox.take().await;
        assert_eq!(events.len(), 1, "{events:?}");
        events.pop_front().unwrap()
    }

    /// What happened since the last look.
    pub fn trace(&self) -> Vec<String> {
        std::mem::take(&mut *self.store.trace().lock().unwrap())
    }

    /// All that the log holds, past every fault.
    pub async fn log(&self, log: &ConversationId) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |entry| entry.seq);
            let range = LogRange::following(after, PAGE_MAX);
            let page = self.calm.log(log, range).await.unwrap();
            all.extend(page.entries);
            if !page.more {
                let seqs: Vec<_> = all.iter().map(|entry| entry.seq).collect();
                assert_eq!(seqs, (1..=all.len() as Seq).collect::<Vec<_>>(), "dense (P4)");
                return all;
            }
        }
    }

    pub async fn texts(&self) -> Vec<String> {
        let text = |entry: &Entry| entry.message.as_deref().unwrap_or("").to_owned();
        self.log(&dm()).await.iter().map(text).collect()
    }

    /// Puts messages from `a` to `b` past the lanes, each with its seq as its ref.
    pub async fn fill(&self, seqs: std::ops::RangeInclusive<Seq>) {
        let entry = |seq: Seq| Entry {
            seq,
            kind: Kind::Message,
            from: user("a"),
            to: Some(user("b")),
            message: Some(format!("text {seq}").into()),
            data: None,
            reference: Ref::parse(&format!("r{seq}")).ok(),
            device: DeviceId::plain(),
            timestamp: seq,
            n: seq,
        };
        let entries: Vec<_> = seqs.map(entry).collect();
        let put = self.calm.append(&dm(), &entries).await.unwrap();
        assert_eq!(put, entries.len());
    }

    pub async fn write(&self, record: Record) {
        assert!(self.calm.write(record).await.unwrap());
    }

    pub fn handed(&self) -> Vec<Seq> {
        self.part.handed.lock().unwrap().iter().map(|handed| handed.entry.seq).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.store.broken(), Vec::<String>::new());
        }
    }
}

pub fn part(store: &Faulty) -> Arc<Part> {
    let (alive, handed, openings) = (AtomicBool::new(true), Mutex::default(), AtomicU64::new(0));
    Arc::new(Part { alive, handed, openings, trace: store.trace() })
}

/// A socket of `a`.
pub fn socket(device: &str) -> Arc<Outbox> {
    let (user, device) = (user("a"), DeviceId::parse(device).unwrap());
    Arc::new(Outbox::new(Who { user, device, socket: SocketId(rand::random()) }))
}
