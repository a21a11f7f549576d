//! Reading from the store what a socket has missed, and storing how far it is.
//!
//! A session asks for one piece of [`Work`] at a time; [`perform`] runs it on the ports and gives
//! the answer back. **Claim before catch-up**: the mailbox is read after the claim was tried.
//! **To the end of the log, never to `last`**: a row's `last` only says where to look.

mod mailbox;
mod ending;

pub(super) use ending::endings;

use mailbox::cursor;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::reads::{InTurn, Turn};
use super::{Chat, roster};
use crate::hub::Outbox;
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationId, Entry, Seq, UserId};
use crate::store::{LogRange, MailboxPart, Member, Raise, Record, RecordPart, StoreError};

/// How long a read of a store that does not answer waits before it is tried again.
pub(super) const RETRY_MS: std::ops::Range<u64> = 200..1_500;
/// How long it waits where trying again helps only once somebody has mended something.
pub(super) const REFUSED_MS: std::ops::Range<u64> = 10_000..20_000;

/// Work that a session asks its task to do.
#[derive(Debug)]
pub enum Work {
    /// Claim the map entry, then read the mailbox.
    Enter {
        /// Only the newest so many of each conversation are pushed.
        catchup: Option<u64>,
    },
    /// Read the mailbox again.
    Reread {
        /// Where this socket stands; its device's cursor may be past that.
        here: HashMap<ConversationId, Seq>,
        /// `false`: what was stored a moment ago may be missing.
        consistent: bool,
        /// Whether the token holds is to be found there: there is no going on without it.
        doubted: bool,
    },
    /// Read one row.
    Load(ConversationId, Turn),
    /// Read a log onwards.
    Read {
        /// Which.
        conversation: ConversationId,
        /// What follows this.
        after: Seq,
        /// At most so many.
        limit: usize,
        /// For whom.
        turn: Turn,
    },
    /// Wait a moment for what is missing.
    Pause(ConversationId, Instant),
    /// Store cursors.
    Store(Vec<(ConversationId, Raise)>),
    /// Store how far the person has seen.
    See {
        /// Which conversation.
        conversation: ConversationId,
        /// Up to here.
        seq: Seq,
        /// `n` of the entry there, if it is known.
        n: Option<u64>,
    },
}

/// A conversation with something waiting for this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub conversation: ConversationId,
    /// What the device has received.
    pub cursor: Seq,
    /// Where pushing starts: above the cursor where `catchup` leaves older ones out.
    pub start: Seq,
    /// What stood in the log when it was read lies no higher.
    pub end: Seq,
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    /// The mailbox: what waits.
    Mailbox(Vec<Waiting>),
    /// The token of the socket is dead.
    Revoked,
    /// The cursor of one row.
    Loaded(ConversationId, Seq),
    /// A page of a log; `None` stands for an entry that the person may not see.
    Page {
        /// Which log.
        conversation: ConversationId,
        /// Nothing up to here is kept any more.
        start: Seq,
        /// In order, dense from the seq that was asked for on.
        entries: Vec<(Seq, Option<Entry>)>,
        /// Nothing between the last of them and this is for the person.
        skip: Seq,
        /// The log goes on behind it.
        more: bool,
    },
    /// The moment has passed.
    Paused(ConversationId),
    /// Cursors were written.
    Stored {
        /// Those that are stored.
        stored: Vec<(ConversationId, Seq)>,
        /// Those that the store did not take now.
        failed: Vec<ConversationId>,
    },
    /// Stored; `None` where there was nothing to see.
    Seen(ConversationId, Option<Seq>),
    /// The store did not take it now.
    Unseen(ConversationId, Seq),
    /// What the store holds of this conversation can't be read, and asking again won't help.
    Failed(ConversationId),
}

