//! The bounded way from the liveness to the part that owns it.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::mpsc;

use super::BoardEvent;

/// Events to the part. One that does not fit is told as `ReadAgain` as soon as there is room, which
/// makes good for all but `Revived`: that is told as itself.
pub(super) struct Events {
    sender: mpsc::Sender<BoardEvent>,
    lost: AtomicU8,
}

const NONE_LOST: u8 = 0;
const SOME_LOST: u8 = 1;
const REVIVED_LOST: u8 = 2;

impl Events {
    pub(super) fn new(sender: mpsc::Sender<BoardEvent>) -> Self {
        Self { sender, lost: AtomicU8::new(NONE_LOST) }
    }

    /// Tells the part, now or once there is room.
    pub(super) fn send(&self, event: BoardEvent) {
        self.make_good();
        let lost = if event == BoardEvent::Revived { REVIVED_LOST } else { SOME_LOST };
        if self.sender.try_send(event).is_err() {
            self.lost.fetch_max(lost, Relaxed);
        }
    }

    /// Tells what was lost, once there is room.
    pub(super) fn make_good(&self) {
        let Ok(place) = self.sender.try_reserve() else { return };
        match self.lost.swap(NONE_LOST, Relaxed) {
            NONE_LOST => {}
            REVIVED_LOST => place.send(BoardEvent::Revived),
            _ => place.send(BoardEvent::ReadAgain),
        }
    }

    /// Waits until it is told: nothing follows.
    pub(super) async fn send_last(&self, event: BoardEvent) {
        let _ = self.sender.send(event).await;
    }
}
