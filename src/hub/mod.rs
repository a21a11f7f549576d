//! Who is on this server: people and the outboxes of their sockets.
//!
//! Knows nothing of sockets, Redis or stores: `chat` puts events into outboxes, `gateway` takes
//! them out. A socket leaves only by its own id, so the late goodbye of an old socket can't remove
//! a new one.

mod bell;
mod outbox;

pub use bell::Bell;
pub use outbox::{Acting, Ended, Event, Outbox, Pass, Who};

use std::hash::BuildHasher;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;

use crate::chance::{self, Hashing};
use crate::protocol::{SocketId, Timestamp, UserId};

const SHARDS: usize = 64;

/// A person's sockets, oldest first. Nearly everybody has one.
#[derive(Debug)]
enum Person {
    One(Arc<Outbox>),
    More(Box<[Arc<Outbox>]>),
}

impl Person {
    fn outboxes(&self) -> &[Arc<Outbox>] {
        match self {
            Self::One(outbox) => std::slice::from_ref(outbox),
            Self::More(outboxes) => outboxes,
        }
    }

    /// Nobody is in the hub without a socket.
    fn is(&self, user: &UserId) -> bool {
        self.outboxes().first().is_some_and(|outbox| outbox.who.user == *user)
    }

    /// Adds one. Where that is one too many the oldest is given back, or this one unless it
    /// `pushes`.
    fn enter(&mut self, outbox: Arc<Outbox>, most: u16, pushes: bool) -> Option<Arc<Outbox>> {
        if !pushes && self.outboxes().len() >= usize::from(most) {
            return Some(outbox);
        }
        let mut outboxes = self.outboxes().to_vec();
        // Two that open at the same time may come in the other order.
        let at = outboxes.partition_point(|other| other.who.socket < outbox.who.socket);
        outboxes.insert(at, outbox);
        let oldest = (outboxes.len() > usize::from(most)).then(|| outboxes.remove(0));
        *self = Self::More(outboxes.into());
        oldest
    }

    /// `true`: that was the last one.
    fn leave(&mut self, socket: SocketId) -> bool {
        let others = self.outboxes().iter().filter(|outbox| outbox.who.socket != socket);
        let others: Vec<_> = others.cloned().collect();
        match &others[..] {
            [] => return true,
            [last] => *self = Self::One(last.clone()),
            _ => *self = Self::More(others.into()),
        }
        false
    }
}

/// A person's outboxes; no memory of its own for up to two.
pub type Outboxes = SmallVec<[Arc<Outbox>; 2]>;

/// The sockets of one server, by person.
#[derive(Debug)]
pub struct Hub {
    hashing: Hashing,
    shards: Vec<Mutex<HashTable<Person>>>,
    sockets_per_user: u16,
    /// What the newest socket has of its name.
    opened: AtomicU64,
}

