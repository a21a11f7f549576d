//! People and their sockets in little room: whoever has one costs 64 bytes, and some for finding
//! them.
//!
//! The people stand in slots, and a table of slots by the hash of their ids: it is between 7/16 and
//! 7/8 full, so that what stands in it should be small.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::protocol::{DeviceId, SocketId, UserId};
use crate::slab::Slab;

/// How many people room is made for at once.
const CHUNK: usize = 16;

/// A socket in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub socket: SocketId,
    pub claim: u64,
    pub device: DeviceId,
    /// Which life of a server, by its number.
    pub life: u32,
    /// When it ends, unless it is extended: in seconds since the map began.
    pub ends: u32,
}

/// A person's sockets.
#[derive(Debug)]
pub(super) enum Sockets {
    One(Kept),
    /// Newest first.
    More(Vec<Kept>),
}

impl Sockets {
    /// These, newest first, if there are any.
    pub fn of(mut kept: Vec<Kept>) -> Option<Self> {
        if kept.len() > 1 {
            kept.shrink_to_fit();
            return Some(Self::More(kept));
        }
        kept.pop().map(Self::One)
    }

    /// Newest first.
    pub fn all(&self) -> &[Kept] {
        match self {
            Self::One(kept) => std::slice::from_ref(kept),
            Self::More(kept) => kept,
        }
    }

    /// That claim of that socket.
    pub fn find(&mut self, socket: SocketId, claim: u64) -> Option<&mut Kept> {
        let kept = match self {
            Self::One(kept) => std::slice::from_mut(kept),
            Self::More(kept) => kept,
        };
        kept.iter_mut().find(|kept| (kept.socket, kept.claim) == (socket, claim))
    }

    /// Whether one of them has not ended.
    pub fn live(&self, now: u32) -> bool {
        self.all().iter().any(|kept| kept.ends > now)
    }
}

#[derive(Debug)]
struct Person {
    user: UserId,
    sockets: Sockets,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct People {
    people: Slab<Person, CHUNK>,
    index: HashTable<u32>,
    hashing: RandomState,
}

impl People {
    pub fn len(&self) -> usize {
        self.people.len()
    }

    fn find(&self, user: &UserId) -> Option<u32> {
        let is = |at: &u32| self.people.get(*at).is_some_and(|person| person.user == *user);
        self.index.find(self.hashing.hash_one(user), is).copied()
    }

    pub fn get_mut(&mut self, user: &UserId) -> Option<&mut Sockets> {
        let at = self.find(user)?;
        self.people.get_mut(at).map(|person| &mut person.sockets)
    }

    pub fn put(&mut self, user: &UserId, sockets: Sockets) {
        if let Some(known) = self.get_mut(user) {
            *known = sockets;
            return;
        }
        let Self { people, index, hashing } = self;
        let at = people.insert(Person { user: user.clone(), sockets });
        let hash = |at: &u32| people.get(*at).map_or(0, |person| hashing.hash_one(&person.user));
        index.insert_unique(hashing.hash_one(user), at, hash);
    }

    pub fn remove(&mut self, user: &UserId) {
        let Self { people, index, hashing } = self;
        let is = |at: &u32| people.get(*at).is_some_and(|person| person.user == *user);
        if let Ok(entry) = index.find_entry(hashing.hash_one(user), is) {
            let (at, _) = entry.remove();
            people.remove(at);
        }
    }

    /// Only those of whom a socket lives.
    pub fn retain_living(&mut self, now: u32) {
        let Self { people, index, .. } = self;
        index.retain(|at| {
            let lives = people.get(*at).is_some_and(|person| person.sockets.live(now));
            if !lives {
                people.remove(*at);
            }
            lives
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(socket: u128, ends: u32) -> Kept {
        Kept { socket: SocketId(socket), claim: 1, device: DeviceId::plain(), life: 0, ends }
    }

    #[test]
    fn a_person_with_one_socket_costs_64_bytes_and_a_place_in_the_index() {
        // A slot is no larger than a person (see `slab`).
        assert_eq!(size_of::<Option<Person>>(), 64);
        assert!(matches!(Sockets::of(vec![kept(1, 1)]), Some(Sockets::One(_))));
    }

    #[test]
    fn people_are_found_until_they_leave() {
        let user = |number: u32| UserId::parse(&format!("user-{number}")).unwrap();
        let mut people = People::default();
        for number in 0..1_000 {
            people.put(&user(number), Sockets::One(kept(number.into(), number)));
            people.put(&user(number), Sockets::One(kept(number.into(), number + 1)));
        }
        assert_eq!(people.len(), 1_000);
        for number in (0..1_000).step_by(7) {
            people.remove(&user(number));
            people.remove(&user(number));
        }
        people.retain_living(500);
        for number in 0..1_000 {
            let found = people.get_mut(&user(number));
            let found = found.map(|sockets| sockets.all().to_vec());
            let expected = number % 7 > 0 && number >= 500;
            let expected = expected.then(|| vec![kept(number.into(), number + 1)]);
            assert_eq!(found, expected);
        }
        assert_eq!(people.len(), people.index.len());
    }
}
