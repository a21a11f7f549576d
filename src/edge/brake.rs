//! A connection whose client is told to wait and asks on: its answers come no faster than one a
//! second, so that nothing is won by it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// How many refusals in a row are told at once: of requests that were on their way already.
const AT_ONCE: u32 = 8;
/// How long each one after them is held.
const HOLD: Duration = Duration::from_secs(1);

/// See the module. Only for one client's own connection: a proxy's has others' requests as well.
#[derive(Debug, Default)]
pub struct Brake {
    in_a_row: AtomicU32,
}

impl Brake {
    /// Waits before an answer leaves, if it says "too many" (429) as others before it did.
    pub async fn hold(&self, too_many: bool) {
        if !too_many {
            self.in_a_row.store(0, Ordering::Relaxed);
        } else if self.in_a_row.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
            sleep(HOLD).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_on_is_answered_once_a_second_until_it_may_again() {
        let (brake, begun) = (Brake::default(), Instant::now());
        for (too_many, seconds) in [(true, 12), (false, 12), (true, 24), (false, 24)] {
            for _ in 0..20 {
                brake.hold(too_many).await;
            }
            assert_eq!(begun.elapsed(), seconds * HOLD);
        }
    }
}
