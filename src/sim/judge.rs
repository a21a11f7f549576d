//! Whether a run went well.
#![cfg(test)]

use std::collections::BTreeMap;

use super::world::World;
use crate::checker::history::{Outcome, What};
use crate::protocol::{ConversationId, Kind};

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
            let lacks = |seq: &u64| sees(*seq) && !device.has(conversation, *seq);
            let lacking: Vec<u64> = entries.iter().map(|e| e.seq).filter(lacks).collect();
            // What the person had received before the device was new is history.
            let Some(first) = device.had.get(conversation).and_then(|had| had.first()) else {
                if !lacking.is_empty() && !super::judge::is_new(&core, device) {
                    open.push(format!("{name} has nothing of {conversation}"));
                }
                continue;
            };
            let lost: Vec<_> = lacking.into_iter().filter(|seq| seq > first).collect();
            if !lost.is_empty() {
                open.push(format!("{name} lacks {lost:?} of {conversation}"));
            }
        }
    }
    open
}

/// Whether the device came when others had talked already.
pub fn is_new(_core: &super::sea::Core, device: &super::client::Device) -> bool {
    device.late
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
