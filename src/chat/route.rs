//! From a stored entry to the sockets: hub, directory, bus.
//!
//! **Persist before locate.** What comes here stands in the store already; only then are sockets
//! looked up, so that a recipient who connects meanwhile either is found here or finds the entry
//! there. A hint stays pending (`pending`) until the servers have answered; what can't be handed on
//! goes to the board (`slow`).

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::lane::{Handed, HandedOn, Origin};
use super::liveness::View;
use super::pending::{Key, Pending};
use super::publish::{Publishers, Pushed};
use super::slow::Slow;
use super::{Chat, ChatError};
use crate::board::{BoardRow, Role, SlowHint};
use crate::directory::{DirectoryError, SocketEntry};
use crate::protocol::{
    ConversationId, ConversationKind, Entry, Envelope, ProcessId, Seq, Text, UserId, answer,
};
use crate::telemetry::Metrics;

/// Up to so many members a room's sockets are located one by one; a larger room's entry goes to
/// each living server, which knows its local members.
pub const ROOM_LOCATE_MAX: usize = 64;
/// How long a view of the board can say that nobody is deaf: who is reads the mailboxes of the
/// sockets that the map does not show once more later than that.
const VIEW_TELLS: Duration = Duration::from_secs(15);
/// What was stored longer ago may have been read in the log by its recipients: a process that was
/// paused hands it on late.
const NEW_MS: u64 = 2_000;
/// The most hand-overs that wait for the directory; beyond, hints go the slow way.
const HANDING_MAX: usize = 8_192;

/// Hints under way, publishers, and what goes the slow way.
#[derive(Debug)]
pub struct Router {
    /// Hints that wait for receipts.
    pub pending: Pending,
    /// One queue per destination.
    pub publishers: Publishers,
    /// What waits for the board.
    pub slow: Slow,
    handing: Arc<Semaphore>,
}

impl Router {
    /// Leave to wait for the directory beside the caller; `None` when too many do.
    pub fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.handing.clone().try_acquire_owned().ok()
    }

    /// Nothing is being handed on, waits for receipts or for the board.
    pub fn is_idle(&self) -> bool {
        let handing = self.handing.available_permits() < HANDING_MAX;
        let here = handing || !self.pending.is_empty() || !self.slow.is_empty();
        !here && self.publishers.is_idle()
    }
}

impl Default for Router {
    fn default() -> Self {
        Self {
            pending: Pending::default(),
            publishers: Publishers::default(),
            slow: Slow::default(),
            handing: Arc::new(Semaphore::new(HANDING_MAX)),
        }
    }
}

/// An entry's frame, encoded once, when first somebody needs it; the sender's own other sockets
/// see the ref as well.
#[derive(Default)]
pub(super) struct Texts {
    plain: OnceCell<Text>,
    own: OnceCell<Text>,
}

impl Texts {
    /// The frame of this entry, which is the same in all calls.
    pub(super) fn of(&self, conversation: &ConversationId, entry: &Entry, own: bool) -> Text {
        let own = own && entry.shown_ref().is_some();
        let text = if own { &self.own } else { &self.plain };
        text.get_or_init(|| answer::entry(conversation, entry, own)).clone()
    }
}

#[async_trait]
impl Origin for Chat {
    fn may_append(&self) -> bool {
        self.liveness.may_append()
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.count_message(outcome);
    }

    async fn may_open(&self, from: &UserId, to: Option<&UserId>) -> Result<(), ChatError> {
        self.may_open_one(from, to).await
    }

    fn hand_on(&self, mut handed: HandedOn) {
        let now = (self.clock)();
        for one in &mut handed.entries {
            one.repeated |= now.saturating_sub(one.entry.timestamp) > NEW_MS;
        }
        let Some(chat) = self.this.upgrade() else { return };
        let view = chat.liveness.view();
        if view.any_deaf() || view.begun.elapsed() >= VIEW_TELLS {
            // Who can't hear the bus looks at the board, whether the map shows him or not.
            chat.slow_hint(&handed);
        }
        let Some(permit) = chat.router.permit() else { return chat.slow_hint(&handed) };
        let mut handing = Box::pin(async move {
            match &handed.roster {
                None => chat.hand_on_direct(&handed).await,
                Some(_) => chat.hand_on_room(&handed).await,
            }
            drop(permit);
        });
        // Embedded parts answer at once: most hand-overs end here and need no task.
        if (&mut handing).now_or_never().is_none() {
            tokio::spawn(handing);
        }
    }
}

