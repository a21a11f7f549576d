//! The slow way: hints that the bus can't hand on are written to the board, and every process reads
//! there at most 2 s later.
//!
//! Hints of the same (person, conversation) are one, with the highest seq. What is put while a
//! write is under way leaves with the next. Where one does not fit, a hint of seq 0 follows behind
//! the others, which no entry has: every process then reads all its mailboxes again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Chat;
use crate::board::SlowHint;
use crate::chance::Hashing;
use crate::hub::Event;
use crate::protocol::{ConversationId, Seq, UserId};

/// The most hints that wait for the board; only a store that is away lets them pile up, and then
/// nothing new is stored either.
pub const WAITING_MAX: usize = 65_536;
/// How long hints gather before they are written.
pub const GATHER: Duration = Duration::from_millis(50);
/// How many are written in one go.
const WRITE_MAX: usize = 400;

/// The seq of a hint that stands for all that did not fit.
const LOST: Seq = 0;

#[derive(Debug, Default)]
struct Waiting {
    hints: HashMap<(Option<UserId>, ConversationId), Seq, Hashing>,
    /// Some did not fit.
    lost: Option<SlowHint>,
}

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
        let full = waiting.hints.len() >= WAITING_MAX;
        let key = (hint.user, hint.conversation);
        match waiting.hints.get_mut(&key) {
            _ if hint.seq == LOST => waiting.lose(key),
            Some(seq) => *seq = hint.seq.max(*seq),
            None if full => waiting.lose(key),
            None => drop(waiting.hints.insert(key, hint.seq)),
        }
        drop(waiting);
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<SlowHint> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<_> = waiting.hints.keys().take(WRITE_MAX).cloned().collect();
        let taken = keys.into_iter().filter_map(|key| waiting.hints.remove_entry(&key));
        let hint = |((user, conversation), seq)| SlowHint { user, conversation, seq };
        let mut taken: Vec<_> = taken.map(hint).collect();
        if waiting.hints.is_empty() {
            taken.extend(waiting.lost.take());
        }
        taken
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.hints.is_empty() && waiting.lost.is_none()
    }
}

impl Waiting {
    fn lose(&mut self, (user, conversation): (Option<UserId>, ConversationId)) {
        if self.lost.is_none() {
            tracing::error!("too many hints wait for the board: all mailboxes are read again");
            self.lost = Some(SlowHint { user, conversation, seq: LOST });
        }
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
        if hint.seq == LOST {
            return self.reread_soon();
        }
        // What is said to oneself comes rarely: its hint is told for a revocation as well.
        let of_oneself = |user: &&UserId| hint.conversation.other(user).as_ref() == Some(*user);
        if let Some(user) = hint.user.as_ref().filter(of_oneself) {
            self.hear_revoked(user);
        }
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
        assert_eq!(taken.len(), WAITING_MAX + 1);
        assert!(taken.contains(&hint(7, 2)), "one that waits already still rises");
        let lost = taken.pop().unwrap();
        assert_eq!(lost.seq, LOST, "who lost one reads all, once the others are through");
        // It could not be written.
        slow.put(lost.clone());
        assert_eq!(slow.take(), [lost]);
        assert!(slow.is_empty());
    }
}
