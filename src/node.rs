//! Starts and stops a process: its parts, its listeners, its stop order.
//!
//! A *part* is one server or the Message API: a [`Chat`] with a place on the board and a channel on
//! the bus. Neighbours: `wiring` gives the adapters, `config` the command line. The stop order
//! stands in [`Node::stop`] and nowhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all, try_join_all};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::ApiOptions;
use crate::api::health::Health;
use crate::auth::{BadKeys, Verifier};
use crate::board::{BoardRow, Role};
use crate::chat::lane::Lanes;
use crate::chat::liveness::{Liveness, RowChange, StartError};
use crate::chat::reads::Reads;
use crate::chat::{self, Chat, Identity, Opening};
use crate::edge::Edge;
use crate::gateway::{Accepted, DOOR_MAX, Door, Gateway};
use crate::limits::{Limits, Seats};
use crate::protocol::{Epoch, ProcessId};
use crate::telemetry::Metrics;
use crate::wiring::{Wired, WiringError};

/// What the finishing of work may take beyond the drain, before the process gives up waiting.
const FINISH_GRACE: Duration = Duration::from_secs(3);
/// Until when, beyond the drain, the board rows are to be gone.
const LEAVE_GRACE: Duration = Duration::from_millis(4_500);
/// What a stop may take beyond the drain altogether.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long other processes may need to read a new row: sockets are taken only then.
const ROW_IS_READ: Duration = Duration::from_secs(3);

/// Why a process can't start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Bad usage or configuration: exit 2.
    #[error("{0}")]
    Usage(String),
    /// Something failed: exit 1.
    #[error("{0}")]
    Failed(String),
}

impl From<WiringError> for NodeError {
    fn from(error: WiringError) -> Self {
        match error {
            WiringError::Usage(text) => Self::Usage(text),
            WiringError::Part(text) => Self::Failed(text),
        }
    }
}

impl From<BadKeys> for NodeError {
    fn from(error: BadKeys) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<StartError> for NodeError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::InUse(_) => Self::Usage(error.to_string()),
            StartError::Store(error) => Self::Failed(error.to_string()),
        }
    }
}

/// Binds a listener. Without tokens `?userId=` is trusted, so only loopback may be listened on;
/// `anywhere` lifts that.
pub async fn listen(
    address: SocketAddr,
    anywhere: bool,
    option: &str,
) -> Result<TcpListener, NodeError> {
    if !address.ip().is_loopback() && !anywhere {
        let ways = "give --jwt-secret-file FILE (parlor token --new-secret FILE makes one), or \
                    --jwt-key-file FILE or --jwks-url URL, or --insecure-dev on a network that \
                    keeps strangers out";
        return Err(NodeError::Usage(format!(
            "{address} is not loopback, and without tokens anybody could be anybody: {ways}"
        )));
    }
    let in_use = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => NodeError::Usage(format!(
            "{address} is in use by another process: stop it, or choose another with {option}"
        )),
        _ => NodeError::Failed(format!("can't listen on {address}: {error}")),
    };
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    };
    let socket = socket.map_err(in_use)?;
    // A restart must not wait for the kernel to forget the sockets of the last life.
    socket.set_reuseaddr(true).map_err(in_use)?;
    socket.bind(address).map_err(in_use)?;
    socket.listen(4_096).map_err(in_use)
}

/// One server or the API, running.
pub struct Part {
    /// What it is made of.
    pub chat: Arc<Chat>,
    /// Where it listens.
    pub address: SocketAddr,
    /// How a balancer in this process hands connections over; servers only.
    pub door: Option<Door>,
    /// The places for sockets; servers only.
    pub seats: Option<Arc<Seats>>,
    pub(crate) gateway: Option<Arc<Gateway>>,
    keeper: JoinHandle<bool>,
}

/// How a part is to be started.
pub struct PartOptions {
    /// Its name.
    pub id: ProcessId,
    /// What it is.
    pub role: Role,
    /// `HOST:PORT` for balancers; the listening address where none is given.
    pub advertise: Option<String>,
    /// Where browsers reach it themselves.
    pub public_url: Option<String>,
    /// Its listener.
    pub listener: TcpListener,
    /// How connections come in there, and what is taken of them.
    pub edge: Arc<Edge>,
    /// A lock proves that rows under this name are of the past.
    pub lock_held: bool,
}

