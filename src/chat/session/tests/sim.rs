//! One device's sockets, one after the other, and everything around them at random.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::client::{Client, Log};
use crate::chat::catchup::{self, Done, Work};
use crate::chat::session::{Effect, Here, Input, Outputs, Session, Wish};
use crate::chat::testing::{Part, socket, user};
use crate::hub::{Event, Outbox};
use crate::protocol::*;
use crate::store::{Member, Raise, Record, Span, Store};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Somebody, or the person's other device, says something.
    Say,
    /// Very much is said at once.
    Flood,
    /// A raise whose put never came.
    Raise,
    /// The client says something.
    Send,
    /// The person joins or leaves the room.
    Move,
    /// Something heard live arrives, not always in order and not always once.
    Hear,
    /// Something heard live is lost.
    Lose,
    /// The queue runs over.
    Overflow,
    /// The lane's answer to a send arrives.
    Answer,
    /// The work that was asked for is done.
    Work,
    /// It is told to the session.
    Done,
    /// The client receives what was written.
    Down,
    /// The server receives what the client says.
    Up,
    /// A re-read is asked for.
    Reread,
    /// Its token may be dead.
    Doubt,
    /// Time passes, cursors may be stored.
    Rest,
    /// The socket ends in order.
    Close,
    /// The server dies.
    Crash,
    /// Nothing goes wrong for a while.
    Settle,
}

const ODDS: [(Step, u32); 18] = [
    (Step::Say, 18),
    (Step::Raise, 2),
    (Step::Send, 8),
    (Step::Move, 3),
    (Step::Hear, 22),
    (Step::Lose, 4),
    (Step::Overflow, 1),
    (Step::Answer, 12),
    (Step::Work, 22),
    (Step::Done, 22),
    (Step::Down, 40),
    (Step::Up, 22),
    (Step::Reread, 2),
    (Step::Doubt, 2),
    (Step::Rest, 3),
    (Step::Close, 1),
    (Step::Crash, 1),
    (Step::Settle, 1),
];

impl Step {
    pub fn any(random: &mut StdRng) -> Self {
        if random.random_bool(0.001) {
            return Self::Flood;
        }
        let mut at = random.random_range(0..ODDS.iter().map(|(_, weight)| weight).sum::<u32>());
        for (step, weight) in ODDS {
            if at < weight {
                return step;
            }
            at -= weight;
        }
        Self::Say
    }
}

enum Down {
    Frame(Text),
    Ping([u8; 8]),
}

enum Up {
    Frame(String),
    Pong([u8; 8]),
}

struct Socket {
    session: Session,
    outbox: Arc<Outbox>,
    work: Option<Work>,
    done: Option<Done>,
    answers: VecDeque<Event>,
    live: Vec<Event>,
    down: VecDeque<Down>,
    up: VecDeque<Up>,
    /// `caughtup` was written.
    caught_up: bool,
    /// The logs' ends when the mailbox was read.
    offline: Vec<Seq>,
    flush_at: Option<Instant>,
}

fn here<'a>(outbox: &'a Outbox, part: &'a Part, now: Instant) -> Here<'a> {
    Here {
        who: &outbox.who,
        server: &part.chat.me.id,
        sockets_per_user: 16,
        sizes: Sizes::MOST,
        clock: 1,
        now,
    }
}

/// See the module.
pub struct Sim {
    pub random: StdRng,
    pub client: Client,
    /// What is handed on arrives, late and out of order, so nobody has to ask for a re-read.
    lossless: bool,
    part: Part,
    wish: Wish,
    logs: Vec<Log>,
    socket: Option<Socket>,
    now: Instant,
}

impl Sim {
    pub async fn new(random: StdRng, wish: Wish, lossless: bool) -> Self {
        let part = Part::new().await;
        let logs = ["dm:a:b", "dm:a:c", "room:r"].map(|name| Log {
            id: ConversationId::parse(name).unwrap(),
            entries: Vec::new(),
            member: None,
        });
        let (client, now) = (Client::default(), Instant::now());
        let logs = logs.into();
        Self { random, client, lossless, part, wish, logs, socket: None, now }
    }

