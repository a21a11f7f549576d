//! What all devices of a round share: where to connect, what part of the round it is, and signs of
//! life by which recovery is measured.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
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
/// One in so many conversations falls silent before the others.
const SILENT_ONE_IN: usize = 3;

/// The part of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Messages are sent.
    Load,
    /// No new ones, and nobody does anything to a connection.
    Still,
    /// Everybody connects anew, and reads until nothing is missing.
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
    /// While all is still: no send waits for its answer.
    pub idle: bool,
    /// In the drain: nothing is missing any more.
    pub complete: bool,
    /// What is missing, for a person who looks why a drain does not end.
    pub missing: String,
}

/// Whether a target did its work again after a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Nobody looked, or not to the end.
    #[default]
    Unmeasured,
    /// It did, after so many milliseconds.
    After(u64),
    /// It did not, in so many milliseconds.
    Never(u64),
}

impl Recovery {
    /// That of all together: as slow as the slowest.
    pub fn of_all(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::After(0), |sum, one| match (sum, one) {
            (Self::Unmeasured, _) | (_, Self::Unmeasured) => Self::Unmeasured,
            (Self::Never(a), Self::Never(b) | Self::After(b)) => Self::Never(a.max(b)),
            (Self::After(a), Self::Never(b)) => Self::Never(a.max(b)),
            (Self::After(a), Self::After(b)) => Self::After(a.max(b)),
        })
    }

    /// How long it took.
    pub fn took(self) -> Option<u64> {
        if let Self::After(ms) = self { Some(ms) } else { None }
    }

    /// How long it was waited for in vain.
    pub fn in_vain(self) -> Option<u64> {
        if let Self::Never(ms) = self { Some(ms) } else { None }
    }
}

