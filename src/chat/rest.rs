//! When cursors rest: a session whose cursors moved asks to be told 29 s later, and then stores
//! those that have been quiet so long. One queue for all sockets instead of a timer for each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::Chat;
use crate::hub::{Event, Outbox};

/// How long cursors rest before they are stored by themselves; P6 allows 30 s.
pub const REST: Duration = Duration::from_secs(29);

/// Who is to be told when, in order.
#[derive(Debug, Default)]
pub struct Rests {
    queue: Mutex<VecDeque<(Instant, Weak<Outbox>)>>,
}

impl Rests {
    fn due(&self, now: Instant) -> Vec<Arc<Outbox>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queue.partition_point(|(at, _)| *at <= now);
        queue.drain(..count).filter_map(|(_, outbox)| outbox.upgrade()).collect()
    }
}

impl Chat {
    /// Pushes `Event::Flush` to this socket after [`REST`]. A session asks at most once at a time.
    pub fn rest(&self, outbox: &Arc<Outbox>) {
        let mut queue = self.rests.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back((Instant::now() + REST, Arc::downgrade(outbox)));
    }

    pub(super) async fn rest_for_ever(&self) {
        let mut ticks = interval(Duration::from_millis(500));
        loop {
            let now = ticks.tick().await;
            self.rests.due(now).iter().for_each(|outbox| outbox.push(Event::Flush));
        }
    }
}
