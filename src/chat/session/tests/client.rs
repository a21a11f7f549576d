//! The client at the other end: what it was shown, and what must hold of it.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::protocol::{ConversationId, Entry, Seq};
use crate::store::Member;

/// A log as the test knows it to be.
pub struct Log {
    pub id: ConversationId,
    pub entries: Vec<Entry>,
    /// Of a room: what the client may see.
    pub member: Option<Member>,
}

impl Log {
    pub fn tail(&self) -> Seq {
        self.entries.len() as Seq
    }

    pub fn may_see(&self, seq: Seq) -> bool {
        match &self.member {
            Some(member) => member.may_see(seq),
            None => !self.id.is_room(),
        }
    }
}

/// What one device has received over all of its sockets.
#[derive(Default)]
pub struct Client {
    have: HashSet<(ConversationId, Seq)>,
    /// Sent by this device.
    own: HashSet<(ConversationId, Seq)>,
    /// Sent by the socket that is open, and not answered yet.
    own_here: HashSet<(ConversationId, Seq)>,
    /// The highest text on the socket that is open.
    top: HashMap<ConversationId, Seq>,
    pub caught_up: bool,
    /// How many texts it was pushed, ever.
    pub texts: usize,
    /// How many of them it had already.
    pub repeats: usize,
}

impl Client {
    /// A new socket.
    pub fn open(&mut self) {
        self.own_here.clear();
        self.top.clear();
        self.caught_up = false;
    }

    pub fn sent(&mut self, log: &ConversationId, seq: Seq) {
        self.own.insert((log.clone(), seq));
        self.own_here.insert((log.clone(), seq));
    }

    /// Whether nothing up to `until` is missing that is for this device; else what is.
    pub fn has_all(&self, log: &Log, until: Seq) -> Result<(), Seq> {
        for seq in (1..=until).filter(|seq| log.may_see(*seq)) {
            let key = (log.id.clone(), seq);
            if !self.have.contains(&key) && !self.own.contains(&key) {
                return Err(seq);
            }
        }
        Ok(())
    }

    /// A frame was received. Says what there is to acknowledge: a text, or the end of `missed`.
    pub fn receive(&mut self, frame: &[u8], logs: &[Log], offline: &[Seq]) -> Option<(usize, Seq)> {
        let json: Value = serde_json::from_slice(frame).unwrap();
        let at = || {
            let name = json["conversation"].as_str().unwrap();
            logs.iter().position(|log| log.id.as_str() == name).unwrap()
        };
        match json["type"].as_str().unwrap() {
            "message" | "joined" | "left" => {
                let (at, seq) = (at(), json["seq"].as_u64().unwrap());
                self.text(&logs[at], seq, &json);
                return Some((at, seq));
            }
            "missed" => {
                assert!(!self.caught_up);
                let (from, to) = (json["from"].as_u64().unwrap(), json["to"].as_u64().unwrap());
                let at = at();
                let log = &logs[at];
                assert_eq!(self.has_all(log, from - 1), Ok(()), "a hole before {json}");
                self.have.extend((from..=to).map(|seq| (log.id.clone(), seq)));
                return Some((at, to));
            }
            "caughtup" => {
                assert!(!std::mem::replace(&mut self.caught_up, true), "said once");
                for (log, offline) in logs.iter().zip(offline) {
                    assert_eq!(self.has_all(log, *offline), Ok(()), "it waited (P7)");
                }
            }
            "sent" => {
                let key = (logs[at()].id.clone(), json["seq"].as_u64().unwrap());
                assert!(self.own_here.remove(&key), "answered once");
                self.have.insert(key);
            }
            "welcome" => {}
            other => panic!("{other}"),
        }
        None
    }

    fn text(&mut self, log: &Log, seq: Seq, json: &Value) {
        let key = (log.id.clone(), seq);
        assert!(log.may_see(seq), "not for this person (P9): {json}");
        // A text that comes very late may bring what follows it once more; that is a repeat, which
        // the client knows by its seq.
        assert!(!self.own_here.contains(&key), "a copy of its own: {json}");
        let entry = &log.entries[seq as usize - 1];
        assert_eq!(json["message"].as_str(), entry.message.as_deref());
        let top = self.top.entry(log.id.clone()).or_default();
        if seq > *top {
            *top = seq;
            assert_eq!(self.has_all(log, seq - 1), Ok(()), "a hole before {json}");
        } else {
            assert!(self.have.contains(&key), "out of order: {json}");
        }
        self.repeats += usize::from(!self.have.insert(key));
        self.texts += 1;
    }
}
