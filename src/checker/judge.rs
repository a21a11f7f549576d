//! The checker: takes events in their order, and judges when the last one is in.
//!
//! What can be judged at once is; what needs to know the whole log (who was a member where, what
//! was acked in the end) waits for [`Checker::finish`]. Memory grows with messages and with what
//! devices have in pieces, not with events.

use std::cell::RefCell;

use super::device::{Devices, Losses};
use super::gate::{Gate, Gates, Seen as SeenGates, share};
use super::history::{Event, Outcome, What};
use super::log::{Content, Logs, Sight};
use super::names::{Name, Names};
use super::origin::Seen;
use super::report::{About, Counts, Findings, Invariant, Report, Verdict};
use super::send::{Sends, Try};
use super::status::Statuses;
use super::upkeep::Upkeep;
use super::walk::Walks;

/// See the module.
#[derive(Debug)]
pub struct Checker {
    pub(super) gates: Gates,
    pub(super) names: Names,
    pub(super) logs: Logs,
    pub(super) sends: Sends,
    pub(super) devices: Devices,
    pub(super) walks: Walks,
    pub(super) statuses: Statuses,
    pub(super) upkeep: Upkeep,
    pub(super) counts: Counts,
    pub(super) now: u64,
    began: Option<u64>,
    commit: String,
    seed: u64,
    // Judgements only read what is judged.
    findings: RefCell<Findings>,
}

impl Checker {
    /// A checker that wants this of a run.
    pub fn new(gates: Gates) -> Self {
        Self {
            gates,
            names: Names::default(),
            logs: Logs::default(),
            sends: Sends::default(),
            devices: Devices::default(),
            walks: Walks::default(),
            statuses: Statuses::default(),
            upkeep: Upkeep::default(),
            counts: Counts::default(),
            now: 0,
            began: None,
            commit: String::new(),
            seed: 0,
            findings: RefCell::default(),
        }
    }

    /// The next event, by time.
    pub fn feed(&mut self, event: Event) {
        let t = event.t;
        self.now = self.now.max(t);
        self.began.get_or_insert(t);
        self.counts.events += 1;
        match event.what {
            What::Run { commit, seed } => (self.commit, self.seed) = (commit, seed),
            What::Phase { phase } => self.phase(t, phase),
            What::Conversation { conversation, members, canary } => {
                self.announce(&conversation, &members, canary);
            }
            What::Member { conversation, user, joins, outcome } => {
                self.member(&conversation, &user, joins, outcome);
            }
            What::Fault { fault, kind, target } => self.upkeep.fault(t, fault, kind, target),
            What::Healed { fault, bites, recovered_ms } => {
                self.upkeep.healed(t, &fault, bites, recovered_ms);
            }
            What::Broken { process, detail } => self.process_broke(t, &process, &detail),
            What::Leaked { process, line } => self.leaked(t, &process, &line),
            What::Resources { process, resident, files } => {
                self.upkeep.resources(&process, resident, files);
            }
            What::Map { claimed, open } => self.upkeep.map(t, &claimed, &open),
            What::Walk { walk, user, conversation, limit, direction } => {
                self.walk(t, (&walk, &user, &conversation), (limit, direction));
            }
            What::Walked { walk, outcome, entries } => self.walked(t, &walk, outcome, &entries),
            What::Stored { conversation, entries } => self.stored(t, &conversation, &entries),
            what => self.feed_client(t, what),
        }
    }

    /// What clients saw.
    fn feed_client(&mut self, t: u64, what: What) {
        match what {
            What::Connect { connection, user, device, outcome, server, .. } => {
                self.connect(t, (&connection, &user, &device), outcome, server.as_deref());
            }
            What::Close { connection, .. } => self.close(&connection),
            What::Forget { user, device } => self.forget(&user, &device),
            What::Send { connection, user, conversation, reference, body } => {
                let tried = Try {
                    connection: &connection,
                    user: &user,
                    conversation: &conversation,
                    reference: &reference,
                };
                self.send(t, tried, &body);
            }
            What::Sent { connection, user, conversation, reference, outcome, seq, code } => {
                let tried = Try {
                    connection: &connection,
                    user: &user,
                    conversation: &conversation,
                    reference: &reference,
                };
                self.answer(t, tried, (outcome, seq, code.as_deref()));
            }
            What::Received { connection, conversation, seq, kind, from, body, to, catchup } => {
                let (kind, from, body, to) = (&kind, &from, &body, to.as_deref());
                let seen = Seen { seq, kind, from, body, to };
                self.received(t, (&connection, &conversation), seen, catchup);
            }
            What::Acked { connection, conversation, seq } => {
                self.receipt(t, &connection, &conversation, seq);
            }
            What::Seen { connection, conversation, seq } => {
                self.seen_by(&connection, &conversation, seq);
            }
            What::Caughtup { connection } => self.caught_up(t, &connection),
            What::Missed { connection, conversation, from, to } => {
                self.missed(t, &connection, &conversation, (from, to));
            }
            What::Status { connection, conversation, seq, user, status } => {
                self.status(t, (&connection, &conversation), (seq, &user), status);
            }
            _ => {}
        }
    }

    fn announce(&mut self, conversation: &str, members: &[String], canary: String) {
        let log = self.logs.open(conversation, &mut self.names);
        let members: Vec<Name> = members.iter().map(|user| self.names.name(user)).collect();
        members.iter().for_each(|user| self.devices.takes_part(*user, log));
        let known = &mut self.logs.list[log];
        known.asked.extend(members.iter().map(|user| (*user, true)));
        (known.starters, known.canary) = (members, canary);
    }

    fn member(&mut self, conversation: &str, user: &str, joins: bool, outcome: Option<Outcome>) {
        let log = self.logs.open(conversation, &mut self.names);
        let user = self.names.name(user);
        self.logs.list[log].asked.insert((user, joins));
        self.devices.takes_part(user, log);
        self.counts.membership_changes += u64::from(outcome == Some(Outcome::Done));
    }

    /// Notes that an invariant is broken; the words are only made where they are kept.
    pub(super) fn broken(
        &self,
        invariant: Invariant,
        span: (u64, u64),
        tell: impl FnOnce() -> (About, String),
    ) {
        self.findings.borrow_mut().add(invariant, span, tell);
    }

    /// The verdict.
    pub fn finish(mut self) -> Report {
        self.end_phases();
        let sights: Vec<Sight> = self.logs.list.iter().map(super::log::Log::sight).collect();
        let mut losses = Losses::default();
        self.judge_sends();
        self.judge_devices(&sights, &mut losses);
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
        let (histories, read) = self.histories(sights);
        let stored = self.logs.list.iter().filter(|log| log.stored.is_some()).count() as u64;
        let (judged, wanted) = self.statuses.shares();
        let seen = SeenGates {
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
            histories_share: share(read, histories),
            stored_share: share(stored, counts.conversations),
            statuses_share: share(judged, wanted),
            latencies: self.upkeep.latencies() as f64,
        };
        self.gates.judge(&seen)
    }
}
