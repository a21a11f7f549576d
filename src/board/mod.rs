//! Port: who is alive, and the slow way for hints. Kept where the messages are.
//!
//! Adapters: `embedded` (one process, in memory), `dynamodb` (a small partition of the same table).
//! `contract` is the suite that both pass. The judging (who counts as dead) is `chat::liveness`.
//!
//! **Guarantees of every adapter.** Reads are strongly consistent. A row is written only by its own
//! process and epoch, or by a take-over that names the row it replaces.

pub(crate) mod bulletin;
pub mod contract;
pub mod dynamodb;
pub mod embedded;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::protocol::{ConversationId, Epoch, ProcessId, Seq, UserId};
use crate::store::StoreError;

/// How often a process writes its row, in milliseconds.
pub const BEAT_INTERVAL_MS: u64 = 5_000;
/// How often a process reads all rows, in milliseconds.
pub const READ_INTERVAL_MS: u64 = 2_000;
/// A row that did not move for so long, while reads succeeded, is dead: by the look that sees its
/// last beat and seven more, so within 16 s (P11).
pub const DEAD_AFTER_MS: u64 = 14_000;
/// How many hints one item holds.
pub const HINTS_PER_ITEM_MAX: usize = 20;
/// How long an item of hints lives, in seconds.
pub const HINT_TTL_SECONDS: u64 = 600;

/// What kind of process a row speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds sockets.
    Server,
    /// The Message API.
    Api,
}

/// A process's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardRow {
    /// Its name.
    pub id: ProcessId,
    /// Its life.
    pub epoch: Epoch,
    /// Rises with every write of this life.
    pub beat: u64,
    /// What it does.
    pub role: Role,
    /// Where balancers reach it, `HOST:PORT`.
    pub address: String,
    /// Where browsers reach it themselves, `wss://…/ws`, if they can.
    pub public_url: Option<String>,
    /// How many sockets it holds.
    pub sockets: u32,
    /// It takes new sockets.
    pub accepting: bool,
    /// The number of its newest item of hints; 0: none yet.
    pub hints: u64,
    /// It can't hear the bus or reach the map: put every hint on the board.
    pub deaf: bool,
}

impl BoardRow {
    /// The row of a life that begins: nothing told yet, no sockets, and none wanted.
    pub fn new(id: ProcessId, epoch: Epoch, role: Role, address: impl Into<String>) -> Self {
        Self {
            id,
            epoch,
            beat: 0,
            role,
            address: address.into(),
            public_url: None,
            sockets: 0,
            accepting: false,
            hints: 0,
            deaf: false,
        }
    }
}

/// One thing that the bus could not hand on: read it from the store. One of seq 0 says that more
/// was lost than is told: read all mailboxes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowHint {
    /// For whom; absent: for all members of the room.
    pub user: Option<UserId>,
    /// Which log.
    pub conversation: ConversationId,
    /// At least up to here.
    pub seq: Seq,
}

/// How a beat ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The row is written.
    Written,
    /// Another life holds the row: this process must close all and exit.
    Taken,
}

/// The board. See the module for what every adapter guarantees.
#[async_trait]
pub trait Board: Send + Sync + 'static {
    /// Writes the row where none stands, where it is of the same epoch, or where it is exactly the
    /// row `replacing` (epoch and beat). A beat that comes late, after a higher one of the same
    /// life, is `Written` and does not set the row back.
    async fn beat(
        &self,
        row: &BoardRow,
        replacing: Option<(Epoch, u64)>,
    ) -> Result<Beat, StoreError>;

    /// All rows in the order of their names, in one Query.
    async fn read(&self) -> Result<Vec<BoardRow>, StoreError>;

    /// Removes the row, if it is of this epoch.
    async fn remove(&self, id: &ProcessId, epoch: Epoch) -> Result<(), StoreError>;

    /// Writes item `number` of this process's hints, at most [`HINTS_PER_ITEM_MAX`]; an item of
    /// that number gives way. Items outlive the row by [`HINT_TTL_SECONDS`].
    async fn put_hints(
        &self,
        id: &ProcessId,
        number: u64,
        hints: &[SlowHint],
    ) -> Result<(), StoreError>;

    /// The hints of a process in items above `after`, in the order of the numbers, with the number
    /// of the highest item read (`after` where there is none).
    async fn hints(&self, id: &ProcessId, after: u64) -> Result<(u64, Vec<SlowHint>), StoreError>;
}
