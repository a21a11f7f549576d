//! The end: all that had to wait for the whole log is judged, and counted.

use super::super::device::Losses;
use super::super::gate::{Gate, Measures, share};
use super::super::log::{Content, Log, Sight};
use super::super::report::{Invariant, Report, Verdict};
use super::Checker;

impl Checker {
    /// The verdict.
    pub fn finish(mut self) -> Report {
        self.end_phases();
        let sights: Vec<Sight> = self.logs.list.iter().map(Log::sight).collect();
        let mut losses = Losses::default();
        self.judge_sends();
        self.judge_devices(&sights, &mut losses);
        self.judge_unhanded(&sights);
        self.judge_logs(&sights, &mut losses);
        self.count_losses(&losses);
        self.judge_speakers(&sights);
        self.judge_walks(&sights);
        self.judge_statuses(&sights);
        self.judge_upkeep();
        self.count_sends();
        let gates = self.judge_gates(&sights);
        let findings = self.findings.take();
        let verdict = match (findings.broken.is_empty(), gates.iter().any(Gate::missed)) {
            (false, _) => Verdict::Fail,
            (true, true) => Verdict::Unknown,
            (true, false) => Verdict::Pass,
        };
        let began = self.began.unwrap_or(0);
        let mut violations = findings.kept;
        violations.sort_by_key(|violation| (violation.invariant, violation.from));
        for violation in &mut violations {
            violation.faults = self.upkeep.around((violation.from, violation.to), began);
        }
        let (commit, seed, counts) = (self.commit, self.seed, self.counts);
        Report { verdict, commit, seed, began, broken: findings.broken, violations, gates, counts }
    }

    /// I13: who wrote into a room belonged to it there.
    fn judge_speakers(&self, sights: &[Sight]) {
        for (id, log) in self.logs.list.iter().enumerate().filter(|(_, log)| log.complete()) {
            for (seq, entry) in &log.entries {
                let Content::Message(send) = entry.content else { continue };
                let user = self.sends.list[send as usize].user;
                if !sights[id].sees(user, *seq) {
                    self.broken(Invariant::I13, (entry.first, entry.first), || {
                        let what = self.entry_text(id, *seq);
                        let what = format!("{what} was taken from one who has no part in it");
                        (self.about(id, *seq, Some(send)), what)
                    });
                }
            }
        }
    }

    fn count_sends(&mut self) {
        let counts = &mut self.counts;
        counts.conversations = self.logs.list.len() as u64;
        counts.sends = self.sends.list.len() as u64;
        for send in &self.sends.list {
            counts.acked += u64::from(send.done.is_some());
            counts.refused += u64::from(send.is_refused());
            counts.open += u64::from(send.is_open());
            if send.done.is_none() && !send.is_refused() {
                counts.unanswered += 1;
                counts.open_happened += u64::from(send.place > 0);
            }
        }
    }

    fn judge_gates(&self, sights: &[Sight]) -> Vec<Gate> {
        let counts = &self.counts;
        let calm = || self.sends.list.iter().filter(|send| send.calm);
        let calm_acked = calm().filter(|send| send.done.is_some()).count() as u64;
        let (effective, least, effective_share) = self.upkeep.effective();
        let read = self.histories(sights);
        let stored = self.logs.list.iter().filter(|log| log.stored.is_some()).count() as u64;
        let (judged, wanted) = self.statuses.shares();
        let seen = Measures {
            acked: counts.acked as f64,
            acked_share: share(calm_acked, calm().count() as u64),
            open_share: share(counts.open, counts.sends),
            redeliveries: counts.redeliveries as f64,
            resumes: counts.reconnects as f64,
            offline_drains: counts.offline_drains as f64,
            membership_changes: counts.membership_changes as f64,
            effective: effective as f64,
            effective_share,
            effective_per_kind: least as f64,
            drained_share: share(counts.drained, counts.devices),
            stayed_share: share(counts.stayed, counts.devices),
            histories_share: share(read.read, read.histories),
            both_ways_share: share(read.both_ways, read.conversations),
            stored_share: share(stored, counts.conversations),
            statuses_share: share(judged, wanted),
            stored_statuses: counts.stored_statuses as f64,
            latencies: self.upkeep.latencies() as f64,
        };
        self.gates.judge(&seen)
    }
}
