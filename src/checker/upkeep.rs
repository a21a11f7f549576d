//! The run itself: its phases and faults, and how it was after them (I15, I16).

mod after;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::device::{DeviceId, GIVEN_UP};
use super::gate::share;
use super::history::Phase;
use super::judge::Checker;
use super::report::{About, Invariant};

/// The most latencies that are kept of a phase.
const LATENCIES_MAX: usize = 1 << 18;
/// How long before and after a fault something may be its doing.
const AROUND: u64 = 5_000_000_000;
const MS: u64 = 1_000_000;
/// A process that was started again has its people and its caches after so many looks.
const SETTLED_LOOKS: u32 = 10;

#[derive(Debug)]
struct Fault {
    name: String,
    kind: String,
    target: String,
    from: u64,
    to: Option<u64>,
    bites: u64,
    recovered_ms: Option<u64>,
    unrecovered_ms: Option<u64>,
}

/// What a process needs in its present life: when that had begun, and in the end.
#[derive(Debug, Default)]
struct Needs {
    pid: Option<u32>,
    /// How often it was looked at.
    looks: u32,
    /// Bytes and files in the quiet before the faults; for a later life after some looks.
    base: Option<(u64, u64)>,
    last: Option<(u64, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    phase: Option<Phase>,
    faults: Vec<Fault>,
    active: HashMap<String, usize>,
    /// When the newest fault ended.
    calm_from: u64,
    /// From here on all is to be as before the faults.
    recovered_from: Option<u64>,
    needs: BTreeMap<String, Needs>,
    quiet: Vec<u32>,
    healed: Vec<u32>,
    /// What of the map is not open, or open and not in the map, when it was looked at last.
    map: Option<(u64, Vec<String>)>,
}

impl Upkeep {
    /// No fault is active.
    pub fn is_calm(&self) -> bool {
        self.active.is_empty()
    }

    /// No fault is active, nor was any since then.
    pub fn is_calm_since(&self, t: u64) -> bool {
        self.is_calm() && self.calm_from <= t
    }

    /// When the last fault ended.
    pub fn calm_from(&self) -> u64 {
        self.calm_from
    }

    /// What is read now is final: the drain is over, or the history has no phases.
    pub fn is_reading(&self) -> bool {
        self.phase.is_none_or(|phase| phase == Phase::Read)
    }

    /// Faults are over, so long that all should be as before.
    pub fn is_recovered(&self, t: u64) -> bool {
        self.recovered_from.is_some_and(|from| t >= from)
    }

    pub fn latency(&mut self, sent: u64, received: u64) {
        let us = u32::try_from(received.saturating_sub(sent) / 1_000).unwrap_or(u32::MAX);
        let recovered = self.is_recovered(sent);
        let (taken, of) = match self.phase {
            Some(Phase::Quiet) => (true, &mut self.quiet),
            Some(Phase::Healed) => (recovered, &mut self.healed),
            _ => return,
        };
        if taken && of.len() < LATENCIES_MAX {
            of.push(us);
        }
    }

    pub fn fault(&mut self, t: u64, name: String, kind: String, target: String) {
        self.active.insert(name.clone(), self.faults.len());
        let (to, bites, recovered_ms, unrecovered_ms) = (None, 0, None, None);
        let from = t;
        let fault = Fault { name, kind, target, from, to, bites, recovered_ms, unrecovered_ms };
        self.faults.push(fault);
    }

    pub fn healed(
        &mut self,
        t: u64,
        name: &str,
        bites: u64,
        (recovered_ms, unrecovered_ms): (Option<u64>, Option<u64>),
    ) {
        if let Some(fault) = self.active.remove(name).and_then(|at| self.faults.get_mut(at)) {
            (fault.to, fault.bites) = (Some(t), bites);
            (fault.recovered_ms, fault.unrecovered_ms) = (recovered_ms, unrecovered_ms);
            self.calm_from = t;
        }
    }

    pub fn resources(&mut self, process: &str, needed: (u64, u64), pid: Option<u32>) {
        let needs = self.needs.entry(process.to_owned()).or_default();
        if needs.looks > 0 && needs.pid != pid {
            *needs = Needs::default();
        }
        (needs.pid, needs.looks) = (pid, needs.looks + 1);
        match self.phase {
            Some(Phase::Quiet) => needs.base = Some(needed),
            _ if needs.base.is_none() && needs.looks >= SETTLED_LOOKS => needs.base = Some(needed),
            Some(Phase::Healed | Phase::Drain | Phase::Still | Phase::Read) => {
                needs.last = Some(needed);
            }
            _ => {}
        }
    }

