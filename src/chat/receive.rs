//! What the bus brings: entries and hints for local sockets, receipts for hints of this process.

use std::sync::Arc;

use tokio::time::Instant;

use super::Chat;
use super::pending::Key;
use super::route::Texts;
use crate::bus::Heard;
use crate::hub::{Event, Outbox, Who};
use crate::planted::{Bug, planted};
use crate::protocol::{
    ConversationId, DeviceId, Entry, Envelope, ProcessId, Receipt, Seq, UserId, answer,
};

impl Chat {
    /// Handles what a subscription yielded. Never waits: what must be read is read elsewhere.
    pub(super) fn heard(self: &Arc<Self>, heard: Heard) {
        match heard {
            Heard::Batch(batch) => batch.iter().for_each(|envelope| self.hear(envelope)),
            Heard::Gap if planted(Bug::GapIgnored) => {}
            Heard::Gap => self.start_over("the bus had a gap"),
        }
    }

    fn hear(self: &Arc<Self>, envelope: &Envelope) {
        if !stays_between(envelope) {
            return tracing::debug!("an envelope names strangers to its conversation, dropped");
        }
        match envelope {
            Envelope::Entry { conversation, entry, users, via, again, roster } => {
                self.lanes.hear(conversation, entry.seq);
                if users.is_empty() {
                    self.hear_room_entry(conversation, entry, via, *roster);
                } else {
                    self.hear_entry(conversation, entry, users, via, *again);
                }
            }
            Envelope::Hint { conversation, seq, users, via } => {
                self.hear_hint(conversation, *seq, users, via.as_ref());
            }
            Envelope::Receipt { conversation, seq, user, device, receipt, server } => {
                let key = Key { conversation: conversation.clone(), user: user.clone() };
                self.hear_receipt(&key, *seq, device.as_ref(), *receipt, server);
            }
            Envelope::Status { conversation, seq, by, read, users } => {
                self.push_status(users, conversation, *seq, by, *read);
            }
            Envelope::Signal { conversation, from, data, users, roster } => {
                let frame = answer::signal(conversation, from, data);
                match roster {
                    Some(at) => self.hear_room_signal(conversation, frame, *at),
                    None => users.iter().for_each(|user| self.push_frame(user, None, &frame)),
                }
            }
            Envelope::End { user, socket } => self.end_socket(user, *socket),
            Envelope::Revoked { user, .. } => self.hear_revoked(user),
            Envelope::Probe { number } => self.keeper.hear_probe(*number),
        }
    }

    fn hear_entry(
        self: &Arc<Self>,
        conversation: &ConversationId,
        entry: &Entry,
        users: &[UserId],
        via: &ProcessId,
        again: bool,
    ) {
        let texts = Texts::default();
        for user in users {
            let outboxes = self.hub.of(user);
            if outboxes.is_empty() {
                self.answer(conversation, entry.seq, Some(user), via, Receipt::Gone);
                self.remove_ghosts(user);
            }
            for outbox in outboxes {
                self.push_entry(&outbox, conversation, entry, &texts, via, again);
            }
        }
        if conversation.is_room() {
            self.answer(conversation, entry.seq, None, via, Receipt::Have);
        }
    }

    pub(super) fn push_entry(
        &self,
        outbox: &Outbox,
        conversation: &ConversationId,
        entry: &Entry,
        texts: &Texts,
        via: &ProcessId,
        again: bool,
    ) {
        outbox.push(Event::Text {
            conversation: conversation.clone(),
            seq: entry.seq,
            n: entry.n,
            text: texts.of(conversation, entry, outbox.who.user == entry.from),
            via: via.clone(),
            again,
        });
    }

    fn hear_hint(
        self: &Arc<Self>,
        conversation: &ConversationId,
        seq: Seq,
        users: &[UserId],
        via: Option<&ProcessId>,
    ) {
        for user in users {
            let outboxes = self.hub.of(user);
            if let (true, Some(via)) = (outboxes.is_empty(), via) {
                self.answer(conversation, seq, Some(user), via, Receipt::Gone);
                self.remove_ghosts(user);
            }
            for outbox in outboxes {
                let (conversation, via) = (conversation.clone(), via.cloned());
                outbox.push(Event::Hint { conversation, seq, via });
            }
        }
        if users.is_empty() {
            self.hint_local_members(conversation.clone(), seq);
        }
        if let (true, Some(via)) = (conversation.is_room(), via) {
            self.answer(conversation, seq, None, via, Receipt::Have);
        }
    }

    pub(super) fn answer(
        self: &Arc<Self>,
        conversation: &ConversationId,
        seq: Seq,
        user: Option<&UserId>,
        via: &ProcessId,
        receipt: Receipt,
    ) {
        if *via == self.me.id {
            let key = Key { conversation: conversation.clone(), user: user.cloned() };
            return self.hear_receipt(&key, seq, None, receipt, &self.me.id.clone());
        }
        let envelope = Envelope::Receipt {
            conversation: conversation.clone(),
            seq,
            user: user.cloned(),
            device: None,
            receipt,
            server: self.me.id.clone(),
        };
        self.publish(via, envelope);
    }

