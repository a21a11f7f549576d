//! What is asked of a room (its newest entry, its roster), read once for all who ask together.
//!
//! **Invariant.** Nobody is answered by a read that began before the question: what was put in
//! between would be missing (claim before catch-up).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::ConversationId;

type Rooms<T> = HashMap<ConversationId, Arc<Asked<T>>>;

/// The rooms that are asked about now.
#[derive(Debug)]
pub(super) struct Together<T>(Mutex<Rooms<T>>);

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Together<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Rooms<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Together<T> {
    /// What `read` yields once it has its place, or what it yielded for somebody who asked later.
    pub(super) async fn ask<P>(
        &self,
        room: &ConversationId,
        place: impl Future<Output = P>,
        read: impl Future<Output = T>,
    ) -> T {
        let asking = Asking::new(self, room);
        let number = asking.asked.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = asking.asked.last.lock().await;
        if let Some((answered, found)) = &*last
            && *answered >= number
        {
            return found.clone();
        }
        let _place = place.await;
        // All who have asked by now, and nobody later: the read begins here.
        let answered = asking.asked.asked.load(Ordering::SeqCst);
        let found = read.await;
        *last = Some((answered, found.clone()));
        found
    }
}

/// What a room was asked, and how it was answered last.
#[derive(Debug)]
pub(super) struct Asked<T> {
    asked: AtomicU64,
    /// How many of those who asked are answered, and with what; held during a read.
    last: tokio::sync::Mutex<Option<(u64, T)>>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { asked: AtomicU64::new(0), last: tokio::sync::Mutex::new(None) }
    }
}

/// Somebody who asks. The last one takes the room off the map.
struct Asking<'a, T> {
    rooms: &'a Together<T>,
    room: &'a ConversationId,
    asked: Arc<Asked<T>>,
}

impl<'a, T> Asking<'a, T> {
    fn new(rooms: &'a Together<T>, room: &'a ConversationId) -> Self {
        let asked = rooms.lock().entry(room.clone()).or_default().clone();
        Self { rooms, room, asked }
    }
}

impl<T> Drop for Asking<'_, T> {
    fn drop(&mut self) {
        let mut rooms = self.rooms.lock();
        // The map's and this one's.
        if let Entry::Occupied(known) = rooms.entry(self.room.clone())
            && Arc::strong_count(known.get()) <= 2
        {
            known.remove();
        }
    }
}
