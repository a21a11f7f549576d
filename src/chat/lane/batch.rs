//! What a lane works on at a time: appends in the order in which they came, each with its fate.
//!
//! **Invariant.** Answers leave at the front only, so a sender hears of its sends in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::answer::Answer;
use super::leaving::Leaving;
use super::refs::{self, Seen};
use super::{Append, Handed, Opens};
use crate::chance::{self, Hashing};
use crate::chat::ChatError;
use crate::planted::{Bug, planted};
use crate::protocol::{
    ConversationId, DeviceId, Entry, ErrorCode, Kind, Ref, Seq, Timestamp, UserId,
};
use crate::store::Member;

/// An append in a lane.
pub(super) struct Item {
    pub(super) from: UserId,
    pub(super) device: DeviceId,
    pub(super) kind: Kind,
    pub(super) to: Option<UserId>,
    message: Option<Arc<str>>,
    data: Option<Arc<RawValue>>,
    /// The client's, or one that the server made so that it knows its own put again.
    pub(super) reference: Ref,
    pub(super) after: Option<Seq>,
    pub(super) opens: Opens,
    /// Hash of (from, device, ref).
    pub(super) key: u64,
    /// Hash of what it says.
    pub(super) body: u64,
    pub(super) answer: Answer,
    pub(super) fate: Fate,
    /// Where and with which time it was last tried.
    tried: Option<(Seq, Timestamp)>,
    /// Its put was found in the log: others may have read it there before it is handed on.
    pub(super) found: bool,
    /// A later item of the batch repeats it.
    echoed: bool,
}

/// What becomes of an item.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// To be put.
    New,
    /// It stands in the log.
    Stored(Stored),
    /// It will not be put.
    Refused(ChatError),
    /// It repeats the item of this number of the same batch.
    Echo(usize),
}

/// An entry that stands in the log.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) entry: Arc<Entry>,
    pub(super) roster: Option<Arc<Vec<Member>>>,
    /// Not by this try.
    pub(super) repeated: bool,
}

/// The same ref with another body (P2).
pub(super) fn conflict() -> ChatError {
    let detail = "this ref was used with another body, give every message a ref of its own";
    ChatError::new(ErrorCode::RefConflict, detail)
}

impl Item {
    /// Wraps an append so that it will be answered.
    pub(super) fn new(append: Append, hasher: &Hashing) -> Self {
        let shown = append.reference.clone();
        let made = || Ref::made_by_server(chance::bits());
        let reference = append.reference.unwrap_or_else(made);
        let data = append.data.as_ref().map(|data| data.get());
        let (to, message) = (append.to.as_ref(), append.message.as_deref());
        Self {
            key: refs::key_of(hasher, &append.from, &append.device, &reference),
            body: refs::body_of(hasher, &append.kind, to, message, data),
            from: append.from,
            device: append.device,
            kind: append.kind,
            to: append.to,
            message: append.message,
            data: append.data,
            reference,
            after: append.after,
            opens: append.opens,
            answer: Answer::new(append.reply, shown, append.origin),
            fate: Fate::New,
            tried: None,
            found: false,
            echoed: false,
        }
    }

    /// About how much memory it holds.
    pub(super) fn bytes(&self) -> usize {
        let text = self.message.as_ref().map_or(0, |message| message.len());
        text + self.data.as_ref().map_or(0, |data| data.get().len()) + 256
    }

    pub(super) fn is_new(&self) -> bool {
        matches!(self.fate, Fate::New)
    }

    /// The entry that is put for it at `seq`; the same again if it was tried there before.
    pub(super) fn try_at(&mut self, seq: Seq, n: u64, now: Timestamp) -> Entry {
        let timestamp = match self.tried {
            Some((tried, timestamp)) if tried == seq => timestamp,
            _ => now,
        };
        self.tried = Some((seq, timestamp));
        self.entry(seq, n, timestamp)
    }

    /// Whether the entry is this item's own put.
    pub(super) fn tried_as(&self, entry: &Entry) -> bool {
        self.tried == Some((entry.seq, entry.timestamp))
    }

    /// Whether it was tried at or below `seq`, above `tail`.
    pub(super) fn tried_within(&self, tail: Seq, until: Seq) -> bool {
        self.tried.is_some_and(|(seq, _)| seq > tail && seq <= until)
    }

    /// What it comes to when the same send stands in the log already.
    pub(super) fn repeats(&self, seen: &Seen, roster: Option<Arc<Vec<Member>>>) -> Fate {
        if seen.body != self.body {
            return Fate::Refused(conflict());
        }
        let entry = Arc::new(self.entry(seen.seq, seen.n, seen.timestamp));
        Fate::Stored(Stored { entry, roster, repeated: true })
    }

    fn entry(&self, seq: Seq, n: u64, timestamp: Timestamp) -> Entry {
        Entry {
            seq,
            kind: self.kind.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            message: self.message.clone(),
            data: self.data.clone(),
            reference: Some(self.reference.clone()),
            device: self.device.clone(),
            timestamp,
            n,
        }
    }

