//! What a device hears on its connection: noted, understood, and acknowledged later.

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use super::talk::Talk;
use crate::checker::history::{Outcome, Status, What};
use crate::client::{ClientError, EntryFrame, ServerFrame};

/// Acks are collected for so long.
const ACK_AFTER: Duration = Duration::from_millis(4);

impl Talk<'_> {
    /// A Pong is about to leave: it proves what came before the first ping with this number.
    pub(super) fn ping(&mut self, payload: &[u8]) {
        (self.heard, self.asked) = (Instant::now(), false);
        if self.device.acks_app || self.ping == payload {
            return;
        }
        self.ping = payload.to_vec();
        for (conversation, seq) in std::mem::take(&mut self.unproven) {
            self.note(What::Acked { connection: self.connection.clone(), conversation, seq });
        }
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), ClientError> {
        (self.heard, self.asked) = (Instant::now(), false);
        let frame = ServerFrame::parse(text);
        match frame.map_err(|error| ClientError::Protocol(format!("{error}: {text}")))? {
            ServerFrame::Entry(entry) => self.entry(entry),
            ServerFrame::Sent { reference: Some(reference), seq, .. } => {
                self.sent(&reference, Outcome::Done, Some(seq), None);
            }
            ServerFrame::Error { code, reference, retryable, retry_after_ms, .. } => {
                self.refused(code, reference, retryable, retry_after_ms);
            }
            ServerFrame::Delivered { conversation, seq, user } => {
                self.status(conversation, seq, user, Status::Delivered);
            }
            ServerFrame::Read { conversation, seq, user } => {
                self.status(conversation, seq, user, Status::Read);
            }
            ServerFrame::Missed { conversation, from, to } => {
                self.learn(&conversation, to);
                let connection = self.connection.clone();
                self.note(What::Missed { connection, conversation, from, to });
            }
            ServerFrame::CaughtUp => {
                self.caught_up = true;
                self.note(What::Caughtup { connection: self.connection.clone() });
                let now = self.device.world.journal.now_ms();
                self.device.present(|presence| presence.caught_up_ms = now);
            }
            ServerFrame::Reconnect { after_ms } => {
                self.leave_at = Some(Instant::now() + Duration::from_millis(after_ms.min(2_000)));
            }
            _ => {}
        }
        Ok(())
    }

    fn status(&self, conversation: String, seq: u64, user: String, status: Status) {
        let connection = self.connection.clone();
        self.note(What::Status { connection, conversation, seq, user, status });
    }

    fn learn(&mut self, conversation: &str, seq: u64) {
        for known in [&mut self.device.known, &mut self.device.top] {
            match known.get_mut(conversation) {
                Some(known) => *known = (*known).max(seq),
                None => {
                    known.insert(conversation.to_owned(), seq);
                }
            }
        }
    }

    fn entry(&mut self, entry: EntryFrame) {
        self.learn(&entry.conversation, entry.seq);
        // The moment and the server of the send stand in the body.
        let mut words = entry.message.rsplit(' ');
        if let (Some(from), Some(Ok(sent_ms))) = (words.next(), words.next().map(str::parse)) {
            self.device.world.came(&self.server, from, sent_ms);
        }
        let EntryFrame { conversation, seq, kind, from, to, message: body, .. } = entry;
        let to = to.filter(|_| kind != "message");
        let waiting = if self.device.acks_app { &mut self.acks } else { &mut self.unproven };
        waiting.insert(conversation.clone(), seq);
        if self.device.acks_app && self.ack_at.is_none() {
            self.ack_at = Some(Instant::now() + ACK_AFTER);
        }
        let (connection, catchup) = (self.connection.clone(), !self.caught_up);
        self.note(What::Received { connection, conversation, seq, kind, from, body, to, catchup });
    }

    fn refused(&mut self, code: String, to: Option<String>, retryable: bool, wait: Option<u64>) {
        let Some(reference) = to else { return };
        if retryable {
            let random = self.device.random.random();
            let Some(pending) = self.device.sends.later(&reference, wait, random) else { return };
            let (conversation, user) = (pending.conversation.clone(), self.device.user.clone());
            let connection = self.connection.clone();
            let (outcome, seq, code) = (Outcome::Open, None, Some(code));
            self.note(What::Sent { connection, user, conversation, reference, outcome, seq, code });
        } else {
            self.sent(&reference, Outcome::Refused, None, Some(code));
        }
    }

    fn sent(&mut self, reference: &str, outcome: Outcome, seq: Option<u64>, code: Option<String>) {
        let Some(pending) = self.device.sends.take(reference) else { return };
        // What was refused now may have been done by an earlier try, or lies too far back to tell.
        let outcome = match (outcome, code.as_deref()) {
            (Outcome::Refused, Some("ref_expired")) => Outcome::Open,
            (Outcome::Refused, _) if pending.tries > 1 => Outcome::Open,
            (outcome, _) => outcome,
        };
        if code.as_deref() == Some("ref_conflict") {
            let detail = format!("ref_conflict for a body that never changed: {}", pending.body);
            self.note(What::Broken { process: self.server.clone(), detail });
        }
        if let Some(seq) = seq {
            self.learn(&pending.conversation, seq);
            self.device.world.acked(&self.server);
        }
        self.note(What::Sent {
            connection: self.connection.clone(),
            user: self.device.user.clone(),
            conversation: pending.conversation,
            reference: reference.to_owned(),
            outcome,
            seq,
            code,
        });
    }
}
