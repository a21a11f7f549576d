//! The ways into the loops: a person's sockets go to the one that the name hashes to.

use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mio::Registry;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::chance::Hashing;
use crate::gateway::Entered;
use crate::gateway::carrier::Carrier;
use crate::gateway::connection::Connection;
use crate::hub::Bell;
use crate::protocol::UserId;

/// How many newcomers wait for a loop.
const ARRIVALS_MAX: usize = 1_024;

/// A socket whose 101 has left.
pub(in crate::gateway) struct Arrival {
    pub carrier: Carrier,
    pub entered: Entered,
    pub connection: Connection,
    /// What came with the request.
    pub behind: Bytes,
    /// Until its loop has one of its own, so that who waits for all sockets waits for this one.
    pub held: TaskTrackerToken,
}

/// The way into a loop.
#[derive(Debug)]
pub(in crate::gateway) struct Line {
    /// Rings for the outboxes of its sockets.
    pub bell: Arc<Bell>,
    arrivals: mpsc::Sender<Arrival>,
}

impl Line {
    /// Gives a socket to the loop.
    pub async fn seat(&self, arrival: Arrival) {
        // A loop that has ended drops it, and that ends it.
        let _ = self.arrivals.send(arrival).await;
    }
}

/// All ways into loops.
#[derive(Debug)]
pub(in crate::gateway) struct Lines {
    hashing: Hashing,
    lines: Vec<Line>,
}

impl Lines {
    /// The loop where this person lives.
    pub fn of(&self, user: &UserId) -> &Line {
        let hash = self.hashing.hash_one(user) as usize;
        &self.lines[hash % self.lines.len()]
    }
}

/// A loop that does not run yet.
pub(in crate::gateway) struct Ready {
    pub(super) poll: AsyncFd<mio::Poll>,
    pub(super) registry: Registry,
    pub(super) bell: Arc<Bell>,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
}

/// The cores that this process may use.
pub(in crate::gateway) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// So many loops, at least one, and the ways into them. Within a runtime.
///
/// # Errors
/// The system gives no epoll instance.
pub(in crate::gateway) fn prepare(loops: usize) -> io::Result<(Lines, Vec<Ready>)> {
    let (mut lines, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..loops.max(1) {
        let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let bell = Arc::new(Bell::default());
        lines.push(Line { bell: bell.clone(), arrivals: sender });
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        // The descriptor is the same for as long as the instance lives, and it lives in here.
        #[expect(deprecated, reason = "its successor is unsafe, for descriptors that may change")]
        let poll = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        ready.push(Ready { poll, registry, bell, arrivals });
    }
    Ok((Lines { hashing: Hashing::default(), lines }, ready))
}
