//! How far somebody has received or seen a conversation, told to people's sockets.
//!
//! Cumulative, so a later one makes up for those that were lost. What can't be told while Redis
//! does not answer is kept and told when it does; past the bound, history tells it (P6).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{FutureExt, StreamExt, stream};

use super::Chat;
use crate::chance::Hashing;
use crate::directory::DirectoryError;
use crate::hub::Event;
use crate::protocol::{
    ConversationId, Envelope, ProcessId, Receipt, Seq, SocketId, Text, UserId, answer,
};

/// The most statuses that wait for Redis.
const UNTOLD_MAX: usize = 8_192;
/// How many of them are told at once.
const TELLING_MAX: usize = 64;

/// What is told: `by` has received, or with `read` seen, everything up to a seq.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Status {
    conversation: ConversationId,
    by: UserId,
    read: bool,
}

type Kept = HashMap<Status, (Seq, Vec<UserId>), Hashing>;

/// Statuses that could not be told, with their seqs and for whom they are.
#[derive(Debug, Default)]
pub(super) struct Untold {
    statuses: Mutex<Kept>,
}

impl Untold {
    fn keep(&self, status: Status, seq: Seq, users: Vec<UserId>) {
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        if statuses.len() >= UNTOLD_MAX && !statuses.contains_key(&status) {
            return;
        }
        let (highest, known) = statuses.entry(status).or_default();
        *highest = seq.max(*highest);
        for user in users {
            if !known.contains(&user) {
                known.push(user);
            }
        }
    }

    fn take(&self) -> Kept {
        std::mem::take(&mut *self.statuses.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Chat {
    /// Tells the other participant's sockets, and the person's own, that `user` has seen `seq`.
    pub fn seen(self: &Arc<Self>, user: &UserId, conversation: &ConversationId, seq: Seq) {
        let mut users = vec![user.clone()];
        users.extend(conversation.other(user).filter(|other| other != user));
        self.tell_status(users, conversation, seq, user, true);
    }

    /// Tells people's sockets everywhere how far `by` is.
    pub(super) fn tell_status(
        self: &Arc<Self>,
        users: Vec<UserId>,
        conversation: &ConversationId,
        seq: Seq,
        by: &UserId,
        read: bool,
    ) {
        if users.is_empty() {
            return;
        }
        self.push_status(&users, conversation, seq, by, read);
        let status = Status { conversation: conversation.clone(), by: by.clone(), read };
        let Some(permit) = self.router.permit() else {
            return self.untold.keep(status, seq, users);
        };
        let chat = self.clone();
        let mut telling = Box::pin(async move {
            chat.tell_elsewhere(status, seq, users).await;
            drop(permit);
        });
        if (&mut telling).now_or_never().is_none() {
            tokio::spawn(telling);
        }
    }

    /// Tells what could not be told; run by `keeper` while Redis answers.
    pub(super) async fn tell_untold(&self) {
        let untold = stream::iter(self.untold.take());
        let tell = |(status, (seq, users))| self.tell_elsewhere(status, seq, users);
        untold.for_each_concurrent(TELLING_MAX, tell).await;
    }

    async fn tell_elsewhere(&self, status: Status, seq: Seq, users: Vec<UserId>) {
        let envelope = |users| status.envelope(seq, users);
        if self.publish_to_sockets_of(&users, envelope).await.is_err() {
            self.redis_failed();
            self.untold.keep(status, seq, users);
        }
    }

    /// Tells the sockets of people on another server.
    pub(super) fn publish_status(
        &self,
        server: &ProcessId,
        users: Vec<UserId>,
        conversation: &ConversationId,
        seq: Seq,
        by: &UserId,
    ) {
        let (conversation, by) = (conversation.clone(), by.clone());
        let status = Status { conversation, by, read: false };
        self.publish(server, status.envelope(seq, users));
    }

    /// The bus did not take this: what it tells is told when Redis answers again.
    pub(super) fn keep_untold(&self, envelope: &Envelope) {
        let (conversation, seq, by, read, users) = match envelope {
            Envelope::Status { conversation, seq, by, read, users } => {
                (conversation, *seq, by, *read, users.clone())
            }
            Envelope::Receipt { conversation, seq, user: Some(by), receipt, .. }
                if *receipt == Receipt::Delivered =>
            {
                let sender = conversation.other(by).filter(|sender| sender != by);
                (conversation, *seq, by, false, sender.into_iter().collect())
            }
            _ => return,
        };
        let status = Status { conversation: conversation.clone(), by: by.clone(), read };
        self.untold.keep(status, seq, users);
    }

    pub(super) fn push_status(
        &self,
        users: &[UserId],
        conversation: &ConversationId,
        seq: Seq,
        by: &UserId,
        read: bool,
    ) {
        let encode = if read { answer::read } else { answer::delivered };
        let frame = encode(conversation, seq, by);
        users.iter().for_each(|user| self.push_frame(user, None, &frame));
    }

    /// Puts a frame into all outboxes of a person here, but for one socket's.
    pub(super) fn push_frame(&self, user: &UserId, but: Option<SocketId>, frame: &Text) {
        for outbox in self.hub.of(user) {
            if Some(outbox.who.socket) != but {
                outbox.push(Event::Frame(frame.clone()));
            }
        }
    }

    /// Locates people and publishes one envelope to each other server that holds some of them.
    pub(super) async fn publish_to_sockets_of(
        &self,
        users: &[UserId],
        envelope: impl Fn(Vec<UserId>) -> Envelope,
    ) -> Result<(), DirectoryError> {
        let located = self.directory.locate(users).await?;
        for (server, users) in self.by_server(users, &located) {
            self.publish(&server, envelope(users));
        }
        Ok(())
    }
}

impl Status {
    fn envelope(&self, seq: Seq, users: Vec<UserId>) -> Envelope {
        let (conversation, by) = (self.conversation.clone(), self.by.clone());
        Envelope::Status { conversation, seq, by, read: self.read, users }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_keeps_the_highest() {
        let untold = Untold::default();
        let user = |name: &str| UserId::parse(name).unwrap();
        let status = |name: String| Status {
            conversation: ConversationId::direct(&user("a"), &user(&name)),
            by: user("a"),
            read: false,
        };
        for number in 0..=UNTOLD_MAX {
            untold.keep(status(format!("u{number}")), 7, vec![user("b")]);
        }
        untold.keep(status("u0".to_owned()), 9, vec![user("b"), user("c")]);
        untold.keep(status("u0".to_owned()), 8, vec![user("c")]);
        let kept = untold.take();
        assert_eq!(kept.len(), UNTOLD_MAX);
        assert_eq!(kept[&status("u0".to_owned())], (9, vec![user("b"), user("c")]));
        assert!(untold.take().is_empty());
    }
}
