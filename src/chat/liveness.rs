//! Who counts as alive, judged from the board.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Identity;
use crate::board::{Board, BoardRow, SlowHint};
use crate::protocol::{Epoch, ProcessId};

/// What the board showed at one reading.
#[derive(Debug, Clone)]
pub struct View {
    /// When the reading began: it judges only what was stored before.
    pub begun: Instant,
    /// The living processes, this one included.
    pub alive: Vec<BoardRow>,
}

impl View {
    /// Whether this life of a process is among the living.
    pub fn is_alive(&self, id: &ProcessId, epoch: Epoch) -> bool {
        self.alive.iter().any(|row| row.id == *id && row.epoch == epoch)
    }

    /// Whether any living process says that it is deaf.
    pub fn any_deaf(&self) -> bool {
        self.alive.iter().any(|row| row.deaf)
    }
}

/// What happened on the board, for the part that owns the liveness.
#[derive(Debug)]
pub enum BoardEvent {
    /// A process died or began another life: re-read local users' mailboxes, now and 20 s later.
    Death(ProcessId),
    /// Hints that came the slow way.
    Hints(Vec<SlowHint>),
    /// The own row went unwritten for 10 s and is written again: claim all again and re-read.
    Revived,
    /// The board could not be read for 10 s and is readable again: re-read.
    ReadAgain,
    /// Another life has taken the own name: close all and exit.
    Taken,
}

/// The own row and the judged view of one process part. Cheap to ask.
pub struct Liveness {
    me: Identity,
    view: watch::Receiver<Arc<View>>,
}

impl Liveness {
    /// Takes the own name on the board and starts beating and reading until `stop`.
    ///
    /// `lock_held`: a lock proves that rows under this name are of the past (`parlor up`), so one
    /// is taken over at once; else a row that moves within 6 s is in use and this fails.
    /// `row` is the first row; later beats ask [`Liveness::set`] values.
    pub async fn start(
        _board: Arc<dyn Board>,
        _row: BoardRow,
        _lock_held: bool,
        _stop: CancellationToken,
    ) -> Result<(Arc<Self>, mpsc::Receiver<BoardEvent>), StartError> {
        unimplemented!()
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The own name and life.
    pub fn me(&self) -> &Identity {
        &self.me
    }

    /// Whether the own row was written in the last 10 s.
    pub fn may_append(&self) -> bool {
        unimplemented!()
    }

    /// Waits for a view whose reading begins after now; at most `limit`. Shared by all callers.
    pub async fn view_after(&self, _now: Instant, _limit: Duration) -> Option<Arc<View>> {
        unimplemented!()
    }

    /// What the next beat says; `urgent` beats at once.
    pub fn set(&self, _change: RowChange, _urgent: bool) {
        unimplemented!()
    }

    /// Writes hints to the board, in items of at most 20, and their numbers into the row.
    pub async fn put_hints(&self, _hints: &[SlowHint]) -> Result<(), crate::store::StoreError> {
        unimplemented!()
    }

    /// Removes the own row: the last thing of a clean stop.
    pub async fn leave(&self) {
        unimplemented!()
    }
}

/// A change of the own row.
#[derive(Debug, Clone, Copy)]
pub enum RowChange {
    /// How many sockets are open.
    Sockets(u32),
    /// Whether new sockets are taken.
    Accepting(bool),
    /// Whether the bus can't be heard or the map not reached.
    Deaf(bool),
}

/// Why a process can't take its place on the board.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Exit 2.
    #[error("the id {0} is in use by a living process: stop it, or choose another --id")]
    InUse(ProcessId),
    /// Exit 1.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}
