//! Reading the log: forward from the tail, and back for refs that may have been used before.
//!
//! **Invariant.** Every entry between the lane's tail and the end of the log is compared with all
//! that waits to be put, so a put of unknown outcome, or the same send through another process, is
//! found and never put twice.

use std::sync::Arc;

use super::batch::{Fate, Stored, conflict};
use super::patience::persist;
use super::refs::Seen;
use super::round::Round;
use crate::chat::ChatError;
use crate::planted::{Bug, planted};
use crate::protocol::{Entry, ErrorCode, REF_REACH_ENTRIES, REF_WINDOW_ENTRIES};
use crate::store::{LogRange, Order, PAGE_MAX};

impl Round<'_> {
    /// Reads from the tail to the end of the log.
    pub(super) async fn walk(&mut self) -> Result<(), ChatError> {
        loop {
            let range = LogRange::following(self.log.tail, PAGE_MAX);
            let page = self.read(range).await?;
            let more = page.1 && !page.0.is_empty();
            for entry in page.0 {
                self.meet(entry);
            }
            if !more {
                self.fresh = true;
                return Ok(());
            }
        }
    }

    /// Takes in an entry that stands behind the tail.
    fn meet(&mut self, entry: Entry) {
        let seen = Seen::of(&self.shared.hasher, &entry);
        let at = self.batch.items.iter().position(|item| item.is_new() && seen.is(item));
        let own = at.is_some_and(|at| self.batch.items[at].tried_as(&entry));
        if !own {
            // Somebody else has the seq: nothing of ours can be put there, nor behind it.
            self.log.undecided = None;
        }
        let body = seen.body;
        self.log.advance(&entry, seen);
        if let Some(at) = at {
            let roster = self.log.roster();
            let item = &mut self.batch.items[at];
            item.found = true;
            item.fate = if item.body == body {
                Fate::Stored(Stored { entry: Arc::new(entry), roster, repeated: !own })
            } else {
                Fate::Refused(conflict())
            };
        }
    }

    /// Finds the sends of this batch that stand in the log, or stand in the batch twice (P2).
    pub(super) async fn look_up(&mut self) -> Result<(), ChatError> {
        let tail = self.log.tail;
        let near = tail.saturating_sub(REF_WINDOW_ENTRIES as u64);
        let mut reach: Option<Vec<Seen>> = None;
        for at in 0..self.batch.items.len() {
            let item = &self.batch.items[at];
            if !item.reference.is_clients() || planted(Bug::RefsIgnored) {
                continue;
            }
            let after = item.after.map_or(near, |after| after.min(near));
            if let Some(seen) = self.log.window.find(item, after) {
                let fate = item.repeats(seen, self.log.roster());
                self.batch.items[at].fate = fate;
                continue;
            }
            if self.batch.echo(at) || self.log.window.first().is_none_or(|seq| seq <= after + 1) {
                continue;
            }
            let seen = match &reach {
                Some(seen) => seen,
                None => reach.insert(self.read_back().await?),
            };
            let item = &self.batch.items[at];
            let fate = match seen.iter().rev().find(|seen| seen.seq > after && seen.is(item)) {
                Some(seen) => item.repeats(seen, self.log.roster()),
                None if after + REF_REACH_ENTRIES < tail => Fate::Refused(expired()),
                None => continue,
            };
            self.batch.items[at].fate = fate;
        }
        Ok(())
    }

    /// What lies between the lowest `after` of the batch and the window, oldest first.
    async fn read_back(&mut self) -> Result<Vec<Seen>, ChatError> {
        let Some(first) = self.log.window.first() else { return Ok(Vec::new()) };
        let lowest = self.batch.items.iter().filter_map(|item| item.after).min();
        let floor = self.log.tail.saturating_sub(REF_REACH_ENTRIES);
        let mut after = lowest.unwrap_or(floor).max(floor);
        let mut reach = Vec::new();
        while after + 1 < first {
            let range =
                LogRange { after, before: Some(first), order: Order::Ascending, limit: PAGE_MAX };
            let (entries, more) = self.read(range).await?;
            reach.extend(entries.iter().map(|entry| Seen::of(&self.shared.hasher, entry)));
            match entries.last() {
                Some(last) if more => after = last.seq,
                _ => break,
            }
        }
        Ok(reach)
    }

    async fn read(&mut self, range: LogRange) -> Result<(Vec<Entry>, bool), ChatError> {
        let (store, conversation) = (&self.shared.store, &self.lane.conversation);
        let page = persist!(self.patience, store.log(conversation, range))?;
        Ok((page.entries, page.more))
    }
}

fn expired() -> ChatError {
    let detail = format!(
        "the first try with this ref may lie more than {REF_REACH_ENTRIES} entries back: \
         see the history, then send with a new ref"
    );
    ChatError::new(ErrorCode::RefExpired, detail)
}
