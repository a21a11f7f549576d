//! Whether a run went well.
#![cfg(test)]

use std::collections::BTreeMap;

use super::client::{Connection, Device};
use super::faults::Finale;
use super::sea::Core;
use super::world::World;
use crate::checker::history::{Outcome, What};
use crate::checker::{Checker, Gates, Invariant, Limits, Violation};
use crate::protocol::{ConversationId, Entry, Kind};

/// What is not where it belongs yet: a send without an answer, a device without a text.
pub fn unfinished(world: &World) -> Vec<String> {
    let mut open = Vec::new();
    let core = world.sea.lock();
    for device in &world.devices {
        let name = format!("{}/{}", device.user, device.name);
        if !device.is_caught_up() {
            open.push(format!("{name} is not caught up"));
        }
        for outgoing in &device.queue {
            open.push(format!("{name} has no answer to {}", outgoing.reference));
        }
        for (conversation, entries) in &core.store.logs {
            let seqs = entries.iter().map(|entry| entry.seq);
            let due = |seq: &u64| {
                lacks(&core, device, conversation, *seq)
                    && !died_with(&core, world, device, (conversation, *seq))
            };
            let lost: Vec<_> = seqs.filter(due).collect();
            if !lost.is_empty() {
                open.push(format!("{name} lacks {lost:?} of {conversation}"));
            }
        }
    }
    open
}

/// A lane's list of a person's devices may be so old.
const LIST_AGE_MS: u64 = 31_000;
/// So long after a death was noticed mailboxes are read for the last time.
const LAST_READ_MS: u64 = 20_000;
/// How long an acked message may be on its way to somebody who is there, where nothing is wrong.
const DELIVERED_MS: u64 = 8_000;
/// The same where Redis takes no claims: that has to be noticed, and told.
const DELIVERED_DEAF_MS: u64 = 15_000;
/// The same where every call of the store takes up to 300 ms: a session that reads its mailbox
/// again, page by page, is done with that first.
const DELIVERED_FAR_MS: u64 = 13_000;
/// How long after a told gap all is there that was stored before it.
const GAP_MS: u64 = 10_000;
/// How long after the faults the map must be whole.
const MAP_MS: u64 = 12_000;

/// Looks on after the faults: what was promised soon must be there soon.
pub struct Watch {
    healed: u64,
    delivered_ms: u64,
    looked_at: u64,
    read: usize,
    acked: Vec<(u64, ConversationId, u64)>,
    pub wrong: Vec<String>,
}

impl Watch {
    pub fn new(healed: u64, finale: Finale) -> Self {
        let delivered_ms = match finale {
            Finale::RedisRefusesWrites => DELIVERED_DEAF_MS,
            Finale::Crowd => DELIVERED_FAR_MS,
            _ => DELIVERED_MS,
        };
        Self { healed, delivered_ms, looked_at: 0, read: 0, acked: Vec::new(), wrong: Vec::new() }
    }

    pub fn look(&mut self, world: &World) {
        let core = world.sea.lock();
        let now = core.now;
        if now < self.looked_at + 200 || !self.wrong.is_empty() {
            return;
        }
        self.looked_at = now;
        for event in &core.history[self.read..] {
            if let What::Sent { outcome: Outcome::Done, conversation, seq: Some(seq), .. } =
                &event.what
            {
                let id = ConversationId::parse(conversation).unwrap();
                self.acked.push((event.t / 1_000_000, id, *seq));
            }
        }
        self.read = core.history.len();
        let healed = self.healed;
        // One that a process acked before it died with the faults is found when its death is.
        let due = self.acked.iter().filter(|(at, ..)| *at > healed + 100);
        let due: Vec<_> = due.filter(|(at, ..)| at + self.delivered_ms <= now).collect();
        let gaps: Vec<_> =
            core.gaps.iter().filter(|(at, _)| *at >= healed && at + GAP_MS <= now).collect();
        for device in &world.devices {
            // A client takes longer to find that its server is dead than messages may take.
            let live = |c: &&Connection| device.is_caught_up() && !c.wire.is_orphaned();
            let Some(connection) = device.connection.as_ref().filter(live) else {
                continue;
            };
            let name = format!("{}/{}", device.user, device.name);
            let here = connection.live_at + self.delivered_ms <= now;
            for (_, conversation, seq) in &due {
                if here && waits(&core, device, conversation, *seq) {
                    let late = format!("L1: {name} has not got {conversation} {seq} in time");
                    self.wrong.push(late);
                }
            }
            let server = &world.servers[connection.server];
            for (at, process) in &gaps {
                if *process != connection.server || connection.live_at > *at || !server.is_open() {
                    continue;
                }
                for ((conversation, seq), put) in &core.store.put_at {
                    if put < at && waits(&core, device, conversation, *seq) {
                        let lost = format!("G1: {name} has not got {conversation} {seq} by a gap");
                        self.wrong.push(lost);
                    }
                }
            }
            let sockets = core.redis.map.get(&device.user).into_iter().flatten();
            let stands = sockets.into_iter().any(|entry| entry.server == server.id);
            let whole = self.healed.max(core.refuses_until) + MAP_MS;
            if now > whole && server.is_open() && !stands {
                self.wrong.push(format!("M1: {name} on {} is not in the map", server.id));
            }
        }
    }
}

