//! From a stored entry to the sockets: locate, hub or bus, hints kept until confirmed.

use std::sync::Arc;

use super::Chat;
use crate::hub::Who;
use crate::protocol::{ConversationId, ProcessId, Receipt, Seq, UserId};

/// Hints under way and the publishers.
#[derive(Debug, Default)]
pub struct Router {}

impl Chat {
    /// A session's receipt: goes to `via`, or to the sockets of the other one of the conversation.
    pub fn received(
        self: &Arc<Self>,
        _who: &Who,
        _conversation: &ConversationId,
        _seq: Seq,
        _via: Option<&ProcessId>,
        _receipt: Receipt,
    ) {
        unimplemented!()
    }

    /// Tells the other participants' sockets, and the person's own, that `user` has seen `seq`.
    pub fn seen(self: &Arc<Self>, _user: &UserId, _conversation: &ConversationId, _seq: Seq) {
        unimplemented!()
    }

    /// Hands a signal to the sockets of these people, once, without keeping anything.
    pub fn signal(
        self: &Arc<Self>,
        _from: &UserId,
        _conversation: &ConversationId,
        _data: Arc<serde_json::value::RawValue>,
        _users: Vec<UserId>,
    ) {
        unimplemented!()
    }
}
