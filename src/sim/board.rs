//! The board of the simulation, in memory.
#![cfg(test)]

use std::collections::BTreeMap;

use crate::board::{Beat, BoardRow, HINT_TTL_SECONDS, SlowHint};
use crate::protocol::{Epoch, ProcessId};

/// Items of hints by number, each with the time when it was put.
type Items = BTreeMap<u64, (u64, Vec<SlowHint>)>;

/// See the module.
#[derive(Default)]
pub struct Bulletin {
    pub rows: BTreeMap<ProcessId, BoardRow>,
    hints: BTreeMap<ProcessId, Items>,
}

impl Bulletin {
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

    pub fn read(&self) -> Vec<BoardRow> {
        self.rows.values().cloned().collect()
    }

    pub fn remove(&mut self, id: &ProcessId, epoch: Epoch) {
        if self.rows.get(id).is_some_and(|row| row.epoch == epoch) {
            self.rows.remove(id);
        }
    }

    pub fn put_hints(&mut self, id: &ProcessId, number: u64, hints: Vec<SlowHint>, now: u64) {
        let items = self.hints.entry(id.clone()).or_default();
        items.retain(|_, (put, _)| now - *put < HINT_TTL_SECONDS * 1_000);
        items.insert(number, (now, hints));
    }

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

mod at_once {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::Bulletin;
    use crate::board::{Beat, Board, BoardRow, SlowHint};
    use crate::protocol::{Epoch, ProcessId};
    use crate::store::StoreError;

    /// The same behind the port, answering at once.
    #[derive(Default)]
    struct AtOnce(Mutex<Bulletin>);

    #[async_trait]
    impl Board for AtOnce {
        async fn beat(
            &self,
            row: &BoardRow,
            replacing: Option<(Epoch, u64)>,
        ) -> Result<Beat, StoreError> {
            Ok(self.0.lock().unwrap().beat(row, replacing))
        }

        async fn read(&self) -> Result<Vec<BoardRow>, StoreError> {
            Ok(self.0.lock().unwrap().read())
        }

        async fn remove(&self, id: &ProcessId, epoch: Epoch) -> Result<(), StoreError> {
            self.0.lock().unwrap().remove(id, epoch);
            Ok(())
        }

        async fn put_hints(
            &self,
            id: &ProcessId,
            number: u64,
            hints: &[SlowHint],
        ) -> Result<(), StoreError> {
            self.0.lock().unwrap().put_hints(id, number, hints.to_vec(), 0);
            Ok(())
        }

        async fn hints(
            &self,
            id: &ProcessId,
            after: u64,
        ) -> Result<(u64, Vec<SlowHint>), StoreError> {
            Ok(self.0.lock().unwrap().hints(id, after))
        }
    }

    #[tokio::test]
    async fn the_simulated_board_passes_the_contract() {
        crate::board::contract::all(&AtOnce::default()).await;
    }
}
