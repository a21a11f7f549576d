//! One run: processes, devices, load, faults, and the phases that they go through.
#![cfg(test)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Once};

use super::client::Device;
use super::faults::{Finale, Nemesis};
use super::judge::Watch;
use super::load;
use super::sea::Sea;
use super::server::{API, SERVERS, Server};
use crate::chance::seeded;
use crate::chat::session::Wish;
use crate::checker::history::{Event, Phase, What};
use crate::protocol::{ConversationId, UserId};

/// How long after the last fault everything must be where it belongs.
pub const RECOVERY_MS: u64 = 90_000;

/// How long after Redis takes writes again what it had refused is written.
const SETTLES_MS: u64 = 3_000;

/// What came of a run.
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    pub windows: BTreeMap<String, u64>,
    pub history: Vec<Event>,
    pub trace: String,
    /// Simulated milliseconds.
    pub lasted: u64,
    /// From the healing to the end of the drain, in milliseconds.
    pub drained_in: u64,
}

impl Outcome {
    /// Without what is long.
    pub fn slim(self) -> Self {
        Self { history: Vec::new(), trace: String::new(), ..self }
    }
}

/// See the module.
pub struct World {
    pub sea: Sea,
    pub servers: Vec<Server>,
    pub devices: Vec<Device>,
    pub people: Vec<UserId>,
    pub conversations: Vec<ConversationId>,
    pub messages: u64,
    /// The least and the most that one step takes.
    pace: (u64, u64),
    seed: u64,
    /// The last act, where it is not left to chance.
    pub finale: Option<Finale>,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        seeded::seed(Some(seed ^ 0x5eed));
        count_panics();
        let sea = Sea::new(seed, SERVERS + 1, traced);
        let servers = (0..=API).map(|process| Server::new(&sea, process, traced)).collect();
        let mut core = sea.lock();
        let pace = core.pick(&[(3, 12), (5, 20), (10, 40), (20, 60)]);
        core.takes = core.pick(&[1, 1, 3, 500]);
        core.short_pages = core.pick(&[0.0, 0.2, 0.5]);
        let far = core.pick(&[6, 6, 30, 120]);
        for weather in &mut core.weather {
            (weather.store_ms, weather.usual_ms) = (1..far, 1..far);
        }
        let people: Vec<UserId> = (0..core.any(3..6)).map(|i| person(&format!("u{i}"))).collect();
        let mut devices = Vec::new();
        for user in &people {
            for name in 0..core.any(1..3) {
                let acks_app = core.chance(0.3);
                let catchup = core.chance(0.2).then(|| core.any(2..6));
                // Some devices are new when others have talked for long.
                let late = core.chance(0.15);
                let dials_at = if late { core.any(20_001..45_000) } else { 0 };
                let wish = Wish { acks_app, catchup, ..Wish::default() };
                devices.push(Device::new(user.clone(), &format!("d{name}"), wish, dials_at));
            }
        }
        drop(core);
        let (conversations, messages) = (Vec::new(), 0);
        Self { sea, servers, devices, people, conversations, messages, pace, seed, finale: None }
    }

    /// The whole run.
    pub fn run(mut self) -> Outcome {
        self.servers.iter_mut().for_each(Server::start);
        self.wait(30_000, |world| world.servers.iter().all(Server::is_open));
        let here = |device: &Device| device.dials_at > 20_000 || device.is_caught_up();
        self.wait(10_000, |world| world.devices.iter().all(here));
        load::found_conversations(&mut self);
        self.phase(Phase::Quiet);
        self.pass(3_000, |world| load::talk(world, 1.0));
        self.phase(Phase::Faults);
        let mut nemesis = Nemesis::new(&self.sea);
        let faults = self.sea.any(15_000..35_000);
        self.pass(faults, |world| {
            load::talk(world, 1.0);
            nemesis.step(world);
        });
        let finale = nemesis.prepare(self.finale, &mut self);
        while !nemesis.finale(finale, &mut self) {
            // What comes later in a conversation would show what was lost before it.
            let pace = if nemesis.fired() { 0.0 } else { 1.5 };
            self.pass(1, |world| load::talk(world, pace));
        }
        nemesis.heal(&mut self);
        self.phase(Phase::Healed);
        let healed = self.sea.lock().now;
        let refuses = finale == Finale::RedisRefusesWrites;
        let mut watch = Watch::new(healed, finale);
        let pace = self.sea.lock().pick(&[0.0, 0.0, 0.2, 0.7]);
        let (pace, comings) = match finale {
            Finale::Crowd => (0.2, 0.012),
            Finale::RedisRefusesWrites => (0.7, 0.02),
            _ => (pace, 0.02),
        };
        let mut healed_ms = self.sea.any(3_000..20_000);
        if refuses {
            // Who comes after the claims are refused is to be there for long enough.
            healed_ms += 20_000;
        }
        self.pass(healed_ms, |world| {
            load::talk(world, pace);
            load::churn(world, comings);
            nemesis.restart_ended(world);
            watch.look(world);
        });
        self.drain(healed, &mut nemesis, &mut watch);
        let drained = self.sea.lock().now - healed;
        let mut violations = super::judge::unfinished(&self);
        if self.sea.chance(0.25) {
            // Stored statuses may trail for so long.
            self.pass(34_000, |_| {});
        }
        self.phase(Phase::Read);
        load::read_everything(&mut self);
        violations.append(&mut watch.wrong);
        violations.extend(super::judge::judge(&mut self));
        violations.extend(super::judge::check(&self));
        self.end(violations, drained)
    }

    /// Nobody says anything more; what is under way comes to its end.
    fn drain(&mut self, healed: u64, nemesis: &mut Nemesis, watch: &mut Watch) {
        self.phase(Phase::Drain);
        self.pace = (30, 60);
        let bound = healed + RECOVERY_MS;
        let left = bound.saturating_sub(self.sea.lock().now);
        let until = self.sea.lock().now + left;
        let settled = |world: &Self| {
            let core = world.sea.lock();
            core.now > core.late_until.max(core.refuses_until + SETTLES_MS)
        };
        while self.sea.lock().now < until
            && !(settled(self) && super::judge::unfinished(self).is_empty())
        {
            self.pass(500, |world| {
                nemesis.restart_ended(world);
                watch.look(world);
            });
        }
    }

    fn end(mut self, mut violations: Vec<String>, drained_in: u64) -> Outcome {
        if PANICS.get() > 0 {
            violations.push(format!("I16: {} tasks panicked", PANICS.get()));
        }
        self.servers.iter_mut().for_each(Server::crash);
        let mut core = self.sea.lock();
        Outcome {
            seed: self.seed,
            violations,
            windows: std::mem::take(&mut core.windows),
            history: std::mem::take(&mut core.history),
            trace: core.trace(),
            lasted: core.now,
            drained_in,
        }
    }

    fn phase(&self, phase: Phase) {
        self.sea.log(What::Phase { phase });
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64, mut each: impl FnMut(&mut Self)) {
        let until = self.sea.lock().now + ms;
        while self.sea.lock().now < until {
            self.step();
            each(self);
        }
    }

    /// Lets time pass until something holds; `false` where it does not within `ms`.
    pub fn wait(&mut self, ms: u64, holds: impl Fn(&Self) -> bool) -> bool {
        let until = self.sea.lock().now + ms;
        while !holds(self) {
            if self.sea.lock().now >= until {
                return false;
            }
            self.step();
        }
        true
    }

    /// One step of everybody.
    fn step(&mut self) {
        let (passed, turn) = {
            let mut core = self.sea.lock();
            let passed = core.any(self.pace.0..self.pace.1);
            core.now += passed;
            core.run_due();
            core.pump_orphans();
            (passed, core.any(0..self.servers.len() as u64) as usize)
        };
        let count = self.servers.len();
        for server in (0..count).map(|i| (i + turn) % count) {
            self.servers[server].step(passed);
        }
        let mut core = self.sea.lock();
        for device in &mut self.devices {
            device.step(&mut core, &self.servers[..SERVERS]);
        }
    }

    /// A process dies, and its connections with it.
    pub fn crash(&mut self, process: usize, told: bool) {
        self.servers[process].crash();
        self.hang_up(process, told);
    }

    /// The connections of a process that is gone.
    pub fn hang_up(&self, process: usize, told: bool) {
        let mut core = self.sea.lock();
        for device in &self.devices {
            if let Some(connection) = device.connection.as_ref().filter(|c| c.server == process) {
                connection.wire.server_died(&mut core, told);
            }
        }
    }

    /// The name under which a fault's target is told.
    pub fn name(process: usize) -> String {
        if process == API { "api".to_owned() } else { format!("ws{}", process + 1) }
    }

    pub fn chat(&self) -> Option<Arc<crate::chat::Chat>> {
        self.servers[API].chat().cloned()
    }
}

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// From now on the panics of this thread are counted: the runtimes would hide those of their tasks.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
    PANICS.set(0);
}

pub fn person(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}
