//! What goes wrong: a random part of all kinds for each seed, begun at random and healed in time.
#![cfg(test)]

use std::sync::atomic::Ordering;

use super::client::Device;
use super::sea::{Call, Cut, Deed, Moment, Refusal, Sea, Trap, Weather};
use super::server::{API, SERVERS};
use super::world::World;
use crate::checker::history::What;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Crash,
    TrappedCrash,
    Trap,
    Pause,
    Drain,
    StoreTrouble,
    StoreCut,
    BoardCut,
    RedisCut,
    RedisEmptied,
    RedisFlushed,
    BusTrouble,
    ClientCut,
    ClientStall,
    ClientAway,
    ClientForgets,
    Clock,
    RedisRefusesWrites,
}

const ALL_KINDS: [Kind; 18] = [
    Kind::Crash,
    Kind::TrappedCrash,
    Kind::Trap,
    Kind::Pause,
    Kind::Drain,
    Kind::StoreTrouble,
    Kind::StoreCut,
    Kind::BoardCut,
    Kind::RedisCut,
    Kind::RedisEmptied,
    Kind::RedisFlushed,
    Kind::BusTrouble,
    Kind::ClientCut,
    Kind::ClientStall,
    Kind::ClientAway,
    Kind::ClientForgets,
    Kind::Clock,
    Kind::RedisRefusesWrites,
];

#[derive(Debug, Clone, Copy)]
enum Undo {
    Nothing,
    Start(usize),
    Resume(usize),
    Store(Option<usize>),
    Board(Option<usize>),
    Redis(Option<usize>),
    Writes(Option<usize>),
    Bus(Option<usize>),
    Stall(usize),
}

struct Active {
    name: String,
    until: u64,
    undo: Undo,
}

/// See the module.
pub struct Nemesis {
    kinds: Vec<Kind>,
    next: u64,
    between: u64,
    active: Vec<Active>,
    begun: u64,
    /// Who plays in the last act, since when, and which beat was its last.
    actor: usize,
    began: u64,
    beat: Option<u64>,
    fired: bool,
    late_before: Option<u64>,
}

/// Something rare that ends the faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finale {
    None,
    /// A server dies with a put that nobody knows of; its sender sends again.
    Crash,
    /// The same, and the sender has forgotten.
    CrashForgotten,
    /// A server stores something, loses the store for long, and the sender has forgotten.
    CutForgotten,
    /// What is published for a process is lost, the publisher dies, and the process is told of a
    /// gap.
    Gap,
    /// A process puts something as late as it may, when others hold it for dead already.
    LastGasp,
    /// The store is far, and people come and go all the time.
    Crowd,
    /// Redis refuses writes, and that lasts: people come and talk meanwhile.
    RedisRefusesWrites,
}

impl Finale {
    /// Those that may happen.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Crash,
        Self::CrashForgotten,
        Self::CutForgotten,
        Self::Gap,
        Self::LastGasp,
        Self::Crowd,
        Self::RedisRefusesWrites,
    ];
}

impl Nemesis {
    pub fn new(sea: &Sea) -> Self {
        let mut core = sea.lock();
        let odds = core.pick(&[0.15, 0.3, 0.6]);
        let mut kinds = ALL_KINDS.to_vec();
        kinds.retain(|_| core.chance(odds));
        if kinds.is_empty() {
            kinds.push(core.pick(&ALL_KINDS));
        }
        let between = core.pick(&[400, 1_000, 2_500]);
        Self {
            kinds,
            next: core.now,
            between,
            active: Vec::new(),
            begun: 0,
            actor: 0,
            began: 0,
            beat: None,
            fired: false,
            late_before: None,
        }
    }

    /// What is due begins, and ends; traps that were sprung do their deed.
    pub fn step(&mut self, world: &mut World) {
        self.spring(world);
        self.restart_ended(world);
        let now = world.sea.lock().now;
        if now >= self.next {
            let kind = world.sea.lock().pick(&self.kinds);
            self.begin(kind, world);
            self.next = now + world.sea.any(50..self.between * 2);
        }
    }

