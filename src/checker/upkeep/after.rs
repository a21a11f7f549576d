//! How it was after the faults, beside how it was before (I15, I16).

use std::collections::BTreeMap;

use super::super::judge::Checker;
use super::super::report::{About, Invariant, Recovery};

/// p50 and p99.
fn quantiles(us: &mut [u32]) -> (u64, u64) {
    us.sort_unstable();
    let at = |part: f64| us.get((us.len() as f64 * part) as usize).map_or(0, |us| u64::from(*us));
    (at(0.5), at(0.99))
}

impl Checker {
    /// I15 and I16.
    pub(in crate::checker) fn judge_upkeep(&mut self) {
        let limits = self.gates.limits.clone();
        self.counts.quiet_us = quantiles(&mut self.upkeep.quiet);
        self.counts.healed_us = quantiles(&mut self.upkeep.healed);
        self.count_faults();
        let (quiet, healed) = (self.counts.quiet_us.1, self.counts.healed_us.1);
        let slowest = limits
            .latency_factor
            .map(|factor| ((quiet as f64 * factor) as u64).max(limits.latency_floor_ms * 1_000));
        // Of a few a p99 says nothing; their gate is missed then.
        let enough = self.upkeep.latencies() as f64 >= self.gates.wanted.latencies.max(1.0);
        if enough && slowest.is_some_and(|most| healed > most) {
            self.broken(Invariant::I15, (self.now, self.now), || {
                let what = format!(
                    "p99 from send to receipt is {healed} µs after the faults, {quiet} before"
                );
                (About::default(), what)
            });
        }
        if let (Some(most), faults) = (limits.recovery_ms, &self.upkeep.faults) {
            for fault in faults.iter().filter(|f| f.recovered_ms.is_some_and(|ms| ms > most)) {
                let span = (fault.from, fault.to.unwrap_or(self.now));
                self.broken(Invariant::I15, span, || {
                    let (kind, target) = (&fault.kind, &fault.target);
                    let ms = fault.recovered_ms.unwrap_or(0);
                    (About::default(), format!("{target} took {ms} ms to recover from {kind}"))
                });
            }
            for fault in faults.iter() {
                let Some(ms) = fault.unrecovered_ms else { continue };
                let span = (fault.from, fault.to.unwrap_or(self.now));
                self.broken(Invariant::I15, span, || {
                    let (kind, target) = (&fault.kind, &fault.target);
                    let what = format!("{target} did not recover from {kind} within {ms} ms");
                    (About::default(), what)
                });
            }
            if let Some((t, wrong)) = self.upkeep.map.as_ref().filter(|(_, w)| !w.is_empty()) {
                self.broken(Invariant::I15, (*t, *t), || {
                    let (count, first) = (wrong.len(), wrong[..wrong.len().min(3)].join(", "));
                    (About::default(), format!("the socket map has {count} faults: {first}"))
                });
            }
        }
        if let Some(percent) = limits.growth_percent {
            self.judge_growth(percent, (limits.growth_floor_bytes, limits.growth_floor_files));
        }
    }

    fn judge_growth(&self, percent: u64, (bytes, files): (u64, u64)) {
        let grown = |before: u64, after: u64, floor: u64| {
            after.saturating_sub(before) > floor.max(before * percent / 100)
        };
        for (process, needs) in &self.upkeep.needs {
            let (Some(before), Some(after)) = (needs.base, needs.last) else { continue };
            if grown(before.0, after.0, bytes) || grown(before.1, after.1, files) {
                self.broken(Invariant::I16, (self.now, self.now), || {
                    let what = format!(
                        "{process} grew from {} to {} resident bytes, {} to {} files",
                        before.0, after.0, before.1, after.1
                    );
                    (About::default(), what)
                });
            }
        }
    }

    fn count_faults(&mut self) {
        let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut never: BTreeMap<String, u64> = BTreeMap::new();
        for fault in &self.upkeep.faults {
            *self.counts.faults.entry(fault.kind.clone()).or_default() += 1;
            if fault.bites > 0 {
                *self.counts.effective.entry(fault.kind.clone()).or_default() += 1;
            }
            if fault.recovered_ms.is_some() || fault.unrecovered_ms.is_some() {
                times.entry(fault.kind.clone()).or_default().extend(fault.recovered_ms);
                let never = never.entry(fault.kind.clone()).or_default();
                *never += u64::from(fault.unrecovered_ms.is_some());
            }
        }
        for (kind, mut times) in times {
            times.sort_unstable();
            let recovery = Recovery {
                times: times.len() as u64,
                never: never.get(&kind).copied().unwrap_or(0),
                median_ms: times.get(times.len() / 2).copied().unwrap_or(0),
                max_ms: times.last().copied().unwrap_or(0),
            };
            self.counts.recovery.insert(kind, recovery);
        }
    }
}