/// Does a piece of work. Reads of a store that does not answer are asked again until it does: the
/// socket stays open, and catching up takes longer. What fails for good fails alone, and a write
/// that fails is given back: nothing else is to wait for it.
pub async fn perform(chat: &Arc<Chat>, outbox: &Arc<Outbox>, work: Work) -> Done {
    let enters = matches!(work, Work::Enter { .. });
    if enters && !planted(Bug::ReadBeforeClaim) {
        chat.enter(outbox).await;
    }
    loop {
        match chat.try_work(outbox, &work).await {
            Ok(done) => {
                if enters && planted(Bug::ReadBeforeClaim) {
                    // Its window is a moment: a busy server's is longer.
                    sleep(Duration::from_millis(crate::chance::within(1_000..3_000))).await;
                    chat.enter(outbox).await;
                }
                return done;
            }
            Err(error) => {
                if let Some(done) = given_up(&work, &error) {
                    tracing::warn!(%error, user = %outbox.who.user, ?done, "left out");
                    return done;
                }
                tracing::debug!(%error, "a session's store call is repeated");
                let pause = if error.retryable() { RETRY_MS } else { REFUSED_MS };
                sleep(Duration::from_millis(crate::chance::within(pause))).await;
                if let (Work::See { conversation, seq, .. }, true) = (&work, error.retryable()) {
                    return Done::Unseen(conversation.clone(), *seq);
                }
            }
        }
    }
}

/// What comes of work that the store won't do however often it is asked; `None` where there is no
/// going on without it.
fn given_up(work: &Work, error: &StoreError) -> Option<Done> {
    match work {
        _ if error.retryable() => None,
        Work::Load(conversation, _) | Work::Read { conversation, .. } => {
            Some(Done::Failed(conversation.clone()))
        }
        Work::Reread { doubted: false, .. } => Some(Done::Mailbox(Vec::new())),
        Work::See { conversation, .. } => Some(Done::Seen(conversation.clone(), None)),
        Work::Enter { .. } | Work::Reread { .. } | Work::Pause(..) | Work::Store(_) => None,
    }
}

impl Chat {
    async fn try_work(&self, outbox: &Outbox, work: &Work) -> Result<Done, StoreError> {
        let store = InTurn::new(&*self.store, &self.reads, turn(work));
        match work {
            Work::Enter { catchup } => {
                self.read_mailbox(&store, outbox, *catchup, &HashMap::new(), true).await
            }
            Work::Reread { here, consistent, .. } => {
                self.read_mailbox(&store, outbox, None, here, *consistent).await
            }
            Work::Load(conversation, _) => {
                let part = MailboxPart::Row(conversation.clone());
                let rows = store.mailbox(&outbox.who.user, part).await?.rows;
                let mut cursor = match rows.into_iter().next() {
                    Some(row) => cursor(&store, outbox, &row, &mut None).await?,
                    None => 0,
                };
                if conversation.is_room() {
                    let member = member(&store, &outbox.who.user, conversation).await?;
                    let onwards = member.and_then(|member| roster::onwards(&member, cursor));
                    cursor = onwards.unwrap_or(cursor);
                }
                Ok(Done::Loaded(conversation.clone(), cursor))
            }
            Work::Read { conversation, after, limit, .. } => {
                read_log(&store, outbox, conversation, *after, *limit).await
            }
            Work::Pause(conversation, until) => {
                sleep_until(*until).await;
                Ok(Done::Paused(conversation.clone()))
            }
            Work::Store(raises) => Ok(store_cursors(&store, outbox, raises).await),
            Work::See { conversation, seq, n } => {
                let seen = see(&store, &outbox.who.user, conversation, *seq, *n).await?;
                Ok(Done::Seen(conversation.clone(), seen))
            }
        }
    }
}

/// For whom it is.
fn turn(work: &Work) -> Turn {
    match work {
        Work::Enter { .. } | Work::Store(_) => Turn::CatchingUp,
        Work::Reread { .. } => Turn::Again,
        Work::Load(_, turn) | Work::Read { turn, .. } => *turn,
        Work::See { .. } | Work::Pause(..) => Turn::Live,
    }
}

async fn store_cursors(
    store: &InTurn<'_>,
    outbox: &Outbox,
    raises: &[(ConversationId, Raise)],
) -> Done {
    let (mut stored, mut failed) = (Vec::with_capacity(raises.len()), Vec::new());
    let mut away = false;
    for (conversation, raise) in raises {
        let done = match away {
            true => Err(StoreError::Unavailable("it was a moment ago".to_owned())),
            false => store.raise(&outbox.who.user, conversation, raise).await,
        };
        match done {
            Ok(()) => stored.push((conversation.clone(), raise.delivered.unwrap_or(0))),
            Err(error) => {
                tracing::debug!(%error, %conversation, "a cursor is stored later");
                // The others would only wait for the same.
                away |= error.retryable();
                failed.push(conversation.clone());
            }
        }
    }
    Done::Stored { stored, failed }
}

