//! A device with its application, as `docs/protocol.md` tells a client to behave: it sends again
//! with the same ref and a frozen `after`, comes back with jitter, and drops what it has seen.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::sea::Core;
use super::server::{Hello, Server};
use super::wire::{Down, Up, Wire};
use crate::chat::session::Wish;
use crate::checker::history::{Outcome, Status, What};
use crate::protocol::{ConversationId, DeviceId, UserId};

/// A server that does not say `welcome` in this time is given up.
const WELCOME_MS: u64 = 5_000;
/// After so much silence the client asks for a sign of life,
const QUIET_MS: u64 = 4_000;
/// and after so much it gives the connection up.
const SILENT_MS: u64 = 10_000;
/// A send without an answer for so long speaks against the connection.
const ANSWER_MS: u64 = 9_000;

/// A message that is not answered yet.
pub struct Outgoing {
    pub reference: String,
    pub conversation: ConversationId,
    pub body: String,
    after: Option<u64>,
    /// When it left on this connection; not yet, or to be sent again: `None`.
    sent_at: Option<u64>,
    retry_at: u64,
}

/// A connection as its client sees it.
pub struct Connection {
    pub id: String,
    pub wire: Arc<Wire>,
    pub server: usize,
    pub since: u64,
    heard_at: u64,
    asked_at: u64,
    welcome: bool,
    caught_up: bool,
    /// Since when.
    pub live_at: u64,
    /// Received, and no Pong or ack has left for it.
    unproven: BTreeMap<ConversationId, u64>,
    acks: Vec<(u64, ConversationId, u64)>,
}

/// See the module.
pub struct Device {
    pub user: UserId,
    pub name: DeviceId,
    pub wish: Wish,
    pub connection: Option<Connection>,
    pub queue: VecDeque<Outgoing>,
    /// Not before this does it dial.
    pub dials_at: u64,
    /// It does not read before this.
    pub reads_at: u64,
    tries: u32,
    connections: u64,
    /// What the application knows in this life.
    known: BTreeMap<ConversationId, u64>,
    /// What was received, or is its own, or was told as missed, in any life.
    pub had: BTreeMap<ConversationId, BTreeSet<u64>>,
    /// What the application was shown in this life.
    shown: BTreeMap<ConversationId, BTreeSet<u64>>,
    /// What it sent in this life, or was told that it missed.
    own: BTreeSet<(ConversationId, u64)>,
    dropped: BTreeSet<String>,
    pub wrong: Vec<String>,
}

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    conversation: Option<String>,
    seq: Option<u64>,
    from: Option<Value>,
    #[serde(rename = "to")]
    until: Option<Value>,
    message: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    #[serde(rename = "userId")]
    user: Option<String>,
    server: Option<String>,
    code: Option<String>,
    #[serde(default)]
    retryable: bool,
    #[serde(rename = "retryAfterMs")]
    retry_after: Option<u64>,
}

impl Device {
    pub fn new(user: UserId, name: &str, wish: Wish, dials_at: u64) -> Self {
        Self {
            user,
            name: DeviceId::parse(name).unwrap(),
            wish,
            connection: None,
            queue: VecDeque::new(),
            dials_at,
            reads_at: 0,
            tries: 0,
            connections: 0,
            known: BTreeMap::new(),
            had: BTreeMap::new(),
            shown: BTreeMap::new(),
            own: BTreeSet::new(),
            dropped: BTreeSet::new(),
            wrong: Vec::new(),
        }
    }

