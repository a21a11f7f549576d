//! Writes histories by hand: who did what, one event after the other, a millisecond apart.

#![cfg(test)]

use std::collections::{BTreeMap, HashMap};

use super::super::files::judge;
use super::super::gate::Gates;
use super::super::history::*;
use super::super::report::{Invariant, Report};

pub const DM: &str = "dm:a:b";

/// A message as it was sent.
#[derive(Debug, Clone)]
struct Message {
    conversation: String,
    user: String,
    connection: String,
    body: String,
}

#[derive(Debug, Default)]
pub struct Story {
    pub t: u64,
    pub events: Vec<Event>,
    messages: HashMap<String, Message>,
    /// What stands in each conversation.
    pub logs: BTreeMap<String, BTreeMap<u64, Listed>>,
    users: HashMap<String, String>,
    walks: u64,
}

impl Story {
    pub fn new() -> Self {
        let mut story = Self::default();
        story.push(What::Run { commit: "c0ffee".into(), seed: 7 });
        story
    }

    /// `a` and `b`, each with a phone and a laptop, all connected: `a1`, `a2`, `b1`, `b2`.
    pub fn of_two() -> Self {
        let mut story = Self::new();
        story.conversation(DM, &["a", "b"]);
        for who in ["a1", "a2", "b1", "b2"] {
            story.connect(who);
        }
        story
    }

    /// `a`, `b` and `c` in a room from the start, with a phone each: `a1`, `b1`, `c1`.
    pub fn of_a_room() -> Self {
        let mut story = Self::new();
        story.conversation("room:r", &["a", "b", "c"]);
        for (seq, who) in (1..).zip(["a", "b", "c"]) {
            story.stands_change("room:r", seq, "joined", "a", who);
        }
        for who in ["a1", "b1", "c1"] {
            story.connect(who);
            for seq in 1..=3 {
                let seen = seq >= who_joined(who);
                if seen {
                    story.got(who, "room:r", seq);
                }
            }
            story.ack(who, "room:r", 3);
        }
        story
    }

    pub fn push(&mut self, what: What) -> &mut Self {
        self.t += 1_000_000;
        self.events.push(Event { t: self.t, what });
        self
    }

    pub fn phase(&mut self, phase: Phase) -> &mut Self {
        self.push(What::Phase { phase })
    }

    pub fn conversation(&mut self, conversation: &str, members: &[&str]) -> &mut Self {
        let members = members.iter().map(|m| (*m).to_owned()).collect();
        let canary = format!("<{conversation}>");
        self.push(What::Conversation { conversation: conversation.into(), members, canary })
    }

    /// `b1` is the first connection of `b` on the first device, `b1'` the next one of that device.
    pub fn begin(&mut self, connection: &str) -> &mut Self {
        let (user, device) = (connection[..1].to_owned(), connection[1..2].to_owned());
        self.users.insert(connection.into(), user.clone());
        let (outcome, server) = (None, None);
        let connection = connection.into();
        self.push(What::Connect { connection, user, device, acks_app: false, outcome, server })
    }

    pub fn welcome(&mut self, connection: &str) -> &mut Self {
        let (user, device) = (connection[..1].to_owned(), connection[1..2].to_owned());
        let (outcome, server) = (Some(Outcome::Done), Some("ws1".into()));
        let connection = connection.into();
        self.push(What::Connect { connection, user, device, acks_app: false, outcome, server })
    }

    pub fn caughtup(&mut self, connection: &str) -> &mut Self {
        self.push(What::Caughtup { connection: connection.into() })
    }

    pub fn connect(&mut self, connection: &str) -> &mut Self {
        self.begin(connection).welcome(connection).caughtup(connection)
    }

    pub fn close(&mut self, connection: &str) -> &mut Self {
        self.push(What::Close { connection: connection.into(), code: None })
    }