/// A process with its parts.
pub struct Node {
    /// What the parts share.
    pub wired: Wired,
    /// The lanes of all parts.
    pub lanes: Arc<Lanes>,
    reads: Arc<Reads>,
    /// What `/readyz` says.
    pub health: Arc<Health>,
    /// Checks tokens; `None` in development mode.
    pub auth: Option<Verifier>,
    /// Who may open a direct conversation.
    pub opening: Opening,
    /// How much a client may do, in all parts together.
    pub limits: Arc<Limits>,
    /// Its parts, in the order of starting.
    pub parts: Vec<Part>,
    /// Whose rows may stand on the board although there is no such part: their start was cut short.
    starting: Vec<Identity>,
    /// Ends what takes new work: listeners, the API, the balancer.
    pub accepting: CancellationToken,
    /// Ends what finishes work: lanes' parts, keepers, beats.
    pub background: CancellationToken,
    /// Listeners and the like: they end with `accepting`.
    pub tasks: TaskTracker,
    /// What tells how a stop goes: it ends with `background`.
    pub watchers: TaskTracker,
    drain: Duration,
}

impl Node {
    /// A process without parts.
    pub fn new(wired: Wired, health: Arc<Health>, drain_seconds: u64) -> Self {
        if let Some(disk) = wired.disk.clone() {
            health.watch_local("disk", move || disk.trouble());
        }
        Self {
            lanes: Lanes::new(wired.store.clone()),
            reads: Arc::default(),
            wired,
            health,
            auth: None,
            opening: Opening::default(),
            limits: Limits::none(),
            parts: Vec::new(),
            starting: Vec::new(),
            accepting: CancellationToken::new(),
            background: CancellationToken::new(),
            tasks: TaskTracker::new(),
            watchers: TaskTracker::new(),
            drain: Duration::from_secs(drain_seconds),
        }
    }

    /// From now on who asks must have a token; the keys of a provider are kept fresh.
    pub fn guard(&mut self, verifier: Verifier) {
        let (keeping, asked) = (verifier.clone(), verifier.clone());
        self.watchers.spawn(keeping.keep(self.background.clone()));
        self.health.watch("keys", move || asked.trouble());
        self.auth = Some(verifier);
    }

    /// Starts parts side by side, since each may have to wait until its name is seen to be free.
    /// May be dropped half-way: [`Node::stop`] then removes what stands already.
    pub async fn start(
        &mut self,
        parts: Vec<(PartOptions, Arc<Metrics>)>,
    ) -> Result<(), NodeError> {
        let identity = |(options, _): &(PartOptions, _)| Identity {
            id: options.id.clone(),
            epoch: Epoch(rand::random()),
        };
        self.starting = parts.iter().map(identity).collect();
        let epochs = self.starting.iter().map(|me| me.epoch);
        let starts = parts.into_iter().zip(epochs);
        let starts = starts.map(|((options, metrics), epoch)| self.part(options, epoch, metrics));
        let parts = try_join_all(starts).await?;
        self.parts.extend(parts);
        self.starting.clear();
        self.watch_seats();
        Ok(())
    }

    /// Starts a part: its row, its channel, its background, its sockets or its HTTP.
    async fn part(
        &self,
        options: PartOptions,
        epoch: Epoch,
        metrics: Arc<Metrics>,
    ) -> Result<Part, NodeError> {
        let PartOptions { id, role, advertise, public_url, listener, edge, lock_held } = options;
        let address = listener.local_addr().map_err(|e| NodeError::Failed(e.to_string()))?;
        let advertised = edge.advertised(advertise.unwrap_or_else(|| address.to_string()));
        let row = BoardRow { public_url, ..BoardRow::new(id.clone(), epoch, role, advertised) };
        let stop = self.background.clone();
        let (liveness, events) =
            Liveness::start(self.wired.board.clone(), row, lock_held, stop.clone()).await?;
        let chat = Chat::new(chat::Parts {
            store: self.wired.store.clone(),
            directory: self.wired.directory.clone(),
            bus: self.wired.bus.clone(),
            lanes: self.lanes.clone(),
            reads: self.reads.clone(),
            liveness,
            limits: self.limits.clone(),
            metrics,
            clock: chat::wall_clock(),
            opening: self.opening,
        });
        self.watch(&chat);
        let bus = self.wired.bus.subscribe(&id).await;
        let bus = bus.map_err(|error| NodeError::Failed(error.to_string()))?;
        let keeper = tokio::spawn({
            let (chat, stop) = (chat.clone(), stop.child_token());
            async move { chat.keep(events, bus, stop).await }
        });
        let (gateway, door) = match role {
            Role::Server => {
                let (door, handed) = mpsc::channel::<Accepted>(DOOR_MAX);
                let beside = self.starting.len();
                let gateway = Gateway::new(chat.clone(), edge, self.auth.clone(), beside);
                let gateway = gateway.map_err(|error| NodeError::Failed(error.to_string()))?;
                let serving = gateway.clone().serve(listener, handed, self.accepting.clone());
                self.tasks.spawn(serving);
                (Some(gateway), Some(door))
            }
            Role::Api => {
                let serving = crate::api::serve(
                    chat.clone(),
                    self.auth.clone(),
                    listener,
                    ApiOptions { edge, ..ApiOptions::default() },
                    self.accepting.clone(),
                );
                self.tasks.spawn(serving);
                (None, None)
            }
        };
        let seats = gateway.as_ref().map(|gateway| gateway.seats());
        Ok(Part { chat, address, door, seats, gateway, keeper })
    }

