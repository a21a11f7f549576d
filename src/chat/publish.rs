//! One queue per destination server: what comes up while a publish is under way leaves together in
//! the next one.
//!
//! Bounded by count; what does not fit, and what the bus did not take, is given back, and its hints
//! go the slow way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::Bus;
use crate::protocol::{Envelope, ProcessId};

/// The most envelopes that wait for one destination.
pub const QUEUE_MAX: usize = 8_192;
/// The most envelopes in one publish.
pub const BATCH_MAX: usize = 128;

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<Envelope>>,
    under_way: bool,
}

/// The queues of one process part.
#[derive(Debug, Default)]
pub struct Publishers {
    queues: Mutex<HashMap<ProcessId, Queue>>,
}

/// What is to be done after a push.
#[derive(Debug)]
pub enum Pushed {
    /// A publish is under way and will take it along.
    Queued,
    /// None is: run [`Publishers::drain`] for this destination, which these go out with first.
    Drain(Vec<Arc<Envelope>>),
    /// There is no room: they are given back.
    Full(Vec<Arc<Envelope>>),
}

impl Publishers {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProcessId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues envelopes, all of them or none.
    pub fn push(&self, to: &ProcessId, envelopes: Vec<Arc<Envelope>>) -> Pushed {
        let mut queues = self.lock();
        let queue = match queues.get_mut(to) {
            Some(queue) => queue,
            None => queues.entry(to.clone()).or_default(),
        };
        if queue.waiting.len() + envelopes.len() > QUEUE_MAX {
            return Pushed::Full(envelopes);
        }
        if !std::mem::replace(&mut queue.under_way, true) {
            return Pushed::Drain(envelopes);
        }
        queue.waiting.extend(envelopes);
        Pushed::Queued
    }

    fn next(&self, to: &ProcessId) -> Vec<Arc<Envelope>> {
        let mut queues = self.lock();
        let Some(queue) = queues.get_mut(to) else { return Vec::new() };
        let count = queue.waiting.len().min(BATCH_MAX);
        let batch: Vec<_> = queue.waiting.drain(..count).collect();
        if batch.is_empty() {
            // An idle destination holds nothing; a dead one is so forgotten.
            queues.remove(to);
        }
        batch
    }

    /// Publishes `first`, and then until the queue is empty. Each batch that the bus did not take
    /// goes to `failed`.
    pub async fn drain(
        &self,
        bus: &dyn Bus,
        to: &ProcessId,
        first: Vec<Arc<Envelope>>,
        mut failed: impl FnMut(&[Arc<Envelope>]),
    ) {
        let mut waiting = first;
        while !waiting.is_empty() {
            for batch in waiting.chunks(BATCH_MAX) {
                if let Err(error) = bus.publish(to, batch).await {
                    tracing::debug!(%to, %error, "publish failed");
                    failed(batch);
                }
            }
            waiting = self.next(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_during_a_publish_leaves_together() {
        let publishers = Publishers::default();
        let to = ProcessId::parse("ws3").unwrap();
        let probe = |number| vec![Arc::new(Envelope::Probe { number })];
        let push = |number| publishers.push(&to, probe(number));
        assert!(matches!(push(1), Pushed::Drain(first) if first.len() == 1));
        assert!(matches!(push(2), Pushed::Queued));
        assert!(matches!(push(3), Pushed::Queued));
        assert_eq!(publishers.next(&to).len(), 2);
        assert!(publishers.next(&to).is_empty());
        assert!(matches!(push(4), Pushed::Drain(_)), "idle again");
    }

    #[test]
    fn a_queue_is_bounded() {
        let publishers = Publishers::default();
        let to = ProcessId::parse("ws3").unwrap();
        let push = |number| publishers.push(&to, vec![Arc::new(Envelope::Probe { number })]);
        assert!(matches!(push(0), Pushed::Drain(_)));
        for number in 0..QUEUE_MAX as u64 {
            assert!(matches!(push(number), Pushed::Queued));
        }
        assert!(matches!(push(0), Pushed::Full(back) if back.len() == 1));
    }
}
