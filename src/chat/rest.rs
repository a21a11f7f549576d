//! When cursors rest: a session whose cursors moved asks to be told when they have been quiet for
//! long, and then stores them. One queue for all sockets instead of a timer for each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::Chat;
use crate::hub::{Event, Outbox};

/// How exactly the time is kept.
const TICK: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Queue {
    due: BTreeMap<(Instant, u64), Weak<Outbox>>,
    number: u64,
}

/// Who is to be told when. A socket stands here for the times that it asked for.
#[derive(Debug, Default)]
pub struct Rests {
    queue: Mutex<Queue>,
}

impl Rests {
    fn put(&self, outbox: &Arc<Outbox>, until: Instant) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.number += 1;
        let key = (until, queue.number);
        queue.due.insert(key, Arc::downgrade(outbox));
    }

    fn due(&self, now: Instant) -> Vec<Arc<Outbox>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let later = queue.due.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut queue.due, later);
        due.into_values().filter_map(|outbox| outbox.upgrade()).collect()
    }
}

impl Chat {
    /// Pushes `Event::Flush` to this socket at that time. A session asks again only for
    /// an earlier time, or once the flush has come.
    pub fn rest(&self, outbox: &Arc<Outbox>, until: Instant) {
        self.rests.put(outbox, until);
    }

    pub(super) async fn rest_for_ever(&self) {
        let mut ticks = interval(TICK);
        loop {
            let now = ticks.tick().await;
            self.rests.due(now).iter().for_each(|outbox| outbox.push(Event::Flush));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Who;
    use crate::protocol::{DeviceId, SocketId, UserId};

    #[test]
    fn only_what_is_due_and_still_there_is_told() {
        let (rests, now) = (Rests::default(), Instant::now());
        let outbox = |socket| {
            let user = UserId::parse("a").unwrap();
            let (device, socket) = (DeviceId::plain(), SocketId(socket));
            Arc::new(Outbox::new(Who { user, device, socket }))
        };
        let (first, second, third) = (outbox(1), outbox(2), outbox(3));
        rests.put(&first, now + Duration::from_secs(2));
        rests.put(&second, now + Duration::from_secs(1));
        rests.put(&third, now + Duration::from_secs(1));
        drop(third);
        assert!(rests.due(now).is_empty());
        let due = rests.due(now + Duration::from_secs(1));
        assert_eq!(due.iter().map(|o| o.who.socket).collect::<Vec<_>>(), [SocketId(2)]);
        assert_eq!(rests.due(now + Duration::from_secs(9)).len(), 1);
        assert!(rests.due(now + Duration::from_secs(9)).is_empty());
    }
}
