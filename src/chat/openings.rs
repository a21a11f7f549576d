//! New conversations: so many an hour, and so many in all.
//!
//! How many somebody has shows only in the whole mailbox. It is counted when a conversation is
//! opened, which is rare by the first limit, and remembered for an hour. So several processes may
//! together let somebody go over by what they open within that hour; nobody needs it exactly.
//!
//! **Invariants.** Nothing is read for whoever could not pay, those who are being looked at for the
//! same payer counted as paid; and all that was read is paid for: an opening once it is taken, one
//! that somebody has no room for like one. What was paid for is not paid again when it is tried
//! again within the hour. And nobody is kept from opening anything by what others did: direct
//! conversations and rooms are counted apart, others fill half of one's rooms, and whoever brings
//! somebody into a room pays for it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{Chat, ChatError};
use crate::chance::Hashing;
use crate::limits::{Key, Limit, Over};
use crate::protocol::{ConversationId, ErrorCode, UserId};
use crate::store::MailboxPart;

/// How long something is remembered.
const AGE_MAX: Duration = Duration::from_secs(3_600);
/// How many counts, and how many openings that were paid for, are remembered.
const KEPT_MAX: usize = 16_384;
/// How many mailboxes are counted at once for a room with many members.
const COUNTS_AT_ONCE: usize = 16;

/// What is remembered by key, each for an hour; where there are too many the oldest goes.
#[derive(Debug)]
struct Recent<V> {
    kept: HashMap<Key, (V, Instant), Hashing>,
    /// Each key once, oldest first.
    order: VecDeque<Key>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { kept: HashMap::default(), order: VecDeque::new() }
    }
}

impl<V> Recent<V> {
    fn get(&mut self, key: Key, now: Instant) -> Option<&mut V> {
        let (value, since) = self.kept.get_mut(&key)?;
        (now.duration_since(*since) < AGE_MAX).then_some(value)
    }

    fn put(&mut self, key: Key, value: V, now: Instant) {
        while let Some(oldest) = self.order.front() {
            let since = self.kept.get(oldest).map(|(_, since)| now.duration_since(*since));
            if self.order.len() < KEPT_MAX && since.is_some_and(|since| since < AGE_MAX) {
                break;
            }
            self.kept.remove(oldest);
            self.order.pop_front();
        }
        if self.kept.insert(key, (value, now)).is_none() {
            self.order.push_back(key);
        }
    }
}

/// How many conversations somebody has.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    direct: u32,
    rooms: u32,
}

impl Count {
    fn add(&mut self, room: bool) {
        let count = if room { &mut self.rooms } else { &mut self.direct };
        *count = count.saturating_add(1);
    }
}

/// What people had when somebody looked and have opened since, and which openings were paid for.
#[derive(Debug, Default)]
pub(super) struct Openings {
    counts: Mutex<Recent<Count>>,
    paid: Mutex<Recent<()>>,
    /// By payer, what the looks that are under way will cost.
    looks: Mutex<HashMap<Key, u64, Hashing>>,
}

/// What a look that is under way will cost its payer.
struct Look<'a> {
    openings: &'a Openings,
    payer: Key,
    units: u64,
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut looks = self.openings.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut of_payer) = looks.entry(self.payer) {
            *of_payer.get_mut() -= self.units;
            if *of_payer.get() == 0 {
                of_payer.remove();
            }
        }
    }
}

