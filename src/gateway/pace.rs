//! How fast a socket is read: whoever sends too much is answered so, and then not read for as long
//! as it takes until there is room again.
//!
//! The second half is what keeps others from waiting. A refusal costs about as much as a message;
//! a socket that is not read costs nothing, and its client is stopped by TCP itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::chat::Chat;
use crate::limits::Over;
use crate::protocol::UserId;

/// The shortest rest, and the least that is told: one that is woken for each frame that comes back
/// would be refused as often as it is read.
const REST_MIN: Duration = Duration::from_millis(100);
/// The longest rest: the user's other sockets may use up what comes back, and this one is to be
/// told so again.
const REST_MAX: Duration = Duration::from_secs(1);

/// Counts a frame of this user, of so many bytes as they were read. If it is over a limit the
/// socket is to rest, until when `rest` says then.
pub(super) fn count(
    chat: &Chat,
    user: &UserId,
    bytes: u32,
    now: Instant,
    rest: &mut Option<Instant>,
) -> Result<(), Over> {
    let limits = &chat.limits;
    if !limits.measures_frames() {
        return Ok(());
    }
    limits.frame(limits.key(user), bytes as usize, now).map_err(|over| {
        chat.metrics.count_limited(over.limit.as_str());
        // No longer than a small burst needs to be whole: what comes back beyond it is lost.
        let least = limits.refill(over.limit).map_or(REST_MIN, |all| REST_MIN.min(all / 2));
        let over = Over { wait: over.wait.max(least), ..over };
        *rest = Some(now + over.wait.min(REST_MAX));
        over
    })
}
