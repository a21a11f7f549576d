//! Histories and the store's content: I11 and I12, and I1 and I13 where they are the witness.

use std::collections::{HashMap, HashSet};

use super::device::Losses;
use super::history::{Direction, Listed, Outcome, Status};
use super::judge::Checker;
use super::log::{Content, LogId, Shown, Sight};
use super::names::Name;
use super::origin::Seen;
use super::ranges::Ranges;
use super::report::Invariant;
use super::send::SendId;

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
    outcome: Option<Outcome>,
    set: Ranges,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Walks {
    list: Vec<Walk>,
    by_name: HashMap<Name, usize>,
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
        if outcome != Outcome::Done {
            return;
        }
        let whole = format!("walk {} of {}", self.names.text(walk.name), self.names.text(user));
        let set = self.listed(t, (log, Some(user)), &whole, entries);
        self.statuses_listed(t, id, entries);
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

    /// I10 for the statuses of a history: they are true, and none goes back.
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

    /// I11, I12, I13 for each walk.
    pub(super) fn judge_walks(&self, sights: &[Sight]) {
        for walk in &self.walks.list {
            let (log, sight) = (&self.logs.list[walk.log], &sights[walk.log]);
            let spans = sight.of(walk.user);
            if walk.outcome == Some(Outcome::Done) && (log.direct || log.complete()) {
                self.judge_strangers(walk, &spans);
            }
            let (mut holes, mut short) = (Vec::new(), Vec::new());
            let last = walk.set.last().unwrap_or(0);
            for seq in self.due(walk, &spans) {
                if seq < last { holes.push(seq) } else { short.push(seq) }
            }
            match walk.outcome {
                Some(Outcome::Done) => {
                    let ends = if walk.last { Invariant::I11 } else { Invariant::I12 };
                    self.judge_lacks(Invariant::I11, walk, &holes);
                    self.judge_lacks(ends, walk, &short);
                }
                Some(Outcome::Refused) => self.judge_lacks(Invariant::I12, walk, &short),
                _ => {}
            }
        }
    }

    /// What a walk should have and has not.
    fn due(&self, walk: &Walk, spans: &Ranges) -> Vec<u64> {
        let log = &self.logs.list[walk.log];
        let upto = walk.upto.max(walk.set.last().unwrap_or(0));
        // The record of a span that the reader had seen nothing of may trail its entry.
        let settled = |from| log.direct || from <= walk.sees || walk.set.contains(from);
        let spans = spans.iter().filter(|(from, _)| settled(*from));
        let gaps = spans.map(|(from, to)| walk.set.gaps(from, to.min(upto)));
        let gaps: Vec<_> = gaps.flat_map(|gaps| gaps.iter().collect::<Vec<_>>()).collect();
        let entries = gaps.into_iter().flat_map(|(from, to)| log.entries.range(from..=to));
        // What the store itself lacks is judged there.
        let there = |seq| log.inventory().is_none_or(|inventory| inventory.contains(seq));
        entries.map(|(seq, _)| *seq).filter(|seq| there(*seq)).collect()
    }

    fn walk_text(&self, walk: &Walk) -> String {
        let (name, user) = (self.names.text(walk.name), self.names.text(walk.user));
        let (limit, direction) = (walk.limit, walk.direction);
        format!("walk {name} of {user} ({direction:?}, {limit} a page)")
    }

    fn judge_strangers(&self, walk: &Walk, spans: &Ranges) {
        for (from, to) in walk.set.without(spans).iter() {
            self.broken(Invariant::I13, (walk.begun, walk.ended), || {
                let (whose, what) = (self.walk_text(walk), self.entry_text(walk.log, from));
                let what = format!("{whose} shows {what} (up to {to}), which is not for them");
                (self.about(walk.log, from, None), what)
            });
        }
    }

    fn judge_lacks(&self, invariant: Invariant, walk: &Walk, seqs: &[u64]) {
        let Some(first) = seqs.first() else { return };
        self.broken(invariant, (walk.begun, walk.ended), || {
            let (whose, what) = (self.walk_text(walk), self.entry_text(walk.log, *first));
            let more = seqs.len() - 1;
            let outcome =
                if walk.outcome == Some(Outcome::Refused) { "was refused" } else { "lacks" };
            let what = format!("{whose} {outcome} {what} and {more} more, seen before it began");
            (self.about(walk.log, *first, None), what)
        });
    }

    /// I1 and I11 for what the store, or else all last walks together, lack.
    pub(super) fn judge_logs(&self, sights: &[Sight], losses: &mut Losses) {
        let mut walkers: HashMap<LogId, HashSet<Name>> = HashMap::new();
        let last = |walk: &&Walk| walk.last && walk.outcome == Some(Outcome::Done);
        for walk in self.walks.list.iter().filter(last) {
            walkers.entry(walk.log).or_default().insert(walk.user);
        }
        for (id, log) in self.logs.list.iter().enumerate() {
            let readers = walkers.get(&id).into_iter().flatten();
            let covered = readers.fold(Ranges::default(), |all, r| all.union(&sights[id].of(*r)));
            let Some(inventory) = log.inventory() else { continue };
            let whole = log.stored.is_some();
            let end = log.seen.max(inventory.last().unwrap_or(0));
            for (from, to) in inventory.gaps(1, end).iter() {
                self.judge_absent(id, (from, to), (whole, &covered), inventory, losses);
            }
            for (seq, entry) in log.entries.iter().filter(|(_, entry)| entry.replaced) {
                if let Content::Message(send) = entry.content {
                    self.absent(id, *seq, send, inventory, losses);
                }
            }
        }
    }

    fn judge_absent(
        &self,
        id: LogId,
        (from, to): (u64, u64),
        (whole, covered): (bool, &Ranges),
        inventory: &Ranges,
        losses: &mut Losses,
    ) {
        let log = &self.logs.list[id];
        let known: Ranges = log.entries.range(from..=to).map(|(seq, _)| (*seq, *seq)).collect();
        let unknown = known.gaps(from, to);
        for (seq, entry) in log.entries.range(from..=to) {
            if !whole && !covered.contains(*seq) {
                continue;
            }
            match entry.content {
                Content::Message(send) if entry.acked => {
                    self.absent(id, *seq, send, inventory, losses);
                }
                // What was seen only after the last walk had begun is no loss.
                _ if whole || entry.first < log.walk_begun => {
                    self.broken(Invariant::I11, (entry.first, self.now), || {
                        let what = self.entry_text(id, *seq);
                        (self.about(id, *seq, None), format!("{what} was seen, and is not stored"))
                    });
                }
                _ => {}
            }
        }
        for (from, to) in unknown.iter().filter(|(from, _)| whole || covered.contains(*from)) {
            self.broken(Invariant::I11, (self.now, self.now), || {
                let conversation = self.names.text(log.id);
                let what = format!("{conversation} has a hole from {from} to {to}");
                (self.about(id, from, None), what)
            });
        }
    }

    fn absent(&self, id: LogId, seq: u64, send: SendId, of: &Ranges, losses: &mut Losses) {
        losses.note(id, seq, of);
        let send_record = &self.sends.list[send as usize];
        let span = (send_record.first, send_record.done.unwrap_or(send_record.first));
        self.broken(Invariant::I1, span, || {
            let what = self.entry_text(id, seq);
            (self.about(id, seq, Some(send)), format!("acked {what} is not stored"))
        });
    }

    /// How many (conversation, participant) there are, and of how many the history was read after
    /// the drain, in both directions.
    pub(super) fn histories(&self, sights: &[Sight]) -> (u64, u64) {
        let done = |walk: &&Walk| walk.last && walk.outcome == Some(Outcome::Done);
        let done = self.walks.list.iter().filter(done);
        let ways: HashSet<_> =
            done.map(|walk| (walk.log, walk.user, walk.direction == Direction::Forward)).collect();
        let (mut all, mut read) = (0, 0);
        for (id, sight) in sights.iter().enumerate() {
            for user in sight.participants() {
                all += 1;
                let both = [true, false].iter().all(|way| ways.contains(&(id, user, *way)));
                read += u64::from(both);
            }
        }
        (all, read)
    }
}
