//! Evidence: which of a history's many lines tell of a violation.

use std::collections::HashMap;

use super::history::{Event, What};
use super::report::{About, Violation};

/// The most lines of evidence of a violation.
const EVIDENCE_MAX: usize = 40;
/// How long before and after a violation the device's connections belong to its evidence.
const AROUND: u64 = 10_000_000_000;

/// Finds the lines that tell of violations.
pub(super) struct Evidence<'a> {
    violations: &'a mut [Violation],
    by_conversation: HashMap<String, Vec<usize>>,
    by_device: HashMap<String, Vec<usize>>,
    device_of: HashMap<String, String>,
}

impl<'a> Evidence<'a> {
    pub fn new(violations: &'a mut [Violation]) -> Self {
        let (mut by_conversation, mut by_device) = (HashMap::new(), HashMap::new());
        for (at, Violation { about, .. }) in violations.iter().enumerate() {
            let places = [
                (&mut by_conversation, about.conversation.clone()),
                (&mut by_device, about.device.clone()),
            ];
            for (index, key) in places {
                if let Some(key) = key {
                    let all: &mut Vec<usize> = index.entry(key).or_default();
                    all.push(at);
                }
            }
        }
        Self { violations, by_conversation, by_device, device_of: HashMap::new() }
    }

    /// The next line.
    pub fn look(&mut self, event: &Event) {
        let found = match &event.what {
            What::Connect { connection, user, device, .. } => {
                let device = format!("{user}/{device}");
                self.device_of.entry(connection.clone()).or_insert_with(|| device.clone());
                self.by_device.get(&device)
            }
            What::Forget { user, device } => self.by_device.get(&format!("{user}/{device}")),
            What::Close { connection, .. } | What::Caughtup { connection } => {
                self.device_of.get(connection).and_then(|device| self.by_device.get(device))
            }
            What::Send { conversation, .. }
            | What::Sent { conversation, .. }
            | What::Received { conversation, .. }
            | What::Acked { conversation, .. }
            | What::Missed { conversation, .. }
            | What::Status { conversation, .. } => self.by_conversation.get(conversation),
            _ => None,
        };
        let Some(found) = found else { return };
        let mut line = None;
        for at in found {
            let violation = &mut self.violations[*at];
            if violation.evidence.len() < EVIDENCE_MAX && tells(event, violation) {
                let line = line.get_or_insert_with(|| serde_json::to_string(event));
                violation.evidence.extend(line.as_ref().ok().cloned());
            }
        }
    }
}

/// Whether the line is about the message of the violation, or its device's connection around it.
fn tells(event: &Event, violation: &Violation) -> bool {
    let About { seq: about, reference: of, .. } = &violation.about;
    let is = |seq: &u64| *about == Some(*seq);
    match &event.what {
        What::Send { reference, .. } => of.as_ref() == Some(reference),
        What::Sent { reference, seq, .. } => {
            of.as_ref() == Some(reference) || seq.as_ref().is_some_and(is)
        }
        What::Received { seq, .. } | What::Acked { seq, .. } | What::Status { seq, .. } => is(seq),
        What::Missed { from, to, .. } => about.is_some_and(|seq| (*from..=*to).contains(&seq)),
        _ => {
            let near = violation.from.saturating_sub(AROUND)..=violation.to.saturating_add(AROUND);
            near.contains(&event.t)
        }
    }
}
