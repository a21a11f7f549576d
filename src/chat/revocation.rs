//! Tokens that were taken back: a person's tokens made up to some moment are dead.
//!
//! The moment stands in the person's partition of the store and only rises. A connecting socket
//! meets it in the mailbox that it reads anyway; the API, whoever renews the token of a socket, and
//! a socket by a service's token read it by itself. That nothing was taken back is remembered for a
//! moment; that something was, for as long as there is room, since it stays so: a dead token is
//! then refused at the door. **The store decides:** what the bus and the board say of a revocation
//! only makes a server look. While it can't, the person's sockets are as they were before their
//! mailboxes were read: what is said to them waits, since the token may be a thief's.
//!
//! A token tells its time by the clock of whoever signed it. Of the sockets that are open when a
//! server first hears of a revocation those end too whose tokens are a little younger than it:
//! their signer's clock may be ahead. One that was signed since opens another.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::catchup::{REFUSED_MS, RETRY_MS};
use super::{Chat, ChatError};
use crate::board::SlowHint;
use crate::chance::{self, Hashing};
use crate::hub::{Event, Outbox};
use crate::protocol::{
    CloseCode, ConversationId, Envelope, ErrorCode, LEEWAY_SECONDS, TOKEN_REVOKED, Timestamp,
    UserId, answer,
};
use crate::store::{Record, RecordPart, StoreError};
use crate::telemetry::Metrics;

/// How long it counts that nothing was taken back.
const FRESH: Duration = Duration::from_secs(2);
/// Of how many people it is remembered.
const KNOWN_MAX: usize = 16_384;
/// How many people are looked at, because somebody said so, at a time.
const LOOKS_MAX: usize = 256;
/// How long a look may take before the sockets are told less.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);

/// Whether a token made at `issued` (in seconds) is dead. One that was made in the second of the
/// revocation is: tokens don't tell their time more exactly.
fn covers(until: Option<Timestamp>, issued: Option<u64>) -> bool {
    until.zip(issued).is_some_and(|(until, issued)| issued <= until / 1_000)
}

/// What these records say of it.
pub(super) fn until(records: Vec<Record>) -> Option<Timestamp> {
    records.into_iter().find_map(|record| match record {
        Record::Revoked(_, until) => Some(until),
        _ => None,
    })
}

/// What was read of a person.
#[derive(Debug, Clone, Copy)]
struct Read {
    at: Instant,
    until: Option<Timestamp>,
    /// Up to here the sockets that there were have been ended.
    ended: Option<Timestamp>,
}

impl Read {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH
    }
}

type Known = HashMap<UserId, Read, Hashing>;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    known: Mutex<Known>,
    /// At whom is being looked, and whether that is to be done once more.
    looks: Mutex<HashMap<UserId, bool, Hashing>>,
}

/// Whether somebody is looked at.
#[derive(Debug, PartialEq, Eq)]
enum Looks {
    /// From now on.
    Begin,
    /// Already, and once more after that.
    GoOn,
    /// Not now: too many are.
    TooMany,
}

/// A look at a person, which is under way until it is dropped.
struct Look {
    chat: Weak<Chat>,
    user: UserId,
}

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(chat) = self.chat.upgrade() {
            chat.revocations.looks().remove(&self.user);
        }
    }
}

