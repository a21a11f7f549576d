//! Which sends a lane remembers: the newest entries of its log by (from, device, ref).
//!
//! Texts are not kept, only a hash of each body: a repeated send brings its text along.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use super::batch::Item;
use crate::chance::Hashing;
use crate::protocol::{DeviceId, Entry, Kind, Ref, Seq, Timestamp, UserId};

/// How many entries a lane remembers: more than the window of P2, so that most sends with `after`
/// need no read either.
const KEPT: usize = 128;

/// What identifies a send: who, from where, under which name.
pub(super) fn key_of(hasher: &Hashing, from: &UserId, device: &DeviceId, name: &Ref) -> u64 {
    hasher.hash_one((from, device, name))
}

/// What a send says.
pub(super) fn body_of(
    hasher: &Hashing,
    kind: &Kind,
    to: Option<&UserId>,
    message: Option<&str>,
    data: Option<&str>,
) -> u64 {
    hasher.hash_one((kind.as_str(), to, message, data))
}

/// An entry, as far as it is remembered.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    key: u64,
    from: UserId,
    device: DeviceId,
    reference: Option<Ref>,
    pub(super) body: u64,
    pub(super) seq: Seq,
    pub(super) n: u64,
    pub(super) timestamp: Timestamp,
}

impl Seen {
    /// Remembers an entry.
    pub(super) fn of(hasher: &Hashing, entry: &Entry) -> Self {
        let name = entry.reference.as_ref();
        Self {
            key: name.map_or(0, |name| key_of(hasher, &entry.from, &entry.device, name)),
            from: entry.from.clone(),
            device: entry.device.clone(),
            reference: entry.reference.clone(),
            body: body_of(
                hasher,
                &entry.kind,
                entry.to.as_ref(),
                entry.message.as_deref(),
                entry.data.as_ref().map(|data| data.get()),
            ),
            seq: entry.seq,
            n: entry.n,
            timestamp: entry.timestamp,
        }
    }

    /// As [`Seen::of`], with the hashes that the item has already.
    pub(super) fn own(item: &Item, entry: &Entry) -> Self {
        Self {
            key: item.key,
            from: item.from.clone(),
            device: item.device.clone(),
            reference: Some(item.reference.clone()),
            body: item.body,
            seq: entry.seq,
            n: entry.n,
            timestamp: entry.timestamp,
        }
    }

    /// Whether it is the same send; the body is another question.
    pub(super) fn is(&self, item: &Item) -> bool {
        self.key == item.key
            && self.reference.as_ref() == Some(&item.reference)
            && self.from == item.from
            && self.device == item.device
    }
}

/// The newest entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct Window {
    seen: VecDeque<Seen>,
    /// The key of each, side by side: nearly every send is new, and looks through all of them.
    keys: VecDeque<u64>,
}

impl Window {
    /// Remembers the newest entry.
    pub(super) fn push(&mut self, seen: Seen) {
        if self.seen.len() == KEPT {
            self.seen.pop_front();
            self.keys.pop_front();
        }
        self.keys.push_back(seen.key);
        self.seen.push_back(seen);
    }

    /// The newest entry above `after` of the same send.
    pub(super) fn find(&self, item: &Item, after: Seq) -> Option<&Seen> {
        let from = self.seen.partition_point(|seen| seen.seq <= after);
        let mut until = self.keys.len();
        loop {
            let alike = self.keys.range(from..until).rposition(|key| *key == item.key)?;
            until = from + alike;
            if let Some(seen) = self.seen.get(until).filter(|seen| seen.is(item)) {
                return Some(seen);
            }
        }
    }

    /// The lowest seq that is remembered; all above it are too.
    pub(super) fn first(&self) -> Option<Seq> {
        self.seen.front().map(|seen| seen.seq)
    }
}
