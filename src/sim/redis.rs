//! The Redis of the simulation: the socket map and the channels, in memory.
#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::sea::{Call, Core, Cut, Deed, Moment, Refusal, Trap};
use crate::bus::{Heard, SUBSCRIPTION_BATCHES_MAX, Subscription};
use crate::directory::{DirectoryError, SOCKETS_KEPT_MAX, SocketEntry};
use crate::planted::{Bug, planted};
use crate::protocol::{Envelope, ProcessId, SocketId, UserId};

struct Channel {
    process: usize,
    sender: mpsc::Sender<Heard>,
    /// What is published arrives in order: the newest then.
    arrives_at: u64,
    /// Something was lost, and the subscriber will be told.
    gap: bool,
}

/// The publisher of an entry that was lost dies.
const LOST: Trap = Trap {
    process: None,
    call: Call::Publish,
    moment: Moment::Applied,
    deed: Deed::Crash,
    forget: false,
};

/// See the module.
#[derive(Default)]
pub struct Redis {
    pub map: BTreeMap<UserId, Vec<SocketEntry>>,
    pub instance: u64,
    channels: BTreeMap<ProcessId, Channel>,
}

impl Redis {
    fn claim(&mut self, user: &UserId, entry: SocketEntry, dead: &[(SocketId, u64)]) -> usize {
        let sockets = self.map.entry(user.clone()).or_default();
        sockets.retain(|old| {
            old.socket_id != entry.socket_id && !dead.contains(&(old.socket_id, old.claim))
        });
        sockets.insert(0, entry);
        sockets.truncate(SOCKETS_KEPT_MAX);
        sockets.len()
    }

    fn release(&mut self, user: &UserId, socket: SocketId, claim: u64) {
        if planted(Bug::ReleaseAny) {
            self.map.remove(user);
        }
        if let Some(sockets) = self.map.get_mut(user) {
            sockets.retain(|old| (old.socket_id, old.claim) != (socket, claim));
        }
    }

    pub fn locate(&self, users: &[UserId]) -> Vec<Vec<SocketEntry>> {
        users.iter().map(|user| self.map.get(user).cloned().unwrap_or_default()).collect()
    }

    fn stands(&self, user: &UserId, socket: SocketId, claim: u64) -> bool {
        let sockets = self.map.get(user).into_iter().flatten();
        sockets.into_iter().any(|known| (known.socket_id, known.claim) == (socket, claim))
    }

    /// The subscription of a process that starts.
    pub fn subscribe(&mut self, me: &ProcessId, process: usize) -> Subscription {
        let (sender, subscription) = mpsc::channel(SUBSCRIPTION_BATCHES_MAX);
        let channel = Channel { process, sender, arrives_at: 0, gap: false };
        self.channels.insert(me.clone(), channel);
        subscription
    }
}

/// What the scripts of `directory/` do, where Redis lets them.
impl Core {
    /// The script writes, and Redis refuses that: it answers with the error of the write.
    fn write(&mut self, process: usize, call: Call, grows: bool) -> Result<(), DirectoryError> {
        let said = match self.weather[process].redis_refuses {
            Some(Refusal::Full) if grows => {
                "OOM command not allowed when used memory > 'maxmemory'"
            }
            Some(Refusal::ReadOnly) => "READONLY You can't write against a read only replica",
            _ => return Ok(()),
        };
        self.count(&format!("refused {call:?}"));
        Err(DirectoryError(said.to_owned()))
    }

    pub fn claim(
        &mut self,
        process: usize,
        user: &UserId,
        entry: SocketEntry,
        dead: &[(SocketId, u64)],
    ) -> Result<usize, DirectoryError> {
        self.write(process, Call::Claim, true)?;
        Ok(self.redis.claim(user, entry, dead))
    }

    pub fn release(
        &mut self,
        process: usize,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<(), DirectoryError> {
        if self.redis.stands(user, socket, claim) {
            // The last of a person's entries is deleted, the others are written anew.
            let others = self.redis.map.get(user).is_some_and(|sockets| sockets.len() > 1);
            self.write(process, Call::Release, others)?;
        }
        self.redis.release(user, socket, claim);
        Ok(())
    }

    pub fn extend(
        &mut self,
        process: usize,
        user: &UserId,
        socket: SocketId,
        claim: u64,
    ) -> Result<bool, DirectoryError> {
        let stands = self.redis.stands(user, socket, claim);
        if stands {
            self.write(process, Call::Extend, false)?;
        }
        Ok(stands)
    }

    /// Redis has a batch for a process.
    pub fn deliver(&mut self, from: usize, to: &ProcessId, batch: Vec<Arc<Envelope>>) {
        let Some(channel) = self.redis.channels.get(to) else { return };
        let (process, sender) = (channel.process, channel.sender.clone());
        let weather = self.weather[process].clone();
        let lost = match weather.redis_cut {
            Cut::No => self.chance(weather.bus_drop),
            _ => true,
        };
        if lost {
            self.count("a publish was lost");
            let entry = batch.iter().any(|envelope| matches!(&**envelope, Envelope::Entry { .. }));
            if entry && self.lost_entry == Some(process) && from != process {
                self.lost_entry = None;
                self.sprung.push((from, LOST));
            }
            if let Some(channel) = self.redis.channels.get_mut(to) {
                channel.gap |= weather.redis_cut != Cut::Silent && weather.redis_cut != Cut::No;
            }
            return;
        }
        let at = self.now + self.any(weather.bus_ms);
        let Some(channel) = self.redis.channels.get_mut(to) else { return };
        let at = at.max(channel.arrives_at);
        channel.arrives_at = at;
        if self.chance(weather.bus_twice) {
            self.count("a publish came twice");
            let (again, sender) = (batch.clone(), sender.clone());
            let later = at + self.any(0..1_500);
            self.at(later, move |_| drop(sender.try_send(Heard::Batch(again))));
        }
        self.at(at, move |core| match core.weather[process].redis_cut {
            Cut::No => drop(sender.try_send(Heard::Batch(batch))),
            _ => core.count("a publish was lost"),
        });
    }

    /// The way of a process to Redis is free again: it hears that it may have missed something.
    pub fn redis_back(&mut self, process: usize) {
        let after = self.any(0..1_500);
        for channel in self.redis.channels.values_mut().filter(|c| c.process == process) {
            if std::mem::take(&mut channel.gap) {
                let sender = channel.sender.clone();
                self.tell_gap(after, process, sender);
                return;
            }
        }
    }

    fn tell_gap(&mut self, after: u64, process: usize, sender: mpsc::Sender<Heard>) {
        self.at(self.now + after, move |core| {
            core.count("gap told");
            if core.weather[process].is_fair() {
                core.gaps.push((core.now, process));
            }
            let _ = sender.try_send(Heard::Gap);
        });
    }

    /// Redis starts anew, and empty; every subscription breaks and is made again.
    pub fn redis_emptied(&mut self) {
        self.redis.map.clear();
        self.redis.instance += 1;
        let told = self.redis.channels.values().map(|c| (c.process, c.sender.clone()));
        for (process, sender) in told.collect::<Vec<_>>() {
            let after = self.any(0..1_500);
            self.tell_gap(after, process, sender);
        }
    }
}
