//! Raise before put: the mailbox rows that must say `last` ≥ k before seq k is put.
//!
//! The recipient's row is raised for every put, one raise for all that waits, and carries the
//! cursors learned meanwhile. The sender's own row must exist before the first put; later it is
//! raised here only for the sake of the sender's other devices, else lazily by the session.

use std::time::Duration;

use tokio::time::Instant;

use super::log::Place;
use super::patience::persist;
use super::round::Round;
use crate::chat::ChatError;
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationId, ConversationKind, DeviceId, Seq, UserId};
use crate::store::{MailboxPart, Raise};

/// How old a list of devices may be.
const DEVICES_AGE_MAX: Duration = Duration::from_secs(30);

/// The row of one of the two.
pub(super) struct Row {
    user: UserId,
    /// What the row durably says at least. Nothing lowers it.
    raised: Seq,
    /// The person's registered devices, as of then.
    devices: Option<(Instant, Vec<DeviceId>)>,
}

/// The rows of a direct conversation: one for a note to oneself.
pub(super) struct Rows(Vec<Row>);

impl Rows {
    pub(super) fn of(conversation: &ConversationId) -> Self {
        let users = match conversation.kind() {
            ConversationKind::Direct(a, b) if a == b => vec![a],
            ConversationKind::Direct(a, b) => vec![a, b],
            ConversationKind::Room(_) => Vec::new(),
        };
        Self(users.into_iter().map(|user| Row { user, raised: 0, devices: None }).collect())
    }

    /// The row of whoever `from` writes to.
    fn recipient(&self, from: &UserId) -> usize {
        self.0.iter().position(|row| row.user != *from).unwrap_or(0)
    }
}

impl Round<'_> {
    /// Raises what must be raised before these items are put.
    pub(super) async fn raise_for(&mut self, run: &[usize]) -> Result<(), ChatError> {
        let Place::Direct(rows) = &self.log.place else {
            return self.raise_member(run).await;
        };
        let bound = self.log.tail + self.batch.news();
        for row in 0..rows.0.len() {
            if self.log.tail == 0 || self.must_raise(row, run).await {
                self.raise_row(row, bound).await?;
            }
        }
        Ok(())
    }

    /// Raises the recipient's row for an entry that stands already: its first try may have been
    /// another process's.
    pub(super) async fn raise_again(&mut self) -> Result<(), ChatError> {
        let Some((item, stored)) = self.batch.front_repeated() else { return Ok(()) };
        if planted(Bug::HitAnsweredAtOnce) {
            return Ok(());
        }
        let seq = stored.entry.seq;
        match &self.log.place {
            Place::Direct(rows) => {
                let row = rows.recipient(&item.from);
                if rows.0[row].raised < seq {
                    // As far as the puts of this batch will need it, to raise but once.
                    let bound = seq.max(self.log.tail + self.batch.news());
                    self.raise_row(row, bound).await?;
                }
                Ok(())
            }
            Place::Room(_) => match item.to.clone() {
                Some(member) => self.raise_to(&member, seq).await,
                None => Ok(()),
            },
        }
    }

    /// A room's message raises nobody's row; `joined` and `left` raise the member's.
    async fn raise_member(&mut self, run: &[usize]) -> Result<(), ChatError> {
        let first = run.first().and_then(|at| self.batch.items[*at].to.clone());
        match first {
            Some(member) => self.raise_to(&member, self.log.tail + 1).await,
            None => Ok(()),
        }
    }

    async fn raise_to(&mut self, user: &UserId, last: Seq) -> Result<(), ChatError> {
        let raise = Raise { last: Some(last), ..Raise::default() };
        let (store, conversation) = (&self.shared.store, &self.lane.conversation);
        persist!(self.patience, store.raise(user, conversation, &raise))
    }

    async fn raise_row(&mut self, row: usize, bound: Seq) -> Result<(), ChatError> {
        let tail = self.log.tail;
        let Place::Direct(rows) = &mut self.log.place else { return Ok(()) };
        let row = &mut rows.0[row];
        if row.raised >= bound {
            return Ok(());
        }
        let cursors = self.lane.carry(&row.user, tail);
        let delivered = cursors.iter().map(|(_, seq)| *seq).max();
        let raise = Raise { last: Some(bound), delivered, read: None, cursors };
        let (store, conversation) = (&self.shared.store, &self.lane.conversation);
        persist!(self.patience, store.raise(&row.user, conversation, &raise))?;
        row.raised = bound;
        Ok(())
    }

    /// A sender's socket had ended when its answer came: nobody else raises its row then. What
    /// fails is raised with the next message; the entries stand all the same.
    pub(super) async fn raise_left(&mut self, sender: &UserId) {
        let tail = self.log.tail;
        let Place::Direct(rows) = &self.log.place else { return };
        let Some(row) = rows.0.iter().position(|row| row.user == *sender) else { return };
        if let Err(error) = self.raise_row(row, tail).await {
            tracing::warn!(%error, "the row of a sender who left was not raised");
        }
    }

    async fn must_raise(&mut self, row: usize, run: &[usize]) -> bool {
        for at in run {
            let item = &self.batch.items[*at];
            let Place::Direct(rows) = &self.log.place else { return false };
            // A sender without a socket has no session that would raise its row later.
            if rows.recipient(&item.from) == row || !item.answer.is_heard() {
                return true;
            }
        }
        let mut checked: Option<DeviceId> = None;
        for at in run {
            let device = &self.batch.items[*at].device;
            if checked.as_ref() == Some(device) {
                continue;
            }
            let device = device.clone();
            if self.has_further(row, &device).await {
                return true;
            }
            checked = Some(device);
        }
        false
    }

    /// Whether the person has a registered device beside this one. If the store does not say: yes,
    /// since raising too much does no harm.
    async fn has_further(&mut self, row: usize, device: &DeviceId) -> bool {
        let Place::Direct(rows) = &mut self.log.place else { return false };
        let row = &mut rows.0[row];
        let fresh = |(at, _): &(Instant, Vec<DeviceId>)| at.elapsed() < DEVICES_AGE_MAX;
        if !row.devices.as_ref().is_some_and(fresh) {
            let began = Instant::now();
            let Ok(page) = self.shared.store.mailbox(&row.user, MailboxPart::Devices).await else {
                return true;
            };
            let names = page.devices.into_iter().map(|device| device.device).collect();
            row.devices = Some((began, names));
        }
        row.devices.as_ref().is_none_or(|(_, names)| names.iter().any(|name| name != device))
    }
}
