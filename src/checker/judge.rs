//! The checker: takes events in their order, and judges when the last one is in.
//!
//! What can be judged at once is; what needs to know the whole log (who was a member where, what
//! was acked in the end) waits for [`Checker::finish`]. Memory grows with messages and with what
//! devices have in pieces, not with events.

mod verdict;

use std::cell::RefCell;

use super::device::Devices;
use super::gate::Gates;
use super::history::{Event, Outcome, What};
use super::log::Logs;
use super::names::{Name, Names};
use super::origin::Seen;
use super::report::{About, Counts, Findings, Invariant};
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
            What::Healed { fault, bites, recovered_ms, unrecovered_ms } => {
                self.upkeep.healed(t, &fault, bites, (recovered_ms, unrecovered_ms));
            }
            What::Broken { process, detail } => self.process_broke(t, &process, &detail),
            What::Leaked { process, line } => self.leaked(t, &process, &line),
            What::Resources { process, resident, files, pid } => {
                self.upkeep.resources(&process, (resident, files), pid);
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
            What::Connect { connection, user, device, acks_app, outcome, server } => {
                let who = (connection.as_str(), user.as_str(), device.as_str());
                self.connect(t, who, acks_app, (outcome, server.as_deref()));
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
                self.seen_by(t, &connection, &conversation, seq);
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
}
