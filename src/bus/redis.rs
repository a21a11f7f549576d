//! The bus in Redis: channel `messages:ws3`, JSON that a person can read with `SUBSCRIBE`.
//!
//! Several envelopes are a JSON array in one PUBLISH; a cluster uses sharded pub/sub, read at the
//! node that owns the channel. **Invariant:** a subscription has a connection of its own, and
//! between two connections of it the reader always hears a gap, after the second one listens.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::inbox::{Inbox, Pushed};
use super::{Bus, BusError, Subscription};
use crate::directory::link::{Link, Target};
use crate::protocol::{Envelope, ProcessId};
use crate::telemetry::{Call, Metrics};

/// The longest payload that is read; what is larger is no bus message of ours.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// A PUBLISH that has reached this size takes no further envelope.
const PUBLISH_BYTES: usize = 256 * 1024;
/// How often a silent subscription is asked whether it still stands.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// How long a dial, a SUBSCRIBE or a check may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The first pause after a lost connection, at most; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often a cluster may send a SSUBSCRIBE on to another node.
const REDIRECTS_MAX: usize = 5;

/// The bus of a fleet.
pub struct RedisBus {
    link: Link,
    prefix: String,
    metrics: Arc<Metrics>,
}

impl RedisBus {
    /// Connects. `prefix` stands before every channel.
    pub async fn connect(url: &str, prefix: &str, metrics: Arc<Metrics>) -> Result<Self, BusError> {
        let target = Target::parse(url).map_err(BusError)?;
        let link = Link::connect(target, metrics.clone()).await.map_err(BusError)?;
        Ok(Self { link, prefix: prefix.to_owned(), metrics })
    }

    fn channel(&self, process: &ProcessId) -> String {
        format!("{}messages:{process}", self.prefix)
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn publish(&self, to: &ProcessId, batch: &[Arc<Envelope>]) -> Result<(), BusError> {
        let payloads = encode(batch).map_err(|error| BusError(error.to_string()))?;
        let verb = if self.link.target().is_cluster() { "SPUBLISH" } else { "PUBLISH" };
        let channel = self.channel(to);
        let call = |mut connection| async move {
            match &payloads[..] {
                [] => Ok(()),
                [one] => {
                    let mut command = redis::cmd(verb);
                    command.arg(channel).arg(one).query_async(&mut connection).await
                }
                several => {
                    let mut pipe = redis::pipe();
                    for payload in several {
                        pipe.cmd(verb).arg(&channel).arg(payload).ignore();
                    }
                    pipe.query_async(&mut connection).await
                }
            }
        };
        self.link.run("publish", Link::deadline(), call).await.map_err(BusError)
    }

    async fn subscribe(&self, me: &ProcessId) -> Result<Subscription, BusError> {
        let (inbox, subscription) = Inbox::new();
        let ear = Arc::new(Ear { inbox, metrics: self.metrics.clone() });
        let channel = Channel { target: self.link.target().clone(), name: self.channel(me), ear };
        let first = channel.listen().await.map_err(|error| BusError(error.to_string()))?;
        // Ends with the subscription: it waits for nothing without waiting for that too.
        tokio::spawn(channel.keep(first));
        Ok(subscription)
    }
}

/// One envelope as an object, several as an array; a new payload where one grows large.
fn encode(batch: &[Arc<Envelope>]) -> serde_json::Result<Vec<Vec<u8>>> {
    if let [one] = batch {
        return Ok(vec![serde_json::to_vec(one)?]);
    }
    let mut payloads = Vec::new();
    let mut payload = Vec::new();
    for envelope in batch {
        payload.push(if payload.is_empty() { b'[' } else { b',' });
        serde_json::to_writer(&mut payload, envelope)?;
        if payload.len() >= PUBLISH_BYTES {
            payload.push(b']');
            payloads.push(std::mem::take(&mut payload));
        }
    }
    if !payload.is_empty() {
        payload.push(b']');
        payloads.push(payload);
    }
    Ok(payloads)
}

/// What was published, and how many envelopes in it can't be read.
fn decode(payload: &[u8]) -> (Vec<Arc<Envelope>>, usize) {
    if payload.first() != Some(&b'[') {
        return match serde_json::from_slice(payload) {
            Ok(one) => (vec![Arc::new(one)], 0),
            Err(_) => (Vec::new(), 1),
        };
    }
    if let Ok(batch) = serde_json::from_slice(payload) {
        return (batch, 0);
    }
    // One of a later version must not take the others with it.
    let parts: Vec<&serde_json::value::RawValue> =
        serde_json::from_slice(payload).unwrap_or_default();
    let read = |part: &&serde_json::value::RawValue| serde_json::from_str(part.get()).ok();
    let batch: Vec<_> = parts.iter().filter_map(read).map(Arc::new).collect();
    let bad = parts.len().max(1) - batch.len();
    (batch, bad)
}

/// Hears what a connection of the subscription receives; called by that connection's own task.
struct Ear {
    inbox: Inbox,
    metrics: Arc<Metrics>,
}

/// One connection of a subscription.
struct Line {
    connection: MultiplexedConnection,
    /// The connection is gone, or the channel has moved to another node.
    lost: Arc<Notify>,
}

impl Ear {
    fn count(&self, outcome: &'static str, times: usize) {
        let call = Call { operation: "hear", outcome };
        self.metrics.redis_calls.get_or_create(&call).inc_by(times as u64);
    }

