//! Whether a run went well.
#![cfg(test)]

use std::collections::BTreeMap;

use super::world::World;
use crate::checker::history::{Event, Outcome, What};
use crate::checker::{Checker, Gates, Limits, Violation};
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
            let member = core.store.members(conversation).find(|m| m.user == device.user);
            let direct = conversation.other(&device.user).is_some();
            let sees = |seq| direct || member.is_some_and(|member| member.may_see(seq));
            let since = core.store.registered.get(&(device.user.clone(), device.name.clone()));
            // One's own is no news to the device that said it, nor to one that came later: who
            // forgot it before it was answered finds it in the history.
            let own = |entry: &Entry| {
                let put = core.store.put_at.get(&(conversation.clone(), entry.seq));
                entry.from == device.user && (entry.device == device.name || since > put)
            };
            let lacks = |e: &&Entry| sees(e.seq) && !own(e) && !device.has(conversation, e.seq);
            let lacking: Vec<u64> = entries.iter().filter(lacks).map(|e| e.seq).collect();
            // What the person had received before the device was new is history.
            let start = core.store.start(&device.user, &device.name, conversation);
            let lost: Vec<_> = lacking.into_iter().filter(|seq| *seq > start).collect();
            if !lost.is_empty() {
                open.push(format!("{name} lacks {lost:?} of {conversation}"));
            }
        }
    }
    open
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

/// What the checker says to the history, as it would say to one of real processes.
pub fn check(history: &[Event]) -> Vec<String> {
    let limits = Limits {
        recovery_ms: Some(super::world::RECOVERY_MS),
        latency_factor: None,
        growth_percent: None,
        ..Limits::default()
    };
    let mut checker = Checker::new(Gates { limits, ..Gates::none() });
    history.iter().for_each(|event| checker.feed(event.clone()));
    let report = checker.finish();
    let told =
        |violation: &Violation| format!("{:?}: {}", violation.invariant, violation.statement);
    report.violations.iter().map(told).collect()
}
