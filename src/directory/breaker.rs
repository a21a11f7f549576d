//! While Redis only stays silent, few calls wait for it: the others fail at once and their hints go
//! the slow way, instead of one after the other waiting out the deadline.
//!
//! **Invariant:** any answer closes the breaker, and while it is open [`TRIALS`] calls an interval
//! still ask, so that it closes by itself.

use std::time::Duration;

use tokio::time::Instant;

/// After so many time-outs in a row it is open. One alone may be bad luck.
const OPENS_AFTER: u32 = 3;
/// While it is open, so many calls are let through in each [`INTERVAL`]: who asks for two things at
/// once, as the keeper does, must get both.
const TRIALS: u32 = 2;
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether calls may wait for Redis.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    timeouts: u32,
    interval: Option<Instant>,
    trials: u32,
}

impl Breaker {
    /// Whether a call that begins now is sent.
    pub(crate) fn lets_through(&mut self, now: Instant) -> bool {
        if self.timeouts < OPENS_AFTER {
            return true;
        }
        if self.interval.is_none_or(|begun| now - begun >= INTERVAL) {
            (self.interval, self.trials) = (Some(now), 0);
        }
        self.trials += 1;
        self.trials <= TRIALS
    }

    /// Redis said something, whatever it was.
    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// A call waited for nothing.
    pub(crate) fn timed_out(&mut self) {
        self.timeouts = self.timeouts.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn let_through(breaker: &mut Breaker, now: Instant) -> usize {
        (0..100).filter(|_| breaker.lets_through(now)).count()
    }

    #[test]
    fn it_opens_after_three_in_a_row_and_closes_at_an_answer() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            breaker.timed_out();
            breaker.timed_out();
            assert_eq!(let_through(&mut breaker, now), 100);
            breaker.answered();
        }
        (0..3).for_each(|_| breaker.timed_out());
        assert_eq!(let_through(&mut breaker, now), TRIALS as usize);
        let later = now + INTERVAL;
        assert_eq!(let_through(&mut breaker, later - Duration::from_millis(1)), 0);
        assert_eq!(let_through(&mut breaker, later), TRIALS as usize, "it asks again");
        breaker.timed_out();
        assert_eq!(let_through(&mut breaker, later), 0);
        breaker.answered();
        assert_eq!(let_through(&mut breaker, later), 100);
    }
}
