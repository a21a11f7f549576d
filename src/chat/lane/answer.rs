//! The answer to one append, given exactly once.
//!
//! **Invariant.** An answer that is dropped unanswered (a lane that panicked, a runtime that ended)
//! says `unavailable`, so no sender waits for ever.

use std::sync::Arc;

use super::{Origin, Reply};
use crate::chat::{ChatError, Sent};
use crate::hub::Event;
use crate::protocol::{ConversationId, Entry, ErrorCode, Ref, SocketId, answer};

impl Reply {
    /// Answers with a refusal.
    pub fn refuse(self, reference: Option<&Ref>, error: &ChatError) {
        match self {
            Self::Socket(outbox) => {
                let (code, after) = (error.code, error.retry_after_ms);
                let frame = answer::error(code, &error.detail, reference, after);
                outbox.push(Event::Refused(frame));
            }
            // A caller that left no longer wants to know.
            Self::Call(caller) => drop(caller.send(Err(error.clone()))),
        }
    }

    /// `false`: a socket that has ended, and so does not hear it.
    fn sent(self, sent: Sent) -> bool {
        match self {
            Self::Socket(outbox) => outbox.offer(Event::Sent {
                reference: sent.reference,
                conversation: sent.conversation,
                seq: sent.seq,
                n: sent.n,
                timestamp: sent.timestamp,
            }),
            Self::Call(caller) => {
                drop(caller.send(Ok(sent)));
                true
            }
        }
    }
}

/// An answer that is still owed.
pub(super) struct Answer {
    reply: Option<Reply>,
    sender: Option<SocketId>,
    /// The ref that the client gave.
    shown: Option<Ref>,
    /// Who hands the entry on.
    pub(super) origin: Arc<dyn Origin>,
}

impl Answer {
    pub(super) fn new(reply: Reply, shown: Option<Ref>, origin: Arc<dyn Origin>) -> Self {
        let sender = match &reply {
            Reply::Socket(outbox) => Some(outbox.who.socket),
            Reply::Call(_) => None,
        };
        Self { reply: Some(reply), sender, shown, origin }
    }

    /// The socket that sent it.
    pub(super) fn sender(&self) -> Option<SocketId> {
        self.sender
    }

    /// Whether a session will hear it, and raise the sender's row in its time.
    pub(super) fn is_heard(&self) -> bool {
        matches!(&self.reply, Some(Reply::Socket(outbox)) if !outbox.is_closed())
    }

    /// `false`: its socket has ended, and no session will raise the sender's row.
    pub(super) fn sent(
        &mut self,
        conversation: &ConversationId,
        entry: &Entry,
        repeated: bool,
    ) -> bool {
        let Some(reply) = self.reply.take() else { return true };
        self.origin.count(if repeated { "repeated" } else { "stored" });
        reply.sent(Sent {
            reference: self.shown.take(),
            conversation: conversation.clone(),
            seq: entry.seq,
            n: entry.n,
            timestamp: entry.timestamp,
            repeated,
        })
    }

    pub(super) fn refuse(&mut self, error: &ChatError) {
        let Some(reply) = self.reply.take() else { return };
        self.origin.count(error.code.as_str());
        reply.refuse(self.shown.as_ref(), error);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.reply.is_some() {
            let detail = "this server stopped before it knew, send again with the same ref";
            self.refuse(&ChatError::new(ErrorCode::Unavailable, detail));
        }
    }
}
