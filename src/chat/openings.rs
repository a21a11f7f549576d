//! New conversations: so many an hour, and so many in all.
//!
//! How many somebody has shows only in the whole mailbox. It is counted when a conversation is
//! opened, which is rare by the first limit, and remembered for an hour. So several processes may
//! together let somebody go over by what they open within that hour; nobody needs it exactly.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Chat, ChatError};
use crate::limits::{Key, Limit, Over};
use crate::protocol::UserId;
use crate::store::MailboxPart;

/// How long a count is believed.
const COUNT_AGE_MAX: Duration = Duration::from_secs(3_600);
/// How many counts are kept.
const COUNTS_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Count {
    conversations: u32,
    at: Instant,
}

/// How many conversations people had when somebody looked, and have opened since.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<HashMap<Key, Count>>);

impl Counted {
    fn of(&self, who: Key, now: Instant) -> Option<u32> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&who)?;
        (now.duration_since(count.at) < COUNT_AGE_MAX).then_some(count.conversations)
    }

    fn note(&self, who: Key, conversations: u32, now: Instant) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTS_MAX && !counts.contains_key(&who) {
            counts.retain(|_, count| now.duration_since(count.at) < COUNT_AGE_MAX);
            if counts.len() >= COUNTS_MAX {
                counts.clear();
            }
        }
        counts.insert(who, Count { conversations, at: now });
    }

    fn one_more(&self, who: Key) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&who) {
            count.conversations = count.conversations.saturating_add(1);
        }
    }
}

impl Chat {
    /// Whether `from` may open one more conversation; with `to`, whether that one has room too.
    pub(super) async fn may_open_one(
        &self,
        from: &UserId,
        to: Option<&UserId>,
    ) -> Result<(), ChatError> {
        let one = self.limits.take_one(Limit::NewConversations, from);
        one.map_err(|over| self.over(over))?;
        let Some(max) = self.limits.settings().conversations else { return Ok(()) };
        let to = to.filter(|to| *to != from);
        for user in [from].into_iter().chain(to) {
            if self.conversations_of(user, max).await? >= max {
                return Err(self.over(Over::for_long(Limit::Conversations)));
            }
        }
        for user in [from].into_iter().chain(to) {
            self.counted.one_more(self.limits.key(user));
        }
        Ok(())
    }

    /// How many conversations somebody has, counted up to `enough`.
    async fn conversations_of(&self, user: &UserId, enough: u32) -> Result<u32, ChatError> {
        let (who, now) = (self.limits.key(user), Instant::now());
        if let Some(count) = self.counted.of(who, now) {
            return Ok(count);
        }
        let (mut count, mut after) = (0_u32, None);
        loop {
            let part = MailboxPart::Page { after, consistent: false };
            let page = self.store.mailbox(user, part).await?;
            count = count.saturating_add(u32::try_from(page.rows.len()).unwrap_or(u32::MAX));
            after = page.next;
            if after.is_none() || count >= enough {
                break;
            }
        }
        self.counted.note(who, count, now);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
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
        tokio::time::advance(COUNT_AGE_MAX).await;
        assert_eq!(opens(&part, "a", "e").await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn counts_have_a_bound() {
        let counted = Counted::default();
        let limits = Limits::none();
        for number in 0..2 * COUNTS_MAX {
            counted.note(limits.key(&number), 1, Instant::now());
        }
        assert!(counted.0.lock().unwrap().len() <= COUNTS_MAX);
        assert_eq!(counted.of(limits.key(&(2 * COUNTS_MAX - 1)), Instant::now()), Some(1));
    }
}