    fn push(&self, push: &PushInfo, lost: &Notify) {
        match (&push.kind, &push.data[..]) {
            (PushKind::Message | PushKind::SMessage, [_, Value::BulkString(payload)]) => {
                self.hear(payload);
            }
            (PushKind::Disconnection | PushKind::SUnsubscribe, _) => lost.notify_one(),
            _ => {}
        }
    }

    fn hear(&self, payload: &[u8]) {
        if payload.len() > PAYLOAD_BYTES_MAX {
            tracing::warn!(bytes = payload.len(), "a bus message is too large, dropped");
            return self.count("oversized", 1);
        }
        let (batch, bad) = decode(payload);
        if bad > 0 {
            tracing::warn!(bad, "a bus message can't be read, dropped");
            self.count("malformed", bad);
        }
        if batch.is_empty() {
            return;
        }
        match self.inbox.push(batch) {
            Pushed::Queued => self.count("ok", 1),
            Pushed::Dropped => self.count("overflow", 1),
        }
    }
}

/// A process's own channel.
struct Channel {
    target: Target,
    name: String,
    ear: Arc<Ear>,
}

impl Channel {
    /// Keeps the subscription standing until its reader has gone.
    async fn keep(self, first: Line) {
        let mut line = first;
        loop {
            self.watch(&mut line).await;
            drop(line);
            match self.listen_again().await {
                Some(next) => line = next,
                None => return,
            }
            // Only now: whoever reads again after this hears all that is stored later.
            self.ear.inbox.gap();
        }
    }

