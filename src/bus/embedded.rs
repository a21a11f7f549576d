//! The bus of one process: bounded queues by name, nothing is serialised.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::inbox::Inbox;
use super::{Bus, BusError, Subscription};
use crate::protocol::{Envelope, ProcessId};

/// The bus of one process, shared by its parts.
#[derive(Debug, Default)]
pub struct EmbeddedBus {
    channels: Mutex<HashMap<ProcessId, Arc<Inbox>>>,
}

impl EmbeddedBus {
    fn channels(&self) -> MutexGuard<'_, HashMap<ProcessId, Arc<Inbox>>> {
        // A panic while the lock was held can't have left half an entry: each change is one call.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn publish(&self, to: &ProcessId, batch: &[Arc<Envelope>]) -> Result<(), BusError> {
        let inbox = self.channels().get(to).cloned();
        if let Some(inbox) = inbox.filter(|_| !batch.is_empty()) {
            if inbox.is_closed() {
                let mut channels = self.channels();
                if channels.get(to).is_some_and(|listed| Arc::ptr_eq(listed, &inbox)) {
                    channels.remove(to);
                }
            } else {
                inbox.push(batch.to_vec());
            }
        }
        Ok(())
    }

    async fn subscribe(&self, me: &ProcessId) -> Result<Subscription, BusError> {
        let (inbox, subscription) = Inbox::new();
        self.channels().insert(me.clone(), Arc::new(inbox));
        Ok(subscription)
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{self, probe, process};
    use super::super::{Heard, SUBSCRIPTION_BATCHES_MAX};
    use super::*;

    #[tokio::test]
    async fn passes_the_contract() {
        contract::all(&EmbeddedBus::default()).await;
    }

    #[tokio::test]
    async fn an_overflow_is_told() {
        let bus = EmbeddedBus::default();
        let me = process();
        let mut subscription = bus.subscribe(&me).await.unwrap();
        for number in 0..SUBSCRIPTION_BATCHES_MAX as u64 + 1 {
            bus.publish(&me, &[probe(number)]).await.unwrap();
        }
        for _ in 0..SUBSCRIPTION_BATCHES_MAX {
            assert!(matches!(subscription.recv().await, Some(Heard::Batch(_))));
        }
        assert!(matches!(subscription.recv().await, Some(Heard::Gap)));
    }

    #[tokio::test]
    async fn a_dropped_subscription_holds_no_memory() {
        let bus = EmbeddedBus::default();
        let me = process();
        drop(bus.subscribe(&me).await.unwrap());
        bus.publish(&me, &[probe(1)]).await.unwrap();
        assert!(bus.channels().is_empty());
    }
}
