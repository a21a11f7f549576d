//! Tells the one who reads many outboxes which of them have something.
//!
//! A place stands on it once for all that waits in its outbox: the list is bounded by the sockets
//! of its reader.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// The place of an outbox that has none.
pub(super) const NO_PLACE: u32 = u32::MAX;

/// See the module. For one reader.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<Vec<u32>>,
    heard: Notify,
}

impl Bell {
    pub(super) fn ring(&self, place: u32) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let first = rung.is_empty();
        rung.push(place);
        drop(rung);
        if first {
            self.heard.notify_one();
        }
    }

    /// Waits until it rings. Cancel-safe.
    pub async fn rings(&self) {
        self.heard.notified().await;
    }

    /// Adds the places that it rang for since the last call to `places`.
    pub fn take(&self, places: &mut Vec<u32>) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        places.append(&mut rung);
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> Vec<u32> {
        let mut places = Vec::new();
        self.take(&mut places);
        places
    }
}