    /// Returns when the connection does not serve the subscription any more, or the reader has
    /// gone. A connection that died without a word shows by not answering.
    async fn watch(&self, line: &mut Line) {
        loop {
            tokio::select! {
                () = self.ear.inbox.closed() => return,
                () = line.lost.notified() => return,
                () = sleep(CHECK_INTERVAL) => {}
            }
            // Subscribing once more changes nothing, and says `MOVED` where the channel has gone.
            let check = timeout(ANSWER_TIMEOUT, self.subscribe_at(&mut line.connection)).await;
            if !matches!(check, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Dials until it succeeds; `None` once the reader has gone.
    async fn listen_again(&self) -> Option<Line> {
        let (mut pause, mut told) = (PAUSE_FIRST, false);
        loop {
            let jittered = rand::rng().random_range(Duration::ZERO..pause);
            tokio::select! {
                () = self.ear.inbox.closed() => return None,
                () = sleep(jittered) => {}
            }
            if self.ear.inbox.is_closed() {
                return None;
            }
            match self.listen().await {
                Ok(line) => return Some(line),
                Err(error) => {
                    // Said once for each loss; the keeper says when Redis answers again.
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(channel = self.name, %error, "the bus can't be heard");
                    }
                    self.ear.count("error", 1);
                }
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A connection of its own that listens, at the node that owns the channel.
    async fn listen(&self) -> RedisResult<Line> {
        let mut failure = None;
        for seed in self.target.nodes() {
            let mut node = seed.clone();
            for _ in 0..REDIRECTS_MAX {
                let attempt = self.listen_at(node.clone());
                let error = match timeout(ANSWER_TIMEOUT, attempt).await {
                    Ok(Ok(line)) => return Ok(line),
                    Ok(Err(error)) => error,
                    Err(_) => std::io::Error::from(std::io::ErrorKind::TimedOut).into(),
                };
                let owner = error.redirect_node().and_then(|(node, _)| self.target.at(node));
                failure = Some(error);
                match owner {
                    Some(owner) => node = owner,
                    None => break,
                }
            }
        }
        Err(failure.unwrap_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound).into()))
    }

    async fn listen_at(&self, node: redis::ConnectionInfo) -> RedisResult<Line> {
        let lost = Arc::new(Notify::new());
        let pushes = {
            let (ear, lost) = (self.ear.clone(), lost.clone());
            move |push: PushInfo| {
                ear.push(&push, &lost);
                Ok::<_, ()>(())
            }
        };
        let mut connection = self.target.dial(node, pushes).await?;
        self.subscribe_at(&mut connection).await?;
        Ok(Line { connection, lost })
    }

    async fn subscribe_at(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        if self.target.is_cluster() {
            redis::cmd("SSUBSCRIBE").arg(&self.name).query_async::<Value>(connection).await?;
            return Ok(());
        }
        connection.subscribe(&self.name).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::Heard;
    use super::super::contract::{self, batch, entry, probe, process};
    use super::*;
    use crate::directory::testing::{Cluster, Server, prefix, quick, shared_url};
    use futures_util::StreamExt;
    use std::time::Instant;

    async fn connect(url: &str, prefix: &str) -> RedisBus {
        RedisBus::connect(url, prefix, Arc::new(Metrics::new("test"))).await.unwrap()
    }

    #[tokio::test]
    async fn passes_the_contract() {
        let Some(url) = shared_url() else { return };
        contract::all(&connect(&url, &prefix()).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn passes_the_contract_on_a_cluster_and_survives_a_move() {
        if quick() {
            return;
        }
        let mut cluster = Cluster::start();
        let bus = connect(&cluster.url(), "").await;
        contract::all(&bus).await;

        // The channel's slot moves to another master under the live subscription.
        let me = ProcessId::parse("ws3").unwrap();
        let mut subscription = bus.subscribe(&me).await.unwrap();
        let slot = cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", "messages:ws3"]);
        let slot = slot.trim();
        let mine = |node: &Server| node.cli(&["SPUBLISH", "messages:ws3", "[]"]).trim() == "1";
        let owner = cluster.nodes.iter().position(mine).unwrap();
        let next = cluster.nodes[(owner + 1) % 3].cli(&["CLUSTER", "MYID"]);
        for node in &cluster.nodes {
            let answer = node.cli(&["CLUSTER", "SETSLOT", slot, "NODE", next.trim()]);
            assert_eq!(answer.trim(), "OK");
        }
        hears_after_a_gap(&bus, &me, &mut subscription).await;
        assert!(mine(&cluster.nodes[(owner + 1) % 3]));
        cluster.nodes.clear();
    }

    /// A gap comes, and whatever is published from then on.
    async fn hears_after_a_gap(bus: &RedisBus, me: &ProcessId, heard: &mut Subscription) {
        let gap = async {
            loop {
                match heard.recv().await.unwrap() {
                    Heard::Gap => return,
                    Heard::Batch(_) => {}
                }
            }
        };
        timeout(Duration::from_secs(10), gap).await.expect("no gap was heard");
        let until = Instant::now() + Duration::from_secs(5);
        while bus.publish(me, &[probe(77)]).await.is_err() {
            assert!(Instant::now() < until, "publishing does not recover");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(matches!(*batch(heard).await[0], Envelope::Probe { number: 77 }));
    }

    #[tokio::test]
    async fn a_plain_client_sees_json() {
        if quick() {
            return;
        }
        let server = Server::start(&[]);
        let client = redis::Client::open(server.url()).unwrap();
        let mut plain = client.get_async_pubsub().await.unwrap();
        plain.subscribe("messages:ws3").await.unwrap();
        let bus = connect(&server.url(), "").await;
        let ws3 = ProcessId::parse("ws3").unwrap();
        bus.publish(&ws3, &[entry("Hi")]).await.unwrap();
        bus.publish(&ws3, &[entry("one"), entry("two")]).await.unwrap();
        let mut messages = plain.on_message();
        let first: String = messages.next().await.unwrap().get_payload().unwrap();
        let start = "{\"to\":\"userB\",\"message\":\"Hi\",\"from\":\"userA\",\"type\":\"entry\",";
        assert!(first.starts_with(start), "{first}");
        let second: String = messages.next().await.unwrap().get_payload().unwrap();
        let second: serde_json::Value = serde_json::from_str(&second).unwrap();
        assert_eq!(second[0]["message"], "one");
        assert_eq!(second[1]["message"], "two");
    }

    #[tokio::test]
    async fn foreign_payloads_are_dropped_and_counted() {
        if quick() {
            return;
        }
        let server = Server::start(&[]);
        let bus = connect(&server.url(), "").await;
        let me = ProcessId::parse("ws3").unwrap();
        let mut heard = bus.subscribe(&me).await.unwrap();
        let publish = async |payload: &str| {
            let call = |mut c| {
                let mut command = redis::cmd("PUBLISH");
                command.arg("messages:ws3").arg(payload);
                async move { command.query_async::<()>(&mut c).await }
            };
            bus.link.run("test", Link::deadline(), call).await.unwrap();
        };
        for payload in ["", "{", "[", "[]", "7", "null", "{\"type\":\"later\"}", "\u{7f}\u{0}"] {
            publish(payload).await;
        }
        publish(&format!("\"{}\"", "x".repeat(PAYLOAD_BYTES_MAX))).await;
        publish("[{\"type\":\"later\"},{\"type\":\"probe\",\"number\":5,\"v\":1}]").await;
        let known = batch(&mut heard).await;
        assert!(matches!(*known[0], Envelope::Probe { number: 5 }) && known.len() == 1);
        let counted = |outcome| bus.link.counted(&Call { operation: "hear", outcome });
        assert_eq!((counted("malformed"), counted("oversized")), (8, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_redis_that_died_is_heard_again_after_a_gap() {
        if quick() {
            return;
        }
        let mut server = Server::start(&[]);
        let bus = connect(&server.url(), "").await;
        let me = process();
        let mut heard = bus.subscribe(&me).await.unwrap();
        for round in 0..2 {
            bus.publish(&me, &[probe(round)]).await.unwrap();
            batch(&mut heard).await;
            server.kill();
            let begun = Instant::now();
            assert!(bus.publish(&me, &[probe(99)]).await.is_err());
            assert!(begun.elapsed() < Duration::from_millis(400));
            sleep(Duration::from_millis(300)).await;
            server.start_again();
            hears_after_a_gap(&bus, &me, &mut heard).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hung_redis_is_noticed_and_heard_again() {
        if quick() {
            return;
        }
        let server = Server::start(&[]);
        let bus = connect(&server.url(), "").await;
        let me = process();
        let mut heard = bus.subscribe(&me).await.unwrap();
        server.signal("STOP");
        let begun = Instant::now();
        assert!(bus.publish(&me, &[probe(1)]).await.is_err());
        assert!(begun.elapsed() < Duration::from_millis(400));
        sleep(CHECK_INTERVAL + ANSWER_TIMEOUT + Duration::from_millis(500)).await;
        server.signal("CONT");
        hears_after_a_gap(&bus, &me, &mut heard).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dropped_subscription_leaves_redis() {
        if quick() {
            return;
        }
        let server = Server::start(&[]);
        let bus = connect(&server.url(), "").await;
        let me = ProcessId::parse("ws3").unwrap();
        let heard = bus.subscribe(&me).await.unwrap();
        let subscribers = || server.cli(&["PUBSUB", "NUMSUB", "messages:ws3"]);
        assert!(subscribers().contains('1'));
        drop(heard);
        let until = Instant::now() + Duration::from_secs(5);
        while subscribers().contains('1') {
            assert!(Instant::now() < until, "still subscribed");
            sleep(Duration::from_millis(20)).await;
        }
    }
}
