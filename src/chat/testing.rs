//! A part on embedded parts that a test can watch, slow down and take away.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::lane::Lanes;
use super::liveness::Liveness;
use super::{Chat, Parts};
use crate::board::embedded::EmbeddedBoard;
use crate::board::{BoardRow, Role};
use crate::bus::embedded::EmbeddedBus;
use crate::bus::{Bus, BusError, Subscription};
use crate::directory::embedded::EmbeddedDirectory;
use crate::directory::{Directory, DirectoryError, SocketEntry};
use crate::hub::{Outbox, Who};
use crate::limits::Limits;
use crate::protocol::*;
use crate::store::memory::MemoryStore;
use crate::store::*;
use crate::telemetry::Metrics;

/// A person.
pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// What one of them says to the other.
pub fn message(from: &str, to: &str, seq: Seq) -> Entry {
    Entry {
        seq,
        kind: Kind::Message,
        from: user(from),
        to: Some(user(to)),
        message: Some("Hi".into()),
        data: None,
        reference: None,
        device: DeviceId::plain(),
        timestamp: 1,
        n: seq,
    }
}

/// A server's row.
pub fn board_row(id: &str, epoch: u64) -> BoardRow {
    let id = ProcessId::parse(id).unwrap();
    let row = BoardRow::new(id, Epoch(epoch), Role::Server, "127.0.0.1:3001");
    BoardRow { beat: 1, accepting: true, ..row }
}

/// A new socket of a person; the belt comes to it last, nearly an hour after the start.
pub fn socket(name: &str, device: &str) -> Arc<Outbox> {
    let (user, device) = (user(name), DeviceId::parse(device).unwrap());
    let belt = u128::from(super::keeper::BELT_PARTS);
    let socket = SocketId(u128::from(rand::random::<u64>()) * belt + belt - 1);
    Arc::new(Outbox::new(Who { user, device, socket }))
}

/// Store, map and bus behind one switch for each, with a trace of the calls.
pub struct Ports {
    store: Arc<MemoryStore>,
    map: EmbeddedDirectory,
    bus: EmbeddedBus,
    trace: Mutex<Vec<String>>,
    /// Neither map nor bus answer, as when Redis is away.
    pub redis_away: AtomicBool,
    /// The map answers, and takes no claims, as when Redis is full.
    pub map_is_full: AtomicBool,
    /// What is published is taken and goes nowhere.
    pub bus_loses: AtomicBool,
    /// Which Redis answers.
    pub instance: AtomicU64,
    /// How long a call of the map takes.
    pub map_takes_ms: AtomicU64,
    /// How long a read of a mailbox or of a roster takes.
    pub reads_take_ms: AtomicU64,
    /// Mailboxes can't be read.
    pub mailboxes_away: AtomicBool,
    /// A record is stored, and the store says that it does not answer.
    pub unsure: AtomicBool,
    /// Calls let others go first at random.
    pub dawdles: AtomicBool,
    /// Store calls that fail: their name and what they are about.
    pub failing: Mutex<Vec<(&'static str, ConversationId, StoreError)>>,
}

impl Ports {
    fn note(&self, line: &str) {
        self.trace.lock().unwrap().push(line.to_owned());
    }

    /// The calls since the last look.
    pub fn trace(&self) -> Vec<String> {
        std::mem::take(&mut *self.trace.lock().unwrap())
    }

    fn meet(&self, call: &str, about: &ConversationId) -> Result<(), StoreError> {
        let failing = self.failing.lock().unwrap();
        let found = failing.iter().find(|(name, id, _)| *name == call && id == about);
        found.map_or(Ok(()), |(.., error)| Err(error.clone()))
    }

    async fn dawdle(&self) {
        if self.dawdles.load(Ordering::Relaxed) {
            for _ in 0..rand::random_range(0..4) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn read_takes(&self) {
        let takes = self.reads_take_ms.load(Ordering::Relaxed);
        if takes > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(takes)).await;
        }
    }

    async fn map(&self) -> Result<&EmbeddedDirectory, DirectoryError> {
        self.dawdle().await;
        let takes = self.map_takes_ms.load(Ordering::Relaxed);
        if takes > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(takes)).await;
        }
        match self.redis_away.load(Ordering::Relaxed) {
            true => Err(DirectoryError("away".to_owned())),
            false => Ok(&self.map),
        }
    }
}

/// See the module.
pub struct Part {
    /// The part.
    pub chat: Arc<Chat>,
    /// What it stands on.
    pub ports: Arc<Ports>,
    /// Its board.
    pub board: Arc<EmbeddedBoard>,
    /// Ends it.
    pub stop: CancellationToken,
}

impl Part {
    /// A part named ws1.
    pub async fn new() -> Self {
        Self::limited(Limits::none()).await
    }

