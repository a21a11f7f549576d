//! Connections to Redis, for the map here and for the bus beside it.
//!
//! One multiplexed connection per adapter, pipelined by itself, that reconnects by itself.
//! **Invariant:** a call through [`Link::run`] ends within the port's deadline, whatever state the
//! connection is in, and a connection that stays silent, or leads to what is no primary any more,
//! is replaced rather than waited for. While Redis is silent most calls fail at once (`breaker`).

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{
    ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection,
};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisError, RedisFuture, RedisResult, TlsCertificates, Value,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::CALL_MS_MAX;
use super::breaker::Breaker;
use super::trouble::{Trouble, said};
use crate::telemetry::{Call, Metrics};

/// How long the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which calls only time out for so long is replaced.
const SILENT_MAX: Duration = Duration::from_secs(2);
/// The pause between two dials, at most: Redis may be back at any moment.
const REDIAL_MAX: Duration = Duration::from_millis(500);
/// How long the same trouble is not told again.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Where Redis is, as the URL says.
#[derive(Clone)]
pub(crate) struct Target {
    nodes: Vec<ConnectionInfo>,
    cluster: bool,
    /// Whom to trust of TLS, in PEM; the usual authorities where nothing is said.
    trusted: Option<TlsCertificates>,
}

impl Target {
    /// Reads `redis://`, `rediss://`, and `redis+cluster://HOST:PORT[,HOST:PORT]` (with
    /// `rediss+cluster://` for TLS). The error never shows the password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let form = "a Redis URL is redis://, rediss:// or redis+cluster://HOST:PORT[,HOST:PORT]";
        let (scheme, rest) = url.split_once("://").ok_or(form)?;
        let (plain, cluster) = match scheme.strip_suffix("+cluster") {
            Some(plain) => (plain, true),
            None => (scheme, false),
        };
        if !matches!(plain, "redis" | "rediss") || rest.is_empty() {
            return Err(form.into());
        }
        let texts = if cluster { each_node(plain, rest) } else { vec![url.to_owned()] };
        let read = |text: String| {
            let info = text.into_connection_info().map_err(|error| error.to_string())?;
            // RESP3 carries published messages and answers on one connection, and lets the
            // manager see a lost connection at once.
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            // One right less that the user needs (`deploy/redis-acl.conf`).
            let settings = settings.set_skip_set_lib_name();
            Ok::<_, String>(info.set_redis_settings(settings))
        };
        let nodes = texts.into_iter().map(read).collect::<Result<Vec<_>, _>>();
        let target = nodes.map(|nodes| Self { nodes, cluster, trusted: None });
        target.map_err(|error| format!("{form}: {error}"))
    }

    /// Whether it is on this machine, where whoever reaches it could as well be us.
    pub(crate) fn is_local(&self) -> bool {
        let is_local = |host: &String| match host.parse::<std::net::IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => host == "localhost",
        };
        self.nodes.iter().all(|node| match node.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => is_local(host),
            _ => true,
        })
    }

    /// Whether others on the network can read what it is told, and its password.
    pub(crate) fn is_readable(&self) -> bool {
        let is_plain = |node: &ConnectionInfo| matches!(node.addr(), ConnectionAddr::Tcp(..));
        !self.is_local() && self.nodes.iter().any(is_plain)
    }

    /// The same with a password that does not stand in the URL.
    pub(crate) fn with_password(mut self, password: &str) -> Self {
        for node in &mut self.nodes {
            let settings = node.redis_settings().clone().set_password(password);
            *node = node.clone().set_redis_settings(settings);
        }
        self
    }

    /// The same, trusting only the authorities of this PEM.
    pub(crate) fn trusting(mut self, authorities: Vec<u8>) -> Result<Self, String> {
        let trusted = TlsCertificates { client_tls: None, root_cert: Some(authorities) };
        for node in &mut self.nodes {
            let client = Client::build_with_tls(node.clone(), trusted.clone());
            let client = client.map_err(|error| error.to_string())?;
            *node = client.get_connection_info().clone();
        }
        self.trusted = Some(trusted);
        Ok(self)
    }

    /// Whether a password stands in it.
    pub(crate) fn has_password(&self) -> bool {
        self.nodes.iter().any(|node| node.redis_settings().password().is_some())
    }

    /// Whether this is a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// The nodes to begin with.
    pub(crate) fn nodes(&self) -> &[ConnectionInfo] {
        &self.nodes
    }

    /// The same rights and encryption at another node, `HOST:PORT`, as a `MOVED` names it.
    pub(crate) fn at(&self, node: &str) -> Option<ConnectionInfo> {
        let first = self.nodes.first()?;
        let (host, port) = node.rsplit_once(':')?;
        let (host, port) = (host.to_owned(), port.parse().ok()?);
        let addr = match first.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Some(first.clone().set_addr(addr))
    }

    /// A connection of its own, for a subscription.
    pub(crate) async fn dial(
        &self,
        node: ConnectionInfo,
        pushes: impl redis::aio::AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DIAL_TIMEOUT))
            .set_response_timeout(Some(DIAL_TIMEOUT))
            .set_push_sender(pushes);
        Client::open(node)?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Why no connection can be made, as a first node says.
    async fn trouble(&self) -> Option<RedisError> {
        let node = self.nodes.first()?.clone();
        self.dial(node, |_| Ok::<_, ()>(())).await.err()
    }

    fn open(&self) -> RedisResult<Connection> {
        if self.cluster {
            let mut builder = ClusterClientBuilder::new(self.nodes.clone());
            if let Some(trusted) = &self.trusted {
                builder = builder.certs(trusted.clone());
            }
            let client: ClusterClient = builder
                .use_protocol(ProtocolVersion::RESP3)
                .connection_timeout(DIAL_TIMEOUT)
                .response_timeout(Duration::from_millis(CALL_MS_MAX))
                .min_retry_wait(5)
                .max_retry_wait(50)
                .build()?;
            let config = redis::cluster::ClusterConfig::new();
            let connection = client.get_pending_async_connection_with_config(config);
            return Ok(Connection::Cluster(connection));
        }
        let Some(node) = self.nodes.first() else {
            return Err(RedisError::from((redis::ErrorKind::InvalidClientConfig, "no address")));
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(DIAL_TIMEOUT))
            .set_response_timeout(None)
            .set_max_delay(REDIAL_MAX);
        let client = Client::open(node.clone())?;
        Ok(Connection::Single(ConnectionManager::new_lazy_with_config(client, config)?))
    }
}

