//! The own entries of the socket map: claimed, repeated, swept, released.
//!
//! **Claim before catch-up**: a socket reads its mailbox only after its claim was tried; where the
//! claim failed it is repeated until it holds, and the mailbox is read again then. **Release only
//! your own**: a release names the claim, so the late goodbye of an old claim removes nothing new.

mod slots;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use slots::Slots;

use super::Chat;
use crate::chance::Hashing;
use crate::directory::SocketEntry;
use crate::hub::{Event, Outbox};
use crate::limits::Limit;
use crate::protocol::{CloseCode, Envelope, SocketId, UserId};

/// How many claims are under way at once when many are repeated.
const CLAIMS_AT_ONCE: usize = 64;
/// After so long without success claims count as refused.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);
/// Every entry is swept once in so many seconds; entries live three times as long.
const SWEEP_SECONDS: usize = 1_200;
/// How long a fresh look at the board may take.
pub(super) const VIEW_PATIENCE: Duration = Duration::from_secs(5);
/// The most releases that wait for Redis; what is beyond ends with its TTL, or by a `gone`.
const RELEASES_MAX: usize = 65_536;
/// How many claims of unknown outcome of a socket are remembered, to be released at its end.
const BEFORE_MAX: usize = 16;
/// The fewest entries swept a second.
const SWEEP_MIN: usize = 16;

/// Room for so many claims that do not hold is kept.
const UNSETTLED_KEPT: usize = 64;

/// A claim of which it is not known that it holds.
#[derive(Debug)]
struct Unsettled {
    since: Instant,
    /// Those before, one of which may stand yet while nothing is known of the newest.
    before: Vec<u64>,
}

