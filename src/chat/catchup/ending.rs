//! What a session leaves behind: cursors and rows that the store is yet to know, and who is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::see;
use crate::board::SlowHint;
use crate::chat::Chat;
use crate::chat::reads::{InTurn, Turn};
use crate::chat::session::Unstored;
use crate::hub::{Event, Outbox, Who};
use crate::protocol::{ConversationId, Envelope, Seq};
use crate::store::{Device, Record, StoreError};

/// How many sockets that ended write at a time.
const ENDINGS_MAX: usize = 32;
/// How long one waits for its turn: as long as that sockets that end are remembered at most.
const TURN_WAITS: Duration = Duration::from_secs(30);

/// The turns of sockets that ended.
pub(in crate::chat) fn endings() -> Semaphore {
    Semaphore::new(ENDINGS_MAX)
}

impl Chat {
    /// A socket is found no more, and takes nothing in. Gives what it has not heard.
    pub fn leave(&self, outbox: &Outbox) -> VecDeque<Event> {
        self.hub.leave(&outbox.who.user, outbox.who.socket);
        let unheard = outbox.close();
        self.metrics.sockets.dec();
        unheard
    }

    /// The end of a socket: it leaves, and what its session knows better than the store is stored.
    /// An answer that its session has not heard counts as heard.
    pub async fn end(self: Arc<Self>, outbox: Arc<Outbox>, mut unstored: Unstored) {
        for event in self.leave(&outbox) {
            if let Event::Sent { conversation, seq, .. } = event {
                unstored.sent(&conversation, seq);
            }
        }
        // Out of the map first: from here on a sender looks elsewhere, or nowhere.
        self.release(&outbox).await;
        self.store_at_end(&outbox.who, unstored).await;
    }

    /// At the end of a socket: its cursors, what its person has seen, and when its device was last
    /// seen. Texts whose cursor the store does not take now are offered again at the next connect.
    pub(in crate::chat) async fn store_at_end(&self, who: &Who, unstored: Unstored) {
        // Many sockets may end at once. The store then takes their cursors in turn, and has room
        // for what people send meanwhile.
        let turn = timeout(TURN_WAITS, self.endings.acquire()).await;
        let mut takes = turn.is_ok();
        for (conversation, raise) in unstored.raises {
            takes = takes && goes_on(self.store.raise(&who.user, &conversation, &raise).await);
        }
        for (conversation, seq) in unstored.own {
            self.hint_own(who, &conversation, seq);
        }
        for (conversation, seq) in unstored.sees {
            takes = takes && goes_on(self.see_at_end(who, &conversation, seq).await);
        }
        if !takes {
            tracing::debug!("the store is away: what is left of a socket's end is left out");
            return;
        }
        if !unstored.entered {
            // A device must not be known before its starts are: it would be pushed everything.
            return;
        }
        let now = (self.clock)();
        let device = Device { device: who.device.clone(), first_seen: now, last_seen: now };
        let record = Record::Device(who.user.clone(), device);
        if let Err(error) = self.store.write(record).await {
            tracing::debug!(%error, "last seen was not stored");
        }
    }

    async fn see_at_end(
        &self,
        who: &Who,
        conversation: &ConversationId,
        seq: Seq,
    ) -> Result<(), StoreError> {
        let store = InTurn::new(&*self.store, &self.reads, Turn::Live);
        let seen = see(&store, &who.user, conversation, seq, None).await?;
        if let (Some(seq), Some(chat)) = (seen, self.this.upgrade()) {
            chat.seen(&who.user, conversation, seq);
        }
        Ok(())
    }

    /// The lazy raise for an own send is stored. A device that entered before it did not see it in
    /// its mailbox, and the send may not have found its socket: the others look once more.
    pub fn hint_own(&self, who: &Who, conversation: &ConversationId, seq: Seq) {
        let Some(chat) = self.this.upgrade().filter(|_| !conversation.is_room()) else { return };
        for outbox in self.hub.of(&who.user) {
            if outbox.who.socket != who.socket {
                outbox.push(Event::Hint { conversation: conversation.clone(), seq, via: None });
            }
        }
        let (user, conversation) = (who.user.clone(), conversation.clone());
        let slow = SlowHint { user: Some(user.clone()), conversation: conversation.clone(), seq };
        let Some(permit) = self.router.permit() else { return self.put_on_board(slow) };
        tokio::spawn(async move {
            let hint = |users| Envelope::Hint {
                conversation: conversation.clone(),
                seq,
                users,
                via: None,
            };
            if chat.publish_to_sockets_of(&[user], hint).await.is_err() {
                chat.redis_failed();
                chat.put_on_board(slow);
            }
            drop(permit);
        });
    }
}

/// Whether the store is asked for more: while it is away each call waits for seconds.
fn goes_on(result: Result<(), StoreError>) -> bool {
    let Err(error) = result else { return true };
    tracing::warn!(%error, "a cursor or a read was not stored at a socket's end");
    !error.retryable()
}
