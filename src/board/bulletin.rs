//! What a board holds, in memory, and the port's rules for it. Time comes from the caller: the
//! embedded board asks a clock, the simulation has one of its own.

use std::collections::BTreeMap;

use super::{Beat, BoardRow, HINT_TTL_SECONDS, SlowHint};
use crate::protocol::{Epoch, ProcessId};

/// Items of hints by number, each with the time when it was put, in milliseconds.
type Items = BTreeMap<u64, (u64, Vec<SlowHint>)>;

/// See the module; the methods are those of [`super::Board`].
#[derive(Debug, Default)]
pub struct Bulletin {
    /// Rows as they stand.
    pub rows: BTreeMap<ProcessId, BoardRow>,
    hints: BTreeMap<ProcessId, Items>,
}

impl Bulletin {
    /// See [`super::Board::beat`].
    pub fn beat(&mut self, row: &BoardRow, replacing: Option<(Epoch, u64)>) -> Beat {
        let stands = self.rows.get(&row.id);
        let free = stands.is_none_or(|stands| {
            stands.epoch == row.epoch || replacing == Some((stands.epoch, stands.beat))
        });
        if !free {
            return Beat::Taken;
        }
        if !stands.is_some_and(|stands| stands.epoch == row.epoch && stands.beat > row.beat) {
            self.rows.insert(row.id.clone(), row.clone());
        }
        Beat::Written
    }

    /// See [`super::Board::read`].
    pub fn read(&self) -> Vec<BoardRow> {
        self.rows.values().cloned().collect()
    }

    /// See [`super::Board::remove`].
    pub fn remove(&mut self, id: &ProcessId, epoch: Epoch) {
        if self.rows.get(id).is_some_and(|row| row.epoch == epoch) {
            self.rows.remove(id);
        }
    }

    /// See [`super::Board::put_hints`]; `now` in milliseconds, it never goes back.
    pub fn put_hints(&mut self, id: &ProcessId, number: u64, hints: Vec<SlowHint>, now: u64) {
        let items = self.hints.entry(id.clone()).or_default();
        items.retain(|_, (put, _)| now - *put < HINT_TTL_SECONDS * 1_000);
        items.insert(number, (now, hints));
    }

    /// See [`super::Board::hints`].
    pub fn hints(&self, id: &ProcessId, after: u64) -> (u64, Vec<SlowHint>) {
        let items = self.hints.get(id).into_iter().flat_map(|items| items.range(after + 1..));
        let (mut highest, mut hints) = (after, Vec::new());
        for (number, (_, item)) in items {
            highest = *number;
            hints.extend(item.iter().cloned());
        }
        (highest, hints)
    }
}
