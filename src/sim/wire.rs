//! A connection between a device and a server: frames in order, each way with its own delay; it can
//! be cut, lose its tail, stall, and be open on one side only.
#![cfg(test)]

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use super::sea::Core;
use crate::protocol::Text;

/// The most frames that wait for a client which does not read. Few, so that a write has to wait
/// often enough.
const ROOM: usize = 8;

/// From the client.
#[derive(Debug)]
pub enum Up {
    Frame(String),
    Pong(Vec<u8>),
    End,
}

/// From the server.
#[derive(Debug)]
pub enum Down {
    Frame(Text),
    Ping([u8; 8]),
    /// The end, with the code of a close frame where one came.
    Close(Option<u16>),
}

#[derive(Default)]
struct Ends {
    up: VecDeque<(u64, Up)>,
    arrived: VecDeque<Up>,
    down: VecDeque<(u64, Down)>,
    stalled: bool,
    /// What the server writes goes nowhere.
    client_gone: bool,
    server_gone: bool,
}

/// See the module.
#[derive(Default)]
pub struct Wire {
    ends: Mutex<Ends>,
    wake: Notify,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    // ------------------------------------------------------------------------------ the client's

    pub fn say(&self, core: &mut Core, up: Up) {
        let mut ends = self.lock();
        let latest = ends.up.back().map_or(0, |(at, _)| *at);
        let at = (core.now + core.any(0..12)).max(latest);
        ends.up.push_back((at, up));
    }

    /// Whether it leads to a server that died.
    pub fn is_orphaned(&self) -> bool {
        self.lock().server_gone
    }

    /// What has arrived at the client by now.
    pub fn hear(&self, now: u64) -> Vec<Down> {
        let mut ends = self.lock();
        if ends.stalled {
            return Vec::new();
        }
        let due = ends.down.partition_point(|(at, _)| *at <= now);
        let had = ends.down.len();
        let heard = ends.down.drain(..due).map(|(_, down)| down).collect();
        let room = had >= ROOM && ends.down.len() < ROOM;
        drop(ends);
        if room {
            self.wake.notify_one();
        }
        heard
    }

    /// Moves what has arrived at the server to where it is read; `false` when nothing is left.
    pub fn pump(&self, now: u64) -> bool {
        let mut ends = self.lock();
        if ends.stalled {
            return !ends.up.is_empty();
        }
        let due = ends.up.partition_point(|(at, _)| *at <= now);
        let arrived: Vec<_> = ends.up.drain(..due).map(|(_, up)| up).collect();
        let left = !ends.up.is_empty();
        if !arrived.is_empty() {
            ends.arrived.extend(arrived);
            drop(ends);
            self.wake.notify_one();
        }
        left
    }

    /// The client leaves; the server hears of it, or it does not.
    pub fn leave(&self, core: &mut Core, told: bool) {
        let mut ends = self.lock();
        ends.client_gone = true;
        ends.down.clear();
        if told {
            // The goodbye may be slower than the next connection.
            let late = if core.chance(0.3) { core.any(0..2_500) } else { 0 };
            let latest = ends.up.back().map_or(core.now, |(at, _)| *at);
            ends.up.push_back((latest.max(core.now) + late, Up::End));
        } else {
            let keep = core.any(0..ends.up.len() as u64 + 1) as usize;
            ends.up.truncate(keep);
        }
        drop(ends);
        self.wake.notify_one();
    }

    // ------------------------------------------------------------------------------ the network's

    /// Both sides see the end; of what is on its way some is lost.
    pub fn cut(&self, core: &mut Core) {
        let mut ends = self.lock();
        ends.stalled = false;
        let keep = core.any(0..ends.up.len() as u64 + 1) as usize;
        ends.up.truncate(keep);
        let latest = ends.up.back().map_or(core.now, |(at, _)| *at);
        ends.up.push_back((latest, Up::End));
        let keep = core.any(0..ends.down.len() as u64 + 1) as usize;
        ends.down.truncate(keep);
        let latest = ends.down.back().map_or(core.now, |(at, _)| *at);
        ends.down.push_back((latest, Down::Close(None)));
    }

    pub fn stall(&self, stalled: bool) {
        self.lock().stalled = stalled;
    }

    /// The server died: what it had written may still come, and its kernel says goodbye, or not.
    pub fn server_died(&self, core: &mut Core, told: bool) {
        let mut ends = self.lock();
        ends.server_gone = true;
        let keep = core.any(0..ends.down.len() as u64 + 1) as usize;
        ends.down.truncate(keep);
        if told {
            let latest = ends.down.back().map_or(core.now, |(at, _)| *at);
            ends.down.push_back((latest, Down::Close(None)));
        }
    }

    // ------------------------------------------------------------------------------ the server's

    /// The next frame of the client. Cancel-safe.
    pub async fn read(&self) -> Up {
        loop {
            if let Some(up) = self.try_read() {
                return up;
            }
            self.wake.notified().await;
        }
    }

    pub fn try_read(&self) -> Option<Up> {
        self.lock().arrived.pop_front()
    }

    /// Writes, waiting for room.
    pub async fn write(&self, sea: &super::sea::Sea, down: Down) {
        while self.is_full() {
            // The reader waits on the same bell, and is not waiting now.
            self.wake.notified().await;
        }
        let mut core = sea.lock();
        let mut ends = self.lock();
        if ends.client_gone {
            return;
        }
        let latest = ends.down.back().map_or(0, |(at, _)| *at);
        let at = (core.now + core.any(0..12)).max(latest);
        ends.down.push_back((at, down));
    }

    /// The server has ended its side: its kernel says so behind what is on the way.
    pub fn end(&self, sea: &super::sea::Sea) {
        let core = sea.lock();
        let mut ends = self.lock();
        if ends.client_gone {
            return;
        }
        let latest = ends.down.back().map_or(0, |(at, _)| *at);
        ends.down.push_back((core.now.max(latest), Down::Close(None)));
    }

    fn is_full(&self) -> bool {
        self.lock().down.len() >= ROOM
    }
}
