//! Port: the socket map. Who is connected where, as a hint (P10).
//!
//! Adapters: `embedded` (one process), `redis` (`user:userB` is a JSON string). `contract` is the
//! suite that both pass.
//!
//! **Guarantees of every adapter.** Claim and release are atomic per person. Only the pairs
//! (socket, claim) that a call names are ever removed, but for the oldest beyond
//! [`SOCKETS_KEPT_MAX`]. Calls for one socket take effect in the order in which they were made. A
//! claim that returned before a `locate` began is seen by it, unless Redis lost it since; entries
//! end by themselves after [`ENTRY_TTL_SECONDS`] when nobody extends them. A call ends within
//! [`CALL_MS_MAX`], and never retries by itself.

pub mod contract;
pub(crate) mod convoy;
pub mod embedded;
pub(crate) mod link;
mod breaker;
pub(crate) mod trouble;
pub mod redis;
#[cfg(test)]
pub(crate) mod testing;

#[cfg(any(test, fuzzing))]
pub(crate) use self::redis::read_again;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::protocol::{DeviceId, Epoch, ProcessId, SOCKETS_PER_USER_MAX, SocketId, UserId};

/// The longest that a call takes, in milliseconds.
pub const CALL_MS_MAX: u64 = 250;
/// How long an entry lives when nobody extends it, in seconds.
pub const ENTRY_TTL_SECONDS: u64 = 3_600;
/// How many sockets of a person stand in the map: those that may be open, and as many that their
/// servers had no time to release.
pub const SOCKETS_KEPT_MAX: usize = 2 * SOCKETS_PER_USER_MAX as usize;

/// The map can't be reached, or answers what it should not. It is a hint: go the slow way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the socket map is not available: {0}")]
pub struct DirectoryError(pub String);

/// One socket of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketEntry {
    /// The socket.
    pub socket_id: SocketId,
    /// The server that holds it.
    pub server: ProcessId,
    /// The server's life: the entry counts only while this one beats.
    pub epoch: Epoch,
    /// The person's device.
    pub device: DeviceId,
    /// The claim's number, new for every claim; text, since Redis scripts lose large numbers.
    #[serde(with = "claim_text")]
    pub claim: u64,
}

mod claim_text {
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(claim: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(claim)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        crate::protocol::word::read_text(d, str::parse)
    }
}

/// The socket map. See the module for what every adapter guarantees.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Puts `entry` first among the person's sockets, in place of an older claim of the same
    /// socket, and drops the pairs in `dead` (sockets of servers that the caller judged dead).
    /// Gives how many sockets of the person stand there now.
    async fn claim(
        &self,
        user: &UserId,
        entry: &SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<usize, DirectoryError>;

    /// Removes exactly this claim of this socket; a newer claim stays.
    async fn release(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<(), DirectoryError>;

    /// The sockets of each person, newest first, in the order of `users`. One round trip.
    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError>;

    /// Whether this claim of this socket still stands; if so its life is extended.
    async fn extend(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<bool, DirectoryError>;

    /// Names the data that answers now: another name means that it was lost or failed over, and
    /// everything must be claimed again (Redis: the replication id and run id of `INFO`).
    async fn instance(&self) -> Result<String, DirectoryError>;
}