    pub fn map(&mut self, t: u64, claimed: &[(String, String)], open: &[(String, String)]) {
        let claimed: HashSet<_> = claimed.iter().collect();
        let open: HashSet<_> = open.iter().collect();
        let told = |pair: &&(String, String), how| format!("{} on {} is {how}", pair.0, pair.1);
        let mut wrong: Vec<_> =
            claimed.difference(&open).map(|pair| told(pair, "in the map only")).collect();
        wrong.extend(open.difference(&claimed).map(|pair| told(pair, "not in the map")));
        wrong.sort();
        self.map = Some((t, wrong));
    }

    /// The faults around a time, for a person who asks what was going on.
    pub fn around(&self, (from, to): (u64, u64), began: u64) -> Vec<String> {
        let seconds = |t: u64| t.saturating_sub(began) as f64 / 1e9;
        let near = self.faults.iter().filter(|fault| {
            fault.from <= to.saturating_add(AROUND)
                && fault.to.is_none_or(|end| end.saturating_add(AROUND) >= from)
        });
        let told = near.map(|fault| {
            let end = fault.to.map_or("…".to_owned(), |to| format!("{:.3}", seconds(to)));
            let Fault { name, kind, target, from, bites, .. } = fault;
            format!("{kind} on {target} ({:.3}–{end} s, {bites} bites, {name})", seconds(*from))
        });
        told.collect()
    }

    /// Effective faults, those of the kind that bit least, and the share of all.
    pub fn effective(&self) -> (u64, u64, f64) {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for fault in &self.faults {
            *kinds.entry(&fault.kind).or_default() += u64::from(fault.bites > 0);
        }
        let all: u64 = kinds.values().sum();
        let least = kinds.values().min().copied().unwrap_or(0);
        (all, least, share(all, self.faults.len() as u64))
    }

    /// Latencies measured, of the phase that has fewer.
    pub fn latencies(&self) -> usize {
        self.quiet.len().min(self.healed.len())
    }
}

impl Checker {
    pub(super) fn phase(&mut self, t: u64, phase: Phase) {
        match phase {
            Phase::Healed => {
                let recovery = self.gates.limits.recovery_ms;
                self.upkeep.recovered_from = recovery.map(|ms| t + ms * MS);
            }
            Phase::Drain => {
                self.logs.list.iter_mut().for_each(|log| log.at_drain = Some(log.seen));
            }
            Phase::Still => self.stands_still(t),
            Phase::Read => {
                self.devices.end_drain();
                self.never_connected(t);
            }
            Phase::Quiet | Phase::Faults => {}
        }
        self.upkeep.phase = Some(phase);
    }

    /// A history without phases ends drained. One that broke off before its last phase does not:
    /// what its devices lack, they might have got.
    pub(super) fn end_phases(&mut self) {
        if self.upkeep.phase.is_none() {
            self.devices.end_drain();
            self.logs.list.iter_mut().for_each(|log| log.at_drain = Some(log.seen));
        }
    }

    /// A device that had tried in vain has its connection.
    pub(super) fn connected_again(&self, device: DeviceId, since: u64, t: u64) {
        let Some(most) = self.gates.limits.recovery_ms else { return };
        let took = (t - since) / MS;
        if took > most {
            self.broken(Invariant::I15, (since, t), || {
                let who = self.device_text(device);
                let what = format!("{who} took {took} ms to connect after all faults had healed");
                (About::default(), what)
            });
        }
    }

    fn never_connected(&self, t: u64) {
        let Some(most) = self.gates.limits.recovery_ms else { return };
        for (id, device) in self.devices.list.iter().enumerate() {
            let trying = device.trying.filter(|(_, last)| t - last < GIVEN_UP);
            if let Some((since, _)) = trying.filter(|(since, _)| t - since > most * MS) {
                self.broken(Invariant::I15, (since, t), || {
                    let who = self.device_text(id);
                    (
                        About::default(),
                        format!("{who} could not connect after all faults had healed"),
                    )
                });
            }
        }
    }

    pub(super) fn process_broke(&self, t: u64, process: &str, detail: &str) {
        self.broken(Invariant::I16, (t, t), || {
            (About::default(), format!("{process} broke: {detail}"))
        });
    }

    pub(super) fn leaked(&self, t: u64, process: &str, line: &str) {
        self.broken(Invariant::I13, (t, t), || {
            (About::default(), format!("content stands in what {process} wrote: {line}"))
        });
    }
}
