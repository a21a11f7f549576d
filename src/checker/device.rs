//! Connections and devices: what came to whom, and what should have (I1, I3, I5, I6, I13, I14).

mod connect;
mod arrive;
mod due;
mod still;
mod trail;

pub(super) use connect::GIVEN_UP;
pub(super) use due::Losses;

use std::collections::HashMap;

use super::judge::Checker;
use super::log::{Log, LogId, Shown};
use super::names::{Name, Names};
use super::ranges::Ranges;
use still::Unhanded;
use trail::Trail;

pub(super) type DeviceId = usize;
pub(super) type ConnectionId = usize;

#[derive(Debug)]
pub(super) struct Device {
    pub user: Name,
    pub name: Name,
    /// Counts the lives of its application.
    life: u32,
    /// It was welcomed once.
    pub known: bool,
    newest: Option<ConnectionId>,
    /// Where it starts as a new device: when it first was caught up, and what others of the
    /// person's devices had received then.
    start: Option<(u64, HashMap<LogId, u64>)>,
    /// Since when it tries in vain to connect, where nothing stands in the way, and when it last
    /// tried.
    pub trying: Option<(u64, u64)>,
    /// It was connected and caught up when the drain ended.
    pub drained: bool,
}

#[derive(Debug)]
struct Connection {
    name: Name,
    device: DeviceId,
    begun: u64,
    /// Its application gives the receipts.
    acks_app: bool,
    server: Option<Name>,
    /// When it was caught up.
    caughtup: Option<u64>,
    closed: bool,
    /// Something had waited for it.
    offline: bool,
    /// For each conversation, when it began: the highest acked seq, and the highest that the
    /// person had seen.
    before: Vec<(LogId, u64, u64)>,
    /// While it is open: the receipts given on it, and what was told as seen.
    receipts: HashMap<LogId, (Trail, Trail)>,
}

/// What a device has of a conversation.
#[derive(Debug, Default)]
struct Got {
    /// All that it received in any life, or learned as the seq of its own send.
    known: Ranges,
    /// What it was told that it missed.
    missed: Ranges,
    /// What the present life of the application has, where it is not the first.
    life: Option<(u32, Ranges)>,
    /// The highest text that came in that life.
    highest: u64,
    /// What it has given a receipt for.
    acked: u64,
}

impl Got {
    /// The application as it is now.
    fn enter(&mut self, life: u32) {
        let begun = self.life.as_ref().map_or(0, |(begun, _)| *begun);
        if begun != life {
            self.life = Some((life, Ranges::default()));
            self.highest = 0;
        }
    }

    /// What it lacks of what is settled. What was not acked and came late may be under way yet.
    fn gaps_in(&self, log: &Log) -> Ranges {
        let settled = log.acked.max(log.at_drain.unwrap_or(0));
        self.known.union(&self.missed).gaps(1, settled)
    }

    fn alive(&mut self) -> &mut Ranges {
        self.life.as_mut().map_or(&mut self.known, |(_, has)| has)
    }
}

/// What a person has of a conversation, over all devices.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Person {
    /// A receipt was given up to here.
    pub acked: u64,
    /// When the last one was given.
    pub acked_at: u64,
    /// The person has seen it up to here.
    pub read: u64,
    /// The highest seq that came to any device, or that a walk showed.
    pub sees: u64,
}

/// `caughtup` came while these were neither there nor told as missed.
#[derive(Debug)]
struct Gap {
    connection: ConnectionId,
    log: LogId,
    t: u64,
    sees: u64,
    seqs: Ranges,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub list: Vec<Device>,
    by_name: HashMap<(Name, Name), DeviceId>,
    connections: Vec<Connection>,
    by_connection: HashMap<Name, ConnectionId>,
    of_user: HashMap<Name, Vec<DeviceId>>,
    logs_of: HashMap<Name, Vec<LogId>>,
    got: HashMap<(DeviceId, LogId), Got>,
    people: HashMap<(Name, LogId), Person>,
    gaps: Vec<Gap>,
    unhanded: Vec<Unhanded>,
}

impl Devices {
    pub fn connection(&self, names: &Names, connection: &str) -> Option<ConnectionId> {
        self.by_connection.get(&names.known(connection)?).copied()
    }

    pub fn device_of(&self, connection: ConnectionId) -> DeviceId {
        self.connections[connection].device
    }

    pub fn user_of(&self, connection: ConnectionId) -> Name {
        self.list[self.device_of(connection)].user
    }

    /// The person may have something of this conversation.
    pub fn takes_part(&mut self, user: Name, log: LogId) {
        let logs = self.logs_of.entry(user).or_default();
        if !logs.contains(&log) {
            logs.push(log);
        }
    }

    pub fn person(&self, user: Name, log: LogId) -> Person {
        self.people.get(&(user, log)).copied().unwrap_or_default()
    }

