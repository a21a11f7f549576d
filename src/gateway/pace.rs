//! How fast a socket is read: whoever sends too much is answered so, and then not read for as long
//! as it takes until there is room again.
//!
//! The second half is what keeps others from waiting. A refusal costs about as much as a message;
//! a socket that is not read costs nothing, and its client is stopped by TCP itself.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::chat::Chat;
use crate::limits::Over;
use crate::protocol::UserId;

/// The shortest rest, and the least that is told: one that is woken for each frame that comes back
/// would be refused as often as it is read.
const REST_MIN: Duration = Duration::from_millis(100);
/// The longest rest: the user's other sockets may use up what comes back, and this one is to be
/// told so again.
const REST_MAX: Duration = Duration::from_secs(1);

/// When a socket is read again. Boxed, and only while it rests: most never do.
#[derive(Default)]
pub(super) struct Pace(Option<Pin<Box<Sleep>>>);

impl Pace {
    /// Counts a frame of this user, of so many bytes as they were read. If it is over a limit the
    /// socket rests from here on.
    pub fn count(
        &mut self,
        chat: &Chat,
        user: &UserId,
        bytes: usize,
        now: Instant,
    ) -> Result<(), Over> {
        let limits = &chat.limits;
        if !limits.measures_frames() {
            return Ok(());
        }
        let counted = limits.frame(limits.key(user), bytes, now);
        counted.map_err(|over| {
            chat.metrics.count_limited(over.limit.as_str());
            // No longer than a small burst needs to be whole: what comes back beyond it is lost.
            let least = limits.refill(over.limit).map_or(REST_MIN, |all| REST_MIN.min(all / 2));
            let over = Over { wait: over.wait.max(least), ..over };
            self.0 = Some(Box::pin(sleep_until(now + over.wait.min(REST_MAX))));
            over
        })
    }

    /// Whether the socket is not to be read.
    pub fn rests(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until the rest is over; for ever where there is none. Cancel-safe.
    pub async fn rested(&mut self) {
        match &mut self.0 {
            Some(rest) => rest.as_mut().await,
            None => pending().await,
        }
        self.0 = None;
    }
}
