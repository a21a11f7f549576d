//! Sends all sockets away at an even rate, each once.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Gateway;
use crate::hub::{Event, Outbox};
use crate::protocol::CloseCode;

/// The fewest sockets a second: a handful is not kept waiting.
const RATE_MIN: f64 = 10.0;
/// How exactly the rate is kept.
const STEP: Duration = Duration::from_millis(2);
/// How long a client may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// The client waits a random part of a second, so that those of one step come apart.
pub(super) fn send_away(outbox: &Outbox) {
    outbox.push(Event::Reconnect(rand::random_range(0..1_000)));
    outbox.push(Event::Close(CloseCode::Restart));
}

impl Gateway {
    /// Takes no more sockets, tells every client to reconnect and closes with 1012, spread evenly
    /// over `limit`: sockets ÷ limit a second. Returns once all have ended, or with force 2 s
    /// after the last was told.
    pub async fn drain(&self, limit: Duration) {
        self.close();
        let outboxes = self.chat.hub.all();
        let rate = (outboxes.len() as f64 / limit.as_secs_f64().max(0.05)).max(RATE_MIN);
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