/// Whether an entry is for a device that does not have it.
fn lacks(core: &Core, device: &Device, conversation: &ConversationId, seq: u64) -> bool {
    if device.has(conversation, seq) {
        return false;
    }
    let Some(entry) = entry(core, conversation, seq) else { return false };
    // One's own is no news to the device that said it.
    let own = entry.from == device.user && entry.device == device.name;
    !own && sees(core, device, conversation, seq) && seq > start(core, device, conversation)
}

fn entry<'a>(core: &'a Core, conversation: &ConversationId, seq: u64) -> Option<&'a Entry> {
    core.store.logs.get(conversation)?.iter().find(|entry| entry.seq == seq)
}

fn sees(core: &Core, device: &Device, conversation: &ConversationId, seq: u64) -> bool {
    let member = core.store.members(conversation).find(|m| m.user == device.user);
    conversation.other(&device.user).is_some() || member.is_some_and(|member| member.may_see(seq))
}

/// What a device came too late for: what others of the person's devices had received when it
/// registered, and what the person himself had said right behind that.
fn start(core: &Core, device: &Device, conversation: &ConversationId) -> u64 {
    let store = &core.store;
    let Some(registered) = registered(core, device) else { return 0 };
    let most = store.start_max(&device.user, &device.name, conversation);
    let passes = |entry: &&Entry| {
        let put = store.put_at.get(&(conversation.clone(), entry.seq));
        let said = entry.from == device.user && put.is_some_and(|put| *put < registered);
        said || !sees(core, device, conversation, entry.seq)
    };
    let log = store.logs.get(conversation).into_iter().flatten();
    let behind = log.skip_while(|entry| entry.seq <= most).take_while(passes);
    behind.last().map_or(most, |entry| entry.seq)
}

fn registered(core: &Core, device: &Device) -> Option<u64> {
    core.store.registered.get(&(device.user.clone(), device.name.clone())).copied()
}

/// Whether it lacks an entry that is to be there soon. What the person said on another device comes
/// when his row is raised, where a lane's list of devices need not name this one.
fn waits(core: &Core, device: &Device, conversation: &ConversationId, seq: u64) -> bool {
    lacks(core, device, conversation, seq) && !is_unlisted(core, device, conversation, seq)
}

/// Whether the person said it on another device, and the lane that took it need not have known this
/// one.
fn is_unlisted(core: &Core, device: &Device, conversation: &ConversationId, seq: u64) -> bool {
    let Some(entry) = entry(core, conversation, seq) else { return false };
    let put = core.store.put_at.get(&(conversation.clone(), seq));
    let young = registered(core, device).map(|at| at + LIST_AGE_MS) > put.copied();
    let elsewhere = entry.from == device.user && entry.device != device.name;
    !conversation.is_room() && elsewhere && young
}