impl Chat {
    async fn hand_on_direct(&self, handed: &HandedOn) {
        let Some(newest) = handed.newest() else { return };
        let (conversation, seq, from) = (&handed.conversation, newest.seq, &newest.from);
        let to = newest.to.clone().or_else(|| conversation.other(from)).unwrap_or(from.clone());
        let now = Instant::now();
        let theirs = Key { conversation: conversation.clone(), user: Some(to.clone()) };
        let own = Key { conversation: conversation.clone(), user: Some(from.clone()) };
        if !self.router.pending.open(&theirs, seq, to == *from, now) {
            return self.slow_hint(handed);
        }
        let mut texts = Vec::new();
        let here = self.push_local(&to, handed, &mut texts);
        if here {
            self.router.pending.located(&theirs, std::slice::from_ref(&self.me.id), &[]);
            self.metrics.hints_local.inc();
        }
        if to != *from
            && self.push_local(from, handed, &mut texts)
            && self.open_or_slow(&own, seq, true)
        {
            self.router.pending.located(&own, std::slice::from_ref(&self.me.id), &[]);
        }
        let users = [to.clone(), from.clone()];
        let users = if to == *from { &users[..1] } else { &users[..] };
        let located = match self.directory.locate(users).await {
            Ok(located) => located,
            Err(error) => return self.not_located(handed, &theirs, &error),
        };
        let their_servers = self.remote_servers(located.first());
        let own_servers = self.remote_servers(located.get(1));
        if !their_servers.is_empty() {
            // A receipt of a socket here may have come first, and ended the record.
            self.open_or_slow(&theirs, seq, to == *from);
        }
        self.router.pending.located(&theirs, &their_servers, &own_servers);
        if !own_servers.is_empty() && self.open_or_slow(&own, seq, true) {
            self.router.pending.located(&own, &own_servers, &[]);
        }
        let nowhere = !here && their_servers.is_empty();
        if nowhere && self.router.pending.close_if_nowhere(&theirs, seq) {
            Metrics::count(&self.metrics.hints, "offline");
        }
        let mut by_server: BTreeMap<ProcessId, Vec<UserId>> = BTreeMap::new();
        for (user, servers) in [(to, their_servers), (from.clone(), own_servers)] {
            for server in servers {
                by_server.entry(server).or_default().push(user.clone());
            }
        }
        for (server, users) in by_server {
            self.publish_entries(&server, handed, &users);
        }
    }

    async fn hand_on_room(&self, handed: &HandedOn) {
        let (Some(newest), Some(roster)) = (handed.newest(), &handed.roster) else { return };
        // One roster and no change of it among the entries: whoever may see one may see all.
        let members = roster.iter().filter(|member| member.may_see(newest.seq));
        let users: Vec<UserId> = members.map(|member| member.user.clone()).collect();
        let mut texts = Vec::new();
        for user in &users {
            self.push_local(user, handed, &mut texts);
        }
        let key = Key { conversation: handed.conversation.clone(), user: None };
        if !self.router.pending.open(&key, newest.seq, true, Instant::now()) {
            return self.slow_hint(handed);
        }
        if users.len() > ROOM_LOCATE_MAX {
            return self.hand_on_large_room(handed, &key, newest.seq).await;
        }
        let located = match self.directory.locate(&users).await {
            Ok(located) => located,
            Err(error) => return self.not_located(handed, &key, &error),
        };
        let by_server = self.by_server(&users, &located);
        let servers: Vec<ProcessId> = by_server.keys().cloned().collect();
        self.room_located(&key, newest.seq, &servers);
        for (server, users) in by_server {
            self.publish_entries(&server, handed, &users);
        }
    }

    async fn hand_on_large_room(&self, handed: &HandedOn, key: &Key, seq: Seq) {
        let limit = Duration::from_secs(3);
        let Some(view) = self.liveness.view_after(Instant::now(), limit).await else {
            return self.slow_hint(handed);
        };
        let servers = self.other_servers(&view);
        self.room_located(key, seq, &servers);
        for server in &servers {
            self.publish_entries(server, handed, &[]);
        }
    }

    /// Notes where a room's entry goes. The record is opened anew: receipts may have ended it, or
    /// a try that came meanwhile.
    fn room_located(&self, key: &Key, seq: Seq, servers: &[ProcessId]) {
        if servers.is_empty() {
            self.router.pending.close_if_nowhere(key, seq);
        } else if self.open_or_slow(key, seq, true) {
            self.router.pending.located(key, servers, &[]);
        }
    }

    /// The other servers that live, the API not among them.
    pub(super) fn other_servers(&self, view: &View) -> Vec<ProcessId> {
        let holds = |row: &&BoardRow| row.role == Role::Server && row.id != self.me.id;
        view.alive.iter().filter(holds).map(|row| row.id.clone()).collect()
    }

    /// A record; where there is no room for one the hint goes the slow way, and `false`.
    fn open_or_slow(&self, key: &Key, seq: Seq, own: bool) -> bool {
        let open = self.router.pending.open(key, seq, own, Instant::now());
        if !open {
            self.put_on_board(key.clone().slow_hint(seq));
        }
        open
    }

    /// Puts entries into the outboxes of a person on this server, but for those of the socket's own
    /// sending.
    fn push_local(&self, user: &UserId, handed: &HandedOn, texts: &mut Vec<Texts>) -> bool {
        let conversation = &handed.conversation;
        let mut any = false;
        for outbox in self.hub.of(user) {
            let sends_none = |h: &Handed| h.sender != Some(outbox.who.socket);
            if !handed.entries.iter().any(sends_none) {
                continue;
            }
            texts.resize_with(handed.entries.len(), Texts::default);
            any = true;
            for (handed, texts) in handed.entries.iter().zip(&*texts) {
                if sends_none(handed) {
                    let (entry, via) = (&handed.entry, &self.me.id);
                    self.push_entry(&outbox, conversation, entry, texts, via, handed.repeated);
                }
            }
        }
        any
    }

