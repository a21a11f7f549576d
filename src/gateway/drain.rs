//! Sends all sockets away at an even rate, each once.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Gateway;
use crate::hub::{Event, Outbox};
use crate::protocol::CloseCode;

/// The fewest sockets a second: a handful is not kept waiting.
const RATE_MIN: u64 = 200;
/// How often some are sent away.
const STEP: Duration = Duration::from_millis(50);
/// How long a client may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// The client waits a random part of a second, so that those of one step come apart.
pub(super) fn send_away(outbox: &Outbox) {
    outbox.push(Event::Reconnect(rand::random_range(0..1_000)));
    outbox.push(Event::Close(CloseCode::Restart));
}

impl Gateway {
    /// Takes no more sockets, tells every client to reconnect and closes with 1012, spread evenly
    /// over `limit`. Returns once all have ended, or a little after the limit, then with force.
    pub async fn drain(&self, limit: Duration) {
        self.open.store(false, std::sync::atomic::Ordering::Relaxed);
        let outboxes = self.chat.hub.all();
        let count = outboxes.len() as u64;
        // The last ones need time to say goodbye within the limit.
        let seconds = limit.saturating_sub(GOODBYE).as_secs_f64().max(0.05);
        let rate = (count as f64 / seconds).max(RATE_MIN as f64);
        let begun = Instant::now();
        for (number, outbox) in outboxes.iter().enumerate() {
            let due = begun + Duration::from_secs_f64(number as f64 / rate);
            if due > Instant::now() + STEP {
                sleep_until(due).await;
            }
            send_away(outbox);
        }
        self.sockets.close();
        let left = limit.saturating_sub(begun.elapsed()).max(GOODBYE);
        if tokio::time::timeout(left, self.sockets.wait()).await.is_err() {
            tracing::warn!(left = self.chat.hub.all().len(), "sockets that did not end are cut");
            self.abort.cancel();
            let _ = tokio::time::timeout(GOODBYE, self.sockets.wait()).await;
        }
    }
}
