//! Tells the one who reads many outboxes which of them have something.
//!
//! A place stands on it once for all that waits in its outbox: the list is bounded by the sockets
//! of its reader.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

/// The place of an outbox that has none.
pub(super) const NO_PLACE: u32 = u32::MAX;

/// See the module. For one reader.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<Vec<u32>>,
    reader: AtomicWaker,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ring(&self, place: u32) {
        let mut rung = self.lock();
        let first = rung.is_empty();
        rung.push(place);
        drop(rung);
        if first {
            self.reader.wake();
        }
    }

    /// Waits until there is something to be taken. Cancel-safe.
    pub async fn rings(&self) {
        std::future::poll_fn(|context| {
            if self.lock().is_empty() {
                self.reader.register(context.waker());
                // It may have rung meanwhile.
                if self.lock().is_empty() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Adds the places that it rang for since the last call to `places`.
    pub fn take(&self, places: &mut Vec<u32>) {
        places.append(&mut self.lock());
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> Vec<u32> {
        let mut places = Vec::new();
        self.take(&mut places);
        places
    }
}
