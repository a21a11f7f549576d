//! One batch's way through a lane: raise, put, answer, hand on; and back to the walk where the put
//! was not the end of it.
//!
//! **Invariant.** While a put is undecided the same entry, and no other, is put at its seq.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::batch::{Batch, Fate, Stored};
use super::log::{Log, Place};
use super::patience::{Patience, persist};
use super::queue::Lane;
use super::refs::Seen;
use super::{Origin, Shared};
use crate::chat::ChatError;
use crate::planted::{Bug, planted};
use crate::protocol::{Entry, ErrorCode, Kind};
use crate::store::{Record, StoreError};

/// How long a put waits for its process to be sure that it counts as alive.
const PERMIT_WAIT: Duration = Duration::from_secs(1);
const PERMIT_PAUSE: Duration = Duration::from_millis(20);
/// Between two tries to decide a put in the background, with jitter.
const DECIDE_PAUSE_MS: std::ops::Range<u64> = 500..1_500;

/// A batch in a lane.
pub(super) struct Round<'a> {
    pub(super) shared: &'a Shared,
    pub(super) lane: &'a Lane,
    pub(super) log: &'a mut Log,
    pub(super) batch: &'a mut Batch,
    pub(super) patience: Patience,
    /// The end of the log was read after the batch was taken.
    pub(super) fresh: bool,
}