    /// A session's receipt: goes to `via`, or, where the text came from the store, to the sockets
    /// of the other one of a direct conversation.
    pub fn received(
        self: &Arc<Self>,
        who: &Who,
        conversation: &ConversationId,
        seq: Seq,
        via: Option<&ProcessId>,
        receipt: Receipt,
    ) {
        if receipt == Receipt::Delivered {
            self.metrics.received.inc();
        }
        if conversation.is_room() {
            return;
        }
        match via {
            Some(via) if *via == self.me.id => {
                let key = Key { conversation: conversation.clone(), user: Some(who.user.clone()) };
                self.hear_receipt(&key, seq, Some(&who.device), receipt, &self.me.id.clone());
            }
            Some(via) => {
                let envelope = Envelope::Receipt {
                    conversation: conversation.clone(),
                    seq,
                    user: Some(who.user.clone()),
                    device: Some(who.device.clone()),
                    receipt,
                    server: self.me.id.clone(),
                };
                self.publish(via, envelope);
            }
            None if receipt == Receipt::Delivered => {
                let other = conversation.other(&who.user).filter(|other| *other != who.user);
                self.tell_status(other.into_iter().collect(), conversation, seq, &who.user, false);
            }
            None => {}
        }
    }

    fn hear_receipt(
        self: &Arc<Self>,
        key: &Key,
        seq: Seq,
        device: Option<&DeviceId>,
        receipt: Receipt,
        server: &ProcessId,
    ) {
        let now = Instant::now();
        if receipt == Receipt::Gone {
            if let Some(over) = self.router.pending.gone(key, server, seq) {
                // Beyond the bound it waits for its next try, as what nobody answers does.
                let Some(permit) = self.router.permit() else { return };
                let chat = self.clone();
                tokio::spawn(async move {
                    chat.hand_on_again(&[over]).await;
                    drop(permit);
                });
            }
            return;
        }
        let delivered = receipt == Receipt::Delivered;
        let confirmed = self.router.pending.confirm(key, server, seq, delivered, now);
        if let Some(took) = confirmed.took {
            self.metrics.delivery_seconds.observe(took.as_secs_f64());
        }
        let Some(user) = &key.user else { return };
        if let (true, Some(device)) = (delivered, device) {
            self.lanes.note_received(&key.conversation, user, device, seq);
        }
        let late = delivered && confirmed.forgotten;
        if !late && confirmed.tell.is_none() {
            return;
        }
        let sender = key.conversation.other(user).filter(|sender| sender != user);
        let Some(sender) = sender else { return };
        if late {
            return self.tell_status(vec![sender], &key.conversation, seq, user, false);
        }
        if let Some(servers) = confirmed.tell {
            self.push_status(std::slice::from_ref(&sender), &key.conversation, seq, user, false);
            for server in servers {
                self.publish_status(&server, vec![sender.clone()], &key.conversation, seq, user);
            }
        }
    }
}

/// Whether an envelope of a direct conversation names nobody but its two people: whoever published
/// it, nobody else hears of it (P9), and nobody else is believed to have received.
fn stays_between(envelope: &Envelope) -> bool {
    let (conversation, users) = match envelope {
        Envelope::Entry { conversation, users, .. }
        | Envelope::Hint { conversation, users, .. }
        | Envelope::Status { conversation, users, .. }
        | Envelope::Signal { conversation, users, .. } => (conversation, &users[..]),
        Envelope::Receipt { conversation, user, .. } => (conversation, user.as_slice()),
        Envelope::End { .. } | Envelope::Revoked { .. } | Envelope::Probe { .. } => return true,
    };
    conversation.is_room() || users.iter().all(|user| conversation.is_between(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_between_two_is_for_them_alone() {
        let hint = |conversation: &str, users: &[&str]| Envelope::Hint {
            conversation: ConversationId::parse(conversation).unwrap(),
            seq: 1,
            users: users.iter().map(|user| UserId::parse(user).unwrap()).collect(),
            via: None,
        };
        for users in [&["a", "b"][..], &["b"], &[]] {
            assert!(stays_between(&hint("dm:a:b", users)), "{users:?}");
        }
        for users in [&["mallory"][..], &["a", "mallory"], &["ab"]] {
            assert!(!stays_between(&hint("dm:a:b", users)), "{users:?}");
        }
        let receipt = |conversation: &str, user: &str| Envelope::Receipt {
            conversation: ConversationId::parse(conversation).unwrap(),
            seq: 1,
            user: UserId::parse(user).ok(),
            device: None,
            receipt: Receipt::Delivered,
            server: ProcessId::parse("ws1").unwrap(),
        };
        assert!(stays_between(&receipt("dm:a:b", "b")));
        assert!(!stays_between(&receipt("dm:a:b", "mallory")));
        // Who is in a room, its members' items say.
        assert!(stays_between(&hint("room:r", &["anybody"])));
        assert!(stays_between(&receipt("room:r", "anybody")));
        let user = UserId::parse("a").unwrap();
        assert!(stays_between(&Envelope::End { user, socket: crate::protocol::SocketId(1) }));
    }
}
