//! The list of a person's conversations, newest first, with what is unread.
//!
//! A mailbox row knows no time, so the newest entry of every conversation is read, a bounded number
//! at once; the status of the last message only for those on the page. A room's newest entry is the
//! newest that the person may see (`history` judges that, P9).
//!
//! **Invariant.** All that is read for a person at a time is one list: who asks meanwhile waits,
//! and shares the next one with everybody else who does.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::history::{HistoryQuery, Progress, Shown, Sight};
use super::reads::together::Together;
use super::{Chat, ChatError};
use crate::protocol::{ConversationId, Entry, ErrorCode, Seq, Timestamp, UserId};
use crate::store::{LogRange, MailboxPart, Row};

/// How many conversations of a person are looked at: the first by name, where there are more.
pub const CONVERSATIONS_MAX: usize = 10_000;
/// How many reads are under way at once for one list.
const READS_MAX: usize = 32;
/// How many lists are being read at once, each of another person.
const LISTS_MAX: usize = 64;
/// The longest cursor that is looked at.
const CURSOR_BYTES_MAX: usize = 1_024;

/// One conversation of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Which.
    pub conversation: ConversationId,
    /// The other person of a direct conversation, oneself in a note to oneself.
    pub with: Option<UserId>,
    /// The title of a room that has one.
    pub title: Option<String>,
    /// The newest entry that the person may see.
    pub last: Shown,
    /// Messages after what the person has seen; see [`Chat::conversations`].
    pub unread: u64,
    /// The highest seq that a device of the person has received.
    pub delivered: Seq,
    /// The highest seq that the person has seen.
    pub read: Seq,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversationList {
    /// Newest first.
    pub conversations: Vec<Summary>,
    /// Unread messages of all conversations, not only of this page.
    pub unread_total: u64,
    /// Pass this as `after` for what follows; `None` at the end.
    pub next: Option<String>,
    /// How many conversations were looked at for it.
    pub looked_at: usize,
}

/// The lists that are being read.
pub(super) struct Lists {
    together: Together<UserId, Result<Arc<Whole>, ChatError>>,
    places: Semaphore,
}

impl Default for Lists {
    fn default() -> Self {
        Self { together: Together::default(), places: Semaphore::new(LISTS_MAX) }
    }
}

/// All conversations of a person.
struct Whole {
    /// Sorted.
    newest: Vec<Newest>,
    unread: u64,
    looked_at: usize,
}

#[derive(Clone)]
struct Newest {
    row: Row,
    entry: Entry,
    title: Option<String>,
    unread: u64,
}

impl Newest {
    /// Sorts the list: the newest first, equal times by name.
    fn place(&self) -> (std::cmp::Reverse<Timestamp>, &str) {
        (std::cmp::Reverse(self.entry.timestamp), self.row.conversation.as_str())
    }
}

impl Chat {
    /// A page of the conversations of `user`.
    ///
    /// `unread` is `n` of the newest entry less `n` at what the person has seen: one's own messages
    /// count until one has read up to them. In a room it begins with the newest joining.
    pub async fn conversations(
        &self,
        user: &UserId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ConversationList, ChatError> {
        let cursor = after.map(|text| parse_cursor(user, text)).transpose()?;
        let (place, read) = (self.lists.places.acquire(), self.whole_list(user));
        let whole = self.lists.together.ask(user, place, read).await?;
        let begin = cursor.map_or(0, |(timestamp, conversation)| {
            let place = (std::cmp::Reverse(timestamp), conversation.as_str());
            whole.newest.partition_point(|newest| newest.place() <= place)
        });
        let following = &whole.newest[begin..];
        let page = &following[..following.len().min(limit)];
        let last = page.last().filter(|_| following.len() > limit);
        let next = last.map(|last| cursor_of(user, last.entry.timestamp, &last.row.conversation));
        let summaries = page.iter().cloned().map(|newest| async move {
            let conversation = newest.row.conversation.clone();
            left_out(&conversation, self.summary(user, newest).await)
        });
        let summaries: Vec<Option<Summary>> =
            stream::iter(summaries).buffered(READS_MAX).try_collect().await?;
        let conversations = summaries.into_iter().flatten().collect();
        let (unread_total, looked_at) = (whole.unread, whole.looked_at);
        Ok(ConversationList { conversations, unread_total, next, looked_at })
    }

    async fn whole_list(&self, user: &UserId) -> Result<Arc<Whole>, ChatError> {
        let rows = self.mailbox_rows(user).await?;
        let looked_at = rows.len();
        let reads = rows.into_iter().map(|row| async move {
            let conversation = row.conversation.clone();
            let newest = left_out(&conversation, self.newest(user, row).await)?;
            Ok::<_, ChatError>(newest.flatten())
        });
        let found: Vec<Option<Newest>> =
            stream::iter(reads).buffer_unordered(READS_MAX).try_collect().await?;
        let mut newest: Vec<Newest> = found.into_iter().flatten().collect();
        newest.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
        let unread = newest.iter().map(|newest| newest.unread).sum();
        Ok(Arc::new(Whole { newest, unread, looked_at }))
    }

    async fn mailbox_rows(&self, user: &UserId) -> Result<Vec<Row>, ChatError> {
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let part = MailboxPart::Page { after, consistent: true };
            let page = self.store.mailbox(user, part).await?;
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() || rows.len() >= CONVERSATIONS_MAX {
                rows.truncate(CONVERSATIONS_MAX);
                return Ok(rows);
            }
        }
    }