/// The newest signs of life of a server.
#[derive(Debug, Clone, Copy, Default)]
struct Pulse {
    /// When it acknowledged a send.
    acked: u64,
    /// When a text was sent on another server that it got live.
    crossed: u64,
    /// The same of its own, for which it needs nobody.
    own: u64,
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
    /// By server.
    pulse: Mutex<HashMap<String, Pulse>>,
    connections: AtomicU64,
    /// From when to when conversations fall silent, one after the other, in milliseconds.
    pub silence: OnceLock<(u64, u64)>,
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
            silence: OnceLock::new(),
            measures: AtomicBool::new(false),
            posts: TaskTracker::new(),
        })
    }

    /// A name for a connection.
    pub fn connection(&self) -> String {
        format!("k{}", self.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether some conversations fall silent: then some people stay where they are, too. What a
    /// later message or a new connection would repair shows as lost only so.
    pub fn settles(&self) -> bool {
        self.silence.get().is_some_and(|(from, _)| self.journal.now_ms() >= *from)
    }

    /// Whether nothing is said any more in the conversation of this number.
    pub fn is_silent(&self, number: usize) -> bool {
        let Some((from, to)) = self.silence.get().copied() else { return false };
        let (part, parts) = (number as u64, self.plan.conversations.len().max(1) as u64);
        let since = from + to.saturating_sub(from) * part / parts;
        number % SILENT_ONE_IN == SILENT_ONE_IN - 1 && self.journal.now_ms() >= since
    }

    /// A server acknowledged a send.
    pub fn acked(&self, server: &str) {
        let now = self.journal.now_ms();
        locked(&self.pulse).entry(place(server).to_owned()).or_default().acked = now;
    }

    /// A text came that was sent at this moment, on this server.
    pub fn came(&self, server: &str, from_server: &str, sent_ms: u64) {
        let now = self.journal.now_ms();
        if now.saturating_sub(sent_ms) < LIVE_MS {
            // The moment of the send counts: what was sent before a fault ended proves nothing.
            let mut pulse = locked(&self.pulse);
            let pulse = pulse.entry(place(server).to_owned()).or_default();
            let is_own = place(from_server) == place(server);
            let newest = if is_own { &mut pulse.own } else { &mut pulse.crossed };
            *newest = (*newest).max(sent_ms);
        }
    }

    /// Waits until a server has acknowledged a send after `since`; gives how long that took.
    pub async fn acks_again(&self, server: &str, since: u64, limit: Duration) -> Recovery {
        self.wait(since, limit, || locked(&self.pulse).get(server).is_some_and(|p| p.acked > since))
            .await
    }

    /// Waits until a server got a live text of another server that was sent after `since`.
    pub async fn hears_again(&self, server: &str, since: u64, limit: Duration) -> Recovery {
        let pulse = || locked(&self.pulse).get(server).copied().unwrap_or_default();
        let heard = self.wait(since, limit, || pulse().crossed > since).await;
        // Where even its own texts take long, though it answers, the machine is too slow for live
        // texts to be told from those that came the slow way.
        let Pulse { acked, own, .. } = pulse();
        match heard {
            Recovery::Never(_) if acked > since && own <= since => {
                tracing::warn!(server, "too slow to tell whether it hears the others again");
                Recovery::Unmeasured
            }
            heard => heard,
        }
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
    ) -> Recovery {
        self.wait(since, limit, || {
            let presence = locked(&self.presence);
            let is_back = |p: &Presence| p.caught_up_ms > since || p.away;
            devices.iter().all(|device| presence.get(device).is_some_and(is_back))
        })
        .await
    }

    async fn wait(&self, since: u64, limit: Duration, is_so: impl Fn() -> bool) -> Recovery {
        let limit = self.journal.now_ms() + u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        loop {
            let now = self.journal.now_ms();
            if is_so() {
                return Recovery::After(now.saturating_sub(since));
            }
            let measures = self.measures.load(Ordering::Relaxed);
            if !measures || *self.stage.borrow() != Stage::Load {
                return Recovery::Unmeasured;
            }
            if now > limit {
                return Recovery::Never(now.saturating_sub(since));
            }
            sleep(LOOK).await;
        }
    }
}

/// `ws2-3` is the third life of `ws2`.
pub(super) fn place(server: &str) -> &str {
    server.split('-').next().unwrap_or(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (Arc<World>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::create(&folder.path().join("history")).unwrap());
        let api = Api::new("http://127.0.0.1:1");
        (World::new(Plan::new(7, 40), journal, String::new(), api, 1.0), folder)
    }

    #[tokio::test]
    async fn a_recovery_that_never_comes_is_told_from_one_that_nobody_measured() {
        let (world, _folder) = world();
        let limit = Duration::from_millis(60);
        assert_eq!(world.acks_again("ws1", 0, limit).await, Recovery::Unmeasured);
        world.measures.store(true, Ordering::Relaxed);
        assert!(matches!(world.acks_again("ws1", 0, limit).await, Recovery::Never(60..)));
        tokio::time::sleep(LOOK).await;
        world.acked("ws1-2");
        assert!(matches!(world.acks_again("ws1", 0, limit).await, Recovery::After(_)));
        world.stage.send_replace(Stage::Still);
        assert_eq!(world.acks_again("ws2", 0, limit).await, Recovery::Unmeasured);
    }

    #[tokio::test]
    async fn a_deaf_server_is_told_from_a_slow_machine() {
        let (world, _folder) = world();
        world.measures.store(true, Ordering::Relaxed);
        let limit = Duration::from_millis(60);
        let hears = async || world.hears_again("ws1", 0, limit).await;
        assert!(matches!(hears().await, Recovery::Never(_)), "it does nothing at all");
        world.acked("ws1");
        assert_eq!(hears().await, Recovery::Unmeasured, "it answers, and nothing comes in time");
        world.came("ws1", "ws1-1", world.journal.now_ms());
        assert!(matches!(hears().await, Recovery::Never(_)), "its own come in time, no others");
        world.came("ws1", "ws2", world.journal.now_ms());
        assert!(matches!(hears().await, Recovery::After(_)));
    }

    #[test]
    fn all_have_recovered_when_the_last_has() {
        use Recovery::{After, Never, Unmeasured};
        assert_eq!(Recovery::of_all([After(3), After(9), After(4)]), After(9));
        assert_eq!(Recovery::of_all([After(3), Never(30), After(4)]), Never(30));
        assert_eq!(Recovery::of_all([Never(30), Unmeasured, After(4)]), Unmeasured);
        assert_eq!((After(3).took(), After(3).in_vain()), (Some(3), None));
        assert_eq!((Never(3).took(), Never(3).in_vain()), (None, Some(3)));
    }

    #[test]
    fn a_third_of_the_conversations_falls_silent_one_after_the_other() {
        let (world, _folder) = world();
        let all = world.plan.conversations.len();
        let silent = || (0..all).filter(|number| world.is_silent(*number)).count();
        assert_eq!((silent(), world.settles()), (0, false));
        world.silence.set((0, 0)).unwrap();
        assert_eq!((silent(), world.settles()), (all / 3, true));
        let (later, _folder) = self::world();
        later.silence.set((0, 1 << 40)).unwrap();
        assert!(later.settles() && !later.is_silent(2));
    }
}