    pub fn send_in(&mut self, connection: &str, conversation: &str, reference: &str) -> &mut Self {
        let user = match connection {
            "api" => "a".to_owned(),
            connection => self.users[connection].clone(),
        };
        let body = format!("<{conversation}>{reference}");
        let message = Message {
            conversation: conversation.into(),
            user: user.clone(),
            connection: connection.into(),
            body: body.clone(),
        };
        self.messages.insert(reference.into(), message);
        let (connection, reference) = (connection.into(), reference.into());
        let conversation = conversation.into();
        self.push(What::Send { connection, user, conversation, reference, body })
    }

    pub fn send(&mut self, connection: &str, reference: &str) -> &mut Self {
        self.send_in(connection, DM, reference)
    }

    /// The message stands there.
    pub fn stands(&mut self, reference: &str, seq: u64) -> &mut Self {
        let Message { conversation, user, body, .. } = self.messages[reference].clone();
        let (kind, status, to) = ("message".into(), None, None);
        let listed = Listed { seq, kind, from: user, body, to, status };
        self.logs.entry(conversation).or_default().insert(seq, listed);
        self
    }

    pub fn stands_change(
        &mut self,
        conversation: &str,
        seq: u64,
        kind: &str,
        from: &str,
        to: &str,
    ) -> &mut Self {
        let (to, body) = (Some(to.into()), String::new());
        let listed = Listed { seq, kind: kind.into(), from: from.into(), body, to, status: None };
        self.logs.entry(conversation.into()).or_default().insert(seq, listed);
        self
    }

    /// `sent` comes.
    pub fn acked(&mut self, reference: &str, seq: u64) -> &mut Self {
        self.stands(reference, seq).answer(reference, Outcome::Done, Some(seq))
    }

    pub fn answer(&mut self, reference: &str, outcome: Outcome, seq: Option<u64>) -> &mut Self {
        let Message { conversation, user, connection, .. } = self.messages[reference].clone();
        let (reference, code) = (reference.into(), None);
        self.push(What::Sent { connection, user, conversation, reference, outcome, seq, code })
    }

    /// A text comes, as it stands.
    pub fn got(&mut self, connection: &str, conversation: &str, seq: u64) -> &mut Self {
        let listed = self.logs[conversation][&seq].clone();
        self.got_listed(connection, conversation, listed, false)
    }

    pub fn got_offline(&mut self, connection: &str, conversation: &str, seq: u64) -> &mut Self {
        let listed = self.logs[conversation][&seq].clone();
        self.got_listed(connection, conversation, listed, true)
    }

    pub fn got_listed(
        &mut self,
        connection: &str,
        conversation: &str,
        listed: Listed,
        catchup: bool,
    ) -> &mut Self {
        let Listed { seq, kind, from, body, to, .. } = listed;
        let (connection, conversation) = (connection.into(), conversation.into());
        self.push(What::Received { connection, conversation, seq, kind, from, body, to, catchup })
    }

    /// This message comes at this seq, wherever it stands.
    pub fn got_at(&mut self, connection: &str, reference: &str, seq: u64) -> &mut Self {
        let Message { conversation, user: from, body, .. } = self.messages[reference].clone();
        let (kind, to, status) = ("message".into(), None, None);
        let listed = Listed { seq, kind, from, body, to, status };
        self.got_listed(connection, &conversation, listed, false)
    }

    pub fn ack(&mut self, connection: &str, conversation: &str, seq: u64) -> &mut Self {
        let (connection, conversation) = (connection.into(), conversation.into());
        self.push(What::Acked { connection, conversation, seq })
    }

    /// These get it, and give a receipt.
    pub fn all_get(&mut self, connections: &[&str], seq: u64) -> &mut Self {
        for connection in connections {
            self.got(connection, DM, seq).ack(connection, DM, seq);
        }
        self
    }