    /// `None` where the row stands and the log has nothing to show: a raise without its put.
    async fn newest(&self, user: &UserId, row: Row) -> Result<Option<Newest>, ChatError> {
        let conversation = &row.conversation;
        if !conversation.is_room() {
            let page = self.store.log(conversation, LogRange::newest(1)).await?;
            let Some(entry) = page.entries.into_iter().next() else { return Ok(None) };
            let unread = entry.n.saturating_sub(row.read_n);
            return Ok(Some(Newest { row, entry, title: None, unread }));
        }
        let query = HistoryQuery::new(None, None, 1)?;
        let (entries, sight) = match self.visible(user, conversation, query).await {
            Ok((entries, _, sight)) => (entries, sight),
            Err(error) if error.code == ErrorCode::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(entry) = entries.into_iter().next() else { return Ok(None) };
        let seen = self.seen_n(&row, &sight).await?;
        let title = sight.head.and_then(|head| head.title);
        let unread = entry.n.saturating_sub(seen);
        Ok(Some(Newest { row, entry, title, unread }))
    }

    /// `n` at what the person has seen of a room, or at the newest joining if that is later.
    async fn seen_n(&self, row: &Row, sight: &Sight) -> Result<u64, ChatError> {
        let joined = sight.spans.last().map_or(0, |span| span.after + 1);
        if row.read >= joined {
            return Ok(row.read_n);
        }
        let page = self.store.log(&row.conversation, LogRange::following(joined - 1, 1)).await?;
        Ok(page.entries.first().map_or(0, |entry| entry.n).max(row.read_n))
    }

    async fn summary(&self, user: &UserId, newest: Newest) -> Result<Summary, ChatError> {
        let Newest { row, entry, title, unread } = newest;
        let entries = std::slice::from_ref(&entry);
        let progress: Progress =
            self.progress(user, &row.conversation, Some(&row), entries).await?;
        Ok(Summary {
            with: row.conversation.other(user),
            last: progress.show(user, entry),
            conversation: row.conversation,
            delivered: row.delivered,
            read: row.read,
            title,
            unread,
        })
    }
}

/// `None` for a conversation of which something can't be read: it says so itself when it is opened,
/// and the list has all others.
fn left_out<T>(
    conversation: &ConversationId,
    read: Result<T, ChatError>,
) -> Result<Option<T>, ChatError> {
    match read {
        Err(error) if error.damaged => {
            tracing::error!(%conversation, "left out of a list");
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// A place in the list of one person. The check sum is no secret: it finds what was damaged or
/// belongs to another list, and whoever forges one learns only where his own list goes on.
fn cursor_of(user: &UserId, timestamp: Timestamp, conversation: &ConversationId) -> String {
    let place = format!("{timestamp}/{conversation}");
    let sum = crc32fast::hash(format!("{user}/{place}").as_bytes());
    let hex = place.bytes().map(|byte| format!("{byte:02x}"));
    hex.chain([format!("{sum:08x}")]).collect()
}

/// Reads a cursor as a client wrote it.
pub(crate) fn parse_cursor(
    user: &UserId,
    text: &str,
) -> Result<(Timestamp, ConversationId), ChatError> {
    let read = || {
        if text.len() > CURSOR_BYTES_MAX || !text.is_ascii() || text.len() % 2 == 1 {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let end = text.len().checked_sub(8)?;
        let place: Option<Vec<u8>> = (0..end).step_by(2).map(byte).collect();
        let place = String::from_utf8(place?).ok()?;
        let (timestamp, conversation) = place.split_once('/')?;
        let (timestamp, conversation) =
            (timestamp.parse().ok()?, ConversationId::parse(conversation).ok()?);
        (cursor_of(user, timestamp, &conversation) == text).then_some((timestamp, conversation))
    };
    read().ok_or_else(|| {
        let detail = "\"after\" is not a \"next\" of this list: begin again without it";
        ChatError::new(ErrorCode::BadRequest, detail)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::chat::testing::{Part, message, user};
    use crate::store::{Raise, Store};

    /// Time is paused: it goes on once all have asked.
    #[tokio::test(start_paused = true)]
    async fn a_persons_lists_are_read_one_after_the_other_and_shared() {
        let part = Part::new().await;
        for other in ["b", "c", "d"] {
            let conversation = ConversationId::direct(&user("a"), &user(other));
            let raise = Raise { last: Some(1), ..Raise::default() };
            part.ports.raise(&user("a"), &conversation, &raise).await.unwrap();
            part.ports.append(&conversation, &[message("a", other, 1)]).await.unwrap();
        }
        part.ports.reads_take_ms.store(10, Ordering::Relaxed);
        part.ports.trace();
        let user = user("a");
        let first = part.chat.conversations(&user, None, 2).await.unwrap();
        assert_eq!((first.conversations.len(), first.looked_at), (2, 3));
        let after = first.next.as_deref();
        let many = (0..50).map(|_| part.chat.conversations(&user, after, 2).boxed());
        for list in tokio::time::timeout(Duration::from_secs(60), join_all(many)).await.unwrap() {
            let list = list.unwrap();
            assert_eq!((list.conversations.len(), list.unread_total, list.next), (1, 3, None));
        }
        let reads = part.ports.trace().iter().filter(|call| *call == "mailbox").count();
        assert_eq!(reads, 3, "one alone, the first one's, and that of all others");
        assert!(part.chat.lists.together.lock().is_empty(), "nothing is kept");
    }
}
