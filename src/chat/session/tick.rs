//! When a socket was last ticked, in a quarter of the room of an `Instant`: every socket keeps one.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// Milliseconds since some moment of this process. They start again every seven weeks: what is
/// told apart lies less than half of that apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick(NonZeroU32);

impl Tick {
    pub fn at(now: Instant) -> Self {
        static BEGUN: OnceLock<Instant> = OnceLock::new();
        let begun = *BEGUN.get_or_init(|| now);
        // A test's clock may stand before that of another one.
        let since = now.saturating_duration_since(begun).as_millis() as u32;
        let before = begun.saturating_duration_since(now).as_millis() as u32;
        Self(NonZeroU32::new(since.wrapping_sub(before)).unwrap_or(NonZeroU32::MIN))
    }

    /// How long after `earlier` this is, to a millisecond; zero where it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        let apart = self.0.get().wrapping_sub(earlier.0.get());
        Duration::from_millis(if apart > u32::MAX / 2 { 0 } else { u64::from(apart) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_tell_how_far_apart_they_are() {
        let now = Instant::now();
        let (second, week) = (Duration::from_secs(1), Duration::from_secs(7 * 86_400));
        for start in [now, now + week, now + 7 * week, now + 8 * week, now + 99 * week] {
            for apart in [Duration::ZERO, second, 25 * second, 3 * week] {
                let (tick, earlier) = (Tick::at(start + apart), Tick::at(start));
                let error = tick.since(earlier).abs_diff(apart);
                assert!(error <= Duration::from_millis(1), "{error:?} of {apart:?}");
            }
            assert_eq!(Tick::at(start).since(Tick::at(start + second)), Duration::ZERO);
        }
    }
}
