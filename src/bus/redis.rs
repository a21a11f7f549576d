//! The bus in Redis: channel `messages:ws3`, JSON that a person can read with `SUBSCRIBE`.
//!
//! A cluster uses sharded pub/sub, read at the node that owns the channel. **Invariant:** a
//! subscription has a connection of its own, and between two connections of it the reader always
//! hears a gap, after the second one listens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::inbox::{Inbox, Pushed};
use super::payload::{decode, encode, sender};
use super::signing::{Guard, Keys, Refusal, Signer, claimed};
use super::{Bus, BusError, Subscription};
use crate::directory::convoy::Convoy;
use crate::directory::link::{Connection, Link, Target};
use crate::directory::trouble::is_forbidden;
use crate::protocol::{Envelope, ProcessId};
use crate::telemetry::{Call, Metrics};

/// The longest payload that is read; what is larger is no bus message of ours.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// How long texts for a busy server gather. Each hop of a message waits half of it on average, so
/// it must be short beside what people notice and what a store takes; at 20,000 messages a second
/// over three servers it already gathers three to seven of them. 3 ms gathered twice as many, and
/// doubled the median and the slowest hundredth of the time to arrive at 10,000 a second.
const PACE: Duration = Duration::from_millis(1);
/// How often a silent subscription is asked whether it still stands.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// How long a dial, a SUBSCRIBE or a check may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often at most it is said that publishes are dropped.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// The first pause after a lost connection, at most; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often a cluster may send a SSUBSCRIBE on to another node.
const REDIRECTS_MAX: usize = 5;

/// The bus of a fleet.
pub struct RedisBus {
    link: Arc<Link>,
    /// Publishes of the same moment; `None` on a cluster.
    publishes: Option<Arc<Convoy>>,
    prefix: String,
    metrics: Arc<Metrics>,
    keys: Option<Keys>,
    signer: Option<Signer>,
}

impl RedisBus {
    /// Connects. `prefix` stands before every channel.
    pub(crate) async fn connect(
        target: Target,
        prefix: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BusError> {
        let link = Arc::new(Link::connect(target, metrics.clone()).await.map_err(BusError)?);
        let (publishes, prefix) = (Convoy::on(&link, "publish"), prefix.to_owned());
        Ok(Self { link, publishes, prefix, metrics, keys: None, signer: None })
    }

    /// Signs what is published, and hears only what is signed. Without keys nothing changes.
    pub fn signed(self, keys: Option<Keys>) -> Self {
        let signer = keys.clone().map(Signer::new);
        Self { keys, signer, ..self }
    }

    fn channel(&self, process: &ProcessId) -> String {
        format!("{}messages:{process}", self.prefix)
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn publish(&self, to: &ProcessId, batch: &[Arc<Envelope>]) -> Result<(), BusError> {
        let channel = self.channel(to);
        let payloads = encode(batch, &channel, self.signer.as_ref());
        if payloads.is_empty() {
            return Ok(());
        }
        let verb = if self.publishes.is_some() { "PUBLISH" } else { "SPUBLISH" };
        let command = |payload: Vec<u8>| {
            let mut command = Cmd::with_capacity(3, payload.len() + channel.len() + verb.len());
            command.arg(verb).arg(&channel).arg(payload);
            command
        };
        let commands = payloads.into_iter().map(command).collect();
        let published = match &self.publishes {
            Some(publishes) => publishes.call(commands).await.map(drop),
            None => self.link.run("publish", Link::deadline(), |c| to_one_node(c, commands)).await,
        };
        published.map_err(BusError)
    }

    fn pace(&self) -> Duration {
        PACE
    }

    async fn subscribe(&self, me: &ProcessId) -> Result<Subscription, BusError> {
        let (inbox, subscription) = Inbox::new();
        let name = self.channel(me);
        let guard = Guard::new(self.keys.clone(), name.clone());
        let ear =
            Arc::new(Ear { inbox, guard, metrics: self.metrics.clone(), told: Mutex::default() });
        let channel = Channel { target: self.link.target().clone(), name, ear };
        let first = channel.listen().await.map_err(|error| match is_forbidden(&error) {
            false => BusError(error.to_string()),
            true => BusError(format!(
                "Redis refuses the channel {:?} ({error}): see deploy/redis-acl.conf; with \
                 --redis-prefix both patterns need the prefix",
                channel.name
            )),
        })?;
        // Ends with the subscription: it waits for nothing without waiting for that too.
        tokio::spawn(channel.keep(first));
        Ok(subscription)
    }
}

/// Commands for one channel, which one node of a cluster owns.
async fn to_one_node(mut connection: Connection, mut commands: Vec<Cmd>) -> RedisResult<()> {
    if let [one] = &mut commands[..] {
        return one.query_async(&mut connection).await;
    }
    let mut pipe = redis::pipe();
    for command in commands {
        pipe.add_command(command).ignore();
    }
    pipe.query_async(&mut connection).await
}

/// Hears what a connection of the subscription receives; called by that connection's own task.
struct Ear {
    inbox: Inbox,
    guard: Guard,
    metrics: Arc<Metrics>,
    /// When it was last said that something was dropped.
    told: Mutex<Option<Instant>>,
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

    /// Drops what may not be believed; said once in a while, or a stranger could fill the logs.
    fn refuse(&self, refusal: Refusal, payload: &[u8]) {
        self.count(refusal.name(), 1);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told: Instant| told.elapsed() > TELL_INTERVAL) {
            *told = Some(Instant::now());
            let why = refusal.name();
            let (key, batch) = claimed(payload).unzip();
            // It says so itself, and may lie: where to look first.
            let from = batch.and_then(sender);
            tracing::warn!(
                why,
                key,
                from,
                "a bus message is dropped: see --bus-key, and the clocks"
            );
        }
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
        let batch = match self.guard.open(payload) {
            Ok(batch) => batch,
            Err(refusal) => return self.refuse(refusal, payload),
        };
        let (batch, bad) = decode(batch);
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
mod tests;