    /// Which of these people each other server holds sockets of, as they were located.
    pub(super) fn by_server(
        &self,
        users: &[UserId],
        located: &[Vec<SocketEntry>],
    ) -> BTreeMap<ProcessId, Vec<UserId>> {
        let mut by_server = BTreeMap::<_, Vec<_>>::new();
        for (user, entries) in users.iter().zip(located) {
            for server in self.remote_servers(Some(entries)) {
                by_server.entry(server).or_default().push(user.clone());
            }
        }
        by_server
    }

    /// The other servers among the entries, each once.
    pub(super) fn remote_servers(&self, entries: Option<&Vec<SocketEntry>>) -> Vec<ProcessId> {
        let mut servers: Vec<ProcessId> = Vec::new();
        for entry in entries.into_iter().flatten() {
            if entry.server != self.me.id && !servers.contains(&entry.server) {
                servers.push(entry.server.clone());
            }
        }
        servers
    }

    fn publish_entries(&self, server: &ProcessId, handed: &HandedOn, users: &[UserId]) {
        let version = |roster: &Arc<Vec<crate::store::Member>>| {
            roster.iter().map(|member| member.as_of).max().unwrap_or(0)
        };
        let roster = handed.roster.as_ref().filter(|_| users.is_empty()).map(version);
        let envelope = |one: &Handed| {
            self.metrics.hints_bus.inc();
            Arc::new(Envelope::Entry {
                conversation: handed.conversation.clone(),
                entry: one.entry.clone(),
                roster,
                users: users.to_vec(),
                via: self.me.id.clone(),
                again: one.repeated,
            })
        };
        let envelopes: Vec<_> = handed.entries.iter().map(envelope).collect();
        self.publish_all(server, envelopes);
    }

    /// Queues an envelope for a server; what can't be handed over goes the slow way.
    pub(super) fn publish(&self, to: &ProcessId, envelope: Envelope) {
        self.publish_all(to, vec![Arc::new(envelope)]);
    }

    fn publish_all(&self, to: &ProcessId, envelopes: Vec<Arc<Envelope>>) {
        match self.router.publishers.push(to, envelopes) {
            Pushed::Queued => {}
            Pushed::Full(back) => back.iter().for_each(|envelope| self.undelivered(envelope)),
            Pushed::Drain(first) => {
                let (chat, to) = (self.this.clone(), to.clone());
                let mut draining = Box::pin(async move {
                    let Some(chat) = chat.upgrade() else { return };
                    let failed = |batch: &[Arc<Envelope>]| {
                        chat.redis_failed();
                        batch.iter().for_each(|envelope| chat.undelivered(envelope));
                    };
                    chat.router.publishers.drain(&*chat.bus, &to, first, failed).await;
                });
                if (&mut draining).now_or_never().is_none() {
                    tokio::spawn(draining);
                }
            }
        }
    }

    /// The bus did not take it. Entries and hints go the slow way, statuses wait for Redis, signals
    /// may be lost.
    fn undelivered(&self, envelope: &Envelope) {
        let (conversation, seq, users) = match envelope {
            Envelope::Entry { conversation, entry, users, .. } => (conversation, entry.seq, users),
            Envelope::Hint { conversation, seq, users, .. } => (conversation, *seq, users),
            _ => return self.keep_untold(envelope),
        };
        let hint =
            |user: Option<UserId>| SlowHint { user, conversation: conversation.clone(), seq };
        if users.is_empty() {
            self.put_on_board(hint(None));
        }
        users.iter().for_each(|user| self.put_on_board(hint(Some(user.clone()))));
    }

    fn not_located(&self, handed: &HandedOn, key: &Key, error: &DirectoryError) {
        tracing::debug!(%error, "not located");
        self.redis_failed();
        let last = self.router.pending.close(key);
        self.slow_hint_to(handed, last.unwrap_or(0));
    }

    /// The slow way for all whom an entry is for.
    fn slow_hint(&self, handed: &HandedOn) {
        self.slow_hint_to(handed, 0);
    }

    /// The same, also for what was handed on since, up to `last`: its record has ended.
    fn slow_hint_to(&self, handed: &HandedOn, last: Seq) {
        let Some(seq) = handed.newest().map(|entry| entry.seq.max(last)) else { return };
        let conversation = &handed.conversation;
        let hint = |user| SlowHint { user, conversation: conversation.clone(), seq };
        match handed.conversation.kind() {
            ConversationKind::Room(_) => self.put_on_board(hint(None)),
            ConversationKind::Direct(a, b) => {
                if a != b {
                    self.put_on_board(hint(Some(a)));
                }
                self.put_on_board(hint(Some(b)));
            }
        }
    }

    pub(super) fn put_on_board(&self, hint: SlowHint) {
        Metrics::count(&self.metrics.hints, "board");
        self.hear_slow_hint(&hint);
        self.router.slow.put(hint);
    }
}

#[cfg(test)]
mod tests;