    /// Trouble that a part has with what all share is told by `/readyz`.
    fn watch(&self, chat: &Arc<Chat>) {
        let (deaf, mute) = (chat.clone(), chat.clone());
        self.health.watch("redis", move || {
            let id = &deaf.me.id;
            deaf.is_deaf().then(|| format!("{id} can't reach it: delivery goes the slow way"))
        });
        self.health.watch("store", move || {
            let id = &mute.me.id;
            let mute = !mute.liveness.may_append();
            mute.then(|| format!("the board row of {id} was not written for 10 s: no appends"))
        });
    }

    /// A process whose servers are all full is not ready for more: others are.
    fn watch_seats(&self) {
        let seats = self.parts.iter().filter_map(|part| part.seats.clone());
        let seats: Vec<_> = seats.collect();
        self.health.watch_local("sockets", move || {
            let full = !seats.is_empty() && seats.iter().all(|seats| seats.are_taken());
            full.then(|| "there are as many as --max-sockets allows".to_owned())
        });
    }

    /// Waits until every living process can have read the rows of these parts, then takes sockets.
    pub async fn open(&self) {
        let mut others = false;
        for part in &self.parts {
            let view = part.chat.liveness.view_after(Instant::now(), ROW_IS_READ).await;
            let ours = |id: &ProcessId| self.parts.iter().any(|p| p.chat.me.id == *id);
            others |= view.is_none_or(|view| view.alive.iter().any(|row| !ours(&row.id)));
        }
        if others {
            tokio::time::sleep(ROW_IS_READ).await;
        }
        for part in &self.parts {
            part.chat.liveness.set(RowChange::Accepting(true), true);
            if let Some(gateway) = &part.gateway {
                gateway.open();
            }
        }
        self.health.ready();
    }

    /// Resolves when a part lost its name on the board to another life.
    pub async fn taken(&mut self) {
        let keepers = self.parts.iter_mut().map(|part| Box::pin(&mut part.keeper));
        let keepers: Vec<_> = keepers.collect();
        if keepers.is_empty() {
            return std::future::pending().await;
        }
        let _ = select_all(keepers).await;
    }

    /// Sends nobody away in good order: for a stop that can't wait.
    pub fn hurry(&mut self) {
        self.drain = Duration::ZERO;
    }

    /// The clean stop. Ends within the drain and 5 s, whoever does not answer.
    pub async fn stop(mut self) {
        let drained = Instant::now() + self.drain;
        let limit = drained + FINISH_GRACE;
        self.health.draining();
        for part in &self.parts {
            part.chat.liveness.set(RowChange::Accepting(false), true);
        }
        self.accepting.cancel();
        let drains = self.parts.iter().filter_map(|part| part.gateway.clone()).map(|gateway| {
            let drain = self.drain;
            async move { gateway.drain(drain).await }
        });
        let _ = timeout_at(limit, join_all(drains)).await;
        self.tasks.close();
        let settle = async {
            self.tasks.wait().await;
            self.lanes.close();
            self.lanes.finish().await;
            for part in &self.parts {
                // What is not confirmed by now is found by whoever reads the mailbox.
                let _ = timeout(Duration::from_secs(2), part.chat.hints_settled()).await;
            }
        };
        if timeout_at(limit, settle).await.is_err() {
            tracing::warn!("stopped before everything was finished");
        }
        let leaving = self.parts.iter().map(|part| part.chat.liveness.leave());
        if timeout_at(drained + LEAVE_GRACE, join_all(leaving)).await.is_err() {
            tracing::warn!("the store does not answer: board rows stay until seen not to move");
        }
        self.background.cancel();
        // After their beats have ended, or one of these would write the row again.
        let cut_short = self.starting.iter().map(|me| self.wired.board.remove(&me.id, me.epoch));
        let _ = timeout_at(drained + LEAVE_GRACE, join_all(cut_short)).await;
        // One that is taken has ended already, and a finished task must not be polled again.
        let keepers = self.parts.drain(..).map(|part| part.keeper).filter(|k| !k.is_finished());
        let _ = timeout_at(drained + STOP_GRACE, join_all(keepers)).await;
        self.watchers.close();
        let _ = timeout_at(drained + STOP_GRACE, self.watchers.wait()).await;
        if let Some(disk) = &self.wired.disk {
            let _ = timeout_at(drained + STOP_GRACE, disk.close()).await;
        }
    }
}

#[cfg(test)]
mod tests;
