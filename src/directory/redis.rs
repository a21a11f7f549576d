//! The socket map in Redis: `user:userB` is a JSON string that a person can read with `GET`.
//!
//! The newest socket stands at the top, further ones in `"others"`. Claim, release and extend are
//! one short script each. **Invariant:** calls for one socket reach Redis in the order in which
//! they were made, also where a script must be sent first or a cluster redirects.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::{Cmd, InfoDict, RedisResult, Script, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout_at;

use super::convoy::Convoy;
use super::link::{Connection, Link, Target};
use super::trouble::is_forbidden;
use super::{
    Directory, DirectoryError, ENTRY_TTL_SECONDS, SOCKETS_KEPT_MAX, SocketEntry, claim_text,
};
use crate::planted::{Bug, planted};
use crate::protocol::{DeviceId, Epoch, ProcessId, SocketId, UserId};
use crate::telemetry::Metrics;

/// So many sockets have calls under way at once, at least.
const TURNS: usize = 1_024;
/// Said for the instance where the rights don't allow `INFO`.
const UNKNOWN_INSTANCE: &str = "unknown";

/// The longest entry: twice what the longest names of all sockets that are kept take. Who else
/// writes to this Redis could write one that takes seconds to read.
const ENTRY_BYTES_MAX: usize = 512 * SOCKETS_KEPT_MAX;

/// The version that every entry carries, last; the scripts write it too.
const ENTRY_VERSION: u32 = 1;

/// An entry as it is written.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    entry: &'a SocketEntry,
    v: u32,
}

/// What stands under a key: the newest socket, and the others. Its fields are those of
/// [`SocketEntry`] once more, since for a flattened struct serde keeps every field before it knows
/// where each belongs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    socket_id: SocketId,
    server: ProcessId,
    epoch: Epoch,
    device: DeviceId,
    #[serde(with = "claim_text")]
    claim: u64,
    #[serde(default)]
    others: Vec<SocketEntry>,
}

/// All sockets of a key, the newest first, as many as are kept.
fn sockets(bytes: &[u8]) -> serde_json::Result<Vec<SocketEntry>> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(serde::de::Error::custom(format!("it has {} bytes", bytes.len())));
    }
    let Read { socket_id, server, epoch, device, claim, mut others } =
        serde_json::from_slice(bytes)?;
    others.truncate(SOCKETS_KEPT_MAX - 1);
    others.insert(0, SocketEntry { socket_id, server, epoch, device, claim });
    Ok(others)
}

/// The socket map of a fleet.
pub struct RedisDirectory {
    link: Arc<Link>,
    /// Lookups of the same moment; `None` on a cluster.
    lookups: Option<Arc<Convoy>>,
    prefix: String,
    claim: Script,
    release: Script,
    extend: Script,
    /// A call holds the turn of its socket; a turn is shared by the sockets of one hash.
    turns: Vec<Mutex<()>>,
}

