//! Signals: typing and the like. Handed to the sockets of a conversation, at most once, never
//! stored.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::lane::not_opened;
use super::{Chat, ChatError, Opening};
use crate::hub::{Outbox, Who};
use crate::limits::Limit;
use crate::protocol::{ConversationKind, Envelope, ErrorCode, Ref, Target, UserId, answer};
use crate::store::{MailboxPart, Member, Record, RecordPart};
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
        let over = self.limits.take_one(Limit::Signals, &outbox.who.user).err();
        let permit = self.signals.clone().try_acquire_owned();
        let refuse = move |chat: &Self, outbox: &Outbox, error: &ChatError| {
            Metrics::count(&chat.metrics.refused, error.code.as_str());
            let retry = error.retry_after_ms;
            outbox.answer(answer::error(error.code, &error.detail, reference.as_ref(), retry));
        };
        if let Some(over) = over {
            return refuse(self, &outbox, &self.over(over));
        }
        let Ok(permit) = permit else {
            let detail = "too many signals are under way, send fewer";
            self.metrics.count_limited(Limit::Signals.as_str());
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
            ConversationKind::Room(_) => {
                let records = self.store.records(RecordPart::Roster(conversation.clone())).await?;
                let members = records.into_iter().filter_map(Record::into_member);
                members.filter(Member::present).map(|member| member.user).collect()
            }
        };
        if !users.contains(&who.user) {
            return Err(ChatError::not_found("conversation"));
        }
        let frame = answer::signal(&conversation, &who.user, &data);
        users.iter().for_each(|user| self.push_frame(user, Some(who.socket), &frame));
        let (from, conversation) = (&who.user, &conversation);
        let envelope = |users| Envelope::Signal {
            conversation: conversation.clone(),
            from: from.clone(),
            data: data.clone(),
            users,
        };
        // At most once: while Redis does not answer, signals are lost.
        let _ = self.publish_to_sockets_of(&users, envelope).await;
        Ok(())
    }
}
