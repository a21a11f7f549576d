//! A rate for each of any number of keys, in a fixed amount of memory.
//!
//! The generic cell rate algorithm: of a key one number is known, the moment at which nothing is
//! owed any more. It stands in four slots of a table, which the key's hash names, and other keys
//! may share some of them: the earliest of the four counts, and none is set further than that one
//! comes to. So a slot may say too much, never too little.
//!
//! **Invariant.** A key never gets more than its burst and what has come back since, whoever
//! shares its slots. It gets less only where all four are used up by others, for as long as they
//! are at their limit: how often stands in `docs/adr/0005-rates-in-a-fixed-table.md`. Nothing is
//! kept for a key that rests, nothing has to be cleared away, and no number of keys makes it grow.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Rate;

/// Locks: a key has one.
const SHARDS: usize = 64;
/// Slots under a lock, for a rate by the second: who is over it is not for long.
const SLOTS: usize = 1 << 8;
/// For a rate by the hour: after a morning thousands are at their limit. 2 MiB, once all are used.
const SLOTS_BY_HOUR: usize = 1 << SLOT_BITS;
/// The most bits of a hash that name a slot: four times 12, and 6 for the lock.
const SLOT_BITS: u32 = 12;
/// Slots of a key.
const WAYS: usize = 4;
/// From this period on more keys are told apart.
const LONG: Duration = Duration::from_secs(60);

/// Who is measured: a hash, so that names need no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub(super) u64);

impl Key {
    fn shard(self) -> usize {
        self.0 as usize % SHARDS
    }

    /// Of so many, a power of two.
    fn slots(self, count: usize) -> [usize; WAYS] {
        [1, 2, 3, 4].map(|way| (self.0 >> (u64::BITS - way * SLOT_BITS)) as usize % count)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Meter {
    rate: u64,
    period: u64,
    /// How far ahead of now a key may be.
    burst: u64,
    /// Under each lock.
    slots: usize,
    start: Instant,
    /// By shard; empty until the first key comes.
    shards: Vec<Mutex<Vec<u64>>>,
}

impl Meter {
    /// One that lets `rate` go by in each period.
    pub fn new(rate: Rate, period: Duration) -> Self {
        let long = period >= LONG;
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let units = u64::from(rate.rate.max(1));
        let slots = if long { SLOTS_BY_HOUR } else { SLOTS };
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let start = Instant::now();
        let mut meter = Self { rate: units, period, burst: 0, slots, start, shards };
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
            slots.resize(self.slots, 0);
        }
        let owed = owed(key.slots(self.slots).map(|slot| slots[slot]), now);
        let wait = self.wait(owed, cost, now);
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        let until = owed.saturating_add(cost);
        for slot in key.slots(self.slots) {
            slots[slot] = slots[slot].max(until);
        }
        Ok(())
    }

    /// Takes `units` that a key has had already, whatever it has left: it waits for them later. No
    /// more than a burst is owed beyond one, so that nobody waits for ever.
    pub fn owe(&self, key: Key, units: u64, now: Instant) {
        let (now, cost) = (self.nanos(now), self.cost(units));
        let mut slots = self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            slots.resize(self.slots, 0);
        }
        let owed = owed(key.slots(self.slots).map(|slot| slots[slot]), now);
        let most = now.saturating_add(self.burst.saturating_mul(2));
        let until = owed.saturating_add(cost).min(most);
        for slot in key.slots(self.slots) {
            slots[slot] = slots[slot].max(until);
        }
    }

    /// Whether so many could be taken after `ahead` others.
    pub fn is_left(&self, key: Key, ahead: u64, units: u64, now: Instant) -> Result<(), Duration> {
        let slots = self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.nanos(now);
        let stands = key.slots(self.slots).map(|slot| slots.get(slot).copied().unwrap_or(0));
        let owed = owed(stands, now).saturating_add(self.cost(ahead));
        match self.wait(owed, self.cost(units), now) {
            0 => Ok(()),
            wait => Err(Duration::from_nanos(wait)),
        }
    }

    /// How long a key that has had its burst takes to have all of it again.
    pub fn refill(&self) -> Duration {
        Duration::from_nanos(self.burst)
    }

    /// How long `cost` more has to wait for.
    fn wait(&self, owed: u64, cost: u64, now: u64) -> u64 {
        owed.saturating_add(cost).saturating_sub(now.saturating_add(self.burst.max(cost)))
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Rounded up: by a rate of more than one in a nanosecond nothing is had for nothing.
    fn cost(&self, units: u64) -> u64 {
        let cost = (u128::from(units) * u128::from(self.period)).div_ceil(u128::from(self.rate));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }
}

/// When nothing is owed any more, by slots that stand so.
fn owed(stands: [u64; WAYS], now: u64) -> u64 {
    stands.into_iter().min().unwrap_or(0).max(now)
}

#[cfg(test)]
mod tests;