impl RedisDirectory {
    /// Connects, and checks that Redis will not evict entries. `prefix` stands before every key.
    pub(crate) async fn connect(
        target: Target,
        prefix: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Self, DirectoryError> {
        let link = Arc::new(Link::connect(target, metrics).await.map_err(DirectoryError)?);
        let directory = Self {
            lookups: Convoy::on(&link, "locate"),
            link,
            prefix: prefix.to_owned(),
            claim: Script::new(include_str!("claim.lua")),
            release: Script::new(include_str!("release.lua")),
            extend: Script::new(include_str!("extend.lua")),
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
        };
        directory.check_policy().await?;
        directory.check_rights().await?;
        Ok(directory)
    }

    /// Whether the user may read entries: else every single call would fail, later.
    async fn check_rights(&self) -> Result<(), DirectoryError> {
        let key = format!("{}user:", self.prefix);
        let mut get = redis::cmd("GET");
        get.arg(&key);
        let call = |mut connection: Connection| async move {
            match get.query_async::<Value>(&mut connection).await {
                Err(error) if is_forbidden(&error) => Ok(Some(error.to_string())),
                // Whatever else is wrong may be over soon, and is no reason not to start.
                _ => Ok(None),
            }
        };
        let forbidden = self.link.run("rights", Link::deadline(), call).await;
        match forbidden.map_err(DirectoryError)? {
            None => Ok(()),
            Some(error) => Err(DirectoryError(format!(
                "Redis refuses to read the key {key:?} ({error}): see deploy/redis-acl.conf; with \
                 --redis-prefix both patterns need the prefix"
            ))),
        }
    }

    async fn check_policy(&self) -> Result<(), DirectoryError> {
        for memory in self.info("memory").await?.unwrap_or_default() {
            let policy: String = memory.get("maxmemory_policy").unwrap_or_default();
            if policy != "noeviction" {
                return Err(DirectoryError(format!(
                    "its maxmemory-policy is {policy:?} and would drop entries of connected \
                     people: set it to noeviction (CONFIG SET maxmemory-policy noeviction)"
                )));
            }
        }
        Ok(())
    }

    fn key(&self, user: &UserId) -> String {
        format!("{}user:{user}", self.prefix)
    }

    /// Runs a script for a socket, in that socket's turn.
    async fn in_turn(
        &self,
        operation: &'static str,
        socket: SocketId,
        invocation: redis::ScriptInvocation<'_>,
    ) -> Result<i64, DirectoryError> {
        let deadline = Link::deadline();
        let turn = self.turns[(socket.0 % TURNS as u128) as usize].lock();
        let busy = |_| DirectoryError("earlier calls for this socket are still under way".into());
        let _turn = timeout_at(deadline, turn).await.map_err(busy)?;
        let call = |mut c: Connection| async move { invocation.invoke_async(&mut c).await };
        self.link.run(operation, deadline, call).await.map_err(DirectoryError)
    }

    fn read(&self, user: &UserId, raw: &Value) -> Vec<SocketEntry> {
        let bytes: &[u8] = match raw {
            Value::Nil => return Vec::new(),
            Value::BulkString(bytes) => bytes,
            _ => b"",
        };
        match sockets(bytes) {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::warn!(%user, %error, "the socket map holds a damaged entry");
                self.link.count("locate", "malformed");
                Vec::new()
            }
        }
    }

    /// A section of `INFO`, of every master; `None` where the rights don't allow it.
    async fn info(&self, section: &'static str) -> Result<Option<Vec<InfoDict>>, DirectoryError> {
        let mut command = redis::cmd("INFO");
        command.arg(section);
        let ask = |connection| async move {
            match connection {
                Connection::Single(mut c) => {
                    command.query_async(&mut c).await.map(|info| Some(vec![info]))
                }
                Connection::Cluster(mut c) => {
                    let masters = MultipleNodeRoutingInfo::AllMasters;
                    let routing = RoutingInfo::MultiNode((masters, None::<ResponsePolicy>));
                    each_master(c.route_command(command, routing).await?).map(Some)
                }
            }
        };
        let call = |connection| async move {
            match ask(connection).await {
                Err(error) if is_forbidden(&error) => Ok(None),
                other => other,
            }
        };
        let answer = self.link.run("info", Link::deadline(), call).await.map_err(DirectoryError)?;
        if answer.is_none() {
            tracing::warn!(
                section,
                "Redis refuses INFO to this user: its policy and a failover \
                                     can't be seen (allow it with +info)"
            );
        }
        Ok(answer)
    }
}

/// `INFO` of several nodes is a map from node to text.
fn each_master(value: Value) -> RedisResult<Vec<InfoDict>> {
    let by_node: std::collections::BTreeMap<String, InfoDict> = redis::from_redis_value(value)?;
    Ok(by_node.into_values().collect())
}

