//! Where entries come from: what is shown must have been sent, by whom it says, to there, and be
//! shown to one who has part in it (I2, I13).

use super::judge::Checker;
use super::log::{Content, LogId};
use super::names::{Name, fingerprint};
use super::report::Invariant;

/// An entry as a line says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub seq: u64,
    pub kind: &'a str,
    pub from: &'a str,
    pub body: &'a str,
    pub to: Option<&'a str>,
}

impl Checker {
    /// What an entry is that somebody (or the store) shows; `None` where it comes from nowhere, or
    /// is not for that person at all (I2, I13).
    pub(super) fn origin(
        &mut self,
        t: u64,
        log: LogId,
        reader: Option<Name>,
        seen: &Seen<'_>,
    ) -> Option<Content> {
        let known = &self.logs.list[log];
        if known.direct && reader.is_some_and(|reader| !known.starters.contains(&reader)) {
            self.bad_origin(Invariant::I13, t, log, reader, seen, "who has no part in it");
            return None;
        }
        let by = self.names.name(seen.from);
        // Where nobody is named, it is the one who did it.
        let who = seen.to.map_or(by, |to| self.names.name(to));
        let asked = |joins| self.logs.list[log].asked.contains(&(who, joins));
        let (joined, left) = (Content::Joined { by, who }, Content::Left { by, who });
        match seen.kind {
            "message" => return self.message_origin(t, log, reader, by, seen),
            "joined" if asked(true) => return Some(joined),
            "left" if asked(false) => return Some(left),
            "joined" | "left" => {
                self.bad_origin(Invariant::I2, t, log, reader, seen, "which nobody had asked for");
            }
            kind => return Some(Content::Other(fingerprint(&[kind, seen.from, seen.body]))),
        }
        None
    }

    fn message_origin(
        &self,
        t: u64,
        log: LogId,
        reader: Option<Name>,
        by: Name,
        seen: &Seen<'_>,
    ) -> Option<Content> {
        let Some(id) = self.sends.by_body(seen.body) else {
            let foreign = self.logs.list.iter().any(|other| {
                let leaks = !other.canary.is_empty() && seen.body.contains(&other.canary);
                leaks && other.direct && reader.is_some_and(|r| !other.starters.contains(&r))
            });
            let invariant = if foreign { Invariant::I13 } else { Invariant::I2 };
            self.bad_origin(invariant, t, log, reader, seen, "which nobody had sent");
            return None;
        };
        let send = self.sends.get(id)?;
        if send.log != log {
            let there = &self.logs.list[send.log];
            let leaks = there.direct && reader.is_some_and(|r| !there.starters.contains(&r));
            let invariant = if leaks { Invariant::I13 } else { Invariant::I2 };
            self.bad_origin(invariant, t, log, reader, seen, "which was sent somewhere else");
            return None;
        }
        if send.user != by {
            let why = format!("which {} had sent", self.names.text(send.user));
            self.bad_origin(Invariant::I2, t, log, reader, seen, &why);
            return None;
        }
        Some(Content::Message(id))
    }

    fn bad_origin(
        &self,
        invariant: Invariant,
        t: u64,
        log: LogId,
        reader: Option<Name>,
        seen: &Seen<'_>,
        why: &str,
    ) {
        self.broken(invariant, (t, t), || {
            let reader = reader.map_or("the store", |reader| self.names.text(reader));
            let (id, Seen { seq, kind, from, body, .. }) = (self.logs.list[log].id, *seen);
            let (id, body) = (self.names.text(id), body.chars().take(80).collect::<String>());
            let what = format!("{reader} shows {kind} {id}/{seq} of {from} ({body:?}), {why}");
            (self.about(log, seq, None), what)
        });
    }
}