    pub async fn step(&mut self, step: Step) {
        self.now += Duration::from_millis(self.random.random_range(0..50));
        match step {
            Step::Say => self.say().await,
            Step::Flood => {
                for _ in 0..300 {
                    let entry = self.append(0, "b", "default", None).await;
                    self.hand_on(0, &entry);
                }
            }
            Step::Raise => {
                let log = self.random.random_range(0..2);
                let last = self.logs[log].tail() + self.random.random_range(1..4);
                self.raise(log, last).await;
            }
            Step::Move => self.change_room().await,
            Step::Settle => self.settle().await,
            Step::Lose | Step::Overflow | Step::Reread | Step::Doubt if self.lossless => {}
            _ if self.socket.is_none() => self.open(),
            Step::Close => self.close().await,
            Step::Crash => self.socket = None,
            _ => self.step_socket(step).await,
        }
    }

    async fn step_socket(&mut self, step: Step) {
        let Some(socket) = &mut self.socket else { return };
        match step {
            // A socket that is paused is not read.
            Step::Send | Step::Up if socket.session.paused() => {}
            Step::Send => {
                let to = ["b", "c"][self.random.random_range(0..2)];
                let frame = format!(r#"{{"type":"message","to":"{to}","message":"mine"}}"#);
                self.feed(Input::Frame(&frame)).await;
            }
            Step::Hear if !socket.live.is_empty() => self.hear().await,
            Step::Lose if !socket.live.is_empty() => {
                let at = self.random.random_range(0..socket.live.len());
                socket.live.remove(at);
            }
            Step::Overflow => {
                socket.live.clear();
                self.feed(Input::Event(Event::Reread)).await;
            }
            Step::Answer => {
                if let Some(event) = socket.answers.pop_front() {
                    self.feed(Input::Event(event)).await;
                }
            }
            Step::Work => self.work().await,
            Step::Done => {
                if let Some(done) = socket.done.take() {
                    self.feed(Input::Done(done)).await;
                }
            }
            Step::Down => self.down(),
            Step::Up => match socket.up.pop_front() {
                Some(Up::Pong(payload)) => self.feed(Input::Pong(&payload)).await,
                Some(Up::Frame(frame)) => self.feed(Input::Frame(&frame)).await,
                None => {}
            },
            Step::Reread => self.feed(Input::Event(Event::Reread)).await,
            Step::Doubt => self.feed(Input::Event(Event::Doubt)).await,
            Step::Rest => {
                self.now += Duration::from_secs(self.random.random_range(1..20));
                if socket.flush_at.is_some_and(|at| at <= self.now) {
                    socket.flush_at = None;
                    self.feed(Input::Event(Event::Flush)).await;
                }
            }
            _ => {}
        }
    }

    async fn hear(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let at = self.random.random_range(0..socket.live.len());
        let event = socket.live[at].clone();
        if self.random.random_bool(0.8) {
            socket.live.remove(at);
        } else if let Event::Text { again, .. } = &mut socket.live[at] {
            *again = true;
        }
        self.feed(Input::Event(event)).await;
    }

    fn open(&mut self) {
        let outbox = socket("a", "default");
        let (mut session, mut out) = (Session::new(self.wish), Outputs::default());
        session.start(&here(&outbox, &self.part, self.now), &mut out);
        self.client.open();
        self.socket = Some(Socket {
            session,
            outbox,
            work: out.work,
            done: None,
            answers: VecDeque::new(),
            live: Vec::new(),
            down: out.frames.into_iter().map(Down::Frame).collect(),
            up: VecDeque::new(),
            caught_up: false,
            offline: Vec::new(),
            flush_at: None,
        });
    }

    /// What was on its way is lost with the socket; its cursors are stored.
    async fn close(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        let unstored = socket.session.finish(&socket.outbox.who);
        self.check(&unstored.raises);
        self.part.chat.store_at_end(&socket.outbox.who, unstored).await;
    }

    /// A cursor says only what the client has received.
    fn check(&self, raises: &[(ConversationId, Raise)]) {
        for (id, raise) in raises {
            let log = &self.logs[self.log(id)];
            let cursors = raise.cursors.iter().map(|(_, seq)| *seq);
            for seq in cursors.chain(raise.delivered) {
                assert_eq!(self.client.has_all(log, seq), Ok(()), "stored: {id} {raise:?}");
            }
        }
    }

    fn log(&self, id: &ConversationId) -> usize {
        self.logs.iter().position(|log| log.id == *id).unwrap()
    }

    async fn raise(&self, log: usize, last: Seq) {
        let raise = Raise { last: Some(last), ..Raise::default() };
        self.part.ports.raise(&user("a"), &self.logs[log].id, &raise).await.unwrap();
    }

    async fn say(&mut self) {
        let (log, from, device) = match self.random.random_range(0..5) {
            0 | 1 => (0, "b", "default"),
            2 => (1, "c", "default"),
            3 => (self.random.random_range(0..2), "a", "phone"),
            _ => (2, "b", "default"),
        };
        let entry = self.append(log, from, device, None).await;
        self.hand_on(log, &entry);
    }

    /// As a lane does: raise, then put. The person's own sends raise its row only where it has
    /// further devices.
    async fn append(
        &mut self,
        log: usize,
        from: &str,
        device: &str,
        change: Option<Kind>,
    ) -> Entry {
        let seq = self.logs[log].tail() + 1;
        let room = self.logs[log].id.is_room();
        if change.is_some() || (!room && (seq == 1 || from != "a" || device == "phone")) {
            self.raise(log, seq).await;
        }
        let to = match (&change, room) {
            (Some(_), _) => Some(user("a")),
            (None, true) => None,
            (None, false) => self.logs[log].id.other(&user(from)),
        };
        let n = self.logs[log].entries.last().map_or(0, |entry| entry.n);
        let entry = Entry {
            seq,
            message: change.is_none().then(|| format!("text {seq}").into()),
            n: n + u64::from(change.is_none()),
            kind: change.unwrap_or(Kind::Message),
            from: user(from),
            to,
            data: None,
            reference: None,
            device: DeviceId::parse(device).unwrap(),
            timestamp: seq,
        };
        let id = self.logs[log].id.clone();
        assert_eq!(self.part.ports.append(&id, std::slice::from_ref(&entry)).await, Ok(1));
        self.logs[log].entries.push(entry.clone());
        entry
    }

    /// As a router does, if the person may see it; a hint instead of the text now and then.
    fn hand_on(&mut self, log: usize, entry: &Entry) {
        let Some(socket) = &mut self.socket else { return };
        let id = self.logs[log].id.clone();
        if !self.logs[log].may_see(entry.seq) {
            return;
        }
        let via = ProcessId::parse("ws2").unwrap();
        socket.live.push(if self.random.random_bool(0.2) {
            Event::Hint { conversation: id, seq: entry.seq, via: Some(via) }
        } else {
            Event::Text {
                text: answer::entry(&id, entry, false),
                conversation: id,
                seq: entry.seq,
                n: entry.n,
                via,
                again: false,
            }
        });
    }

    async fn change_room(&mut self) {
        let seq = self.logs[2].tail() + 1;
        let spans = self.logs[2].member.as_ref().map(|member| member.spans.clone());
        let mut spans = spans.unwrap_or_default();
        let kind = match spans.last_mut().filter(|span| span.until.is_none()) {
            Some(open) => {
                open.until = Some(seq);
                Kind::Left
            }
            None => {
                spans.push(Span { after: seq - 1, until: None });
                Kind::Joined
            }
        };
        let member = Member { user: user("a"), role: "member".into(), spans, as_of: seq };
        let entry = self.append(2, "b", "default", Some(kind)).await;
        self.logs[2].member = Some(member.clone());
        let record = Record::Member(self.logs[2].id.clone(), member);
        assert_eq!(self.part.ports.write(record).await, Ok(true));
        self.hand_on(2, &entry);
    }

    async fn feed(&mut self, input: Input<'_>) {
        let Some(socket) = &mut self.socket else { return };
        let read = matches!(input, Input::Done(_));
        let mut out = Outputs::default();
        socket.session.step(input, &here(&socket.outbox, &self.part, self.now), &mut out);
        for frame in out.frames {
            let text = frame.starts_with(b"{\"type\":\"message\"");
            assert!(!text || read || socket.caught_up, "live before caughtup (P7): {frame:?}");
            socket.caught_up |= frame == answer::caught_up();
            socket.down.push_back(Down::Frame(frame));
        }
        socket.down.extend(out.ping.map(Down::Ping));
        if let Some(work) = out.work {
            assert!(socket.work.is_none() && socket.done.is_none(), "one at a time");
            socket.work = Some(work);
        }
        for effect in out.effects {
            self.effect(effect).await;
        }
        if out.close.is_some() {
            self.close().await;
        }
    }

    async fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send(send) => {
                let Target::User(to) = send.target else { panic!("{send:?}") };
                let conversation = ConversationId::direct(&user("a"), &to);
                let log = self.log(&conversation);
                let entry = self.append(log, "a", "default", None).await;
                self.client.sent(&conversation, entry.seq);
                let (seq, n, timestamp) = (entry.seq, entry.n, entry.timestamp);
                let sent = Event::Sent { reference: None, conversation, seq, n, timestamp };
                self.socket.as_mut().unwrap().answers.push_back(sent);
            }
            Effect::Received { conversation, seq, receipt: Receipt::Delivered, .. } => {
                let log = &self.logs[self.log(&conversation)];
                assert_eq!(self.client.has_all(log, seq), Ok(()), "{conversation}/{seq} (I8)");
            }
            Effect::Rest(at) => self.socket.as_mut().unwrap().flush_at = Some(at),
            _ => {}
        }
    }

    async fn work(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let Some(work) = socket.work.take() else { return };
        match &work {
            Work::Pause(id, _) => {
                socket.done = Some(Done::Paused(id.clone()));
                return;
            }
            Work::Enter { .. } => socket.offline = self.logs.iter().map(Log::tail).collect(),
            Work::Store(raises) => self.check(raises),
            _ => {}
        }
        if let Some(socket) = &mut self.socket {
            socket.done = Some(catchup::perform(&self.part.chat, &socket.outbox, work).await);
        }
    }

    fn down(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        match socket.down.pop_front() {
            Some(Down::Ping(payload)) => socket.up.push_back(Up::Pong(payload)),
            Some(Down::Frame(frame)) => {
                let text = self.client.receive(&frame, &self.logs, &socket.offline);
                if let (Some((log, seq)), true) = (text, self.wish.acks_app) {
                    let id = &self.logs[log].id;
                    let ack = format!(r#"{{"type":"ack","conversation":"{id}","seq":{seq}}}"#);
                    socket.up.push_back(Up::Frame(ack));
                }
            }
            None => {}
        }
    }

    /// Nothing goes wrong: what was lost is made good for by a re-read, everything arrives.
    pub async fn settle(&mut self) {
        if self.socket.is_none() {
            self.open();
        }
        if !self.lossless {
            self.step_socket(Step::Overflow).await;
        }
        for _ in 0..20_000 {
            let Some(socket) = &self.socket else {
                self.open();
                continue;
            };
            let idle = socket.work.is_none()
                && socket.done.is_none()
                && socket.answers.is_empty()
                && socket.live.is_empty()
                && socket.down.is_empty()
                && socket.up.is_empty();
            if idle && self.client.caught_up {
                return self.has_everything();
            }
            for step in [Step::Hear, Step::Answer, Step::Work, Step::Done, Step::Down, Step::Up] {
                self.step_socket(step).await;
            }
        }
        panic!("the session does not come to rest");
    }

    /// Nothing happens for long: then the session keeps nothing.
    pub async fn rest(&mut self) {
        for _ in 0..3 {
            self.now += Duration::from_secs(700);
            let Some(socket) = &mut self.socket else { panic!("it stays open") };
            if socket.flush_at.take_if(|at| *at <= self.now).is_some() {
                self.feed(Input::Event(Event::Flush)).await;
            }
            for _ in 0..20 {
                for step in [Step::Work, Step::Done, Step::Down, Step::Up] {
                    self.step_socket(step).await;
                }
            }
            self.feed(Input::Event(Event::Tick)).await;
        }
        let session = self.socket.as_ref().map(|socket| &socket.session);
        assert!(session.is_some_and(Session::is_idle), "{session:?}");
    }

    fn has_everything(&self) {
        for log in &self.logs {
            assert_eq!(self.client.has_all(log, log.tail()), Ok(()), "{} is missing (P3)", log.id);
        }
    }
}