/// What may never be, whatever went wrong.
pub fn judge(world: &mut World) -> Vec<String> {
    let mut found = Vec::new();
    for device in &mut world.devices {
        found.append(&mut device.wrong);
    }
    let mut core = world.sea.lock();
    found.append(&mut core.broken);
    let mut bodies: BTreeMap<&str, (&ConversationId, u64)> = BTreeMap::new();
    for (conversation, entries) in &core.store.logs {
        for (entry, seq) in entries.iter().zip(1..) {
            if entry.seq != seq {
                found.push(format!("I3: {conversation} has {} at {seq}", entry.seq));
            }
            if entry.kind == Kind::Message
                && let Some(body) = entry.message.as_deref()
                && let Some((_, other)) = bodies.insert(body, (conversation, seq))
            {
                found.push(format!("P2: {body} stands at {other} and {seq}"));
            }
        }
    }
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for event in &core.history {
        match &event.what {
            What::Send { reference, body, .. } => drop(names.insert(reference, body)),
            What::Sent { reference, outcome: Outcome::Done, seq, conversation, .. } => {
                let stands = names.get(reference.as_str()).and_then(|body| bodies.get(body));
                if stands.map(|(_, seq)| *seq) != *seq {
                    found.push(format!("P1: {reference} of {conversation}: {seq:?}, {stands:?}"));
                }
            }
            _ => {}
        }
    }
    found
}

/// Known, and not mended: a person's own message may miss a device that registered while the lane
/// still had an older list, where every process that knew of it died before it had raised the row.
/// The conversation's next message brings it along, and a connection after a raise does.
fn died_with(
    core: &Core,
    world: &World,
    device: &Device,
    (conversation, seq): (&ConversationId, u64),
) -> bool {
    if !is_unlisted(core, device, conversation, seq) || device.has_later(conversation, seq) {
        return false;
    }
    let death = |(process, since): (usize, u64)| {
        let mut deaths = core.deaths.iter();
        deaths.find(|(at, dead)| *dead == process && *at >= since).map(|(at, _)| *at)
    };
    let deaths: Option<Vec<u64>> =
        takers(core, world, conversation, seq).into_iter().map(death).collect();
    let Some(last) = deaths.and_then(|deaths| deaths.into_iter().max()) else { return false };
    let began = device.connection.as_ref().map_or(0, |connection| connection.since);
    let raised = core.store.raised_at(&device.user, conversation, seq);
    raised.is_none_or(|raised| raised > (last + LAST_READ_MS).max(began))
}

/// The process that put an entry, and those that said `sent`; and since when they knew of it.
fn takers(
    core: &Core,
    world: &World,
    conversation: &ConversationId,
    seq: u64,
) -> Vec<(usize, u64)> {
    let put_by = core.store.put_by.get(&(conversation.clone(), seq));
    let mut takers: Vec<(usize, u64)> = put_by.into_iter().copied().collect();
    let mut servers = BTreeMap::from([("api", "api")]);
    let process = |name: &str| (0..world.servers.len()).find(|p| World::name(*p) == name);
    for event in &core.history {
        match &event.what {
            What::Connect { connection, server: Some(server), .. } => {
                servers.insert(connection, server);
            }
            What::Sent { connection, conversation: log, seq: Some(at), .. }
                if log == conversation.as_str() && *at == seq =>
            {
                let server = servers.get(connection.as_str()).and_then(|name| process(name));
                takers.extend(server.map(|process| (process, event.t / 1_000_000)));
            }
            _ => {}
        }
    }
    takers
}

/// Whether what the checker misses is missing for the one known reason.
fn is_known(world: &World, core: &Core, violation: &Violation) -> bool {
    let about = &violation.about;
    let (Some(name), Some(conversation), Some(seq)) =
        (&about.device, &about.conversation, about.seq)
    else {
        return false;
    };
    let named = |device: &&Device| format!("{}/{}", device.user, device.name) == *name;
    let Some(device) = world.devices.iter().find(named) else { return false };
    let conversation = ConversationId::parse(conversation).unwrap();
    let lost = matches!(violation.invariant, Invariant::I1 | Invariant::I6);
    lost && !device.has(&conversation, seq) && died_with(core, world, device, (&conversation, seq))
}

/// What the checker says to the history, as it would say to one of real processes.
pub fn check(world: &World) -> Vec<String> {
    let core = world.sea.lock();
    let limits = Limits {
        recovery_ms: Some(super::world::RECOVERY_MS),
        latency_factor: None,
        growth_percent: None,
        ..Limits::default()
    };
    let mut checker = Checker::new(Gates { limits, ..Gates::none() });
    core.history.iter().for_each(|event| checker.feed(event.clone()));
    let report = checker.finish();
    let told =
        |violation: &Violation| format!("{:?}: {}", violation.invariant, violation.statement);
    let counts = |violation: &&Violation| !is_known(world, &core, violation);
    report.violations.iter().filter(counts).map(told).collect()
}
