//! Hints that nobody has confirmed in time: located anew and tried again, then put on the board.

use tokio::time::Instant;

use super::Chat;
use super::pending::{Key, Overdue};
use crate::board::SlowHint;
use crate::directory::SocketEntry;
use crate::hub::Event;
use crate::protocol::{Envelope, ProcessId, Seq};
use crate::telemetry::Metrics;

impl Chat {
    /// Tries hints again that have waited too long; run by `keeper` twice a second.
    pub(super) async fn retry_overdue(&self) {
        for overdue in self.router.pending.overdue(Instant::now()) {
            Metrics::count(&self.metrics.hints, "again");
            let Overdue { key, seq, last_try, handed_at } = overdue;
            if last_try {
                let Key { conversation, user } = key;
                self.put_on_board(SlowHint { user, conversation, seq });
            } else {
                self.hand_on_again(&key, seq, handed_at).await;
            }
        }
    }

    /// Locates anew and sends the bare hint: the receiving session reads the text from the store.
    pub(super) async fn hand_on_again(&self, key: &Key, seq: Seq, handed_at: Instant) {
        let Some(user) = &key.user else {
            // A room's servers are asked again as a whole, each living one.
            let view = self.liveness.view();
            let servers: Vec<_> = view.alive.iter().map(|row| row.id.clone()).collect();
            for server in self.router.pending.relocated(key, servers) {
                self.publish_hint(&server, key, seq);
            }
            return;
        };
        let Ok(located) = self.directory.locate(std::slice::from_ref(user)).await else {
            self.router.pending.close(key);
            let conversation = key.conversation.clone();
            return self.put_on_board(SlowHint { user: Some(user.clone()), conversation, seq });
        };
        let view = self.liveness.view();
        let judged = view.begun > handed_at;
        let counts = |e: &&SocketEntry| !judged || view.is_alive(&e.server, e.epoch);
        let entries: Vec<SocketEntry> = located.iter().flatten().filter(counts).cloned().collect();
        let mut servers = self.remote_servers(Some(&entries));
        let local = self.hub.of(user);
        for outbox in &local {
            let (conversation, via) = (key.conversation.clone(), Some(self.me.id.clone()));
            outbox.push(Event::Hint { conversation, seq, via });
        }
        if !local.is_empty() {
            servers.push(self.me.id.clone());
        }
        let asked = self.router.pending.relocated(key, servers);
        for server in asked.iter().filter(|server| **server != self.me.id) {
            self.publish_hint(server, key, seq);
        }
    }

    fn publish_hint(&self, server: &ProcessId, key: &Key, seq: Seq) {
        let envelope = Envelope::Hint {
            conversation: key.conversation.clone(),
            seq,
            users: key.user.iter().cloned().collect(),
            via: Some(self.me.id.clone()),
        };
        self.publish(server, envelope);
    }
}
