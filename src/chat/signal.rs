//! Signals: typing and the like. Handed to the sockets of a conversation, at most once, never
//! stored.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{Chat, ChatError};
use crate::hub::Who;
use crate::protocol::{ConversationKind, Envelope, Target, UserId, answer};
use crate::store::{Record, RecordPart};

impl Chat {
    /// Hands a signal to everybody else in the conversation, and to the sender's other sockets.
    /// Who has no part in the conversation is told that there is none (P9).
    pub async fn signal(
        self: &Arc<Self>,
        who: &Who,
        target: &Target,
        data: Arc<RawValue>,
    ) -> Result<(), ChatError> {
        let conversation = Self::resolve(&who.user, target)?;
        let users: Vec<UserId> = match conversation.kind() {
            ConversationKind::Direct(a, b) if a == b => vec![a],
            ConversationKind::Direct(a, b) => vec![a, b],
            ConversationKind::Room(_) => {
                let records = self.store.records(RecordPart::Roster(conversation.clone())).await?;
                let present = |record| match record {
                    Record::Member(_, member) if member.present() => Some(member.user),
                    _ => None,
                };
                records.into_iter().filter_map(present).collect()
            }
        };
        if !users.contains(&who.user) {
            return Err(ChatError::not_found("conversation"));
        }
        let frame = answer::signal(&conversation, &who.user, &data);
        users.iter().for_each(|user| self.push_frame(user, Some(who.socket), &frame));
        let from = who.user.clone();
        self.publish_to_sockets_of(users, move |users| Envelope::Signal {
            conversation: conversation.clone(),
            from: from.clone(),
            data: data.clone(),
            users,
        });
        Ok(())
    }
}
