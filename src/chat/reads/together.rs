//! What is asked of a room (its newest entry, its roster) or of a person's list, read once for all
//! who ask together.
//!
//! **Invariant.** Nobody is answered by a read that began before the question: what was put in
//! between would be missing (claim before catch-up).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Questions<K, T> = HashMap<K, Arc<Asked<T>>>;

/// What is asked about now.
#[derive(Debug)]
pub(in crate::chat) struct Together<K: Clone + Eq + Hash, T>(Mutex<Questions<K, T>>);

impl<K: Clone + Eq + Hash, T> Default for Together<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T> Together<K, T> {
    pub(in crate::chat) fn lock(&self) -> MutexGuard<'_, Questions<K, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, T: Clone> Together<K, T> {
    /// What `read` yields once it has its place, or what it yielded for somebody who asked later.
    pub(in crate::chat) async fn ask<P>(
        &self,
        about: &K,
        place: impl Future<Output = P>,
        read: impl Future<Output = T>,
    ) -> T {
        let asking = Asking::new(self, about);
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

/// Who asks, and what was answered last.
#[derive(Debug)]
pub(in crate::chat) struct Asked<T> {
    asked: AtomicU64,
    /// How many of those who asked are answered, and with what; held during a read.
    last: tokio::sync::Mutex<Option<(u64, T)>>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { asked: AtomicU64::new(0), last: tokio::sync::Mutex::new(None) }
    }
}

/// Somebody who asks. The last one takes what it was about off the map.
struct Asking<'a, K: Clone + Eq + Hash, T> {
    all: &'a Together<K, T>,
    about: &'a K,
    asked: Arc<Asked<T>>,
}

impl<'a, K: Clone + Eq + Hash, T> Asking<'a, K, T> {
    fn new(all: &'a Together<K, T>, about: &'a K) -> Self {
        let asked = all.lock().entry(about.clone()).or_default().clone();
        Self { all, about, asked }
    }
}

impl<K: Clone + Eq + Hash, T> Drop for Asking<'_, K, T> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // The map's and this one's.
        if let Entry::Occupied(known) = all.entry(self.about.clone())
            && Arc::strong_count(known.get()) <= 2
        {
            known.remove();
        }
    }
}
