//! What a device has sent and has no answer for.
//!
//! Behaves as docs/protocol.md asks: the same `ref`, body and `after` in every try, on any
//! connection, until the answer is `sent` or a refusal for good.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

/// How long to wait after the first retryable error, if it does not say more; doubled each time.
const RETRY: Duration = Duration::from_millis(250);
/// No wait is longer: a round is short.
const RETRY_MAX: Duration = Duration::from_secs(3);

/// A send without its answer.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// Where to.
    pub conversation: String,
    /// Random, the same in all tries.
    pub reference: String,
    /// Unique in the run.
    pub body: String,
    /// The highest seq that was known at the first try; never moved.
    pub after: u64,
    /// How often it has left.
    pub tries: u32,
    /// When the newest try left, if its answer is still to come.
    pub left: Option<Instant>,
    /// When it was first to leave.
    since: Instant,
    /// When it is to be tried again.
    again: Option<Instant>,
}

impl Pending {
    /// The frame.
    pub fn frame(&self) -> String {
        json!({"type": "message", "conversation": self.conversation, "message": self.body,
               "ref": self.reference, "after": self.after})
        .to_string()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sends {
    pending: VecDeque<Pending>,
}

impl Sends {
    /// Takes a new one, to leave at once.
    pub fn add(&mut self, conversation: &str, body: String, after: u64, reference: String) {
        self.pending.push_back(Pending {
            conversation: conversation.to_owned(),
            reference,
            body,
            after,
            tries: 0,
            left: None,
            since: Instant::now(),
            again: None,
        });
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether one has waited for so long: then nothing is to be added.
    pub fn is_stuck(&self, after: Duration) -> bool {
        self.pending.front().is_some_and(|pending| pending.since.elapsed() > after)
    }

    /// How many wait in a conversation.
    pub fn len_in(&self, conversation: &str) -> usize {
        self.pending.iter().filter(|p| p.conversation == conversation).count()
    }

    /// Forgets all: the application has died.
    pub fn forget(&mut self) {
        self.pending.clear();
    }

    /// A new connection: everything is to leave again, in the order of its first tries.
    pub fn restart(&mut self) {
        for pending in &mut self.pending {
            (pending.left, pending.again) = (None, None);
        }
    }

    /// What is to leave now, oldest first; counted as left.
    pub fn due(&mut self, now: Instant) -> Vec<Pending> {
        let is_due = |p: &&mut Pending| p.left.is_none() && p.again.is_none_or(|at| at <= now);
        let due = self.pending.iter_mut().filter(is_due);
        due.map(|pending| {
            pending.tries += 1;
            (pending.left, pending.again) = (Some(now), None);
            pending.clone()
        })
        .collect()
    }

    /// When the next one is to leave.
    pub fn next(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|pending| pending.again).min()
    }

    /// Since when the oldest answer is missing.
    pub fn oldest(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|pending| pending.left).min()
    }

    /// The answer was final.
    pub fn take(&mut self, reference: &str) -> Option<Pending> {
        let at = self.pending.iter().position(|p| p.reference == reference)?;
        self.pending.remove(at)
    }

    /// The answer was "later"; `random` is in 0..1. Gives the send.
    pub fn later(&mut self, reference: &str, wait: Option<u64>, random: f64) -> Option<&Pending> {
        let pending = self.pending.iter_mut().find(|p| p.reference == reference)?;
        let own = RETRY.saturating_mul(1 << pending.tries.min(8)) / 2;
        let wait = own.max(wait.map_or(RETRY, Duration::from_millis)).min(RETRY_MAX);
        (pending.left, pending.again) = (None, Some(Instant::now() + wait.mul_f64(0.5 + random)));
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(due: &[Pending]) -> Vec<&str> {
        due.iter().map(|pending| pending.reference.as_str()).collect()
    }

    #[test]
    fn a_send_stays_as_it_was_until_its_answer_is_final() {
        let mut sends = Sends::default();
        let now = Instant::now();
        sends.add("dm:a:b", "one".into(), 3, "r1".into());
        sends.add("dm:a:b", "two".into(), 4, "r2".into());
        assert_eq!(refs(&sends.due(now)), ["r1", "r2"]);
        assert!(sends.due(now).is_empty(), "what is under way does not leave again by itself");
        assert_eq!(sends.later("r1", Some(60_000), 0.0).unwrap().tries, 1);
        assert!(sends.due(now).is_empty() && sends.next().is_some());
        let due = sends.due(now + RETRY_MAX * 2);
        assert_eq!((refs(&due), due[0].after, due[0].tries), (vec!["r1"], 3, 2));
        sends.restart();
        let due = sends.due(now);
        assert_eq!(refs(&due), ["r1", "r2"], "on a new connection all leave again, in order");
        assert_eq!(due[1].frame(), due[1].clone().frame());
        assert_eq!(sends.take("r1").unwrap().body, "one");
        assert!(sends.take("r1").is_none() && sends.later("r1", None, 0.0).is_none());
        assert_eq!((sends.len(), sends.len_in("dm:a:b"), sends.len_in("dm:x:y")), (1, 1, 0));
    }
}
