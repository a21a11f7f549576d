//! Histories and the store's content: I11 and I12, and I1 and I13 where they are the witness.

mod whole;
mod stored;

use std::collections::HashMap;

use super::history::{Direction, Listed, Outcome, Status};
use super::judge::Checker;
use super::log::{Content, LogId, Shown};
use super::names::Name;
use super::origin::Seen;
use super::ranges::Ranges;
use super::report::Invariant;

#[derive(Debug)]
pub(super) struct Walk {
    name: Name,
    user: Name,
    log: LogId,
    begun: u64,
    ended: u64,
    limit: u32,
    direction: Direction,
    /// It began after the drain.
    last: bool,
    /// What anybody had seen when it began.
    upto: u64,
    /// What its reader had seen.
    sees: u64,
    shown: HashMap<Name, Shown>,
    /// What had to be stored of the receipts of these when it began.
    due: HashMap<Name, Shown>,
    outcome: Option<Outcome>,
    set: Ranges,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Walks {
    list: Vec<Walk>,
    by_name: HashMap<Name, usize>,
}

impl Walks {
    pub fn log_of(&self, walk: usize) -> LogId {
        self.list[walk].log
    }

    pub fn begun(&self, walk: usize) -> u64 {
        self.list[walk].begun
    }

    /// How far the receipts of this one had to be stored when the walk began.
    pub fn due(&self, walk: usize, by: Name) -> Option<Shown> {
        self.list[walk].due.get(&by).copied()
    }
}

impl Checker {
    pub(super) fn walk(
        &mut self,
        t: u64,
        (walk, user, conversation): (&str, &str, &str),
        (limit, direction): (u32, Direction),
    ) {
        let log = self.logs.open(conversation, &mut self.names);
        let (name, user) = (self.names.name(walk), self.names.name(user));
        let due = self.statuses_due(t, log);
        let (known, person) = (&self.logs.list[log], self.devices.person(user, log));
        self.walks.by_name.insert(name, self.walks.list.len());
        self.counts.walks += 1;
        self.walks.list.push(Walk {
            name,
            user,
            log,
            begun: t,
            ended: t,
            limit,
            direction,
            last: self.upkeep.is_reading(),
            upto: known.seen,
            sees: person.sees,
            shown: known.shown.clone(),
            due,
            outcome: None,
            set: Ranges::default(),
        });
    }

    pub(super) fn walked(&mut self, t: u64, walk: &str, outcome: Outcome, entries: &[Listed]) {
        let id = self.names.known(walk).and_then(|name| self.walks.by_name.get(&name).copied());
        let Some(id) = id else {
            self.counts.strays += 1;
            return;
        };
        let walk = &mut self.walks.list[id];
        (walk.outcome, walk.ended) = (Some(outcome), t);
        let (user, log, begun, last) = (walk.user, walk.log, walk.begun, walk.last);
        let whole = format!("walk {} of {}", self.names.text(walk.name), self.names.text(user));
        let set = self.listed(t, (log, Some(user)), &whole, entries);
        self.statuses_listed(t, id, entries);
        // What broke off on the way must be true as far as it goes.
        if outcome != Outcome::Done {
            return;
        }
        let person = self.devices.person_mut(user, log);
        person.sees = person.sees.max(set.last().unwrap_or(0));
        let known = &mut self.logs.list[log];
        known.walk_begun = known.walk_begun.max(begun);
        if last {
            known.walked = known.walked.union(&set);
        }
        self.walks.list[id].set = set;
    }

    pub(super) fn stored(&mut self, t: u64, conversation: &str, entries: &[Listed]) {
        let log = self.logs.open(conversation, &mut self.names);
        let set = self.listed(t, (log, None), "the store", entries);
        self.logs.list[log].stored = Some(set);
    }

