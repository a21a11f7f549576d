//! A text comes to a device (I3, I4, I5).

use super::super::judge::Checker;
use super::super::log::{Content, LogId};
use super::super::origin::Seen;
use super::super::report::{About, Invariant};
use super::super::send::SendId;
use super::{DeviceId, Got};

impl Checker {
    pub(in crate::checker) fn received(
        &mut self,
        t: u64,
        (connection, conversation): (&str, &str),
        seen: Seen<'_>,
        catchup: bool,
    ) {
        let Some(connection) = self.devices.connection(&self.names, connection) else {
            self.counts.strays += 1;
            return;
        };
        self.counts.received += 1;
        let (device, seq) = (self.devices.device_of(connection), seen.seq);
        let user = self.devices.list[device].user;
        let log = self.logs.open(conversation, &mut self.names);
        if catchup && !std::mem::replace(&mut self.devices.connections[connection].offline, true) {
            self.counts.offline_drains += 1;
        }
        let Some(content) = self.origin(t, log, Some(user), &seen) else { return };
        let same = self.logs.list[log].observe(seq, content, t);
        self.devices.takes_part(user, log);
        let person = self.devices.person_mut(user, log);
        person.sees = person.sees.max(seq);

        let life = self.devices.list[device].life;
        let got = self.devices.got.entry((device, log)).or_default();
        got.enter(life);
        let highest = got.highest;
        let missed = got.missed.contains(seq);
        let fresh = got.known.insert(seq);
        let shown = match &mut got.life {
            Some((_, has)) => has.insert(seq),
            None => fresh,
        };
        got.highest = highest.max(seq);
        self.counts.redeliveries += u64::from(!fresh);
        self.counts.raw_duplicates += u64::from(!shown);
        if !same {
            self.differs(t, (device, log, seq), content, !shown);
            return;
        }
        let Content::Message(send) = content else {
            return self.in_order(
                t,
                (device, log, seq),
                shown && !missed && seq < highest,
                highest,
            );
        };
        if let Some(place) = self.placed(send, seq) {
            return self.doubled(t, (device, log, seq), send, place);
        }
        let own = self.sends.list[send as usize].device == Some(device);
        // Its own send may come as a text when `sent` did not, after what was sent later.
        let low = shown && !missed && !own && seq < highest;
        self.in_order(t, (device, log, seq), low, highest);
        if fresh && !catchup && !own && self.sends.list[send as usize].once() {
            self.upkeep.latency(self.sends.list[send as usize].first, t);
        }
    }

    fn in_order(
        &mut self,
        t: u64,
        (device, log, seq): (DeviceId, LogId, u64),
        low: bool,
        highest: u64,
    ) {
        if low {
            self.counts.reordered += 1;
            self.broken(Invariant::I5, (t, t), || {
                let (who, what) = (self.device_text(device), self.entry_text(log, seq));
                let what = format!("{who} was shown {what} after it had been shown {highest}");
                (self.about_at(device, log, seq), what)
            });
        }
    }

    /// What came is not what others, or the device itself, have seen at this seq.
    fn differs(
        &mut self,
        t: u64,
        (device, log, seq): (DeviceId, LogId, u64),
        content: Content,
        again: bool,
    ) {
        let invariant = if again { Invariant::I3 } else { Invariant::I4 };
        self.counts.shown_twice += u64::from(again);
        let first = self.logs.list[log].entries.get(&seq).map_or(t, |entry| entry.first);
        self.broken(invariant, (first, t), || {
            let (who, there) = (self.device_text(device), self.entry_text(log, seq));
            let (now, whose) = (self.content_text(content), if again { "it has" } else { "is" });
            let what = format!("{who} was shown {now} as {there}, which {whose} something else");
            (self.about_at(device, log, seq), what)
        });
    }

    /// The message stands at two seqs: for a device that has both it was shown twice.
    fn doubled(
        &mut self,
        t: u64,
        (device, log, seq): (DeviceId, LogId, u64),
        send: SendId,
        place: u64,
    ) {
        let got = self.devices.got.get(&(device, log));
        let has = |got: &Got| match &got.life {
            Some((_, has)) => has.contains(place),
            None => got.known.contains(place),
        };
        let twice = got.is_some_and(has);
        self.counts.shown_twice += u64::from(twice);
        let invariant = if twice { Invariant::I3 } else { Invariant::I9 };
        let first = self.sends.list[send as usize].first;
        self.broken(invariant, (first, t), || {
            let (who, what) = (self.device_text(device), self.message_text(send));
            let what = format!("{who} was shown {what} at {seq}; it stands at {place}");
            (About { device: Some(who), ..self.about(log, seq, Some(send)) }, what)
        });
    }
}
