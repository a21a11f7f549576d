//! When a connection has said what: how far it was at a moment that lies back some time.

use std::collections::VecDeque;

/// What is said within so long counts as said at its end.
const STEP: u64 = 500_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// Begin, end and highest seq of each step.
    steps: VecDeque<(u64, u64, u64)>,
}

impl Trail {
    /// Up to `seq` was said at `t`; nobody will ask for a moment before `old`.
    pub fn note(&mut self, t: u64, seq: u64, old: u64) {
        while self.steps.get(1).is_some_and(|(_, to, _)| *to <= old) {
            self.steps.pop_front();
        }
        let highest = self.steps.back().map_or(0, |(_, _, seq)| *seq);
        match self.steps.back_mut() {
            // Nothing new, and said before.
            _ if seq <= highest => {}
            Some((from, to, last)) if t - *from < STEP => (*to, *last) = (t, seq),
            _ => self.steps.push_back((t, t, seq)),
        }
    }

    /// How far it was by then.
    pub fn by(&self, t: u64) -> u64 {
        let said = self.steps.iter().rev().find(|(_, to, _)| *to <= t);
        said.map_or(0, |(_, _, seq)| *seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_says_no_more_than_had_been_said_by_then() {
        let (mut trail, second) = (Trail::default(), 1_000_000_000);
        trail.note(second, 3, 0);
        trail.note(second + STEP / 2, 4, 0);
        trail.note(3 * second, 9, 0);
        trail.note(4 * second, 7, 0);
        let by = |t| trail.by(t);
        assert_eq!((by(second), by(second + STEP / 2), by(2 * second)), (0, 4, 4));
        assert_eq!((by(3 * second), by(9 * second)), (9, 9));
        // What lies back farther than anybody asks for is forgotten, but for the last of it.
        trail.note(60 * second, 11, 30 * second);
        assert_eq!((trail.steps.len(), trail.by(31 * second), trail.by(60 * second)), (2, 9, 11));
    }
}
