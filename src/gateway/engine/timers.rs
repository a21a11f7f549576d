//! The times at which a loop has to look at a socket again. Idle sockets have none: those who rest,
//! do not read, or are closing, and the tokens that end before the next ping.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

use super::slot::Place;

/// Why a socket is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Its user has rested.
    Rested,
    /// Its client takes nothing.
    Patience,
    /// It was to be closed by now.
    Close,
    /// Its token ends.
    Token,
}

/// See the module. A time that is no longer of use stays until it comes: whoever sets one sees to
/// it that a socket has at most one of a kind.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Instant, u32, u32, Why)>>);

impl Timers {
    /// Looks at this socket then, if it is still of this generation.
    pub fn set(&mut self, at: Instant, place: Place, why: Why) {
        self.0.push(Reverse((at, place.index, place.generation, why)));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }

    /// One that is due.
    pub fn due(&mut self, now: Instant) -> Option<(Place, Why)> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, index, generation, why)) = self.0.pop()?;
        Some((Place { index, generation }, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn they_come_in_their_order() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        let after = |ms| now + Duration::from_millis(ms);
        let place = |index| Place { index, generation: 7 };
        timers.set(after(20), place(1), Why::Close);
        timers.set(after(10), place(2), Why::Rested);
        assert_eq!((timers.next(), timers.due(after(9))), (Some(after(10)), None));
        assert_eq!(timers.due(after(30)), Some((place(2), Why::Rested)));
        assert_eq!(timers.due(after(30)), Some((place(1), Why::Close)));
        assert_eq!((timers.due(after(30)), timers.next()), (None, None));
    }
}
