//! Hints that nobody has confirmed in time: located anew and tried again, then put on the board.

use tokio::time::Instant;

use super::Chat;
use super::pending::{Key, Overdue};
use crate::directory::SocketEntry;
use crate::hub::Event;
use crate::protocol::{Envelope, ProcessId, Seq, UserId};
use crate::telemetry::Metrics;

/// How many people are located in one call.
const LOCATE_MAX: usize = 256;

impl Chat {
    /// Tries hints again that have waited too long; run by `keeper` twice a second. What waits for
    /// somebody who says deaf now, and was handed on before that, goes to the board. Once Redis
    /// does not answer all of them do: one failed call, not one for each, is waited for.
    pub(super) async fn retry_overdue(&self) {
        for over in self.router.pending.at_servers(&self.newly_deaf()) {
            self.put_on_board(over.key.slow_hint(over.seq));
        }
        let mut overdue = self.router.pending.overdue(Instant::now());
        overdue.iter().for_each(|_| Metrics::count(&self.metrics.hints, "again"));
        for over in overdue.extract_if(.., |over| over.last_try) {
            self.put_on_board(over.key.slow_hint(over.seq));
        }
        let mut answers = true;
        for some in overdue.chunks(LOCATE_MAX) {
            answers = answers && !self.keeper.is_deaf();
            match answers {
                true => answers = self.hand_on_again(some).await,
                false => some.iter().for_each(|over| self.give_up(&over.key, over.seq)),
            }
        }
    }

    /// Locates anew and sends bare hints: the receiving sessions read the texts from the store.
    /// `false`: Redis did not answer, and the hints went to the board.
    pub(super) async fn hand_on_again(&self, overdue: &[Overdue]) -> bool {
        let users: Vec<UserId> = overdue.iter().filter_map(|over| over.key.user.clone()).collect();
        let Ok(located) = self.directory.locate(&users).await else {
            self.redis_failed();
            overdue.iter().for_each(|over| self.give_up(&over.key, over.seq));
            return false;
        };
        let mut located = located.into_iter();
        for over in overdue {
            let Overdue { key, seq, handed_at, .. } = over;
            match &key.user {
                Some(user) => {
                    let entries = located.next().unwrap_or_default();
                    self.hint_again(key, user, *seq, &entries, *handed_at);
                }
                None => self.hint_room_again(key, *seq),
            }
        }
        true
    }

    /// A room's servers are asked again as a whole, each living one; here no answer is needed.
    fn hint_room_again(&self, key: &Key, seq: Seq) {
        self.hint_local_members(key.conversation.clone(), seq);
        let servers = self.other_servers(&self.liveness.view());
        for server in self.router.pending.relocated(key, servers) {
            self.publish_hint(&server, key, seq);
        }
    }

    fn hint_again(
        &self,
        key: &Key,
        user: &UserId,
        seq: Seq,
        located: &[SocketEntry],
        handed_at: Instant,
    ) {
        let view = self.liveness.view();
        let judged = view.begun > handed_at;
        let counts = |e: &&SocketEntry| !judged || view.is_alive(&e.server, e.epoch);
        let entries: Vec<SocketEntry> = located.iter().filter(counts).cloned().collect();
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

    /// The slow way, also for what was handed on since: the record ends here.
    fn give_up(&self, key: &Key, seq: Seq) {
        let seq = self.router.pending.close(key).map_or(seq, |last| last.max(seq));
        self.put_on_board(key.clone().slow_hint(seq));
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