impl Hub {
    /// An empty one, where a person may have so many sockets.
    pub fn new(sockets_per_user: u16) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { hashing: Hashing::default(), shards, sockets_per_user, opened: AtomicU64::new(0) }
    }

    /// How many sockets a person may have: here, and on all servers together.
    pub fn sockets_per_user(&self) -> u16 {
        self.sockets_per_user
    }

    /// The name of a socket that opens now, after all that opened here before.
    pub fn next_socket(&self, now: Timestamp) -> SocketId {
        SocketId::next(&self.opened, now, chance::bits() as u64)
    }

    fn shard(&self, user: &UserId) -> (u64, MutexGuard<'_, HashTable<Person>>) {
        let hash = self.hashing.hash_one(user);
        // The table takes the low bits and the highest seven.
        let shard = &self.shards[(hash >> 40) as usize % SHARDS];
        // A panic while the lock was held can't have left half an entry: each change is one call.
        (hash, shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a socket in; returns the person's oldest if there are now too many.
    pub fn enter(&self, outbox: Arc<Outbox>) -> Option<Arc<Outbox>> {
        self.put(outbox, true)
    }

    /// Puts a socket in where that is not one too many; whether it did.
    pub fn enter_beside(&self, outbox: Arc<Outbox>) -> bool {
        self.put(outbox, false).is_none()
    }

    fn put(&self, outbox: Arc<Outbox>, pushes: bool) -> Option<Arc<Outbox>> {
        let user = outbox.who.user.clone();
        let (hash, mut shard) = self.shard(&user);
        let hash_of = |person: &Person| {
            person.outboxes().first().map_or(0, |outbox| self.hashing.hash_one(&outbox.who.user))
        };
        match shard.entry(hash, |person| person.is(&user), hash_of) {
            Entry::Occupied(mut person) => {
                person.get_mut().enter(outbox, self.sockets_per_user, pushes)
            }
            Entry::Vacant(place) => {
                place.insert(Person::One(outbox));
                None
            }
        }
    }

    /// Takes a socket out; another one of the same person stays.
    pub fn leave(&self, user: &UserId, socket: SocketId) {
        let (hash, mut shard) = self.shard(user);
        if let Ok(mut person) = shard.find_entry(hash, |person| person.is(user))
            && person.get_mut().leave(socket)
        {
            person.remove();
        }
    }

    /// The outboxes of a person, oldest first.
    pub fn of(&self, user: &UserId) -> Outboxes {
        let (hash, shard) = self.shard(user);
        let person = shard.find(hash, |person| person.is(user));
        person.map_or_else(Outboxes::new, |person| person.outboxes().iter().cloned().collect())
    }

    /// Every outbox, shard by shard; what enters meanwhile may be left out.
    pub fn all(&self) -> Vec<Arc<Outbox>> {
        let lock = |s: &Mutex<HashTable<Person>>| -> Vec<Arc<Outbox>> {
            let shard = s.lock().unwrap_or_else(PoisonError::into_inner);
            shard.iter().flat_map(Person::outboxes).cloned().collect()
        };
        self.shards.iter().flat_map(lock).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DeviceId, SOCKETS_PER_USER};

    fn outbox(user: &str, socket: u128) -> Arc<Outbox> {
        let user = UserId::parse(user).unwrap();
        Arc::new(Outbox::new(Who { user, device: DeviceId::plain(), socket: SocketId(socket) }))
    }

    #[test]
    fn each_person_has_their_own_sockets_oldest_first() {
        let hub = Hub::new(SOCKETS_PER_USER);
        for socket in 0..1_000 {
            assert!(hub.enter(outbox(&format!("u{}", socket % 250), socket)).is_none());
        }
        assert_eq!(hub.all().len(), 1_000);
        let user = UserId::parse("u7").unwrap();
        let sockets = || hub.of(&user).iter().map(|o| o.who.socket.0).collect::<Vec<_>>();
        assert_eq!(sockets(), [7, 257, 507, 757]);
        hub.leave(&user, SocketId(257));
        hub.leave(&user, SocketId(8));
        assert_eq!(sockets(), [7, 507, 757], "another person's stays, whoever says otherwise");
        for socket in [7, 757, 507] {
            hub.leave(&user, SocketId(socket));
        }
        assert_eq!((sockets().len(), hub.all().len()), (0, 996));
    }

    #[test]
    fn the_oldest_beyond_the_bound_is_given_back() {
        let hub = Hub::new(SOCKETS_PER_USER);
        let most = u128::from(SOCKETS_PER_USER);
        assert!((0..most).all(|socket| hub.enter_beside(outbox("u", socket))));
        assert!(!hub.enter_beside(outbox("u", most)), "nobody makes room for it");
        assert_eq!(hub.enter(outbox("u", most)).unwrap().who.socket, SocketId(0));
        assert_eq!(hub.all().len(), usize::from(SOCKETS_PER_USER));
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Person>(), 16);
    }
}
