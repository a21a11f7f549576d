//! The queue between a channel and its reader: bounded, and it never forgets that it overflowed.
//!
//! **Invariant:** the last place is only ever taken by a [`Heard::Gap`]. So whenever something was
//! dropped, a gap stands behind what is queued and before what follows.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::{Heard, SUBSCRIPTION_BATCHES_MAX, Subscription};
use crate::protocol::Envelope;

/// The writing end of a [`Subscription`].
#[derive(Debug)]
pub(super) struct Inbox {
    sender: mpsc::Sender<Heard>,
    /// Held for "is there room" and "put it there" together.
    turn: Mutex<()>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits for the reader.
    Queued,
    /// There was no room: the reader hears a gap.
    Dropped,
}

impl Inbox {
    /// A queue and its reader.
    pub(super) fn new() -> (Self, Subscription) {
        let (sender, receiver) = mpsc::channel(SUBSCRIPTION_BATCHES_MAX + 1);
        (Self { sender, turn: Mutex::new(()) }, receiver)
    }

    /// Puts a batch in if there is room.
    pub(super) fn push(&self, batch: Vec<Arc<Envelope>>) -> Pushed {
        // The lock guards no data, so a panic under it has broken nothing.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sender.capacity() >= 2 && self.sender.try_send(Heard::Batch(batch)).is_ok() {
            return Pushed::Queued;
        }
        // With no place left at all, the last one holds a gap that is not read yet.
        let _ = self.sender.try_send(Heard::Gap);
        Pushed::Dropped
    }

    /// Tells the reader that something may have been missed.
    pub(super) fn gap(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.sender.try_send(Heard::Gap);
    }

    /// Whether the reader has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the reader has gone.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(number: u64) -> Vec<Arc<Envelope>> {
        vec![Arc::new(Envelope::Probe { number })]
    }

    fn all(subscription: &mut Subscription) -> Vec<Option<u64>> {
        let number = |heard| match heard {
            Heard::Gap => None,
            Heard::Batch(batch) => match *batch[0] {
                Envelope::Probe { number } => Some(number),
                _ => unreachable!(),
            },
        };
        std::iter::from_fn(|| subscription.try_recv().ok()).map(number).collect()
    }

    #[test]
    fn an_overflow_is_heard_behind_what_was_queued() {
        let (inbox, mut subscription) = Inbox::new();
        let max = SUBSCRIPTION_BATCHES_MAX as u64;
        for number in 0..max + 10 {
            let want = if number < max { Pushed::Queued } else { Pushed::Dropped };
            assert_eq!(inbox.push(probe(number)), want);
        }
        let heard = all(&mut subscription);
        let want: Vec<_> = (0..max).map(Some).chain([None]).collect();
        assert_eq!(heard, want);
        assert_eq!(inbox.push(probe(7)), Pushed::Queued);
        assert_eq!(all(&mut subscription), [Some(7)]);
    }

    #[test]
    fn a_gap_always_finds_a_place() {
        let (inbox, mut subscription) = Inbox::new();
        for number in 0..SUBSCRIPTION_BATCHES_MAX as u64 {
            inbox.push(probe(number));
        }
        inbox.gap();
        inbox.gap();
        assert_eq!(all(&mut subscription).last(), Some(&None));
        drop(subscription);
        assert!(inbox.is_closed());
    }
}
