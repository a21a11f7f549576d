//! The board of one process, in memory: its parts share it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;

use super::bulletin::Bulletin;
use super::{Beat, Board, BoardRow, SlowHint};
use crate::protocol::{Epoch, ProcessId};
use crate::store::StoreError;

/// See the module.
#[derive(Debug)]
pub struct EmbeddedBoard {
    bulletin: Mutex<Bulletin>,
    since: Instant,
}

impl Default for EmbeddedBoard {
    fn default() -> Self {
        Self { bulletin: Mutex::default(), since: Instant::now() }
    }
}

impl EmbeddedBoard {
    fn lock(&self) -> MutexGuard<'_, Bulletin> {
        self.bulletin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Board for EmbeddedBoard {
    async fn beat(
        &self,
        row: &BoardRow,
        replacing: Option<(Epoch, u64)>,
    ) -> Result<Beat, StoreError> {
        Ok(self.lock().beat(row, replacing))
    }

    async fn read(&self) -> Result<Vec<BoardRow>, StoreError> {
        Ok(self.lock().read())
    }

    async fn remove(&self, id: &ProcessId, epoch: Epoch) -> Result<(), StoreError> {
        self.lock().remove(id, epoch);
        Ok(())
    }

    async fn put_hints(
        &self,
        id: &ProcessId,
        number: u64,
        hints: &[SlowHint],
    ) -> Result<(), StoreError> {
        let mut bulletin = self.lock();
        // Read under the lock, so that it does not go back.
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        bulletin.put_hints(id, number, hints.to_vec(), now);
        Ok(())
    }

    async fn hints(&self, id: &ProcessId, after: u64) -> Result<(u64, Vec<SlowHint>), StoreError> {
        Ok(self.lock().hints(id, after))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{HINT_TTL_SECONDS, contract};
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
