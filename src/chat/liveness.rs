//! Who counts as alive, judged from the board; and the own row on it.
//!
//! Two tasks until the part stops: one beats, one reads. Rows are judged by the reader's own
//! monotonic clock: one that has not moved for 14 s, while reads succeeded, is dead. **Nothing is
//! appended without an own beat of the last 10 s**, so a process that others hold for dead does not
//! go on as if it lived.

mod events;
mod place;
mod watched;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use events::Events;
use place::take_place;
use watched::{NewHints, Watched};

use super::Identity;
use crate::board::{
    BEAT_INTERVAL_MS, Beat, Board, BoardRow, HINTS_PER_ITEM_MAX, READ_INTERVAL_MS, SlowHint,
};
use crate::protocol::{Epoch, ProcessId};
use crate::store::StoreError;

/// How long an own beat counts.
pub const BEAT_COUNTS: Duration = Duration::from_secs(10);
/// How long a process that was late may take to claim all again before it appends: Redis may be
/// away, and what was tried by then counts.
pub const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// A row under the own name that does not move for so long may be taken over.
pub const TAKE_OVER_AFTER: Duration = Duration::from_secs(6);
/// How many events may wait for the part.
const EVENTS_MAX: usize = 256;
/// How many items of hints are written at once.
const ITEMS_AT_ONCE: usize = 8;

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
#[derive(Debug, PartialEq, Eq)]
pub enum BoardEvent {
    /// A process died or began another life: re-read local users' mailboxes, now and 20 s later.
    Death(ProcessId),
    /// Hints that came the slow way.
    Hints(Vec<SlowHint>),
    /// The own row went unwritten for 10 s and is written again: claim all again and re-read.
    Revived,
    /// The board could not be read for 10 s and is readable again, or events were lost: re-read.
    ReadAgain,
    /// Another life has taken the own name: close all and exit.
    Taken,
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
    Store(#[from] StoreError),
}

#[derive(Debug)]
struct Own {
    row: BoardRow,
    /// The highest number that an item of hints was tried under.
    numbered: u64,
    written: Instant,
    left: bool,
    /// Since when the part recovers from having been late; it appends nothing meanwhile.
    recovering: Option<Instant>,
    /// The row as it was last written says deaf.
    said_deaf: bool,
}

/// The own row and the judged view of one process part. Cheap to ask.
pub struct Liveness {
    me: Identity,
    board: Arc<dyn Board>,
    own: Mutex<Own>,
    view: Mutex<Arc<View>>,
    viewed: Notify,
    beat_now: Notify,
    read_now: Notify,
    /// One write of the row at a time, so that beats arrive in their order.
    beating: tokio::sync::Mutex<()>,
    hinting: tokio::sync::Mutex<()>,
    events: Events,
}

impl Liveness {
    /// Takes the own name on the board and starts beating and reading until `stop`.
    ///
    /// `lock_held`: a lock proves that rows under this name are of the past (`parlor up`), so one
    /// is taken over at once; else a row that moves within 6 s is in use and this fails.
    pub async fn start(
        board: Arc<dyn Board>,
        row: BoardRow,
        lock_held: bool,
        stop: CancellationToken,
    ) -> Result<(Arc<Self>, mpsc::Receiver<BoardEvent>), StartError> {
        let (row, follows) = take_place(&*board, row, lock_held).await?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let now = Instant::now();
        let mut watched = Watched::default();
        let alive = watched.judge(board.read().await?, now).0;
        let liveness = Arc::new(Self {
            me: Identity { id: row.id.clone(), epoch: row.epoch },
            board,
            own: Mutex::new(Own {
                numbered: row.hints,
                row,
                written: now,
                left: false,
                recovering: None,
                said_deaf: false,
            }),
            view: Mutex::new(Arc::new(View { begun: now, alive })),
            viewed: Notify::new(),
            beat_now: Notify::new(),
            read_now: Notify::new(),
            beating: tokio::sync::Mutex::default(),
            hinting: tokio::sync::Mutex::default(),
            events: Events::new(sender),
        });
        if follows {
            // The board shows one row a name, so nobody else tells of this death.
            liveness.events.send(BoardEvent::Death(liveness.me.id.clone()));
        }
        let (beats, reads) = (liveness.clone(), liveness.clone());
        let beat_stop = stop.clone();
        tokio::spawn(async move { beat_stop.run_until_cancelled(beats.beat_for_ever()).await });
        tokio::spawn(async move { stop.run_until_cancelled(reads.read_for_ever(watched)).await });
        Ok((liveness, events))
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, view: View) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.viewed.notify_waiters();
    }

    /// The own name and life.
    pub fn me(&self) -> &Identity {
        &self.me
    }

    /// Whether the own row was written in the last 10 s, and what a late one asks for is done.
    pub fn may_append(&self) -> bool {
        let own = self.own();
        let recovers = own.recovering.is_some_and(|since| since.elapsed() < RECOVERY_MAX);
        !own.left && !recovers && own.written.elapsed() < BEAT_COUNTS
    }

    /// Whether the row says deaf, for others to read.
    pub fn says_deaf(&self) -> bool {
        self.own().said_deaf
    }

    /// Which recovery is under way, for [`Liveness::recovered`].
    pub fn recovering(&self) -> Option<Instant> {
        self.own().recovering
    }

    /// All is claimed again, and the mailboxes are asked for: what `BoardEvent::Revived` demanded
    /// is done, unless the row was late once more since.
    pub fn recovered(&self, recovery: Option<Instant>) {
        let mut own = self.own();
        if own.recovering == recovery {
            own.recovering = None;
        }
    }

