//! The socket map in Redis: `user:userB` is a JSON string that a person can read with `GET`.
//!
//! The newest socket stands at the top, further ones in `"others"`. Claim, release and extend are
//! one short script each. **Invariant:** calls for one socket reach Redis in the order in which
//! they were made, also where a script must be sent first or a cluster redirects.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::{ErrorKind, InfoDict, RedisResult, Script, ServerErrorKind, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout_at;

use super::link::{Connection, Link, Target};
use super::{Directory, DirectoryError, ENTRY_TTL_SECONDS, SOCKETS_KEPT_MAX, SocketEntry};
use crate::protocol::{SocketId, UserId};
use crate::telemetry::Metrics;

/// So many sockets have calls under way at once, at least.
const TURNS: usize = 1_024;
/// Said for the instance where the rights don't allow `INFO`.
const UNKNOWN_INSTANCE: &str = "unknown";

/// The version that every entry carries, last; the scripts write it too.
const ENTRY_VERSION: u32 = 1;

/// An entry as it is written.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    entry: &'a SocketEntry,
    v: u32,
}

/// What stands under a key beside the newest socket.
#[derive(Deserialize)]
struct Others {
    #[serde(default)]
    others: Vec<SocketEntry>,
}

/// All sockets of a key, the newest first. Read twice, since a flattened struct is slower: for it
/// serde keeps every field before it knows where each belongs.
fn sockets(bytes: &[u8]) -> serde_json::Result<Vec<SocketEntry>> {
    let newest: SocketEntry = serde_json::from_slice(bytes)?;
    let Others { mut others } = serde_json::from_slice(bytes)?;
    others.insert(0, newest);
    Ok(others)
}

/// The socket map of a fleet.
pub struct RedisDirectory {
    link: Link,
    prefix: String,
    claim: Script,
    release: Script,
    extend: Script,
    /// A call holds the turn of its socket; a turn is shared by the sockets of one hash.
    turns: Vec<Mutex<()>>,
}

