//! Sends and their answers: I2 for what was refused, I7, I8 and I9.

mod order;

use std::collections::HashMap;

use super::device::{ConnectionId, DeviceId};
use super::history::Outcome;
use super::judge::Checker;
use super::log::{Content, LogId};
use super::names::{Name, fingerprint};
use super::report::Invariant;

pub(super) type SendId = u32;

/// A message that somebody sent, with all tries.
#[derive(Debug)]
pub(super) struct Send {
    pub log: LogId,
    pub user: Name,
    /// Whose message it is; `None` for one of the API.
    pub device: Option<DeviceId>,
    /// The connection of the first try.
    pub connection: Option<ConnectionId>,
    pub reference: Box<str>,
    body: u128,
    /// When the first try left.
    pub first: u64,
    /// When the first `sent` came.
    pub done: Option<u64>,
    /// The seq that `sent` named.
    pub seq: u64,
    /// Where it was first seen.
    pub place: u64,
    /// What anybody had seen of the conversation when the first try left.
    floor: u64,
    tries: u32,
    answered: u32,
    refused: u32,
    /// No fault was active when the first try left.
    pub calm: bool,
    /// Another text was sent under its ref.
    conflicted: bool,
}

impl Send {
    pub fn once(&self) -> bool {
        self.tries == 1
    }

    /// All its tries were refused.
    pub fn is_refused(&self) -> bool {
        self.done.is_none() && self.refused >= self.tries
    }

    /// A try has no answer.
    pub fn is_open(&self) -> bool {
        self.answered < self.tries
    }
}

/// All messages.
#[derive(Debug, Default)]
pub(super) struct Sends {
    pub list: Vec<Send>,
    by_ref: HashMap<u128, SendId>,
    by_body: HashMap<u128, SendId>,
}

impl Sends {
    pub fn by_body(&self, body: &str) -> Option<SendId> {
        self.by_body.get(&fingerprint(&[body])).copied()
    }

    pub fn get(&self, id: SendId) -> Option<&Send> {
        self.list.get(id as usize)
    }
}

/// A try, or its answer, as its line says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try<'a> {
    pub connection: &'a str,
    pub user: &'a str,
    pub conversation: &'a str,
    pub reference: &'a str,
}

impl Try<'_> {
    fn key(&self) -> u128 {
        fingerprint(&[self.conversation, self.user, self.reference])
    }
}

impl Checker {
    pub(super) fn send(&mut self, t: u64, tried: Try<'_>, body: &str) {
        let body = fingerprint(&[body]);
        if let Some(id) = self.sends.by_ref.get(&tried.key()) {
            let known = &mut self.sends.list[*id as usize];
            if known.body == body {
                known.tries += 1;
            } else {
                known.conflicted = true;
            }
            return;
        }
        let connection = self.devices.connection(&self.names, tried.connection);
        if connection.is_none() && tried.connection != "api" {
            self.counts.strays += 1;
        }
        let log = self.logs.open(tried.conversation, &mut self.names);
        let id = SendId::try_from(self.sends.list.len()).unwrap_or(SendId::MAX);
        self.sends.list.push(Send {
            log,
            user: self.names.name(tried.user),
            device: connection.map(|connection| self.devices.device_of(connection)),
            connection,
            reference: tried.reference.into(),
            body,
            first: t,
            done: None,
            seq: 0,
            place: 0,
            floor: self.logs.list[log].seen,
            tries: 1,
            answered: 0,
            refused: 0,
            calm: self.upkeep.is_calm(),
            conflicted: false,
        });
        self.sends.by_ref.insert(tried.key(), id);
        self.sends.by_body.insert(body, id);
    }

    pub(super) fn answer(
        &mut self,
        t: u64,
        tried: Try<'_>,
        (outcome, seq, code): (Outcome, Option<u64>, Option<&str>),
    ) {
        let Some(&id) = self.sends.by_ref.get(&tried.key()) else {
            self.counts.strays += 1;
            return;
        };
        let send = &mut self.sends.list[id as usize];
        match (outcome, seq) {
            (Outcome::Done, Some(seq)) => {
                send.answered += 1;
                self.acked(t, id, seq);
            }
            (Outcome::Done, None) => self.counts.strays += 1,
            (Outcome::Open, _) => {}
            (Outcome::Refused, _) if code == Some("ref_conflict") => {
                // Of two texts under one ref the second is refused; that try was not counted.
                if !send.conflicted {
                    let (first, log, place) = (send.first, send.log, send.place);
                    let text = self.message_text(id);
                    self.broken(Invariant::I9, (first, t), || {
                        let what = "was refused as ref_conflict, with one text in all its tries";
                        (self.about(log, place, Some(id)), format!("{text} {what}"))
                    });
                }
            }
            (Outcome::Refused, _) => {
                send.answered += 1;
                send.refused += 1;
            }
        }
    }

    fn acked(&mut self, t: u64, id: SendId, seq: u64) {
        let send = &mut self.sends.list[id as usize];
        let (log, first) = (send.log, send.first);
        let other = if send.done.is_some() { send.seq } else { send.place };
        if send.done.is_none() {
            (send.done, send.seq) = (Some(t), seq);
        }
        let device = send.device;
        if other != 0 && other != seq {
            let text = self.message_text(id);
            self.broken(Invariant::I9, (first, t), || {
                let what = format!("{text} stands at {other}, and was acked as {seq}");
                (self.about(log, seq, Some(id)), what)
            });
            return;
        }
        if send.place == 0 {
            send.place = seq;
        }
        if !self.logs.list[log].observe(seq, Content::Message(id), t) {
            let text = self.message_text(id);
            let there = self.entry_text(log, seq);
            self.broken(Invariant::I4, (first, t), || {
                let what = format!("{text} was acked as {seq}, where {there} stands");
                (self.about(log, seq, Some(id)), what)
            });
        } else if let Some(entry) = self.logs.list[log].entries.get_mut(&seq) {
            entry.acked = true;
            self.logs.list[log].acked = self.logs.list[log].acked.max(seq);
        }
        if let Some(device) = device {
            self.devices.knows(device, log, seq);
        }
    }

    /// A message was seen at a seq. Says which other place it has.
    pub(super) fn placed(&mut self, id: SendId, seq: u64) -> Option<u64> {
        let send = self.sends.list.get_mut(id as usize)?;
        if send.place == 0 {
            send.place = seq;
        }
        Some(send.place).filter(|place| *place != seq)
    }
}
