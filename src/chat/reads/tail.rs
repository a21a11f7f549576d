//! The newest entry of a room, read once for all who ask together.
//!
//! **Invariant.** Nobody is answered by a read that began before the question: what was put in
//! between would be missing (claim before catch-up).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::InTurn;
use crate::protocol::{ConversationId, Seq};
use crate::store::{LogRange, StoreError};

/// The rooms that are asked about now.
#[derive(Debug, Default)]
pub(super) struct Tails(Mutex<HashMap<ConversationId, Arc<Tail>>>);

impl Tails {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ConversationId, Arc<Tail>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InTurn<'_> {
    /// The same for a room: one read for all who ask before it begins.
    pub async fn shared_tail(&self, room: &ConversationId) -> Result<Seq, StoreError> {
        let asking = Asking::new(&self.reads.tails, room);
        let number = asking.tail.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = asking.tail.last.lock().await;
        if let Some((answered, tail)) = &*last
            && *answered >= number
        {
            return tail.clone();
        }
        let _place = self.reads.place(self.turn).await;
        // All who have asked by now, and nobody later: the read begins here.
        let answered = asking.tail.asked.load(Ordering::SeqCst);
        let page = self.store.log(room, LogRange::newest(1)).await;
        let tail = page.map(|page| page.entries.first().map_or(0, |entry| entry.seq));
        *last = Some((answered, tail.clone()));
        tail
    }
}

/// The newest entry of a room, as it was read last.
#[derive(Debug, Default)]
pub(super) struct Tail {
    asked: AtomicU64,
    /// How many of those who asked are answered, and with what; held during a read.
    last: tokio::sync::Mutex<Option<(u64, Result<Seq, StoreError>)>>,
}

/// Somebody who asks for a tail. The last one takes it off the map.
struct Asking<'a> {
    tails: &'a Tails,
    room: &'a ConversationId,
    tail: Arc<Tail>,
}

impl<'a> Asking<'a> {
    fn new(tails: &'a Tails, room: &'a ConversationId) -> Self {
        let tail = tails.lock().entry(room.clone()).or_default().clone();
        Self { tails, room, tail }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut tails = self.tails.lock();
        // The map's and this one's.
        if let Entry::Occupied(known) = tails.entry(self.room.clone())
            && Arc::strong_count(known.get()) <= 2
        {
            known.remove();
        }
    }
}