async fn read_log(
    store: &InTurn<'_>,
    outbox: &Outbox,
    conversation: &ConversationId,
    after: Seq,
    limit: usize,
) -> Result<Done, StoreError> {
    let page = store.log(conversation, LogRange::following(after, limit)).await?;
    let start = match page.entries.first() {
        Some(first) if first.seq > after + 1 => kept_from(store, conversation, first.seq).await?,
        _ => after,
    };
    // The member is read after the entries: whoever was removed before one of them was stored
    // is seen as removed (P9).
    let (mut skip, mut more) = (after, page.more);
    let mut members = Vec::new();
    if conversation.is_room() {
        members.extend(member(store, &outbox.who.user, conversation).await?);
        let as_of = members.first().map(|member| member.as_of);
        // An item follows its entry; what was just read may tell more than the item.
        let own = |entry: &&Entry| entry.to.as_ref() == Some(&outbox.who.user);
        for entry in page.entries.iter().filter(own) {
            let changed = roster::applied(&members, None, entry);
            changed.into_iter().for_each(|member| roster::set(&mut members, member));
        }
        if let Some(member) = members.first().filter(|member| as_of != Some(member.as_of)) {
            write_behind(store, conversation, member.clone(), as_of.is_none()).await;
        }
        let last = page.entries.last().map_or(after, |entry| entry.seq);
        match members.first().and_then(|member| roster::onwards(member, last)) {
            Some(onwards) => skip = onwards,
            // Nothing that follows is for a former member.
            None => more = false,
        }
    }
    let sees = |seq| members.first().is_some_and(|member| member.may_see(seq));
    let sees = |seq| !conversation.is_room() || sees(seq);
    let shown = |entry: Entry| (entry.seq, sees(entry.seq).then_some(entry));
    let entries = page.entries.into_iter().map(shown).collect();
    let conversation = conversation.clone();
    Ok(Done::Page { conversation, start, entries, skip, more })
}

/// Writes an item that was found behind its entry: whoever was to write it may have died, and until
/// the room is written to again nobody else would. The store keeps the newer one.
async fn write_behind(store: &InTurn<'_>, room: &ConversationId, mut member: Member, is_new: bool) {
    let writing = async {
        let head = store.records(RecordPart::Head(room.clone())).await?;
        let creator = head.into_iter().find_map(Record::into_head).and_then(|head| head.creator);
        if is_new && creator.as_ref() == Some(&member.user) {
            roster::OWNER.clone_into(&mut member.role);
        }
        store.write(Record::Member(room.clone(), member)).await
    };
    if let Err(error) = writing.await {
        tracing::debug!(%error, %room, "a member's item stays behind its entry");
    }
}

/// A log has no holes, so what is missing before `first` must lie below its floor. Gives up to
/// where nothing is kept.
async fn kept_from(
    store: &InTurn<'_>,
    conversation: &ConversationId,
    first: Seq,
) -> Result<Seq, StoreError> {
    let head = store.records(RecordPart::Head(conversation.clone())).await?;
    match head.into_iter().find_map(Record::into_head) {
        Some(head) if first <= head.floor => Ok(first - 1),
        _ => Err(StoreError::Damaged(format!("{conversation} has nothing before {first}"))),
    }
}

async fn member(
    store: &InTurn<'_>,
    user: &UserId,
    room: &ConversationId,
) -> Result<Option<crate::store::Member>, StoreError> {
    let part = RecordPart::Member(room.clone(), user.clone());
    Ok(store.records(part).await?.into_iter().find_map(Record::into_member))
}

/// Stores that a person has seen up to `seq`: what of it counts.
async fn see(
    store: &InTurn<'_>,
    user: &UserId,
    conversation: &ConversationId,
    seq: Seq,
    n: Option<u64>,
) -> Result<Option<Seq>, StoreError> {
    let mut seen = n.map(|n| (seq, n));
    if seen.is_none() {
        // Clamped to the log: what is not there can't have been seen.
        let range = LogRange { before: seq.checked_add(1), ..LogRange::newest(1) };
        let page = store.log(conversation, range).await?;
        seen = page.entries.first().map(|entry| (entry.seq, entry.n));
    }
    if let (true, Some((seq, _))) = (conversation.is_room(), seen)
        && !member(store, user, conversation).await?.is_some_and(|m| m.may_see(seq))
    {
        seen = None;
    }
    if let Some(read) = seen {
        let raise = Raise { read: Some(read), ..Raise::default() };
        store.raise(user, conversation, &raise).await?;
    }
    Ok(seen.map(|(seq, _)| seq))
}

#[cfg(test)]
mod tests;