impl Revocations {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looks(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, bool, Hashing>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_look(&self, user: &UserId) -> Looks {
        let mut looks = self.looks();
        if let Some(again) = looks.get_mut(user) {
            *again = true;
            return Looks::GoOn;
        }
        if looks.len() >= LOOKS_MAX {
            return Looks::TooMany;
        }
        looks.insert(user.clone(), false);
        Looks::Begin
    }

    /// Whether somebody has asked for another look since this was asked.
    fn take_again(&self, user: &UserId) -> bool {
        self.looks().get_mut(user).is_some_and(std::mem::take)
    }

    /// Where nobody has, the look is over.
    fn is_over(&self, user: &UserId) -> bool {
        let mut looks = self.looks();
        let again = looks.get_mut(user).is_some_and(std::mem::take);
        if !again {
            looks.remove(user);
        }
        !again
    }

    fn get(&self, user: &UserId) -> Option<Option<Timestamp>> {
        self.lock().get(user).filter(|read| read.is_fresh()).map(|read| read.until)
    }

    /// Whether it is known already that the token is dead.
    fn is_dead(&self, user: &UserId, issued: u64) -> bool {
        self.lock().get(user).is_some_and(|read| covers(read.until, Some(issued)))
    }

    /// `at` is when the read began: what was written since is not in it.
    fn put(&self, user: &UserId, at: Instant, until: Option<Timestamp>) {
        let mut known = self.lock();
        if known.len() >= KNOWN_MAX {
            known.retain(|_, read| read.is_fresh() || read.until.is_some());
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, read| read.is_fresh());
        }
        if known.len() < KNOWN_MAX {
            // It only rises, and an earlier read may end later.
            let before = known.get(user);
            let until = until.max(before.and_then(|read| read.until));
            let ended = before.and_then(|read| read.ended);
            known.insert(user.clone(), Read { at, until, ended });
        }
    }

    /// Whether sockets are to be looked for by this moment: once by each.
    fn is_to_end(&self, user: &UserId, until: Timestamp) -> bool {
        match self.lock().get_mut(user) {
            Some(read) if read.ended >= Some(until) => false,
            Some(read) => {
                read.ended = Some(until);
                true
            }
            None => true,
        }
    }

    /// What is remembered is to be read again.
    fn doubt(&self, user: &UserId) {
        let mut known = self.lock();
        if known.get(user).is_some_and(|read| read.until.is_none()) {
            known.remove(user);
        }
    }
}

impl Chat {
    /// Takes back all tokens of a person that were made so far, and as many seconds on as `margin`:
    /// ends the sockets that they have opened on all servers, and gives the moment.
    pub async fn revoke(
        self: &Arc<Self>,
        user: &UserId,
        margin: u64,
    ) -> Result<Timestamp, ChatError> {
        let until = (self.clock)() + margin * 1_000;
        let (chat, user) = (self.clone(), user.clone());
        // By itself: whoever asks may leave in the middle, and what is stored has to be told.
        let revoking = tokio::spawn(async move {
            let written = chat.store.write(Record::Revoked(user.clone(), until)).await;
            // It may be stored where nobody could say so, and who is told looks.
            chat.tell_of_revocation(&user, until);
            written
        });
        let failed = |_| ChatError::new(ErrorCode::Unavailable, "it failed, ask again");
        revoking.await.map_err(failed)??;
        Ok(until)
    }

    /// Every living process is told over the bus, and over the board too, which is slower and needs
    /// no Redis.
    fn tell_of_revocation(&self, user: &UserId, until: Timestamp) {
        for row in &self.liveness.view().alive {
            if row.id != self.me.id {
                self.publish(&row.id, Envelope::Revoked { user: user.clone(), until });
            }
        }
        // A note to oneself: see `hear_slow_hint`. This process hears it as well.
        let conversation = ConversationId::direct(user, user);
        self.put_on_board(SlowHint { user: Some(user.clone()), conversation, seq: 1 });
    }

    /// Whether it is known here, without asking, that the person's token was taken back.
    pub fn is_known_dead(&self, user: &UserId, issued: u64) -> bool {
        self.revocations.is_dead(user, issued)
    }

    /// Whether the token of a socket was taken back, `until` being what the mailbox says: of the
    /// person's tokens, and not of a service that acts for the person.
    pub(super) async fn is_taken_back(
        &self,
        outbox: &Outbox,
        until: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        if covers(until, outbox.pass.issued()) {
            self.revocations.put(&outbox.who.user, Instant::now(), until);
            return Ok(true);
        }
        match outbox.acting() {
            Some(acting) => self.look_up(&acting.user, acting.issued).await,
            None => Ok(false),
        }
    }

    /// Whether the person's token made at `issued` (in seconds) was taken back.
    pub async fn is_revoked(&self, user: &UserId, issued: u64) -> Result<bool, ChatError> {
        Ok(self.look_up(user, issued).await?)
    }

