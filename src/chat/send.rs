//! Checks a send and puts it into its lane.
//!
//! What can be told from the ids alone is told here; whether somebody belongs to a room is judged
//! by the lane, in the order of the log.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::lane::{Append, Opens, Origin, Reply};
use super::{Chat, ChatError, Opening, Sent};
use crate::limits::Limit;
use crate::protocol::{ConversationId, DeviceId, ErrorCode, Kind, Ref, SendFrame, Target, UserId};

impl Chat {
    /// Checks who may say it and puts it into its lane. Never blocks on the store; every call gets
    /// exactly one answer through `reply`.
    pub fn submit(
        self: &Arc<Self>,
        from: &UserId,
        device: &DeviceId,
        frame: SendFrame,
        reply: Reply,
    ) {
        self.submit_opening(from, device, frame, self.opens(false), reply);
    }

    fn opens(&self, service: bool) -> Opens {
        match (service, self.opening) {
            (true, _) => Opens::Freely,
            (false, Opening::Anybody) => Opens::Within,
            (false, Opening::Services) => Opens::Never,
        }
    }

    fn submit_opening(
        self: &Arc<Self>,
        from: &UserId,
        device: &DeviceId,
        frame: SendFrame,
        opens: Opens,
        reply: Reply,
    ) {
        let conversation = Self::resolve(from, &frame.target).and_then(|conversation| {
            // A service speaks for many, and is trusted not to flood.
            if opens != Opens::Freely {
                let bytes = frame.message.len() + frame.data.as_ref().map_or(0, |d| d.get().len());
                self.one_of(Limit::Messages, from, bytes)?;
            }
            Ok(conversation)
        });
        let conversation = match conversation {
            Ok(conversation) => conversation,
            Err(error) => {
                self.metrics.count_message(error.code.as_str());
                return reply.refuse(frame.reference.as_ref(), &error);
            }
        };
        #[cfg(all(debug_assertions, not(fuzzing)))]
        let from = frame.claimed.as_ref().unwrap_or(from);
        let origin: Arc<dyn Origin> = self.clone();
        let has_room = self.lanes.submit(Append {
            to: conversation.other(from),
            conversation,
            from: from.clone(),
            device: device.clone(),
            kind: Kind::Message,
            message: Some(frame.message),
            data: frame.data,
            reference: frame.reference,
            after: frame.after,
            opens,
            reply,
            origin,
        });
        if !has_room {
            self.metrics.count_limited(Limit::Appends.as_str());
        }
    }

    /// The conversation that `from` means by `target`; `not_found` for a direct one of others.
    pub fn resolve(from: &UserId, target: &Target) -> Result<ConversationId, ChatError> {
        match target {
            Target::User(user) => Ok(ConversationId::direct(from, user)),
            Target::Conversation(id) if id.is_room() || id.is_between(from) => Ok(id.clone()),
            Target::Conversation(_) => Err(ChatError::not_found("conversation")),
        }
    }

    /// As [`Chat::submit`], waiting for the answer: the Message API's way. A service opens direct
    /// conversations, whoever else may not.
    pub async fn send(
        self: &Arc<Self>,
        from: &UserId,
        frame: SendFrame,
        reference: Option<Ref>,
        service: bool,
    ) -> Result<Sent, ChatError> {
        let (reply, answer) = oneshot::channel();
        let frame = SendFrame { reference: reference.or(frame.reference), ..frame };
        let opens = self.opens(service);
        self.submit_opening(from, &DeviceId::api(), frame, opens, Reply::Call(reply));
        answered(answer).await
    }
}

/// Waits for the answer of a lane.
pub(super) async fn answered(
    answer: oneshot::Receiver<Result<Sent, ChatError>>,
) -> Result<Sent, ChatError> {
    let stopped = || ChatError::new(ErrorCode::Unavailable, "this server stopped, send again");
    answer.await.unwrap_or_else(|_| Err(stopped()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ones_own_conversations_resolve() {
        let user = |name: &str| UserId::parse(name).unwrap();
        let target = |id: &str| Target::Conversation(ConversationId::parse(id).unwrap());
        let a = user("a");
        let direct = Chat::resolve(&a, &Target::User(user("b"))).unwrap();
        assert_eq!(direct.as_str(), "dm:a:b");
        assert_eq!(Chat::resolve(&a, &target("dm:a:b")).unwrap(), direct);
        assert_eq!(Chat::resolve(&a, &Target::User(a.clone())).unwrap().as_str(), "dm:a:a");
        assert_eq!(Chat::resolve(&a, &target("room:r")).unwrap().as_str(), "room:r");
        let foreign = Chat::resolve(&a, &target("dm:b:c")).unwrap_err();
        assert_eq!(foreign, ChatError::not_found("conversation"));
    }
}
