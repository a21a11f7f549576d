//! The socket map of one process, in memory.
//!
//! Compact, since every idle person has an entry: ids are shared with the socket's own, and a
//! person with one socket costs one small allocation. **Invariant:** an entry that nobody extended
//! is never seen after its time, and is gone from memory before the map doubles.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Directory, DirectoryError, ENTRY_TTL_SECONDS, SOCKETS_KEPT_MAX, SocketEntry};
use crate::planted::{Bug, planted};
use crate::protocol::{SocketId, UserId};

const SHARDS: usize = 64;
/// A shard below this size is not searched for ended entries.
const PURGE_AT_MIN: usize = 256;

/// A person's sockets, newest first.
struct Person {
    sockets: Vec<SocketEntry>,
    ends: Instant,
}

#[derive(Default)]
struct Shard {
    people: HashMap<UserId, Person>,
    purge_at: usize,
}

impl Shard {
    /// What stands there and has not ended.
    fn living(&mut self, user: &UserId, now: Instant) -> Option<&mut Person> {
        self.people.get_mut(user).filter(|person| person.ends > now)
    }

    /// Each search is paid for by as many claims as it looks at entries.
    fn purge(&mut self, now: Instant) {
        if self.people.len() >= self.purge_at.max(PURGE_AT_MIN) {
            self.people.retain(|_, person| person.ends > now);
            self.purge_at = self.people.len() * 2;
        }
    }
}

/// The socket map of one process.
pub struct EmbeddedDirectory {
    shards: Vec<Mutex<Shard>>,
}

impl Default for EmbeddedDirectory {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl EmbeddedDirectory {
    fn shard(&self, user: &UserId) -> MutexGuard<'_, Shard> {
        let hash = crc32fast::hash(user.as_str().as_bytes()) as usize;
        // A panic while the lock was held can't have left half an entry: each change is one call.
        self.shards[hash % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end_of(now: Instant) -> Instant {
    now + Duration::from_secs(ENTRY_TTL_SECONDS)
}

#[async_trait]
impl Directory for EmbeddedDirectory {
    async fn claim(
        &self,
        user: &UserId,
        entry: &SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<usize, DirectoryError> {
        let now = Instant::now();
        let mut shard = self.shard(user);
        shard.purge(now);
        let mut sockets = Vec::with_capacity(1);
        sockets.push(entry.clone());
        if let Some(person) = shard.living(user, now) {
            let stays = |old: &&SocketEntry| {
                old.socket_id != entry.socket_id && !dead.contains(&(old.socket_id, old.claim))
            };
            let kept = person.sockets.iter().filter(stays).take(SOCKETS_KEPT_MAX - 1);
            sockets.extend(kept.cloned());
        }
        let count = sockets.len();
        shard.people.insert(user.clone(), Person { sockets, ends: end_of(now) });
        Ok(count)
    }

    async fn release(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<(), DirectoryError> {
        let mut shard = self.shard(user);
        if let Some(person) = shard.people.get_mut(user) {
            let any = planted(Bug::ReleaseAny);
            person.sockets.retain(|old| !any && (old.socket_id, old.claim) != (socket, claim));
            if person.sockets.is_empty() {
                shard.people.remove(user);
            }
        }
        Ok(())
    }

    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError> {
        let now = Instant::now();
        let of = |user| {
            self.shard(user).living(user, now).map(|p| p.sockets.clone()).unwrap_or_default()
        };
        Ok(users.iter().map(of).collect())
    }

    async fn extend(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<bool, DirectoryError> {
        let now = Instant::now();
        let mut shard = self.shard(user);
        let Some(person) = shard.living(user, now) else { return Ok(false) };
        let stands = person.sockets.iter().any(|old| (old.socket_id, old.claim) == (socket, claim));
        if stands {
            person.ends = end_of(now);
        }
        Ok(stands)
    }

    async fn instance(&self) -> Result<String, DirectoryError> {
        Ok("embedded".into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{self, entry, user};
    use super::*;
    use crate::planted::plant;

    #[tokio::test]
    async fn passes_the_contract() {
        contract::all(&EmbeddedDirectory::default()).await;
    }

    /// On one thread, for which the bug is planted.
    #[tokio::test]
    async fn the_contract_finds_a_release_that_removes_any() {
        plant(Some(Bug::ReleaseAny));
        let found = tokio::spawn(async { contract::all(&EmbeddedDirectory::default()).await });
        assert!(found.await.is_err_and(|error| error.is_panic()));
        plant(None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_ends_unless_it_is_extended() {
        let map = EmbeddedDirectory::default();
        let (a, b) = (user(), user());
        map.claim(&a, &entry(1, 1), &[]).await.unwrap();
        map.claim(&b, &entry(2, 1), &[]).await.unwrap();
        tokio::time::advance(Duration::from_secs(ENTRY_TTL_SECONDS - 10)).await;
        assert!(map.extend(&a, SocketId(1), 1).await.unwrap());
        tokio::time::advance(Duration::from_secs(20)).await;
        let found = map.locate(&[a, b.clone()]).await.unwrap();
        assert_eq!((found[0].len(), found[1].len()), (1, 0));
        assert!(!map.extend(&b, SocketId(2), 1).await.unwrap(), "an ended entry is not revived");
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_leaves_the_memory() {
        let map = EmbeddedDirectory::default();
        for _ in 0..20_000 {
            map.claim(&user(), &entry(1, 1), &[]).await.unwrap();
        }
        tokio::time::advance(Duration::from_secs(ENTRY_TTL_SECONDS + 1)).await;
        for _ in 0..60_000 {
            map.claim(&user(), &entry(1, 1), &[]).await.unwrap();
        }
        let held: usize = map.shards.iter().map(|s| s.lock().unwrap().people.len()).sum();
        assert!(held < 70_000, "{held}");
    }
}
