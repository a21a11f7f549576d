//! Statuses: none is told before it is true, and in the end each is told (I10).

use std::collections::HashMap;

use super::history::Status;
use super::judge::Checker;
use super::log::{Content, LogId, Shown, Sight};
use super::names::Name;
use super::report::Invariant;

/// A status that went beyond the receipts that had been given. What needs no receipt may lie
/// between: that is known in the end.
#[derive(Debug)]
struct Doubt {
    t: u64,
    log: LogId,
    /// Who saw it.
    reader: Name,
    /// Of whom it tells.
    by: Name,
    seq: u64,
    /// The receipts of that person, when it was seen.
    acked: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    doubts: Vec<Doubt>,
    /// The highest statuses that came as frames: to whom, of whom.
    told: HashMap<(LogId, Name, Name), Shown>,
    /// Acked direct messages, and those of them whose status could be judged.
    wanted: u64,
    judged: u64,
}

impl Statuses {
    pub fn shares(&self) -> (u64, u64) {
        (self.judged, self.wanted)
    }
}

impl Checker {
    pub(super) fn status(
        &mut self,
        t: u64,
        (connection, conversation): (&str, &str),
        (seq, user): (u64, &str),
        status: Status,
    ) {
        let Some(connection) = self.devices.connection(&self.names, connection) else {
            self.counts.strays += 1;
            return;
        };
        let reader = self.devices.user_of(connection);
        let log = self.logs.open(conversation, &mut self.names);
        let by = self.names.name(user);
        let known = &self.logs.list[log];
        if known.direct && !known.starters.contains(&reader) {
            self.broken(Invariant::I13, (t, t), || {
                let who = self.connection_text(connection);
                (self.about(log, seq, None), format!("{who} was told a status of {conversation}"))
            });
            return;
        }
        let told = self.statuses.told.entry((log, reader, by)).or_default();
        match status {
            Status::Sent => {}
            Status::Delivered => {
                told.delivered = told.delivered.max(seq);
                self.claimed(t, (log, reader, by), seq, false);
            }
            Status::Read => {
                told.read = told.read.max(seq);
                self.claimed(t, (log, reader, by), seq, true);
            }
        }
    }

    /// Statuses of the messages of `from`, as a history shows them.
    pub(super) fn status_listed(
        &mut self,
        t: u64,
        (log, reader): (LogId, Name),
        from: Name,
        shown: Shown,
    ) {
        let by = self.logs.list[log].starters.iter().copied().find(|user| *user != from);
        // A note to oneself is read as it is written.
        let Some(by) = by else { return };
        self.claimed(t, (log, reader, by), shown.read, true);
        self.claimed(t, (log, reader, by), shown.delivered, false);
    }

    /// What histories must show that are asked for now: receipts so old, and of connections that
    /// are open yet, that they are stored, where nothing stood in the way in that time.
    pub(super) fn statuses_due(&self, t: u64, log: LogId) -> HashMap<Name, Shown> {
        let known = &self.logs.list[log];
        let trails = self.gates.limits.status_ms * 1_000_000;
        let Some(old) = t.checked_sub(trails).filter(|old| self.upkeep.is_calm_since(*old)) else {
            return HashMap::new();
        };
        let people = known.starters.iter().filter(|_| known.direct);
        people.map(|user| (*user, self.devices.received_by(*user, log, old))).collect()
    }

    /// I10 for what the store has, whatever was told live.
    pub(super) fn judge_stored(
        &mut self,
        t: u64,
        walk: usize,
        (from, seq): (Name, u64),
        status: Status,
    ) {
        let (log, begun) = (self.walks.log_of(walk), self.walks.begun(walk));
        let by = self.logs.list[log].starters.iter().copied().find(|user| *user != from);
        let due = by.and_then(|by| self.walks.due(walk, by)).unwrap_or_default();
        self.counts.stored_statuses += u64::from(seq <= due.delivered);
        let late = match status {
            Status::Sent => seq <= due.delivered.max(due.read),
            Status::Delivered => seq <= due.read,
            Status::Read => false,
        };
        if late {
            self.broken(Invariant::I10, (begun, t), || {
                let what = self.entry_text(log, seq);
                let what = format!(
                    "{what} is stored as {status:?}; receipts went up to {}, reads to {}, more \
                     than {} ms before it was read",
                    due.delivered, due.read, self.gates.limits.status_ms
                );
                (self.about(log, seq, None), what)
            });
        }
    }

