//! What a session leaves behind: cursors and rows that the store is yet to know, and who is told.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::board::SlowHint;
use crate::chat::Chat;
use crate::chat::session::Unstored;
use crate::hub::{Event, Outbox, Who};
use crate::protocol::{ConversationId, Envelope, Seq};
use crate::store::{Device, Record};

/// How many sockets that ended write at a time.
const ENDINGS_MAX: usize = 32;

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

    /// At the end of a socket: its cursors, and when its device was last seen. What the store does
    /// not take now is offered again at the next connect.
    pub(in crate::chat) async fn store_at_end(&self, who: &Who, unstored: Unstored) {
        // Many sockets may end at once. The store then takes their cursors in turn, and has room
        // for what people send meanwhile.
        let _turn = self.endings.acquire().await;
        for (conversation, raise) in unstored.raises {
            if let Err(error) = self.store.raise(&who.user, &conversation, &raise).await {
                tracing::warn!(%error, "a cursor was not stored, its texts are offered again");
            }
        }
        for (conversation, seq) in unstored.own {
            self.hint_own(who, &conversation, seq);
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
