//! Connections begin, catch up and end; applications forget.

use std::collections::HashMap;

use super::super::history::Outcome;
use super::super::judge::Checker;
use super::super::log::LogId;
use super::{Connection, Gap, Got};

/// Who has not tried to connect for so long does not want to.
pub(in crate::checker) const GIVEN_UP: u64 = 15_000_000_000;

impl Checker {
    pub(in crate::checker) fn connect(
        &mut self,
        t: u64,
        (connection, user, device): (&str, &str, &str),
        acks_app: bool,
        (outcome, server): (Option<Outcome>, Option<&str>),
    ) {
        let name = self.names.name(connection);
        let (user, device) = (self.names.name(user), self.names.name(device));
        let device = self.devices.device(user, device);
        let logs = self.devices.logs_of.get(&user).cloned().unwrap_or_default();
        let devices = &mut self.devices;
        let new = devices.connections.len();
        let id = *devices.by_connection.entry(name).or_insert(new);
        if id == new {
            let person = |log| devices.people.get(&(user, log)).map_or(0, |p| p.sees);
            let before = |log: LogId| (log, self.logs.list[log].acked, person(log));
            devices.connections.push(Connection {
                name,
                device,
                begun: t,
                acks_app,
                server: None,
                caughtup: None,
                closed: false,
                offline: false,
                before: logs.into_iter().map(before).collect(),
                receipts: HashMap::new(),
            });
            devices.list[device].newest = Some(id);
            if self.upkeep.is_recovered(t) {
                // One who has given up for a while meant to be away.
                let trying = devices.list[device].trying.filter(|(_, last)| t - last < GIVEN_UP);
                devices.list[device].trying = Some((trying.map_or(t, |(since, _)| since), t));
            }
        }
        if outcome == Some(Outcome::Done) {
            self.counts.connections += 1;
            self.counts.reconnects += u64::from(devices.list[device].known);
            devices.list[device].known = true;
            devices.connections[id].server = server.map(|server| self.names.name(server));
            if let Some((since, _)) = devices.list[device].trying.take() {
                self.connected_again(device, since, t);
            }
        }
    }

    pub(in crate::checker) fn close(&mut self, connection: &str) {
        match self.devices.connection(&self.names, connection) {
            Some(id) => {
                self.devices.connections[id].closed = true;
                self.devices.connections[id].before = Vec::new();
                self.devices.connections[id].receipts = HashMap::new();
            }
            None => self.counts.strays += 1,
        }
    }

    pub(in crate::checker) fn forget(&mut self, user: &str, device: &str) {
        let (user, device) = (self.names.name(user), self.names.name(device));
        let device = self.devices.device(user, device);
        self.devices.list[device].life += 1;
        self.devices.list[device].newest = None;
    }

    pub(in crate::checker) fn caught_up(&mut self, t: u64, connection: &str) {
        let Some(id) = self.devices.connection(&self.names, connection) else {
            self.counts.strays += 1;
            return;
        };
        let devices = &mut self.devices;
        let connection = &mut devices.connections[id];
        connection.caughtup.get_or_insert(t);
        let before = std::mem::take(&mut connection.before);
        let (device, user) = (connection.device, devices.list[connection.device].user);
        if devices.list[device].start.is_none() {
            let siblings = devices.of_user.get(&user).cloned().unwrap_or_default();
            let mut starts = HashMap::new();
            for log in devices.logs_of.get(&user).into_iter().flatten() {
                let others = siblings.iter().filter(|sibling| **sibling != device);
                let acked = others.filter_map(|o| devices.got.get(&(*o, *log)).map(|g| g.acked));
                starts.insert(*log, acked.max().unwrap_or(0));
            }
            devices.list[device].start = Some((t, starts));
        }
        for (log, acked, sees) in before {
            let empty = Got::default();
            let got = devices.got.get(&(device, log)).unwrap_or(&empty);
            let seqs = got.known.union(&got.missed).gaps(1, acked);
            if !seqs.is_empty() {
                devices.gaps.push(Gap { connection: id, log, t, sees, seqs });
            }
        }
    }
}