    pub fn person_mut(&mut self, user: Name, log: LogId) -> &mut Person {
        self.people.entry((user, log)).or_default()
    }

    fn trails(&mut self, connection: ConnectionId, log: LogId) -> &mut (Trail, Trail) {
        self.connections[connection].receipts.entry(log).or_default()
    }

    /// The device has learned the seq of its own send, and needs no copy.
    pub fn knows(&mut self, device: DeviceId, log: LogId, seq: u64) {
        let life = self.list[device].life;
        let got = self.got.entry((device, log)).or_default();
        got.enter(life);
        got.alive().insert(seq);
        got.known.insert(seq);
    }

    /// The drain has ended: who is here, and caught up?
    pub fn end_drain(&mut self) {
        for device in &mut self.list {
            let newest = device.newest.map(|newest| &self.connections[newest]);
            device.drained =
                newest.is_some_and(|newest| newest.caughtup.is_some() && !newest.closed);
        }
    }

    /// What the person had given receipts for by then, and seen, on connections that are open yet.
    pub fn received_by(&self, user: Name, log: LogId, by: u64) -> Shown {
        let mut shown = Shown::default();
        for device in self.of_user.get(&user).into_iter().flatten() {
            let newest = self.list[*device].newest.map(|newest| &self.connections[newest]);
            let open = newest.filter(|newest| !newest.closed);
            let Some((received, seen)) = open.and_then(|open| open.receipts.get(&log)) else {
                continue;
            };
            shown.delivered = shown.delivered.max(received.by(by));
            shown.read = shown.read.max(seen.by(by));
        }
        shown
    }

    fn device(&mut self, user: Name, name: Name) -> DeviceId {
        let new = self.list.len();
        let device = *self.by_name.entry((user, name)).or_insert(new);
        if device == new {
            self.of_user.entry(user).or_default().push(new);
            self.list.push(Device {
                user,
                name,
                life: 0,
                known: false,
                newest: None,
                start: None,
                trying: None,
                drained: false,
            });
        }
        device
    }
}

impl Checker {
    pub(super) fn receipt(&mut self, t: u64, connection: &str, conversation: &str, seq: u64) {
        let Some(connection) = self.devices.connection(&self.names, connection) else {
            self.counts.strays += 1;
            return;
        };
        let log = self.logs.open(conversation, &mut self.names);
        self.gave_receipt(t, connection, log, seq);
        let old = self.before_a_status(t);
        self.devices.trails(connection, log).0.note(t, seq, old);
    }

    /// What came before this is not asked of a status that is shown at `t`.
    fn before_a_status(&self, t: u64) -> u64 {
        t.saturating_sub(self.gates.limits.status_ms * 1_000_000)
    }

    fn gave_receipt(&mut self, t: u64, connection: ConnectionId, log: LogId, seq: u64) {
        let device = self.devices.device_of(connection);
        let got = self.devices.got.entry((device, log)).or_default();
        got.acked = got.acked.max(seq);
        let user = self.devices.list[device].user;
        let person = self.devices.person_mut(user, log);
        (person.acked, person.acked_at) = (person.acked.max(seq), t);
    }

    pub(super) fn seen_by(&mut self, t: u64, connection: &str, conversation: &str, seq: u64) {
        let Some(connection) = self.devices.connection(&self.names, connection) else {
            self.counts.strays += 1;
            return;
        };
        let log = self.logs.open(conversation, &mut self.names);
        let user = self.devices.user_of(connection);
        let person = self.devices.person_mut(user, log);
        person.read = person.read.max(seq);
        let old = self.before_a_status(t);
        self.devices.trails(connection, log).1.note(t, seq, old);
    }

    pub(super) fn missed(&mut self, t: u64, connection: &str, of: &str, (from, to): (u64, u64)) {
        let Some(connection) = self.devices.connection(&self.names, connection) else {
            self.counts.strays += 1;
            return;
        };
        let log = self.logs.open(of, &mut self.names);
        let device = self.devices.device_of(connection);
        let got = self.devices.got.entry((device, log)).or_default();
        got.missed.insert_range(from, to);
        // Being told is what the receipt that follows is for. Where the application gives it, it
        // may never come.
        if self.devices.connections[connection].acks_app {
            got.acked = got.acked.max(to);
        } else {
            self.gave_receipt(t, connection, log, to);
        }
    }

    pub(super) fn device_text(&self, device: DeviceId) -> String {
        let device = &self.devices.list[device];
        format!("{}/{}", self.names.text(device.user), self.names.text(device.name))
    }

    pub(super) fn connection_text(&self, connection: ConnectionId) -> String {
        let connection = &self.devices.connections[connection];
        let server = connection.server.map_or("no server", |server| self.names.text(server));
        let (name, device) = (self.names.text(connection.name), connection.device);
        format!("{name} ({}, {server})", self.device_text(device))
    }
}
