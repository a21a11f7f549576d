//! The bus of one process: channels between its parts, nothing is encoded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Bus, BusError, Heard, SUBSCRIPTION_BATCHES_MAX, Subscription};
use crate::protocol::{Envelope, ProcessId};

#[derive(Debug)]
struct Listener {
    batches: mpsc::Sender<Heard>,
    /// A batch was dropped, and the listener has not been told yet.
    gap: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct EmbeddedBus {
    listeners: Mutex<HashMap<ProcessId, Listener>>,
}

impl EmbeddedBus {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProcessId, Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn publish(&self, to: &ProcessId, batch: &[Arc<Envelope>]) -> Result<(), BusError> {
        let mut listeners = self.lock();
        let Some(listener) = listeners.get_mut(to) else { return Ok(()) };
        if listener.gap && listener.batches.try_send(Heard::Gap).is_ok() {
            listener.gap = false;
        }
        match listener.batches.try_send(Heard::Batch(batch.to_vec())) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => listener.gap = true,
            Err(mpsc::error::TrySendError::Closed(_)) => drop(listeners.remove(to)),
        }
        Ok(())
    }

    async fn subscribe(&self, me: &ProcessId) -> Result<Subscription, BusError> {
        let (batches, subscription) = mpsc::channel(SUBSCRIPTION_BATCHES_MAX);
        self.lock().insert(me.clone(), Listener { batches, gap: false });
        Ok(subscription)
    }
}
