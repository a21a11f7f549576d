//! The socket map of one process, in memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Directory, DirectoryError, ENTRY_TTL_SECONDS, SocketEntry};
use crate::protocol::{SocketId, UserId};

const SHARDS: usize = 64;

#[derive(Debug)]
struct Sockets {
    /// Newest first.
    entries: Vec<SocketEntry>,
    ends: Instant,
}

type Shard = HashMap<UserId, Sockets>;

/// See the module.
#[derive(Debug)]
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
        self.shards[hash % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends() -> Instant {
        Instant::now() + Duration::from_secs(ENTRY_TTL_SECONDS)
    }
}

#[async_trait]
impl Directory for EmbeddedDirectory {
    async fn claim(
        &self,
        user: &UserId,
        entry: &SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<(), DirectoryError> {
        let mut shard = self.shard(user);
        let fresh = || Sockets { entries: Vec::with_capacity(1), ends: Self::ends() };
        let sockets = shard.entry(user.clone()).or_insert_with(fresh);
        sockets.entries.retain(|other| {
            other.socket_id != entry.socket_id && !dead.contains(&(other.socket_id, other.claim))
        });
        sockets.entries.insert(0, entry.clone());
        sockets.ends = Self::ends();
        Ok(())
    }

    async fn release(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<(), DirectoryError> {
        let mut shard = self.shard(user);
        if let Some(sockets) = shard.get_mut(user) {
            sockets.entries.retain(|entry| (entry.socket_id, entry.claim) != (socket, claim));
            if sockets.entries.is_empty() {
                shard.remove(user);
            }
        }
        Ok(())
    }

    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError> {
        let now = Instant::now();
        let locate = |user: &UserId| match self.shard(user).get(user) {
            Some(sockets) if sockets.ends > now => sockets.entries.clone(),
            _ => Vec::new(),
        };
        Ok(users.iter().map(locate).collect())
    }

    async fn extend(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<bool, DirectoryError> {
        let now = Instant::now();
        let mut shard = self.shard(user);
        let Some(sockets) = shard.get_mut(user).filter(|sockets| sockets.ends > now) else {
            return Ok(false);
        };
        let stands = |entry: &SocketEntry| (entry.socket_id, entry.claim) == (socket, claim);
        let found = sockets.entries.iter().any(stands);
        if found {
            sockets.ends = Self::ends();
        }
        Ok(found)
    }

    async fn instance(&self) -> Result<String, DirectoryError> {
        Ok("embedded".to_owned())
    }
}
