//! What is left behind when a session ends.

use crate::protocol::{ConversationId, Seq};
use crate::store::Raise;

/// What the store does not know yet when a session ends.
#[derive(Debug, Default)]
pub struct Unstored {
    /// The session got its mailbox, so its device is registered.
    pub entered: bool,
    /// Cursors, and rows of own sends.
    pub raises: Vec<(ConversationId, Raise)>,
    /// Own sends whose rows these raise.
    pub own: Vec<(ConversationId, Seq)>,
    /// What its person has seen.
    pub sees: Vec<(ConversationId, Seq)>,
}

impl Unstored {
    /// An own send was stored at `seq`. Nobody but its session raises the row of a sender without
    /// further devices.
    pub fn sent(&mut self, conversation: &ConversationId, seq: Seq) {
        if conversation.is_room() {
            return;
        }
        match self.raises.iter_mut().find(|(known, _)| known == conversation) {
            Some((_, raise)) => raise.last = raise.last.max(Some(seq)),
            None => {
                let raise = Raise { last: Some(seq), ..Raise::default() };
                self.raises.push((conversation.clone(), raise));
            }
        }
        match self.own.iter_mut().find(|(known, _)| known == conversation) {
            Some((_, known)) => *known = seq.max(*known),
            None => self.own.push((conversation.clone(), seq)),
        }
    }
}
