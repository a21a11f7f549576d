//! Signals: typing and the like. Handed to the sockets of a conversation, at most once, never
//! stored.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::audience::version;
use super::lane::not_opened;
use super::reads::{InTurn, Turn};
use super::route::ROOM_LOCATE_MAX;
use super::{Chat, ChatError, Opening, roster};
use crate::hub::{Outbox, Who};
use crate::limits::Limit;
use crate::protocol::{
    ConversationId, ConversationKind, Envelope, ErrorCode, Ref, Seq, Target, UserId, answer,
};
use crate::store::MailboxPart;
use crate::telemetry::Metrics;

/// How many signals of one server may be under way; a store that does not answer holds those of
/// rooms.
pub const SIGNALS_MAX: usize = 1_024;

impl Chat {
    /// Hands a signal on without waiting for it; only a refusal is answered.
    pub fn submit_signal(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        target: Target,
        data: Arc<RawValue>,
        reference: Option<Ref>,
    ) {
        let (chat, outbox) = (self.clone(), outbox.clone());
        let over = self.one_of(Limit::Signals, &outbox.who.user, data.get().len()).err();
        let permit = self.signals.clone().try_acquire_owned();
        let refuse = move |chat: &Self, outbox: &Outbox, error: &ChatError| {
            Metrics::count(&chat.metrics.refused, error.code.as_str());
            let retry = error.retry_after_ms;
            outbox.answer(answer::error(error.code, &error.detail, reference.as_ref(), retry));
        };
        if let Some(over) = over {
            return refuse(self, &outbox, &over);
        }
        let Ok(permit) = permit else {
            let detail = "too many signals are under way, send fewer";
            self.metrics.count_limited(Limit::SignalsUnderWay.as_str());
            return refuse(self, &outbox, &ChatError::new(ErrorCode::RateLimited, detail));
        };
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = chat.signal(&outbox.who, &target, data).await {
                refuse(&chat, &outbox, &error);
            }
        });
    }

    /// Hands a signal to everybody else in the conversation, and to the sender's other sockets.
    /// Who has no part in the conversation is told that there is none (P9).
    async fn signal(
        self: &Arc<Self>,
        who: &Who,
        target: &Target,
        data: Arc<RawValue>,
    ) -> Result<(), ChatError> {
        let conversation = Self::resolve(&who.user, target)?;
        if self.opening == Opening::Services && !conversation.is_room() {
            let row = MailboxPart::Row(conversation.clone());
            if self.store.mailbox(&who.user, row).await?.rows.is_empty() {
                return Err(not_opened());
            }
        }
        let users: Vec<UserId> = match conversation.kind() {
            ConversationKind::Direct(a, b) if a == b => vec![a],
            ConversationKind::Direct(a, b) => vec![a, b],
            ConversationKind::Room(_) => return self.signal_room(who, &conversation, &data).await,
        };
        if !users.contains(&who.user) {
            return Err(ChatError::not_found("conversation"));
        }
        let frame = answer::signal(&conversation, &who.user, &data);
        users.iter().for_each(|user| self.push_frame(user, Some(who.socket), &frame));
        let envelope = |users| envelope(&conversation, &who.user, &data, users, None);
        // At most once: while Redis does not answer, signals are lost.
        let _ = self.publish_to_sockets_of(&users, envelope).await;
        Ok(())
    }

    /// A room's goes the way of its entries: the members of a large one are not looked up one by
    /// one. Its roster is read once for all who signal there together.
    async fn signal_room(
        self: &Arc<Self>,
        who: &Who,
        room: &ConversationId,
        data: &Arc<RawValue>,
    ) -> Result<(), ChatError> {
        let store = InTurn::new(&*self.store, &self.reads, Turn::Live);
        let members = store.shared_roster(room).await?;
        if !roster::present(&members).any(|member| member.user == who.user) {
            return Err(ChatError::not_found("conversation"));
        }
        self.signal_members(&members, &answer::signal(room, &who.user, data), Some(who.socket));
        let envelope = |users, at| envelope(room, &who.user, data, users, at);
        if roster::present(&members).count() > ROOM_LOCATE_MAX {
            let at = Some(version(&members));
            for server in self.other_servers(&self.liveness.view()) {
                self.publish(&server, envelope(Vec::new(), at));
            }
            return Ok(());
        }
        let users: Vec<_> = roster::present(&members).map(|member| member.user.clone()).collect();
        let _ = self.publish_to_sockets_of(&users, |users| envelope(users, None)).await;
        Ok(())
    }
}

