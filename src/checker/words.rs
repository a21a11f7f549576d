//! The words of violations: who, what, where.

use super::device::DeviceId;
use super::judge::Checker;
use super::log::{Content, LogId};
use super::report::About;
use super::send::SendId;

impl Checker {
    pub(super) fn about(&self, log: LogId, seq: u64, send: Option<SendId>) -> About {
        let here = self.logs.list[log].entries.get(&seq).map(|entry| entry.content);
        let here = here.and_then(|content| match content {
            Content::Message(send) => Some(send),
            _ => None,
        });
        let reference = send.or(here).and_then(|send| self.sends.get(send));
        About {
            conversation: Some(self.names.text(self.logs.list[log].id).to_owned()),
            seq: Some(seq).filter(|seq| *seq > 0),
            reference: reference.map(|send| send.reference.to_string()),
            device: None,
        }
    }

    /// The same, seen by a device.
    pub(super) fn about_at(&self, device: DeviceId, log: LogId, seq: u64) -> About {
        About { device: Some(self.device_text(device)), ..self.about(log, seq, None) }
    }

    pub(super) fn message_text(&self, id: SendId) -> String {
        let Some(send) = self.sends.get(id) else { return "?".to_owned() };
        let device = send.device.map_or("the API".to_owned(), |device| self.device_text(device));
        let log = self.names.text(self.logs.list[send.log].id);
        format!("message {:?} of {device} in {log}", send.reference)
    }

    pub(super) fn content_text(&self, content: Content) -> String {
        match content {
            Content::Message(send) => self.message_text(send),
            Content::Joined { who, .. } => format!("joined of {}", self.names.text(who)),
            Content::Left { who, .. } => format!("left of {}", self.names.text(who)),
            Content::Other(_) => "an entry of another kind".to_owned(),
        }
    }

    /// `dm:a:b/7, message "r1" of a/phone`.
    pub(super) fn entry_text(&self, log: LogId, seq: u64) -> String {
        let id = self.names.text(self.logs.list[log].id);
        match self.logs.list[log].entries.get(&seq) {
            Some(entry) => format!("{id}/{seq} [{}]", self.content_text(entry.content)),
            None => format!("{id}/{seq}"),
        }
    }
}