    /// Everything ends; of the dead some stay so for a while.
    pub fn heal(&mut self, world: &mut World) {
        world.sea.lock().traps.clear();
        self.spring(world);
        let all = std::mem::take(&mut self.active);
        let (dead, all): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|fault| matches!(fault.undo, Undo::Start(_)));
        // Only that of the last act is left by now, and it goes on.
        let (refusals, all): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|fault| matches!(fault.undo, Undo::Writes(_)));
        self.active = refusals;
        all.into_iter().for_each(|fault| self.undo(fault, world));
        let mut core = world.sea.lock();
        for fault in dead {
            core.log_healed(fault.name);
        }
        drop(core);
        for process in 0..=API {
            world.servers[process].pause(false);
            world.servers[process].skew.store(0, Ordering::Relaxed);
            if !world.servers[process].is_alive() {
                if world.sea.chance(0.7) && process != API {
                    let undo = Undo::Start(process);
                    self.told("Gone".to_owned(), World::name(process), 25_000, undo, world);
                } else {
                    world.servers[process].start();
                }
            }
        }
        let mut core = world.sea.lock();
        for process in 0..=API {
            core.redis_back(process);
        }
        core.weather.iter_mut().for_each(Weather::clear);
        for device in &mut world.devices {
            device.reads_at = 0;
            device.dials_at = device.dials_at.min(core.now + 500);
            if let Some(connection) = &device.connection {
                connection.wire.stall(false);
            }
        }
        drop(core);
    }

    /// A drain ended, or a process gave up: somebody starts it again.
    pub fn restart_ended(&mut self, world: &mut World) {
        let now = world.sea.lock().now;
        let over: Vec<_> = self.active.extract_if(.., |fault| fault.until <= now).collect();
        over.into_iter().for_each(|fault| self.undo(fault, world));
        for process in 0..=API {
            let waits = self
                .active
                .iter()
                .any(|fault| matches!(fault.undo, Undo::Start(p) if p == process));
            if !world.servers[process].is_alive() && !waits {
                world.hang_up(process, true);
                let delay = world.sea.any(100..4_000);
                self.lasts(Kind::Crash, process, delay, Undo::Start(process), world);
            }
        }
    }

    fn lasts(&mut self, kind: Kind, target: usize, ms: u64, undo: Undo, world: &World) {
        let target = if target > API { "all".to_owned() } else { World::name(target) };
        self.told(format!("{kind:?}"), target, ms, undo, world);
    }

    fn told(&mut self, kind: String, target: String, ms: u64, undo: Undo, world: &World) {
        self.begun += 1;
        let name = format!("f{}", self.begun);
        let mut core = world.sea.lock();
        core.count(&format!("fault {kind}"));
        core.log(What::Fault { fault: name.clone(), kind, target });
        let until = core.now + ms;
        self.active.push(Active { name, until, undo });
    }

    fn begin(&mut self, kind: Kind, world: &mut World) {
        let process = world.sea.any(0..SERVERS as u64 + 1) as usize;
        let device = world.sea.any(0..world.devices.len() as u64) as usize;
        // One process, or all of them.
        let whom = if world.sea.chance(0.3) { None } else { Some(process) };
        let target = whom.unwrap_or(API + 1);
        match kind {
            Kind::Crash => self.crash(process, world),
            Kind::TrappedCrash => self.trap(Deed::Crash, world),
            Kind::Trap => {
                let deeds = [Deed::Pause, Deed::CutRedis, Deed::CutStore, Deed::Empty];
                let deed = world.sea.lock().pick(&deeds);
                self.trap(deed, world);
            }
            Kind::Pause => self.pause(process, world),
            Kind::Drain => {
                world.servers[process].drain();
            }
            Kind::StoreTrouble => self.trouble_store(whom, target, world),
            Kind::StoreCut => {
                each(&mut world.sea.lock().weather, whom, |weather| weather.store_cut = true);
                let ms = world.sea.lock().pick(&[600, 3_500, 12_000]);
                self.lasts(kind, target, ms, Undo::Store(whom), world);
            }
            Kind::BoardCut => {
                each(&mut world.sea.lock().weather, whom, |weather| weather.board_cut = true);
                let ms = world.sea.lock().pick(&[2_500, 11_000, 17_000]);
                self.lasts(kind, target, ms, Undo::Board(whom), world);
            }
            Kind::RedisCut => {
                let cut = world.sea.lock().pick(&[Cut::Both, Cut::Answers, Cut::Silent]);
                self.cut_redis(whom, cut, world);
            }
            Kind::RedisEmptied => {
                world.sea.lock().redis_emptied();
                self.lasts(kind, API + 1, 0, Undo::Nothing, world);
            }
            Kind::RedisFlushed => {
                world.sea.lock().redis.map.clear();
                self.lasts(kind, API + 1, 0, Undo::Nothing, world);
            }
            Kind::BusTrouble => self.trouble_bus(whom, target, world),
            Kind::RedisRefusesWrites => self.refuse_writes(whom, world),
            Kind::Clock => {
                let wrong = world.sea.any(0..600_000) as i64 - 300_000;
                world.servers[process].skew.store(wrong, Ordering::Relaxed);
                self.lasts(kind, process, 0, Undo::Nothing, world);
            }
            _ => self.hurt_client(kind, device, world),
        }
    }

    fn trouble_store(&mut self, whom: Option<usize>, target: usize, world: &World) {
        let mut core = world.sea.lock();
        let draw = |core: &mut super::sea::Core| core.pick(&[0.0, 0.0, 0.1, 0.3]);
        let (refuse, mute, late, lose) =
            (draw(&mut core), draw(&mut core), draw(&mut core), draw(&mut core));
        let slow = core.pick(&[6, 40, 400]);
        each(&mut core.weather, whom, |weather| {
            weather.store_ms = 1..slow;
            (weather.refuse, weather.mute) = (refuse, mute * 0.8);
            (weather.late, weather.lose) = (late * 0.8, lose * 0.5);
        });
        drop(core);
        let ms = world.sea.any(500..6_000);
        self.lasts(Kind::StoreTrouble, target, ms, Undo::Store(whom), world);
    }

    fn trouble_bus(&mut self, whom: Option<usize>, target: usize, world: &World) {
        let mut core = world.sea.lock();
        let (drop, twice) = (core.pick(&[0.0, 0.2, 0.6]), core.pick(&[0.0, 0.1, 0.3]));
        let slow = core.pick(&[3, 100, 2_000]);
        each(&mut core.weather, whom, |weather| {
            (weather.bus_drop, weather.bus_twice) = (drop, twice);
            weather.bus_ms = 0..slow;
        });
        std::mem::drop(core);
        let ms = world.sea.any(500..6_000);
        self.lasts(Kind::BusTrouble, target, ms, Undo::Bus(whom), world);
    }

    fn hurt_client(&mut self, kind: Kind, device: usize, world: &mut World) {
        let told = world.sea.chance(0.5);
        let mut ms = world.sea.any(500..9_000);
        let mut undo = Undo::Nothing;
        let mut core = world.sea.lock();
        let hurt = &mut world.devices[device];
        match kind {
            Kind::ClientCut => {
                if let Some(connection) = &hurt.connection {
                    connection.wire.cut(&mut core);
                }
            }
            Kind::ClientStall => {
                let Some(connection) = &hurt.connection else { return };
                if told {
                    // Beyond the patience that a server has with a write.
                    ms *= 2;
                    connection.wire.stall(true);
                    undo = Undo::Stall(device);
                } else {
                    hurt.reads_at = core.now + ms;
                }
            }
            Kind::ClientAway => {
                hurt.leave(told, &mut core);
                hurt.dials_at = core.now + ms;
            }
            _ => hurt.forget(told, &mut core),
        }
        let target = format!("{}/{}", hurt.user, hurt.name);
        drop(core);
        self.told(format!("{kind:?}"), target, ms, undo, world);
    }

    fn crash(&mut self, process: usize, world: &mut World) {
        if !world.servers[process].is_alive() {
            return;
        }
        let told = world.sea.chance(0.7);
        world.crash(process, told);
        let ms = world.sea.lock().pick(&[100, 2_000, 17_000]);
        self.lasts(Kind::Crash, process, ms, Undo::Start(process), world);
    }

    fn pause(&mut self, process: usize, world: &mut World) {
        if !world.servers[process].is_alive() || world.servers[process].is_paused() {
            return;
        }
        world.servers[process].pause(true);
        let ms = world.sea.lock().pick(&[300, 3_000, 11_000, 18_000]);
        self.lasts(Kind::Pause, process, ms, Undo::Resume(process), world);
    }

    fn cut_redis(&mut self, whom: Option<usize>, cut: Cut, world: &World) {
        each(&mut world.sea.lock().weather, whom, |weather| weather.redis_cut = cut);
        let ms = world.sea.lock().pick(&[300, 2_000, 8_000]);
        let target = whom.map_or("redis".to_owned(), |p| format!("{}>redis", World::name(p)));
        self.told(format!("RedisCut{cut:?}"), target, ms, Undo::Redis(whom), world);
    }

    /// A full Redis is so for all; of replicas that are taken for the primary there may be one.
    fn refuse_writes(&mut self, whom: Option<usize>, world: &World) {
        let mut core = world.sea.lock();
        let refusal = core.pick(&[Refusal::Full, Refusal::ReadOnly]);
        let whom = whom.filter(|_| refusal == Refusal::ReadOnly);
        // A failover may lose what was written last, here all of it.
        if refusal == Refusal::ReadOnly && core.chance(0.5) {
            core.redis_emptied();
        }
        each(&mut core.weather, whom, |weather| weather.redis_refuses = Some(refusal));
        let ms = core.any(3_000..40_000);
        core.refuses_until = core.refuses_until.max(core.now + ms);
        drop(core);
        let target = whom.unwrap_or(API + 1);
        self.lasts(Kind::RedisRefusesWrites, target, ms, Undo::Writes(whom), world);
    }

    fn trap(&self, deed: Deed, world: &World) {
        let mut core = world.sea.lock();
        let process = if core.chance(0.5) { Some(core.any(0..SERVERS as u64 + 1)) } else { None };
        let process = process.map(|process| process as usize);
        let (call, moment) = (
            core.pick(&Call::TRAPPED),
            core.pick(&[Moment::Left, Moment::Applied, Moment::Answered]),
        );
        let forget = call == Call::Append && core.chance(0.4);
        if core.traps.len() < 4 {
            core.traps.push(Trap { process, call, moment, deed, forget });
        }
    }

    fn spring(&mut self, world: &mut World) {
        let sprung = std::mem::take(&mut world.sea.lock().sprung);
        for (process, Trap { call, moment, deed, forget, .. }) in sprung {
            world.sea.count(&format!("{deed:?} at {call:?} {moment:?}"));
            if forget {
                self.forget_all(Some(process), world);
            }
            match deed {
                Deed::Crash => self.crash(process, world),
                Deed::Pause => self.pause(process, world),
                Deed::CutRedis => self.cut_redis(Some(process), Cut::Both, world),
                Deed::CutStore => {
                    world.sea.lock().weather[process].store_cut = true;
                    let ms = world.sea.lock().pick(&[500, 3_500, 8_000]);
                    let undo = Undo::Store(Some(process));
                    self.lasts(Kind::StoreCut, process, ms, undo, world);
                }
                Deed::Empty => {
                    world.sea.lock().redis_emptied();
                    self.lasts(Kind::RedisEmptied, API + 1, 0, Undo::Nothing, world);
                }
            }
        }
    }

    /// Those who wait for an answer, from this process or from any, lose their state.
    fn forget_all(&self, process: Option<usize>, world: &mut World) {
        let mut core = world.sea.lock();
        for device in &mut world.devices {
            let server = device.connection.as_ref().map(|connection| connection.server);
            if process.is_none_or(|_| server == process) && !device.queue.is_empty() {
                device.forget(true, &mut core);
            }
        }
    }

    /// Sets the scene for the last act.
    pub fn prepare(&mut self, wanted: Option<Finale>, world: &mut World) -> Finale {
        let (dead, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|fault| matches!(fault.undo, Undo::Start(_)));
        rest.into_iter().for_each(|fault| self.undo(fault, world));
        self.active = dead;
        let open: Vec<_> = (0..SERVERS).filter(|p| world.servers[*p].is_open()).collect();
        let mut core = world.sea.lock();
        core.traps.clear();
        core.weather.iter_mut().for_each(Weather::clear);
        self.actor = if open.is_empty() { 0 } else { core.pick(&open) };
        let finale = wanted.unwrap_or(core.pick(&Finale::ALL));
        let moment = core.pick(&[Moment::Applied, Moment::Applied, Moment::Answered]);
        let trap = |moment| Trap {
            process: None,
            call: Call::Append,
            moment,
            deed: Deed::Crash,
            forget: false,
        };
        core.sprung.clear();
        match finale {
            Finale::None | Finale::LastGasp | Finale::RedisRefusesWrites => {}
            Finale::Crowd => core.weather.iter_mut().for_each(|weather| weather.usual_ms = 50..300),
            Finale::Crash | Finale::CrashForgotten => core.traps = vec![trap(moment)],
            Finale::CutForgotten => core.traps = vec![trap(Moment::Applied)],
            Finale::Gap => {
                core.weather[self.actor].redis_cut = Cut::Both;
                core.lost_entry = Some(self.actor);
            }
        }
        self.began = core.now;
        self.beat = None;
        core.refuses_until = 0;
        drop(core);
        if finale == Finale::RedisRefusesWrites {
            let whom = if world.sea.chance(0.5) { None } else { Some(self.actor) };
            self.refuse_writes(whom, world);
        }
        finale
    }

    /// The last act: something rare, made to happen. `true` once it is over.
    pub fn finale(&mut self, finale: Finale, world: &mut World) -> bool {
        let passed = world.sea.lock().now - self.began;
        let fires = world.sea.lock().sprung.first().map(|(process, _)| *process);
        match (finale, fires) {
            (Finale::None, _) => true,
            (Finale::Crowd | Finale::RedisRefusesWrites, _) => {
                world.sea.count(&format!("finale {finale:?}"));
                true
            }
            (Finale::LastGasp, _) => self.last_gasp(world),
            (Finale::CutForgotten, None) if self.fired => passed > 9_000,
            (_, None) => passed > 4_000,
            (_, Some(process)) => {
                world.sea.count(&format!("finale {finale:?}"));
                let mut core = world.sea.lock();
                core.sprung.clear();
                core.traps.clear();
                if finale == Finale::CutForgotten {
                    core.weather[process].store_cut = true;
                    (self.began, self.fired) = (core.now, true);
                }
                drop(core);
                if finale == Finale::Crash {
                    // What follows in a conversation would show what was lost before it.
                    world.devices.iter_mut().for_each(Device::keep_one);
                } else {
                    self.forget_all(None, world);
                }
                if finale != Finale::CutForgotten {
                    world.crash(process, true);
                }
                finale != Finale::CutForgotten
            }
        }
    }

    /// The last act goes on, and what it is about has happened.
    pub fn fired(&self) -> bool {
        self.fired
    }

    /// From a beat on the process can't beat any more; what it puts at the end of its ten seconds
    /// comes late, and then it dies.
    fn last_gasp(&mut self, world: &mut World) -> bool {
        let process = self.actor;
        let id = world.servers[process].id.clone();
        let mut core = world.sea.lock();
        let now = core.now;
        let Some(row) = core.board.rows.get(&id).map(|row| row.beat) else { return true };
        if !core.weather[process].board_cut {
            if self.beat.is_some_and(|beat| beat != row) {
                core.weather[process].board_cut = true;
                self.began = now;
            }
            self.beat = Some(row);
            return now > self.began + 8_000;
        }
        let passed = now - self.began;
        core.weather[process].late_puts = passed > 7_500;
        let late = core.windows.get("late Append").copied();
        if passed <= 7_500 {
            self.late_before = late;
        }
        if passed < 10_500 && late == self.late_before {
            return false;
        }
        core.count("finale LastGasp");
        drop(core);
        self.forget_all(None, world);
        world.crash(process, true);
        true
    }

    fn undo(&self, fault: Active, world: &mut World) {
        let mut core = world.sea.lock();
        match fault.undo {
            Undo::Nothing => {}
            Undo::Store(whom) => each(&mut core.weather, whom, |weather| {
                weather.store_cut = false;
                (weather.refuse, weather.mute, weather.late, weather.lose) = (0.0, 0.0, 0.0, 0.0);
                weather.store_ms = weather.usual_ms.clone();
            }),
            Undo::Board(whom) => each(&mut core.weather, whom, |w| w.board_cut = false),
            Undo::Bus(whom) => each(&mut core.weather, whom, |weather| {
                (weather.bus_drop, weather.bus_twice) = (0.0, 0.0);
                weather.bus_ms = Weather::default().bus_ms;
            }),
            Undo::Redis(whom) => {
                each(&mut core.weather, whom, |weather| weather.redis_cut = Cut::No);
                for process in (0..=API).filter(|p| whom.is_none_or(|whom| whom == *p)) {
                    core.redis_back(process);
                }
            }
            Undo::Writes(whom) => each(&mut core.weather, whom, |w| w.redis_refuses = None),
            Undo::Stall(device) => {
                if let Some(connection) = &world.devices[device].connection {
                    connection.wire.stall(false);
                }
            }
            Undo::Start(process) => {
                drop(core);
                if !world.servers[process].is_alive() {
                    world.servers[process].start();
                }
                core = world.sea.lock();
            }
            Undo::Resume(process) => {
                drop(core);
                world.servers[process].pause(false);
                core = world.sea.lock();
            }
        }
        core.log_healed(fault.name);
    }
}

fn each(weather: &mut [Weather], whom: Option<usize>, mut change: impl FnMut(&mut Weather)) {
    let mut one = weather.iter_mut().enumerate();
    one.by_ref()
        .filter(|(process, _)| whom.is_none_or(|whom| whom == *process))
        .for_each(|(_, weather)| change(weather));
}
