//! Which sockets of a loop are looked at when, for their pings: each once in a ping's interval.
//!
//! **Invariant.** A part of the sockets is due at a time, and of that a bounded number in a turn of
//! the loop: who has something to do waits for so many pings at most.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::PING_INTERVAL_MS;

/// Sockets are ticked in parts, so that pings do not leave in one wave; a fiftieth of them at once,
/// for pings and pongs that come together cost less than each for itself (a quarter less than in
/// steps of 100 ms).
const TICK_MS: u64 = 500;
const TICKS: usize = (PING_INTERVAL_MS / TICK_MS) as usize;
/// Ticks that are late by so much are made good for, and others left out.
const LATE_MAX: Duration = Duration::from_millis(5 * TICK_MS);
/// How many records of sockets are looked at in a turn.
pub(super) const A_TURN: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Ticks {
    /// When the next one is due.
    at: Instant,
    part: usize,
    /// The record that follows in the one under way.
    next: Option<usize>,
}

impl Ticks {
    pub fn new(now: Instant) -> Self {
        Self { at: now, part: 0, next: None }
    }

    /// When the next one is due.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Whether one is under way, and goes on in the next turn.
    pub fn go_on(&self) -> bool {
        self.next.is_some()
    }

    /// The first sockets have come.
    pub fn begin(&mut self, now: Instant) {
        (self.at, self.next) = (now, None);
    }

    /// The record of the `slots` that is looked at now, if one is. Each tick comes by its own time:
    /// a busy loop must not stretch the round, or sessions would take it for a process that stood
    /// still. One that did begins anew.
    pub fn next(&mut self, now: Instant, slots: usize) -> Option<usize> {
        loop {
            if let Some(index) = self.next.filter(|index| *index < slots) {
                self.next = Some(index + TICKS);
                return Some(index);
            }
            self.next = None;
            if self.at > now {
                return None;
            }
            if self.at + LATE_MAX <= now {
                self.at = now;
            }
            self.at += Duration::from_millis(TICK_MS);
            self.part = (self.part + 1) % TICKS;
            self.next = Some(self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(TICK_MS);

    /// All that are looked at now, whatever is looked at in a turn.
    fn all(ticks: &mut Ticks, now: Instant, slots: usize) -> Vec<usize> {
        std::iter::from_fn(|| ticks.next(now, slots)).collect()
    }

    #[test]
    fn each_is_looked_at_once_in_a_round() {
        let (mut now, slots) = (Instant::now(), 1_000);
        let mut ticks = Ticks::new(now);
        let mut seen = Vec::new();
        for _ in 0..TICKS {
            let some = all(&mut ticks, now, slots);
            assert_eq!((some.len(), ticks.go_on()), (slots / TICKS, false));
            seen.extend(some);
            now += TICK;
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..slots).collect::<Vec<_>>());
        assert!(all(&mut ticks, now - TICK, slots).is_empty(), "not before its time");
    }

    #[test]
    fn what_is_left_of_a_tick_comes_before_the_next_one() {
        let (now, slots) = (Instant::now(), 1_000);
        let mut ticks = Ticks::new(now);
        let first: Vec<_> = (0..3).map(|_| ticks.next(now, slots).unwrap()).collect();
        assert_eq!((first, ticks.go_on()), (vec![1, 1 + TICKS, 1 + 2 * TICKS], true));
        let rest = all(&mut ticks, now + TICK, slots);
        assert_eq!((rest[0], rest.len()), (1 + 3 * TICKS, 2 * slots / TICKS - 3));
        assert!(all(&mut ticks, now + TICK, 0).is_empty(), "all have left");
    }

    #[test]
    fn what_is_late_is_made_good_for_within_reason() {
        let (now, slots) = (Instant::now(), TICKS);
        let late = |by| all(&mut Ticks::new(now), now + by, slots).len();
        assert_eq!([late(Duration::ZERO), late(TICK), late(4 * TICK)], [1, 2, 5]);
        assert_eq!(late(Duration::from_secs(3_600)), 1, "it stood still");
    }
}
