//! What all devices of a round share: where to connect, what part of the round it is, and signs of
//! life by which recovery is measured.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::journal::{Journal, locked};
use super::plan::Plan;
use crate::client::Api;

/// A text that comes this soon after it was sent came by the live way.
const LIVE_MS: u64 = 1_000;
const LOOK: Duration = Duration::from_millis(20);

/// The part of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Messages are sent.
    Load,
    /// No new ones: everybody reads until nothing is missing.
    Drain,
    /// Connections close.
    Over,
}

/// What a device holds at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence {
    /// The server, while a connection is open.
    pub server: Option<String>,
    /// When it last said `caughtup`.
    pub caught_up_ms: u64,
    /// Away because its person is, not because of a fault.
    pub away: bool,
    /// In the drain: nothing is missing any more.
    pub complete: bool,
    /// What is missing, for a person who looks why a drain does not end.
    pub missing: String,
}

/// See the module.
pub(super) struct World {
    /// Who talks with whom.
    pub plan: Plan,
    /// The history.
    pub journal: Arc<Journal>,
    /// `ws://…/ws`, through the fault proxy.
    pub url: String,
    /// The Message API, through the fault proxy.
    pub api: Api,
    /// Messages a second that are aimed at.
    pub rate: f64,
    /// What part of the round it is.
    pub stage: watch::Sender<Stage>,
    /// Devices by (user, device).
    pub presence: Mutex<BTreeMap<(usize, usize), Presence>>,
    /// Whether the guest of a room is in it; absent while nobody knows.
    pub guests: Mutex<HashMap<String, bool>>,
    /// By server: when it last acknowledged a send, and last got a live text from another.
    pulse: Mutex<HashMap<String, (u64, u64)>>,
    connections: AtomicU64,
    /// One fault runs alone: how long its recovery takes is waited for.
    pub measures: AtomicBool,
    /// Sends over HTTP that are under way.
    pub posts: TaskTracker,
}

impl World {
    /// A world at its beginning.
    pub fn new(plan: Plan, journal: Arc<Journal>, url: String, api: Api, rate: f64) -> Arc<Self> {
        let guests = plan.conversations.iter().filter(|c| c.guest.is_some());
        let guests = guests.map(|conversation| (conversation.id.clone(), false)).collect();
        Arc::new(Self {
            plan,
            journal,
            url,
            api,
            rate,
            stage: watch::Sender::new(Stage::Load),
            presence: Mutex::default(),
            guests: Mutex::new(guests),
            pulse: Mutex::default(),
            connections: AtomicU64::new(0),
            measures: AtomicBool::new(false),
            posts: TaskTracker::new(),
        })
    }

    /// A name for a connection.
    pub fn connection(&self) -> String {
        format!("k{}", self.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// A server acknowledged a send.
    pub fn acked(&self, server: &str) {
        let now = self.journal.now_ms();
        locked(&self.pulse).entry(place(server).to_owned()).or_default().0 = now;
    }

    /// A text came that was sent at this moment, on this server.
    pub fn came(&self, server: &str, from_server: &str, sent_ms: u64) {
        let now = self.journal.now_ms();
        if place(from_server) != place(server) && now.saturating_sub(sent_ms) < LIVE_MS {
            // The moment of the send counts: what was sent before a fault ended proves nothing.
            let mut pulse = locked(&self.pulse);
            let crossed = &mut pulse.entry(place(server).to_owned()).or_default().1;
            *crossed = (*crossed).max(sent_ms);
        }
    }

    /// Waits until a server has acknowledged a send after `since`; gives how long that took.
    pub async fn acks_again(&self, server: &str, since: u64, limit: Duration) -> Option<u64> {
        self.wait(since, limit, || locked(&self.pulse).get(server).is_some_and(|p| p.0 > since))
            .await
    }

    /// Waits until a server got a live text of another server that was sent after `since`.
    pub async fn hears_again(&self, server: &str, since: u64, limit: Duration) -> Option<u64> {
        self.wait(since, limit, || locked(&self.pulse).get(server).is_some_and(|p| p.1 > since))
            .await
    }

    /// The devices that a server holds.
    pub fn devices_of(&self, server: &str) -> Vec<(usize, usize)> {
        let presence = locked(&self.presence);
        let held = presence.iter().filter(|(_, p)| p.server.as_deref().map(place) == Some(server));
        held.map(|(device, _)| *device).collect()
    }

    /// Waits until all of these have caught up after `since`, but for those whose person is away.
    pub async fn back_again(
        &self,
        devices: &[(usize, usize)],
        since: u64,
        limit: Duration,
    ) -> Option<u64> {
        self.wait(since, limit, || {
            let presence = locked(&self.presence);
            let is_back = |p: &Presence| p.caught_up_ms > since || p.away;
            devices.iter().all(|device| presence.get(device).is_some_and(is_back))
        })
        .await
    }

    async fn wait(&self, since: u64, limit: Duration, is_so: impl Fn() -> bool) -> Option<u64> {
        let limit = self.journal.now_ms() + u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        loop {
            let now = self.journal.now_ms();
            if is_so() {
                return Some(now.saturating_sub(since));
            }
            let measures = self.measures.load(Ordering::Relaxed);
            if now > limit || !measures || *self.stage.borrow() != Stage::Load {
                return None;
            }
            sleep(LOOK).await;
        }
    }
}

/// `ws2-3` is the third life of `ws2`.
pub(super) fn place(server: &str) -> &str {
    server.split('-').next().unwrap_or(server)
}