impl Unsettled {
    fn now() -> Self {
        Self { since: Instant::now(), before: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Table {
    slots: Slots,
    /// By slot; those that are not here hold.
    unsettled: HashMap<u32, Unsettled, Hashing>,
}

impl Table {
    fn settle(&mut self, at: u32) -> Option<Unsettled> {
        let settled = self.unsettled.remove(&at);
        if self.unsettled.is_empty() && self.unsettled.capacity() > UNSETTLED_KEPT {
            self.unsettled = HashMap::default();
        }
        settled
    }
}

/// The claims of this server's sockets.
#[derive(Debug, Default)]
pub struct Claims {
    next: AtomicU64,
    table: Mutex<Table>,
    /// Claims whose release failed.
    unreleased: Mutex<Vec<(UserId, SocketId, u64)>>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that this process never gave before.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn begin(&self, outbox: &Arc<Outbox>) -> u64 {
        let (number, mut guard) = (self.number(), self.lock());
        let table = &mut *guard;
        let known = table.slots.find(outbox);
        let at = known.unwrap_or_else(|| table.slots.insert(outbox.clone(), number));
        let unsettled = table.unsettled.entry(at).or_insert_with(Unsettled::now);
        if known.is_some()
            && let Some(before) = table.slots.renumber(at, number)
            && unsettled.before.len() < BEFORE_MAX
        {
            unsettled.before.push(before);
        }
        number
    }

    fn holds(&self, outbox: &Outbox, number: u64) {
        let mut table = self.lock();
        if let Some(at) = table.slots.find(outbox)
            && table.slots.get(at).is_some_and(|(_, newest)| newest == number)
        {
            table.settle(at);
        }
    }

    fn end(&self, outbox: &Outbox) -> Option<u64> {
        let mut table = self.lock();
        let at = table.slots.find(outbox)?;
        let number = table.slots.remove(at)?;
        let unsettled = table.settle(at);
        drop(table);
        for before in unsettled.into_iter().flat_map(|unsettled| unsettled.before) {
            self.keep_unreleased(&outbox.who.user, outbox.who.socket, before);
        }
        Some(number)
    }

    /// Whether the socket has claimed and not ended.
    fn stands(&self, outbox: &Outbox) -> bool {
        self.lock().slots.find(outbox).is_some()
    }

    fn keep_unreleased(&self, user: &UserId, socket: SocketId, number: u64) {
        let mut unreleased = self.unreleased.lock().unwrap_or_else(PoisonError::into_inner);
        if unreleased.len() < RELEASES_MAX {
            unreleased.push((user.clone(), socket, number));
        }
    }

    fn unreleased(&self) -> Vec<(UserId, SocketId, u64)> {
        std::mem::take(&mut *self.unreleased.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn without(&self) -> Vec<Arc<Outbox>> {
        let table = self.lock();
        let open = table.unsettled.keys().filter_map(|at| table.slots.get(*at));
        open.map(|(outbox, _)| outbox.clone()).collect()
    }

    /// One whose claim has not held for so long, in spite of all tries.
    fn refused(&self, patience: Duration) -> Option<Arc<Outbox>> {
        let table = self.lock();
        let (at, first) = table.unsettled.iter().min_by_key(|(_, claim)| claim.since)?;
        let (outbox, _) = table.slots.get(*at).filter(|_| first.since.elapsed() >= patience)?;
        Some(outbox.clone())
    }

    fn all(&self) -> Vec<Arc<Outbox>> {
        self.lock().slots.all().cloned().collect()
    }

    /// The next ones to sweep.
    fn round(&self) -> Vec<(Arc<Outbox>, u64)> {
        let mut table = self.lock();
        let mut met = table.slots.sweep(SWEEP_SECONDS, SWEEP_MIN);
        met.retain(|at| !table.unsettled.contains_key(at));
        let claims = met.into_iter().filter_map(|at| table.slots.get(at));
        claims.map(|(outbox, number)| (outbox.clone(), number)).collect()
    }
}

impl Chat {
    /// Claims the map entry of a new socket, and sees to the person's others if there are any.
    pub async fn enter(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        let count = self.claim(outbox).await.unwrap_or(0);
        let pushes = count > usize::from(self.hub.sockets_per_user());
        if count > 1 && !(pushes && self.may_be_dead(outbox).await) {
            self.see_to_others(outbox, true).await;
        }
    }

    /// Whether a socket's token was taken back, or nobody can say: it takes nobody's place then.
    async fn may_be_dead(&self, outbox: &Outbox) -> bool {
        let Some(issued) = outbox.pass.issued() else { return false };
        !matches!(self.is_revoked(&outbox.who.user, issued).await, Ok(false))
    }

    /// Ends the sockets of a person beyond the newest that one may have, wherever they are (the hub
    /// does the same for one server, and while the map does not answer); drops those of dead
    /// servers. One that `enters` is the newest, whatever the servers' clocks say.
    async fn see_to_others(self: &Arc<Self>, outbox: &Arc<Outbox>, enters: bool) {
        let user = &outbox.who.user;
        let Ok(located) = self.directory.locate(std::slice::from_ref(user)).await else { return };
        let mut entries: Vec<SocketEntry> = located.into_iter().flatten().collect();
        let own = entries.iter().position(|entry| entry.socket_id == outbox.who.socket);
        let Some(own) = own.filter(|_| self.is_open(outbox)) else { return };
        if enters {
            // Who has claimed later sees to this one: of two that come together one stays.
            entries.drain(..own);
        }
        // By age: in the map stands first what was claimed last, and an old one may claim again.
        let older = &mut entries[usize::from(enters)..];
        older.sort_unstable_by_key(|entry| Reverse(entry.socket_id));
        let view = self.liveness.view();
        let lives = |entry: &&SocketEntry| view.is_alive(&entry.server, entry.epoch);
        if !entries.iter().all(|entry| lives(&entry)) {
            self.drop_dead(outbox.clone());
        }
        let most = usize::from(self.hub.sockets_per_user());
        for entry in entries.iter().filter(lives).skip(most) {
            let (user, socket) = (user.clone(), entry.socket_id);
            match entry.server == self.me.id {
                true => self.end_socket(&user, socket),
                false => self.publish(&entry.server, Envelope::End { user, socket }),
            }
        }
    }

    /// Claims once more and drops what stands there of dead servers, as a board read judges that
    /// begins only now: a server that was away for a moment may have claimed again since.
    fn drop_dead(self: &Arc<Self>, outbox: Arc<Outbox>) {
        let Some(permit) = self.router.permit() else { return };
        let chat = self.clone();
        tokio::spawn(async move {
            let user = &outbox.who.user;
            let located = chat.directory.locate(std::slice::from_ref(user)).await;
            let view = chat.liveness.view_after(Instant::now(), VIEW_PATIENCE).await;
            if let (Ok(located), Some(view)) = (located, view) {
                let entries = located.into_iter().flatten();
                let dead = entries.filter(|entry| !view.is_alive(&entry.server, entry.epoch));
                let dead: Vec<_> = dead.map(|entry| (entry.socket_id, entry.claim)).collect();
                if chat.is_open(&outbox) && !dead.is_empty() {
                    chat.claim_dropping(&outbox, &dead).await;
                    chat.release_if_closed(&outbox).await;
                }
            }
            drop(permit);
        });
    }

    /// Ends a socket of this server. One that is gone already leaves no entry behind.
    pub(super) fn end_socket(self: &Arc<Self>, user: &UserId, socket: SocketId) {
        match self.hub.of(user).iter().find(|outbox| outbox.who.socket == socket) {
            Some(outbox) => {
                self.metrics.count_limited(Limit::SocketsPerUser.as_str());
                outbox.push(Event::Close(CloseCode::TooManySockets));
            }
            None => self.remove_ghosts(user),
        }
    }

    /// Claims the map entry of a socket, once, and gives how many the person has there now. A claim
    /// that fails is repeated in the background until it holds; the socket then gets
    /// `Event::Reread`.
    pub(super) async fn claim(self: &Arc<Self>, outbox: &Arc<Outbox>) -> Option<usize> {
        self.claim_dropping(outbox, &[]).await
    }

    async fn claim_dropping(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        dead: &[(SocketId, u64)],
    ) -> Option<usize> {
        let number = self.claims.begin(outbox);
        let entry = SocketEntry {
            socket_id: outbox.who.socket,
            server: self.me.id.clone(),
            epoch: self.me.epoch,
            device: outbox.who.device.clone(),
            claim: number,
        };
        let claimed = self.directory.claim(&outbox.who.user, &entry, dead).await;
        if !self.claims.stands(outbox) {
            // The socket ended meanwhile, and its release may have been there first.
            self.release_claim(&outbox.who.user, outbox.who.socket, number).await;
            return None;
        }
        match claimed {
            Ok(count) => {
                self.claims.holds(outbox, number);
                Some(count)
            }
            Err(error) => {
                tracing::debug!(%error, "a claim is repeated");
                self.redis_failed();
                None
            }
        }
    }

    /// Releases the socket's claim, if it still stands.
    pub async fn release(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        if let Some(number) = self.claims.end(outbox) {
            self.release_claim(&outbox.who.user, outbox.who.socket, number).await;
        }
    }

    /// A release that fails is repeated once Redis answers. Until then who follows the entry is
    /// told `gone` here.
    async fn release_claim(&self, user: &UserId, socket: SocketId, number: u64) {
        if let Err(error) = self.directory.release(user, socket, number).await {
            tracing::debug!(%error, "a release is repeated");
            self.redis_failed();
            self.claims.keep_unreleased(user, socket, number);
        }
    }

    /// Releases what could not be released; run by `keeper` while Redis answers.
    pub(super) async fn repeat_releases(&self) {
        let again = |(user, socket, number): (UserId, SocketId, u64)| async move {
            self.release_claim(&user, socket, number).await;
        };
        stream::iter(self.claims.unreleased()).for_each_concurrent(CLAIMS_AT_ONCE, again).await;
    }

    /// Claims again what does not hold; each that holds now reads its mailbox again.
    pub(super) async fn repeat_claims(self: &Arc<Self>) {
        let unclaimed = self.claims.without();
        if !unclaimed.is_empty() {
            self.claim_again(unclaimed, true).await;
        }
    }

    /// Whether the map takes claims. One that is full, or a replica, answers everything else: who
    /// sends would find nobody here, and hold that for the truth.
    pub(super) async fn map_takes_claims(self: &Arc<Self>) -> bool {
        let Some(outbox) = self.claims.refused(CLAIM_PATIENCE) else { return true };
        self.claim_anew(&outbox, true).await || !self.is_open(&outbox)
    }

    /// The caller has all mailboxes read again behind it.
    pub(super) async fn claim_all_again(self: &Arc<Self>) {
        self.claim_again(self.claims.all(), false).await;
    }

    async fn claim_again(self: &Arc<Self>, outboxes: Vec<Arc<Outbox>>, reread: bool) {
        let again = |outbox: Arc<Outbox>| async move {
            self.claim_anew(&outbox, reread).await;
        };
        stream::iter(outboxes).for_each_concurrent(CLAIMS_AT_ONCE, again).await;
    }

    /// Claims for a socket that is still open; whether the map took it.
    async fn claim_anew(self: &Arc<Self>, outbox: &Arc<Outbox>, reread: bool) -> bool {
        let claimed = if self.is_open(outbox) { self.claim(outbox).await } else { None };
        // Those that came while the map took no claims were not counted together.
        if claimed.is_some_and(|count| count > usize::from(self.hub.sockets_per_user())) {
            self.see_to_others(outbox, false).await;
        }
        let holds = claimed.is_some();
        if holds && reread {
            outbox.push(Event::Reread);
        }
        self.release_if_closed(outbox).await;
        holds
    }

    fn is_open(&self, outbox: &Arc<Outbox>) -> bool {
        self.hub.of(&outbox.who.user).iter().any(|known| Arc::ptr_eq(known, outbox))
    }

    /// A socket may close while it is claimed, and its own release come before that claim.
    async fn release_if_closed(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        if !self.is_open(outbox) {
            self.release(outbox).await;
        }
    }

    /// One second's share of the sweep: what stands is extended, what is missing is claimed.
    pub(super) async fn sweep(self: &Arc<Self>) {
        for (outbox, number) in self.claims.round() {
            let who = &outbox.who;
            match self.directory.extend(&who.user, who.socket, number).await {
                Ok(true) => {}
                Ok(false) => self.claim_again(vec![outbox], true).await,
                Err(_) => return self.redis_failed(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::bus::{Bus, Heard, Subscription};
    use crate::chat::testing::{Part, board_row, user};
    use crate::directory::Directory;
    use crate::hub::Who;
    use crate::limits::{Limits, Settings};
    use crate::protocol::{DeviceId, Epoch, ProcessId};
    use crate::store::{Record, Store};

    fn outbox(socket: u128) -> Arc<Outbox> {
        let user = UserId::parse("a").unwrap();
        let (device, socket) = (DeviceId::plain(), SocketId(socket));
        Arc::new(Outbox::new(Who { user, device, socket }))
    }

    #[test]
    fn a_newer_claim_is_not_taken_for_the_older() {
        let claims = Claims::default();
        let socket = outbox(1);
        let first = claims.begin(&socket);
        let second = claims.begin(&socket);
        assert!(second > first);
        claims.holds(&socket, first);
        assert_eq!(claims.without().len(), 1, "the answer to the first says nothing of the second");
        claims.holds(&socket, second);
        assert!(claims.without().is_empty());
        assert_eq!(claims.end(&socket), Some(second));
        assert_eq!(claims.end(&socket), None);
    }

    #[test]
    fn a_claim_that_may_stand_yet_is_released_too() {
        let claims = Claims::default();
        let socket = outbox(1);
        let first = claims.begin(&socket);
        claims.holds(&socket, first);
        let second = claims.begin(&socket);
        let third = claims.begin(&socket);
        assert_eq!(claims.end(&socket), Some(third));
        let unreleased: Vec<_> = claims.unreleased().into_iter().map(|(.., n)| n).collect();
        assert_eq!(unreleased, [first, second], "nobody knows whether the others came to the map");
    }

    const AHEAD: u128 = u128::MAX / 2;

    /// A part, and ws3, which lives, with what it is told.
    async fn beside_ws3(limits: Arc<Limits>) -> (Part, Subscription) {
        let part = Part::limited(limits).await;
        part.board.beat(&board_row("ws3", 1), None).await.unwrap();
        part.chat.liveness.view_after(Instant::now(), VIEW_PATIENCE).await.unwrap();
        let ws3 = part.ports.subscribe(&ProcessId::parse("ws3").unwrap()).await.unwrap();
        (part, ws3)
    }

    async fn claims_at_ws3(part: &Part, socket: u128) {
        let entry = SocketEntry {
            socket_id: SocketId(socket),
            server: ProcessId::parse("ws3").unwrap(),
            epoch: Epoch(1),
            device: DeviceId::plain(),
            claim: 1,
        };
        part.ports.claim(&user("a"), &entry, &[]).await.unwrap();
    }

    /// The sockets that ws3 is told to end.
    async fn ended(ws3: &mut Subscription) -> Vec<u128> {
        let heard = tokio::time::timeout(Duration::from_millis(200), ws3.recv()).await;
        let Ok(Some(Heard::Batch(batch))) = heard else { return Vec::new() };
        let ended = |envelope: &Arc<Envelope>| match &**envelope {
            Envelope::End { socket, .. } => Some(socket.0),
            _ => None,
        };
        batch.iter().filter_map(ended).collect()
    }

    /// An outage has all sockets claimed again, in any order; and the others' clock may be ahead.
    #[tokio::test]
    async fn the_oldest_ends_whoever_claimed_first() {
        let (part, mut ws3) = beside_ws3(Limits::none()).await;
        let most = u128::from(part.chat.hub.sockets_per_user());
        for socket in (1..most).chain([0]) {
            claims_at_ws3(&part, AHEAD + socket).await;
        }
        part.chat.enter(&part.enter("a", "default")).await;
        assert_eq!(ended(&mut ws3).await, [AHEAD]);
    }

    /// It is found to be dead once its mailbox is read; until then it takes nobody's place.
    #[tokio::test]
    async fn a_dead_token_ends_no_socket_of_its_person() {
        let (part, mut ws3) = beside_ws3(Limits::none()).await;
        let most = u128::from(part.chat.hub.sockets_per_user());
        for socket in 0..most {
            claims_at_ws3(&part, AHEAD + socket).await;
        }
        let revoked = Record::Revoked(user("a"), 1_790_000_000_000);
        part.ports.write(revoked).await.unwrap();
        for (issued, ends) in [(1_789_999_999, None), (1_790_000_001, Some(AHEAD))] {
            let outbox = part.enter("a", "default");
            outbox.pass.renew(issued, u64::MAX);
            part.chat.enter(&outbox).await;
            assert_eq!(ended(&mut ws3).await.first().copied(), ends, "{issued}");
        }
    }

    /// Both have claimed before either looks: the one that claimed later sees to the other.
    #[tokio::test]
    async fn of_two_that_come_together_one_stays() {
        let one = Settings { sockets_per_user: Some(1), ..Settings::USUAL };
        let (part, mut ws3) = beside_ws3(Limits::new(one)).await;
        let own = part.enter("a", "default");
        part.chat.claim(&own).await;
        claims_at_ws3(&part, 1).await;
        part.chat.see_to_others(&own, true).await;
        assert_eq!(ended(&mut ws3).await, [] as [u128; 0]);
        part.chat.claim(&own).await;
        part.chat.see_to_others(&own, true).await;
        assert_eq!(ended(&mut ws3).await, [1]);
        assert_eq!(part.chat.hub.of(&user("a")).len(), 1);
    }

    #[test]
    fn the_sweep_comes_to_everyone_and_forgets_who_left() {
        let claims = Claims::default();
        let sockets: Vec<_> = (0..40).map(outbox).collect();
        for socket in &sockets {
            claims.holds(socket, claims.begin(socket));
        }
        claims.end(&sockets[3]);
        let mut seen: Vec<_> = (0..3).flat_map(|_| claims.round()).collect();
        seen.sort_by_key(|(outbox, _)| outbox.who.socket);
        seen.dedup_by_key(|(outbox, _)| outbox.who.socket);
        assert_eq!((seen.len(), claims.all().len()), (39, 39));
    }

    #[test]
    fn churn_neither_fills_the_sweep_nor_delays_who_stays() {
        let claims = Claims::default();
        let enter = |socket| {
            let socket = outbox(socket);
            claims.holds(&socket, claims.begin(&socket));
            socket
        };
        let stay: Vec<_> = (0..SWEEP_MIN as u128).map(enter).collect();
        for second in 1..100 {
            for visitor in second * 1_000..second * 1_000 + 500 {
                claims.end(&enter(visitor));
            }
            assert_eq!(claims.round().len(), SWEEP_MIN, "all who stay, every second");
            assert_eq!(claims.all().len(), stay.len());
        }
        assert!(claims.lock().unsettled.is_empty(), "what holds costs a slot and nothing else");
    }
}
