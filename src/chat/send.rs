//! Checks a send and puts it into its lane.

use std::sync::Arc;

use super::lane::Reply;
use super::{Chat, ChatError};
use crate::protocol::{ConversationId, DeviceId, Ref, SendFrame, Target, UserId};

impl Chat {
    /// Checks who may say it and puts it into its lane. Never blocks on the store; every call gets
    /// exactly one answer through `reply`.
    pub fn submit(
        self: &Arc<Self>,
        _from: &UserId,
        _device: &DeviceId,
        _frame: SendFrame,
        _reply: Reply,
    ) {
        unimplemented!()
    }

    /// The conversation that `from` means by `target`; `not_found` for a direct one of others.
    pub fn resolve(_from: &UserId, _target: &Target) -> Result<ConversationId, ChatError> {
        unimplemented!()
    }

    /// As [`Chat::submit`], waiting for the answer: the Message API's way.
    pub async fn send(
        self: &Arc<Self>,
        _from: &UserId,
        _frame: SendFrame,
        _reference: Option<Ref>,
    ) -> Result<super::Sent, ChatError> {
        unimplemented!()
    }
}
