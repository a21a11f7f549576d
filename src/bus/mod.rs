//! Port: server to server. Hints for sockets on other servers, and receipts back.
//!
//! Adapters: `embedded` (one process), `redis` (channel `messages:ws3`, JSON that a person can
//! read). `contract` is the suite that both pass.
//!
//! **Guarantees of every adapter.** At most once. Batches of one publisher to one process arrive in
//! the order of publishing, those that arrive. After a gap that the adapter noticed (a lost
//! connection, an overflow) the subscriber hears [`Heard::Gap`] before what follows. A publish ends
//! within [`CALL_MS_MAX`] and never retries by itself; `Ok` says only that it was handed over.
//! Where strangers could publish, only what a holder of a key has signed is heard (`signing`).

pub mod contract;
pub mod embedded;
mod inbox;
pub(crate) mod payload;
pub mod redis;
pub mod signing;
mod replay;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::protocol::{Envelope, ProcessId};

/// The longest that a publish takes, in milliseconds.
pub const CALL_MS_MAX: u64 = 250;
/// How many batches wait between the subscription and its reader; what comes beyond is dropped and
/// told as a [`Heard::Gap`].
pub const SUBSCRIPTION_BATCHES_MAX: usize = 4_096;

/// The bus can't be reached. It is a hint: go the slow way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bus is not available: {0}")]
pub struct BusError(pub String);

/// What a subscription yields.
#[derive(Debug)]
pub enum Heard {
    /// Envelopes that were published together.
    Batch(Vec<Arc<Envelope>>),
    /// Something may have been missed: read again what matters.
    Gap,
}

/// A process's own channel. Dropping it ends the subscription.
pub type Subscription = mpsc::Receiver<Heard>;

/// The bus. See the module for what every adapter guarantees.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Hands a batch to one process: one PUBLISH, a JSON array where there are several.
    async fn publish(&self, to: &ProcessId, batch: &[Arc<Envelope>]) -> Result<(), BusError>;

    /// For how long what comes for a busy process gathers before the next publish to it; nothing
    /// where a publish costs nothing.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    /// Listens on the channel of `me`. Keeps reconnecting and subscribing again until dropped;
    /// returns once the first subscription stands, or fails.
    async fn subscribe(&self, me: &ProcessId) -> Result<Subscription, BusError>;
}