    pub fn is_caught_up(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.caught_up)
    }

    pub fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.welcome)
    }

    pub fn has(&self, conversation: &ConversationId, seq: u64) -> bool {
        self.had.get(conversation).is_some_and(|had| had.contains(&seq))
    }

    /// Whether it has something behind that.
    pub fn has_later(&self, conversation: &ConversationId, seq: u64) -> bool {
        self.had.get(conversation).is_some_and(|had| had.last() > Some(&seq))
    }

    /// The person says something; `after` is what is known now, and stays so.
    pub fn compose(&mut self, conversation: &ConversationId, reference: String, body: String) {
        let after = Some(self.known.get(conversation).copied().unwrap_or(0));
        let conversation = conversation.clone();
        let (sent_at, retry_at) = (None, 0);
        self.queue.push_back(Outgoing { reference, conversation, body, after, sent_at, retry_at });
    }

    /// One turn: hears what has come, says what is due.
    pub fn step(&mut self, core: &mut Core, servers: &[Server]) {
        match &self.connection {
            None if core.now >= self.dials_at => self.dial(core, servers),
            None => return,
            Some(connection) => {
                if core.now >= self.reads_at {
                    for down in connection.wire.hear(core.now) {
                        self.hear(down, core);
                    }
                }
            }
        }
        self.say_due(core);
        if let Some(connection) = &self.connection {
            connection.wire.pump(core.now);
        }
    }

    fn dial(&mut self, core: &mut Core, servers: &[Server]) {
        let server = core.any(0..servers.len() as u64) as usize;
        self.dials_at = core.now + self.backoff(core);
        if !servers[server].is_open() {
            self.tries += 1;
            return;
        }
        self.connections += 1;
        let id = format!("{}-{}-{}", self.user, self.name, self.connections);
        core.log(self.connect(&id, None, None));
        let wire = Arc::new(Wire::default());
        let (user, device, wish) = (self.user.clone(), self.name.clone(), self.wish);
        servers[server].accept(wire.clone(), Hello { user, device, wish });
        for outgoing in &mut self.queue {
            outgoing.sent_at = None;
        }
        self.connection = Some(Connection {
            id,
            wire,
            server,
            since: core.now,
            heard_at: core.now,
            asked_at: 0,
            welcome: false,
            caught_up: false,
            live_at: 0,
            unproven: BTreeMap::new(),
            acks: Vec::new(),
        });
    }

    fn connect(&self, id: &str, outcome: Option<Outcome>, server: Option<String>) -> What {
        What::Connect {
            connection: id.to_owned(),
            user: self.user.to_string(),
            device: self.name.to_string(),
            acks_app: self.wish.acks_app,
            outcome,
            server,
        }
    }

    fn backoff(&self, core: &mut Core) -> u64 {
        core.any(10..(300 << self.tries.min(4)) + 11)
    }

    /// The connection is over, as the client sees it.
    fn closed(&mut self, code: Option<u16>, core: &mut Core) {
        let Some(connection) = self.connection.take() else { return };
        core.orphans.push(connection.wire.clone());
        core.log(What::Close { connection: connection.id, code });
        self.tries = if connection.welcome { 0 } else { self.tries + 1 };
        self.dials_at = core.now + self.backoff(core);
    }

    /// The client gives the connection up.
    pub fn leave(&mut self, told: bool, core: &mut Core) {
        if let Some(connection) = &self.connection {
            connection.wire.leave(core, told);
            self.closed(None, core);
        }
    }

    /// The application dies, and forgets.
    pub fn forget(&mut self, told: bool, core: &mut Core) {
        self.leave(told, core);
        self.known.clear();
        self.shown.clear();
        self.own.clear();
        self.queue.clear();
        let (user, device) = (self.user.to_string(), self.name.to_string());
        core.log(What::Forget { user, device });
    }

    /// The person no longer wants the rest of what waits for an answer.
    pub fn keep_one(&mut self) {
        let rest = self.queue.drain(1.min(self.queue.len())..);
        self.dropped.extend(rest.map(|outgoing| outgoing.reference));
    }

    fn say_due(&mut self, core: &mut Core) {
        let Some(connection) = &mut self.connection else { return };
        let now = core.now;
        let quiet = now - connection.heard_at;
        let late = !connection.welcome && now - connection.since > WELCOME_MS;
        let reads = now >= self.reads_at;
        let unanswered = |o: &Outgoing| o.sent_at.is_some_and(|at| now - at > ANSWER_MS);
        if reads && (late || quiet > SILENT_MS || self.queue.iter().any(unanswered)) {
            core.count("given up by its client");
            let told = core.chance(0.5);
            return self.leave(told, core);
        }
        if !connection.welcome {
            return;
        }
        if reads && quiet > QUIET_MS && now - connection.asked_at > QUIET_MS {
            connection.asked_at = now;
            connection.wire.say(core, Up::Frame(r#"{"type":"ping"}"#.to_owned()));
        }
        let due: Vec<_> = connection.acks.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, conversation, seq) in due {
            let ack = format!(r#"{{"type":"ack","conversation":"{conversation}","seq":{seq}}}"#);
            let (id, conversation) = (connection.id.clone(), conversation.to_string());
            core.log(What::Acked { connection: id, conversation, seq });
            connection.wire.say(core, Up::Frame(ack));
        }
        let mut waiting: BTreeSet<ConversationId> = BTreeSet::new();
        for outgoing in &mut self.queue {
            // In order within a conversation: one that waits holds up those behind it.
            if outgoing.sent_at.is_some() || waiting.contains(&outgoing.conversation) {
                continue;
            }
            if outgoing.retry_at > now {
                waiting.insert(outgoing.conversation.clone());
                continue;
            }
            outgoing.sent_at = Some(now);
            let frame = serde_json::json!({
                "type": "message",
                "conversation": outgoing.conversation.as_str(),
                "message": outgoing.body,
                "ref": outgoing.reference,
                "after": outgoing.after,
                // Ignored: who sends is the server's own knowledge.
                "from": "u0",
            });
            core.log(What::Send {
                connection: connection.id.clone(),
                user: self.user.to_string(),
                conversation: outgoing.conversation.to_string(),
                reference: outgoing.reference.clone(),
                body: outgoing.body.clone(),
            });
            connection.wire.say(core, Up::Frame(frame.to_string()));
        }
    }

    fn hear(&mut self, down: Down, core: &mut Core) {
        let Some(connection) = &mut self.connection else { return };
        connection.heard_at = core.now;
        match down {
            Down::Close(code) => {
                if matches!(code, Some(4000..=4499)) {
                    self.wrong.push(format!("closed for good with {code:?}"));
                }
                self.closed(code, core);
            }
            Down::Ping(payload) => {
                for (conversation, seq) in std::mem::take(&mut connection.unproven) {
                    if !self.wish.acks_app {
                        let (id, conversation) = (connection.id.clone(), conversation.to_string());
                        core.log(What::Acked { connection: id, conversation, seq });
                    }
                }
                connection.wire.say(core, Up::Pong(payload.to_vec()));
            }
            Down::Frame(text) => {
                let frame: Frame = serde_json::from_slice(&text).unwrap();
                self.frame(frame, core);
            }
        }
    }

    fn frame(&mut self, frame: Frame, core: &mut Core) {
        let Some(connection) = &mut self.connection else { return };
        let id = connection.id.clone();
        let conversation = frame.conversation.clone().unwrap_or_default();
        match frame.kind.as_str() {
            "welcome" => {
                connection.welcome = true;
                let opened = self.connect(&id, Some(Outcome::Done), frame.server);
                core.log(opened);
            }
            "message" | "joined" | "left" => self.text(frame, core),
            "sent" => self.sent(frame, core),
            "error" => self.error(frame, core),
            "delivered" | "read" => core.log(What::Status {
                connection: id,
                conversation,
                seq: frame.seq.unwrap_or(0),
                user: frame.user.unwrap_or_default(),
                status: if frame.kind == "read" { Status::Read } else { Status::Delivered },
            }),
            "caughtup" => {
                connection.caught_up = true;
                connection.live_at = core.now;
                core.log(What::Caughtup { connection: id });
            }
            "missed" => {
                let number = |value: &Option<Value>| value.as_ref()?.as_u64();
                let (from, to) = (number(&frame.from).unwrap(), number(&frame.until).unwrap());
                let log = ConversationId::parse(&conversation).unwrap();
                connection.unproven.insert(log.clone(), to);
                let known = self.known.entry(log.clone()).or_default();
                *known = to.max(*known);
                core.store.note_received(&self.user, &log, to);
                self.own.extend((from..=to).map(|seq| (log.clone(), seq)));
                self.had.entry(log).or_default().extend(from..=to);
                core.log(What::Missed { connection: id, conversation, from, to });
            }
            _ => {}
        }
    }

    fn text(&mut self, frame: Frame, core: &mut Core) {
        let Some(connection) = &mut self.connection else { return };
        let (Some(name), Some(seq)) = (frame.conversation, frame.seq) else { return };
        let log = ConversationId::parse(&name).unwrap();
        // The application drops what it has seen; of the rest each is newer than all before.
        let shown = self.shown.entry(log.clone()).or_default();
        let own = self.own.contains(&(log.clone(), seq));
        let new = !own && !shown.contains(&seq);
        if let Some(newest) = shown.last().filter(|last| new && seq < **last) {
            self.wrong.push(format!("{}: {name} {seq} came after {newest}", connection.id));
        }
        if own || !shown.insert(seq) {
            core.count("came twice");
        }
        connection.unproven.insert(log.clone(), seq);
        if self.wish.acks_app {
            let at = core.now + core.any(0..300);
            connection.acks.push((at, log.clone(), seq));
        }
        let known = self.known.entry(log.clone()).or_default();
        *known = seq.max(*known);
        core.store.note_received(&self.user, &log, seq);
        self.had.entry(log).or_default().insert(seq);
        let from = frame.from.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        let about = frame.until.as_ref().and_then(Value::as_str);
        core.log(What::Received {
            connection: connection.id.clone(),
            conversation: name.clone(),
            seq,
            to: about.filter(|_| frame.kind != "message").map(str::to_owned),
            kind: frame.kind,
            from,
            body: frame.message.unwrap_or_default(),
            catchup: !connection.caught_up,
        });
        if core.chance(0.08) {
            let id = connection.id.clone();
            core.log(What::Seen { connection: id, conversation: name.clone(), seq });
            let frame = format!(r#"{{"type":"read","conversation":"{name}","seq":{seq}}}"#);
            connection.wire.say(core, Up::Frame(frame));
        }
    }

    /// The end of a send, or of a try.
    fn answered(&self, outgoing: &Outgoing, outcome: Outcome, frame: &Frame) -> What {
        What::Sent {
            connection: self.connection.as_ref().map_or(String::new(), |c| c.id.clone()),
            user: self.user.to_string(),
            conversation: outgoing.conversation.to_string(),
            reference: outgoing.reference.clone(),
            outcome,
            seq: frame.seq,
            code: frame.code.clone(),
        }
    }

    fn find(&self, frame: &Frame) -> Option<usize> {
        let reference = frame.reference.as_ref()?;
        self.queue.iter().position(|outgoing| outgoing.reference == *reference)
    }

    fn sent(&mut self, frame: Frame, core: &mut Core) {
        if let (Some(name), Some(log), Some(seq)) =
            (&frame.reference, &frame.conversation, frame.seq)
            && self.dropped.contains(name)
        {
            self.own.insert((ConversationId::parse(log).unwrap(), seq));
            return;
        }
        let (Some(at), Some(seq)) = (self.find(&frame), frame.seq) else {
            return self.wrong.push(format!("{:?} was answered twice", frame.reference));
        };
        let Some(outgoing) = self.queue.remove(at) else { return };
        core.log(self.answered(&outgoing, Outcome::Done, &frame));
        let known = self.known.entry(outgoing.conversation.clone()).or_default();
        *known = seq.max(*known);
        self.own.insert((outgoing.conversation.clone(), seq));
        self.had.entry(outgoing.conversation).or_default().insert(seq);
    }

    fn error(&mut self, frame: Frame, core: &mut Core) {
        let Some(at) = self.find(&frame) else { return };
        if frame.retryable {
            let wait = frame.retry_after.unwrap_or(1_000);
            let wait = core.any(wait / 2..wait + 1);
            core.log(self.answered(&self.queue[at], Outcome::Open, &frame));
            let outgoing = &mut self.queue[at];
            (outgoing.sent_at, outgoing.retry_at) = (None, core.now + wait);
            return;
        }
        let Some(outgoing) = self.queue.remove(at) else { return };
        let expired = frame.code.as_deref() == Some("ref_expired");
        let outcome = if expired { Outcome::Open } else { Outcome::Refused };
        core.log(self.answered(&outgoing, outcome, &frame));
    }
}