    async fn look_up(&self, user: &UserId, issued: u64) -> Result<bool, StoreError> {
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
        let until = until(records);
        self.revocations.put(user, begun, until);
        Ok(until)
    }

    /// Somebody says that tokens of this person were taken back: looks, ends those sockets, and
    /// knows the dead tokens from now on.
    pub(super) fn hear_revoked(&self, user: &UserId) {
        self.revocations.doubt(user);
        match self.revocations.begin_look(user) {
            Looks::Begin => {
                let look = Look { chat: self.this.clone(), user: user.clone() };
                tokio::spawn(look.until_seen());
            }
            Looks::GoOn => {}
            Looks::TooMany => self.doubt_sockets(user),
        }
    }

    /// Reads it. Where that takes long, the sockets are told nothing meanwhile.
    async fn look(
        &self,
        user: &UserId,
        doubted: &mut bool,
    ) -> Result<Option<Timestamp>, StoreError> {
        let mut reading = pin!(self.read_revoked(user));
        if let Ok(read) = timeout(LOOK_PATIENCE, &mut reading).await {
            return read;
        }
        if !std::mem::replace(doubted, true) {
            self.doubt_sockets(user);
        }
        reading.await
    }

    /// Nobody can say whether the tokens of these sockets hold: each finds out, in turn with all
    /// other reads, before anything more is told to it.
    fn doubt_sockets(&self, user: &UserId) {
        let by_token = self.opened_by(user).into_iter().filter(|(_, issued)| issued.is_some());
        by_token.for_each(|(outbox, _)| outbox.push(Event::Doubt));
    }

    /// Ends what tokens made up to `until` have opened, and those that a clock which is ahead may
    /// have put behind it.
    fn end_sockets(&self, user: &UserId, until: Timestamp) {
        let until = Some(until + LEEWAY_SECONDS * 1_000);
        for (outbox, issued) in self.opened_by(user) {
            if covers(until, issued) {
                self.turn_away(&outbox, TOKEN_REVOKED);
            }
        }
    }

    /// A person's sockets, and those that the person, a service, has opened for others; and when
    /// the token of each was made.
    fn opened_by(&self, user: &UserId) -> Vec<(Arc<Outbox>, Option<u64>)> {
        let of_others = self.hub.all().into_iter().filter_map(|outbox| {
            let acting = outbox.acting().filter(|acting| acting.user == *user)?;
            Some((outbox, Some(acting.issued)))
        });
        let own = self.hub.of(user).into_iter().map(|outbox| {
            let issued = outbox.pass.issued();
            (outbox, issued)
        });
        own.chain(of_others).collect()
    }

    /// Ends a socket whose token no longer holds.
    pub fn turn_away(&self, outbox: &Outbox, detail: &str) {
        let code = ErrorCode::Unauthorized;
        Metrics::count(&self.metrics.refused, code.as_str());
        outbox.answer(answer::error(code, detail, None, None));
        outbox.push(Event::Close(CloseCode::Unauthorized));
    }
}

impl Look {
    /// Looks until the store has answered, beside all turns: it is one item.
    async fn until_seen(self) {
        let user = &self.user;
        let mut doubted = false;
        while let Some(chat) = self.chat.upgrade() {
            let error = match chat.look(user, &mut doubted).await {
                Ok(until) => {
                    let until = until.filter(|until| chat.revocations.is_to_end(user, *until));
                    if let Some(until) = until {
                        chat.end_sockets(user, until);
                    }
                    if chat.revocations.is_over(user) {
                        return;
                    }
                    doubted = false;
                    continue;
                }
                Err(error) => error,
            };
            // Sockets that are opened from now on look for themselves.
            if chat.revocations.take_again(user) || !doubted {
                tracing::warn!(%error, "a revocation is looked for again");
                chat.doubt_sockets(user);
                doubted = true;
            }
            drop(chat);
            let pause = if error.retryable() { RETRY_MS } else { REFUSED_MS };
            sleep(Duration::from_millis(chance::within(pause))).await;
        }
    }
}

#[cfg(test)]
mod tests;