    /// Somebody was told that `by` has received, or seen, all up to `seq`.
    fn claimed(&mut self, t: u64, (log, reader, by): (LogId, Name, Name), seq: u64, read: bool) {
        let person = self.devices.person(by, log);
        if read && seq > person.read {
            self.broken(Invariant::I10, (t, t), || {
                let (who, by) = (self.names.text(reader), self.names.text(by));
                let what = self.entry_text(log, seq);
                let what = format!("{who} was told that {by} had seen {what}, who had not said so");
                (self.about(log, seq, None), what)
            });
        }
        if !read && seq > person.acked.max(person.read) {
            let acked = person.acked.max(person.read);
            self.statuses.doubts.push(Doubt { t, log, reader, by, seq, acked });
        }
    }

    pub(super) fn judge_statuses(&mut self, sights: &[Sight]) {
        for doubt in &self.statuses.doubts {
            self.judge_doubt(doubt, &sights[doubt.log]);
        }
        let (mut wanted, mut judged, mut missing) = (0, 0, 0);
        for id in 0..self.logs.list.len() {
            let log = &self.logs.list[id];
            let [a, b] = log.starters[..] else { continue };
            if !log.direct {
                continue;
            }
            for (from, by) in [(a, b), (b, a)] {
                let (all, seen, lacking) = self.judge_told(id, from, by);
                (wanted, judged, missing) = (wanted + all, judged + seen, missing + lacking);
            }
        }
        (self.statuses.wanted, self.statuses.judged) = (wanted, judged);
        self.counts.missing_statuses = missing;
    }

    /// A receipt proves all before it, and passes what its giver wrote or may not see.
    fn judge_doubt(&self, doubt: &Doubt, sight: &Sight) {
        let Doubt { t, log, reader, by, seq, acked } = *doubt;
        let needs = |content, seq| match content {
            Content::Message(send) => {
                self.sends.list[send as usize].user != by && sight.sees(by, seq)
            }
            _ => sight.sees(by, seq),
        };
        let beyond = self.logs.list[log].entries.range(acked + 1..=seq.max(acked + 1));
        let lie = beyond.rev().find(|(at, entry)| **at <= seq && needs(entry.content, **at));
        let Some((at, _)) = lie else { return };
        self.broken(Invariant::I10, (t, t), || {
            let (who, by) = (self.names.text(reader), self.names.text(by));
            let what = self.entry_text(log, *at);
            let what = format!(
                "{who} was told that {by} had received {what}; receipts went up to {acked}"
            );
            (self.about(log, *at, None), what)
        });
    }

    /// Of what `from` wrote to `by` and was acked: how many, how many can be judged, how many lack
    /// their `delivered`.
    fn judge_told(&self, id: LogId, from: Name, by: Name) -> (u64, u64, u64) {
        let log = &self.logs.list[id];
        let told = self.statuses.told.get(&(id, from, by)).copied().unwrap_or_default();
        let listed = log.shown.get(&from).copied().unwrap_or_default();
        let known = told.delivered.max(told.read).max(listed.delivered);
        let person = self.devices.person(by, id);
        let late = person.acked_at + self.gates.limits.status_ms * 1_000_000;
        let looked_for = log.walk_begun >= late;
        let (mut all, mut judged, mut lacking) = (0, 0, 0);
        let mut first = None;
        for (seq, entry) in log.entries.iter().filter(|(_, entry)| entry.acked) {
            let Content::Message(send) = entry.content else { continue };
            if self.sends.list[send as usize].user != from {
                continue;
            }
            all += 1;
            judged += u64::from(*seq <= known || looked_for);
            if *seq > known && *seq <= person.acked && looked_for {
                lacking += 1;
                first.get_or_insert((*seq, send));
            }
        }
        if let Some((seq, send)) = first {
            let begun = self.sends.list[send as usize].first;
            self.broken(Invariant::I10, (begun, person.acked_at), || {
                let (what, by) = (self.entry_text(id, seq), self.names.text(by));
                let what = format!(
                    "{by} has received {what} and {} more, and no delivered ever came",
                    lacking - 1
                );
                (self.about(id, seq, Some(send)), what)
            });
        }
        (all, judged, lacking)
    }
}