    pub fn delivered(&mut self, connection: &str, seq: u64, by: &str) -> &mut Self {
        let (connection, conversation) = (connection.into(), DM.into());
        let (user, status) = (by.into(), Status::Delivered);
        self.push(What::Status { connection, conversation, seq, user, status })
    }

    /// A fault begins, and ends at once.
    pub fn fault(&mut self, recovered_ms: Option<u64>, unrecovered_ms: Option<u64>) -> &mut Self {
        let (fault, kind, target) = (format!("f{}", self.t), "kill".into(), "ws1".into());
        self.push(What::Fault { fault: fault.clone(), kind, target });
        self.push(What::Healed { fault, bites: 1, recovered_ms, unrecovered_ms })
    }

    pub fn member(&mut self, user: &str, joins: bool) -> &mut Self {
        for outcome in [None, Some(Outcome::Done)] {
            let (conversation, user) = ("room:r".into(), user.into());
            self.push(What::Member { conversation, user, joins, outcome });
        }
        self
    }

    /// A walk that shows this, and begins now.
    pub fn walk(&mut self, user: &str, conversation: &str, entries: Vec<Listed>) -> &mut Self {
        self.walk_with(user, conversation, Outcome::Done, entries, Direction::Forward)
    }

    pub fn walk_with(
        &mut self,
        user: &str,
        conversation: &str,
        outcome: Outcome,
        entries: Vec<Listed>,
        direction: Direction,
    ) -> &mut Self {
        self.walks += 1;
        let walk = format!("w{}", self.walks);
        let (user, conversation) = (user.into(), conversation.into());
        self.push(What::Walk { walk: walk.clone(), user, conversation, limit: 7, direction });
        self.push(What::Walked { walk, outcome, entries })
    }

    /// A walk that shows what stands at these.
    pub fn shows(&mut self, user: &str, conversation: &str, seqs: &[u64]) -> &mut Self {
        let entries = seqs.iter().map(|seq| self.logs[conversation][seq].clone()).collect();
        self.walk(user, conversation, entries)
    }

    /// All that stands in a conversation.
    pub fn whole(&self, conversation: &str) -> Vec<Listed> {
        self.logs.get(conversation).into_iter().flat_map(|log| log.values().cloned()).collect()
    }

    /// The drain, and the phase of reading.
    pub fn end(&mut self) -> &mut Self {
        self.phase(Phase::Drain).phase(Phase::Read)
    }

    /// What the store has.
    pub fn store(&mut self) -> &mut Self {
        for (conversation, log) in self.logs.clone() {
            let entries = log.into_values().collect();
            self.push(What::Stored { conversation, entries });
        }
        self
    }

    /// Nothing more is sent, and nothing happens for so many seconds: all is still.
    pub fn still(&mut self, seconds: u64) -> &mut Self {
        self.phase(Phase::Drain);
        self.t += seconds * 1_000_000_000;
        self.phase(Phase::Still)
    }

    /// The end of a direct conversation: both read all of it, both ways.
    pub fn read_all(&mut self) -> &mut Self {
        self.phase(Phase::Drain).read()
    }

    /// After the drain: both read all of it, both ways.
    pub fn read(&mut self) -> &mut Self {
        self.phase(Phase::Read);
        for user in ["a", "b"] {
            for direction in [Direction::Forward, Direction::Backward] {
                self.walk_with(user, DM, Outcome::Done, self.whole(DM), direction);
            }
        }
        self.store()
    }

    pub fn report(&self) -> Report {
        judge(&self.events, Gates::none())
    }

    /// What is broken.
    pub fn broken(&self) -> Vec<Invariant> {
        let report = self.report();
        // For whoever reads the output of a test that failed.
        println!("{report}");
        report.broken.keys().copied().collect()
    }
}

/// In the room of [`Story::of_a_room`] each joins at the seq of his letter.
fn who_joined(connection: &str) -> u64 {
    u64::from(connection.as_bytes()[0] - b'a' + 1)
}
