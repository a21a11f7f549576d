//! A rate for each of any number of keys, in a fixed amount of memory.
//!
//! The generic cell rate algorithm: of a key one number is known, the moment at which nothing is
//! owed any more. It stands in four slots of a table, which the key's hash names, and other keys
//! may share some of them: the earliest of the four counts, and none is set further than that one
//! comes to. So a slot may say too much, never too little.
//!
//! **Invariant.** A key never gets more than its burst and what has come back since, whoever
//! shares its slots. It gets less only where all four are used up by others: with 100 keys at
//! their limit at the same time 3 in a million others, for as long as that goes on. Nothing is
//! kept for a key that rests, nothing has to be cleared away, and no number of keys makes it grow.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Rate;

/// Locks: a key has one.
const SHARDS: usize = 64;
/// Slots under a lock: a byte of a hash names one.
const SLOTS: usize = 256;
/// Slots of a key.
const WAYS: usize = 4;

/// Who is measured: a hash, so that names need no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub(super) u64);

impl Key {
    fn shard(self) -> usize {
        self.0 as usize % SHARDS
    }

    fn slots(self) -> [usize; WAYS] {
        let [_, a, b, c, d, ..] = self.0.to_le_bytes();
        [a, b, c, d].map(usize::from)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Meter {
    rate: u64,
    period: u64,
    /// How far ahead of now a key may be.
    burst: u64,
    start: Instant,
    /// By shard; empty until the first key comes.
    shards: Vec<Mutex<Vec<u64>>>,
}

impl Meter {
    /// One that lets `rate` go by in each period.
    pub fn new(rate: Rate, period: Duration) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let units = u64::from(rate.rate.max(1));
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let mut meter = Self { rate: units, period, burst: 0, start: Instant::now(), shards };
        meter.burst = meter.cost(u64::from(rate.burst));
        meter
    }

    /// Takes `units` for a key, or says how long it has to wait for them. Who asks for more than a
    /// burst gets it when nothing is owed.
    pub fn take(&self, key: Key, units: u64, now: Instant) -> Result<(), Duration> {
        let now = self.nanos(now);
        let cost = self.cost(units);
        // A slot is one number: whoever panicked has not left half of one.
        let shard = self.shards[key.shard()].lock();
        let mut slots = shard.unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            slots.resize(SLOTS, 0);
        }
        let (until, wait) = self.wait(key.slots().map(|slot| slots[slot]), cost, now);
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        for slot in key.slots() {
            slots[slot] = slots[slot].max(until);
        }
        Ok(())
    }

    /// Whether one more could be taken.
    pub fn is_left(&self, key: Key, now: Instant) -> Result<(), Duration> {
        let slots = self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.nanos(now);
        let stands = key.slots().map(|slot| slots.get(slot).copied().unwrap_or(0));
        match self.wait(stands, self.cost(1), now) {
            (_, 0) => Ok(()),
            (_, wait) => Err(Duration::from_nanos(wait)),
        }
    }

    /// What comes after `cost` more on slots that stand so, and how long that has to wait.
    fn wait(&self, stands: [u64; WAYS], cost: u64, now: u64) -> (u64, u64) {
        let owed = stands.into_iter().min().unwrap_or(0).max(now);
        let until = owed.saturating_add(cost);
        (until, until.saturating_sub(now.saturating_add(self.burst.max(cost))))
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    fn cost(&self, units: u64) -> u64 {
        // The product is below 2^64 for all that is taken in one go: 4 MiB by the hour.
        units.saturating_mul(self.period) / self.rate
    }
}

#[cfg(test)]
mod tests;
