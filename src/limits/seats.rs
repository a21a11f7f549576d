//! Places for sockets: so many on a server, and so many for an address.
//!
//! **Invariant.** A place that was taken is given back exactly once, by whoever took it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Address;
use crate::chance::Hashing;

/// The sockets that a server takes.
#[derive(Debug)]
pub struct Seats {
    max: u32,
    taken: AtomicU32,
}

impl Seats {
    /// So many; without a number as many as come.
    pub fn new(max: Option<u32>) -> Self {
        Self { max: max.unwrap_or(u32::MAX), taken: AtomicU32::new(0) }
    }

    /// How many there are; `u32::MAX`: without end.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// Takes one; `false` where none is left.
    pub fn take(&self) -> bool {
        let one_more = |taken| (taken < self.max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Gives one back.
    pub fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether all are taken.
    pub fn are_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.max
    }
}

const SHARDS: usize = 16;

type Shard = HashMap<[u8; 8], u32, Hashing>;

/// How many sockets each address has. One without a socket is not in here.
#[derive(Debug)]
pub(super) struct Crowd {
    max: u32,
    shards: Vec<Mutex<Shard>>,
}

impl Crowd {
    pub(super) fn new(max: u32) -> Self {
        Self { max, shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, address: Address) -> MutexGuard<'_, Shard> {
        let sum: usize = address.bytes().into_iter().map(usize::from).sum();
        // Each change is of one number.
        self.shards[sum % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more for this address; `false` where it has enough.
    pub(super) fn enter(&self, address: Address) -> bool {
        let mut shard = self.shard(address);
        let count = shard.entry(address.bytes()).or_insert(0);
        let enters = *count < self.max;
        *count += u32::from(enters);
        enters
    }

    pub(super) fn is_half_full(&self, address: Address) -> bool {
        let count = self.shard(address).get(&address.bytes()).copied();
        count.is_some_and(|count| count > self.max / 2)
    }

    pub(super) fn leave(&self, address: Address) {
        let mut shard = self.shard(address);
        if let Some(count) = shard.get_mut(&address.bytes()) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                shard.remove(&address.bytes());
            }
        }
        if shard.is_empty() {
            // A flood of addresses must not keep its memory.
            *shard = Shard::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_taken_and_given_back() {
        let seats = Seats::new(Some(2));
        assert_eq!([seats.take(), seats.take(), seats.take()], [true, true, false]);
        assert!(seats.are_taken());
        seats.give_back();
        assert!(!seats.are_taken() && seats.take() && !seats.take());
        let seats = Seats::new(None);
        assert!((0..100_000).all(|_| seats.take()) && !seats.are_taken());
    }

    #[test]
    fn an_address_has_so_many_and_leaves_nothing() {
        let crowd = Crowd::new(2);
        let address = |last: u8| Address::of([203, 0, 113, last].into()).unwrap();
        assert_eq!([0; 3].map(|_| crowd.enter(address(7))), [true, true, false]);
        assert!(crowd.enter(address(8)), "another one");
        crowd.leave(address(7));
        assert!(crowd.enter(address(7)) && !crowd.enter(address(7)));
        for last in [7, 7, 8] {
            crowd.leave(address(last));
        }
        assert!(crowd.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    /// What an open socket costs for its address, where each has one of its own.
    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<([u8; 8], u32)>(), 12);
        assert_eq!(size_of::<Option<Address>>(), 8);
    }
}
