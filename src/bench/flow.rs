//! The account of one direction of one conversation: what was sent, and how it arrived. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// What must all be zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Faults {
    /// Sent, stored, never received.
    pub missing: u64,
    /// The same message under two seqs.
    pub doubled: u64,
    /// Received behind a later one.
    pub disordered: u64,
    /// Text that nobody sent here.
    pub foreign: u64,
    /// Sends that were answered with an error, or not at all.
    pub refused: u64,
}

impl Faults {
    /// Takes another account's faults in.
    pub fn add(&mut self, other: Faults) {
        self.missing += other.missing;
        self.doubled += other.doubled;
        self.disordered += other.disordered;
        self.foreign += other.foreign;
        self.refused += other.refused;
    }

    /// The names of the faults with their counts.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("missing", self.missing),
            ("doubled", self.doubled),
            ("out of order", self.disordered),
            ("foreign", self.foreign),
            ("refused", self.refused),
        ]
    }
}

/// Messages that carry the numbers 1, 2, 3 …, and whom they are for, in their text.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The highest seq so far.
    seq: u64,
    /// All numbers up to here have come.
    complete: u64,
    /// Those beyond it.
    ahead: BTreeSet<u64>,
    /// Nothing is ever sent again, so what comes again is doubled.
    once: bool,
    /// The same seq again: allowed (at least once), dropped by every client, counted here.
    pub repeats: u64,
    /// What went wrong so far.
    pub faults: Faults,
}

impl Flow {
    /// Of a server that has no log to send from again, and so no excuse for a repeat.
    pub fn once() -> Self {
        Self { once: true, ..Self::default() }
    }

    /// A message came; whether it was a new one.
    pub fn received(&mut self, seq: u64, number: u64) -> bool {
        let known = number <= self.complete || self.ahead.contains(&number);
        if seq <= self.seq && known && !self.once {
            self.repeats += 1;
            return false;
        }
        if known {
            self.faults.doubled += 1;
            return false;
        }
        if seq <= self.seq || self.ahead.last().is_some_and(|last| *last > number) {
            self.faults.disordered += 1;
        }
        self.seq = self.seq.max(seq);
        self.ahead.insert(number);
        while self.ahead.remove(&(self.complete + 1)) {
            self.complete += 1;
        }
        true
    }

    /// How many different messages came.
    pub fn count(&self) -> u64 {
        self.complete + self.ahead.len() as u64
    }

    /// Closes the account: so many were stored.
    pub fn close(&mut self, stored: u64) -> Faults {
        self.faults.missing = stored.saturating_sub(self.count());
        self.faults
    }
}

/// The text of a message: its number and whom it is for, filled up to this size.
pub(super) fn text(number: u64, to: &str, bytes: usize) -> String {
    // With room for both, where that is more.
    let mut text = String::with_capacity(bytes.max(to.len() + 22));
    // A string takes everything.
    let _ = write!(text, "{number} {to} ");
    while text.len() < bytes {
        text.push('.');
    }
    text
}

/// The number in a text that is for this one; `None` where it is for somebody else.
pub(super) fn number_for(text: &str, to: &str) -> Option<u64> {
    let (number, rest) = text.split_once(' ')?;
    let (named, _) = rest.split_once(' ')?;
    if named == to { number.parse().ok() } else { None }
}

/// The number in a text, whoever it is for.
pub(super) fn number(text: &str) -> Option<u64> {
    text.split_once(' ')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(stored: u64, arrivals: &[(u64, u64)]) -> (Faults, u64) {
        let mut flow = Flow::default();
        for (seq, number) in arrivals {
            flow.received(*seq, *number);
        }
        (flow.close(stored), flow.repeats)
    }

    #[test]
    fn what_arrives_once_and_in_order_is_good() {
        assert_eq!(account(3, &[(1, 1), (2, 2), (3, 3)]), (Faults::default(), 0));
        assert_eq!(account(3, &[(1, 1), (2, 2), (2, 2), (3, 3), (1, 1)]), (Faults::default(), 2));
        assert_eq!(account(2, &[(7, 1), (9, 2)]), (Faults::default(), 0));
    }

    #[test]
    fn a_hole_is_missing_only_if_it_stays() {
        let missing = |missing| Faults { missing, ..Faults::default() };
        assert_eq!(account(3, &[(1, 1), (3, 3)]).0, missing(1));
        assert_eq!(account(3, &[(1, 1)]).0, missing(2));
        assert_eq!(account(3, &[]).0, missing(3));
    }

    #[test]
    fn doubles_and_disorder_are_found() {
        let (faults, _) = account(3, &[(1, 1), (2, 2), (3, 2), (4, 3)]);
        assert_eq!(faults, Faults { doubled: 1, ..Faults::default() });
        let (faults, _) = account(3, &[(1, 1), (3, 3), (2, 2)]);
        assert_eq!(faults, Faults { disordered: 1, ..Faults::default() });
        let (faults, _) = account(3, &[(1, 2), (2, 1), (3, 3)]);
        assert_eq!(faults, Faults { disordered: 1, ..Faults::default() });
    }

    #[test]
    fn without_redelivery_a_repeat_is_a_double() {
        let mut flow = Flow::once();
        assert!(flow.received(1, 1) && flow.received(2, 2));
        assert!(!flow.received(2, 2) && !flow.received(1, 1));
        let doubled = Faults { doubled: 2, ..Faults::default() };
        assert_eq!((flow.close(2), flow.repeats), (doubled, 0));
    }

    #[test]
    fn a_text_is_for_one_alone() {
        let text = text(17, "b-1", 64);
        assert_eq!(number_for(&text, "b-1"), Some(17));
        assert_eq!((number_for(&text, "b-11"), number_for(&text, "b-")), (None, None));
        assert_eq!((number_for("17 b-1", "b-1"), number_for("x b-1 .", "b-1")), (None, None));
    }

    #[test]
    fn texts_carry_their_number_and_have_their_size() {
        assert_eq!(text(17, "b", 64).len(), 64);
        assert_eq!(number(&text(17, "b", 64)), Some(17));
        assert_eq!(number(&text(123_456, "b", 4)), Some(123_456));
        assert_eq!((number("x y"), number("7")), (None, None));
    }
}