    /// The same where clients have limits.
    pub async fn limited(limits: Arc<Limits>) -> Self {
        let ports = Arc::new(Ports {
            store: Arc::default(),
            map: EmbeddedDirectory::default(),
            bus: EmbeddedBus::default(),
            trace: Mutex::default(),
            redis_away: AtomicBool::new(false),
            map_is_full: AtomicBool::new(false),
            bus_loses: AtomicBool::new(false),
            instance: AtomicU64::new(1),
            map_takes_ms: AtomicU64::new(0),
            reads_take_ms: AtomicU64::new(0),
            mailboxes_away: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            dawdles: AtomicBool::new(false),
            failing: Mutex::default(),
        });
        let (board, stop) = (Arc::new(EmbeddedBoard::default()), CancellationToken::new());
        let row = board_row("ws1", 7);
        let (liveness, _) = Liveness::start(board.clone(), row, true, stop.clone()).await.unwrap();
        let time = AtomicU64::new(1_790_000_000_000);
        let chat = Chat::new(Parts {
            store: ports.clone(),
            directory: ports.clone(),
            bus: ports.clone(),
            lanes: Lanes::new(ports.clone()),
            reads: Arc::default(),
            liveness,
            limits,
            metrics: Arc::new(Metrics::new("ws1")),
            clock: Arc::new(move || time.fetch_add(1, Ordering::SeqCst)),
            opening: Default::default(),
        });
        Self { chat, ports, board, stop }
    }

    /// Opens a socket on this server, unclaimed.
    pub fn enter(&self, name: &str, device: &str) -> Arc<Outbox> {
        let outbox = socket(name, device);
        self.chat.hub.enter(outbox.clone());
        outbox
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Bus for Ports {
    async fn publish(&self, to: &ProcessId, batch: &[Arc<Envelope>]) -> Result<(), BusError> {
        if self.redis_away.load(Ordering::Relaxed) {
            return Err(BusError("away".to_owned()));
        }
        match self.bus_loses.load(Ordering::Relaxed) {
            true => Ok(()),
            false => self.bus.publish(to, batch).await,
        }
    }

    async fn subscribe(&self, me: &ProcessId) -> Result<Subscription, BusError> {
        self.bus.subscribe(me).await
    }
}

#[async_trait]
impl Directory for Ports {
    async fn claim(
        &self,
        user: &UserId,
        entry: &SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<usize, DirectoryError> {
        self.note("claim");
        if self.map_is_full.load(Ordering::Relaxed) {
            return Err(DirectoryError("OOM command not allowed".to_owned()));
        }
        self.map().await?.claim(user, entry, dead).await
    }

    async fn release(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<(), DirectoryError> {
        self.note("release");
        self.map().await?.release(user, socket, claim).await
    }

    async fn locate(&self, users: &[UserId]) -> Result<Vec<Vec<SocketEntry>>, DirectoryError> {
        self.map().await?.locate(users).await
    }

    async fn extend(
        &self,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<bool, DirectoryError> {
        self.map().await?.extend(user, socket, claim).await
    }

    async fn instance(&self) -> Result<String, DirectoryError> {
        self.map().await?;
        Ok(self.instance.load(Ordering::Relaxed).to_string())
    }
}

#[async_trait]
impl Store for Ports {
    async fn append(&self, log: &ConversationId, entries: &[Entry]) -> Result<usize, StoreError> {
        self.dawdle().await;
        still(self.store.append(log, entries)).await
    }

    async fn log(&self, log: &ConversationId, range: LogRange) -> Result<LogPage, StoreError> {
        self.dawdle().await;
        self.meet("log", log)?;
        still(self.store.log(log, range)).await
    }

    async fn raise(
        &self,
        user: &UserId,
        log: &ConversationId,
        raise: &Raise,
    ) -> Result<(), StoreError> {
        self.dawdle().await;
        self.meet("raise", log)?;
        still(self.store.raise(user, log, raise)).await
    }

    async fn mailbox(&self, user: &UserId, part: MailboxPart) -> Result<MailboxPage, StoreError> {
        if let MailboxPart::Page { .. } = part {
            self.note("mailbox");
        }
        self.dawdle().await;
        self.read_takes().await;
        if self.mailboxes_away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        if let MailboxPart::Row(log) = &part {
            self.meet("row", log)?;
        }
        still(self.store.mailbox(user, part)).await
    }

    async fn write(&self, record: Record) -> Result<bool, StoreError> {
        self.dawdle().await;
        let written = still(self.store.write(record)).await;
        match self.unsure.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("no answer".to_owned())),
            false => written,
        }
    }

    async fn records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        self.dawdle().await;
        if let RecordPart::Roster(log) = &part {
            self.note("roster");
            self.read_takes().await;
            self.meet("roster", log)?;
        }
        if let RecordPart::Revoked(user) = &part {
            self.note("revoked");
            self.meet("revoked", &ConversationId::direct(user, user))?;
        }
        still(self.store.records(part)).await
    }
}

/// Holds a paused clock while the store's own threads work: it would jump to its next timer.
async fn still<T>(call: impl Future<Output = T>) -> T {
    let (done, wait) = std::sync::mpsc::sync_channel::<()>(0);
    let holding = tokio::task::spawn_blocking(move || wait.recv().is_err());
    let result = call.await;
    drop(done);
    holding.await.unwrap();
    result
}