impl Round<'_> {
    /// Works the batch off.
    pub(super) async fn run(&mut self) -> Result<(), ChatError> {
        if self.lane.heard() > self.log.tail {
            self.walk().await?;
        }
        self.look_up().await?;
        loop {
            self.pay().await?;
            self.settle().await?;
            if self.batch.items.is_empty() {
                return Ok(());
            }
            let run = self.judge().await?;
            if !run.is_empty() {
                self.put(&run).await?;
            }
        }
    }

    /// Writes the member items that are behind the log.
    async fn pay(&mut self) -> Result<(), ChatError> {
        let Place::Room(room) = &mut self.log.place else { return Ok(()) };
        while let Some(member) = room.owed.front() {
            let record = Record::Member(self.lane.conversation.clone(), member.clone());
            persist!(self.patience, self.shared.store.write(record.clone()))?;
            room.owed.pop_front();
        }
        Ok(())
    }

    /// Answers what is decided at the front. A repeated send goes the whole way again.
    async fn settle(&mut self) -> Result<(), ChatError> {
        loop {
            self.raise_again().await?;
            self.vouch().await;
            self.answer().await;
            if self.batch.front_repeated().is_none() {
                return Ok(());
            }
        }
    }

    /// Answers what is decided at the front, up to a repeated send, and hands it on.
    async fn answer(&mut self) {
        while let Some(sender) = self.batch.settle(&self.lane.conversation) {
            self.raise_left(&sender).await;
        }
    }

    /// One put of what stands at these places of the batch.
    async fn put(&mut self, run: &[usize]) -> Result<(), ChatError> {
        if !planted(Bug::PutBeforeRaise) {
            self.raise_for(run).await?;
        }
        self.pay().await?;
        let count = self.permitted(run).await?;
        if count == 0 {
            return Ok(());
        }
        let run = &run[..count];
        let entries = self.entries(run);
        self.forestall(run, &entries);
        match self.shared.store.append(&self.lane.conversation, &entries).await {
            Ok(0) => self.walk().await,
            Ok(count) => {
                self.patience.renew();
                self.stored(run, entries, count);
                if planted(Bug::PutBeforeRaise) {
                    self.raise_for(&run[..count]).await?;
                }
                Ok(())
            }
            Err(error) => {
                self.note_undecided(&error, entries.len());
                self.patience.again(error).await?;
                if self.log.undecided.is_some() { self.walk().await } else { Ok(()) }
            }
        }
    }

    fn entries(&mut self, run: &[usize]) -> Vec<Entry> {
        let now = (self.shared.clock)();
        let (mut seq, mut n) = (self.log.tail, self.log.n);
        let mut entries = Vec::with_capacity(run.len());
        for at in run {
            let item = &mut self.batch.items[*at];
            seq += 1;
            n += u64::from(item.kind == Kind::Message);
            entries.push(item.try_at(seq, n, now));
        }
        entries
    }

    fn stored(&mut self, run: &[usize], entries: Vec<Entry>, count: usize) {
        for (at, entry) in run.iter().zip(entries).take(count) {
            let item = &mut self.batch.items[*at];
            self.log.advance(&entry, Seen::own(item, &entry));
            let roster = self.log.roster();
            let entry = Arc::new(entry);
            item.fate = Fate::Stored(Stored { entry, roster, repeated: false });
        }
        // A put that succeeded leaves no room for an earlier try, there or behind it.
        self.log.undecided = None;
    }

    fn note_undecided(&mut self, error: &StoreError, puts: usize) {
        if matches!(error, StoreError::Unknown(_)) && !planted(Bug::UnknownIsFailed) {
            let until = self.log.tail + puts as u64;
            self.log.undecided = self.log.undecided.max(Some(until));
        }
    }

    /// Bugs: what is not stored yet is answered, or handed on.
    fn forestall(&mut self, run: &[usize], entries: &[Entry]) {
        for (at, entry) in run.iter().zip(entries) {
            let (conversation, roster) = (&self.lane.conversation, self.log.roster());
            let item = &mut self.batch.items[*at];
            if planted(Bug::AckBeforePersist) {
                item.answer.sent(conversation, entry, false);
            }
            if planted(Bug::DeliverBeforePersist) {
                item.hand_on(conversation, entry, roster);
            }
        }
    }

    fn may_append(&self, at: usize) -> bool {
        self.batch.items[at].answer.origin.may_append()
    }

    /// The same for one item after the other: those of one process have one answer.
    fn permits(&self) -> impl FnMut(usize) -> bool {
        let mut known: Option<(&Arc<dyn Origin>, bool)> = None;
        move |at| {
            let origin = &self.batch.items[at].answer.origin;
            match known {
                Some((of, may)) if Arc::ptr_eq(of, origin) => may,
                _ => known.insert((origin, origin.may_append())).1,
            }
        }
    }

    /// Waits until it is permitted; at most a second.
    async fn await_permit(&self, permitted: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PERMIT_WAIT;
        while !permitted(self) && Instant::now() < until {
            sleep(PERMIT_PAUSE).await;
        }
    }

    /// A put may have taken long: the others may have held this process for dead meanwhile, and be
    /// done with what it stored. `sent` leaves once its row says that it lives, so that its next
    /// death is noticed (P11). What can't be vouched for is refused, and handed on all the same.
    async fn vouch(&mut self) {
        if self.unvouched().next().is_none() {
            return;
        }
        self.await_permit(|round| round.unvouched().next().is_none()).await;
        let unvouched: Vec<usize> = self.unvouched().collect();
        for at in unvouched {
            self.batch.items[at].answer.refuse(&out_of_touch());
        }
    }

    /// What would be told `sent` now by a process that does not count as alive.
    fn unvouched(&self) -> impl Iterator<Item = usize> {
        let decided = self.batch.items.iter().take_while(|item| !item.is_new()).enumerate();
        let stands = decided.filter(|(_, item)| !matches!(item.fate, Fate::Refused(_)));
        let mut may_append = self.permits();
        stands.map(|(at, _)| at).filter(move |at| !may_append(*at))
    }

    /// How many of the run, from the first on, may be put: their process counts as alive. Those
    /// that may not after a second are refused.
    async fn permitted(&mut self, run: &[usize]) -> Result<usize, ChatError> {
        self.await_permit(|round| round.may_append(run[0])).await;
        let count = {
            let mut may_append = self.permits();
            run.iter().take_while(|at| may_append(**at)).count()
        };
        if count > 0 {
            return Ok(count);
        }
        let error = out_of_touch();
        if self.log.undecided.is_some() {
            return Err(error);
        }
        for at in run {
            if !self.may_append(*at) {
                self.batch.items[*at].fate = Fate::Refused(error.clone());
            }
        }
        Ok(0)
    }

    /// The batch could not be worked off: answers all that waits, and stays until nothing of it is
    /// left open.
    pub(super) async fn give_up(&mut self, error: &ChatError) {
        let conversation = &self.lane.conversation;
        let (tail, until) = (self.log.tail, self.log.undecided.unwrap_or(0));
        self.batch.give_up(conversation, error, |item| item.tried_within(tail, until));
        let open = self.is_open();
        for mut item in self.lane.drain(open) {
            item.answer.refuse(error);
        }
        if !open {
            return;
        }
        tracing::warn!(%conversation, "the lane is blocked until a put is decided");
        while self.is_open() {
            sleep(Duration::from_millis(crate::chance::within(DECIDE_PAUSE_MS))).await;
            self.patience = Patience::none();
            // What fails is tried again in a moment.
            let _ = self.decide().await;
            while self.batch.is_decided() {
                self.answer().await;
            }
            let _ = self.pay().await;
        }
        self.lane.unblock();
        tracing::info!(%conversation, "the lane is free again");
    }

    fn is_open(&self) -> bool {
        let owes = matches!(&self.log.place, Place::Room(room) if !room.owed.is_empty());
        owes || self.log.undecided.is_some()
    }

    /// Looks whether the undecided put stands; if not, puts the same entry again, which decides it.
    async fn decide(&mut self) -> Result<(), ChatError> {
        if self.log.undecided.is_none() {
            return Ok(());
        }
        self.walk().await?;
        if self.log.undecided.is_none() {
            return Ok(());
        }
        let Some(at) = self.batch.items.iter().position(|item| item.is_new()) else {
            self.log.undecided = None;
            return Ok(());
        };
        if !self.may_append(at) {
            return Ok(());
        }
        let entries = self.entries(&[at]);
        match self.shared.store.append(&self.lane.conversation, &entries).await {
            Ok(0) => self.walk().await,
            Ok(count) => {
                self.stored(&[at], entries, count);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn out_of_touch() -> ChatError {
    let detail = "this server has lost touch with the others, send again with the same ref";
    ChatError::new(ErrorCode::Unavailable, detail)
}