    /// Hands an entry on by itself.
    pub(super) fn hand_on(
        &self,
        conversation: &ConversationId,
        entry: &Entry,
        roster: Option<Arc<Vec<Member>>>,
    ) {
        let mut leaving = Leaving::default();
        let stored = Stored { entry: Arc::new(entry.clone()), roster, repeated: false };
        self.leave(conversation, stored, &mut leaving);
        leaving.flush();
    }

    /// Puts an entry that stands for this item among those that leave.
    fn leave(&self, conversation: &ConversationId, stored: Stored, leaving: &mut Leaving) {
        let repeated = stored.repeated || self.found;
        let handed = Handed { entry: stored.entry, sender: self.answer.sender(), repeated };
        leaving.push(&self.answer.origin, conversation, stored.roster, handed);
    }
}

/// Items in the order of arrival.
pub(super) struct Batch {
    pub(super) items: VecDeque<Item>,
    /// How many have left at the front: the number of the front item.
    gone: usize,
    /// How those ended that a later item repeats.
    echoed: HashMap<usize, Result<Stored, ChatError>>,
    /// What was answered and is yet to be handed on.
    leaving: Leaving,
    /// The sender of the item that was answered last, if its socket has ended.
    left: Option<UserId>,
}

impl Batch {
    pub(super) fn new(items: VecDeque<Item>) -> Self {
        Self { items, gone: 0, echoed: HashMap::new(), leaving: Leaving::default(), left: None }
    }

    /// How many are to be put yet.
    pub(super) fn news(&self) -> u64 {
        self.items.iter().filter(|item| item.is_new()).count() as u64
    }

    /// Sets the fate of the item at `at` if an earlier one of this batch is the same send.
    pub(super) fn echo(&mut self, at: usize) -> bool {
        let item = &self.items[at];
        let same = |other: &Item| {
            other.key == item.key
                && other.is_new()
                && other.reference == item.reference
                && other.from == item.from
                && other.device == item.device
        };
        let Some(first) = self.items.iter().take(at).position(same) else { return false };
        let fate = if self.items[first].body == item.body {
            self.items[first].echoed = true;
            Fate::Echo(self.gone + first)
        } else {
            Fate::Refused(conflict())
        };
        self.items[at].fate = fate;
        true
    }

    /// The front item, if it is a send that stood in the log before.
    pub(super) fn front_repeated(&self) -> Option<(&Item, &Stored)> {
        let item = self.items.front()?;
        match &item.fate {
            Fate::Stored(stored) if stored.repeated => Some((item, stored)),
            _ => None,
        }
    }

    /// Whether the front item can be answered.
    pub(super) fn is_decided(&self) -> bool {
        self.items.front().is_some_and(|item| !item.is_new())
    }

    /// Answers by their fates all items that are decided, from the front on, and hands on what
    /// stands of them. Stops before a send that stood in the log already, to be raised first; and
    /// behind one whose sender has left: gives whose row is to be raised before this goes on.
    pub(super) fn settle(&mut self, conversation: &ConversationId) -> Option<UserId> {
        while self.left.is_none() && self.pop(conversation) && self.front_repeated().is_none() {}
        if self.left.is_none() {
            self.leaving.flush();
        }
        self.left.take()
    }

    /// Answers the front item by its fate; `false` where there is none or it is not decided.
    fn pop(&mut self, conversation: &ConversationId) -> bool {
        if !self.is_decided() {
            return false;
        }
        let Some(mut item) = self.items.pop_front() else { return false };
        let number = self.gone;
        self.gone += 1;
        let outcome = match std::mem::replace(&mut item.fate, Fate::New) {
            Fate::Stored(stored) => Ok(stored),
            Fate::Refused(error) => Err(error),
            Fate::Echo(first) => match self.echoed.get(&first) {
                Some(Ok(stored)) => Ok(Stored { repeated: true, ..stored.clone() }),
                Some(Err(error)) => Err(error.clone()),
                // Dropped unanswered, it answers `unavailable`.
                None => return true,
            },
            Fate::New => return true,
        };
        if item.echoed {
            self.echoed.insert(number, outcome.clone());
        }
        match outcome {
            Ok(stored) => {
                if !item.answer.sent(conversation, &stored.entry, stored.repeated) {
                    self.left = Some(item.from.clone());
                }
                if !(stored.repeated && planted(Bug::HitAnsweredAtOnce)) {
                    item.leave(conversation, stored, &mut self.leaving);
                }
            }
            Err(error) => item.answer.refuse(&error),
        }
        true
    }

    /// Refuses whatever is not answered. What is stored all the same is handed on; what `keep`
    /// says is kept, to be handed on later.
    pub(super) fn give_up(
        &mut self,
        conversation: &ConversationId,
        error: &ChatError,
        keep: impl Fn(&Item) -> bool,
    ) {
        for mut item in std::mem::take(&mut self.items) {
            item.answer.refuse(error);
            match std::mem::replace(&mut item.fate, Fate::New) {
                Fate::Stored(stored) => item.leave(conversation, stored, &mut self.leaving),
                Fate::New if keep(&item) => self.items.push_back(item),
                _ => {}
            }
        }
        self.leaving.flush();
    }
}
