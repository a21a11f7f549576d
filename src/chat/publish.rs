//! One queue per destination server: what comes up while a publish is under way leaves together in
//! the next one, and for a busy destination a little later, so that more goes along.
//!
//! What comes for a quiet destination leaves at once; no ack ever waits here. Bounded by count;
//! what does not fit, and what the bus did not take, is given back, and its hints go the slow way.
//! **Invariant:** one publish for a destination is under way at a time, and what was pushed first
//! leaves first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::bus::Bus;
use crate::protocol::{Envelope, ProcessId};

/// The most envelopes that wait for one destination.
pub const QUEUE_MAX: usize = 8_192;
/// The most envelopes in one publish; so many that wait leave at once.
pub const BATCH_MAX: usize = 128;
/// So many bytes of texts that wait leave at once too.
const BATCH_BYTES: usize = 64 * 1024;
/// A destination for which something came [`BUSY_PUSHES`] times in a window is busy: from there on
/// a publish for each costs more than a wait of one pace. Below, nobody waits.
const WINDOW: Duration = Duration::from_millis(8);
const BUSY_PUSHES: u32 = 6;
/// What was quiet for so long is forgotten when another destination comes.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// How often something comes for a destination.
#[derive(Debug)]
struct Traffic {
    begun: Instant,
    pushes: u32,
    busy: bool,
}

impl Traffic {
    fn note(&mut self, now: Instant) {
        let took = now - self.begun;
        if took >= WINDOW {
            // A window that nothing has ended for so long was followed by quiet.
            self.busy = self.pushes >= BUSY_PUSHES && took < 2 * WINDOW;
            (self.begun, self.pushes) = (now, 0);
        }
        self.pushes += 1;
    }
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Arc<Envelope>>,
    bytes: usize,
    under_way: bool,
    /// The publish is done, and more is waited for.
    rests: bool,
    traffic: Traffic,
    /// So much waits that it leaves now.
    filled: Arc<Notify>,
}

impl Queue {
    fn new(now: Instant) -> Self {
        let traffic = Traffic { begun: now, pushes: 0, busy: false };
        let (waiting, filled) = (VecDeque::new(), Arc::default());
        Self { waiting, bytes: 0, under_way: false, rests: false, traffic, filled }
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= BATCH_MAX || self.bytes >= BATCH_BYTES
    }
}

/// Bytes of what people wrote.
fn weight(envelope: &Envelope) -> usize {
    match envelope {
        Envelope::Entry { entry, .. } => {
            let data = entry.data.as_ref().map_or(0, |data| data.get().len());
            entry.message.as_ref().map_or(0, |text| text.len()) + data
        }
        Envelope::Signal { data, .. } => data.get().len(),
        _ => 0,
    }
}

/// The queues of one process part.
#[derive(Debug, Default)]
pub struct Publishers(Mutex<Queues>);

#[derive(Debug, Default)]
struct Queues {
    queues: HashMap<ProcessId, Queue>,
    /// When the quiet ones were last forgotten.
    swept: Option<Instant>,
}

impl Queues {
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now - swept >= FORGET_AFTER) {
            self.swept = Some(now);
            let recent = |queue: &Queue| now - queue.traffic.begun < FORGET_AFTER;
            self.queues.retain(|_, queue| queue.under_way || recent(queue));
        }
    }
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
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing waits, and nothing is under way.
    pub fn is_idle(&self) -> bool {
        let idle = |queue: &Queue| !queue.under_way || (queue.rests && queue.waiting.is_empty());
        self.lock().queues.values().all(idle)
    }

    /// Queues envelopes, all of them or none.
    pub fn push(&self, to: &ProcessId, envelopes: Vec<Arc<Envelope>>) -> Pushed {
        let (mut all, now) = (self.lock(), Instant::now());
        if !all.queues.contains_key(to) {
            all.sweep(now);
            all.queues.insert(to.clone(), Queue::new(now));
        }
        let Some(queue) = all.queues.get_mut(to) else { return Pushed::Full(envelopes) };
        if queue.waiting.len() + envelopes.len() > QUEUE_MAX {
            return Pushed::Full(envelopes);
        }
        queue.traffic.note(now);
        if !std::mem::replace(&mut queue.under_way, true) {
            return Pushed::Drain(envelopes);
        }
        let was_full = queue.is_full();
        queue.bytes += envelopes.iter().map(|envelope| weight(envelope)).sum::<usize>();
        queue.waiting.extend(envelopes);
        if queue.is_full() && !was_full {
            queue.filled.notify_one();
        }
        Pushed::Queued
    }

    fn next(&self, to: &ProcessId) -> Vec<Arc<Envelope>> {
        let mut all = self.lock();
        let Some(queue) = all.queues.get_mut(to) else { return Vec::new() };
        queue.rests = false;
        let count = queue.waiting.len().min(BATCH_MAX);
        let batch: Vec<_> = queue.waiting.drain(..count).collect();
        queue.bytes -= batch.iter().map(|envelope| weight(envelope)).sum::<usize>();
        queue.under_way = !batch.is_empty();
        batch
    }

    /// Lets more come for a busy destination.
    async fn pause(&self, pace: Duration, to: &ProcessId) {
        let busy = |queue: &&mut Queue| !pace.is_zero() && queue.traffic.busy && !queue.is_full();
        let rest = |queue: &mut Queue| {
            queue.rests = true;
            queue.filled.clone()
        };
        let Some(filled) = self.lock().queues.get_mut(to).filter(busy).map(rest) else { return };
        // Filled or not, it leaves then.
        let _ = timeout(pace, filled.notified()).await;
    }

    /// Publishes `first`, and then until the queue is empty, at the pace of the bus. Each batch
    /// that the bus did not take goes to `failed`.
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
            self.pause(bus.pace(), to).await;
            waiting = self.next(to);
        }
    }
}

#[cfg(test)]
mod tests;