    /// Waits for a view whose reading begins after now; at most `limit`. Shared by all callers.
    pub async fn view_after(&self, now: Instant, limit: Duration) -> Option<Arc<View>> {
        if self.view().begun < now {
            self.read_now.notify_one();
        }
        let newer = async {
            loop {
                let viewed = self.viewed.notified();
                let view = self.view();
                if view.begun >= now {
                    return view;
                }
                viewed.await;
            }
        };
        timeout(limit, newer).await.ok()
    }

    /// What the next beat says; `urgent` beats at once.
    pub fn set(&self, change: RowChange, urgent: bool) {
        let row = &mut self.own().row;
        match change {
            RowChange::Sockets(sockets) => row.sockets = sockets,
            RowChange::Accepting(accepting) => row.accepting = accepting,
            RowChange::Deaf(deaf) => row.deaf = deaf,
        }
        if urgent {
            self.beat_now.notify_one();
        }
    }

    /// Writes hints to the board, in items of at most 20, some at once, and their numbers into the
    /// row once all are written. `Ok` only once both are.
    ///
    /// No number is tried twice: a write that seemed to fail may yet come to pass, over what stands
    /// there by then.
    pub async fn put_hints(&self, hints: &[SlowHint]) -> Result<(), StoreError> {
        let _one_at_a_time = self.hinting.lock().await;
        let before = {
            let mut own = self.own();
            let before = own.numbered;
            own.numbered += hints.len().div_ceil(HINTS_PER_ITEM_MAX) as u64;
            before
        };
        let items = (before + 1..).zip(hints.chunks(HINTS_PER_ITEM_MAX));
        let puts: Vec<_> =
            items.map(|(number, item)| self.board.put_hints(&self.me.id, number, item)).collect();
        let last = before + puts.len() as u64;
        let puts = stream::iter(puts).buffer_unordered(ITEMS_AT_ONCE);
        puts.try_collect::<()>().await?;
        self.own().row.hints = last;
        self.beat().await.map(|_| ())
    }

    /// Removes the own row, at a clean stop: others need not wait until it does not move.
    pub async fn leave(&self) {
        let _beats_have_ended = self.beating.lock().await;
        self.own().left = true;
        if let Err(error) = self.board.remove(&self.me.id, self.me.epoch).await {
            tracing::warn!(%error, "the board row stays until it is seen not to move");
        }
    }

    async fn beat(&self) -> Result<Beat, StoreError> {
        let _one_at_a_time = self.beating.lock().await;
        let begun = Instant::now();
        let row = {
            let mut own = self.own();
            if own.left {
                return Ok(Beat::Written);
            }
            own.row.beat += 1;
            own.row.clone()
        };
        let beat = self.board.beat(&row, None).await?;
        if beat == Beat::Written {
            let mut own = self.own();
            // Judged here, since any write may be the one that ends a pause, also that of hints.
            if own.written.elapsed() >= BEAT_COUNTS {
                own.recovering = Some(Instant::now());
                self.events.send(BoardEvent::Revived);
            }
            // The write may be as old as its beginning.
            own.written = begun;
            own.said_deaf = row.deaf;
        }
        Ok(beat)
    }

    async fn beat_for_ever(&self) {
        let interval = Duration::from_millis(BEAT_INTERVAL_MS);
        loop {
            let _ = timeout(interval, self.beat_now.notified()).await;
            match self.beat().await {
                Ok(Beat::Written) => {}
                Ok(Beat::Taken) => return self.events.send_last(BoardEvent::Taken).await,
                Err(error) => {
                    tracing::warn!(%error, "the board row could not be written");
                    sleep(Duration::from_millis(500)).await;
                    self.beat_now.notify_one();
                }
            }
        }
    }

    async fn read_for_ever(&self, mut watched: Watched) {
        let events = &self.events;
        let interval = Duration::from_millis(READ_INTERVAL_MS);
        let mut last = Instant::now();
        let mut due = last + interval;
        loop {
            let rested = Instant::now() + interval / 4;
            let _ = timeout_at(due.max(rested), self.read_now.notified()).await;
            events.make_good();
            let begun = Instant::now();
            // From look to look, whatever one takes: by their number a death is noticed in time.
            due = begun + interval;
            match self.board.read().await {
                Ok(rows) => {
                    if begun.duration_since(last) >= BEAT_COUNTS {
                        events.send(BoardEvent::ReadAgain);
                    }
                    last = begun;
                    let (alive, found) = watched.judge(rows, begun);
                    self.show(View { begun, alive });
                    for death in found.dead.into_iter().filter(|id| *id != self.me.id) {
                        events.send(BoardEvent::Death(death));
                    }
                    self.read_hints(&mut watched, found.hints).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the board could not be read");
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    async fn read_hints(&self, watched: &mut Watched, newer: Vec<NewHints>) {
        for NewHints { id, after, last } in newer.into_iter().filter(|new| new.id != self.me.id) {
            match self.board.hints(&id, after).await {
                Ok((_, hints)) => {
                    // What stands behind the last is being written, and may yet give way. Up to it
                    // there may be none: numbers begin anywhere, and items end by their TTL.
                    watched.hints_read(&id, last);
                    if !hints.is_empty() {
                        self.events.send(BoardEvent::Hints(hints));
                    }
                }
                Err(error) => tracing::warn!(%error, process = %id, "hints are read again"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
