//! What Parlor is about: sending, routing, receiving. No socket, no Redis, no AWS here.
//!
//! A message's way: `send` checks it, its `lane` raises and puts it, `route` locates the sockets
//! and hands it to the hub or the bus, `receive` takes it from the bus on the other server,
//! `session` compares it with the socket's position, `receipt` brings the answer back, and
//! `catchup` reads from the store whatever was missed.

pub mod send;
mod openings;
pub mod lane;
pub mod pending;
pub mod publish;
pub mod route;
mod again;
pub mod slow;
pub mod audience;
pub mod receive;
pub mod session;
mod inbox;
mod position;
mod receipt;
mod status;
mod device;
pub mod reads;
pub mod catchup;
pub mod claim;
pub mod rest;
pub mod keeper;
pub mod revocation;
pub mod liveness;
pub mod roster;
pub mod rooms;
pub mod signal;
pub mod history;
pub mod conversations;
pub mod presence;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use crate::bus::Bus;
use crate::directory::Directory;
use crate::hub::Hub;
use crate::limits::{Limit, Limits, Over};
use crate::protocol::{
    BadFrame, ConversationId, Epoch, ErrorCode, ProcessId, Ref, SOCKETS_PER_USER, Seq, Timestamp,
    UserId,
};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// A refusal that a client is told of: in an `error` frame, or as an HTTP problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ChatError {
    /// Which.
    pub code: ErrorCode,
    /// What was wrong, and what to do.
    pub detail: String,
    /// For the retryable codes: when to try again.
    pub retry_after_ms: Option<u64>,
    /// What the store holds of it can't be read: who asks for more than this goes on without it.
    pub(crate) damaged: bool,
}

impl ChatError {
    /// A refusal with a code and a sentence.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let retry_after_ms = code.retryable().then_some(1_000);
        Self { code, detail: detail.into(), retry_after_ms, damaged: false }
    }

    /// Over a limit, with the time to wait.
    pub fn limited(over: Over) -> Self {
        let retry_after_ms = Some(over.retry_after_ms());
        Self { retry_after_ms, ..Self::new(ErrorCode::RateLimited, over.to_string()) }
    }

    /// Unknown, or none of the caller's business: the two answers are the same (P9).
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("no such {what}, or you have no part in it"))
    }
}

impl From<StoreError> for ChatError {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "store call failed");
        let detail = "the store does not answer, send again with the same ref";
        let damaged = matches!(error, StoreError::Damaged(_));
        Self { damaged, ..Self::new(ErrorCode::Unavailable, detail) }
    }
}

impl From<BadFrame> for ChatError {
    fn from(bad: BadFrame) -> Self {
        Self::new(bad.code, bad.detail)
    }
}

/// A send that the store has (P1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The ref that it was sent with.
    pub reference: Option<Ref>,
    /// Its log.
    pub conversation: ConversationId,
    /// Its place.
    pub seq: Seq,
    /// Messages up to here.
    pub n: u64,
    /// When it was stored.
    pub timestamp: Timestamp,
    /// It was stored by an earlier try with the same ref.
    pub repeated: bool,
}

/// Which process part this is: one server, or the API.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name on the board and on the bus.
    pub id: ProcessId,
    /// Its life.
    pub epoch: Epoch,
}

/// The clock that timestamps come from: milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The real clock.
pub fn wall_clock() -> Clock {
    Arc::new(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    })
}

/// Who may open a direct conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Opening {
    /// Anybody, with anybody.
    #[default]
    Anybody,
    /// Services alone, over the Message API: people write where there is a conversation already.
    Services,
}

/// What a process part is made of.
pub struct Parts {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Who is where.
    pub directory: Arc<dyn Directory>,
    /// Server to server.
    pub bus: Arc<dyn Bus>,
    /// All appends of this OS process, shared by its parts.
    pub lanes: Arc<lane::Lanes>,
    /// Turns at the store for those who catch up, shared by its parts.
    pub reads: Arc<reads::Reads>,
    /// What the board says, and the own row on it.
    pub liveness: Arc<liveness::Liveness>,
    /// How much a client may do, in all parts of this process together.
    pub limits: Arc<Limits>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where timestamps come from.
    pub clock: Clock,
    /// Who may open a direct conversation.
    pub opening: Opening,
}

/// One process part: all that `gateway` and `api` may call. The methods stand in the files of the
/// steps that they belong to.
pub struct Chat {
    /// Who this is.
    pub me: Identity,
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Who is where.
    pub directory: Arc<dyn Directory>,
    /// Server to server.
    pub bus: Arc<dyn Bus>,
    /// The sockets of this server.
    pub hub: Hub,
    /// All appends of this OS process.
    pub lanes: Arc<lane::Lanes>,
    /// Turns at the store for those who catch up.
    pub reads: Arc<reads::Reads>,
    /// What the board says.
    pub liveness: Arc<liveness::Liveness>,
    /// How much a client may do.
    pub limits: Arc<Limits>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where timestamps come from.
    pub clock: Clock,
    opening: Opening,
    openings: openings::Openings,
    lists: conversations::Lists,
    revocations: revocation::Revocations,
    claims: claim::Claims,
    router: route::Router,
    keeper: keeper::Keeper,
    rosters: audience::Rosters,
    rests: rest::Rests,
    /// Sockets that ended write their cursors in turn.
    endings: tokio::sync::Semaphore,
    untold: status::Untold,
    signals: Arc<tokio::sync::Semaphore>,
    this: Weak<Chat>,
}

impl Chat {
    /// Puts a part together. [`Chat::keep`] runs its background.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            me: parts.liveness.me().clone(),
            store: parts.store,
            directory: parts.directory,
            bus: parts.bus,
            hub: Hub::new(parts.limits.settings().sockets_per_user.unwrap_or(SOCKETS_PER_USER)),
            lanes: parts.lanes,
            reads: parts.reads,
            liveness: parts.liveness,
            limits: parts.limits,
            metrics: parts.metrics,
            clock: parts.clock,
            opening: parts.opening,
            openings: openings::Openings::default(),
            lists: conversations::Lists::default(),
            revocations: revocation::Revocations::default(),
            claims: claim::Claims::default(),
            router: route::Router::default(),
            keeper: keeper::Keeper::default(),
            rosters: audience::Rosters::default(),
            rests: rest::Rests::default(),
            endings: catchup::endings(),
            untold: status::Untold::default(),
            signals: Arc::new(tokio::sync::Semaphore::new(signal::SIGNALS_MAX)),
            this: this.clone(),
        })
    }

    /// One more of what somebody may send so often, in a frame of about so many bytes more than
    /// what stands around them in it.
    fn one_of(&self, limit: Limit, user: &UserId, bytes: usize) -> Result<(), ChatError> {
        const AROUND_BYTES: u64 = 512;
        let (who, now) = (self.limits.key(user), Instant::now());
        self.limits.take(limit, who, 1, now).map_err(|over| {
            self.over(self.limits.again(over, who, bytes as u64 + AROUND_BYTES, now))
        })
    }

    /// Counts what a limit refuses.
    pub fn over(&self, over: Over) -> ChatError {
        self.metrics.count_limited(over.limit.as_str());
        ChatError::limited(over)
    }

    /// Whether Redis can't be reached from here, for the body of `/readyz`.
    pub fn is_deaf(&self) -> bool {
        self.keeper.is_deaf()
    }

    /// Waits until no hint is under way any more: for a clean stop, within the caller's limit.
    pub async fn hints_settled(&self) {
        while !self.router.is_idle() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