/// Each key may live on another node of a cluster; those of one node share its pipeline.
async fn get_each(connection: Connection, gets: Vec<Cmd>) -> RedisResult<Vec<Value>> {
    let one = |get: Cmd| {
        let mut connection = connection.clone();
        async move { get.query_async(&mut connection).await }
    };
    try_join_all(gets.into_iter().map(one)).await
}

#[async_trait]
impl Directory for RedisDirectory {
    async fn claim(
        &self,
        user: &UserId,
        entry: &SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<usize, DirectoryError> {
        let written = Written { entry, v: ENTRY_VERSION };
        let text = serde_json::to_string(&written).map_err(|e| DirectoryError(e.to_string()))?;
        let mut invocation = self.claim.key(self.key(user));
        invocation.arg(text).arg(entry.socket_id.to_string());
        invocation.arg(ENTRY_TTL_SECONDS).arg(SOCKETS_KEPT_MAX);
        for (socket, claim) in dead {
            invocation.arg(socket.to_string()).arg(claim.to_string());
        }
        let count = self.in_turn("claim", entry.socket_id, invocation).await?;
        if count == 0 {
            tracing::warn!(%user, "the socket map held a damaged entry, now replaced");
            self.link.count("claim", "malformed");
        }
        Ok(usize::try_from(count).unwrap_or(1).max(1))
    }

    async fn release(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<(), DirectoryError> {
        if planted(Bug::ReleaseAny) {
            let delete = redis::cmd("DEL").arg(self.key(user)).clone();
            let call = |mut c: Connection| async move { delete.query_async(&mut c).await };
            let deleted = self.link.run("release", Link::deadline(), call).await;
            return deleted.map_err(DirectoryError);
        }
        let mut invocation = self.release.key(self.key(user));
        invocation.arg(socket.to_string()).arg(claim.to_string());
        self.in_turn("release", socket, invocation).await.map(drop)
    }

    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let gets = users.iter().map(|user| Cmd::get(self.key(user))).collect();
        let found = match &self.lookups {
            Some(lookups) => lookups.call(gets).await,
            None => self.link.run("locate", Link::deadline(), |c| get_each(c, gets)).await,
        };
        let found = found.map_err(DirectoryError)?;
        Ok(users.iter().zip(&found).map(|(user, raw)| self.read(user, raw)).collect())
    }

    async fn extend(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<bool, DirectoryError> {
        let mut invocation = self.extend.key(self.key(user));
        invocation.arg(socket.to_string()).arg(claim.to_string()).arg(ENTRY_TTL_SECONDS);
        Ok(self.in_turn("extend", socket, invocation).await? == 1)
    }

    async fn instance(&self) -> Result<String, DirectoryError> {
        let (server, replication) =
            tokio::try_join!(self.info("server"), self.info("replication"))?;
        let (Some(server), Some(replication)) = (server, replication) else {
            return Ok(UNKNOWN_INSTANCE.into());
        };
        let name = |(server, replication): (&InfoDict, &InfoDict)| {
            let run: String = server.get("run_id").unwrap_or_default();
            let data: String = replication.get("master_replid").unwrap_or_default();
            format!("{data}/{run}")
        };
        let mut names: Vec<_> = server.iter().zip(&replication).map(name).collect();
        names.sort();
        Ok(names.join(","))
    }
}

/// An entry that anybody may have written, for `fuzzing`: whether it is read.
///
/// # Panics
///
/// Where what is read is not the same once it is written again.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_again(bytes: &[u8]) -> bool {
    let Ok(read) = sockets(bytes) else { return false };
    assert!((1..=SOCKETS_KEPT_MAX).contains(&read.len()));
    let written = |entry| serde_json::to_value(Written { entry, v: ENTRY_VERSION });
    let mut all = read.iter().map(|entry| written(entry).unwrap_or_default());
    let mut text = all.next().unwrap_or_default();
    text["others"] = all.collect();
    let again = sockets(text.to_string().as_bytes());
    assert!(again.is_ok_and(|again| again == read), "{text}");
    true
}

#[cfg(test)]
mod tests;
