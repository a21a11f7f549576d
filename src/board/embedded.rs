//! The board of one process, in memory: its parts share it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Beat, Board, BoardRow, HINT_TTL_SECONDS, SlowHint};
use crate::protocol::{Epoch, ProcessId};
use crate::store::StoreError;

#[derive(Debug, Default)]
struct State {
    rows: HashMap<ProcessId, BoardRow>,
    hints: HashMap<ProcessId, Vec<(u64, Instant, Vec<SlowHint>)>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct EmbeddedBoard {
    state: Mutex<State>,
}

impl EmbeddedBoard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Board for EmbeddedBoard {
    async fn beat(
        &self,
        row: &BoardRow,
        replacing: Option<(Epoch, u64)>,
    ) -> Result<Beat, StoreError> {
        let mut state = self.lock();
        let free = state.rows.get(&row.id).is_none_or(|stands| {
            stands.epoch == row.epoch || replacing == Some((stands.epoch, stands.beat))
        });
        if !free {
            return Ok(Beat::Taken);
        }
        let late = |stands: &BoardRow| stands.epoch == row.epoch && stands.beat > row.beat;
        if !state.rows.get(&row.id).is_some_and(late) {
            state.rows.insert(row.id.clone(), row.clone());
        }
        Ok(Beat::Written)
    }

    async fn read(&self) -> Result<Vec<BoardRow>, StoreError> {
        let mut rows: Vec<_> = self.lock().rows.values().cloned().collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(rows)
    }

    async fn remove(&self, id: &ProcessId, epoch: Epoch) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.rows.get(id).is_some_and(|row| row.epoch == epoch) {
            state.rows.remove(id);
        }
        Ok(())
    }

    async fn put_hints(
        &self,
        id: &ProcessId,
        number: u64,
        hints: &[SlowHint],
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        let items = state.hints.entry(id.clone()).or_default();
        let ttl = Duration::from_secs(HINT_TTL_SECONDS);
        items.retain(|(other, put, _)| *other != number && put.elapsed() < ttl);
        items.push((number, Instant::now(), hints.to_vec()));
        items.sort_by_key(|(number, ..)| *number);
        Ok(())
    }

    async fn hints(&self, id: &ProcessId, after: u64) -> Result<(u64, Vec<SlowHint>), StoreError> {
        let state = self.lock();
        let items = state.hints.get(id).map(Vec::as_slice).unwrap_or_default();
        let newer = || items.iter().filter(|(number, ..)| *number > after);
        let highest = newer().map(|(number, ..)| *number).max().unwrap_or(after);
        Ok((highest, newer().flat_map(|(.., hints)| hints.clone()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;
    use crate::protocol::ConversationId;

    #[tokio::test]
    async fn passes_the_contract() {
        contract::all(&EmbeddedBoard::default()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn hints_end_and_leave_the_memory() {
        let (board, id) = (EmbeddedBoard::default(), ProcessId::parse("ws1").unwrap());
        let conversation = ConversationId::parse("room:general").unwrap();
        let hint = |seq| SlowHint { user: None, conversation: conversation.clone(), seq };
        board.put_hints(&id, 1, &[hint(1)]).await.unwrap();
        tokio::time::advance(Duration::from_secs(HINT_TTL_SECONDS)).await;
        board.put_hints(&id, 2, &[hint(2)]).await.unwrap();
        assert_eq!(board.hints(&id, 0).await, Ok((2, vec![hint(2)])));
    }
}
