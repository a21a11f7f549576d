//! How far this socket had come in conversations whose positions were dropped a moment ago.
//!
//! A copy of a text may come late, behind what followed it. Where the position is gone by then, the
//! row alone would not tell it from one that the socket still has to get (see `Position::load`).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::{ConversationId, Seq};

/// How long one is kept: no text is on its way for longer.
const KEPT: Duration = Duration::from_secs(60);
/// How many are kept.
const KEPT_MAX: usize = 32;

/// See the module. Holds no memory while nothing happens.
#[derive(Debug, Default)]
pub(super) struct Past(VecDeque<(ConversationId, Seq, Instant)>);

impl Past {
    /// All up to `seq` was passed here, last at `at`.
    pub fn keep(&mut self, conversation: ConversationId, seq: Seq, at: Instant) {
        self.0.retain(|(known, ..)| *known != conversation);
        if self.0.len() >= KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((conversation, seq, at));
    }

    /// How far it had come; 0 where that is not known.
    pub fn of(&self, conversation: &ConversationId) -> Seq {
        self.0.iter().find(|(known, ..)| known == conversation).map_or(0, |(_, seq, _)| *seq)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets go of what is old.
    pub fn tick(&mut self, now: Instant) {
        self.0.retain(|(.., at)| now.duration_since(*at) < KEPT);
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }
}