fn each_node(scheme: &str, rest: &str) -> Vec<String> {
    let (rights, hosts) = match rest.rsplit_once('@') {
        Some((rights, hosts)) => (format!("{rights}@"), hosts),
        None => (String::new(), rest),
    };
    let hosts = hosts.trim_end_matches('/').split(',');
    hosts.map(|host| format!("{scheme}://{rights}{host}")).collect()
}

/// One server, or the nodes of a cluster.
#[derive(Clone)]
pub(crate) enum Connection {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The connection that an adapter's calls share.
pub(crate) struct Link {
    target: Target,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    connection: Connection,
    /// Since when calls have only timed out.
    silent_since: Option<Instant>,
    breaker: Breaker,
    /// When the connection was made anew for a trouble that another one may not have.
    replaced: Option<Instant>,
    /// The last trouble that was said, until a call succeeds.
    told: Vec<(Trouble, Instant)>,
}

impl State {
    fn new(connection: Connection) -> Self {
        let breaker = Breaker::default();
        Self { connection, silent_since: None, breaker, replaced: None, told: Vec::new() }
    }
}

impl Link {
    /// Connects, and sees that somebody answers.
    pub(crate) async fn connect(target: Target, metrics: Arc<Metrics>) -> Result<Self, String> {
        let mut connection = target.open().map_err(|error| error.to_string())?;
        let ping = async { redis::cmd("PING").query_async::<()>(&mut connection).await };
        let error = match timeout(CONNECT_TIMEOUT, ping).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Some(error)),
            // It has dialled again and again, and does not say why.
            Err(_) => Some(target.trouble().await),
        };
        if let Some(error) = error {
            let place: Vec<_> = target.nodes.iter().map(|node| node.addr().to_string()).collect();
            let said = error.map_or_else(|| "does not answer".to_owned(), |error| said(&error));
            return Err(format!("Redis at {} {said}", place.join(",")));
        }
        let state = Mutex::new(State::new(connection));
        Ok(Self { target, metrics, state })
    }

    /// Where it leads.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Each change is a plain assignment, so a panic elsewhere can't have left half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a call that begins now must have ended.
    pub(crate) fn deadline() -> Instant {
        Instant::now() + Duration::from_millis(CALL_MS_MAX)
    }

    /// Makes one call within the deadline, and counts it.
    pub(crate) async fn run<T, F>(
        &self,
        operation: &'static str,
        deadline: Instant,
        call: impl FnOnce(Connection) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.run_judged(operation, deadline, call, |_| None).await
    }

    /// The same for a call in whose answer there may be a trouble.
    pub(crate) async fn run_judged<T, F>(
        &self,
        operation: &'static str,
        deadline: Instant,
        call: impl FnOnce(Connection) -> F,
        trouble_in: impl FnOnce(&T) -> Option<Trouble>,
    ) -> Result<T, String>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let Some(connection) = self.connection() else {
            self.count(operation, "not_asked");
            return Err("Redis does not answer, and was not asked again".to_owned());
        };
        let answer = timeout_at(deadline, call(connection)).await;
        let (result, trouble) = match answer {
            Ok(Ok(value)) => {
                let trouble = trouble_in(&value);
                (Ok(value), trouble)
            }
            Ok(Err(error)) => (Err(error.to_string()), Some(Trouble::of(&error))),
            Err(_) => (Err(format!("no answer within {CALL_MS_MAX} ms")), Some(Trouble::Timeout)),
        };
        self.count(operation, trouble.map_or("ok", Trouble::name));
        self.note(trouble);
        result
    }

    fn connection(&self) -> Option<Connection> {
        let mut state = self.state();
        state.breaker.lets_through(Instant::now()).then(|| state.connection.clone())
    }

    /// Counts something that happened to an operation.
    pub(crate) fn count(&self, operation: &'static str, outcome: &'static str) {
        self.metrics.redis_calls.get_or_create(&Call { operation, outcome }).inc();
    }

    #[cfg(test)]
    pub(crate) fn counted(&self, call: &Call) -> u64 {
        self.metrics.redis_calls.get_or_create(call).get()
    }

    /// Draws the consequences of how a call ended.
    fn note(&self, trouble: Option<Trouble>) {
        let (mut state, now) = (self.state(), Instant::now());
        match trouble {
            Some(Trouble::Timeout) => {
                state.breaker.timed_out();
                let since = *state.silent_since.get_or_insert(now);
                // One whose other end vanished without a word would be waited on for minutes.
                if now - since >= SILENT_MAX {
                    self.replace_connection(&mut state, now);
                }
            }
            // It says nothing of whether Redis would answer.
            Some(Trouble::Lost) => {}
            _ => {
                state.breaker.answered();
                state.silent_since = None;
            }
        }
        let Some(trouble) = trouble else { return };
        let lately = state.replaced.is_some_and(|then| now - then < REDIAL_MAX);
        if trouble.wants_another_connection() && !lately {
            self.replace_connection(&mut state, now);
        }
        // Of a cluster the other parts answer meanwhile.
        state.told.retain(|(_, then)| now - *then < TELL_AGAIN);
        if !state.told.iter().any(|(told, _)| *told == trouble)
            && let Some(advice) = trouble.advice(self.target.is_cluster())
        {
            state.told.push((trouble, now));
            let trouble = trouble.name();
            tracing::warn!(trouble, "Redis refuses calls, and {advice}");
        }
    }

    /// The breaker keeps what it knows: another connection is not yet an answer.
    fn replace_connection(&self, state: &mut State, now: Instant) {
        if let Ok(connection) = self.target.open() {
            state.connection = connection;
            state.silent_since = None;
            state.replaced = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_read_is_known_by_its_url() {
        let readable = |url| Target::parse(url).unwrap().is_readable();
        assert!(readable("redis://redis:6379") && readable("redis+cluster://127.0.0.1:1,b:2"));
        assert!(!readable("rediss://redis:6379") && !readable("redis://localhost:6379"));
    }

    #[test]
    fn urls_name_one_server_or_a_cluster() {
        let one = Target::parse("redis://:pw@127.0.0.1:7000/2").unwrap();
        assert!(!one.is_cluster());
        assert_eq!(one.nodes()[0].addr().to_string(), "127.0.0.1:7000");
        assert_eq!(one.nodes()[0].redis_settings().db(), 2);
        let many = Target::parse("redis+cluster://u:pw@a:1,b:2").unwrap();
        assert!(many.is_cluster());
        let addresses: Vec<_> = many.nodes().iter().map(|n| n.addr().to_string()).collect();
        assert_eq!(addresses, ["a:1", "b:2"]);
        assert_eq!(many.nodes()[1].redis_settings().password(), Some("pw"));
        let moved = many.at("c:3").unwrap();
        assert_eq!(moved.addr().to_string(), "c:3");
        assert_eq!(moved.redis_settings().username(), Some("u"));
        assert!(Target::parse("rediss://127.0.0.1:7000").is_ok());
        for bad in ["", "127.0.0.1:6379", "http://a", "redis+sentinel://a", "redis://"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