    /// What a list has, each entry compared with what others saw.
    fn listed(
        &mut self,
        t: u64,
        (log, user): (LogId, Option<Name>),
        whose: &str,
        entries: &[Listed],
    ) -> Ranges {
        let (mut set, mut before) = (Ranges::default(), 0);
        for Listed { seq, kind, from, body, to, .. } in entries {
            let seq = *seq;
            if seq <= before {
                self.broken(Invariant::I11, (t, t), || {
                    let what =
                        format!("{whose} shows {} behind {before}", self.entry_text(log, seq));
                    (self.about(log, seq, None), what)
                });
            }
            before = seq;
            let seen = Seen { seq, kind, from, body, to: to.as_deref() };
            let Some(content) = self.origin(t, log, user, &seen) else { continue };
            set.insert(seq);
            if self.logs.list[log].observe(seq, content, t) {
                self.listed_place(t, log, whose, content, seq);
            } else {
                self.listed_other(t, (log, user), whose, content, seq);
            }
        }
        set
    }

    fn listed_place(&mut self, t: u64, log: LogId, whose: &str, content: Content, seq: u64) {
        let Content::Message(send) = content else { return };
        let Some(place) = self.placed(send, seq) else { return };
        self.broken(Invariant::I9, (self.sends.list[send as usize].first, t), || {
            let text = self.message_text(send);
            let what = format!("{whose} shows {text} at {seq}; it stands at {place}");
            (self.about(log, seq, Some(send)), what)
        });
    }

    fn listed_other(
        &mut self,
        t: u64,
        (log, user): (LogId, Option<Name>),
        whose: &str,
        content: Content,
        seq: u64,
    ) {
        let Some(entry) = self.logs.list[log].entries.get_mut(&seq) else { return };
        // An acked message that the store does not have where it was acked is lost.
        entry.replaced |= user.is_none() && entry.acked;
        let (first, replaced) = (entry.first, entry.replaced);
        if !(replaced && user.is_none()) {
            self.broken(Invariant::I4, (first, t), || {
                let (there, here) = (self.entry_text(log, seq), self.content_text(content));
                let what = format!("{whose} shows {here} at {seq}, where others saw {there}");
                (self.about(log, seq, None), what)
            });
        }
    }

    /// I10 for the statuses of a history: they are true, they come, and none goes back.
    fn statuses_listed(&mut self, t: u64, walk: usize, entries: &[Listed]) {
        let (log, user) = (self.walks.list[walk].log, self.walks.list[walk].user);
        if !self.logs.list[log].direct {
            return;
        }
        let mut now: HashMap<Name, Shown> = HashMap::new();
        for listed in entries.iter().filter(|listed| listed.kind == "message") {
            let from = self.names.name(&listed.from);
            let before = self.walks.list[walk].shown.get(&from).copied().unwrap_or_default();
            let delivered = matches!(listed.status, Some(Status::Delivered | Status::Read));
            let read = listed.status == Some(Status::Read);
            let seq = listed.seq;
            let back = before.delivered >= seq && !delivered || before.read >= seq && !read;
            if back && listed.status.is_some() {
                self.broken(Invariant::I10, (self.walks.list[walk].begun, t), || {
                    let (who, what) = (self.names.text(user), self.entry_text(log, seq));
                    let what = format!(
                        "{who} was shown {what} as {:?}; an earlier history had it further",
                        listed.status
                    );
                    (self.about(log, seq, None), what)
                });
            }
            if let Some(status) = listed.status {
                self.judge_stored(t, walk, (from, seq), status);
            }
            let shown = now.entry(from).or_default();
            shown.delivered = shown.delivered.max(if delivered { seq } else { 0 });
            shown.read = shown.read.max(if read { seq } else { 0 });
        }
        for (from, shown) in now {
            self.status_listed(t, (log, user), from, shown);
            let known = self.logs.list[log].shown.entry(from).or_default();
            known.delivered = known.delivered.max(shown.delivered);
            known.read = known.read.max(shown.read);
        }
    }
}
