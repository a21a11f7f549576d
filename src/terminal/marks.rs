//! ✓ and ✓✓ of one's own lines. Pure.
//!
//! A line that is delivered at once gets only its ✓✓: a ✓ that is out of date a moment later is
//! noise.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long a ✓ waits for the ✓✓ that may replace it.
const PATIENCE: Duration = Duration::from_millis(300);
/// How many lines wait for their ✓✓; of older ones nothing more is said.
const WAITING_MAX: usize = 256;
/// How much of a line is repeated beside its mark.
const CHARS_MAX: usize = 48;

#[derive(Debug)]
struct Own {
    conversation: String,
    seq: u64,
    text: String,
    /// When to say ✓; `None` once it was said.
    due: Option<Instant>,
}

/// The lines whose story is not at its end.
#[derive(Debug, Default)]
pub(super) struct Marks {
    own: VecDeque<Own>,
}

impl Marks {
    /// The store has this line.
    pub fn sent(&mut self, conversation: &str, seq: u64, text: &str, now: Instant) {
        let short: String = text.chars().take(CHARS_MAX).collect();
        let text = if short.len() < text.len() { format!("{short}…") } else { short };
        let conversation = conversation.to_owned();
        self.own.push_back(Own { conversation, seq, text, due: Some(now + PATIENCE) });
        if self.own.len() > WAITING_MAX {
            self.own.pop_front();
        }
    }

    /// When the next ✓ is due.
    pub fn due(&self) -> Option<Instant> {
        self.own.iter().filter_map(|own| own.due).min()
    }

    /// The lines that are due for a ✓.
    pub fn take_due(&mut self, now: Instant) -> Vec<String> {
        let due = self.own.iter_mut().filter(|own| own.due.is_some_and(|due| due <= now));
        due.map(|own| {
            own.due = None;
            format!("✓ {}", own.text)
        })
        .collect()
    }

    /// Everything up to `seq` has arrived: the lines that get a ✓✓.
    pub fn delivered(&mut self, conversation: &str, seq: u64) -> Vec<String> {
        let mut lines = Vec::new();
        self.own.retain(|own| {
            let arrived = own.conversation == conversation && own.seq <= seq;
            if arrived {
                lines.push(format!("✓✓ {}", own.text));
            }
            !arrived
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gets_one_tick_when_it_waits_and_two_when_it_has_arrived() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        marks.sent("dm:a:b", 1, "one", now);
        marks.sent("dm:a:b", 2, "two", now);
        marks.sent("dm:a:c", 1, "other", now);
        assert_eq!(marks.delivered("dm:a:b", 1), ["✓✓ one"]);
        assert_eq!(marks.due(), Some(now + PATIENCE));
        assert_eq!(marks.take_due(now + PATIENCE), ["✓ two", "✓ other"]);
        assert_eq!(marks.due(), None);
        assert_eq!(marks.delivered("dm:a:b", 5), ["✓✓ two"]);
        assert_eq!(marks.own.len(), 1);
    }
}