fn envelope(
    conversation: &ConversationId,
    from: &UserId,
    data: &Arc<RawValue>,
    users: Vec<UserId>,
    roster: Option<Seq>,
) -> Envelope {
    let (conversation, from, data) = (conversation.clone(), from.clone(), data.clone());
    Envelope::Signal { conversation, from, data, users, roster }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::board::Board;
    use crate::bus::{Bus, Heard};
    use crate::chat::testing::{Part, board_row, user};
    use crate::protocol::ProcessId;
    use crate::store::{Member, Record, Span, Store};

    fn room() -> ConversationId {
        ConversationId::parse("room:r").unwrap()
    }

    async fn joins(part: &Part, name: &str, until: Option<Seq>) {
        let (role, spans) = ("member".to_owned(), vec![Span { after: 0, until }]);
        let member = Member { user: user(name), role, spans, as_of: until.unwrap_or(1) };
        part.ports.write(Record::Member(room(), member)).await.unwrap();
    }

    fn data() -> Arc<RawValue> {
        Arc::from(RawValue::from_string("{}".to_owned()).unwrap())
    }

    fn hear(part: &Part, envelope: &Envelope) {
        let Envelope::Signal { conversation, from, data, roster: Some(at), .. } = envelope else {
            panic!("{envelope:?}")
        };
        part.chat.hear_room_signal(conversation, answer::signal(conversation, from, data), *at);
    }

    /// Time is paused: it goes on once all have asked.
    #[tokio::test(start_paused = true)]
    async fn a_large_room_costs_one_roster_and_an_envelope_a_server() {
        let part = Part::new().await;
        let mut ws3 = part.ports.subscribe(&ProcessId::parse("ws3").unwrap()).await.unwrap();
        for number in 0..=ROOM_LOCATE_MAX {
            joins(&part, &format!("user-{number}"), None).await;
        }
        joins(&part, "gone", Some(5)).await;
        let (sender, other) = (part.enter("user-0", "a"), part.enter("user-1", "b"));
        let gone = part.enter("gone", "c");
        part.board.beat(&board_row("ws3", 9), None).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        // Nobody is looked up, or this fails.
        part.ports.map_takes_ms.store(100_000, Ordering::Relaxed);
        part.ports.reads_take_ms.store(10, Ordering::Relaxed);
        part.ports.trace();
        let target = Target::Conversation(room());
        let signals = (0..20).map(|_| part.chat.signal(&sender.who, &target, data()));
        let signalled = tokio::time::timeout(LONG, join_all(signals)).await.unwrap();
        assert!(signalled.iter().all(Result::is_ok), "{signalled:?}");
        let reads = part.ports.trace().iter().filter(|call| *call == "roster").count();
        assert_eq!(reads, 2, "the first one's, and that of all others");
        let heard = tokio::time::timeout(LONG, ws3.recv()).await.unwrap();
        let Some(Heard::Batch(batch)) = heard else { panic!() };
        let Envelope::Signal { users, roster, .. } = &*batch[0] else { panic!() };
        assert_eq!((users.len(), *roster), (0, Some(5)));
        assert_eq!(other.take().now_or_never().unwrap().len(), 20);
        assert!(sender.take().now_or_never().is_none() && gone.take().now_or_never().is_none());
        // As it comes to a server that has not read the roster, and to one that has.
        hear(&part, &batch[0]);
        assert_eq!(tokio::time::timeout(LONG, other.take()).await.unwrap().len(), 1);
        hear(&part, &batch[0]);
        assert_eq!(other.take().now_or_never().unwrap().len(), 1, "known by now");
        assert!(gone.take().now_or_never().is_none(), "gone since 5");
    }

    const LONG: std::time::Duration = std::time::Duration::from_secs(10);

    #[tokio::test]
    async fn nobody_signals_a_room_without_being_there() {
        let part = Part::new().await;
        joins(&part, "gone", Some(5)).await;
        for name in ["gone", "stranger"] {
            let socket = part.enter(name, "a");
            let target = Target::Conversation(room());
            let refused = part.chat.signal(&socket.who, &target, data()).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::NotFound, "{name}");
        }
    }
}
