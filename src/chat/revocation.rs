//! Tokens that were taken back: a person's tokens made up to some moment are dead.
//!
//! The moment stands in the person's partition of the store and only rises. A connecting socket
//! meets it in the mailbox that it reads anyway; the API, and whoever renews the token of a socket,
//! read it by itself. That nothing was taken back is remembered for a moment; that something was,
//! for as long as there is room, since it stays so: a dead token is then refused at the door.
//! **The store decides:** what the bus and the board say of a revocation only makes a server look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Chat, ChatError};
use crate::board::SlowHint;
use crate::chance::Hashing;
use crate::hub::{Event, Outbox};
use crate::protocol::{CloseCode, ConversationId, Envelope, ErrorCode, Timestamp, UserId, answer};
use crate::store::{Record, RecordPart, StoreError};
use crate::telemetry::Metrics;

/// How long it counts that nothing was taken back.
const FRESH: Duration = Duration::from_secs(2);
/// Of how many people it is remembered.
const KNOWN_MAX: usize = 16_384;
/// What the owner of a dead token is told.
pub(super) const DETAIL: &str = "the token was revoked, sign in again";

/// Whether a token made at `issued` (in seconds) is dead. One that was made in the second of the
/// revocation is: tokens don't tell their time more exactly.
pub(super) fn covers(until: Option<Timestamp>, issued: Option<u64>) -> bool {
    until.zip(issued).is_some_and(|(until, issued)| issued <= until / 1_000)
}

type Known = HashMap<UserId, (Instant, Option<Timestamp>), Hashing>;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    known: Mutex<Known>,
}

impl Revocations {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, user: &UserId) -> Option<Option<Timestamp>> {
        let known = self.lock();
        known.get(user).filter(|(read, _)| read.elapsed() < FRESH).map(|(_, until)| *until)
    }

    /// Whether it is known already that the token is dead.
    fn is_dead(&self, user: &UserId, issued: u64) -> bool {
        self.lock().get(user).is_some_and(|(_, until)| covers(*until, Some(issued)))
    }

    /// `read` is when the read began: what was written since is not in it.
    fn put(&self, user: &UserId, read: Instant, until: Option<Timestamp>) {
        let mut known = self.lock();
        let fresh = |(read, _): &(Instant, Option<Timestamp>)| read.elapsed() < FRESH;
        if known.len() >= KNOWN_MAX {
            known.retain(|_, entry| fresh(entry) || entry.1.is_some());
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, entry| fresh(entry));
        }
        if known.len() < KNOWN_MAX {
            // It only rises, and an earlier read may end later.
            let before = known.get(user).and_then(|(_, until)| *until);
            known.insert(user.clone(), (read, until.max(before)));
        }
    }

    /// What is remembered is to be read again.
    fn doubt(&self, user: &UserId) {
        let mut known = self.lock();
        if known.get(user).is_some_and(|(_, until)| until.is_none()) {
            known.remove(user);
        }
    }
}

impl Chat {
    /// Takes back all tokens of a person that were made so far: ends the person's sockets on all
    /// servers, and gives the moment. Every living process is told over the bus, and over the board
    /// too, which is slower and needs no Redis.
    pub async fn revoke(self: &Arc<Self>, user: &UserId) -> Result<Timestamp, ChatError> {
        let until = (self.clock)();
        self.store.write(Record::Revoked(user.clone(), until)).await?;
        for row in &self.liveness.view().alive {
            if row.id != self.me.id {
                self.publish(&row.id, Envelope::Revoked { user: user.clone(), until });
            }
        }
        // A note to oneself: see `hear_slow_hint`. This process hears it as well.
        let conversation = ConversationId::direct(user, user);
        self.put_on_board(SlowHint { user: Some(user.clone()), conversation, seq: 1 });
        Ok(until)
    }

    /// Whether it is known here, without asking, that the person's token was taken back.
    pub fn is_known_dead(&self, user: &UserId, issued: u64) -> bool {
        self.revocations.is_dead(user, issued)
    }

    /// A mailbox said so.
    pub(super) fn note_revoked(&self, user: &UserId, until: Option<Timestamp>) {
        self.revocations.put(user, Instant::now(), until);
    }

    /// Whether the person's token made at `issued` (in seconds) was taken back.
    pub async fn is_revoked(&self, user: &UserId, issued: u64) -> Result<bool, ChatError> {
        if self.is_known_dead(user, issued) {
            return Ok(true);
        }
        let until = match self.revocations.get(user) {
            Some(until) => until,
            None => self.read_revoked(user).await?,
        };
        Ok(covers(until, Some(issued)))
    }

    async fn read_revoked(&self, user: &UserId) -> Result<Option<Timestamp>, StoreError> {
        let begun = Instant::now();
        let records = self.store.records(RecordPart::Revoked(user.clone())).await?;
        let until = records.into_iter().find_map(|record| match record {
            Record::Revoked(_, until) => Some(until),
            _ => None,
        });
        self.revocations.put(user, begun, until);
        Ok(until)
    }

    /// Somebody says that tokens of this person were taken back: looks, ends those sockets, and
    /// knows the dead tokens from now on.
    pub(super) fn hear_revoked(&self, user: &UserId) {
        self.revocations.doubt(user);
        let Some(chat) = self.this.upgrade() else { return };
        // In turn with all other reads, each socket meets it in its mailbox.
        let in_turn = || self.hub.of(user).iter().for_each(|outbox| outbox.push(Event::Reread));
        let Some(permit) = self.router.permit() else { return in_turn() };
        let user = user.clone();
        tokio::spawn(async move {
            let _permit = permit;
            match chat.read_revoked(&user).await {
                Ok(until) => {
                    let dead = |outbox: &&Arc<Outbox>| covers(until, outbox.pass.issued());
                    let outboxes = chat.hub.of(&user);
                    outboxes.iter().filter(dead).for_each(|outbox| chat.turn_away(outbox, DETAIL));
                }
                Err(error) => {
                    tracing::warn!(%error, "a revocation is looked for again");
                    chat.hub.of(&user).iter().for_each(|outbox| outbox.push(Event::Reread));
                }
            }
        });
    }

    /// Ends a socket whose token no longer holds.
    pub fn turn_away(&self, outbox: &Outbox, detail: &str) {
        let code = ErrorCode::Unauthorized;
        Metrics::count(&self.metrics.refused, code.as_str());
        outbox.answer(answer::error(code, detail, None, None));
        outbox.push(Event::Close(CloseCode::Unauthorized));
    }
}

#[cfg(test)]
mod tests;