impl RedisDirectory {
    /// Connects, and checks that Redis will not evict entries. `prefix` stands before every key.
    pub async fn connect(
        url: &str,
        prefix: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Self, DirectoryError> {
        let target = Target::parse(url).map_err(DirectoryError)?;
        let link = Link::connect(target, metrics).await.map_err(DirectoryError)?;
        let directory = Self {
            link,
            prefix: prefix.to_owned(),
            claim: Script::new(include_str!("claim.lua")),
            release: Script::new(include_str!("release.lua")),
            extend: Script::new(include_str!("extend.lua")),
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
        };
        directory.check_policy().await?;
        Ok(directory)
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
        let refused =
            |e: &redis::RedisError| e.kind() == ErrorKind::Server(ServerErrorKind::NoPerm);
        let call = |connection| async move {
            match ask(connection).await {
                Err(error) if refused(&error) => Ok(None),
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

async fn get(connections: Connection, keys: Vec<String>) -> RedisResult<Vec<Value>> {
    match connections {
        Connection::Single(mut connection) => {
            let mut pipe = redis::pipe();
            for key in keys {
                pipe.get(key);
            }
            pipe.query_async(&mut connection).await
        }
        // Each key may live on another node; those of one node share its pipeline.
        Connection::Cluster(connection) => {
            let one = |key: String| {
                let mut connection = connection.clone();
                async move { redis::cmd("GET").arg(key).query_async(&mut connection).await }
            };
            try_join_all(keys.into_iter().map(one)).await
        }
    }
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
        let mut invocation = self.release.key(self.key(user));
        invocation.arg(socket.to_string()).arg(claim.to_string());
        self.in_turn("release", socket, invocation).await.map(drop)
    }

    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let keys = users.iter().map(|user| self.key(user)).collect();
        let found = self.link.run("locate", Link::deadline(), |c| get(c, keys)).await;
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::contract::{self, entry, user};
    use super::super::testing::{Cluster, Server, prefix, quick, shared_url};
    use super::*;
    use crate::telemetry::Call;

    async fn connect(url: &str, prefix: &str) -> RedisDirectory {
        let metrics = Arc::new(Metrics::new("test"));
        RedisDirectory::connect(url, prefix, metrics).await.unwrap()
    }

    #[tokio::test]
    async fn passes_the_contract() {
        let Some(url) = shared_url() else { return };
        contract::all(&connect(&url, &prefix()).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn passes_the_contract_on_a_cluster() {
        if quick() {
            return;
        }
        let cluster = Cluster::start();
        let map = connect(&cluster.url(), "").await;
        contract::all(&map).await;
        let names = map.instance().await.unwrap();
        assert_eq!(names.split(',').count(), 3, "{names}");
    }

    #[tokio::test]
    async fn an_entry_is_json_that_a_person_can_read() {
        if quick() {
            return;
        }
        let server = Server::start(&[]);
        let map = connect(&server.url(), "").await;
        let user = UserId::parse("userB").unwrap();
        map.claim(&user, &entry(1, 7), &[]).await.unwrap();
        let first = "{\"socketId\":\"00000000000000000000000000000001\",\"server\":\"ws3\",\
                     \"epoch\":\"feedbeef01234567\",\"device\":\"default\",\"claim\":\"7\",\"v\":1";
        assert_eq!(server.cli(&["GET", "user:userB"]).trim(), format!("{first}}}"));
        map.claim(&user, &entry(2, u64::MAX), &[]).await.unwrap();
        let second = first
            .replace("01\",\"server", "02\",\"server")
            .replace("\"claim\":\"7\"", "\"claim\":\"18446744073709551615\"");
        let both = format!("{second},\"others\":[{first}}}]}}");
        assert_eq!(server.cli(&["GET", "user:userB"]).trim(), both);
        map.claim(&user, &entry(3, 8), &[]).await.unwrap();
        map.release(&user, SocketId(3), 8).await.unwrap();
        assert_eq!(server.cli(&["GET", "user:userB"]).trim(), both, "release keeps the form too");
        map.release(&user, SocketId(2), u64::MAX).await.unwrap();
        assert_eq!(server.cli(&["GET", "user:userB"]).trim(), format!("{first}}}"));

        let ttl =
            |server: &Server| -> u64 { server.cli(&["TTL", "user:userB"]).trim().parse().unwrap() };
        assert!((3_590..=3_600).contains(&ttl(&server)));
        server.cli(&["EXPIRE", "user:userB", "100"]);
        map.release(&user, SocketId(99), 1).await.unwrap();
        assert!(ttl(&server) <= 100, "a release extends nothing");
        assert!(map.extend(&user, SocketId(1), 7).await.unwrap());
        assert!((3_590..=3_600).contains(&ttl(&server)));
        map.release(&user, SocketId(1), 7).await.unwrap();
        assert_eq!(server.cli(&["DBSIZE"]).trim(), "0", "nothing stays behind");
    }

    #[tokio::test]
    async fn a_damaged_entry_counts_as_none_and_is_replaced() {
        if quick() {
            return;
        }
        let server = Server::start(&[]);
        let map = connect(&server.url(), "").await;
        let user = UserId::parse("userB").unwrap();
        let damaged = ["", "{", "[]", "7", "{\"socketId\":7}", "{\"others\":[1]}"];
        for text in damaged {
            server.cli(&["SET", "user:userB", text]);
            assert_eq!(map.locate(std::slice::from_ref(&user)).await.unwrap(), [vec![]], "{text}");
            assert!(!map.extend(&user, SocketId(1), 1).await.unwrap());
            map.release(&user, SocketId(1), 1).await.unwrap();
            map.claim(&user, &entry(1, 1), &[]).await.unwrap();
            assert_eq!(map.locate(std::slice::from_ref(&user)).await.unwrap()[0].len(), 1);
        }
        server.cli(&["DEL", "user:userB"]);
        server.cli(&["HSET", "user:userB", "a", "b"]);
        assert!(map.locate(std::slice::from_ref(&user)).await.is_err(), "another type is no entry");
        map.claim(&user, &entry(1, 1), &[]).await.unwrap();
        assert_eq!(map.locate(&[user]).await.unwrap()[0].len(), 1);
        let call = Call { operation: "locate", outcome: "malformed" };
        let counted = map.link.counted(&call);
        assert_eq!(counted, damaged.len() as u64);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hung_redis_costs_the_deadline_and_no_more() {
        if quick() {
            return;
        }
        let server = Server::start(&[]);
        let map = connect(&server.url(), "").await;
        let user = user();
        map.claim(&user, &entry(1, 1), &[]).await.unwrap();
        server.signal("STOP");
        for round in 0..10 {
            let begun = Instant::now();
            let again = entry(1, 2);
            let (a, b, c) = tokio::join!(
                map.locate(std::slice::from_ref(&user)),
                map.claim(&user, &again, &[]),
                map.release(&user, SocketId(1), 2),
            );
            assert!(a.is_err() && b.is_err() && c.is_err());
            let took = begun.elapsed();
            assert!(took < Duration::from_millis(400), "round {round}: {took:?}");
        }
        server.signal("CONT");
        answers_again(&map).await;
    }

    async fn answers_again(map: &RedisDirectory) {
        let until = Instant::now() + Duration::from_secs(3);
        while map.instance().await.is_err() {
            assert!(Instant::now() < until, "no answer after Redis came back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_redis_that_died_is_used_again_under_another_name() {
        if quick() {
            return;
        }
        let mut server = Server::start(&[]);
        let map = connect(&server.url(), "").await;
        let before = map.instance().await.unwrap();
        server.kill();
        let begun = Instant::now();
        assert!(map.locate(&[user()]).await.is_err());
        assert!(begun.elapsed() < Duration::from_millis(400));
        server.start_again();
        answers_again(&map).await;
        assert_ne!(map.instance().await.unwrap(), before, "its data is another now");
        let user = user();
        // The scripts went with the old process.
        map.claim(&user, &entry(1, 1), &[]).await.unwrap();
        assert_eq!(map.locate(&[user]).await.unwrap()[0].len(), 1);
    }

    #[tokio::test]
    async fn what_can_not_work_is_said_at_the_start() {
        if quick() {
            return;
        }
        let refusal = async |url: &str| {
            let metrics = Arc::new(Metrics::new("test"));
            RedisDirectory::connect(url, "", metrics).await.err().unwrap().to_string()
        };
        let evicting = Server::start(&["--maxmemory-policy", "allkeys-lru"]);
        let error = refusal(&evicting.url()).await;
        assert!(error.contains("allkeys-lru") && error.contains("noeviction"), "{error}");
        let error = refusal("redis://127.0.0.1:1").await;
        assert!(error.contains("127.0.0.1:1"), "{error}");
        assert!(refusal("http://127.0.0.1").await.contains("redis://"));
    }

    #[tokio::test]
    async fn rights_without_info_are_enough() {
        if quick() {
            return;
        }
        let server = Server::start(&[]);
        let rule = "on >s3cret ~user:* &messages:* -@all +@connection +@string +@keyspace +@pubsub \
                    +@scripting -@dangerous";
        let mut command = vec!["ACL", "SETUSER", "parlor"];
        command.extend(rule.split_whitespace());
        assert_eq!(server.cli(&command).trim(), "OK");
        let url = server.url().replace("redis://", "redis://parlor:s3cret@");
        let map = connect(&url, "").await;
        contract::all(&map).await;
        assert_eq!(map.instance().await.unwrap(), UNKNOWN_INSTANCE);
    }
}