fn lock<V>(recent: &Mutex<Recent<V>>) -> MutexGuard<'_, Recent<V>> {
    // Each change leaves it whole.
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chat {
    /// Whether openings have a limit at all.
    pub(super) fn limits_openings(&self) -> bool {
        let settings = self.limits.settings();
        settings.conversations.is_some() || settings.new_conversations.is_some()
    }

    /// Whether `from` may open a direct conversation with `to`, and both have room for it.
    pub(super) async fn may_open_one(
        &self,
        from: &UserId,
        to: Option<&UserId>,
    ) -> Result<(), ChatError> {
        let place = self.limits.key(&(from, to));
        if !self.limits_openings() || self.is_paid(place) {
            return Ok(());
        }
        let _look = self.look_into(from, 1)?;
        let both = || [from].into_iter().chain(to.filter(|to| *to != from));
        if let Some(max) = self.limits.settings().conversations {
            for user in both() {
                self.pays_for_looking(from, self.has_room(user, max, false).await)?;
            }
        }
        self.pay(from, &[place])?;
        both().for_each(|user| self.one_more(user, false));
        Ok(())
    }

    /// Whether `caller` may have these join a room. If it `costs`, each is one, all in one go.
    pub(super) async fn may_bring(
        &self,
        caller: &UserId,
        room: &ConversationId,
        users: &[&UserId],
        costs: bool,
    ) -> Result<(), ChatError> {
        let place = |user: &UserId| self.limits.key(&(caller, room, user));
        let new = users.iter().copied().filter(|user| !self.is_paid(place(user)));
        let new: Vec<&UserId> = new.collect();
        if !self.limits_openings() || new.is_empty() {
            return Ok(());
        }
        let look = costs.then(|| self.look_into(caller, new.len() as u64));
        let _look = look.transpose()?;
        if let Some(max) = self.limits.settings().conversations {
            for some in new.chunks(COUNTS_AT_ONCE) {
                let all = some.iter().map(|user| {
                    let bound = if *user == caller { max } else { max.div_ceil(2) };
                    self.has_room(user, bound, true)
                });
                let all = try_join_all(all).await.map(|_| ());
                if costs {
                    self.pays_for_looking(caller, all)?;
                } else {
                    all?;
                }
            }
        }
        if costs {
            let places: Vec<Key> = new.iter().map(|user| place(user)).collect();
            self.pay(caller, &places)?;
        }
        new.iter().for_each(|user| self.one_more(user, true));
        Ok(())
    }

    fn is_paid(&self, place: Key) -> bool {
        lock(&self.openings.paid).get(place, Instant::now()).is_some()
    }

    /// Asked for before any mailbox is read: whoever is over the limit is to cost no reads, not by
    /// many tries at once either. It counts until it is dropped: when it has been paid for.
    fn look_into(&self, payer: &UserId, units: u64) -> Result<Look<'_>, ChatError> {
        let payer = self.limits.key(payer);
        let mut looks = self.openings.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = looks.get(&payer).copied().unwrap_or(0);
        let left = self.limits.is_left(Limit::NewConversations, payer, ahead, units);
        left.map_err(|over| self.over(over))?;
        looks.insert(payer, ahead + units);
        Ok(Look { openings: &self.openings, payer, units })
    }

    /// A try that was refused for want of room has cost reads, and so costs one: or it could be
    /// made over and over.
    fn pays_for_looking<T>(
        &self,
        payer: &UserId,
        looked: Result<T, ChatError>,
    ) -> Result<T, ChatError> {
        if looked.as_ref().is_err_and(|refused| refused.code == ErrorCode::RateLimited) {
            let (payer, now) = (self.limits.key(payer), Instant::now());
            let _ = self.limits.take(Limit::NewConversations, payer, 1, now);
        }
        looked
    }

    /// Takes what all of these cost, or nothing.
    fn pay(&self, payer: &UserId, places: &[Key]) -> Result<(), ChatError> {
        let (payer, now) = (self.limits.key(payer), Instant::now());
        let taken = self.limits.take(Limit::NewConversations, payer, places.len() as u64, now);
        taken.map_err(|over| self.over(over))?;
        let mut paid = lock(&self.openings.paid);
        places.iter().for_each(|place| paid.put(*place, (), now));
        Ok(())
    }

    fn one_more(&self, user: &UserId, room: bool) {
        let who = self.limits.key(user);
        if let Some(count) = lock(&self.openings.counts).get(who, Instant::now()) {
            count.add(room);
        }
    }

    async fn has_room(&self, user: &UserId, max: u32, room: bool) -> Result<(), ChatError> {
        let count = self.conversations_of(user).await?;
        match (if room { count.rooms } else { count.direct }) < max {
            true => Ok(()),
            false => Err(self.over(Over::for_long(Limit::Conversations))),
        }
    }

    /// How many conversations somebody has: mostly the first page of the mailbox shows it.
    async fn conversations_of(&self, user: &UserId) -> Result<Count, ChatError> {
        let (who, now) = (self.limits.key(user), Instant::now());
        if let Some(count) = lock(&self.openings.counts).get(who, now) {
            return Ok(*count);
        }
        let (mut count, mut after) = (Count::default(), None);
        loop {
            let part = MailboxPart::Page { after, consistent: false };
            let page = self.store.mailbox(user, part).await?;
            page.rows.iter().for_each(|row| count.add(row.conversation.is_room()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        lock(&self.openings.counts).put(who, count, now);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures_util::future::join_all;

    use super::*;
    use crate::chat::testing::{Part, user};
    use crate::limits::{Limits, Rate, Settings};
    use crate::protocol::ConversationId;
    use crate::store::{Raise, Store};

    async fn part(settings: Settings) -> Part {
        Part::limited(Limits::new(settings)).await
    }

    async fn meets(part: &Part, one: &str, other: &str) {
        let conversation = ConversationId::direct(&user(one), &user(other));
        let raise = Raise { last: Some(1), ..Raise::default() };
        part.ports.raise(&user(one), &conversation, &raise).await.unwrap();
    }

    async fn opens(part: &Part, from: &str, to: &str) -> Result<(), Option<u64>> {
        let may = part.chat.may_open_one(&user(from), Some(&user(to))).await;
        may.map_err(|error| error.retry_after_ms)
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_an_hour() {
        let rate = Some(Rate::new(2, 2));
        let part = part(Settings { new_conversations: rate, ..Settings::default() }).await;
        assert_eq!([opens(&part, "a", "b").await, opens(&part, "a", "c").await], [Ok(()); 2]);
        let wait = opens(&part, "a", "d").await.unwrap_err().unwrap();
        assert!((1_799_000..=1_800_000).contains(&wait), "{wait}");
        assert_eq!(opens(&part, "b", "d").await, Ok(()), "another one");
        tokio::time::advance(Duration::from_millis(wait)).await;
        assert_eq!(opens(&part, "a", "d").await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_in_all_for_both() {
        let part = part(Settings { conversations: Some(3), ..Settings::default() }).await;
        for other in ["b", "c"] {
            meets(&part, "a", other).await;
        }
        assert_eq!(opens(&part, "a", "d").await, Ok(()));
        assert_eq!(opens(&part, "a", "e").await, Err(Some(3_600_000)), "what was opened counts");
        assert_eq!(opens(&part, "f", "a").await, Err(Some(3_600_000)), "the other's mailbox too");
        assert_eq!(opens(&part, "f", "f").await, Ok(()));
        // The count is of an hour ago: by then nothing was stored for d.
        tokio::time::advance(AGE_MAX).await;
        assert_eq!(opens(&part, "a", "e").await, Ok(()));
    }

    /// Time is paused: it goes on once all have asked.
    #[tokio::test(start_paused = true)]
    async fn many_at_once_cost_no_more_than_what_is_left() {
        let (rate, conversations) = (Some(Rate::new(3, 3)), Some(10));
        let settings = Settings { new_conversations: rate, conversations, ..Settings::default() };
        let part = part(settings).await;
        assert_eq!([opens(&part, "a", "x").await, opens(&part, "a", "y").await], [Ok(()); 2]);
        part.ports.reads_take_ms.store(10, Ordering::Relaxed);
        part.ports.trace();
        let names: Vec<String> = (0..200).map(|number| format!("user-{number}")).collect();
        let tries = join_all(names.iter().map(|name| opens(&part, "a", name))).await;
        assert_eq!(tries.iter().filter(|may| may.is_ok()).count(), 1);
        let told = tries.iter().filter_map(|may| may.err());
        assert!(told.flatten().all(|wait| (1_190_000..=1_200_000).contains(&wait)), "{tries:?}");
        let reads = part.ports.trace().iter().filter(|call| *call == "mailbox").count();
        assert_eq!(reads, 1, "of the one, since a's is known");
        assert!(part.chat.openings.looks.lock().unwrap().is_empty());
    }

    /// What was kept for a look comes back where the store does not answer.
    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_costs_nothing() {
        let (rate, conversations) = (Some(Rate::new(1, 1)), Some(10));
        let settings = Settings { new_conversations: rate, conversations, ..Settings::default() };
        let part = part(settings).await;
        part.ports.mailboxes_away.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(opens(&part, "a", "b").await, Err(Some(1_000)), "unavailable");
        }
        part.ports.mailboxes_away.store(false, Ordering::Relaxed);
        assert_eq!(opens(&part, "a", "b").await, Ok(()));
    }

    async fn brings(part: &Part, room: &str, users: &[&str]) -> Result<(), Option<u64>> {
        let room = ConversationId::parse(&format!("room:{room}")).unwrap();
        let users: Vec<UserId> = users.iter().map(|name| user(name)).collect();
        let users: Vec<&UserId> = users.iter().collect();
        let may = part.chat.may_bring(&user("mallory"), &room, &users, true).await;
        may.map_err(|error| error.retry_after_ms)
    }

    /// A second try of what was taken costs nothing; one that nobody has room for costs one, and
    /// is not looked at any more once all are spent.
    #[tokio::test(start_paused = true)]
    async fn what_is_tried_again_costs_nothing_and_looking_in_vain_one() {
        let (rate, conversations) = (Some(Rate::new(4, 4)), Some(1));
        let settings = Settings { new_conversations: rate, conversations, ..Settings::default() };
        let part = part(settings).await;
        meets(&part, "full", "b").await;
        for _ in 0..4 {
            assert_eq!(opens(&part, "b", "full").await, Err(Some(3_600_000)));
        }
        assert_eq!(opens(&part, "b", "full").await, Err(Some(900_000)), "by the rate");
        for _ in 0..5 {
            assert_eq!(opens(&part, "a", "c").await, Ok(()), "the put may have failed");
        }
        for _ in 0..5 {
            assert_eq!(brings(&part, "r", &["mallory", "x"]).await, Ok(()));
        }
        assert_eq!(brings(&part, "r", &["y", "z"]).await, Ok(()));
        assert_eq!(brings(&part, "r", &["w"]).await, Err(Some(900_000)), "four were all");
    }

    /// Whoever fills somebody's rooms pays for each, and shuts that person out of nothing.
    #[tokio::test(start_paused = true)]
    async fn nobody_is_shut_out_by_what_others_did() {
        let part = part(Settings { conversations: Some(4), ..Settings::default() }).await;
        for room in ["one", "two"] {
            assert_eq!(brings(&part, room, &["mallory", "victim"]).await, Ok(()));
        }
        assert_eq!(brings(&part, "three", &["victim"]).await, Err(Some(3_600_000)), "half");
        assert_eq!(opens(&part, "victim", "friend").await, Ok(()));
        assert_eq!(opens(&part, "other", "victim").await, Ok(()), "others reach the victim too");
        let own = async |room: &str| {
            let room = ConversationId::parse(&format!("room:{room}")).unwrap();
            let victim = user("victim");
            let may = part.chat.may_bring(&victim, &room, &[&victim], false).await;
            may.map_err(|error| error.retry_after_ms)
        };
        assert_eq!([own("three").await, own("four").await], [Ok(()); 2]);
        assert_eq!(own("five").await, Err(Some(3_600_000)), "all that one may have");
    }

    #[tokio::test(start_paused = true)]
    async fn bringing_people_in_is_paid_for_each_and_joining_is_not() {
        let rate = Some(Rate::new(10, 10));
        let part = part(Settings { new_conversations: rate, ..Settings::default() }).await;
        let mallory = user("mallory");
        for room in ["one", "two", "three"] {
            let room = ConversationId::parse(&format!("room:{room}")).unwrap();
            assert_eq!(part.chat.may_bring(&mallory, &room, &[&mallory], false).await, Ok(()));
        }
        let many: Vec<String> = (0..20).map(|number| format!("user-{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(brings(&part, "r", &many).await, Ok(()), "in one go, while nothing is owed");
        let wait = brings(&part, "s", &["x"]).await.unwrap_err().unwrap();
        // Twenty are owed, ten may be.
        assert_eq!(wait, 11 * 360_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_a_bound_and_the_oldest_goes() {
        let (mut recent, limits) = (Recent::default(), Limits::none());
        for number in 0..2 * KEPT_MAX {
            recent.put(limits.key(&number), number, Instant::now());
            assert!(recent.kept.len() <= KEPT_MAX && recent.order.len() == recent.kept.len());
        }
        let mut get = |number: usize| recent.get(limits.key(&number), Instant::now()).copied();
        assert_eq!(get(KEPT_MAX - 1), None);
        assert_eq!(get(KEPT_MAX), Some(KEPT_MAX));
        tokio::time::advance(AGE_MAX).await;
        assert_eq!(recent.get(limits.key(&KEPT_MAX), Instant::now()), None, "an hour ago");
        recent.put(limits.key(&KEPT_MAX), 1, Instant::now());
        assert_eq!((recent.kept.len(), recent.order.len()), (1, 1), "what is old makes room");
    }
}
