//! Each walk shows all that it should, and nothing else (I11, I12, I13).

use std::collections::HashSet;

use super::super::history::{Direction, Outcome};
use super::super::judge::Checker;
use super::super::log::Sight;
use super::super::ranges::Ranges;
use super::super::report::Invariant;
use super::Walk;

impl Checker {
    /// I11, I12, I13 for each walk.
    pub(in crate::checker) fn judge_walks(&self, sights: &[Sight]) {
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
        // The record of a span that the reader had seen nothing of may trail its entry, which is
        // the last of its log then: a walk that shows any of a span shows all of it.
        let shows = |(from, to)| walk.set.iter().any(|(first, last)| first <= to && from <= last);
        let spans = spans.iter();
        let spans = spans.filter(|span| log.direct || span.0 <= walk.sees || shows(*span));
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

    /// How much of all histories was read after the drain.
    pub(in crate::checker) fn histories(&self, sights: &[Sight]) -> Read {
        let done = |walk: &&Walk| walk.last && walk.outcome == Some(Outcome::Done);
        let done = self.walks.list.iter().filter(done);
        let ways: HashSet<_> =
            done.map(|walk| (walk.log, walk.user, walk.direction == Direction::Forward)).collect();
        let mut of = Read::default();
        for (id, sight) in sights.iter().enumerate() {
            let went = |user, forward| ways.contains(&(id, user, forward));
            let (mut there, mut both) = (false, false);
            for user in sight.participants() {
                let (forward, backward) = (went(user, true), went(user, false));
                of.histories += 1;
                of.read += u64::from(forward || backward);
                (there, both) = (true, both || forward && backward);
            }
            of.conversations += u64::from(there);
            of.both_ways += u64::from(both);
        }
        of
    }
}

/// What was read after the drain.
#[derive(Debug, Default)]
pub(in crate::checker) struct Read {
    /// (conversation, participant) that there are.
    pub histories: u64,
    /// Of these, whose history was read, one way at least.
    pub read: u64,
    /// Conversations that there are.
    pub conversations: u64,
    /// Of these, which one participant at least read both ways.
    pub both_ways: u64,
}
