//! Whether a loop rests between two turns, so that more is there for the next one: a read and a
//! write take all that has come for a socket, and cost the same for one message as for ten. Network
//! cards moderate their interrupts for the same reason.
//!
//! The thread itself sleeps, for less than a timer of the runtime could: one that waits there is
//! woken by all that it does not want to hear of yet.
//!
//! **Invariant.** A loop that has little to do never rests.

use std::time::Duration;

use tokio::time::Instant;

/// How long a busy loop rests: what that adds to a message is below what anybody sees.
const REST: Duration = Duration::from_micros(300);
/// What is looked at to tell whether a loop is busy.
const WINDOW: Duration = Duration::from_millis(5);
/// One that gives sockets so many turns a second is: some fifth of what a core can do.
const BUSY_TURNS_A_SECOND: u128 = 20_000;
/// A rest that brings fewer sockets was not worth it: a few people who wait for each other's
/// answers are fast because nobody rests. (So many in each rest are more than makes a loop busy.)
const WORTH: usize = 8;
/// After so many of those in a row there is none for a while.
const POOR_RESTS: u8 = 3;
/// For how long.
const NOT_AGAIN: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Moderation {
    since: Instant,
    turns: u128,
    busy: bool,
    /// Rests in a row that were not worth it.
    poor: u8,
}

impl Moderation {
    pub fn new(now: Instant) -> Self {
        Self { since: now, turns: 0, busy: false, poor: 0 }
    }

    /// Rests where it is time to, after a turn of the loop in which so many sockets had theirs.
    pub fn rest(&mut self, sockets: usize, now: Instant) -> bool {
        let rests = self.turned(sockets, now);
        if rests {
            std::thread::sleep(REST);
        }
        rests
    }

    fn turned(&mut self, sockets: usize, now: Instant) -> bool {
        if self.busy {
            self.poor = if sockets < WORTH { self.poor + 1 } else { 0 };
            if self.poor == POOR_RESTS {
                *self = Self::new(now + NOT_AGAIN);
            }
        } else if let Some(window) = now.checked_duration_since(self.since) {
            self.turns += sockets as u128;
            if window >= WINDOW {
                self.busy = self.turns * 1_000_000 >= BUSY_TURNS_A_SECOND * window.as_micros();
                (self.since, self.turns) = (now, 0);
            }
        }
        self.busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop that is busy from the first rest on.
    fn rested() -> (Moderation, Instant) {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        for _ in 0..1_000 {
            now += Duration::from_micros(40);
            if moderation.turned(3, now) {
                return (moderation, now + REST);
            }
        }
        panic!("75,000 a second, and no rest");
    }

    #[test]
    fn a_loop_with_little_to_do_never_rests() {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        for _ in 0..1_000 {
            now += Duration::from_micros(200);
            assert!(!moderation.turned(3, now), "15,000 a second");
        }
        now += Duration::from_secs(60);
        assert!(!moderation.turned(900, now), "all at once, after a minute of nothing");
    }

    #[test]
    fn a_busy_loop_rests_while_that_brings_much() {
        let (mut moderation, mut now) = rested();
        for sockets in [40, 2, 7, 8].repeat(25) {
            assert!(moderation.turned(sockets, now));
            now += REST;
        }
        let rests = (0..100).take_while(|_| moderation.turned(7, now)).count();
        assert_eq!(rests, usize::from(POOR_RESTS) - 1);
    }

    #[test]
    fn few_who_wait_for_each_other_are_hardly_held_up() {
        let (mut moderation, mut now) = rested();
        while moderation.turned(3, now) {
            now += REST;
        }
        let until = now + NOT_AGAIN;
        while now < until {
            now += Duration::from_micros(40);
            assert!(!moderation.turned(3, now), "it brought no more than before");
        }
        assert!((0..500).any(|_| {
            now += Duration::from_micros(40);
            moderation.turned(3, now)
        }));
    }
}
