//! A device of a person: connects, talks, loses its connection, comes back; says all that it saw.
//!
//! It behaves as docs/protocol.md asks of clients. What it does with an open connection stands in
//! `talk`; here is its life over many of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::journal::locked;
use super::sends::Sends;
use super::talk::{Talk, Why};
use super::world::{Presence, Stage, World};
use crate::checker::history::{Outcome, What};
use crate::client::{Client, ClientOptions, Welcome};

/// How long connecting may take before the device tries again.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Waits between tries: full jitter below these, short since a round is.
const BACKOFF_MS: u64 = 100;
const BACKOFF_MS_MAX: u64 = 1_600;
/// What a device with `catchup=` asks for.
const CATCHUP: u32 = 30;

/// What a fault does to a device.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// It is killed right after it sent something, before any answer, and starts anew with nothing.
    KilledAfterSend,
    /// Its application loses all that it knew of what it had received.
    Forget,
    /// It does not read for so many milliseconds.
    StopReading(u64),
}

/// An order, and where it is counted that it was carried out.
pub(super) type Ordered = (Order, Arc<AtomicU64>);

/// See the module.
pub(super) struct Device {
    pub(super) world: Arc<World>,
    pub(super) key: (usize, usize),
    pub(super) user: String,
    pub(super) name: String,
    pub(super) acks_app: bool,
    catchup: Option<u32>,
    /// Says more while answers are missing, up to what the protocol allows.
    pub(super) eager: bool,
    /// Leaves its connections alone in the last part of the load.
    pub(super) stays: bool,
    /// Gives a silent server up after so long.
    pub(super) patience: Duration,
    pub(super) random: SmallRng,
    pub(super) sends: Sends,
    /// The highest seq that the application knows of each conversation: `after` of new sends.
    pub(super) known: HashMap<String, u64>,
    /// The highest seq that ever came, whatever the application has forgotten.
    pub(super) top: HashMap<String, u64>,
    /// Conversations that this person may talk in, hot ones several times.
    pub(super) talks_in: Vec<usize>,
    pub(super) said: u64,
    pub(super) orders: mpsc::Receiver<Ordered>,
    /// In the drain: it has connected anew.
    pub(super) fresh: bool,
}

impl Device {
    /// Device `number` of `user`; the first answers by Pong, the second by `ack`.
    pub fn new(
        world: Arc<World>,
        user: usize,
        number: usize,
        seed: u64,
        orders: mpsc::Receiver<Ordered>,
    ) -> Self {
        let mut talks_in = Vec::new();
        for conversation in world.plan.of(user) {
            let weight = world.plan.conversations[conversation].heat.weight();
            talks_in.extend(std::iter::repeat_n(conversation, weight));
        }
        // Nothing has been said yet: everybody knows that each log is empty.
        let known = world.plan.conversations.iter().map(|c| (c.id.clone(), 0)).collect();
        let key = (user, number);
        locked(&world.presence).insert(key, Presence::default());
        Self {
            key,
            user: world.plan.users[user].clone(),
            name: format!("d{number}"),
            acks_app: number % 2 == 1,
            catchup: (user % 3 == 2).then_some(CATCHUP),
            eager: (user * 2 + number).is_multiple_of(3),
            stays: (user + number).is_multiple_of(2),
            patience: Duration::from_secs(if (user + number).is_multiple_of(2) { 5 } else { 15 }),
            random: SmallRng::seed_from_u64(seed ^ ((user as u64) << 8) ^ (number as u64)),
            sends: Sends::default(),
            known,
            top: HashMap::new(),
            talks_in,
            said: 0,
            orders,
            fresh: false,
            world,
        }
    }

    /// Lives until the round is over.
    pub async fn run(mut self) {
        let world = self.world.clone();
        let mut stage = world.stage.subscribe();
        let mut failures = 0_u32;
        while *stage.borrow_and_update() != Stage::Over {
            let why = match self.connect().await {
                Some((client, connection, welcome)) => {
                    let why = Talk::new(&mut self, connection.clone(), &welcome).run(client).await;
                    self.present(|presence| presence.server = None);
                    if !matches!(why, Why::Lost(None)) {
                        failures = 0;
                    }
                    let code = if let Why::Lost(code) = why { code } else { None };
                    world.journal.note(What::Close { connection, code });
                    why
                }
                None => Why::Lost(None),
            };
            let pause = match why {
                Why::Away(pause) => {
                    self.present(|presence| presence.away = true);
                    pause
                }
                Why::Killed => {
                    self.forget();
                    self.sends.forget();
                    Duration::from_millis(self.random.random_range(0..500))
                }
                Why::Forgot => {
                    self.forget();
                    Duration::ZERO
                }
                Why::Told(pause) => pause,
                Why::Lost(_) => {
                    let most = (BACKOFF_MS << failures.min(8)).min(BACKOFF_MS_MAX);
                    failures += 1;
                    Duration::from_millis(self.random.random_range(0..most))
                }
                Why::Over => break,
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = stage.changed() => {}
            }
            self.present(|presence| presence.away = false);
        }
    }

    /// The application starts with nothing.
    fn forget(&mut self) {
        self.known.clear();
        let (user, device) = (self.user.clone(), self.name.clone());
        self.world.journal.note(What::Forget { user, device });
    }

    pub(super) fn present(&self, change: impl FnOnce(&mut Presence)) {
        if let Some(presence) = locked(&self.world.presence).get_mut(&self.key) {
            change(presence);
        }
    }

    async fn connect(&self) -> Option<(Client, String, Welcome)> {
        let connection = self.world.connection();
        let line = |outcome, server| What::Connect {
            connection: connection.clone(),
            user: self.user.clone(),
            device: self.name.clone(),
            acks_app: self.acks_app,
            outcome,
            server,
        };
        self.world.journal.note(line(None, None));
        let options = ClientOptions {
            device: Some(self.name.clone()),
            acks_app: self.acks_app,
            catchup: self.catchup,
            ..ClientOptions::new(self.world.url.as_str(), self.user.as_str())
        };
        match timeout(CONNECT_LIMIT, Client::open(&options)).await {
            Ok(Ok((client, welcome))) => {
                let server = Some(welcome.server.clone());
                self.world.journal.note(line(Some(Outcome::Done), server.clone()));
                self.present(|presence| presence.server = server);
                Some((client, connection.clone(), welcome))
            }
            _ => {
                self.world.journal.note(line(Some(Outcome::Open), None));
                None
            }
        }
    }

    /// What is still missing before everything that was acknowledged is here.
    pub(super) fn missing(&self) -> Option<String> {
        if self.sends.len() > 0 {
            return Some(format!("{} sends have no answer", self.sends.len()));
        }
        let guests = locked(&self.world.guests).clone();
        let highest = self.world.journal.highest_acked();
        let user = self.key.0;
        for conversation in &self.world.plan.conversations {
            let is_in = conversation.members.contains(&user)
                || conversation.guest == Some(user) && guests.get(&conversation.id) == Some(&true);
            let has = self.top.get(&conversation.id).copied().unwrap_or(0);
            let wants = highest.get(&conversation.id).copied().unwrap_or(0);
            if is_in && has < wants {
                return Some(format!("{} has {has} of {wants}", conversation.id));
            }
        }
        None
    }
}

/// Counts an order as carried out.
pub(super) fn obeyed(bites: &AtomicU64) {
    bites.fetch_add(1, Ordering::Relaxed);
}
