//! Which items of a batch may be put together now, judged in log order.
//!
//! **Invariant.** Nobody is refused, no change is taken for a repeat, and nothing is counted as a
//! conversation opened, by a log or roster older than the batch: before that the lane reads
//! forward.

use std::sync::Arc;

use super::Opens;
use super::batch::{Fate, Stored};
use super::log::Place;
use super::patience::persist;
use super::round::Round;
use crate::chat::{ChatError, roster};
use crate::planted::{Bug, planted};
use crate::protocol::{Entry, ErrorCode, Kind, Seq, UserId};
use crate::store::{LogRange, Order};

/// What the roster says to an item.
enum Verdict {
    Put,
    /// It would open a conversation: if its sender may.
    Open,
    /// The change has been made: this entry stands.
    Stands(Seq),
    No(ChatError),
}

impl Round<'_> {
    /// The places of the items to put next: messages, or one `joined` or `left` alone. Items that
    /// must not be put get their fate.
    pub(super) async fn judge(&mut self) -> Result<Vec<usize>, ChatError> {
        let mut run = Vec::with_capacity(self.batch.items.len());
        let mut at = 0;
        while let Some(item) = self.batch.items.get(at) {
            if !item.is_new() {
                at += 1;
                continue;
            }
            let message = item.kind == Kind::Message;
            if !message && !run.is_empty() {
                break;
            }
            match self.verdict(at, !run.is_empty()) {
                Verdict::Put => {
                    run.push(at);
                    if !message {
                        break;
                    }
                }
                _ if !self.fresh => {
                    self.walk().await?;
                    run.clear();
                    at = 0;
                    continue;
                }
                Verdict::Open => {
                    if self.opens(at).await {
                        run.push(at);
                    }
                }
                Verdict::Stands(seq) => self.stands(at, seq).await?,
                Verdict::No(error) => self.batch.items[at].fate = Fate::Refused(error),
            }
            at += 1;
        }
        Ok(run)
    }

    /// `behind`: others are put before it, in the same go.
    fn verdict(&self, at: usize, behind: bool) -> Verdict {
        let item = &self.batch.items[at];
        let Place::Room(room) = &self.log.place else {
            let opened = behind || self.log.tail > 0;
            return match item.kind {
                Kind::Message if opened || item.opens == Opens::Freely => Verdict::Put,
                Kind::Message if item.opens == Opens::Within => Verdict::Open,
                Kind::Message => Verdict::No(not_opened()),
                _ => Verdict::No(bad("a direct conversation is of two people for ever")),
            };
        };
        let here = |user: &UserId| roster::is_present(&room.roster, user);
        match (&item.kind, &item.to) {
            (Kind::Message, _) if here(&item.from) || planted(Bug::MembershipUnchecked) => {
                Verdict::Put
            }
            (Kind::Message, _) => Verdict::No(ChatError::not_found("conversation")),
            (Kind::Joined | Kind::Left, Some(user)) => {
                match roster::standing(&room.roster, &item.kind, user) {
                    Some(seq) => Verdict::Stands(seq),
                    None if item.kind == Kind::Joined || here(user) => Verdict::Put,
                    None => Verdict::No(ChatError::not_found("member")),
                }
            }
            _ => Verdict::No(bad("a change of this kind can't be made")),
        }
    }

    /// Asks once whether the item may open its conversation; if not, it gets its fate.
    async fn opens(&mut self, at: usize) -> bool {
        let item = &self.batch.items[at];
        let may = item.answer.origin.may_open(&item.from, item.to.as_ref()).await;
        let item = &mut self.batch.items[at];
        let opens = may.is_ok();
        match may {
            Ok(()) => item.opens = Opens::Freely,
            Err(error) => item.fate = Fate::Refused(error),
        }
        opens
    }

    /// The item asks for what the entry at `seq` has done.
    async fn stands(&mut self, at: usize, seq: Seq) -> Result<(), ChatError> {
        let before = Some(seq.saturating_add(1));
        let after = seq.saturating_sub(1);
        let range = LogRange { after, before, order: Order::Ascending, limit: 1 };
        let (store, conversation) = (&self.shared.store, &self.lane.conversation);
        let page = persist!(self.patience, store.log(conversation, range))?;
        let found: Option<Entry> = page.entries.into_iter().next();
        self.batch.items[at].fate = match found {
            Some(entry) => {
                let (entry, roster) = (Arc::new(entry), self.log.roster());
                Fate::Stored(Stored { entry, roster, repeated: true })
            }
            None => Fate::Refused(ChatError::not_found("entry")),
        };
        Ok(())
    }
}

/// `--dm existing`, and there is none.
pub(in crate::chat) fn not_opened() -> ChatError {
    let detail = "there is no such conversation, and only a service may open one";
    ChatError::new(ErrorCode::Forbidden, detail)
}

fn bad(detail: &str) -> ChatError {
    ChatError::new(ErrorCode::BadRequest, detail)
}
