//! What the store, or else all last walks together, lack (I1, I11).

use std::collections::{HashMap, HashSet};

use super::super::device::Losses;
use super::super::history::Outcome;
use super::super::judge::Checker;
use super::super::log::{Content, LogId, Sight};
use super::super::names::Name;
use super::super::ranges::Ranges;
use super::super::report::Invariant;
use super::super::send::SendId;
use super::Walk;

impl Checker {
    /// I1 and I11 for what the store, or else all last walks together, lack.
    pub(in crate::checker) fn judge_logs(&self, sights: &[Sight], losses: &mut Losses) {
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
}
