//! Who is on this server: people and the outboxes of their sockets.
//!
//! Knows nothing of sockets, Redis or stores: `chat` puts events into outboxes, `gateway` takes
//! them out. A socket leaves only by its own id, so the late goodbye of an old socket can't remove
//! a new one.

mod outbox;

pub use outbox::{Acting, Event, Outbox, Pass, Who};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chance::Hashing;
use crate::protocol::{SocketId, UserId};

const SHARDS: usize = 64;

type Shard = HashMap<UserId, Vec<Arc<Outbox>>, Hashing>;

/// The sockets of one server, by person.
#[derive(Debug)]
pub struct Hub {
    shards: Vec<Mutex<Shard>>,
    sockets_per_user: u16,
}

impl Hub {
    /// An empty one, where a person may have so many sockets.
    pub fn new(sockets_per_user: u16) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), sockets_per_user }
    }

    /// How many sockets a person may have: here, and on all servers together.
    pub fn sockets_per_user(&self) -> u16 {
        self.sockets_per_user
    }

    fn shard(&self, user: &UserId) -> std::sync::MutexGuard<'_, Shard> {
        let hash = crc32fast::hash(user.as_str().as_bytes()) as usize;
        // A panic while the lock was held can't have left half an entry: each change is one call.
        self.shards[hash % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a socket in; returns the person's oldest if there are now too many.
    pub fn enter(&self, outbox: Arc<Outbox>) -> Option<Arc<Outbox>> {
        let mut shard = self.shard(&outbox.who.user);
        let outboxes = shard.entry(outbox.who.user.clone()).or_default();
        outboxes.push(outbox);
        (outboxes.len() > usize::from(self.sockets_per_user)).then(|| outboxes.remove(0))
    }

    /// Takes a socket out; another one of the same person stays.
    pub fn leave(&self, user: &UserId, socket: SocketId) {
        let mut shard = self.shard(user);
        if let Some(outboxes) = shard.get_mut(user) {
            outboxes.retain(|outbox| outbox.who.socket != socket);
            if outboxes.is_empty() {
                shard.remove(user);
            }
        }
    }

    /// The outboxes of a person, oldest first.
    pub fn of(&self, user: &UserId) -> Vec<Arc<Outbox>> {
        self.shard(user).get(user).cloned().unwrap_or_default()
    }

    /// Every outbox, shard by shard; what enters meanwhile may be left out.
    pub fn all(&self) -> Vec<Arc<Outbox>> {
        let lock = |s: &Mutex<Shard>| -> Vec<Arc<Outbox>> {
            let shard = s.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().flatten().cloned().collect()
        };
        self.shards.iter().flat_map(lock).collect()
    }
}
