//! The slow way: hints that the bus can't hand on are written to the board, and every process reads
//! there at most 2 s later.
//!
//! Hints of the same (person, conversation) are one, with the highest seq. What is put while a
//! write is under way leaves with the next.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Chat;
use crate::board::SlowHint;
use crate::hub::Event;
use crate::protocol::{ConversationId, Seq, UserId};

/// The most hints that wait for the board; only a store that is away lets them pile up, and then
/// nothing new is stored either.
pub const WAITING_MAX: usize = 65_536;
/// How long hints gather before they are written.
pub const GATHER: Duration = Duration::from_millis(50);
/// How many are written in one go.
const WRITE_MAX: usize = 400;

type Waiting = HashMap<(Option<UserId>, ConversationId), Seq>;

/// Hints that wait for the board.
#[derive(Debug, Default)]
pub struct Slow {
    waiting: Mutex<Waiting>,
    wake: tokio::sync::Notify,
}

impl Slow {
    /// Queues a hint; wakes the writer.
    pub fn put(&self, hint: SlowHint) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let full = waiting.len() >= WAITING_MAX;
        let key = (hint.user, hint.conversation);
        match waiting.get_mut(&key) {
            Some(seq) => *seq = hint.seq.max(*seq),
            None if full => tracing::error!("too many hints wait for the board, one is dropped"),
            None => drop(waiting.insert(key, hint.seq)),
        }
        drop(waiting);
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<SlowHint> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<_> = waiting.keys().take(WRITE_MAX).cloned().collect();
        let hint = |key: (Option<UserId>, ConversationId)| {
            let seq = waiting.remove(&key).unwrap_or(0);
            SlowHint { user: key.0, conversation: key.1, seq }
        };
        keys.into_iter().map(hint).collect()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Chat {
    /// Writes what waits to the board, for ever; owned by `keeper`.
    pub(super) async fn write_slow_hints(&self) {
        loop {
            self.router.slow.wake.notified().await;
            tokio::time::sleep(GATHER).await;
            loop {
                let hints = self.router.slow.take();
                if hints.is_empty() {
                    break;
                }
                if let Err(error) = self.liveness.put_hints(&hints).await {
                    tracing::warn!(%error, count = hints.len(), "hints wait for the board");
                    hints.into_iter().for_each(|hint| self.router.slow.put(hint));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// A hint that came the slow way (or goes it from here): local sockets read the store.
    pub(super) fn hear_slow_hint(&self, hint: &SlowHint) {
        let event =
            || Event::Hint { conversation: hint.conversation.clone(), seq: hint.seq, via: None };
        match &hint.user {
            Some(user) => self.hub.of(user).iter().for_each(|outbox| outbox.push(event())),
            None => self.hint_local_members(hint.conversation.clone(), hint.seq),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_of_one_conversation_are_one() {
        let slow = Slow::default();
        let hint = |seq| SlowHint {
            user: UserId::parse("b").ok(),
            conversation: ConversationId::parse("dm:a:b").unwrap(),
            seq,
        };
        slow.put(hint(3));
        slow.put(hint(7));
        slow.put(hint(5));
        assert_eq!(slow.take(), vec![hint(7)]);
        assert!(slow.is_empty());
    }

    #[test]
    fn hints_that_wait_are_bounded() {
        let slow = Slow::default();
        let hint = |i: usize, seq| SlowHint {
            user: None,
            conversation: ConversationId::parse(&format!("room:{i}")).unwrap(),
            seq,
        };
        (0..WAITING_MAX + 9).for_each(|i| slow.put(hint(i, 1)));
        slow.put(hint(7, 2));
        let mut taken = Vec::new();
        while !slow.is_empty() {
            let some = slow.take();
            assert!(some.len() <= WRITE_MAX);
            taken.extend(some);
        }
        assert_eq!(taken.len(), WAITING_MAX);
        assert!(taken.contains(&hint(7, 2)), "one that waits already still rises");
    }
}
