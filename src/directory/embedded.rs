//! The socket map of one process, in memory.
//!
//! Compact, since every idle person has an entry: ids are shared with the socket's own, and a
//! person with one socket costs one slot. **Invariant:** an entry that nobody extended is never
//! seen after its time, and is gone from memory before the map doubles.

mod people;

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use tokio::time::Instant;

use self::people::{Kept, People, Sockets};
use super::{Directory, DirectoryError, ENTRY_TTL_SECONDS, SOCKETS_KEPT_MAX, SocketEntry};
use crate::planted::{Bug, planted};
use crate::protocol::{Epoch, ProcessId, SocketId, UserId};

const SHARDS: usize = 64;
/// A shard below this size is not searched for ended entries.
const PURGE_AT_MIN: usize = 256;

#[derive(Default)]
struct Shard {
    people: People,
    purge_at: usize,
}

impl Shard {
    /// What stands there and has not ended.
    fn living(&mut self, user: &UserId, now: u32) -> Option<&mut Sockets> {
        self.people.get_mut(user).filter(|sockets| sockets.live(now))
    }

    /// Each search is paid for by as many claims as it looks at entries.
    fn purge(&mut self, now: u32) {
        if self.people.len() >= self.purge_at.max(PURGE_AT_MIN) {
            self.people.retain_living(now);
            self.purge_at = self.people.len() * 2;
        }
    }
}

/// The socket map of one process.
pub struct EmbeddedDirectory {
    shards: Vec<Mutex<Shard>>,
    /// The servers of this process, each of their lives once: as few as their starts.
    lives: RwLock<Vec<(ProcessId, Epoch)>>,
    begun: Instant,
}

impl Default for EmbeddedDirectory {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, lives: RwLock::default(), begun: Instant::now() }
    }
}

impl EmbeddedDirectory {
    fn shard(&self, user: &UserId) -> MutexGuard<'_, Shard> {
        let hash = crc32fast::hash(user.as_str().as_bytes()) as usize;
        // A panic while the lock was held can't have left half an entry: each change is one call.
        self.shards[hash % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In seconds since the map began.
    fn now(&self) -> u32 {
        let seconds = Instant::now().saturating_duration_since(self.begun).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// The number of the life that an entry is of.
    fn life(&self, entry: &SocketEntry) -> u32 {
        let is =
            |(server, epoch): &(ProcessId, Epoch)| (server, *epoch) == (&entry.server, entry.epoch);
        let known = self.lives.read().unwrap_or_else(PoisonError::into_inner).iter().position(is);
        let at = known.unwrap_or_else(|| {
            let mut lives = self.lives.write().unwrap_or_else(PoisonError::into_inner);
            lives.iter().position(is).unwrap_or_else(|| {
                lives.push((entry.server.clone(), entry.epoch));
                lives.len() - 1
            })
        });
        at as u32
    }
}

fn end_of(now: u32) -> u32 {
    now.saturating_add(ENTRY_TTL_SECONDS as u32)
}

#[async_trait]
impl Directory for EmbeddedDirectory {
    async fn claim(
        &self,
        user: &UserId,
        entry: &SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<usize, DirectoryError> {
        let (now, life) = (self.now(), self.life(entry));
        let SocketEntry { socket_id: socket, device, claim, .. } = entry.clone();
        let new = Kept { socket, claim, device, life, ends: end_of(now) };
        let stays = |old: &&Kept| old.socket != socket && !dead.contains(&(old.socket, old.claim));
        let mut shard = self.shard(user);
        shard.purge(now);
        let old = shard.living(user, now);
        let old = old.iter().flat_map(|sockets| sockets.all()).filter(stays);
        let sockets: Vec<Kept> =
            std::iter::once(new).chain(old.take(SOCKETS_KEPT_MAX - 1).cloned()).collect();
        let count = sockets.len();
        if let Some(sockets) = Sockets::of(sockets) {
            shard.people.put(user, sockets);
        }
        Ok(count)
    }

    async fn release(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<(), DirectoryError> {
        let mut shard = self.shard(user);
        if let Some(sockets) = shard.people.get_mut(user) {
            let any = planted(Bug::ReleaseAny);
            let stays = |old: &&Kept| !any && (old.socket, old.claim) != (socket, claim);
            match Sockets::of(sockets.all().iter().filter(stays).cloned().collect()) {
                Some(left) => *sockets = left,
                None => shard.people.remove(user),
            }
        }
        Ok(())
    }

    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError> {
        let now = self.now();
        let lives = self.lives.read().unwrap_or_else(PoisonError::into_inner);
        let entry = |kept: &Kept| {
            let Kept { socket: socket_id, claim, device, life, .. } = kept.clone();
            let (server, epoch) = lives.get(life as usize)?.clone();
            Some(SocketEntry { socket_id, server, epoch, device, claim })
        };
        let of = |user| {
            let mut shard = self.shard(user);
            let sockets = shard.living(user, now).map_or(&[][..], |sockets| sockets.all());
            sockets.iter().filter_map(entry).collect()
        };
        Ok(users.iter().map(of).collect())
    }

    async fn extend(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<bool, DirectoryError> {
        let now = self.now();
        let mut shard = self.shard(user);
        let Some(sockets) = shard.living(user, now) else { return Ok(false) };
        let kept = sockets.find(socket, claim);
        Ok(kept.map(|kept| kept.ends = end_of(now)).is_some())
    }

    async fn instance(&self) -> Result<String, DirectoryError> {
        Ok("embedded".into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
