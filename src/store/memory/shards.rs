//! A map behind many locks, so that calls on different things seldom meet.
//!
//! **Invariant.** A lock is held for one closure, which can't await; no closure takes another.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::chance::Hashing;

const SHARDS: usize = 128;

type Map<K, V> = HashMap<K, V, Hashing>;

/// A lock has a cache line of its own.
#[repr(align(64))]
struct Shard<K, V>(Mutex<Map<K, V>>);

/// See the module.
pub struct Shards<K, V> {
    hasher: Hashing,
    shards: Box<[Shard<K, V>]>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let shard = |_| Shard(Mutex::default());
        Self { hasher: Hashing::default(), shards: (0..SHARDS).map(shard).collect() }
    }
}

impl<K: Hash + Eq + Clone, V: Default> Shards<K, V> {
    fn shard(&self, key: &K) -> MutexGuard<'_, Map<K, V>> {
        let hash = self.hasher.hash_one(key) as usize;
        // What a closure has begun when it panics is at worst a prefix of what it was to put.
        self.shards[hash % SHARDS].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what stands there, if something does.
    pub fn look<T>(&self, key: &K, look: impl FnOnce(&V) -> T) -> Option<T> {
        self.shard(key).get(key).map(look)
    }

    /// Changes what stands there; an empty one where nothing does.
    pub fn change<T>(&self, key: &K, change: impl FnOnce(&mut V) -> T) -> T {
        let mut map = self.shard(key);
        if let Some(value) = map.get_mut(key) {
            return change(value);
        }
        change(map.entry(key.clone()).or_default())
    }
}
